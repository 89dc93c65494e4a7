//! The audit: compares every block that would be written with what the plan may change. Any other difference is
//! refused.
//!
//! Its cost depends on the size of the change, not of the image: it reads changed blocks, their groups, and the
//! directories whose names change. It relies only on our reader, never on the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::FileKind;

use crate::device::overlay::Overlay;
use crate::ext4::change::resolve::{Parent, Resolved};
use crate::ext4::change::writer::IgnoredFields;
use crate::ext4::check::allowed::{Allowed, Changed};
use crate::ext4::format::bytes::le32;
use crate::ext4::format::directory::Entry;
use crate::ext4::format::group::{BLOCK_UNINIT, Bitmap, Group, INODE_UNINIT};
use crate::ext4::format::inode::{BLOCK, BLOCK_SIZE, EXTENTS, Inode};
use crate::ext4::format::reader::Reader;
use crate::ext4::format::{label, superblock};

/// Superblock: free blocks, free inodes, time of the last write, free blocks (high), kilobytes written, time of the
/// last write (high), checksum.
const SUPERBLOCK_MAY: &[Range<usize>] =
    &[0xC..0x14, 0x30..0x34, 0x158..0x15C, 0x178..0x180, 0x274..0x275, 0x3FC..0x400];
/// Descriptor: free blocks, free inodes, directories, and their high halves.
const DESCRIPTOR_COUNTS: &[Range<usize>] = &[0xC..0x12, 0x2C..0x32];
/// Descriptor, with checksums of either kind: flags, unused inodes, its checksum, unused inodes (high).
const DESCRIPTOR_CHECKED: &[Range<usize>] = &[0x12..0x14, 0x1C..0x20, 0x32..0x34];
/// Descriptor, with `metadata_csum`: checksums of the bitmaps, and their high halves.
const DESCRIPTOR_BITMAPS: &[Range<usize>] = &[0x18..0x1C, 0x38..0x3C];
/// Inode: both halves of its checksum.
const CHECKSUM: [Range<usize>; 2] = [0x7C..0x7E, 0x82..0x84];
/// Dropped inode: time of deletion, generation, both halves of its checksum.
const DROPPED_MAY: &[Range<usize>] = &[0x14..0x18, 0x64..0x68, 0x7C..0x7E, 0x82..0x84];
/// Inode: time of the last change.
const CTIME: [Range<usize>; 2] = [0xC..0x10, 0x84..0x88];
/// Inode: time of the last modification.
const MTIME: [Range<usize>; 2] = [0x10..0x14, 0x88..0x8C];

/// Compares `overlay` with the file system before the change, block by block. Returns what the plan was allowed to
/// change.
///
/// # Errors
/// [`StorageError::Corrupt`] with the first difference that the plan does not explain.
pub(in crate::ext4) fn audit(
    before: &Reader,
    overlay: &Arc<Overlay>,
    resolved: &Resolved,
) -> Result<Allowed, StorageError> {
    let after = &Reader::open(overlay.clone())?;
    if before.geometry != after.geometry {
        return Err(wrong("the file system's sizes changed"));
    }
    let allowed = Allowed::new(before, after, resolved)?;
    let audit = Audit { before, after, resolved, allowed: &allowed };
    audit.check_inodes()?;
    audit.check_names()?;
    let groups = audit.check_groups()?;
    let dirty = overlay.dirty_numbers().map_err(|error| StorageError::io("reading the image", error))?;
    let places = audit.places(&groups)?;
    dirty.into_iter().try_for_each(|block| audit.check_block(block, &places, &groups))?;
    Ok(allowed)
}

struct Audit<'a> {
    before: &'a Reader,
    after: &'a Reader,
    resolved: &'a Resolved<'a>,
    allowed: &'a Allowed,
}

/// The structure in a block that may change.
enum MetadataBlock {
    /// A block of the descriptor table.
    Descriptors,
    /// A bitmap: its bits are compared separately.
    Bitmap,
    /// A block of an inode table, with the inodes in it that may change.
    Inodes(BTreeSet<u32>),
}

/// A group that may change, before and after.
struct Pair {
    before: Group,
    after: Group,
}

