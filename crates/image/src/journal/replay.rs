//! Replay: which blocks the committed transactions in a log bring, and in what order.
//!
//! As the kernel does it (jbd2 recovery): find the last whole transaction, gather the revoked blocks, then hand out the
//! rest. A log is hostile input: each of its blocks is looked at a fixed number of times.

use std::collections::HashMap;

use deaddrop_core::error::StorageError;

use super::superblock::{INCOMPAT_64BIT, INCOMPAT_ASYNC_COMMIT, INCOMPAT_CSUM_V3, JournalSuperblock};
use super::transaction::block_checksum;
use super::{
    COMMIT, DESCRIPTOR, HEADER, MAGIC, Map, REVOKE, TAG_ESCAPED, TAG_LAST, TAG_SAME_UUID, be16, be32, crc32c,
    fast_commit, put_be32,
};

/// What a replay found.
#[derive(Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Whole transactions in the log.
    pub transactions: u32,
    /// The sequence number that the next transaction must have: past a half-written one too.
    pub next_sequence: u32,
}

/// What waits in a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Whole transactions in the log.
    pub transactions: u32,
    /// Whole fast commits on top of them, as [`fast_commit::count`] gives them: they are not replayed.
    pub fast_commits: Option<u32>,
}

/// Reads one file-system block into the buffer.
pub type ReadBlock<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), StorageError>;

/// Takes one replayed block: where it belongs, and its content.
pub type PutBlock<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), StorageError>;

/// Replays the log through `put`; later transactions come later. Fast commits on top of them are not looked at: see
/// [`waiting`].
///
/// `fs_blocks` is the number of blocks of the file system; a tag beyond it is damage.
///
/// # Errors
/// When the log is damaged in a committed transaction, or uses what we do not replay. `put` may have been called by
/// then: it must write to an overlay.
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
            // A revoke of this transaction or a later one: the block became something else since.
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
    // One more than the last: a half-written transaction of that number may lie in the log (kernel, jbd2_journal_recover).
    Ok(Replayed { transactions, next_sequence: end.wrapping_add(1) })
}

/// Looks at what waits in a journal, and replays nothing.
///
/// `is_used_for_fast_commits`: the file system says that it has some. After it was frozen and thawed the kernel writes fast
/// commits while its journal's superblock still says that the log is empty, and that nothing else is there either.
///
/// # Errors
/// As [`replay`].
pub fn waiting(
    superblock: &JournalSuperblock,
    map: &Map,
    block_size: usize,
    is_used_for_fast_commits: bool,
    read: ReadBlock<'_>,
) -> Result<Waiting, StorageError> {
    let log = Log { superblock, map, block_size, fs_blocks: 0, read };
    let transactions = if superblock.start == 0 { 0 } else { log.scan()? };
    let next = superblock.sequence.wrapping_add(transactions);
    let fast_commits = match is_used_for_fast_commits || superblock.has_fast_commits() {
        true => fast_commit::count(superblock, map, block_size, next, read)?,
        false => None,
    };
    Ok(Waiting { transactions, fast_commits })
}

/// Sequence numbers wrap.
fn is_at_or_after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) < 1 << 31
}

fn damaged() -> StorageError {
    StorageError::corrupt("the journal is damaged inside a committed transaction; run e2fsck on the image first")
}

struct Tag {
    block: u64,
    flags: u32,
    /// Of the stored block: 32 bits in version 3, the low 16 in version 2.
    checksum: u32,
}

struct Log<'a> {
    superblock: &'a JournalSuperblock,
    map: &'a Map,
    block_size: usize,
    fs_blocks: u64,
    read: ReadBlock<'a>,
}

