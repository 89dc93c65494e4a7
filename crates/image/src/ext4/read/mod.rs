//! The data in a file system: file contents, the inodes of a group, the location of its own structures, and a summary
//! for `inspect`.

pub(in crate::ext4) mod content;
pub(in crate::ext4) mod inodes;
pub(in crate::ext4) mod layout;
pub(in crate::ext4) mod names;
pub(in crate::ext4) mod summary;
