//! Our reader: strict, bounded, and independent of the writer.
//!
//! Reads one structure at a time, on demand, never a whole table, so that a large file system costs no more than a
//! small one. Every number is checked before it is used as a position or a size.

use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use super::superblock::{self, Geometry, Superblock};
use crate::device::ReadAt;
use crate::journal::Map;

/// A file system whose superblock and geometry were checked.
#[derive(Clone)]
pub(in crate::ext4) struct Reader {
    /// The device of the file system.
    pub device: Arc<dyn ReadAt>,
    /// Its superblock.
    pub superblock: Superblock,
    /// The sizes that follow from the superblock.
    pub geometry: Geometry,
    /// The journal's blocks, once [`Reader::guard_journal`] was called: no other inode may use them.
    pub journal_place: Option<Arc<Map>>,
}

/// Reads the superblock. `None` if the device has no ext2, ext3 or ext4.
///
/// # Errors
/// If the device cannot be read.
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
    /// If there is none, if its counts contradict each other or the device, or if it cannot be read.
    pub fn open(device: Arc<dyn ReadAt>) -> Result<Self, StorageError> {
        let superblock = read_superblock(device.as_ref())?
            .ok_or_else(|| StorageError::corrupt("no ext4 superblock (its magic number is missing)"))?;
        let geometry = superblock.geometry(device.size())?;
        Ok(Self { device, superblock, geometry, journal_place: None })
    }

    /// Opens the file system of a superblock whose checksum does not match, to search for an intact copy.
    ///
    /// # Errors
    /// If its counts contradict each other or the device.
    pub fn open_torn(device: Arc<dyn ReadAt>, superblock: Superblock) -> Result<Self, StorageError> {
        let geometry = superblock.unsealed_geometry(device.size())?;
        Ok(Self { device, superblock, geometry, journal_place: None })
    }

    /// From now on an inode that uses a block of the journal is reported as damage: the next transaction would
    /// overwrite its content. Has no effect if the journal cannot be read.
    #[must_use]
    pub fn guard_journal(mut self) -> Self {
        self.journal_place = self.journal().ok().flatten().map(|journal| Arc::new(journal.map));
        self
    }

    /// Reads block `number` of the file system.
    ///
    /// # Errors
    /// If there is no such block, or it cannot be read.
    pub fn block(&self, number: u64) -> Result<Wiped, StorageError> {
        let mut block = Wiped::zeros(usize_of(self.geometry.block_size));
        self.read_block(number, &mut block)?;
        Ok(block)
    }

    /// Reads block `number` into `block`, which is one block long.
    ///
    /// # Errors
    /// If there is no such block, or it cannot be read.
    pub fn read_block(&self, number: u64, block: &mut [u8]) -> Result<(), StorageError> {
        let offset = self.block_offset(number)?;
        self.device
            .read_exact_at(offset, block)
            .map_err(|error| StorageError::io(format!("reading ext4 block {number}"), error))
    }

    /// Reads the blocks from `number` on into `blocks`, whose length is a multiple of the block size.
    ///
    /// # Errors
    /// If one of them does not exist, or they cannot be read.
    pub fn read_blocks(&self, number: u64, blocks: &mut [u8]) -> Result<(), StorageError> {
        let count = u64::try_from(blocks.len()).unwrap_or(u64::MAX).div_ceil(u64::from(self.geometry.block_size));
        let Some(more) = count.checked_sub(1) else { return Ok(()) };
        let offset = self.block_offset(number)?;
        self.block_offset(number.saturating_add(more))?;
        self.device
            .read_exact_at(offset, blocks)
            .map_err(|error| StorageError::io(format!("reading {count} ext4 blocks from {number} on"), error))
    }

    /// Reads the part of block `number` from its byte `inside` on; the part ends inside the block.
    ///
    /// # Errors
    /// If there is no such block, or it cannot be read.
    pub fn read_part(&self, number: u64, inside: usize, part: &mut [u8]) -> Result<(), StorageError> {
        let fits = inside.checked_add(part.len()).is_some_and(|end| end <= usize_of(self.geometry.block_size));
        let offset = u64::try_from(inside).ok().filter(|_| fits);
        // Cannot overflow: a part of a block on the device, whose size is a u64.
        let offset =
            self.block_offset(number)? + offset.ok_or_else(|| StorageError::corrupt("ext4: a part of no block"))?;
        self.device
            .read_exact_at(offset, part)
            .map_err(|error| StorageError::io(format!("reading ext4 block {number}"), error))
    }

    /// Offset of block `number`, in bytes.
    ///
    /// # Errors
    /// If there is no such block.
    pub fn block_offset(&self, number: u64) -> Result<u64, StorageError> {
        if number >= self.superblock.blocks {
            return Err(StorageError::Corrupt(format!("ext4: block {number} lies beyond the file system")));
        }
        // Cannot overflow: all blocks are on the device, whose size is a u64.
        Ok(number * u64::from(self.geometry.block_size))
    }
}

/// A u32 as a size in memory: never lossy on the platforms that this program supports.
pub(in crate::ext4) fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
