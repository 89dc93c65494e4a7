//! A look at the neighbours of what is written: no other inode that stands in the same groups, and no structure of the file
//! system itself, may claim a block that a new file got, that an old one gave back, or that a changed directory has. On a
//! damaged file system the bitmap may call a block free that a file still uses, or two files may share one.
//!
//! And the same for the journal, whose blocks a commit writes without asking anybody.
//!
//! Costs the inode tables of the groups that such blocks lie in: a few megabytes, however large the image is. The groups
//! that are known from the plan alone are looked at while the writer works. An inode of another group is not looked at:
//! docs/safety.md says so.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, JoinHandle};

use deaddrop_core::error::StorageError;

use crate::ext4::change::resolve::{Parent, Resolved};
use crate::ext4::check::allowed::Allowed;
use crate::ext4::format::group::Bitmap;
use crate::ext4::format::inode::Inode;
use crate::ext4::format::mapping::BlockMap;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::read::inodes::Effort;
use crate::ext4::read::layout::{Layout, damaged};

/// Bitmaps that are kept at a time: as many as the groups of 64 GiB with blocks of 4 KiB.
const MOST_BITMAPS: usize = 512;
/// Claims that are kept, 5 MB of them. A group has some thousand inodes, most with one extent: the groups whose claims are
/// too many are looked at again when it is known which blocks matter.
const MOST_CLAIMS: usize = 200_000;

/// Blocks that change hands or content, and the inodes that may claim them.
struct Touched<'a> {
    /// In order.
    blocks: Vec<u64>,
    allowed: &'a Allowed,
}

impl Touched<'_> {
    /// Refuses a claim to one of them.
    fn check(&self, claim: &Claim) -> Result<(), StorageError> {
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
        self.allowed.dropped.contains_key(&inode) || self.allowed.directories.contains_key(&inode)
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

/// The claims of some groups.
pub(in crate::ext4) struct Known(BTreeMap<u32, Claims>);

/// A look at some groups that was started.
pub(in crate::ext4) struct Started(JoinHandle<Result<Known, StorageError>>);

/// Starts to look at the groups that `plan` touches in any case: those of directories that change and of files that go; and,
/// where `with_journal` asks for it, at those of the journal, as [`check_journal`] does. Each group is looked at once.
///
/// # Errors
/// When these are damaged or cannot be read, or there is no thread to be had.
pub(in crate::ext4) fn start(
    before: &Reader,
    resolved: &Resolved,
    with_journal: bool,
) -> Result<Started, StorageError> {
    let mut groups = BTreeSet::new();
    let mut add = |inode: &Inode| -> Result<(), StorageError> {
        for block in before.map(inode)?.blocks() {
            groups.insert(before.group_of_block(block)?);
        }
        Ok(())
    };
    resolved.losers().try_for_each(&mut add)?;
    let parents: BTreeSet<u32> = resolved
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
        let mut effort = Effort::bounded();
        if with_journal {
            let of_the_journal = journal_groups(&before, &mut effort)?;
            let others = of_the_journal.into_iter().filter(|group| !groups.contains(group));
            check_maps(&before, others, &mut effort)?;
        }
        let claims = |group| Ok((group, claims_of(&before, group, &mut effort, &mut room)?));
        groups.into_iter().map(claims).collect::<Result<_, _>>().map(Known)
    };
    let thread = thread::Builder::new().name("deaddrop-neighbours".into()).spawn(look);
    Ok(Started(thread.map_err(|error| StorageError::io("starting a thread for the neighbours", error))?))
}

impl Started {
    /// Waits for its end.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when an inode there is damaged, or one claims a block of the journal; when they cannot be read.
    pub fn wait(self) -> Result<Known, StorageError> {
        // It has no reason to panic; if it does, nothing was checked.
        self.0.join().map_err(|_| StorageError::corrupt("the look at the neighbours failed inside"))?
    }
}

impl Known {
    /// Checks the groups that blocks which `expected` takes, frees or changes lie in.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when something else claims such a block, or an inode there is damaged.
    pub fn check(self, before: &Reader, layout: &Layout, allowed: &Allowed) -> Result<(), StorageError> {
        let mut blocks = allowed.taken.clone();
        let changed = allowed.directories.values().map(|directory| &directory.before);
        for inode in allowed.dropped.values().chain(changed) {
            for block in before.map(inode)?.blocks() {
                if !blocks.insert(block) {
                    return Err(damaged(format!("inode {} and something else use block {block}", inode.number)));
                }
            }
        }
        // Blocks of attributes are counted, and may be shared by files that are dropped together.
        blocks.extend(&allowed.freed);
        let mut groups = BTreeSet::new();
        for block in &blocks {
            if let Some(what) = layout.at(*block) {
                return Err(damaged(format!("a file or directory uses block {block}, which belongs to {what}")));
            }
            groups.insert(before.group_of_block(*block)?);
        }
        let touched = Touched { blocks: blocks.into_iter().collect(), allowed };
        let mut effort = Effort::bounded();
        groups.into_iter().try_for_each(|group| match self.0.get(&group) {
            Some(Some(claims)) => claims.iter().try_for_each(|claim| touched.check(claim)),
            _ => each_claim(before, group, &mut effort, &mut |claim| touched.check(&claim)),
        })
    }
}

