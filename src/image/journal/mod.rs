//! The journal of ext4 (jbd2): its superblock, replay of what a crash left, and writing one transaction.
//!
//! Every integer on disk is big-endian here, unlike in the rest of ext4. Layout: kernel documentation,
//! filesystems/ext4, "Journal (jbd2)". Knows journal and file-system block numbers; no paths, no values' meaning.

pub mod replay;
pub mod superblock;
pub mod transaction;

/// `h_magic` of every journal block that is not data.
pub const MAGIC: u32 = 0xC03B_3998;

/// `h_blocktype` of a descriptor block.
pub const DESCRIPTOR: u32 = 1;
/// `h_blocktype` of a commit block.
pub const COMMIT: u32 = 2;
/// `h_blocktype` of a revoke block.
pub const REVOKE: u32 = 5;

/// `t_flags`: the stored block had its first four bytes zeroed, because they were the magic.
pub const TAG_ESCAPED: u32 = 1;
/// `t_flags`: no UUID follows this tag.
pub const TAG_SAME_UUID: u32 = 2;
/// `t_flags`: the last tag of its descriptor block.
pub const TAG_LAST: u32 = 8;

/// Bytes of the header that starts each descriptor, commit and revoke block: magic, type, sequence.
pub const HEADER: usize = 12;

/// A run of the journal inode's blocks: `count` blocks from journal block `logical` lie from `physical` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First journal block of the run.
    pub logical: u32,
    /// File-system block where it lies.
    pub physical: u64,
    /// Blocks in the run.
    pub count: u32,
}

/// Where the journal's blocks lie in the file system.
#[derive(Debug, Clone)]
pub struct Map {
    runs: Vec<Run>,
}

impl Map {
    /// Takes the runs of the journal inode, in the order of their journal blocks.
    #[must_use]
    pub fn new(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    /// The file-system block of journal block `block`; `None` beyond the journal, or in a hole.
    #[must_use]
    pub fn physical(&self, block: u32) -> Option<u64> {
        self.run_from(block).map(|(place, _)| place)
    }

    /// The file-system block of journal block `block`, and how many blocks follow each other there, itself among them: at
    /// least one. `None` beyond the journal, or in a hole.
    #[must_use]
    pub fn run_from(&self, block: u32) -> Option<(u64, u32)> {
        let after = self.runs.partition_point(|run| run.logical <= block);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let into = block.checked_sub(run.logical)?;
        let left = run.count.checked_sub(into).filter(|left| *left > 0)?;
        Some((run.physical.checked_add(u64::from(into))?, left))
    }

    /// True when file-system block `block` belongs to the journal.
    #[must_use]
    pub fn contains(&self, block: u64) -> bool {
        self.runs.iter().any(|run| block.checked_sub(run.physical).is_some_and(|into| into < u64::from(run.count)))
    }

    /// The runs, in the order of their journal blocks.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Blocks that are mapped.
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

/// Reads a big-endian u32; `None` past the end.
#[must_use]
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

/// Reads a big-endian u16; `None` past the end.
#[must_use]
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(field.try_into().ok()?))
}

/// Writes a big-endian u32 where the caller knows that there is room.
pub fn put_be32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_block_is_found_in_its_run() {
        let map =
            Map::new(vec![Run { logical: 0, physical: 100, count: 10 }, Run { logical: 10, physical: 500, count: 6 }]);
        for (block, want) in [(0, Some(100)), (9, Some(109)), (10, Some(500)), (15, Some(505)), (16, None)] {
            assert_eq!(map.physical(block), want, "{block}");
        }
        assert_eq!([map.run_from(3), map.run_from(15), map.run_from(16)], [Some((103, 7)), Some((505, 1)), None]);
        assert!(map.contains(505) && !map.contains(506) && !map.contains(99));
        assert_eq!(map.len(), 16);
    }

    #[test]
    fn the_checksum_is_the_kernels() {
        // crc32c of "123456789" is 0xE3069283 (RFC 3720, B.4's polynomial); the kernel's form is not inverted.
        assert_eq!(crc32c(!0, b"123456789"), !0xE306_9283);
    }
}
