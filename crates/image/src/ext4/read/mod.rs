//! What a file system holds: contents, the inodes of a group, where its own structures lie, and a summary for `inspect`.

pub(in crate::ext4) mod content;
pub(in crate::ext4) mod inodes;
pub(in crate::ext4) mod layout;
pub(in crate::ext4) mod summary;
