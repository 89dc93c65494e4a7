//! Unit tests that need real images.
