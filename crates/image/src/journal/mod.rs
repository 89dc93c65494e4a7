//! The journal of ext4 (jbd2): its superblock, replay after a crash, and writing one transaction.
//!
//! Every integer on disk is big-endian here, unlike in the rest of ext4. Layout: kernel documentation,
//! filesystems/ext4, "Journal (jbd2)". Uses journal and file-system block numbers; no paths, and no file contents.

pub mod commit;
pub mod fast_commit;
pub mod replay;
pub mod superblock;
pub mod transaction;

use std::ops::Range;

pub use deaddrop_core::bytes::{be16, be32};
use deaddrop_core::error::StorageError;

/// `h_magic` of every journal block that is not data.
pub const MAGIC: u32 = 0xC03B_3998;

/// `h_blocktype` of a descriptor block.
pub const DESCRIPTOR: u32 = 1;
/// `h_blocktype` of a commit block.
pub const COMMIT: u32 = 2;
/// `h_blocktype` of a revoke block.
pub const REVOKE: u32 = 5;

/// `t_flags`: the first four bytes of the stored block were zeroed, because they were the magic.
pub const TAG_ESCAPED: u32 = 1;
/// `t_flags`: no UUID follows this tag.
pub const TAG_SAME_UUID: u32 = 2;
/// `t_flags`: the last tag of its descriptor block.
pub const TAG_LAST: u32 = 8;

/// Size of the header of descriptor, commit and revoke blocks, in bytes: magic, type, sequence.
pub const HEADER: usize = 12;

/// A contiguous range of the journal inode's blocks: `count` blocks from journal block `logical` on are at `physical`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First journal block of the run.
    pub logical: u32,
    /// The file-system block of the first one.
    pub physical: u64,
    /// Number of blocks in the run.
    pub count: u32,
}

/// The file-system blocks of the journal: those of the log, and those of the inode's map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Sorted by journal block.
    runs: Vec<Run>,
    /// All of its file-system blocks, sorted, without overlap.
    places: Vec<Range<u64>>,
}

impl Map {
    /// The map of a journal inode: its runs in the order of their journal blocks, and the file-system blocks of the
    /// inode's map (extent or indirect blocks).
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if a journal block is not mapped, or a block is used twice: writing one would damage
    /// the other.
    pub fn new(runs: Vec<Run>, nodes: &[u64]) -> Result<Self, StorageError> {
        let mut next = 0;
        for run in &runs {
            let follows = run.logical == next;
            let after = run.logical.checked_add(run.count).filter(|_| follows);
            next = after.ok_or_else(|| StorageError::corrupt("the journal's inode has a hole"))?;
        }
        let of_run = |run: &Run| run.physical..run.physical.saturating_add(u64::from(run.count));
        let of_node = |node: &u64| *node..node.saturating_add(1);
        let mut places: Vec<Range<u64>> = runs.iter().map(of_run).chain(nodes.iter().map(of_node)).collect();
        places.sort_by_key(|place| place.start);
        match places.iter().zip(places.iter().skip(1)).find(|(one, next)| one.end > next.start) {
            Some((_, next)) => Err(StorageError::Corrupt(format!("the journal uses block {} twice", next.start))),
            None => Ok(Self { runs, places }),
        }
    }

    /// The file-system block of journal block `block`; `None` beyond the journal.
    #[must_use]
    pub fn physical(&self, block: u32) -> Option<u64> {
        self.run_from(block).map(|(place, _)| place)
    }

    /// The file-system block of journal block `block`, and the number of consecutive blocks from it on: at least one.
    /// `None` beyond the journal, or in a hole.
    #[must_use]
    pub fn run_from(&self, block: u32) -> Option<(u64, u32)> {
        let after = self.runs.partition_point(|run| run.logical <= block);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let into = block.checked_sub(run.logical)?;
        let left = run.count.checked_sub(into).filter(|left| *left > 0)?;
        Some((run.physical.checked_add(u64::from(into))?, left))
    }

