//! The in-place commit: writes the overlay's blocks to the image as one journal transaction.
//!
//! The order of the writes, and the reason (each step closes the window of the previous one):
//!
//! 1. New values are written to free blocks. Nothing refers to them yet.
//! 2. The log: descriptors, images of the blocks in use, commit block. Nothing points at it yet. The rest of the log,
//!    with data of earlier transactions, is zeroed if it may contain an old value: before the commit point, so that the
//!    old values are never in the log while the new ones are in force.
//! 3. The file system's superblock gets `needs_recovery`. Flush 1.
//! 4. The journal's superblock points at the log. Flush 2: **the commit point**. From here on a reader that replays the
//!    journal finds the wholly new state, before it the wholly old one.
//! 5. The logged blocks are written to their home blocks (checkpoint). Flush 3.
//! 6. The journal's superblock says "empty", with a higher sequence number. Flush 4.
//! 7. `needs_recovery` is cleared in the file system's superblock. Not before 6: with the flag clear the kernel wipes a
//!    log without reading it, and e2fsck reports a log that is still in force.
//! 8. The log blocks are zeroed. Flush 5.
//!
//! Writing a value in step 1 and never in step 2 keeps values out of the journal. docs/safety.md has the whole
//! argument.

use std::io;

use deaddrop_core::error::CommitError;
use deaddrop_core::secret::Wiped;

use crate::journal::Map;
use crate::journal::superblock::JournalSuperblock;
use crate::journal::transaction::{self, Logged};

/// The device that a commit writes to. The order of calls makes the commit safe; tests record it.
pub trait Medium {
    /// Writes all of `bytes` at `offset` (bytes from the medium's start).
    ///
    /// # Errors
    /// If the system call fails. Some of the bytes may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written so far is durable.
    ///
    /// # Errors
    /// If the system call fails.
    fn flush(&mut self) -> io::Result<()>;

    /// Called before the first write of the change itself, after a dirty journal was checkpointed: writes from here on
    /// may be rolled back.
    fn begin_change(&mut self) {}

    /// Called after the commit point: nothing written from here on may be rolled back.
    fn pass_commit_point(&mut self) {}
}

/// One block to write: its number in the file system, and its content.
pub struct Block {
    /// File-system block.
    pub number: u64,
    /// One block of bytes; may hold a value.
    pub bytes: Wiped,
}

/// One change to a file system, ready to be committed in place.
pub struct Transaction {
    /// Block size, in bytes.
    pub block_size: u32,
    /// The journal's superblock: an empty log, and the next sequence number.
    pub journal: JournalSuperblock,
    /// The location of the journal's blocks.
    pub map: Map,
    /// The file system's superblock, 1,024 bytes, before the change and with `needs_recovery` set.
    pub superblock_old: Vec<u8>,
    /// The file system's superblock after the change, with `needs_recovery` clear.
    pub superblock_new: Vec<u8>,
    /// The content of a dirty journal; `None` if it was clean.
    pub dirty: Option<Dirty>,
    /// The change.
    pub changes: Changes,
    /// Journal blocks with data of earlier transactions, to be zeroed.
    pub stale: Vec<u32>,
    /// A transaction that is committed completely before this one: it frees blocks that this one may use. A block that
    /// is in use before a transaction would have to be logged.
    pub first: Option<Box<Transaction>>,
}

/// The transactions of a dirty journal, which are checkpointed first.
pub struct Dirty {
    /// Replayed blocks that are not in their home blocks yet. The superblock's own block, if included, has
    /// `needs_recovery` set.
    pub home_blocks: Vec<Block>,
}

/// The blocks to write.
#[derive(Default)]
pub struct Changes {
    /// Free blocks with new content: new values, new directory blocks.
    pub new: Vec<Block>,
    /// Blocks that were in use, and freed blocks that are zeroed. The superblock's own block, if included, has
    /// `needs_recovery` set.
    pub logged: Vec<Block>,
}