impl Log<'_> {
    fn block(&self, at: u32) -> Result<Vec<u8>, StorageError> {
        let physical = self.map.physical(at).ok_or_else(|| StorageError::corrupt("the journal's inode has a hole"))?;
        let mut block = vec![0; self.block_size];
        (self.read)(physical, &mut block)?;
        Ok(block)
    }

    /// `steps` blocks further in the ring. `steps` is at most the ring's length.
    fn advance(&self, at: u32, steps: u32) -> u32 {
        let length = self.superblock.log_blocks().max(1);
        let into = u64::from(at.saturating_sub(self.superblock.first)).saturating_add(u64::from(steps));
        let wrapped = into.checked_rem(u64::from(length)).unwrap_or(0);
        // OK to default: wrapped < length, a u32.
        self.superblock.first.saturating_add(u32::try_from(wrapped).unwrap_or(0))
    }

    /// Counts the whole transactions from the start of the log on.
    fn scan(&self) -> Result<u32, StorageError> {
        let mut whole: u32 = 0;
        let mut done: u32 = 0;
        // Set when a block of the transaction that is being read is damaged: fatal only if it was committed.
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
                            // Left of a longer log of earlier times. Else it is one that was committed: neither the
                            // kernel nor e2fsck goes on as if it had not been.
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
    fn each_block(
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
    fn tags(&self, block: &[u8]) -> Result<Vec<Tag>, StorageError> {
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
                // In version 2 the high half stands right behind the 8 bytes that every tag has.
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

    /// The blocks that a revoke block names. Kernel documentation, ext4, "Revocation Block".
    fn revokes(&self, block: &[u8], visit: &mut dyn FnMut(u64)) -> Result<(), StorageError> {
        let used = usize::try_from(be32(block, HEADER).ok_or_else(damaged)?).map_err(|_| damaged())?;
        let entry = if self.superblock.incompat & INCOMPAT_64BIT != 0 { 8 } else { 4 };
        let entries = block.get(HEADER + 4..used).ok_or_else(damaged)?;
        for bytes in entries.chunks_exact(entry) {
            visit(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)));
        }
        Ok(())
    }

    /// The content that a tag brings, from its place in the log.
    fn image(&self, at: u32, sequence: u32, tag: &Tag) -> Result<Vec<u8>, StorageError> {
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

    /// Descriptor and revoke blocks end with their checksum.
    fn has_good_tail(&self, block: &[u8]) -> bool {
        self.has_checksum_at(block, self.block_size.saturating_sub(4))
    }

    /// `transaction`: the crc32 of its descriptors and their blocks, for a journal with commit checksums (version 1),
    /// where zeroes stand for none. Kernel, `struct commit_header`.
    fn has_good_commit(&self, block: &[u8], transaction: u32) -> bool {
        if !self.superblock.has_commit_checksums() {
            return self.has_checksum_at(block, 16);
        }
        // `h_chksum_type` 1 is crc32, `h_chksum_size` its bytes.
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

/// `h_commit_sec`, 0x30, u64: when a transaction was committed, in seconds.
fn commit_time(block: &[u8]) -> u64 {
    block.get(48..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u64::from_be_bytes(*field))
}

/// One byte's worth of [`crc32_be`].
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

/// crc32, highest bit first, seeded and not inverted: what commit blocks of version 1 carry (kernel, `crc32_be`).
fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let [high, ..] = crc.to_be_bytes();
        // OK to index: a byte, into 256 entries.
        (crc << 8) ^ CRC32_BE[usize::from(high ^ byte)]
    })
}

