//! Changes on an overlay: resolved against the tree that stands, then made by the writer.

pub(in crate::ext4) mod apply;
pub(in crate::ext4) mod resolve;
pub(in crate::ext4) mod writer;
