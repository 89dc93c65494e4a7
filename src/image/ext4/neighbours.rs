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
use super::reader::{Reader, usize_of};
use crate::image::error::ImageError;

/// Blocks that change hands or content, and the inodes that may claim them.
struct Touched<'a> {
    blocks: BTreeSet<u64>,
    expected: &'a Expected,
}

/// Checks the groups that blocks which `expected` takes, frees or changes lie in.
///
/// # Errors
/// [`ImageError::Refused`] when something else claims such a block, or an inode there is damaged.
pub(super) fn check(before: &Reader, fixed: &Fixed, expected: &Expected) -> Result<(), ImageError> {
    let mut touched = Touched { blocks: expected.taken.clone(), expected };
    let changed = expected.directories.values().map(|directory| &directory.before);
    for inode in expected.dropped.values().chain(changed) {
        for block in before.map(inode)?.blocks() {
            if !touched.blocks.insert(block) {
                return Err(damaged(format!("inode {} and something else use block {block}", inode.number)));
            }
        }
    }
    // Blocks of attributes are counted, and may be shared by files that are dropped together.
    touched.blocks.extend(&expected.freed);
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
    let size = usize::from(before.superblock.inode_size);
    let in_block = before.geometry.inodes_per_block;
    let mut block = Zeroizing::new(vec![0; usize_of(before.geometry.block_size)]);
    for first in (0..before.superblock.inodes_per_group).step_by(usize_of(in_block)) {
        let indexes = first..first.saturating_add(in_block).min(before.superblock.inodes_per_group);
        if !indexes.clone().any(|index| used.get(index)) {
            continue;
        }
        before.read_block(group.inode_table + u64::from(first / in_block), &mut block)?;
        for (index, raw) in indexes.zip(block.chunks_exact(size)) {
            // Reserved inodes are marked as used, but most of them are empty.
            if used.get(index) && le16(raw, 0x0) != 0 {
                // Cannot overflow: all inodes are counted by a u32.
                let inode = number * before.superblock.inodes_per_group + index + 1;
                check_inode(before, touched, inode, raw)?;
            }
        }
    }
    Ok(())
}

/// Checks one inode that is in use.
fn check_inode(before: &Reader, touched: &Touched, number: u32, raw: &[u8]) -> Result<(), ImageError> {
    if touched.expected.dropped.contains_key(&number) || touched.expected.directories.contains_key(&number) {
        return Ok(());
    }
    let unreadable = |error: ImageError| match error {
        ImageError::Corrupt(what) => damaged(what),
        other => other,
    };
    let inode = before.parse_inode(number, Zeroizing::new(raw.to_vec())).map_err(unreadable)?;
    let map = before.map(&inode).map_err(unreadable)?;
    let claims = |first: u64, length: u64| touched.blocks.range(first..first.saturating_add(length)).next();
    let content = map.extents.iter().find_map(|extent| claims(extent.physical, extent.length));
    let nodes = || map.nodes.iter().find_map(|node| claims(*node, 1));
    match content.or_else(nodes).or_else(|| claims(inode.xattr_block, 1)) {
        Some(block) => {
            Err(damaged(format!("inode {number} uses block {block}, which is marked as free or not its own")))
        }
        None => Ok(()),
    }
}
