//! The journal's superblock: journal block 0.

use deaddrop_core::error::StorageError;

use super::{MAGIC, be32, crc32c, put_be32};

/// Size of the superblock, at the start of its block, in bytes.
pub const SIZE: usize = 1024;

/// Offsets of the fields. Kernel documentation, ext4, "Journal (jbd2)", "Super Block".
mod at {
    pub const BLOCKTYPE: usize = 0x04;
    pub const BLOCKSIZE: usize = 0x0C;
    pub const MAXLEN: usize = 0x10;
    pub const FIRST: usize = 0x14;
    pub const SEQUENCE: usize = 0x18;
    pub const START: usize = 0x1C;
    pub const ERRNO: usize = 0x20;
    pub const FEATURE_COMPAT: usize = 0x24;
    pub const FEATURE_INCOMPAT: usize = 0x28;
    pub const FEATURE_RO_COMPAT: usize = 0x2C;
    pub const UUID: usize = 0x30;
    pub const USERS: usize = 0x40;
    pub const CHECKSUM_TYPE: usize = 0x50;
    pub const FC_BLOCKS: usize = 0x54;
    pub const CHECKSUM: usize = 0xFC;
}

/// `s_feature_compat`: commit blocks have a crc32 of their transaction.
const COMPAT_CHECKSUM: u32 = 0x1;
/// `s_feature_incompat`: the log may contain revoke blocks.
pub const INCOMPAT_REVOKE: u32 = 0x1;
/// `s_feature_incompat`: block numbers in tags have 64 bits.
pub const INCOMPAT_64BIT: u32 = 0x2;
/// `s_feature_incompat`: the commit block may be written before the log blocks it commits.
pub const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
/// `s_feature_incompat`: checksums, version 2.
pub const INCOMPAT_CSUM_V2: u32 = 0x8;
/// `s_feature_incompat`: checksums, version 3.
pub const INCOMPAT_CSUM_V3: u32 = 0x10;
/// `s_feature_incompat`: part of the journal is a fast-commit area.
pub const INCOMPAT_FAST_COMMIT: u32 = 0x20;

/// crc32c, the only `s_checksum_type` of checksums version 2 and 3.
const CHECKSUM_CRC32C: u8 = 4;

/// The journal's superblock, decoded and checked.
#[derive(Debug, Clone)]
pub struct JournalSuperblock {
    raw: Box<[u8]>,
    /// Blocks in the journal, `s_maxlen`; the fast-commit area is at its end.
    pub blocks: u32,
    /// First block of the log, `s_first`.
    pub first: u32,
    /// First transaction expected in the log, `s_sequence`.
    pub sequence: u32,
    /// Journal block where the log starts, `s_start`; 0: the log is empty.
    pub start: u32,
    /// `s_feature_incompat`; 0 in a version 1 superblock.
    pub incompat: u32,
    /// True if part of the journal is a fast-commit area.
    has_fast_commits: bool,
    /// True with the older checksum feature: a crc32 in each commit block.
    has_commit_checksums: bool,
    uuid: [u8; 16],
}

