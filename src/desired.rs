//! Manifest, values and host joined: the files that one target should hold.