impl Transaction {
    /// True if there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.dirty.is_none() && self.changes.new.is_empty() && self.changes.logged.is_empty()
    }

    /// True if the change fits into the journal as one transaction, and the journal's tags can address its blocks.
    #[must_use]
    pub fn fits(&self) -> bool {
        let block_size = usize::try_from(self.block_size).unwrap_or(usize::MAX);
        let needed = transaction::log_blocks(&self.journal, block_size, self.changes.logged.len());
        let can_name = |block: &Block| self.journal.has_wide_tags() || u32::try_from(block.number).is_ok();
        self.first.as_ref().is_none_or(|first| first.fits())
            && u32::try_from(needed).is_ok_and(|needed| needed <= self.journal.log_blocks())
            && self.changes.logged.iter().all(can_name)
    }

    /// The next sequence number of the journal after this commit.
    #[must_use]
    pub fn next_sequence(&self) -> u32 {
        let is_logged = !(self.changes.new.is_empty() && self.changes.logged.is_empty());
        self.journal.sequence.wrapping_add(u32::from(is_logged))
    }

    /// Size of all blocks to be written to their home blocks, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        let blocks = self.changes.new.len().saturating_add(self.changes.logged.len());
        u64::try_from(blocks).unwrap_or(u64::MAX).saturating_mul(u64::from(self.block_size))
    }

    /// Writes it to `medium`, on which the file system starts at `start` (bytes). The commit block gets `seconds` since
    /// 1970.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(mut self, medium: &mut dyn Medium, start: u64, seconds: u64) -> Result<(), CommitError> {
        if let Some(first) = self.first.take() {
            // In both cases nothing of the change itself is written yet.
            first.commit(&mut Quiet(medium), start, seconds).map_err(|error| match error {
                CommitError::Before(error) | CommitError::After(error) => CommitError::Before(error),
            })?;
        }
        let mut writer = Writer { medium, start, block_size: u64::from(self.block_size), map: &self.map };
        let mut journal = self.journal.clone();
        let first_sequence = journal.sequence;
        if let Some(dirty) = &self.dirty {
            for block in &dirty.home_blocks {
                writer.block(block.number, &block.bytes).map_err(CommitError::Before)?;
            }
            // Before the log is emptied: until then it is the only complete copy.
            writer.flush().map_err(CommitError::Before)?;
            writer.journal_superblock(&journal).map_err(CommitError::Before)?;
            // Before our log blocks overwrite the previous ones.
            writer.flush().map_err(CommitError::Before)?;
        }
        writer.medium.begin_change();
        if self.changes.new.is_empty() && self.changes.logged.is_empty() {
            return writer.close(&self, self.stale.iter().copied()).map_err(CommitError::Before);
        }

        // 1 to 3
        for block in &self.changes.new {
            writer.block(block.number, &block.bytes).map_err(CommitError::Before)?;
        }
        let log = self.log(seconds);
        for (index, bytes) in (0_u32..).zip(&log) {
            writer.journal_block(journal.first.saturating_add(index), bytes).map_err(CommitError::Before)?;
        }
        let used = journal.first..journal.first.saturating_add(u32::try_from(log.len()).unwrap_or(u32::MAX));
        writer.zero(self.stale.iter().copied().filter(|block| !used.contains(block))).map_err(CommitError::Before)?;
        writer.superblock(&self.superblock_old).map_err(CommitError::Before)?;
        // Before anything points at the log: replaying an incomplete one would write garbage to home blocks.
        writer.flush().map_err(CommitError::Before)?;

        // 4. The flush comes before the checkpoint: a torn home block is only repaired by a log that is in force.
        journal.set_log(journal.first, first_sequence);
        if let Err(error) = writer.journal_superblock_now(&journal) {
            // No home block is written yet. If the journal's superblock is known to be unchanged, the image is old.
            if writer.journal_superblock_now(&self.journal).is_ok() {
                return Err(CommitError::Before(error));
            }
            writer.medium.pass_commit_point();
            return Err(CommitError::After(error));
        }
        writer.medium.pass_commit_point();

        // 5
        for block in &self.changes.logged {
            writer.block(block.number, &block.bytes).map_err(CommitError::After)?;
        }
        // Before the log is emptied: until then it is the only complete copy.
        writer.flush().map_err(CommitError::After)?;

        // 6
        journal.set_log(0, first_sequence.wrapping_add(1));
        writer.journal_superblock(&journal).map_err(CommitError::After)?;
        // Before the flag is cleared: e2fsck reports a clear flag with a log in force as damage.
        writer.flush().map_err(CommitError::After)?;
        writer.close(&self, used).map_err(CommitError::After)
    }

    fn log(&self, seconds: u64) -> Vec<Vec<u8>> {
        let logged = &self.changes.logged;
        let images: Vec<Logged<'_>> =
            logged.iter().map(|block| Logged { block: block.number, bytes: &block.bytes }).collect();
        let block_size = usize::try_from(self.block_size).unwrap_or(usize::MAX);
        transaction::encode(&self.journal, block_size, self.journal.sequence, &images, seconds)
    }
}

/// A medium without the calls at the start and end of the change: for writes before the change.
struct Quiet<'a>(&'a mut dyn Medium);

impl Medium for Quiet<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

struct Writer<'a> {
    medium: &'a mut dyn Medium,
    start: u64,
    block_size: u64,
    map: &'a Map,
}

impl Writer<'_> {
    /// Steps 7 and 8: `needs_recovery` is cleared, and these blocks of the log are zeroed.
    fn close(&mut self, transaction: &Transaction, log: impl Iterator<Item = u32>) -> io::Result<()> {
        self.superblock(&transaction.superblock_new)?;
        self.zero(log)?;
        self.flush()
    }

    /// Zeroes blocks of the journal.
    fn zero(&mut self, mut blocks: impl Iterator<Item = u32>) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(self.block_size).unwrap_or(0)];
        blocks.try_for_each(|block| self.journal_block(block, &zeros))
    }

    fn at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = self.start.checked_add(offset).ok_or(io::ErrorKind::InvalidInput)?;
        self.medium.write_at(offset, bytes)
    }

    fn block(&mut self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = number.checked_mul(self.block_size).ok_or(io::ErrorKind::InvalidInput)?;
        self.at(offset, bytes)
    }

    fn journal_block(&mut self, block: u32, bytes: &[u8]) -> io::Result<()> {
        let number = self.map.physical(block).ok_or(io::ErrorKind::InvalidInput)?;
        self.block(number, bytes)
    }

    fn journal_superblock(&mut self, journal: &JournalSuperblock) -> io::Result<()> {
        self.journal_block(0, journal.bytes())
    }

    fn journal_superblock_now(&mut self, journal: &JournalSuperblock) -> io::Result<()> {
        self.journal_superblock(journal)?;
        self.flush()
    }

    fn superblock(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at(SUPERBLOCK_OFFSET, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.medium.flush()
    }
}

/// Offset of the file system's superblock, in bytes (kernel documentation, ext4, "Super Block").
const SUPERBLOCK_OFFSET: u64 = 1024;