impl JournalSuperblock {
    /// Decodes the first [`SIZE`] bytes of journal block 0.
    ///
    /// `block_size` is the file system's, in bytes; `mapped` the number of whole blocks of the journal's inode.
    ///
    /// # Errors
    /// If it is damaged, records an error, or uses an unknown feature.
    pub fn parse(block: &[u8], block_size: u32, mapped: u64) -> Result<Self, StorageError> {
        let short = || StorageError::corrupt("the journal's superblock is cut off");
        let raw: Box<[u8]> = block.get(..SIZE).ok_or_else(short)?.into();
        let field = |at| be32(&raw, at).ok_or_else(short);
        let version = field(at::BLOCKTYPE)?;
        if field(0)? != MAGIC || !matches!(version, 3 | 4) {
            return Err(StorageError::corrupt("the journal has no superblock"));
        }
        let newer = [at::FEATURE_COMPAT, at::FEATURE_INCOMPAT, at::FEATURE_RO_COMPAT, at::USERS];
        if version == 3 && newer.iter().any(|at| field_of(&raw, *at) != 0) {
            // The kernel ignores them, and e2fsck clears them.
            return Err(StorageError::corrupt("the journal's superblock has fields that its version does not have"));
        }
        let (compat, incompat, ro_compat) = match version {
            3 => (0, 0, 0),
            _ => (field(at::FEATURE_COMPAT)?, field(at::FEATURE_INCOMPAT)?, field(at::FEATURE_RO_COMPAT)?),
        };
        let known = INCOMPAT_REVOKE
            | INCOMPAT_64BIT
            | INCOMPAT_ASYNC_COMMIT
            | INCOMPAT_CSUM_V2
            | INCOMPAT_CSUM_V3
            | INCOMPAT_FAST_COMMIT;
        if incompat & !known != 0 || ro_compat != 0 || compat & !COMPAT_CHECKSUM != 0 {
            return Err(StorageError::unsupported(
                format!("the journal has unknown features ({compat:#x}, {incompat:#x}, {ro_compat:#x})"),
                "this image is newer than this deaddrop",
            ));
        }
        if version == 4 && field(at::USERS)? > 1 {
            // e2fsck takes it for an external journal of several file systems, and refuses it.
            return Err(StorageError::unsupported(
                "the journal has more than one user",
                "run e2fsck -f on the image first",
            ));
        }
        let uuid = raw[at::UUID..at::UUID + 16].try_into().map_err(|_| short())?;
        let parsed = Self {
            blocks: field(at::MAXLEN)?,
            first: field(at::FIRST)?,
            sequence: field(at::SEQUENCE)?,
            start: field(at::START)?,
            incompat,
            has_fast_commits: incompat & INCOMPAT_FAST_COMMIT != 0,
            has_commit_checksums: compat & COMPAT_CHECKSUM != 0,
            uuid,
            raw,
        };
        if parsed.has_checksums() {
            if incompat & INCOMPAT_CSUM_V2 != 0 && incompat & INCOMPAT_CSUM_V3 != 0 {
                return Err(StorageError::corrupt("the journal claims checksums of version 2 and of version 3"));
            }
            if parsed.has_commit_checksums {
                return Err(StorageError::corrupt("the journal claims checksums of version 1 and of a later one"));
            }
            if parsed.raw[at::CHECKSUM_TYPE] != CHECKSUM_CRC32C {
                return Err(StorageError::corrupt("the journal's checksum type is not crc32c"));
            }
            if field_of(&parsed.raw, at::CHECKSUM) != parsed.checksum() {
                return Err(StorageError::corrupt("the journal superblock's checksum is wrong"));
            }
        }
        let sane = field_of(&parsed.raw, at::BLOCKSIZE) == block_size
            && u64::from(parsed.blocks) <= mapped
            && parsed.first >= 1
            && parsed.first < parsed.end()
            && (parsed.start == 0 || (parsed.first..parsed.end()).contains(&parsed.start));
        if !sane {
            return Err(StorageError::corrupt("the journal's superblock contradicts itself or the journal's inode"));
        }
        if field_of(&parsed.raw, at::ERRNO) != 0 {
            return Err(StorageError::refused(
                "the journal records an error of an earlier mount",
                "run e2fsck -p first",
            ));
        }
        Ok(parsed)
    }

    /// One past the last block of the log: `s_maxlen`, or, with a fast-commit area, that many blocks less (kernel,
    /// `jbd2_journal_load`: `j_last`).
    #[must_use]
    pub fn end(&self) -> u32 {
        if self.has_fast_commits { self.blocks.saturating_sub(self.fast_commit_blocks()) } else { self.blocks }
    }

    /// Number of blocks that the log can contain.
    #[must_use]
    pub fn log_blocks(&self) -> u32 {
        self.end().saturating_sub(self.first)
    }

    /// True if readers must read the fast-commit area. The kernel clears the mark with each empty log.
    #[must_use]
    pub fn has_fast_commits(&self) -> bool {
        self.has_fast_commits
    }

