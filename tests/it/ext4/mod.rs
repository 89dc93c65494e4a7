//! ext4 by the native writer, judged by e2fsprogs: every image is made by mke2fs, changed, and then e2fsck and debugfs
//! have the word.
//!
//! Needs mke2fs, e2fsck, debugfs and tune2fs.
#![allow(clippy::as_conversions)]

mod alone;
mod corpus;
mod dirty;
mod hostile;
mod labels;
mod layouts;
mod orphans;
mod refused;
mod states;
