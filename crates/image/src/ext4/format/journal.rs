//! The internal journal: its blocks, and its superblock.

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::FileKind;

use super::features::Compat;
use super::reader::Reader;
use crate::journal::superblock::JournalSuperblock;
use crate::journal::{Map, Run};

/// Maximum size of a journal that mke2fs creates, in blocks (mke2fs(8), `-J size`).
const MOST_BLOCKS: u64 = 10_240_000;
/// Minimum size of a journal that e2fsck and the kernel accept, in blocks (`JBD2_MIN_JOURNAL_BLOCKS`).
const FEWEST_BLOCKS: u64 = 1024;

/// A journal whose superblock was read and checked.
#[derive(Debug, Clone)]
pub(in crate::ext4) struct Journal {
    /// Size of the journal's file, in bytes.
    pub size: u64,
    /// Its superblock.
    pub superblock: JournalSuperblock,
    /// The location of its blocks.
    pub map: Map,
}

impl Reader {
    /// Reads the internal journal. `None` if the file system has none.
    ///
    /// # Errors
    /// If the journal is damaged, records an error, has unknown features, or cannot be read.
    pub fn journal(&self) -> Result<Option<Journal>, StorageError> {
        if !self.superblock.features.compat.has(Compat::HAS_JOURNAL) || self.superblock.journal_inode == 0 {
            return Ok(None);
        }
        let inode = self.inode(self.superblock.journal_inode)?;
        let not_a_journal = || StorageError::corrupt("ext4: the journal's blocks are not a journal's");
        if inode.kind != FileKind::File {
            return Err(not_a_journal());
        }
        let blocks = self.map(&inode)?;
        if blocks.content_blocks() > MOST_BLOCKS {
            return Err(StorageError::Corrupt(format!("ext4: a journal of {} blocks", blocks.content_blocks())));
        }
        let runs = blocks.extents.iter().map(|extent| {
            let run = Run {
                logical: u32::try_from(extent.logical).ok()?,
                physical: extent.physical,
                count: u32::try_from(extent.length).ok()?,
            };
            (!extent.unwritten).then_some(run)
        });
        let runs: Option<Vec<Run>> = runs.collect();
        let map = Map::new(runs.ok_or_else(not_a_journal)?, &blocks.nodes)?;
        let first = map.physical(0).ok_or_else(|| StorageError::corrupt("ext4: the journal has no superblock"))?;
        let block_size = u64::from(self.geometry.block_size);
        if inode.size.div_ceil(block_size) > map.len() {
            return Err(StorageError::corrupt("ext4: the journal's inode is longer than its blocks"));
        }
        let size = inode.size / block_size;
        let superblock = JournalSuperblock::parse(&self.block(first)?, self.geometry.block_size, size)?;
        // e2fsck checks the same minimum for the log without the fast-commit area.
        let log = if superblock.has_fast_commits() { u64::from(superblock.end()) } else { size };
        if size.min(log) < FEWEST_BLOCKS {
            return Err(StorageError::Corrupt(format!("ext4: a journal of {} blocks", size.min(log))));
        }
        Ok(Some(Journal { size: inode.size, superblock, map }))
    }
}