    /// The location of the fast-commit area, even if unused: its first block is not the one after the log but the next
    /// (kernel, `jbd2_journal_load`: `j_fc_first` is `j_last` + 1).
    #[must_use]
    pub fn fast_commit_area(&self) -> std::ops::Range<u32> {
        let before = self.blocks.saturating_sub(self.fast_commit_blocks());
        before.saturating_add(1).min(self.blocks)..self.blocks
    }

    /// `s_num_fc_blks`; 0 means the default of 256 blocks (kernel, `jbd2_journal_get_num_fc_blks`).
    fn fast_commit_blocks(&self) -> u32 {
        match field_of(&self.raw, at::FC_BLOCKS) {
            0 => 256,
            blocks => blocks,
        }
    }

    /// True if commit blocks have a crc32 of their transaction (version 1), or zeroes instead.
    #[must_use]
    pub fn has_commit_checksums(&self) -> bool {
        self.has_commit_checksums
    }

    /// True if blocks of the log have checksums (version 2 or 3).
    #[must_use]
    pub fn has_checksums(&self) -> bool {
        self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0
    }

    /// True if tags have 64-bit block numbers, instead of 32-bit ones.
    #[must_use]
    pub fn has_wide_tags(&self) -> bool {
        self.incompat & INCOMPAT_64BIT != 0
    }

    /// The seed of all checksums in the log.
    #[must_use]
    pub fn seed(&self) -> u32 {
        crc32c(!0, &self.uuid)
    }

    /// The UUID in the first tag of each descriptor.
    #[must_use]
    pub fn uuid(&self) -> &[u8; 16] {
        &self.uuid
    }

    /// Size of one tag in a descriptor block, without a UUID, in bytes (kernel, `journal_tag_bytes`).
    #[must_use]
    pub fn tag_size(&self) -> usize {
        if self.incompat & INCOMPAT_CSUM_V3 != 0 {
            return 16;
        }
        let checksum = if self.incompat & INCOMPAT_CSUM_V2 != 0 { 2 } else { 0 };
        let high = if self.incompat & INCOMPAT_64BIT != 0 { 4 } else { 0 };
        8 + checksum + high
    }

    /// Sets the start of the log (0: empty) and the sequence number of its first transaction, and updates the checksum.
    pub fn set_log(&mut self, start: u32, sequence: u32) {
        self.start = start;
        self.sequence = sequence;
        put_be32(&mut self.raw, at::START, start);
        put_be32(&mut self.raw, at::SEQUENCE, sequence);
        if self.has_checksums() {
            let checksum = self.checksum();
            put_be32(&mut self.raw, at::CHECKSUM, checksum);
        }
    }

    /// The [`SIZE`] bytes as stored.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.raw
    }

    fn checksum(&self) -> u32 {
        let mut copy = self.raw.clone();
        put_be32(&mut copy, at::CHECKSUM, 0);
        crc32c(!0, &copy)
    }
}

