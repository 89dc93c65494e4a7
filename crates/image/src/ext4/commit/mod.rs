//! Sorts the overlay's blocks for an in-place commit: those written to free blocks, and those written through the
//! journal or, if that is not possible, with an undo file.

mod scrub;

use std::collections::BTreeMap;
use std::sync::Arc;

use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::secret::Wiped;

use super::Ext4;
use crate::ext4::format::group::Bitmap;
use crate::ext4::format::journal::Journal;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::format::superblock;
use crate::ext4::read::layout::damaged;
use crate::journal::Map;
use crate::journal::commit::{Block, Changes, Dirty, Transaction};
use crate::journal::superblock::JournalSuperblock;
use crate::undo::Rewrite;

/// The differences from the device, as blocks with their new content.
struct Split {
    /// Replayed blocks of a dirty journal that are not checkpointed yet.
    replayed: Vec<Block>,
    changes: Changes,
}

impl Ext4 {
    /// The changes as one journal transaction. `None` if the file system has no journal.
    ///
    /// Without changes, and without leftovers of a mount or an earlier run, it writes nothing.
    ///
    /// # Errors
    /// If the image cannot be read, or is damaged, for example because the journal shares a block with something else.
    pub fn transaction(&self) -> Result<Option<Transaction>, StorageError> {
        let Some(Journal { superblock: mut journal, map, .. }) = self.empty_journal()? else { return Ok(None) };
        let first = self.release()?;
        let old = self.before_change();
        if let Some(first) = &first {
            journal.set_log(0, first.next_sequence());
        }
        let Split { replayed, changes } = self.split(Some(&map))?;
        if self.recovered.is_some() || !self.layers.is_empty() {
            self.layout()?;
            self.check_journal()?;
        }
        let dirty = self.recovered.as_ref().filter(|_| first.is_none()).map(|_| Dirty { home_blocks: replayed });
        // The kernel ignores an old fast commit; but e2fsck (up to 1.47.4) treats it as damage, and does not replay the
        // transaction before it, which is ours. It must be erased before the commit point.
        let has_fast_commits = journal.has_fast_commits() && !self.layers.is_empty();
        let stale = match dirty.is_some() || self.drops_values || has_fast_commits {
            true => stale_blocks(old, &journal, &map)?,
            false => Vec::new(),
        };
        Ok(Some(Transaction {
            block_size: old.geometry.block_size,
            superblock_old: superblock::with_recovery(&old.superblock.raw, true).to_vec(),
            superblock_new: superblock::with_recovery(&self.reader.superblock.raw, false).to_vec(),
            journal,
            map,
            dirty,
            changes,
            stale,
            first: first.map(Box::new),
        }))
    }

    /// The transaction that checkpoints the journal and releases orphans, if a change was made on top of that. `None`
    /// if there were no orphans, or nothing else is to be written.
    fn release(&self) -> Result<Option<Transaction>, StorageError> {
        // The second open finds the same state: nothing was written since.
        if self.is_on_released() { Self::open(Arc::clone(&self.base))?.transaction() } else { Ok(None) }
    }

    /// True if a change was made on top of released orphans.
    fn is_on_released(&self) -> bool {
        self.released.as_ref().is_some_and(|(_, layers)| self.layers.len() > *layers)
    }

    /// The file system that the change is made to.
    fn before_change(&self) -> &Reader {
        match &self.released {
            Some((reader, _)) if self.is_on_released() => reader,
            _ => &self.old,
        }
    }

    /// The changes for a device on which they cannot be one journal transaction.
    ///
    /// # Errors
    /// If the image cannot be read, or is damaged.
    pub fn rewrite(&self) -> Result<Rewrite, StorageError> {
        self.layout()?;
        self.check_journal()?;
        let geometry = &self.old.geometry;
        let journal = self.empty_journal()?;
        let Split { changes, .. } = self.split(journal.as_ref().map(|journal| &journal.map))?;
        let number = superblock::OFFSET / u64::from(geometry.block_size);
        let home_blocks = changes.logged.into_iter().filter(|block| block.number != number).collect();
        // A dirty journal is checkpointed separately, as if there were no other change.
        let replay = match self.recovered.is_some() || self.released.is_some() {
            true => Self::open(Arc::clone(&self.base))?.transaction()?,
            false => None,
        };
        if replay.as_ref().is_some_and(|replay| !replay.fits()) {
            return Err(StorageError::refused(
                "the journal is too small to release the orphans",
                Remedy::CheckFileSystem,
            ));
        }
        Ok(Rewrite {
            why: if journal.is_some() { "the journal is too small for it" } else { "its file system has no journal" },
            block_size: geometry.block_size,
            uuid: self.old.superblock.uuid,
            replay,
            new: changes.new,
            home_blocks,
            superblock: Block { number, bytes: self.reader.block(number)? },
            stale: self.stale_log()?,
        })
    }

    /// The journal with an empty log.
    fn empty_journal(&self) -> Result<Option<Journal>, StorageError> {
        match &self.recovered {
            Some(journal) => Ok(Some(journal.clone())),
            None => self.old.journal(),
        }
    }

