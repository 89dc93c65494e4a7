//! A look at the neighbours of what is written: no other inode that stands in the same groups, and no structure of the file
//! system itself, may claim a block that a new file got, that an old one gave back, or that a changed directory has. On a
//! damaged file system the bitmap may call a block free that a file still uses, or two files may share one.
//!
//! Costs the inode tables of the groups that such blocks lie in: a few megabytes, however large the image is. The groups
//! that are known from the plan alone are looked at while the writer works.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, JoinHandle};

use zeroize::Zeroizing;

use super::bytes::le16;
use super::expect::Expected;
use super::fixed::{Fixed, damaged};
use super::group::INODE_UNINIT;
use super::inode::Inode;
use super::mapping::BlockMap;
use super::plan::{Parent, Plan};
use super::reader::{Reader, usize_of};
use crate::image::error::ImageError;

/// Blocks of an inode table that are read at a time.
const RUN: u32 = 32;
/// Claims that are kept, 5 MB of them. A group has some thousand inodes, most with one extent: the groups whose claims are
/// too many are looked at again when it is known which blocks matter.
const MOST_CLAIMS: usize = 200_000;

/// Blocks that change hands or content, and the inodes that may claim them.
struct Touched<'a> {
    /// In order.
    blocks: Vec<u64>,
    expected: &'a Expected,
}

impl Touched<'_> {
    /// Refuses a claim to one of them.
    fn check(&self, claim: &Claim) -> Result<(), ImageError> {
        let from = self.blocks.partition_point(|block| *block < claim.first);
        let found = self.blocks.get(from).filter(|block| **block < claim.first.saturating_add(claim.length));
        match found {
            Some(block) if !self.may_claim(claim.inode) => Err(damaged(format!(
                "inode {} uses block {block}, which is marked as free or not its own",
                claim.inode
            ))),
            _ => Ok(()),
        }
    }

    fn may_claim(&self, inode: u32) -> bool {
        self.expected.dropped.contains_key(&inode) || self.expected.directories.contains_key(&inode)
    }
}

/// Some blocks that an inode uses.
struct Claim {
    inode: u32,
    first: u64,
    length: u64,
}

/// All claims of one group's inodes; `None` when there are too many to be kept.
type Claims = Option<Vec<Claim>>;

/// A look at some groups that was started.
pub(super) struct Started(JoinHandle<Result<BTreeMap<u32, Claims>, ImageError>>);

/// Starts to look at the groups that `plan` touches in any case: those of directories that change and of files that go.
///
/// # Errors
/// When these are damaged or cannot be read, or there is no thread to be had.
pub(super) fn start(before: &Reader, plan: &Plan) -> Result<Started, ImageError> {
    let mut groups = BTreeSet::new();
    let mut add = |inode: &Inode| -> Result<(), ImageError> {
        for block in before.map(inode)?.blocks() {
            groups.insert(before.group_of_block(block)?);
        }
        Ok(())
    };
    plan.losers().try_for_each(&mut add)?;
    let parents: BTreeSet<u32> = plan
        .changes
        .iter()
        .filter_map(|change| match change.parent {
            Parent::Standing(inode) => Some(inode),
            Parent::Made(_) => None,
        })
        .collect();
    parents.into_iter().try_for_each(|parent| add(&before.inode(parent)?))?;
    let before = before.clone();
    let look = move || {
        let mut room = MOST_CLAIMS;
        groups.into_iter().map(|group| Ok((group, claims_of(&before, group, &mut room)?))).collect()
    };
    let thread = thread::Builder::new().name("deaddrop-neighbours".into()).spawn(look);
    Ok(Started(thread.map_err(|error| ImageError::io("starting a thread for the neighbours", error))?))
}

impl Started {
    /// Checks the groups that blocks which `expected` takes, frees or changes lie in.
    ///
    /// # Errors
    /// [`ImageError::Refused`] when something else claims such a block, or an inode there is damaged.
    pub fn check(self, before: &Reader, fixed: &Fixed, expected: &Expected) -> Result<(), ImageError> {
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
        let mut groups = BTreeSet::new();
        for block in &blocks {
            if let Some(what) = fixed.at(*block) {
                return Err(damaged(format!("a file or directory uses block {block}, which belongs to {what}")));
            }
            groups.insert(before.group_of_block(*block)?);
        }
        let touched = Touched { blocks: blocks.into_iter().collect(), expected };
        // It has no reason to panic; if it does, nothing was checked.
        let known = self.0.join().map_err(|_| ImageError::corrupt("the look at the neighbours failed inside"))??;
        groups.into_iter().try_for_each(|group| match known.get(&group) {
            Some(Some(claims)) => claims.iter().try_for_each(|claim| touched.check(claim)),
            _ => each_claim(before, group, &mut |claim| touched.check(&claim)),
        })
    }
}

/// Collects what the inodes of one group claim, if there is `room` for it.
fn claims_of(before: &Reader, group: u32, room: &mut usize) -> Result<Claims, ImageError> {
    let mut claims = Vec::new();
    each_claim(before, group, &mut |claim| {
        // One more than fits tells that there were more.
        if claims.len() <= *room {
            claims.push(claim);
        }
        Ok(())
    })?;
    Ok(room.checked_sub(claims.len()).map(|left| {
        *room = left;
        claims
    }))
}

/// Visits the claims of every inode of one group that is in use.
fn each_claim(
    before: &Reader,
    number: u32,
    visit: &mut dyn FnMut(Claim) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
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
    let unreadable = |error: ImageError| match error {
        ImageError::Corrupt(what) => damaged(what),
        other => other,
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
            if !used.get(index) || le16(raw, 0x0) == 0 {
                continue;
            }
            bytes.clear();
            bytes.extend_from_slice(raw);
            // Cannot overflow: all inodes are counted by a u32.
            let inode = before.parse_inode(number * all + index + 1, bytes).map_err(unreadable)?;
            before.map_into(&inode, &mut map).map_err(unreadable)?;
            let content = map.extents.iter().map(|extent| (extent.physical, extent.length));
            let alone = map.nodes.iter().chain(Some(&inode.xattr_block).filter(|block| **block != 0));
            content
                .chain(alone.map(|block| (*block, 1)))
                .try_for_each(|(first, length)| visit(Claim { inode: inode.number, first, length }))?;
            bytes = inode.raw;
        }
        // The block behind the run is the run's end: it holds none, or comes next.
        block = block.saturating_add(count.max(1));
    }
    Ok(())
}