impl Audit<'_> {
    /// Checks that new, changed and dropped inodes are exactly as planned.
    fn check_inodes(&self) -> Result<(), StorageError> {
        for (inode, place) in self.allowed.made.values() {
            self.check_made(inode, *place)?;
        }
        for (number, place) in &self.allowed.metadata {
            let inode = self.after.inode(*number)?;
            let change = self.change(*place)?;
            if (inode.mode & 0o7777, inode.uid, inode.gid) != (change.mode, change.uid, change.gid) {
                return Err(wrong(&format!("{}: its mode or owner is not as asked for", change.path)));
            }
        }
        for (number, (old, lost)) in &self.allowed.unlinked {
            if self.after.inode(*number)?.links != old.links - lost {
                return Err(wrong(&format!("inode {number}: its number of links")));
            }
        }
        for number in self.allowed.dropped.keys() {
            let raw = self.raw_inode(self.after, *number)?;
            // Nothing remains of it, neither content nor inline attributes.
            if !differs_only_in(&vec![0; raw.len()], &raw, DROPPED_MAY) {
                return Err(wrong(&format!("inode {number} is still in use, or not zeroed")));
            }
        }
        self.allowed.directories.values().try_for_each(|changed| self.check_changed_directory(changed))
    }

    fn check_made(&self, inode: &Inode, place: usize) -> Result<(), StorageError> {
        let change = self.change(place)?;
        let fail = |what: &str| Err(wrong(&format!("{}: {what}", change.path)));
        let map = self.after.map(inode)?;
        let names = self.allowed.made_names.get(&inode.number);
        let is_directory = |entry: &Entry| {
            self.allowed.made.get(&entry.inode).is_some_and(|(inode, _)| inode.kind == FileKind::Directory)
        };
        let below = names.into_iter().flatten().filter(|(_, entry)| is_directory(entry)).count();
        let (kind, links, size) = match change.content() {
            Some(content) => (FileKind::File, 1, u64::try_from(content.len()).unwrap_or(u64::MAX)),
            None => (FileKind::Directory, below + 2, inode.size),
        };
        if inode.kind != kind || inode.size != size || usize::from(inode.links) != links {
            return fail("its kind, size or number of links");
        }
        if (inode.mode & 0o7777, inode.uid, inode.gid) != (change.mode, change.uid, change.gid) {
            return fail("its mode or owner");
        }
        if inode.flags & !EXTENTS != 0 {
            return fail("its flags");
        }
        if !label::is_only_attribute(self.after, inode, change.label)? {
            return fail("its attributes");
        }
        let block_size = u64::from(self.after.geometry.block_size);
        let blocks = u64::try_from(map.blocks().count()).unwrap_or(u64::MAX);
        let blocks = blocks.saturating_add(u64::from(inode.xattr_block != 0));
        if map.content_blocks() != size.div_ceil(block_size)
            || (0..map.content_blocks()).any(|logical| map.find(logical).is_none())
            || inode.sectors != blocks.saturating_mul(block_size / 512)
        {
            return fail("its blocks");
        }
        self.check_times(inode, &[0x8, 0xC, 0x10])?;
        if inode.extra_size >= 24 && le32(&inode.raw, 0x90) != le32(&inode.raw, 0x10) {
            return fail("its time of creation");
        }
        Ok(())
    }

    /// Checks that the times at the given offsets are the run's. Only the low 32 bits: the high ones are in the
    /// extension of the same field, which the tests compare with debugfs.
    fn check_times(&self, inode: &Inode, at: &[usize]) -> Result<(), StorageError> {
        let low = self.resolved.seconds.to_le_bytes();
        if at.iter().all(|at| inode.raw.get(*at..*at + 4) == low.get(..4)) {
            Ok(())
        } else {
            Err(wrong(&format!("inode {}: its times", inode.number)))
        }
    }

    fn check_changed_directory(&self, changed: &Changed) -> Result<(), StorageError> {
        let fail = |what: &str| Err(wrong(&format!("directory inode {}: {what}", changed.before.number)));
        // With `dir_nlink` a directory with too many subdirectories has one link, and keeps it.
        let links = i32::from(changed.before.links).saturating_add(changed.directories);
        let counted = if changed.before.links == 1 || links > 65000 { 1 } else { links };
        if ![counted, links].contains(&i32::from(changed.after.links)) {
            return fail("its number of links");
        }
        let sectors = changed.gained * u64::from(self.after.geometry.block_size / 512);
        if changed.after.sectors != changed.before.sectors.saturating_add(sectors) {
            return fail("its number of blocks");
        }
        self.check_times(&changed.after, &[0xC, 0x10])
    }

    /// Checks that directories have exactly the planned names.
    fn check_names(&self) -> Result<(), StorageError> {
        for (number, changed) in &self.allowed.directories {
            let mut want = self.before.entries(&changed.before)?;
            want.extend(changed.names.clone());
            want.retain(|name, _| !changed.gone.contains(name));
            if self.after.entries(&changed.after)? != want {
                return Err(wrong(&format!("directory inode {number}: its names")));
            }
        }
        for (number, names) in &self.allowed.made_names {
            let Some((inode, place)) = self.allowed.made.get(number) else { continue };
            let parent = match self.change(*place)?.parent {
                Parent::Existing(parent) => parent,
                Parent::New(above) => {
                    let found = self.allowed.made.values().find(|(_, place)| *place == above);
                    found.map_or(0, |(inode, _)| inode.number)
                }
            };
            let mut want = names.clone();
            want.insert(b".".to_vec(), self.after.entry(*number, FileKind::Directory));
            want.insert(b"..".to_vec(), self.after.entry(parent, FileKind::Directory));
            if self.after.entries(inode)? != want {
                return Err(wrong(&format!("directory inode {number}: its names")));
            }
        }
        Ok(())
    }

    /// Checks bitmaps and counts of every group that may change, and the superblock's counts.
    fn check_groups(&self) -> Result<BTreeMap<u32, Pair>, StorageError> {
        let mut blocks: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
        let mut inodes: BTreeMap<u32, (i64, i64, i64)> = BTreeMap::new();
        for block in &self.allowed.taken {
            blocks.entry(self.before.group_of_block(*block)?).or_default().0 += 1;
        }
        for block in &self.allowed.freed {
            blocks.entry(self.before.group_of_block(*block)?).or_default().1 += 1;
        }
        for (inode, _) in self.allowed.made.values() {
            let counts = inodes.entry(self.before.group_of_inode(inode.number)?.0).or_default();
            counts.0 += 1;
            counts.2 += i64::from(inode.kind == FileKind::Directory);
        }
        for (number, old) in &self.allowed.dropped {
            let counts = inodes.entry(self.before.group_of_inode(*number)?.0).or_default();
            counts.1 += 1;
            counts.2 -= i64::from(old.kind == FileKind::Directory);
        }
        let mut groups = BTreeMap::new();
        for number in blocks.keys().chain(inodes.keys()) {
            if !groups.contains_key(number) {
                groups.insert(*number, Pair { before: self.before.group(*number)?, after: self.after.group(*number)? });
            }
        }
        let (mut free_blocks, mut free_inodes) = (0, 0);
        for (number, pair) in &groups {
            let (taken, freed) = blocks.get(number).copied().unwrap_or_default();
            let (made, dropped, directories) = inodes.get(number).copied().unwrap_or_default();
            self.check_bits(*number, pair, (taken, freed), (made, dropped))?;
            let moved = |before: u32, after: u32| i64::from(after) - i64::from(before);
            if moved(pair.before.free_blocks, pair.after.free_blocks) != freed - taken
                || moved(pair.before.free_inodes, pair.after.free_inodes) != dropped - made
                || moved(pair.before.directories, pair.after.directories) != directories
            {
                return Err(wrong(&format!("group {number}: its counts")));
            }
            let raised = pair.after.flags & !pair.before.flags;
            let cleared = pair.before.flags & !pair.after.flags;
            if raised != 0 || cleared & !(INODE_UNINIT | BLOCK_UNINIT) != 0 {
                return Err(wrong(&format!("group {number}: its flags")));
            }
            free_blocks += freed - taken;
            free_inodes += dropped - made;
        }
        let (old, new) = (&self.before.superblock, &self.after.superblock);
        if i128::from(new.free_blocks) - i128::from(old.free_blocks) != i128::from(free_blocks)
            || i64::from(new.free_inodes) - i64::from(old.free_inodes) != free_inodes
        {
            return Err(wrong("the superblock's counts"));
        }
        Ok(groups)
    }

    /// Checks that the changed bits are exactly those of blocks and inodes that may change.
    fn check_bits(&self, number: u32, pair: &Pair, blocks: (i64, i64), inodes: (i64, i64)) -> Result<(), StorageError> {
        let old = self.before.block_bitmap(&pair.before)?;
        let new = self.after.block_bitmap(&pair.after)?;
        let first = self.before.first_block_of(number);
        for (set, was, is) in [(&self.allowed.taken, false, true), (&self.allowed.freed, true, false)] {
            for block in set.range(first..first + u64::from(self.before.blocks_in(number))) {
                let bit = u32::try_from(block - first).unwrap_or(u32::MAX);
                if (old.get(bit), new.get(bit)) != (was, is) {
                    return Err(wrong(&format!("block {block} was not free before, or is not what it should be now")));
                }
            }
        }
        if changed_bits(&old, &new) != blocks {
            return Err(wrong(&format!("group {number}: its block bitmap")));
        }
        let old = self.before.inode_bitmap(&pair.before)?;
        let new = self.after.inode_bitmap(&pair.after)?;
        let index = |inode: u32| self.before.group_of_inode(inode);
        for (inode, was, is) in (self.allowed.made.keys().map(|inode| (*inode, false, true)))
            .chain(self.allowed.dropped.keys().map(|inode| (*inode, true, false)))
        {
            let (group, bit) = index(inode)?;
            if group == number && (old.get(bit), new.get(bit)) != (was, is) {
                return Err(wrong(&format!("inode {inode} was not free before, or is not what it should be now")));
            }
        }
        if changed_bits(&old, &new) != inodes {
            return Err(wrong(&format!("group {number}: its inode bitmap")));
        }
        let all = self.after.superblock.inodes_per_group;
        let never_used = all.saturating_sub(pair.after.unused_inodes)..all;
        if never_used.into_iter().any(|bit| new.get(bit)) {
            return Err(wrong(&format!("group {number}: its number of unused inodes")));
        }
        Ok(())
    }

    /// The metadata blocks that may change.
    fn places(&self, groups: &BTreeMap<u32, Pair>) -> Result<BTreeMap<u64, MetadataBlock>, StorageError> {
        let mut places = BTreeMap::new();
        for (number, pair) in groups {
            places.insert(self.before.descriptor_place(*number)?.0, MetadataBlock::Descriptors);
            places.insert(pair.before.block_bitmap, MetadataBlock::Bitmap);
            places.insert(pair.before.inode_bitmap, MetadataBlock::Bitmap);
        }
        for inode in self.allowed.inodes() {
            let (block, _) = self.before.inode_place(inode)?;
            match places.entry(block).or_insert_with(|| MetadataBlock::Inodes(BTreeSet::new())) {
                MetadataBlock::Inodes(inodes) => {
                    inodes.insert(inode);
                }
                MetadataBlock::Descriptors | MetadataBlock::Bitmap => return Err(wrong("metadata that overlaps")),
            }
        }
        Ok(places)
    }

    /// Checks one changed block.
    fn check_block(
        &self,
        block: u64,
        places: &BTreeMap<u64, MetadataBlock>,
        groups: &BTreeMap<u32, Pair>,
    ) -> Result<(), StorageError> {
        let (old, new) = (self.before.block(block)?, self.after.block(block)?);
        let size = u64::from(self.before.geometry.block_size);
        if block == superblock::OFFSET / size {
            let at = usize::try_from(superblock::OFFSET % size).unwrap_or(0);
            let may: Vec<_> = SUPERBLOCK_MAY.iter().map(|range| at + range.start..at + range.end).collect();
            return if differs_only_in(&old, &new, &may) { Ok(()) } else { Err(wrong("the superblock")) };
        }
        match places.get(&block) {
            Some(MetadataBlock::Bitmap) => return Ok(()),
            Some(MetadataBlock::Descriptors) => return self.check_descriptors(block, &old, &new, groups),
            Some(MetadataBlock::Inodes(inodes)) => return self.check_inode_block(block, &old, &new, inodes),
            None => {}
        }
        if self.allowed.taken.contains(&block) || self.allowed.directory_blocks.contains(&block) {
            return Ok(());
        }
        if self.allowed.freed_content.contains(&block) && new.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        if let Some(lost) = self.allowed.shared_attributes.get(&block) {
            // `h_refcount`, 0x4, and `h_checksum`, 0x10.
            let uses = le32(&new, 0x4).checked_add(*lost) == Some(le32(&old, 0x4));
            if uses && differs_only_in(&old, &new, &[0x4..0x8, 0x10..0x14]) {
                return Ok(());
            }
        }
        Err(wrong(&format!("block {block} changed, and has nothing to do with the changes")))
    }

    fn check_descriptors(
        &self,
        block: u64,
        old: &[u8],
        new: &[u8],
        groups: &BTreeMap<u32, Pair>,
    ) -> Result<(), StorageError> {
        let mut fields = Vec::from(DESCRIPTOR_COUNTS);
        if self.before.has_group_checksums() {
            fields.extend_from_slice(DESCRIPTOR_CHECKED);
        }
        if self.before.superblock.has_checksums() {
            fields.extend_from_slice(DESCRIPTOR_BITMAPS);
        }
        // The second half exists with `64bit` only; without it, those bytes belong to the next descriptor.
        let size = usize::from(self.before.superblock.descriptor_size);
        fields.retain(|field| field.end <= size);
        let mut may = Vec::new();
        for number in groups.keys() {
            let (place, at) = self.before.descriptor_place(*number)?;
            if place == block {
                may.extend(fields.iter().map(|field| at + field.start..at + field.end));
                if !self.before.has_group_checksums() {
                    // They have no meaning, and may become zero.
                    let ignored = IgnoredFields::FIELDS.into_iter().filter(|field| field.end <= size);
                    let ignored = ignored.map(|field| at + field.start..at + field.end);
                    may.extend(ignored.filter(|field| {
                        new.get(field.clone()).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
                    }));
                }
            }
        }
        if differs_only_in(old, new, &may) { Ok(()) } else { Err(wrong(&format!("descriptor block {block}"))) }
    }

    fn check_inode_block(
        &self,
        block: u64,
        old: &[u8],
        new: &[u8],
        inodes: &BTreeSet<u32>,
    ) -> Result<(), StorageError> {
        let size = usize::from(self.before.superblock.inode_size);
        let mut may = Vec::new();
        for number in inodes {
            let (place, at) = self.before.inode_place(*number)?;
            if place == block {
                may.extend(
                    self.inode_may(*number, size).into_iter().map(|range| at + range.start..at + range.end.min(size)),
                );
            }
        }
        if differs_only_in(old, new, &may) { Ok(()) } else { Err(wrong(&format!("inode table block {block}"))) }
    }

    /// The bytes of an inode that may change.
    fn inode_may(&self, number: u32, size: usize) -> Vec<Range<usize>> {
        let allowed = self.allowed;
        if allowed.made.contains_key(&number) || allowed.dropped.contains_key(&number) {
            return std::iter::once(0..size).collect();
        }
        let mut may = Vec::from(CHECKSUM);
        may.extend(CTIME);
        if allowed.metadata.contains_key(&number) {
            // Mode and user, group, their high halves.
            may.extend([0x0..0x4, 0x18..0x1A, 0x78..0x7C]);
        }
        if allowed.unlinked.contains_key(&number) {
            may.push(0x1A..0x1C);
        }
        if allowed.directories.contains_key(&number) {
            may.extend(MTIME);
            // Size, links and blocks, flags, map, size (high), blocks (high).
            may.extend([0x4..0x8, 0x1A..0x24, BLOCK..BLOCK + BLOCK_SIZE, 0x6C..0x70, 0x74..0x76]);
        }
        // In inodes of 128 bytes the second halves belong to the next inode.
        may.retain(|range| range.end <= size);
        may
    }

    fn raw_inode(&self, reader: &Reader, number: u32) -> Result<Vec<u8>, StorageError> {
        let (block, at) = reader.inode_place(number)?;
        let mut raw = vec![0; usize::from(reader.superblock.inode_size)];
        reader.read_part(block, at, &mut raw)?;
        Ok(raw)
    }

    fn change(&self, place: usize) -> Result<&crate::ext4::change::resolve::ResolvedChange<'_>, StorageError> {
        self.resolved.changes.get(place).ok_or_else(|| wrong("a change without a plan"))
    }
}

