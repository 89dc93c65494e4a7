//! The blocks of a log: descriptor, revoke and commit blocks, their tags and their checksums.

use deaddrop_core::error::StorageError;

use super::ReadBlock;
use crate::journal::superblock::{INCOMPAT_64BIT, INCOMPAT_CSUM_V3, JournalSuperblock};
use crate::journal::transaction::block_checksum;
use crate::journal::{
    COMMIT, DESCRIPTOR, HEADER, MAGIC, Map, REVOKE, TAG_ESCAPED, TAG_LAST, TAG_SAME_UUID, be16, be32, crc32c, put_be32,
};

pub(super) fn damaged() -> StorageError {
    StorageError::corrupt("the journal is damaged inside a committed transaction; run e2fsck on the image first")
}

/// A tag of a descriptor block.
pub(super) struct Tag {
    pub block: u64,
    pub flags: u32,
    /// Of the stored block: 32 bits in version 3, the low 16 in version 2.
    pub checksum: u32,
}

/// A log, and how to read it.
pub(super) struct Log<'a> {
    pub superblock: &'a JournalSuperblock,
    pub map: &'a Map,
    pub block_size: usize,
    pub fs_blocks: u64,
    pub read: ReadBlock<'a>,
}

impl Log<'_> {
    fn block(&self, at: u32) -> Result<Vec<u8>, StorageError> {
        let physical = self.map.physical(at).ok_or_else(|| StorageError::corrupt("the journal's inode has a hole"))?;
        let mut block = vec![0; self.block_size];
        (self.read)(physical, &mut block)?;
        Ok(block)
    }

    /// `steps` blocks further in the ring. `steps` is at most the ring's length.
    pub fn advance(&self, at: u32, steps: u32) -> u32 {
        let length = self.superblock.log_blocks().max(1);
        let into = u64::from(at.saturating_sub(self.superblock.first)).saturating_add(u64::from(steps));
        let wrapped = into.checked_rem(u64::from(length)).unwrap_or(0);
        // OK to default: wrapped < length, a u32.
        self.superblock.first.saturating_add(u32::try_from(wrapped).unwrap_or(0))
    }

    /// Counts the complete transactions from the start of the log on.
    pub fn scan(&self) -> Result<u32, StorageError> {
        let mut whole: u32 = 0;
        let mut done: u32 = 0;
        // Set if a block of the transaction being read is damaged: an error only if the transaction was committed.
        let mut is_damaged = false;
        let mut checksum = !0;
        let mut last_time = 0;
        while done < self.superblock.log_blocks() {
            let block = self.block(self.advance(self.superblock.start, done))?;
            let sequence = self.superblock.sequence.wrapping_add(whole);
            let mut steps: u32 = 1;
            match header(&block) {
                Some((kind, found)) if found == sequence => match kind {
                    DESCRIPTOR => {
                        is_damaged |= !self.has_good_tail(&block);
                        let tags = u32::try_from(self.tags(&block)?.len()).map_err(|_| damaged())?;
                        steps = steps.checked_add(tags).ok_or_else(damaged)?;
                        if self.superblock.has_commit_checksums() {
                            checksum = crc32_be(checksum, &block);
                            for step in (1..steps).take_while(|step| *step < self.superblock.log_blocks()) {
                                let at = self.advance(self.superblock.start, done.saturating_add(step));
                                checksum = crc32_be(checksum, &self.block(at)?);
                            }
                        }
                    }
                    REVOKE => is_damaged |= !self.has_good_tail(&block),
                    COMMIT => {
                        let time = commit_time(&block);
                        if is_damaged || !self.has_good_commit(&block, checksum) {
                            // An older time: a leftover of an earlier, longer log. Otherwise it was committed, and
                            // neither the kernel nor e2fsck ignores that.
                            if time < last_time {
                                break;
                            }
                            return Err(damaged());
                        }
                        (last_time, checksum) = (time, !0);
                        whole = whole.checked_add(1).ok_or_else(damaged)?;
                    }
                    _ => break,
                },
                _ => break,
            }
            done = done.saturating_add(steps);
        }
        Ok(whole)
    }

    /// Visits each descriptor, revoke and commit block of the first `transactions`: sequence, type, block, place.
    pub fn each_block(
        &self,
        transactions: u32,
        mut visit: impl FnMut(u32, u32, &[u8], u32) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut at = self.superblock.start;
        let mut done: u32 = 0;
        while done < transactions {
            let block = self.block(at)?;
            let sequence = self.superblock.sequence.wrapping_add(done);
            let (kind, _) = header(&block).ok_or_else(damaged)?;
            visit(sequence, kind, &block, at)?;
            let mut steps: u32 = 1;
            match kind {
                COMMIT => done = done.saturating_add(1),
                DESCRIPTOR => {
                    let tags = u32::try_from(self.tags(&block)?.len()).map_err(|_| damaged())?;
                    steps = steps.checked_add(tags).ok_or_else(damaged)?;
                }
                _ => {}
            }
            at = self.advance(at, steps);
        }
        Ok(())
    }

    /// The tags of a descriptor block.
    pub fn tags(&self, block: &[u8]) -> Result<Vec<Tag>, StorageError> {
        let size = self.superblock.tag_size();
        let is_v3 = self.superblock.incompat & INCOMPAT_CSUM_V3 != 0;
        let is_64bit = self.superblock.incompat & INCOMPAT_64BIT != 0;
        let tail = if self.superblock.has_checksums() { 4 } else { 0 };
        let end = self.block_size.saturating_sub(tail);
        let mut tags = Vec::new();
        let mut at = HEADER;
        while at.saturating_add(size) <= end {
            let tag = block.get(at..).ok_or_else(damaged)?;
            let low = be32(tag, 0).ok_or_else(damaged)?;
            let (flags, checksum) = if is_v3 {
                (be32(tag, 4), be32(tag, 12))
            } else {
                (be16(tag, 6).map(u32::from), be16(tag, 4).map(u32::from))
            };
            let high = match (is_v3, is_64bit) {
                (_, false) => 0,
                // In version 2 the high half is directly after the 8 bytes that every tag has.
                (_, true) => be32(tag, 8).ok_or_else(damaged)?,
            };
            let (flags, checksum) = (flags.ok_or_else(damaged)?, checksum.ok_or_else(damaged)?);
            tags.push(Tag { block: (u64::from(high) << 32) | u64::from(low), flags, checksum });
            at = at.saturating_add(size);
            if flags & TAG_SAME_UUID == 0 {
                at = at.saturating_add(16);
            }
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        Ok(tags)
    }

    /// The blocks named by a revoke block. Kernel documentation, ext4, "Revocation Block".
    pub fn revokes(&self, block: &[u8], visit: &mut dyn FnMut(u64)) -> Result<(), StorageError> {
        let used = usize::try_from(be32(block, HEADER).ok_or_else(damaged)?).map_err(|_| damaged())?;
        let entry = if self.superblock.incompat & INCOMPAT_64BIT != 0 { 8 } else { 4 };
        let entries = block.get(HEADER + 4..used).ok_or_else(damaged)?;
        for bytes in entries.chunks_exact(entry) {
            visit(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)));
        }
        Ok(())
    }

    /// The content of a tag's block, from its place in the log.
    pub fn image(&self, at: u32, sequence: u32, tag: &Tag) -> Result<Vec<u8>, StorageError> {
        if tag.block >= self.fs_blocks || self.map.contains(tag.block) {
            return Err(damaged());
        }
        let mut stored = self.block(at)?;
        if self.superblock.has_checksums() {
            let is_v3 = self.superblock.incompat & INCOMPAT_CSUM_V3 != 0;
            let mask = if is_v3 { u32::MAX } else { 0xFFFF };
            if block_checksum(self.superblock, sequence, &stored) & mask != tag.checksum {
                return Err(damaged());
            }
        }
        if tag.flags & TAG_ESCAPED != 0 {
            put_be32(&mut stored, 0, MAGIC);
        }
        Ok(stored)
    }

    /// True if the checksum at the end of a descriptor or revoke block matches.
    fn has_good_tail(&self, block: &[u8]) -> bool {
        self.has_checksum_at(block, self.block_size.saturating_sub(4))
    }

    /// True if a commit block is intact. `transaction` is the crc32 of its descriptors and their blocks, for a journal
    /// with commit checksums (version 1), where zeroes mean none. Kernel, `struct commit_header`.
    fn has_good_commit(&self, block: &[u8], transaction: u32) -> bool {
        if !self.superblock.has_commit_checksums() {
            return self.has_checksum_at(block, 16);
        }
        // `h_chksum_type` 1 is crc32, `h_chksum_size` its length in bytes.
        match (block.get(12..14), be32(block, 16)) {
            (Some([0, 0]), Some(0)) => true,
            (Some([1, 4]), Some(found)) => found == transaction,
            _ => false,
        }
    }

    fn has_checksum_at(&self, block: &[u8], at: usize) -> bool {
        if !self.superblock.has_checksums() {
            return true;
        }
        let mut copy = block.to_vec();
        let found = be32(block, at);
        if let Some(field) = copy.get_mut(at..at.saturating_add(4)) {
            field.fill(0);
        }
        found == Some(crc32c(self.superblock.seed(), &copy))
    }
}

/// `h_commit_sec`, 0x30, u64: the time of the commit, in seconds since 1970.
fn commit_time(block: &[u8]) -> u64 {
    block.get(48..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u64::from_be_bytes(*field))
}

fn header(block: &[u8]) -> Option<(u32, u32)> {
    (be32(block, 0)? == MAGIC).then_some(())?;
    Some((be32(block, 4)?, be32(block, 8)?))
}

/// The lookup table of [`crc32_be`], by byte.
const CRC32_BE: [u32; 256] = {
    let mut table = [0; 256];
    let (mut index, mut byte): (usize, u32) = (0, 0);
    while index < 256 {
        let mut crc = byte << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 << 31 != 0 { (crc << 1) ^ 0x04C1_1DB7 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        (index, byte) = (index + 1, byte + 1);
    }
    table
};

/// crc32, highest bit first, seeded and not inverted: the checksum in commit blocks of version 1 (kernel, `crc32_be`).
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let [high, ..] = crc.to_be_bytes();
        // OK to index: a byte, into 256 entries.
        (crc << 8) ^ CRC32_BE[usize::from(high ^ byte)]
    })
}