/// A field of a complete superblock.
fn field_of(raw: &[u8], at: usize) -> u32 {
    // OK to default: `raw` has SIZE bytes, and every offset of `at` ends before.
    be32(raw, at).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A journal of `blocks` blocks of 1 KiB, `area` of them for fast commits.
    pub fn with_fast_commits(blocks: u32, area: u32) -> JournalSuperblock {
        let mut raw = good();
        let incompat = INCOMPAT_CSUM_V3 | INCOMPAT_FAST_COMMIT;
        for (at, value) in
            [(at::BLOCKSIZE, 1024), (at::MAXLEN, blocks), (at::FEATURE_INCOMPAT, incompat), (at::FC_BLOCKS, area)]
        {
            put_be32(&mut raw, at, value);
        }
        JournalSuperblock::parse(&sealed(raw), 1024, u64::from(blocks)).unwrap()
    }

    /// A valid version 2 superblock: 1024 blocks of 4096 bytes, checksums version 3.
    fn good() -> Vec<u8> {
        let mut raw = vec![0; SIZE];
        for (at, value) in [
            (0, MAGIC),
            (at::BLOCKTYPE, 4),
            (at::BLOCKSIZE, 4096),
            (at::MAXLEN, 1024),
            (at::FIRST, 1),
            (at::SEQUENCE, 7),
            (at::FEATURE_INCOMPAT, INCOMPAT_CSUM_V3 | INCOMPAT_64BIT),
        ] {
            put_be32(&mut raw, at, value);
        }
        raw[at::CHECKSUM_TYPE] = CHECKSUM_CRC32C;
        sealed(raw)
    }

    fn sealed(mut raw: Vec<u8>) -> Vec<u8> {
        put_be32(&mut raw, at::CHECKSUM, 0);
        let checksum = crc32c(!0, &raw);
        put_be32(&mut raw, at::CHECKSUM, checksum);
        raw
    }

    #[test]
    fn each_broken_field_is_refused() {
        assert!(JournalSuperblock::parse(&good(), 4096, 1024).is_ok());
        for (name, at, value) in [
            ("magic", 0, 1),
            ("type", at::BLOCKTYPE, 1),
            ("version 1 with features", at::BLOCKTYPE, 3),
            ("block size", at::BLOCKSIZE, 1024),
            ("longer than its inode", at::MAXLEN, 1025),
            ("no blocks", at::MAXLEN, 0),
            ("first", at::FIRST, 0),
            ("first beyond", at::FIRST, 1024),
            ("start beyond", at::START, 1024),
            ("errno", at::ERRNO, 5),
            ("several users", at::USERS, 2),
            ("unknown incompat", at::FEATURE_INCOMPAT, 0x40),
            ("unknown ro_compat", at::FEATURE_RO_COMPAT, 1),
            ("two checksum versions", at::FEATURE_INCOMPAT, INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3),
            ("checksums of version 1 too", at::FEATURE_COMPAT, COMPAT_CHECKSUM),
            ("fast-commit area larger than all", at::FC_BLOCKS, u32::MAX),
        ] {
            let mut raw = good();
            if name.starts_with("fast") {
                put_be32(&mut raw, at::FEATURE_INCOMPAT, INCOMPAT_CSUM_V3 | INCOMPAT_FAST_COMMIT);
            }
            put_be32(&mut raw, at, value);
            assert!(JournalSuperblock::parse(&sealed(raw), 4096, 1024).is_err(), "{name}");
        }
        let mut torn = good();
        torn[at::SEQUENCE] ^= 1;
        assert!(JournalSuperblock::parse(&torn, 4096, 1024).is_err(), "checksum");
    }

    #[test]
    fn the_log_ends_before_the_fast_commit_area() {
        // Kernel, jbd2_journal_load: j_fc_last = s_maxlen, j_last = j_fc_last - blocks, j_fc_first = j_last + 1.
        for (area, end, first) in [(64, 4032, 4033), (0, 3840, 3841), (1, 4095, 4096)] {
            let superblock = with_fast_commits(4096, area);
            assert_eq!(superblock.end(), end, "{area}");
            assert_eq!(superblock.fast_commit_area(), first..4096, "{area}");
        }
    }

    #[test]
    fn a_changed_log_keeps_the_checksum_right() {
        let mut superblock = JournalSuperblock::parse(&good(), 4096, 1024).unwrap();
        superblock.set_log(1, 9);
        let again = JournalSuperblock::parse(superblock.bytes(), 4096, 1024).unwrap();
        assert_eq!((again.start, again.sequence), (1, 9));
    }

    #[test]
    fn tags_have_the_kernels_sizes() {
        for (incompat, want) in [
            (0, 8),
            (INCOMPAT_64BIT, 12),
            (INCOMPAT_CSUM_V2, 10),
            (INCOMPAT_CSUM_V2 | INCOMPAT_64BIT, 14),
            (INCOMPAT_CSUM_V3, 16),
            (INCOMPAT_CSUM_V3 | INCOMPAT_64BIT, 16),
        ] {
            let mut superblock = JournalSuperblock::parse(&good(), 4096, 1024).unwrap();
            superblock.incompat = incompat;
            assert_eq!(superblock.tag_size(), want, "{incompat:#x}");
        }
    }
}
