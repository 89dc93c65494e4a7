//! Recovery after an unclean unmount: a dirty journal is replayed in memory, orphans are released, and a mark of
//! orphans without orphans is cleared.
//!
//! A copy of the disk of a running machine has both. Kernel documentation, ext4, "Journal (jbd2)" and "Orphan file".

pub(in crate::ext4) mod orphans;
pub(in crate::ext4) mod torn;

use std::sync::Arc;

use deaddrop_core::error::{Hint, Remedy, StorageError};

use crate::device::overlay::Overlay;
use crate::ext4::format::features::{Compat, Incompat, RoCompat};
use crate::ext4::format::journal::Journal;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::format::superblock::{self, Superblock};
use crate::journal::replay::{self, Pending, PutBlock, Replayed};

/// Maximum memory for replayed blocks, in bytes.
const REPLAY_LIMIT: usize = 128 << 20;
/// The hint for fast commits. Neither the kernel nor e2fsck replays all of them; see docs/ext4.md.
const FAST_COMMIT_HINT: &str =
    "shut down the system that wrote it in good order and copy it again, or run `e2fsck -p` on a copy first";
/// The hint for fast commits after an empty log: no reader replays them then.
const FROZEN_HINT: &str =
    "shut down the system that wrote it in good order and copy it again; `e2fsck -p` gives them up";

/// A state that prevents reading and writing, and the hint for it.
#[derive(Debug, Clone)]
pub(super) struct Obstacle {
    what: String,
    hint: Hint,
}

impl Obstacle {
    /// An obstacle that e2fsck removes.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: Remedy::CheckFileSystem.into() }
    }
}

impl From<Obstacle> for StorageError {
    fn from(obstacle: Obstacle) -> Self {
        Self::refused(obstacle.what, obstacle.hint)
    }
}

/// The pending transactions and fast commits in the journal on the device. `None` if there is no journal, if nothing
/// needs a replay, or if it cannot be read.
pub(super) fn pending(reader: &Reader) -> Option<Pending> {
    let journal = reader.journal().ok()??;
    let is_marked = reader.superblock.features.incompat.has(Incompat::NEEDS_RECOVERY);
    (is_marked || journal.superblock.start != 0).then(|| pending_in(reader, &journal).ok())?
}

fn pending_in(reader: &Reader, journal: &Journal) -> Result<Pending, StorageError> {
    replay::pending(
        &journal.superblock,
        &journal.map,
        usize_of(reader.geometry.block_size),
        reader.superblock.features.compat.has(Compat::FAST_COMMIT),
        &|block, bytes| reader.read_block(block, bytes),
    )
}

/// Text for `count` complete fast commits.
fn fast_commits(count: u32) -> String {
    let ending = if count == 1 { "" } else { "s" };
    match count {
        0 => "its journal holds a fast commit that was cut off or is damaged, which deaddrop does not replay".into(),
        _ => format!("its journal holds {count} fast commit{ending}, which deaddrop does not replay"),
    }
}

/// True if a mount left something to recover.
pub(super) fn is_needed(reader: &Reader) -> bool {
    let features = reader.superblock.features;
    features.incompat.has(Incompat::NEEDS_RECOVERY)
        || features.ro_compat.has(RoCompat::ORPHAN_PRESENT)
        // An unreadable list is damage that `Ext4::check_writable` reports.
        || (can_release(&reader.superblock) && orphans::exist(reader).unwrap_or(false))
}

/// Orphans are released only if the kernel and e2fsck would release them: not after errors (both drop the list then),
/// and only through a journal.
fn can_release(superblock: &Superblock) -> bool {
    superblock.is_clean() && superblock.features.compat.has(Compat::HAS_JOURNAL)
}

/// The result of a recovery in memory.
pub(super) struct Recovery {
    /// The journal's transactions, replayed unchanged, over the device.
    pub replayed: Arc<Overlay>,
    /// Over that: the blocks and inodes of orphans freed; `None` if there were none, or if they stay.
    pub released: Option<Arc<Overlay>>,
    /// Over that: our own changes, the marks in the superblock and its counts. In place they are part of the
    /// transaction: a superblock torn by a power cut has an intact copy in the log.
    pub marked: Arc<Overlay>,
    /// The journal with an empty log and the next sequence number; `None` if it was clean.
    pub journal: Option<Journal>,
}

