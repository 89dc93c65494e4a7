//! What a mount left behind: a dirty journal is replayed in memory, a mark of orphans without orphans is cleared.
//!
//! Whoever copies the disk of a running machine gets both. Kernel documentation, ext4, "Journal (jbd2)" and "Orphan
//! file".

use std::sync::Arc;
use std::time::Duration;

use super::bytes::le32;
use super::features::{Compat, Incompat, RoCompat};
use super::guard::{self, Steps};
use super::reader::Reader;
use super::superblock::{self, Superblock};
use super::writer::Writer;
use crate::image::error::ImageError;
use crate::image::overlay::Overlay;

/// Memory for replayed blocks, in bytes.
const REPLAY_LIMIT: usize = 128 << 20;
/// How long a replay may take.
const LONGEST: Duration = Duration::from_secs(5);
/// Device calls of a replay: reading and writing each block of the largest journal that fits, several times.
const STEPS: u64 = 1_000_000;
/// `ob_magic` at the end of each block of the orphan file.
const ORPHAN_MAGIC: u32 = 0x0B10_CA04;
/// What a person can do about a state that we do not mend.
pub(super) const HINT: &str = "run `e2fsck -p` on it first";

/// A state that keeps us from reading and writing: what it is. The remedy is [`HINT`].
#[derive(Debug, Clone)]
pub(super) struct Obstacle(pub String);

impl From<Obstacle> for ImageError {
    fn from(obstacle: Obstacle) -> Self {
        Self::refused(obstacle.0, HINT)
    }
}

/// True when a mount left something to be dealt with.
pub(super) fn is_needed(superblock: &Superblock) -> bool {
    superblock.features.incompat.has(Incompat::NEEDS_RECOVERY)
        || superblock.features.ro_compat.has(RoCompat::ORPHAN_PRESENT)
}

/// Deals with what a mount left, on an overlay over `reader`'s device. The file system's features are known to be ones
/// that we write to.
pub(super) fn recover(reader: &Reader) -> Result<Arc<Overlay>, Obstacle> {
    let dirty = |error: ImageError| Obstacle(format!("its journal is dirty and cannot be replayed: {error}"));
    let overlay = Arc::new(Overlay::new(Arc::clone(&reader.device), reader.geometry.block_size, REPLAY_LIMIT));
    if reader.superblock.features.incompat.has(Incompat::NEEDS_RECOVERY) {
        let journal = reader.journal().map_err(dirty)?;
        let Some(journal) = journal else {
            return Err(Obstacle("it needs recovery, but has no journal".into()));
        };
        if let Some(what) = journal.obstacle() {
            return Err(Obstacle(what.into()));
        }
        replay(&overlay).map_err(dirty)?;
        count_again(&overlay).map_err(dirty)?;
    }
    let replayed = Reader::open(overlay.clone()).map_err(dirty)?;
    if replayed.superblock.features.incompat.has(Incompat::NEEDS_RECOVERY)
        || replayed.journal().map_err(dirty)?.is_some_and(|journal| journal.start != 0)
    {
        return Err(Obstacle("its journal is dirty and could not be emptied".into()));
    }
    if replayed.superblock.features.ro_compat.has(RoCompat::ORPHAN_PRESENT) {
        let orphans = |error: ImageError| Obstacle(format!("its orphan file cannot be read: {error}"));
        if !is_orphan_file_empty(&replayed).map_err(orphans)? {
            return Err(Obstacle("files that were deleted while open still take space (orphans)".into()));
        }
        clear_orphan_mark(&overlay, &replayed.superblock)
            .map_err(|error| Obstacle(format!("its orphan mark cannot be cleared: {error}")))?;
    }
    Ok(overlay)
}

/// Lets the writer's crate replay the journal.
fn replay(overlay: &Arc<Overlay>) -> Result<(), ImageError> {
    let steps = Steps::new(STEPS);
    let (disk, inside) = (Arc::clone(overlay), Arc::clone(&steps));
    let done = guard::run("the ext4 journal's replay", &steps, LONGEST, move || {
        Writer::replay(disk, inside).map_err(|failure| failure.to_string())
    })?;
    done.map_err(ImageError::Corrupt)
}

/// True when no block of the orphan file names an inode.
fn is_orphan_file_empty(reader: &Reader) -> Result<bool, ImageError> {
    if !reader.superblock.features.compat.has(Compat::ORPHAN_FILE) {
        return Ok(true);
    }
    let inode = reader.inode(reader.superblock.orphan_file_inode)?;
    for number in reader.map(&inode)?.content() {
        let block = reader.block(number)?;
        // A block holds inode numbers, then its magic and a checksum, four bytes each.
        let names = block.len() - 8;
        if le32(&block, names) != ORPHAN_MAGIC {
            return Err(ImageError::corrupt("ext4: an orphan file's block without its magic number"));
        }
        if block.get(..names).is_none_or(|names| names.iter().any(|byte| *byte != 0)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds up what is free, as the kernel does when it mounts: while it runs, the superblock's own counts lag behind those
/// of the groups, and the journal does not bring them up to date.
fn count_again(overlay: &Arc<Overlay>) -> Result<(), ImageError> {
    let reader = Reader::open(overlay.clone())?;
    let (mut blocks, mut inodes) = (0_u64, 0_u32);
    for number in 0..reader.geometry.groups {
        let group = reader.group(number)?;
        blocks = blocks.saturating_add(u64::from(group.free_blocks));
        inodes = inodes.saturating_add(group.free_inodes);
    }
    mend(overlay, &reader.superblock, |raw| {
        let bytes = blocks.to_le_bytes();
        raw[0xC..0x10].copy_from_slice(&bytes[..4]);
        if reader.superblock.features.incompat.has(Incompat::BITS_64) {
            raw[0x158..0x15C].copy_from_slice(&bytes[4..]);
        }
        raw[0x10..0x14].copy_from_slice(&inodes.to_le_bytes());
    })
    .map_err(|error| ImageError::io("writing in memory", error))
}

/// Clears `orphan_present` in the superblock.
fn clear_orphan_mark(overlay: &Overlay, superblock: &Superblock) -> std::io::Result<()> {
    let word = superblock.features.ro_compat.0 & !RoCompat::ORPHAN_PRESENT;
    mend(overlay, superblock, |raw| raw[0x64..0x68].copy_from_slice(&word.to_le_bytes()))
}

/// Changes the superblock, and its checksum with it.
fn mend(
    overlay: &Overlay,
    superblock: &Superblock,
    change: impl FnOnce(&mut [u8; superblock::SIZE]),
) -> std::io::Result<()> {
    let mut raw = superblock.raw;
    change(&mut raw);
    if superblock.has_checksums() {
        let checksum = Superblock::checksum_of(&raw);
        raw[0x3FC..].copy_from_slice(&checksum.to_le_bytes());
    }
    overlay.write_at(superblock::OFFSET, &raw)
}
