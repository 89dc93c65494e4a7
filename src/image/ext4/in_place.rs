//! The overlay's blocks sorted for an in-place commit: what goes to free blocks, and what goes through the journal.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::Ext4;
use super::group::Bitmap;
use super::journal::Journal;
use super::reader::{Reader, usize_of};
use super::superblock;
use crate::image::commit::{Block, Changes, Dirty, Transaction};
use crate::image::error::ImageError;
use crate::image::journal::Map;
use crate::image::journal::superblock::JournalSuperblock;

impl Ext4 {
    /// The changes as one journal transaction. `None` when the file system has no journal.
    ///
    /// Without changes, and with nothing left of a mount or of an earlier run, it has nothing to write.
    ///
    /// # Errors
    /// When the image cannot be read, or is damaged.
    pub fn transaction(&self) -> Result<Option<Transaction>, ImageError> {
        let journal = match &self.recovered {
            Some(journal) => Some(journal.clone()),
            None => self.old.journal()?,
        };
        let Some(Journal { superblock: journal, map, .. }) = journal else { return Ok(None) };
        let old = &self.old;
        let block_size = u64::from(old.geometry.block_size);
        let mut changes = Changes::default();
        let mut dirty = self.recovered.as_ref().map(|_| Dirty { home: Vec::new() });
        let sb_block = superblock::OFFSET / block_size;
        let mut bitmaps: BTreeMap<u32, Bitmap> = BTreeMap::new();
        for (offset, mut bytes) in self.dirty()? {
            let number = offset / block_size;
            if map.contains(number) {
                // Only the replay touches the journal, and the commit writes its superblock itself.
                continue;
            }
            let mut before = old.block(number)?;
            if number == sb_block {
                // The flag is no part of the change: the commit sets it first and clears it last.
                patch_superblock(&mut before, number, true);
                patch_superblock(&mut bytes, number, true);
            }
            if let Some(dirty) = &mut dirty
                && self.on_device(offset, before.len())? != before
            {
                dirty.home.push(Block { number, bytes: before.clone() });
            }
            if before == bytes {
                continue;
            }
            let block = Block { number, bytes };
            if is_free(old, number, &mut bitmaps)? { changes.new.push(block) } else { changes.logged.push(block) }
        }
        let stale = if dirty.is_some() || self.drops_values { stale_blocks(old, &journal, &map)? } else { Vec::new() };
        Ok(Some(Transaction {
            block_size: old.geometry.block_size,
            superblock_old: superblock::with_recovery(&old.superblock.raw, true).to_vec(),
            superblock_new: superblock::with_recovery(&self.reader.superblock.raw, false).to_vec(),
            journal,
            map,
            dirty,
            changes,
            stale,
        }))
    }
}

impl Ext4 {
    /// Where blocks lie (bytes) that hold something of earlier transactions and are to be zeroed with a change that drops
    /// a file, for a commit that does not go through the journal. Empty when nothing is dropped.
    ///
    /// The kernel may have logged what a file held: data=journal as a mount option leaves no trace but that, and an inode
    /// can hold the content itself.
    ///
    /// # Errors
    /// When the image cannot be read, or is damaged.
    pub fn stale_log(&self) -> Result<Vec<u64>, ImageError> {
        if !self.drops_values {
            return Ok(Vec::new());
        }
        let Some(Journal { superblock, map, .. }) = self.reader.journal()? else { return Ok(Vec::new()) };
        let blocks = stale_blocks(&self.old, &superblock, &map)?;
        blocks.into_iter().filter_map(|block| map.physical(block)).map(|place| self.old.block_offset(place)).collect()
    }

    /// Bytes as they are on the device, with nothing mended or replayed.
    fn on_device(&self, offset: u64, length: usize) -> Result<Zeroizing<Vec<u8>>, ImageError> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        self.base.read_exact_at(offset, &mut bytes).map_err(|error| ImageError::io("reading the image", error))?;
        Ok(bytes)
    }
}

/// The journal's blocks behind its superblock that are not zero, the fast-commit area among them.
fn stale_blocks(old: &Reader, journal: &JournalSuperblock, map: &Map) -> Result<Vec<u32>, ImageError> {
    let mut stale = Vec::new();
    let zeros = vec![0; usize_of(old.geometry.block_size)];
    let mut content = Zeroizing::new(zeros.clone());
    for block in journal.first..journal.blocks {
        let place = map.physical(block).ok_or_else(|| ImageError::corrupt("the journal's inode has a hole"))?;
        old.read_block(place, &mut content)?;
        if *content != zeros {
            stale.push(block);
        }
    }
    Ok(stale)
}

/// True when block `number` was in use by nobody.
fn is_free(old: &Reader, number: u64, bitmaps: &mut BTreeMap<u32, Bitmap>) -> Result<bool, ImageError> {
    if number < u64::from(old.superblock.first_data_block) {
        return Ok(false);
    }
    let group = old.group_of_block(number)?;
    let bit = u32::try_from(number - old.first_block_of(group)).unwrap_or(u32::MAX);
    if let Some(bitmap) = bitmaps.get(&group) {
        return Ok(!bitmap.get(bit));
    }
    let bitmap = old.block_bitmap(&old.group(group)?)?;
    let free = !bitmap.get(bit);
    bitmaps.insert(group, bitmap);
    Ok(free)
}

/// Sets or clears `needs_recovery` in the block that holds the superblock.
fn patch_superblock(block: &mut [u8], number: u64, needed: bool) {
    // In blocks of 1 KiB the superblock has block 1 for itself; in larger ones it lies 1,024 bytes into block 0.
    let at = if number == 0 { usize_of(1024) } else { 0 };
    if let Some(raw) = block.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<{ superblock::SIZE }>()) {
        *raw = superblock::with_recovery(raw, needed);
    }
}
