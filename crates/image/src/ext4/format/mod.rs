//! The on-disk structures of ext4, decoded one at a time and checked. Kernel documentation, ext4.

pub(in crate::ext4) mod attributes;
pub(in crate::ext4) mod bytes;
pub(in crate::ext4) mod checksum;
pub(in crate::ext4) mod directory;
pub mod features;
pub(in crate::ext4) mod group;
pub(in crate::ext4) mod inode;
pub(in crate::ext4) mod journal;
pub(in crate::ext4) mod label;
pub(in crate::ext4) mod mapping;
pub(in crate::ext4) mod reader;
pub mod superblock;
