//! A look at the neighbours of what is written: no other inode that stands in the same groups, and no structure of the file
//! system itself, may claim a block that a new file got, that an old one gave back, or that a changed directory has. On a
//! damaged file system the bitmap may call a block free that a file still uses, or two files may share one.
//!
//! Costs the inode tables of the groups that such blocks lie in: a few megabytes, however large the image is.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::bytes::le16;
use super::expect::Expected;
use super::fixed::{Fixed, damaged};
use super::group::INODE_UNINIT;
use super::mapping::BlockMap;
use super::reader::{Reader, usize_of};
use crate::image::error::ImageError;

/// Blocks of an inode table that are read at a time.
const RUN: u32 = 32;

/// Blocks that change hands or content, and the inodes that may claim them.
struct Touched<'a> {
    /// In order.
    blocks: Vec<u64>,
    expected: &'a Expected,
}

impl Touched<'_> {
    /// The first of them among the `length` blocks from `first` on.
    fn among(&self, first: u64, length: u64) -> Option<u64> {
        let from = self.blocks.partition_point(|block| *block < first);
        self.blocks.get(from).copied().filter(|block| *block < first.saturating_add(length))
    }
}

/// Checks the groups that blocks which `expected` takes, frees or changes lie in.
///
/// # Errors
/// [`ImageError::Refused`] when something else claims such a block, or an inode there is damaged.
pub(super) fn check(before: &Reader, fixed: &Fixed, expected: &Expected) -> Result<(), ImageError> {
    let mut blocks = expected.taken.clone();
    let changed = expected.directories.values().map(|directory| &directory.before);
    for inode in expected.dropped.values().chain(changed) {
        for block in before.map(inode)?.blocks() {
            if !blocks.insert(block) {
                return Err(damaged(format!("inode {} and something else use block {block}", inode.number)));
            }
        }
    }
    // Blocks of attributes are counted, and may be shared by files that are dropped together.
    blocks.extend(&expected.freed);
    let touched = Touched { blocks: blocks.into_iter().collect(), expected };
    let mut groups = BTreeSet::new();
    for block in &touched.blocks {
        if let Some(what) = fixed.at(*block) {
            return Err(damaged(format!("a file or directory uses block {block}, which belongs to {what}")));
        }
        groups.insert(before.group_of_block(*block)?);
    }
    groups.into_iter().try_for_each(|group| check_group(before, &touched, group))
}

/// Checks every inode of one group that is in use.
fn check_group(before: &Reader, touched: &Touched, number: u32) -> Result<(), ImageError> {
    let group = before.group(number)?;
    if group.flags & INODE_UNINIT != 0 {
        return Ok(());
    }
    let used = before.inode_bitmap(&group)?;
    let (in_block, all) = (before.geometry.inodes_per_block, before.superblock.inodes_per_group);
    let holds_one = |block: u32| {
        let first = block.saturating_mul(in_block);
        (first..first.saturating_add(in_block).min(all)).any(|index| used.get(index))
    };
    let mut buffer = Zeroizing::new(vec![0; usize_of(RUN * before.geometry.block_size)]);
    // One inode's bytes, and its map: kept, since there are thousands.
    let mut bytes = Zeroizing::new(Vec::new());
    let mut map = BlockMap::default();
    let mut block = 0;
    while block < before.geometry.inode_table_blocks {
        let run = (block..before.geometry.inode_table_blocks).take(usize_of(RUN)).take_while(|block| holds_one(*block));
        let count = u32::try_from(run.count()).unwrap_or(RUN);
        // OK to index: at most RUN blocks, as in the buffer.
        let table = &mut buffer[..usize_of(count * before.geometry.block_size)];
        before.read_blocks(group.inode_table + u64::from(block), table)?;
        let indexes = block.saturating_mul(in_block)..all;
        for (index, raw) in indexes.zip(table.chunks_exact(usize::from(before.superblock.inode_size))) {
            // Reserved inodes are marked as used, but most of them are empty.
            if used.get(index) && le16(raw, 0x0) != 0 {
                bytes.clear();
                bytes.extend_from_slice(raw);
                // Cannot overflow: all inodes are counted by a u32.
                bytes = check_inode(before, touched, number * all + index + 1, bytes, &mut map)?;
            }
        }
        // The block behind the run is the run's end: it holds none, or comes next.
        block = block.saturating_add(count.max(1));
    }
    Ok(())
}

/// Checks one inode that is in use, and gives its bytes back.
fn check_inode(
    before: &Reader,
    touched: &Touched,
    number: u32,
    raw: Zeroizing<Vec<u8>>,
    map: &mut BlockMap,
) -> Result<Zeroizing<Vec<u8>>, ImageError> {
    if touched.expected.dropped.contains_key(&number) || touched.expected.directories.contains_key(&number) {
        return Ok(raw);
    }
    let unreadable = |error: ImageError| match error {
        ImageError::Corrupt(what) => damaged(what),
        other => other,
    };
    let inode = before.parse_inode(number, raw).map_err(unreadable)?;
    before.map_into(&inode, map).map_err(unreadable)?;
    let content = map.extents.iter().find_map(|extent| touched.among(extent.physical, extent.length));
    let nodes = || map.nodes.iter().find_map(|node| touched.among(*node, 1));
    match content.or_else(nodes).or_else(|| touched.among(inode.xattr_block, 1)) {
        Some(block) => {
            Err(damaged(format!("inode {number} uses block {block}, which is marked as free or not its own")))
        }
        None => Ok(inode.raw),
    }
}