    /// Sorts the differences; `map` tells which blocks are the journal's, if there is one. The superblock's block gets
    /// `needs_recovery`.
    fn split(&self, map: Option<&Map>) -> Result<Split, StorageError> {
        let old = self.before_change();
        // Otherwise the previous transaction has checkpointed it.
        let brings_home = self.recovered.is_some() && !self.is_on_released();
        let block_size = u64::from(old.geometry.block_size);
        let mut split = Split { replayed: Vec::new(), changes: Changes::default() };
        let mut bitmaps: BTreeMap<u32, Bitmap> = BTreeMap::new();
        for (offset, mut bytes) in self.dirty()? {
            let number = offset / block_size;
            if let Some(map) = map.filter(|map| map.contains(number)) {
                if map.physical(0) != Some(number) {
                    return Err(damaged(format!("block {number} of the journal would be changed like one of a file")));
                }
                // Only the replay changes the journal's superblock, and the commit writes it itself.
                continue;
            }
            let mut before = old.block(number)?;
            for block in [&mut before, &mut bytes] {
                if let Some(raw) = superblock::in_block(block, number) {
                    // The flag is not part of the change: the commit sets it first and clears it last.
                    *raw = superblock::with_recovery(raw, true);
                }
            }
            if brings_home && self.on_device(offset, before.len())? != before {
                split.replayed.push(Block { number, bytes: before.clone() });
            }
            if before == bytes {
                continue;
            }
            let free = is_free(old, number, &mut bitmaps)?;
            let to = if free { &mut split.changes.new } else { &mut split.changes.logged };
            to.push(Block { number, bytes });
        }
        Ok(split)
    }

    /// Offsets (bytes) of log blocks with data of earlier transactions, to be zeroed with a change that drops a file by
    /// a commit without the journal. Empty if nothing is dropped.
    ///
    /// The kernel may have logged a file's content: data=journal as a mount option leaves no other trace, and an inode
    /// can contain the content itself.
    ///
    /// # Errors
    /// If the image cannot be read, or is damaged.
    pub fn stale_log(&self) -> Result<Vec<u64>, StorageError> {
        if !self.drops_values {
            return Ok(Vec::new());
        }
        let Some(Journal { superblock, map, .. }) = self.reader.journal()? else { return Ok(Vec::new()) };
        let blocks = stale_blocks(&self.old, &superblock, &map)?;
        blocks.into_iter().filter_map(|block| map.physical(block)).map(|place| self.old.block_offset(place)).collect()
    }

    /// Bytes of the device, without repair or replay.
    fn on_device(&self, offset: u64, length: usize) -> Result<Wiped, StorageError> {
        let mut bytes = Wiped::zeros(length);
        self.base.read_exact_at(offset, &mut bytes).map_err(|error| StorageError::io("reading the image", error))?;
        Ok(bytes)
    }
}

/// Number of journal blocks read at a time.
const RUN: u64 = 32;

/// The journal's blocks after its superblock that are not zero, including the fast-commit area. Holes of the image are
/// not read: most journals were never written to.
pub(super) fn stale_blocks(old: &Reader, journal: &JournalSuperblock, map: &Map) -> Result<Vec<u32>, StorageError> {
    let mut stale = Vec::new();
    let block_size = u64::from(old.geometry.block_size);
    let zeros = vec![0; usize_of(old.geometry.block_size)];
    let mut buffer = Wiped::default();
    let mut block = journal.first;
    while block < journal.blocks {
        let (place, length) =
            map.run_from(block).ok_or_else(|| StorageError::corrupt("the journal's inode has a hole"))?;
        let length = length.min(journal.blocks.saturating_sub(block));
        let (mut next, end) = (place, place.saturating_add(u64::from(length)));
        while next < end {
            let range = old.block_offset(next)?..old.block_offset(end - 1)?.saturating_add(block_size);
            let data = old.device.next_data(range).map_err(|error| StorageError::io("reading the journal", error))?;
            let Some(data) = data else { break };
            next = data.start / block_size;
            // Allocated only if there is something to read.
            buffer.resize(zeros.len().saturating_mul(usize::try_from(RUN).unwrap_or(1)), 0);
            let data_end = data.end.div_ceil(block_size).min(end);
            while next < data_end {
                let count = usize::try_from(data_end.saturating_sub(next).min(RUN)).unwrap_or(0);
                // OK to index: at most RUN blocks, as in the buffer.
                let blocks = &mut buffer[..count.saturating_mul(zeros.len())];
                old.read_blocks(next, blocks)?;
                for content in blocks.chunks_exact(zeros.len()) {
                    if content != zeros {
                        // Fits: it is less than `length` blocks after `place`.
                        let into = u32::try_from(next.saturating_sub(place)).unwrap_or(u32::MAX);
                        stale.push(block.saturating_add(into));
                    }
                    next = next.saturating_add(1);
                }
            }
        }
        // At least one: see `run_from`.
        block = block.saturating_add(length);
    }
    Ok(stale)
}

/// True if block `number` was free before the change.
fn is_free(old: &Reader, number: u64, bitmaps: &mut BTreeMap<u32, Bitmap>) -> Result<bool, StorageError> {
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