/// Number of bytes compared at a time: nearly everything is equal.
const PIECE: usize = 64;

/// Number of bits that were set, and of bits that were cleared.
fn changed_bits(old: &Bitmap, new: &Bitmap) -> (i64, i64) {
    let pieces = old.0.chunks(PIECE).zip(new.0.chunks(PIECE)).filter(|(old, new)| old != new);
    pieces.flat_map(|(old, new)| old.iter().zip(new)).fold((0, 0), |(set, cleared), (old, new)| {
        (set + i64::from((new & !old).count_ones()), cleared + i64::from((old & !new).count_ones()))
    })
}

/// True if `old` and `new` are equal outside the ranges `may`.
fn differs_only_in(old: &[u8], new: &[u8], may: &[Range<usize>]) -> bool {
    let allowed = |at: usize| may.iter().any(|range| range.contains(&at));
    let alike = |(piece, (old, new)): (usize, (&[u8], &[u8]))| {
        old == new || old.iter().zip(new).enumerate().all(|(at, (old, new))| old == new || allowed(piece * PIECE + at))
    };
    old.len() == new.len() && old.chunks(PIECE).zip(new.chunks(PIECE)).enumerate().all(alike)
}

fn wrong(what: &str) -> StorageError {
    StorageError::Corrupt(format!("{what} (audit)"))
}
