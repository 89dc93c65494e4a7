//! A place that holds files: an image or a directory. Two batch calls: survey and apply.
//!
//! Knows nothing of sources.
