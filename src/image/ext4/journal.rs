//! The journal's own superblock. Kernel documentation, ext4, "Journal (jbd2)", "Super Block". Big-endian.

use super::bytes::be32;
use super::checksum::crc32c;
use super::features::Compat;
use super::reader::Reader;
use crate::image::error::ImageError;

/// `h_magic` of every journal block.
const MAGIC: u32 = 0xC03B_3998;
/// `s_feature_incompat`: commit blocks are not waited for.
const ASYNC_COMMIT: u32 = 0x4;
/// `s_feature_incompat`: checksums of version 2 or 3.
const CHECKSUMS: u32 = 0x8 | 0x10;
/// `s_feature_incompat`: small changes are in an area behind the log.
const FAST_COMMIT: u32 = 0x20;

/// What the journal says about itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Journal {
    /// Bytes in the journal's file.
    pub size: u64,
    /// First block of the log that is in use; 0 when the log is empty. `s_start`, 0x1C, u32.
    pub start: u32,
    /// The error that stopped the journal; 0 when there was none. `s_errno`, 0x20, u32.
    pub error: u32,
    /// `s_feature_incompat`, 0x28, u32; none in a superblock of version 1 (block type 3).
    incompat: u32,
}

impl Journal {
    /// What keeps us from replaying it, if something does.
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.error != 0 {
            Some("its journal was stopped by an error")
        } else if self.incompat & FAST_COMMIT != 0 {
            Some("its dirty journal has a fast-commit area")
        } else if self.incompat & ASYNC_COMMIT != 0 {
            Some("its dirty journal was written with async_commit")
        } else {
            None
        }
    }
}

impl Reader {
    /// Reads the superblock of the internal journal. `None` when the file system has none.
    ///
    /// # Errors
    /// When the journal is damaged, or cannot be read.
    pub fn journal(&self) -> Result<Option<Journal>, ImageError> {
        if !self.superblock.features.compat.has(Compat::HAS_JOURNAL) || self.superblock.journal_inode == 0 {
            return Ok(None);
        }
        let wrong = || ImageError::corrupt("ext4: the journal has no superblock");
        let inode = self.inode(self.superblock.journal_inode)?;
        let first = self.map(&inode)?.find(0).ok_or_else(wrong)?;
        let block = self.block(first)?;
        let version = be32(&block, 0x4);
        if be32(&block, 0x0) != MAGIC || !matches!(version, 3 | 4) {
            return Err(wrong());
        }
        let incompat = if version == 4 { be32(&block, 0x28) } else { 0 };
        if incompat & CHECKSUMS != 0 && !is_intact(&block) {
            return Err(ImageError::corrupt("ext4: the checksum of the journal's superblock does not match"));
        }
        Ok(Some(Journal { size: inode.size, start: be32(&block, 0x1C), error: be32(&block, 0x20), incompat }))
    }
}

/// Compares `s_checksum`, 0xFC, u32, with the crc32c of the superblock's 1,024 bytes with that field as zero.
fn is_intact(block: &[u8]) -> bool {
    match (block.get(..0xFC), block.get(0x100..1024)) {
        (Some(before), Some(after)) => crc32c(crc32c(crc32c(!0, before), &[0; 4]), after) == be32(block, 0xFC),
        _ => false,
    }
}
