//! Zeroes blocks that no file owns: free blocks, and the idle journal.

use std::ops::Range;

use deaddrop_core::error::StorageError;

use crate::ext4::Ext4;
use crate::ext4::check::claims;
use crate::ext4::commit::stale_blocks;
use crate::ext4::format::reader::usize_of;
use crate::journal::commit::Medium;
use crate::progress::{Progress, Watch, Work};

impl Ext4 {
    /// Writes zeros to every free block and every block of the idle log that is not zero yet. `medium` contains the
    /// file system from `start` (bytes) on. Returns the number of bytes written.
    ///
    /// Safe at every moment: no inode refers to these blocks (all of them were checked), and the log is empty.
    ///
    /// # Errors
    /// As [`Ext4::check_writable`]; if a file uses a block that is marked as free; if the image cannot be read or
    /// written.
    pub fn scrub(&self, medium: &mut dyn Medium, start: u64, watch: Watch<'_>) -> Result<u64, StorageError> {
        self.check_writable()?;
        claims::check_free_blocks(&self.reader)?;
        let reader = &self.old;
        let size = u64::from(reader.geometry.block_size);
        let zeros = vec![0; usize_of(reader.geometry.block_size)];
        let mut written = 0_u64;
        let mut zero = |number: u64| -> Result<(), StorageError> {
            if reader.block(number)?.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            let offset =
                start.checked_add(reader.block_offset(number)?).ok_or_else(|| StorageError::corrupt("overflow"))?;
            medium.write_at(offset, &zeros).map_err(|error| StorageError::io("zeroing free blocks", error))?;
            written = written.saturating_add(size);
            Ok(())
        };
        for number in 0..reader.geometry.groups {
            let group = reader.group(number)?;
            let bitmap = reader.block_bitmap(&group)?;
            let first = reader.first_block_of(number);
            for bit in (0..reader.blocks_in(number)).filter(|bit| !bitmap.get(*bit)) {
                zero(first.saturating_add(u64::from(bit)))?;
            }
            let done = first.saturating_add(u64::from(reader.blocks_in(number))).saturating_mul(size);
            watch(Progress { work: Work::Scrub, done, total: reader.superblock.blocks.saturating_mul(size) });
        }
        if let Some(journal) = reader.journal()? {
            for block in journal.superblock.first..journal.superblock.blocks {
                if let Some(number) = journal.map.physical(block) {
                    zero(number)?;
                }
            }
        }
        medium.flush().map_err(|error| StorageError::io("zeroing free blocks", error))?;
        Ok(written)
    }

    /// The free blocks, in bytes of the file system, in order.
    ///
    /// # Errors
    /// If the journal is not idle; if a file uses a block that is marked as free; if the image cannot be read.
    pub(crate) fn free_ranges(&self) -> Result<Vec<Range<u64>>, StorageError> {
        self.check_writable()?;
        claims::check_free_blocks(&self.reader)?;
        let reader = &self.old;
        let size = u64::from(reader.geometry.block_size);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for number in 0..reader.geometry.groups {
            let group = reader.group(number)?;
            let bitmap = reader.block_bitmap(&group)?;
            let first = reader.first_block_of(number);
            for bit in (0..reader.blocks_in(number)).filter(|bit| !bitmap.get(*bit)) {
                let start = reader.block_offset(first.saturating_add(u64::from(bit)))?;
                let end = start.saturating_add(size);
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => ranges.push(start..end),
                }
            }
        }
        Ok(ranges)
    }

    /// Writes zeros to every block of the idle log that is not zero yet, regardless of the file system's features: the
    /// kernel may have logged a file's content. `medium` contains the file system from `start` (bytes) on. Returns the
    /// number of bytes written.
    ///
    /// # Errors
    /// If the log is not idle, or the image cannot be read or written.
    pub fn scrub_log(&self, medium: &mut dyn Medium, start: u64) -> Result<u64, StorageError> {
        let reader = &self.old;
        let Some(journal) = reader.journal()? else { return Ok(0) };
        if self.obstacle.is_some() || self.was_replayed() || journal.superblock.start != 0 {
            return Err(StorageError::corrupt("the journal still contains transactions"));
        }
        let zeros = vec![0; usize_of(reader.geometry.block_size)];
        let mut written = 0_u64;
        for block in stale_blocks(reader, &journal.superblock, &journal.map)? {
            let place = journal.map.physical(block).map(|number| reader.block_offset(number)).transpose()?;
            let offset = place.and_then(|place| place.checked_add(start));
            let offset = offset.ok_or_else(|| StorageError::corrupt("the journal's inode has a hole"))?;
            medium.write_at(offset, &zeros).map_err(|error| StorageError::io("zeroing the journal", error))?;
            written = written.saturating_add(u64::from(reader.geometry.block_size));
        }
        medium.flush().map_err(|error| StorageError::io("zeroing the journal", error))?;
        Ok(written)
    }
}
