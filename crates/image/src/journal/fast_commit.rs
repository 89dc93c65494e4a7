//! Fast commits: written by the kernel after the log since its last transaction, one per fsync.
//!
//! The area is a list of tags (a tag and a length, u16 each, then the value; little-endian, unlike the rest of the
//! journal): a head that names the preceding transaction, then changes, then, for each fast commit, a tail with a
//! checksum. Kernel, fs/ext4/fast_commit.h and `ext4_fc_replay_scan`. They are not applied here; see docs/ext4.md for
//! the reason.

use deaddrop_core::error::StorageError;

use super::superblock::JournalSuperblock;
use super::{Map, crc32c};
use crate::journal::replay::ReadBlock;

/// `EXT4_FC_TAG_TAIL`: the number of the transaction, and a checksum of everything since the previous tail.
const TAIL: u16 = 8;
/// `EXT4_FC_TAG_HEAD`: required features, and the number of the transaction.
const HEAD: u16 = 9;
/// Size of a tag and its length, in bytes.
const BASE: usize = 4;

/// The number of complete fast commits for transaction `next`, the one that would follow the last complete one. `None`
/// if the area has none for it, not even an incomplete one; 0 if the first one is truncated or damaged.
///
/// # Errors
/// If the area cannot be read.
pub fn count(
    superblock: &JournalSuperblock,
    map: &Map,
    block_size: usize,
    next: u32,
    read: ReadBlock<'_>,
) -> Result<Option<u32>, StorageError> {
    let mut scan = Scan { next, whole: 0, checksum: 0 };
    let mut block = vec![0; block_size];
    for (index, at) in superblock.fast_commit_area().enumerate() {
        let physical = map.physical(at).ok_or_else(|| StorageError::corrupt("the journal's inode has a hole"))?;
        read(physical, &mut block)?;
        // A head of another transaction is a leftover: the kernel never clears the area.
        if index == 0 && (le16(&block, 0) != Some(HEAD) || le32(&block, BASE + 4) != Some(next)) {
            return Ok(None);
        }
        if !scan.block(&block) {
            break;
        }
    }
    Ok(Some(scan.whole))
}

struct Scan {
    next: u32,
    whole: u32,
    /// Checksum of all tags since the previous tail.
    checksum: u32,
}

impl Scan {
    /// Reads the tags of one block; false if everything after it is invalid.
    fn block(&mut self, block: &[u8]) -> bool {
        let mut rest = block;
        while let (Some(tag), Some(length)) = (le16(rest, 0), le16(rest, 2)) {
            let end = BASE + usize::from(length);
            let Some(whole) = rest.get(..end) else { return false };
            let is_good = match tag {
                // ADD_RANGE, DEL_RANGE, CREAT, LINK, UNLINK, INODE, PAD.
                1..=7 => {
                    self.checksum = crc32c(self.checksum, whole);
                    true
                }
                TAIL => self.tail(whole),
                HEAD => {
                    self.checksum = crc32c(self.checksum, whole);
                    // No required feature is defined so far.
                    le32(whole, BASE) == Some(0) && le32(whole, BASE + 4) == Some(self.next)
                }
                _ => false,
            };
            if !is_good {
                return false;
            }
            rest = rest.get(end..).unwrap_or_default();
        }
        true
    }

    fn tail(&mut self, tag: &[u8]) -> bool {
        let Some(covered) = tag.get(..BASE + 4) else { return false };
        let checksum = crc32c(self.checksum, covered);
        self.checksum = 0;
        let is_good = le32(tag, BASE) == Some(self.next) && le32(tag, BASE + 4) == Some(checksum);
        self.whole = self.whole.saturating_add(u32::from(is_good));
        is_good
    }
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|field| u16::from_le_bytes(*field))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|field| u32::from_le_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::super::Run;
    use super::super::superblock::tests::with_fast_commits;
    use super::*;

    const BLOCK: usize = 1024;

    /// The fast commits of transaction 9 in the area with these blocks.
    fn found(area: &[Vec<u8>]) -> Option<u32> {
        let superblock = with_fast_commits(2048, 8);
        assert_eq!(superblock.fast_commit_area(), 2041..2048, "as the kernel's j_fc_first and j_fc_last");
        let map = Map::new(vec![Run { logical: 0, physical: 100, count: 2048 }], &[]).unwrap();
        let read = |block: u64, bytes: &mut [u8]| {
            let index = usize::try_from(block - 100 - 2041).unwrap();
            bytes.fill(0);
            if let Some(content) = area.get(index) {
                bytes.copy_from_slice(content);
            }
            Ok(())
        };
        count(&superblock, &map, BLOCK, 9, &read).unwrap()
    }

    fn tag(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        bytes.extend(value);
        bytes
    }

    fn head(transaction: u32) -> Vec<u8> {
        tag(HEAD, &[[0; 4], transaction.to_le_bytes()].concat())
    }

    /// Ends the commit that starts at `from`; the tail pads the block.
    fn tail(mut block: Vec<u8>, from: usize, transaction: u32) -> Vec<u8> {
        let length = BLOCK - block.len() - BASE;
        let start = block.len();
        block.extend(tag(TAIL, &vec![0; length]));
        block[start + 4..start + 8].copy_from_slice(&transaction.to_le_bytes());
        let checksum = crc32c(0, &block[from..start + 8]);
        block[start + 8..start + 12].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    #[test]
    fn whole_fast_commits_of_the_next_transaction_are_counted() {
        let first = || tail([head(9), tag(3, &[1; 20])].concat(), 0, 9);
        let second = || tail(tag(6, &[2; 200]), 0, 9);
        let broken = |mut block: Vec<u8>, at: usize| {
            block[at] ^= 1;
            block
        };
        for (name, area, want) in [
            ("nothing", vec![], None),
            ("left of an earlier transaction", vec![tail(head(8), 0, 8), second()], None),
            ("no head", vec![second()], None),
            ("one", vec![first()], Some(1)),
            ("two", vec![first(), second()], Some(2)),
            ("a later one cut off", vec![first(), broken(second(), 100)], Some(1)),
            ("the first cut off", vec![broken(first(), 20), second()], Some(0)),
            ("a tail of another transaction", vec![first(), tail(tag(6, &[2; 200]), 0, 8)], Some(1)),
            ("over two blocks", vec![[head(9), tag(7, &[0; 1008])].concat(), vec![0; BLOCK]], Some(0)),
            ("features", vec![tail(tag(HEAD, &[1, 0, 0, 0, 9, 0, 0, 0]), 0, 9)], Some(0)),
            ("a length beyond the block", vec![[head(9), vec![3, 0, 255, 255], vec![0; 1008]].concat()], Some(0)),
        ] {
            assert_eq!(found(&area), want, "{name}");
        }
        assert_eq!(found(&vec![first(); 1]), Some(1));
    }
}
