//! A look at the neighbours of what is written: no inode that stands in the same groups may claim a block that a new file
//! got. On a damaged file system the bitmap may call a block free that a file still uses.
//!
//! Costs the inode tables of the groups that new blocks lie in: a few megabytes, however large the image is.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::bytes::le16;
use super::expect::Expected;
use super::group::INODE_UNINIT;
use super::reader::{Reader, usize_of};
use crate::image::error::ImageError;

/// Checks the groups that `expected` takes blocks from.
///
/// # Errors
/// [`ImageError::Refused`] when an inode there claims such a block, or is damaged.
pub(super) fn check(before: &Reader, expected: &Expected) -> Result<(), ImageError> {
    let mut groups = BTreeSet::new();
    for block in &expected.taken {
        groups.insert(before.group_of_block(*block)?);
    }
    groups.into_iter().try_for_each(|group| check_group(before, expected, group))
}

/// Checks every inode of one group that is in use.
fn check_group(before: &Reader, expected: &Expected, number: u32) -> Result<(), ImageError> {
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
                check_inode(before, expected, inode, raw)?;
            }
        }
    }
    Ok(())
}

/// Checks one inode that is in use.
fn check_inode(before: &Reader, expected: &Expected, number: u32, raw: &[u8]) -> Result<(), ImageError> {
    let unreadable = |error: ImageError| match error {
        ImageError::Corrupt(what) => damaged(what),
        other => other,
    };
    let inode = before.parse_inode(number, Zeroizing::new(raw.to_vec())).map_err(unreadable)?;
    let map = before.map(&inode).map_err(unreadable)?;
    let taken = |first: u64, length: u64| expected.taken.range(first..first.saturating_add(length)).next();
    let content = map.extents.iter().find_map(|extent| taken(extent.physical, extent.length));
    let nodes = || map.nodes.iter().find_map(|node| taken(*node, 1));
    match content.or_else(nodes).or_else(|| taken(inode.xattr_block, 1)) {
        Some(block) => Err(damaged(format!("inode {number} uses block {block}, which is marked as free"))),
        None => Ok(()),
    }
}

fn damaged(what: String) -> ImageError {
    ImageError::refused(format!("the ext4 file system is damaged: {what}"), "run `e2fsck -f` on it first")
}
