//! A look at the neighbours of what is written: no other inode that stands in the same groups, and no structure of the file
//! system itself, may claim a block that a new file got, that an old one gave back, or that a changed directory has. On a
//! damaged file system the bitmap may call a block free that a file still uses, or two files may share one.
//!
//! And the same for the journal, whose blocks a commit writes without asking anybody.
//!
//! Costs the inode tables of the groups that such blocks lie in: a few megabytes, however large the image is. An inode of
//! another group is not looked at: docs/safety.md says so.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::expect::Expected;
use super::fixed::{Fixed, damaged};
use super::group::Bitmap;
use super::inode::Inode;
use super::inodes::Effort;
use super::mapping::BlockMap;
use super::reader::Reader;
use crate::image::error::ImageError;

/// Bitmaps that are kept at a time: as many as the groups of 64 GiB with blocks of 4 KiB.
const MOST_BITMAPS: usize = 512;

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
    let mut effort = Effort::bounded();
    groups.into_iter().try_for_each(|group| {
        before.each_inode(group, &mut effort, &mut |inode, map| check_inode(&touched, inode, map))
    })
}

/// Checks one inode that is in use.
fn check_inode(touched: &Touched, inode: &Inode, map: &BlockMap) -> Result<(), ImageError> {
    let number = inode.number;
    if touched.expected.dropped.contains_key(&number) || touched.expected.directories.contains_key(&number) {
        return Ok(());
    }
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

/// Checks that the journal is alone in its blocks, as far as the groups tell that it lies in: their bitmaps call these
/// blocks used, and no other inode of theirs claims one, nor one of the first group. `reader` is one that guards its journal.
///
/// # Errors
/// [`ImageError::Refused`] when somebody claims such a block, or an inode there is damaged.
pub(super) fn check_journal(reader: &Reader) -> Result<(), ImageError> {
    let Some(journal) = &reader.journal_place else { return Ok(()) };
    let mut effort = Effort::bounded();
    let mut groups = Vec::new();
    let mut known: Option<(u32, Bitmap)> = None;
    for block in journal.places().iter().cloned().flatten() {
        let number = reader.group_of_block(block)?;
        let bitmap = match known.take() {
            Some((group, bitmap)) if group == number => bitmap,
            _ => {
                groups.push(number);
                effort.spend(2)?;
                reader.block_bitmap(&reader.group(number)?)?
            }
        };
        let bit = u32::try_from(block - reader.first_block_of(number)).unwrap_or(u32::MAX);
        if !bitmap.get(bit) {
            return Err(damaged(format!("block {block} of the journal is marked as free")));
        }
        known = Some((number, bitmap));
    }
    // The file system's own files have their inodes in the first group: the orphan file, the blocks to grow into.
    if groups.first() != Some(&0) {
        groups.push(0);
    }
    // That an inode claims a block of the journal is found when its map is read.
    groups.into_iter().try_for_each(|group| reader.each_inode(group, &mut effort, &mut |_, _| Ok(())))
}

/// Checks that no block that any inode of the file system claims is marked as free. Costs all inode tables.
///
/// # Errors
/// [`ImageError::Refused`] when one is, or an inode is damaged.
pub(super) fn check_free_blocks(reader: &Reader) -> Result<(), ImageError> {
    let mut bitmaps: BTreeMap<u32, Bitmap> = BTreeMap::new();
    let mut effort = Effort::unbounded();
    let mut check = |inode: &Inode, map: &BlockMap| {
        let attributes = Some(inode.xattr_block).filter(|block| *block != 0);
        for block in map.blocks().chain(attributes) {
            let number = reader.group_of_block(block)?;
            if bitmaps.len() >= MOST_BITMAPS && !bitmaps.contains_key(&number) {
                bitmaps.clear();
            }
            let bitmap = match bitmaps.entry(number) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(reader.block_bitmap(&reader.group(number)?)?),
            };
            let bit = u32::try_from(block - reader.first_block_of(number)).unwrap_or(u32::MAX);
            if !bitmap.get(bit) {
                return Err(damaged(format!("block {block} of inode {} is marked as free", inode.number)));
            }
        }
        Ok(())
    };
    (0..reader.geometry.groups).try_for_each(|group| reader.each_inode(group, &mut effort, &mut check))
}
