//! Encodes one transaction: the log blocks from which a set of block images can be replayed.

use super::superblock::{INCOMPAT_64BIT, INCOMPAT_CSUM_V2, INCOMPAT_CSUM_V3, JournalSuperblock};
use super::{COMMIT, DESCRIPTOR, HEADER, MAGIC, TAG_ESCAPED, TAG_LAST, TAG_SAME_UUID, crc32c, put_be32};

/// A block image in the transaction.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'a> {
    /// Its home block, a file-system block number.
    pub block: u64,
    /// Its content, one block.
    pub bytes: &'a [u8],
}

/// Offset of `h_chksum` in a commit block, and of `h_commit_sec`. Kernel documentation, ext4, "Commit Block".
const COMMIT_CHECKSUM: usize = 16;
const COMMIT_SECONDS: usize = 48;

/// Number of log blocks of a transaction with `images` block images: descriptors, images, commit.
#[must_use]
pub fn log_blocks(superblock: &JournalSuperblock, block_size: usize, images: usize) -> usize {
    let descriptors = images.div_ceil(tags_per_descriptor(superblock, block_size));
    images.saturating_add(descriptors).saturating_add(1)
}

fn tags_per_descriptor(superblock: &JournalSuperblock, block_size: usize) -> usize {
    let tail = if superblock.has_checksums() { 4 } else { 0 };
    // One UUID follows the first tag. A block has at least 1024 bytes: the difference cannot be negative.
    ((block_size - HEADER - tail - 16) / superblock.tag_size()).max(1)
}

/// The log of one transaction, block by block, from the log's first block on.
///
/// Never contains values: file contents are written to free blocks, and are not logged.
#[must_use]
pub fn encode(
    superblock: &JournalSuperblock,
    block_size: usize,
    sequence: u32,
    images: &[Logged<'_>],
    seconds: u64,
) -> Vec<Vec<u8>> {
    let mut log = Vec::with_capacity(log_blocks(superblock, block_size, images.len()));
    for group in images.chunks(tags_per_descriptor(superblock, block_size)) {
        let stored: Vec<(Vec<u8>, bool)> = group.iter().map(|image| escape(image.bytes)).collect();
        log.push(descriptor(superblock, block_size, sequence, group, &stored));
        log.extend(stored.into_iter().map(|(bytes, _)| bytes));
    }
    log.push(commit(superblock, block_size, sequence, seconds));
    log
}

/// A logged block that starts with the journal's magic would be mistaken for one of the journal's own blocks.
fn escape(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stored = bytes.to_vec();
    let escaped = stored.starts_with(&MAGIC.to_be_bytes());
    if escaped {
        stored[..4].fill(0);
    }
    (stored, escaped)
}

fn header(block_size: usize, kind: u32, sequence: u32) -> Vec<u8> {
    let mut block = vec![0; block_size];
    put_be32(&mut block, 0, MAGIC);
    put_be32(&mut block, 4, kind);
    put_be32(&mut block, 8, sequence);
    block
}

fn descriptor(
    superblock: &JournalSuperblock,
    block_size: usize,
    sequence: u32,
    images: &[Logged<'_>],
    stored: &[(Vec<u8>, bool)],
) -> Vec<u8> {
    let mut block = header(block_size, DESCRIPTOR, sequence);
    let mut at = HEADER;
    for (index, (image, (bytes, escaped))) in images.iter().zip(stored).enumerate() {
        let mut flags = 0;
        if *escaped {
            flags |= TAG_ESCAPED;
        }
        if index > 0 {
            flags |= TAG_SAME_UUID;
        }
        if index + 1 == images.len() {
            flags |= TAG_LAST;
        }
        put_tag(superblock, &mut block[at..], image.block, flags, block_checksum(superblock, sequence, bytes));
        at += superblock.tag_size();
        if index == 0 {
            block[at..at + 16].copy_from_slice(superblock.uuid());
            at += 16;
        }
    }
    if superblock.has_checksums() {
        let tail = block_size - 4;
        let checksum = crc32c(superblock.seed(), &block);
        put_be32(&mut block, tail, checksum);
    }
    block
}

/// The checksum of a stored block in its tag: over the sequence number and the block as stored in the log.
pub(super) fn block_checksum(superblock: &JournalSuperblock, sequence: u32, stored: &[u8]) -> u32 {
    crc32c(crc32c(superblock.seed(), &sequence.to_be_bytes()), stored)
}

/// Kernel, `journal_block_tag3_t` (version 3) and `journal_block_tag_t`.
fn put_tag(superblock: &JournalSuperblock, tag: &mut [u8], block: u64, flags: u32, checksum: u32) {
    let [high, low] = halves(block);
    put_be32(tag, 0, low);
    if superblock.incompat & INCOMPAT_CSUM_V3 != 0 {
        put_be32(tag, 4, flags);
        put_be32(tag, 8, high);
        put_be32(tag, 12, checksum);
        return;
    }
    if superblock.incompat & INCOMPAT_CSUM_V2 != 0 {
        let [.., third, fourth] = checksum.to_be_bytes();
        tag[4..6].copy_from_slice(&[third, fourth]);
    }
    let [.., third, fourth] = flags.to_be_bytes();
    tag[6..8].copy_from_slice(&[third, fourth]);
    if superblock.incompat & INCOMPAT_64BIT != 0 {
        put_be32(tag, 8, high);
    }
}

fn halves(block: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = block.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

fn commit(superblock: &JournalSuperblock, block_size: usize, sequence: u32, seconds: u64) -> Vec<u8> {
    let mut block = header(block_size, COMMIT, sequence);
    block[COMMIT_SECONDS..COMMIT_SECONDS + 8].copy_from_slice(&seconds.to_be_bytes());
    // The older `checksum` feature (version 1) accepts zeroes as "not used".
    if superblock.has_checksums() {
        let checksum = crc32c(superblock.seed(), &block);
        put_be32(&mut block, COMMIT_CHECKSUM, checksum);
    }
    block
}