fn header(block: &[u8]) -> Option<(u32, u32)> {
    (be32(block, 0)? == MAGIC).then_some(())?;
    Some((be32(block, 4)?, be32(block, 8)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Run;
    use super::super::superblock::{INCOMPAT_CSUM_V2, SIZE};
    use super::super::transaction::{self, Logged};
    use super::*;

    const BLOCK: usize = 1024;
    const LOG: u32 = 64;

    /// A journal of 64 blocks that lie at 1000 in the file system.
    fn superblock(incompat: u32) -> JournalSuperblock {
        superblock_with(0, incompat)
    }

    fn superblock_with(compat: u32, incompat: u32) -> JournalSuperblock {
        let mut raw = vec![0; SIZE];
        for (at, value) in
            [(0, MAGIC), (4, 4), (0x0C, 1024), (0x10, LOG), (0x14, 1), (0x18, 7), (0x24, compat), (0x28, incompat)]
        {
            put_be32(&mut raw, at, value);
        }
        raw[0x30..0x40].copy_from_slice(b"0123456789abcdef");
        raw[0x50] = 4;
        let checksum = crc32c(!0, &raw);
        put_be32(&mut raw, 0xFC, checksum);
        JournalSuperblock::parse(&raw, 1024, u64::from(LOG)).unwrap()
    }

    struct Disk(BTreeMap<u64, Vec<u8>>);

    impl Disk {
        /// Lays log blocks from journal block `at` on, around the ring's end.
        fn lay(&mut self, at: u32, log: Vec<Vec<u8>>) {
            for (index, block) in log.into_iter().enumerate() {
                let into = (u64::from(at) - 1 + u64::try_from(index).unwrap()) % u64::from(LOG - 1);
                self.0.insert(1000 + 1 + into, block);
            }
        }

        fn replay(&self, superblock: &JournalSuperblock) -> Result<(Replayed, BTreeMap<u64, Vec<u8>>), StorageError> {
            let map = Map::new(vec![Run { logical: 0, physical: 1000, count: LOG }], &[]).unwrap();
            let mut home = BTreeMap::new();
            let read = |block: u64, buffer: &mut [u8]| {
                buffer.fill(0);
                if let Some(bytes) = self.0.get(&block) {
                    buffer.copy_from_slice(bytes);
                }
                Ok(())
            };
            let replayed = replay(superblock, &map, BLOCK, 2000, &read, &mut |block, bytes| {
                home.insert(block, bytes.to_vec());
                Ok(())
            })?;
            Ok((replayed, home))
        }
    }

    fn images(first: u64, count: usize, fill: u8) -> Vec<(u64, Vec<u8>)> {
        (0..count).map(|index| (first + u64::try_from(index).unwrap(), vec![fill; BLOCK])).collect()
    }

    fn logged(images: &[(u64, Vec<u8>)]) -> Vec<Logged<'_>> {
        images.iter().map(|(block, bytes)| Logged { block: *block, bytes }).collect()
    }

    const KINDS: &[u32] = &[
        0,
        INCOMPAT_64BIT,
        INCOMPAT_CSUM_V2,
        INCOMPAT_CSUM_V2 | INCOMPAT_64BIT,
        INCOMPAT_CSUM_V3,
        INCOMPAT_CSUM_V3 | 2,
    ];

    #[test]
    fn what_was_encoded_is_replayed_in_every_layout_also_around_the_rings_end() {
        for incompat in KINDS {
            for start in [1, 50] {
                let mut superblock = superblock(*incompat);
                let mut disk = Disk(BTreeMap::new());
                let mut one = images(10, 20, 1);
                one[3].1[..4].copy_from_slice(&MAGIC.to_be_bytes());
                let log = transaction::encode(&superblock, BLOCK, 7, &logged(&one), 0);
                let next = start + u32::try_from(log.len()).unwrap();
                disk.lay(start, log);
                let two = images(15, 2, 2);
                disk.lay(next, transaction::encode(&superblock, BLOCK, 8, &logged(&two), 0));
                superblock.set_log(start, 7);
                let (replayed, home) = disk.replay(&superblock).unwrap();
                assert_eq!((replayed.transactions, replayed.next_sequence), (2, 10), "{incompat:#x}");
                let mut want: BTreeMap<u64, Vec<u8>> = one.into_iter().collect();
                want.extend(two);
                assert_eq!(home, want, "{incompat:#x} from {start}");
            }
        }
    }

    #[test]
    fn a_transaction_without_its_commit_is_not_replayed() {
        for incompat in KINDS {
            let mut superblock = superblock(*incompat);
            let mut disk = Disk(BTreeMap::new());
            let one = images(10, 3, 1);
            let mut log = transaction::encode(&superblock, BLOCK, 7, &logged(&one), 0);
            log.pop();
            disk.lay(1, log);
            superblock.set_log(1, 7);
            let (replayed, home) = disk.replay(&superblock).unwrap();
            assert_eq!((replayed.transactions, replayed.next_sequence, home.len()), (0, 8, 0), "{incompat:#x}");
        }
    }

    #[test]
    fn a_revoked_block_is_left_alone() {
        let mut superblock = superblock(INCOMPAT_64BIT);
        let mut disk = Disk(BTreeMap::new());
        let one = images(10, 2, 1);
        let log = transaction::encode(&superblock, BLOCK, 7, &logged(&one), 0);
        let next = 1 + u32::try_from(log.len()).unwrap();
        disk.lay(1, log);
        let mut revoke = vec![0; BLOCK];
        for (at, value) in [(0, MAGIC), (4, REVOKE), (8, 8), (12, 24), (20, 11)] {
            put_be32(&mut revoke, at, value);
        }
        let mut log = vec![revoke];
        log.extend(transaction::encode(&superblock, BLOCK, 8, &logged(&images(12, 1, 2)), 0));
        disk.lay(next, log);
        superblock.set_log(1, 7);
        let (replayed, home) = disk.replay(&superblock).unwrap();
        assert_eq!(replayed.transactions, 2);
        assert_eq!(home.keys().copied().collect::<Vec<_>>(), [10, 12], "11 is revoked by the later transaction");
    }

    #[test]
    fn checksums_of_commit_blocks_are_looked_at() {
        // Check value of CRC-32/MPEG-2.
        assert_eq!(crc32_be(!0, b"123456789"), 0x0376_E6E7);
        for (name, broken, want) in
            [("none", None, Some(1)), ("as it should be", Some(0), Some(1)), ("another", Some(1), None)]
        {
            let mut superblock = superblock_with(1, 0);
            let mut disk = Disk(BTreeMap::new());
            let mut log = transaction::encode(&superblock, BLOCK, 7, &logged(&images(10, 3, 1)), 0);
            if let Some(broken) = broken {
                let checksum = log[..4].iter().fold(!0, |crc, block| crc32_be(crc, block)) ^ broken;
                log[4][12..14].copy_from_slice(&[1, 4]);
                put_be32(&mut log[4], 16, checksum);
            }
            disk.lay(60, log);
            superblock.set_log(60, 7);
            assert_eq!(disk.replay(&superblock).ok().map(|(replayed, _)| replayed.transactions), want, "{name}");
        }
    }

    #[test]
    fn a_commit_block_whose_checksum_is_wrong_is_an_error_unless_it_is_older() {
        for (seconds, want) in [(50, None), (49, Some(1))] {
            let mut superblock = superblock(INCOMPAT_CSUM_V3);
            let mut disk = Disk(BTreeMap::new());
            let mut log = transaction::encode(&superblock, BLOCK, 7, &logged(&images(10, 1, 1)), 50);
            log.extend(transaction::encode(&superblock, BLOCK, 8, &logged(&images(10, 1, 2)), seconds));
            log.last_mut().unwrap()[100] ^= 1;
            disk.lay(1, log);
            superblock.set_log(1, 7);
            assert_eq!(disk.replay(&superblock).ok().map(|(replayed, _)| replayed.transactions), want, "{seconds}");
        }
    }

    #[test]
    fn damage_in_a_committed_transaction_is_an_error() {
        for incompat in [INCOMPAT_CSUM_V2, INCOMPAT_CSUM_V3] {
            for broken in [1_u64, 2] {
                let mut superblock = superblock(incompat);
                let mut disk = Disk(BTreeMap::new());
                let one = images(10, 3, 1);
                disk.lay(1, transaction::encode(&superblock, BLOCK, 7, &logged(&one), 0));
                disk.0.get_mut(&(1000 + broken)).unwrap()[600] ^= 1;
                superblock.set_log(1, 7);
                assert!(disk.replay(&superblock).is_err(), "{incompat:#x}, log block {broken}");
            }
        }
    }

    #[test]
    fn a_tag_that_leads_into_the_journal_or_out_of_the_file_system_is_an_error() {
        for target in [1000, 1063, 2000, u64::from(u32::MAX)] {
            let mut superblock = superblock(0);
            let mut disk = Disk(BTreeMap::new());
            disk.lay(1, transaction::encode(&superblock, BLOCK, 7, &logged(&images(target, 1, 1)), 0));
            superblock.set_log(1, 7);
            assert!(disk.replay(&superblock).is_err(), "{target}");
        }
    }
}