/// Recovers the file system on an overlay over `reader`'s device. Its features are known to be supported by the writer.
pub(super) fn recover(reader: &Reader) -> Result<Recovery, Obstacle> {
    let dirty = |error: StorageError| Obstacle::new(format!("its journal is dirty and cannot be replayed: {error}"));
    let overlay = Arc::new(Overlay::new(Arc::clone(&reader.device), reader.geometry.block_size, REPLAY_LIMIT));
    let mut emptied = None;
    if reader.superblock.features.incompat.has(Incompat::NEEDS_RECOVERY) {
        let Some(journal) = reader.journal().map_err(dirty)? else {
            return Err(Obstacle::new("it needs recovery, but has no journal"));
        };
        let pending = pending_in(reader, &journal).map_err(dirty)?;
        if let Some(count) = pending.fast_commits {
            let hint = if journal.superblock.start == 0 { FROZEN_HINT } else { FAST_COMMIT_HINT };
            return Err(Obstacle { what: fast_commits(count), hint: hint.into() });
        }
        emptied = Some(replay(reader, &overlay, journal).map_err(dirty)?);
    }
    let replayed = Reader::open(overlay.clone()).map_err(dirty)?;
    if replayed.geometry != reader.geometry || replayed.superblock.uuid != reader.superblock.uuid {
        return Err(Obstacle::new("its journal would change the file system's size or identity"));
    }
    if let Some(journal) = &emptied
        && replayed.journal().map_err(dirty)?.is_none_or(|after| after.map != journal.map)
    {
        return Err(Obstacle::new("its journal would change the place of the journal itself"));
    }
    let released = release(&replayed.guard_journal(), !reader.superblock.has_errors());
    let top = released.clone().unwrap_or_else(|| overlay.clone());
    let settled = Reader::open(top.clone()).map_err(dirty)?.guard_journal();
    let counts = match emptied.is_some() || released.is_some() {
        true => Some(count_again(&settled).map_err(dirty)?),
        false => None,
    };
    let marked = Arc::new(Overlay::new(top, reader.geometry.block_size, REPLAY_LIMIT));
    mark_recovered(&marked, &reader.superblock, &settled, released.is_some(), counts)
        .map_err(|error| Obstacle::new(format!("its superblock cannot be written: {error}")))?;
    Ok(Recovery { replayed: overlay, released, marked, journal: emptied })
}

/// Releases orphans on an overlay over `reader`'s device. `None` if there are none, or if they cannot be released: then
/// they stay, and are refused.
fn release(reader: &Reader, may: bool) -> Option<Arc<Overlay>> {
    // An error is treated as "exists": without a release the orphans stay, and `Ext4::check_writable` refuses.
    if !may || !can_release(&reader.superblock) || !orphans::exist(reader).ok()? {
        return None;
    }
    let overlay = Arc::new(Overlay::new(Arc::clone(&reader.device), reader.geometry.block_size, REPLAY_LIMIT));
    orphans::release(reader, &overlay).ok()?;
    Some(overlay)
}

/// Replays the log of `journal` through `put`, as [`replay::replay`].
fn replay_log(reader: &Reader, journal: &Journal, put: PutBlock<'_>) -> Result<Replayed, StorageError> {
    replay::replay(
        &journal.superblock,
        &journal.map,
        usize_of(reader.geometry.block_size),
        reader.superblock.blocks,
        &|block, bytes| reader.read_block(block, bytes),
        put,
    )
}

/// Replays the journal, and empties it.
fn replay(reader: &Reader, overlay: &Overlay, mut journal: Journal) -> Result<Journal, StorageError> {
    let replayed = replay_log(reader, &journal, &mut |block, bytes| {
        let failed = |error| StorageError::io("replaying the journal in memory", error);
        overlay.write_at(reader.block_offset(block)?, bytes).map_err(failed)
    })?;
    journal.superblock.set_log(0, replayed.next_sequence);
    let place = journal.map.physical(0).ok_or_else(|| StorageError::corrupt("ext4: the journal has no superblock"))?;
    overlay
        .write_at(reader.block_offset(place)?, journal.superblock.bytes())
        .map_err(|error| StorageError::io("replaying the journal in memory", error))?;
    Ok(journal)
}

/// Adds up the free blocks and inodes, as the kernel does when it mounts: during a mount the superblock's own counts
/// lag behind those of the groups, and a replay does not update them.
fn count_again(reader: &Reader) -> Result<(u64, u32), StorageError> {
    let (mut blocks, mut inodes) = (0_u64, 0_u32);
    for number in 0..reader.geometry.groups {
        let group = reader.group(number)?;
        blocks = blocks.saturating_add(u64::from(group.free_blocks));
        inodes = inodes.saturating_add(group.free_inodes);
    }
    Ok((blocks, inodes))
}

/// Clears `needs_recovery` and `orphan_present` in the superblock, and updates its counts of free blocks and inodes.
///
/// Errors are recorded outside the journal: they are taken from the superblock on the device (`found`), not from the
/// copy that the log may contain. The kernel (`ext4_load_journal`) and e2fsck (`e2fsck_run_ext3_journal`) do the same.
fn mark_recovered(
    overlay: &Overlay,
    found: &Superblock,
    reader: &Reader,
    is_released: bool,
    counts: Option<(u64, u32)>,
) -> std::io::Result<()> {
    let superblock = &reader.superblock;
    let mut raw = superblock::with_recovery(&superblock.raw, false);
    superblock::keep_errors(&mut raw, found);
    if is_released {
        // `s_last_orphan`.
        raw[0xE8..0xEC].fill(0);
    }
    // The mark stays if the orphan file cannot be read.
    if is_released || !orphans::exist(reader).unwrap_or(true) {
        let word = superblock.features.ro_compat.0 & !RoCompat::ORPHAN_PRESENT;
        raw[0x64..0x68].copy_from_slice(&word.to_le_bytes());
    }
    if let Some((blocks, inodes)) = counts {
        let [low, high] = [0, 4].map(|at| blocks.to_le_bytes()[at..at + 4].to_owned());
        raw[0xC..0x10].copy_from_slice(&low);
        if superblock.features.incompat.has(Incompat::BITS_64) {
            raw[0x158..0x15C].copy_from_slice(&high);
        }
        raw[0x10..0x14].copy_from_slice(&inodes.to_le_bytes());
    }
    superblock::seal(&mut raw);
    overlay.write_at(superblock::OFFSET, &raw)
}
