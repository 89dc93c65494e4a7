//! Replay: the blocks of the committed transactions in a log, and their order.
//!
//! As in the kernel (jbd2 recovery): find the last complete transaction, collect the revoked blocks, then replay the
//! others. A log is hostile input: each of its blocks is read a fixed number of times.

mod log;

use std::collections::HashMap;

use deaddrop_core::error::StorageError;

use self::log::{Log, damaged};
use super::superblock::{INCOMPAT_ASYNC_COMMIT, JournalSuperblock};
use super::{DESCRIPTOR, Map, REVOKE, fast_commit};

/// The result of a replay.
#[derive(Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Complete transactions in the log.
    pub transactions: u32,
    /// The sequence number of the next transaction: after an incomplete one too.
    pub next_sequence: u32,
}

/// What a journal contains for a replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// Complete transactions in the log.
    pub transactions: u32,
    /// Complete fast commits after them, as counted by [`fast_commit::count`]: they are not replayed.
    pub fast_commits: Option<u32>,
}

/// Reads one file-system block into the buffer.
pub type ReadBlock<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), StorageError>;

/// Receives one replayed block: its home block, and its content.
pub type PutBlock<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), StorageError>;

/// Replays the log through `put`; later transactions come later. Fast commits after them are ignored: see [`pending`].
///
/// `fs_blocks` is the number of blocks of the file system; a tag beyond it is damage.
///
/// # Errors
/// If the log is damaged in a committed transaction, or uses an unsupported feature. `put` may have been called before:
/// it must write to an overlay.
pub fn replay(
    superblock: &JournalSuperblock,
    map: &Map,
    block_size: usize,
    fs_blocks: u64,
    read: ReadBlock<'_>,
    put: PutBlock<'_>,
) -> Result<Replayed, StorageError> {
    let log = Log { superblock, map, block_size, fs_blocks, read };
    if superblock.start == 0 {
        return Ok(Replayed { transactions: 0, next_sequence: superblock.sequence });
    }
    if superblock.incompat & INCOMPAT_ASYNC_COMMIT != 0 {
        return Err(StorageError::unsupported("the journal is dirty and uses async commit", "run e2fsck -p first"));
    }
    let transactions = log.scan()?;
    let end = superblock.sequence.wrapping_add(transactions);
    let mut revoked: HashMap<u64, u32> = HashMap::new();
    log.each_block(transactions, |sequence, kind, block, _| {
        if kind == REVOKE {
            log.revokes(block, &mut |target| {
                revoked.insert(target, sequence);
            })?;
        }
        Ok(())
    })?;
    log.each_block(transactions, |sequence, kind, block, at| {
        if kind != DESCRIPTOR {
            return Ok(());
        }
        for (index, tag) in log.tags(block)?.iter().enumerate() {
            // A revoke of this transaction or a later one: the block was freed and reused.
            let is_revoked = revoked.get(&tag.block).is_some_and(|by| is_at_or_after(*by, sequence));
            if is_revoked {
                continue;
            }
            let steps = u32::try_from(index).ok().and_then(|index| index.checked_add(1));
            let at = log.advance(at, steps.ok_or_else(damaged)?);
            put(tag.block, &log.image(at, sequence, tag)?)?;
        }
        Ok(())
    })?;
    // One more than the last: an incomplete transaction with that number may be in the log (kernel,
    // jbd2_journal_recover).
    Ok(Replayed { transactions, next_sequence: end.wrapping_add(1) })
}

/// Counts the transactions and fast commits in a journal without replaying anything.
///
/// `is_used_for_fast_commits`: the file system says that it has some. After a freeze and thaw the kernel writes fast
/// commits while its journal's superblock still says that the log and the fast-commit area are empty.
///
/// # Errors
/// As [`replay`].
pub fn pending(
    superblock: &JournalSuperblock,
    map: &Map,
    block_size: usize,
    is_used_for_fast_commits: bool,
    read: ReadBlock<'_>,
) -> Result<Pending, StorageError> {
    let log = Log { superblock, map, block_size, fs_blocks: 0, read };
    let transactions = if superblock.start == 0 { 0 } else { log.scan()? };
    let next = superblock.sequence.wrapping_add(transactions);
    let fast_commits = match is_used_for_fast_commits || superblock.has_fast_commits() {
        true => fast_commit::count(superblock, map, block_size, next, read)?,
        false => None,
    };
    Ok(Pending { transactions, fast_commits })
}

/// Sequence numbers wrap.
fn is_at_or_after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) < 1 << 31
}

#[cfg(test)]
mod tests;
