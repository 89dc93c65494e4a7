//! Changes on an overlay: resolved against the existing tree, then carried out by the writer.

pub(in crate::ext4) mod apply;
pub(in crate::ext4) mod resolve;
pub(in crate::ext4) mod writer;
