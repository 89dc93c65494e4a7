//! Checks that no other inode in the affected groups, and no structure of the file system itself, claims a block that a
//! new file got, that an old one freed, or that a changed directory has. On a damaged file system the bitmap may mark a
//! block as free that a file still uses, or two files may share a block.
//!
//! The same check covers the journal, whose blocks a commit writes directly.
//!
//! Costs the inode tables of the groups of such blocks: a few megabytes, regardless of the image's size. The groups of
//! the journal are read while the change is planned, those that are known from the plan while the writer runs. Inodes
//! of other groups are not checked; see docs/safety.md.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use deaddrop_core::error::StorageError;

use crate::ext4::change::resolve::{Parent, Resolved};
use crate::ext4::check::allowed::Allowed;
use crate::ext4::format::group::Bitmap;
use crate::ext4::format::inode::Inode;
use crate::ext4::format::mapping::BlockMap;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::read::inodes::ReadBudget;
use crate::ext4::read::layout::{Layout, damaged};

/// Maximum number of cached bitmaps: as many as the groups of 64 GiB with blocks of 4 KiB.
const MOST_BITMAPS: usize = 512;
/// Maximum number of cached claims, 5 MB of memory. A group has some thousand inodes, most with one extent: groups with
/// too many claims are read again once the relevant blocks are known.
const MOST_CLAIMS: usize = 200_000;

/// Blocks whose owner or content changes, and the inodes that may claim them.
struct TouchedBlocks<'a> {
    /// Sorted.
    blocks: Vec<u64>,
    allowed: &'a Allowed,
}

impl TouchedBlocks<'_> {
    /// Refuses a claim to one of these blocks.
    fn check(&self, claim: &Claim) -> Result<(), StorageError> {
        let from = self.blocks.partition_point(|block| *block < claim.first);
        let found = self.blocks.get(from).filter(|block| **block < claim.first.saturating_add(u64::from(claim.length)));
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
    length: u32,
    first: u64,
}

/// All claims of one group's inodes; `None` if there are too many to cache.
type Claims = Option<Vec<Claim>>;

/// The claims of some groups.
pub(in crate::ext4) struct Known(BTreeMap<u32, Claims>);

/// A thread that reads the claims of groups. Dropping it stops and ends it.
pub(in crate::ext4) struct Reading {
    /// The groups of a change; closed without any if there is no change.
    groups: Option<mpsc::Sender<BTreeSet<u32>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Known, StorageError>>>,
}

impl Reading {
    /// Starts to read; `with_journal` the groups of the journal, as [`check_journal`] does: they do not depend on the
    /// change.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(before: &Reader, with_journal: bool) -> Result<Self, StorageError> {
        let (groups, wanted) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut budget = ReadBudget::bounded(Arc::clone(&stop));
        let before = before.clone();
        let read = move || {
            let mut room = MOST_CLAIMS;
            let mut known = BTreeMap::new();
            let mut read = |groups: BTreeSet<u32>, budget: &mut ReadBudget| -> Result<(), StorageError> {
                for group in groups {
                    if let Entry::Vacant(unknown) = known.entry(group) {
                        unknown.insert(claims_of(&before, group, budget, &mut room)?);
                    }
                }
                Ok(())
            };
            if with_journal {
                read(journal_groups(&before, &mut budget)?, &mut budget)?;
            }
            // An error: there is no change.
            read(wanted.recv().unwrap_or_default(), &mut budget)?;
            Ok(Known(known))
        };
        let thread = thread::Builder::new().name("deaddrop-neighbours".into()).spawn(read);
        let thread = thread.map_err(|error| StorageError::io("starting a thread for the neighbours", error))?;
        Ok(Self { groups: Some(groups), stop, thread: Some(thread) })
    }

    /// Has it read the groups that `resolved` is known to touch, too: those of changed directories and removed files.
    /// Each group is read once.
    ///
    /// # Errors
    /// If these are damaged or cannot be read.
    pub fn read(&mut self, before: &Reader, resolved: &Resolved) -> Result<(), StorageError> {
        let mut groups = BTreeSet::new();
        let mut add = |inode: &Inode| -> Result<(), StorageError> {
            for block in before.map(inode)?.blocks() {
                groups.insert(before.group_of_block(block)?);
            }
            Ok(())
        };
        resolved.old_inodes().try_for_each(&mut add)?;
        let parents: BTreeSet<u32> = resolved
            .changes
            .iter()
            .filter_map(|change| match change.parent {
                Parent::Existing(inode) => Some(inode),
                Parent::New(_) => None,
            })
            .collect();
        parents.into_iter().try_for_each(|parent| add(&before.inode(parent)?))?;
        // The thread may have found damage, and ended: `wait` tells.
        let _ = self.groups.take().map(|sender| sender.send(groups));
        Ok(())
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if an inode there is damaged, or claims a block of the journal; if a group cannot be
    /// read.
    pub fn wait(mut self) -> Result<Known, StorageError> {
        let failed = || StorageError::corrupt("the check of the neighbouring inodes failed inside");
        self.groups = None;
        // A panic is not expected; if it happens, nothing was checked.
        self.thread.take().ok_or_else(failed)?.join().map_err(|_| failed())?
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.groups = None;
        // Its result is not needed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Known {
    /// Checks the groups of all blocks that `expected` allocates, frees or changes.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if something else claims such a block, or an inode there is damaged.
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
        // Attribute blocks are counted, and may be shared by files that are dropped together.
        blocks.extend(&allowed.freed);
        let mut groups = BTreeSet::new();
        for block in &blocks {
            if let Some(what) = layout.at(*block) {
                return Err(damaged(format!("a file or directory uses block {block}, which belongs to {what}")));
            }
            groups.insert(before.group_of_block(*block)?);
        }
        let touched = TouchedBlocks { blocks: blocks.into_iter().collect(), allowed };
        let mut budget = ReadBudget::bounded(Arc::default());
        groups.into_iter().try_for_each(|group| match self.0.get(&group) {
            Some(Some(claims)) => claims.iter().try_for_each(|claim| touched.check(claim)),
            _ => each_claim(before, group, &mut budget, &mut |claim| touched.check(&claim)),
        })
    }
}