/// Collects what the inodes of one group claim, if there is `room` for it.
fn claims_of(before: &Reader, group: u32, effort: &mut Effort, room: &mut usize) -> Result<Claims, StorageError> {
    // Room for one from each inode, at once: to grow would copy them again and again.
    let used = before.superblock.inodes_per_group.saturating_sub(before.group(group)?.free_inodes);
    let mut claims = Vec::with_capacity(usize_of(used).min(*room));
    each_claim(before, group, effort, &mut |claim| {
        // One more than fits tells that there were more.
        if claims.len() <= *room {
            claims.push(claim);
        }
        Ok(())
    })?;
    claims.shrink_to_fit();
    Ok(room.checked_sub(claims.len()).map(|left| {
        *room = left;
        claims
    }))
}

/// Visits the claims of every inode of one group that is in use.
fn each_claim(
    before: &Reader,
    group: u32,
    effort: &mut Effort,
    visit: &mut dyn FnMut(Claim) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    before.each_inode(group, effort, &mut |inode, map| {
        let content = map.extents.iter().map(|extent| (extent.physical, extent.length));
        let alone = map.nodes.iter().chain(Some(&inode.xattr_block).filter(|block| **block != 0));
        content
            .chain(alone.map(|block| (*block, 1)))
            .try_for_each(|(first, length)| visit(Claim { inode: inode.number, first, length }))
    })
}

/// Checks that the journal is alone in its blocks, as far as the groups tell that it lies in: their bitmaps call these
/// blocks used, and no other inode of theirs claims one, nor one of the first group. `reader` is one that guards its journal.
///
/// # Errors
/// [`StorageError::Refused`] when somebody claims such a block, or an inode there is damaged.
pub(in crate::ext4) fn check_journal(reader: &Reader) -> Result<(), StorageError> {
    let mut effort = Effort::bounded();
    let groups = journal_groups(reader, &mut effort)?;
    check_maps(reader, groups, &mut effort)
}

/// The groups whose inodes may claim a block of the journal: those that it lies in, and the first one. None without a
/// journal.
///
/// # Errors
/// [`StorageError::Refused`] when a bitmap calls one of the journal's blocks free.
fn journal_groups(reader: &Reader, effort: &mut Effort) -> Result<BTreeSet<u32>, StorageError> {
    let mut groups = BTreeSet::new();
    let Some(journal) = &reader.journal_place else { return Ok(groups) };
    let mut known: Option<(u32, Bitmap)> = None;
    for place in journal.places() {
        let mut block = place.start;
        while block < place.end {
            let number = reader.group_of_block(block)?;
            let bitmap = match known.take() {
                Some((group, bitmap)) if group == number => bitmap,
                _ => {
                    groups.insert(number);
                    effort.spend(2)?;
                    reader.block_bitmap(&reader.group(number)?)?
                }
            };
            let first = reader.first_block_of(number);
            let end = place.end.min(first.saturating_add(u64::from(reader.blocks_in(number))));
            let bit = |block: u64| u32::try_from(block - first).unwrap_or(u32::MAX);
            if !bitmap.all(bit(block), bit(end)) {
                let free = (block..end).find(|block| !bitmap.get(bit(*block))).unwrap_or(block);
                return Err(damaged(format!("block {free} of the journal is marked as free")));
            }
            known = Some((number, bitmap));
            // The group's end, which lies behind its blocks.
            block = end.max(block.saturating_add(1));
        }
    }
    // The file system's own files have their inodes in the first group: the orphan file, the blocks to grow into.
    groups.insert(0);
    Ok(groups)
}

/// Reads the map of every inode of these groups: that one claims a block of the journal is found by that.
fn check_maps(reader: &Reader, groups: impl IntoIterator<Item = u32>, effort: &mut Effort) -> Result<(), StorageError> {
    groups.into_iter().try_for_each(|group| reader.each_inode(group, effort, &mut |_, _| Ok(())))
}

/// Checks that no block that any inode of the file system claims is marked as free. Costs all inode tables.
///
/// # Errors
/// [`StorageError::Refused`] when one is, or an inode is damaged.
pub(in crate::ext4) fn check_free_blocks(reader: &Reader) -> Result<(), StorageError> {
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
