use std::collections::BTreeMap;

use super::log::crc32_be;
use super::*;
use crate::journal::superblock::{INCOMPAT_64BIT, INCOMPAT_CSUM_V2, INCOMPAT_CSUM_V3, SIZE};
use crate::journal::transaction::{self, Logged};
use crate::journal::{MAGIC, Run, crc32c, put_be32};

const BLOCK: usize = 1024;
const LOG: u32 = 64;

/// A journal of 64 blocks at block 1000 of the file system.
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
    /// Writes log blocks from journal block `at` on, wrapping at the ring's end.
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

const KINDS: &[u32] =
    &[0, INCOMPAT_64BIT, INCOMPAT_CSUM_V2, INCOMPAT_CSUM_V2 | INCOMPAT_64BIT, INCOMPAT_CSUM_V3, INCOMPAT_CSUM_V3 | 2];

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