/// Collects the claims of one group's inodes, if there is `room` for them.
fn claims_of(before: &Reader, group: u32, budget: &mut ReadBudget, room: &mut usize) -> Result<Claims, StorageError> {
    // Reserves space for one claim per inode, once: growing would copy the claims repeatedly.
    let used = before.superblock.inodes_per_group.saturating_sub(before.group(group)?.free_inodes);
    let mut claims = Vec::with_capacity(usize_of(used).min(*room));
    each_claim(before, group, budget, &mut |claim| {
        // One more than fits means that there were too many.
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

/// Visits the claims of every used inode of one group.
fn each_claim(
    before: &Reader,
    group: u32,
    budget: &mut ReadBudget,
    visit: &mut dyn FnMut(Claim) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    before.each_inode(group, budget, &mut |inode, map| {
        let content = map.extents.iter().map(|extent| (extent.physical, extent.length));
        let alone = map.nodes.iter().chain(Some(&inode.xattr_block).filter(|block| **block != 0));
        content
            .chain(alone.map(|block| (*block, 1)))
            // Cannot be longer: a file has at most 2^32 blocks, and the last of them does not exist.
            .try_for_each(|(first, length)| {
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                visit(Claim { inode: inode.number, length, first })
            })
    })
}

/// Checks that no other structure uses the journal's blocks, as far as its groups show: their bitmaps mark these blocks
/// as used, and no other inode of these groups or of the first group claims one. `reader` is one that guards its
/// journal.
///
/// # Errors
/// [`StorageError::Refused`] if an inode claims such a block, or an inode there is damaged.
pub(in crate::ext4) fn check_journal(reader: &Reader) -> Result<(), StorageError> {
    let mut budget = ReadBudget::bounded(Arc::default());
    let groups = journal_groups(reader, &mut budget)?;
    check_maps(reader, groups, &mut budget)
}

/// The groups whose inodes may claim a block of the journal: the groups of the journal, and the first one. None without
/// a journal.
///
/// # Errors
/// [`StorageError::Refused`] if a bitmap marks one of the journal's blocks as free.
fn journal_groups(reader: &Reader, budget: &mut ReadBudget) -> Result<BTreeSet<u32>, StorageError> {
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
                    budget.spend(2)?;
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
            // The group's end, which is after its blocks.
            block = end.max(block.saturating_add(1));
        }
    }
    // The file system's own files have their inodes in the first group: the orphan file, the resize inode.
    groups.insert(0);
    Ok(groups)
}

/// Reads the map of every inode of these groups: the reader refuses a map that claims a block of the journal.
fn check_maps(
    reader: &Reader,
    groups: impl IntoIterator<Item = u32>,
    budget: &mut ReadBudget,
) -> Result<(), StorageError> {
    groups.into_iter().try_for_each(|group| reader.each_inode(group, budget, &mut |_, _| Ok(())))
}

/// Checks that no block claimed by any inode of the file system is marked as free. Costs all inode tables.
///
/// # Errors
/// [`StorageError::Refused`] if one is, or an inode is damaged.
pub(in crate::ext4) fn check_free_blocks(reader: &Reader) -> Result<(), StorageError> {
    let mut bitmaps: BTreeMap<u32, Bitmap> = BTreeMap::new();
    let mut budget = ReadBudget::unbounded();
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
    (0..reader.geometry.groups).try_for_each(|group| reader.each_inode(group, &mut budget, &mut check))
}