    /// True if file-system block `block` belongs to the journal: to its log, or to its map.
    #[must_use]
    pub fn contains(&self, block: u64) -> bool {
        self.first_within(block, 1).is_some()
    }

    /// The first of the `count` file-system blocks from `first` on that belongs to the journal.
    #[must_use]
    pub fn first_within(&self, first: u64, count: u64) -> Option<u64> {
        let place = self.places.get(self.places.partition_point(|place| place.end <= first))?;
        (place.start < first.saturating_add(count)).then(|| place.start.max(first))
    }

    /// All file-system blocks of the journal, in order: its log and its map.
    #[must_use]
    pub fn places(&self) -> &[Range<u64>] {
        &self.places
    }

    /// Number of mapped journal blocks.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// True for a journal without blocks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// crc32c as the kernel computes it: seeded, and not inverted at the end.
#[must_use]
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Writes a big-endian u32; the caller guarantees that there is room.
pub fn put_be32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_block_is_found_in_its_run() {
        let runs = [Run { logical: 0, physical: 500, count: 10 }, Run { logical: 10, physical: 100, count: 6 }];
        let map = Map::new(runs.to_vec(), &[106, 499]).unwrap();
        for (block, want) in [(0, Some(500)), (9, Some(509)), (10, Some(100)), (15, Some(105)), (16, None)] {
            assert_eq!(map.physical(block), want, "{block}");
        }
        for (block, want) in
            [(99, false), (100, true), (106, true), (107, false), (499, true), (509, true), (510, false)]
        {
            assert_eq!(map.contains(block), want, "{block}");
        }
        for (first, count, want) in [
            (0, 100, None),
            (0, 101, Some(100)),
            (104, 9, Some(104)),
            (107, 392, None),
            (107, 393, Some(499)),
            (510, u64::MAX, None),
        ] {
            assert_eq!(map.first_within(first, count), want, "{count} from {first}");
        }
        assert_eq!([map.run_from(3), map.run_from(15), map.run_from(16)], [Some((503, 7)), Some((105, 1)), None]);
        assert_eq!(map.len(), 16);
    }

    #[test]
    fn a_journal_with_a_hole_or_a_block_that_is_there_twice_is_damaged() {
        let map = |runs: &[(u32, u64, u32)], nodes: &[u64]| {
            let runs = runs.iter().map(|(logical, physical, count)| Run {
                logical: *logical,
                physical: *physical,
                count: *count,
            });
            Map::new(runs.collect(), nodes).map_err(|error| error.to_string())
        };
        assert!(map(&[(0, 100, 10), (10, 110, 1)], &[99, 111]).is_ok());
        for (name, runs) in [
            ("at its start", &[(1, 100, 10)][..]),
            ("in its midst", &[(0, 100, 10), (11, 200, 1)]),
            ("out of order", &[(0, 100, 10), (5, 200, 1)]),
            ("beyond all numbers", &[(0, 100, u32::MAX), (u32::MAX, 1 << 40, 2)]),
        ] {
            assert_eq!(map(runs, &[]).unwrap_err(), "the journal's inode has a hole", "{name}");
        }
        for (name, runs, nodes, block) in [
            ("two runs", &[(0, 100, 10), (10, 109, 1)][..], &[][..], 109),
            ("a run inside another", &[(0, 104, 1), (1, 100, 10)], &[], 104),
            ("log and map", &[(0, 100, 10)], &[105], 105),
            ("map", &[(0, 100, 10)], &[200, 200], 200),
        ] {
            assert_eq!(map(runs, nodes).unwrap_err(), format!("the journal uses block {block} twice"), "{name}");
        }
    }

    #[test]
    fn the_checksum_is_the_kernels() {
        // crc32c of "123456789" is 0xE3069283 (RFC 3720, B.4's polynomial); the kernel's form is not inverted.
        assert_eq!(crc32c(!0, b"123456789"), !0xE306_9283);
    }
}
