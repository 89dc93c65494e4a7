//! The overlay's blocks sorted for an in-place commit: what goes to free blocks, and what goes through the journal.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::Ext4;
use super::group::Bitmap;
use super::journal::Journal;
use super::reader::{Reader, usize_of};
use super::superblock::{self, Superblock};
use crate::image::commit::{Block, Changes, Dirty, Transaction};
use crate::image::error::ImageError;

impl Ext4 {
    /// The changes as one journal transaction. `None` when the file system has no journal.
    ///
    /// Without changes, and with nothing left of a mount or of an earlier run, it has nothing to write.
    ///
    /// # Errors
    /// When the image cannot be read, or is damaged.
    pub fn transaction(&self) -> Result<Option<Transaction>, ImageError> {
        let (journal, dirty) = match &self.recovered {
            Some((journal, log_blocks)) => (Some(journal.clone()), Some(*log_blocks)),
            None => (self.old.journal()?, None),
        };
        let Some(Journal { superblock: journal, map, .. }) = journal else { return Ok(None) };
        let old = &self.old;
        let block_size = u64::from(old.geometry.block_size);
        let mut changes = Changes { wipe_whole_log: self.leaves_traces_in_log, ..Changes::default() };
        let mut dirty = dirty.map(|log_blocks| Dirty { log_blocks, home: Vec::new() });
        let sb_block = superblock::OFFSET / block_size;
        let mut bitmaps: BTreeMap<u32, Bitmap> = BTreeMap::new();
        for (offset, bytes) in self.dirty()? {
            let number = offset / block_size;
            if map.contains(number) {
                // Only the replay touches the journal, and the commit writes its superblock itself.
                continue;
            }
            let before = old.block(number)?;
            if let Some(dirty) = &mut dirty
                && self.on_device(offset, before.len())? != before
            {
                let mut home = Block { number, bytes: before.clone() };
                if number == sb_block {
                    patch_superblock(&mut home.bytes, number, true);
                }
                dirty.home.push(home);
            }
            if before == bytes {
                continue;
            }
            let mut block = Block { number, bytes };
            if number == sb_block {
                patch_superblock(&mut block.bytes, number, true);
            }
            if is_free(old, number, &mut bitmaps)? { changes.new.push(block) } else { changes.logged.push(block) }
        }
        Ok(Some(Transaction {
            block_size: old.geometry.block_size,
            superblock_old: superblock::with_recovery(&old.superblock.raw, true).to_vec(),
            superblock_new: superblock::with_recovery(&self.reader.superblock.raw, false).to_vec(),
            journal,
            map,
            dirty,
            changes,
        }))
    }
}

impl Ext4 {
    /// Bytes as they are on the device, with nothing mended or replayed.
    fn on_device(&self, offset: u64, length: usize) -> Result<Zeroizing<Vec<u8>>, ImageError> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        self.base.read_exact_at(offset, &mut bytes).map_err(|error| ImageError::io("reading the image", error))?;
        Ok(bytes)
    }
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

/// True when an old value may stand in the log in clear: it lay in its inode, or went through the journal as data.
pub(super) fn may_be_in_log(superblock: &Superblock, flags: u32) -> bool {
    superblock.journals_data() || flags & (super::inode::INLINE_DATA | super::inode::JOURNAL_DATA) != 0
}
