//! Our own reader: strict, bounded, and independent of the writer.
//!
//! Reads one structure at a time where it is asked for, never a whole table, so that a large file system costs no more
//! than a small one. Every number is checked before it is used as a place or as a size.

use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use super::superblock::{self, Geometry, Superblock};
use crate::device::ReadAt;
use crate::journal::Map;

/// A file system whose superblock and geometry were checked.
#[derive(Clone)]
pub(in crate::ext4) struct Reader {
    /// What holds the file system.
    pub device: Arc<dyn ReadAt>,
    /// Its superblock.
    pub superblock: Superblock,
    /// Its sizes.
    pub geometry: Geometry,
    /// Where the journal lies, once [`Reader::guard_journal`] was called: blocks that nothing else may use.
    pub journal_place: Option<Arc<Map>>,
}

/// Reads the superblock. `None` when there is no ext2, ext3 or ext4 on the device.
///
/// # Errors
/// When the device cannot be read.
pub(in crate::ext4) fn read_superblock(device: &dyn ReadAt) -> Result<Option<Superblock>, StorageError> {
    let mut raw = [0; superblock::SIZE];
    match device.read_exact_at(superblock::OFFSET, &mut raw) {
        Ok(()) => Ok(Superblock::parse(&raw)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(StorageError::io("reading the ext4 superblock", error)),
    }
}

impl Reader {
    /// Opens the file system on `device`.
    ///
    /// # Errors
    /// When there is none, when its counts contradict each other or the device, or when it cannot be read.
    pub fn open(device: Arc<dyn ReadAt>) -> Result<Self, StorageError> {
        let superblock = read_superblock(device.as_ref())?
            .ok_or_else(|| StorageError::corrupt("no ext4 superblock (its magic number is missing)"))?;
        let geometry = superblock.geometry(device.size())?;
        Ok(Self { device, superblock, geometry, journal_place: None })
    }

    /// Opens the file system of a superblock that was read before and whose checksum does not match: to look for a whole
    /// one.
    ///
    /// # Errors
    /// When its counts contradict each other or the device.
    pub fn open_torn(device: Arc<dyn ReadAt>, superblock: Superblock) -> Result<Self, StorageError> {
        let geometry = superblock.unsealed_geometry(device.size())?;
        Ok(Self { device, superblock, geometry, journal_place: None })
    }

    /// The same, but from now on every inode that uses a block of the journal is damage: what it holds would go with the
    /// next transaction. Has no effect when the journal cannot be read.
    #[must_use]
    pub fn guard_journal(mut self) -> Self {
        self.journal_place = self.journal().ok().flatten().map(|journal| Arc::new(journal.map));
        self
    }

    /// Reads block `number` of the file system.
    ///
    /// # Errors
    /// When there is no such block, or it cannot be read.
    pub fn block(&self, number: u64) -> Result<Wiped, StorageError> {
        let mut block = Wiped::zeros(usize_of(self.geometry.block_size));
        self.read_block(number, &mut block)?;
        Ok(block)
    }

    /// Reads block `number` into `block`, which is one block long.
    ///
    /// # Errors
    /// When there is no such block, or it cannot be read.
    pub fn read_block(&self, number: u64, block: &mut [u8]) -> Result<(), StorageError> {
        let offset = self.block_offset(number)?;
        self.device
            .read_exact_at(offset, block)
            .map_err(|error| StorageError::io(format!("reading ext4 block {number}"), error))
    }

    /// Reads the blocks from `number` on into `blocks`, which is as long as some blocks.
    ///
    /// # Errors
    /// When one of them does not exist, or they cannot be read.
    pub fn read_blocks(&self, number: u64, blocks: &mut [u8]) -> Result<(), StorageError> {
        let count = u64::try_from(blocks.len()).unwrap_or(u64::MAX).div_ceil(u64::from(self.geometry.block_size));
        let Some(more) = count.checked_sub(1) else { return Ok(()) };
        let offset = self.block_offset(number)?;
        self.block_offset(number.saturating_add(more))?;
        self.device
            .read_exact_at(offset, blocks)
            .map_err(|error| StorageError::io(format!("reading {count} ext4 blocks from {number} on"), error))
    }

    /// Reads what lies `inside` bytes from the start of block `number` on, and ends in it.
    ///
    /// # Errors
    /// When there is no such block, or it cannot be read.
    pub fn read_part(&self, number: u64, inside: usize, part: &mut [u8]) -> Result<(), StorageError> {
        let fits = inside.checked_add(part.len()).is_some_and(|end| end <= usize_of(self.geometry.block_size));
        let offset = u64::try_from(inside).ok().filter(|_| fits);
        // Cannot overflow: a part of a block that lies on the device, whose size is a u64.
        let offset =
            self.block_offset(number)? + offset.ok_or_else(|| StorageError::corrupt("ext4: a part of no block"))?;
        self.device
            .read_exact_at(offset, part)
            .map_err(|error| StorageError::io(format!("reading ext4 block {number}"), error))
    }

    /// Where block `number` starts, in bytes.
    ///
    /// # Errors
    /// When there is no such block.
    pub fn block_offset(&self, number: u64) -> Result<u64, StorageError> {
        if number >= self.superblock.blocks {
            return Err(StorageError::Corrupt(format!("ext4: block {number} lies beyond the file system")));
        }
        // Cannot overflow: all blocks lie on the device, whose size is a u64.
        Ok(number * u64::from(self.geometry.block_size))
    }
}

/// A u32 as a size in memory: never lossy on the systems that this program runs on.
pub(in crate::ext4) fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
