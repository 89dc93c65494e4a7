//! The checks of a change before its commit: an audit of every changed block, the claims of other inodes, and a
//! read-back by another reader.

pub(in crate::ext4) mod allowed;
pub(in crate::ext4) mod audit;
pub(in crate::ext4) mod claims;
pub(in crate::ext4) mod read_back;
