//! Orphans: files that lost their last name while they were open, or whose truncation was not finished. The kernel and
//! e2fsck finish that at the next mount or check; here it is done in memory before anything else is changed.
//!
//! They are in a list that starts in the superblock (`s_last_orphan`) and continues through `i_dtime` of each, or in
//! the orphan file. Kernel documentation, ext4, "Orphan file"; e2fsck, `release_orphan_inodes`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::secret::Wiped;
use deaddrop_core::tree::FileKind;

use crate::device::ReadAt;
use crate::device::overlay::Overlay;
use crate::ext4::format::attributes::{Attribute, CHECKSUM, XATTR_MAGIC, block_attributes, inline_attributes};
use crate::ext4::format::bytes::le32;
use crate::ext4::format::checksum::crc32c;
use crate::ext4::format::features::Compat;
use crate::ext4::format::group::{Bitmap, Group};
use crate::ext4::format::inode::{INLINE_DATA, Inode};
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::read::layout::Layout;

/// The refusal of orphans that are not released.
pub(in crate::ext4) const REFUSAL: &str = "files that were deleted while open still take space (orphans)";
/// `ob_magic` at the end of each block of the orphan file.
const FILE_MAGIC: u32 = 0x0B10_CA04;
/// Maximum number of orphans; a system has a handful.
const MOST: usize = 65_536;
/// `i_dtime`: the time of deletion, or the next orphan of the list. 0x14, u32.
const DELETED: usize = 0x14;
/// `i_file_acl_lo`, u32.
const XATTR_BLOCK: usize = 0x68;
/// `l_i_file_acl_high`, u16.
const XATTR_BLOCK_HIGH: usize = 0x76;
/// `i_flags`: the inode contains the value of another inode's attribute.
const EA_INODE: u32 = 0x20_0000;

/// True if the list or a block of the orphan file has an entry.
///
/// # Errors
/// If the orphan file is damaged or cannot be read.
pub(in crate::ext4) fn exist(reader: &Reader) -> Result<bool, StorageError> {
    let in_file = || Ok(in_file(reader)?.iter().any(|block| block.names.iter().any(|byte| *byte != 0)));
    if reader.superblock.last_orphan != 0 { Ok(true) } else { in_file() }
}

/// One block of the orphan file.
struct FileBlock {
    number: u64,
    /// Inode numbers, four bytes each; 0 for an unused entry.
    names: Vec<u8>,
}

/// The blocks of the orphan file; empty without the feature.
fn in_file(reader: &Reader) -> Result<Vec<FileBlock>, StorageError> {
    if !reader.superblock.features.compat.has(Compat::ORPHAN_FILE) {
        return Ok(Vec::new());
    }
    let inode = reader.inode(reader.superblock.orphan_file_inode)?;
    let block = |number| {
        let block = reader.block(number)?;
        // A block has inode numbers, then its magic and a checksum, four bytes each.
        let (names, tail) = block.split_at(block.len() - 8);
        if le32(tail, 0) != FILE_MAGIC {
            return Err(StorageError::corrupt("ext4: an orphan file's block without its magic number"));
        }
        Ok(FileBlock { number, names: names.to_vec() })
    };
    reader.map(&inode)?.content().map(block).collect()
}

/// Frees the orphans without a name, removes the others from the list, and empties the orphan file, in `overlay` over
/// `reader`'s device. The caller updates the superblock's list head and free counts.
///
/// # Errors
/// If one of them is damaged, is of an unsupported kind, or was to be truncated and is still longer: `overlay` must not
/// be used then.
pub(in crate::ext4) fn release(reader: &Reader, overlay: &Overlay) -> Result<(), StorageError> {
    let mut work = Work { reader, overlay, layout: Layout::of(reader)?, groups: BTreeMap::new() };
    let mut seen = BTreeSet::new();
    let mut next = reader.superblock.last_orphan;
    while next != 0 {
        let inode = work.take(next, &mut seen)?;
        next = le32(&inode.raw, DELETED);
        work.settle(inode)?;
    }
    for block in in_file(reader)? {
        let names: Vec<u32> = block.names.chunks_exact(4).map(|name| le32(name, 0)).filter(|name| *name != 0).collect();
        for name in &names {
            let inode = work.take(*name, &mut seen)?;
            work.settle(inode)?;
        }
        if !names.is_empty() {
            work.empty(&block)?;
        }
    }
    work.finish()
}

struct Work<'a> {
    reader: &'a Reader,
    overlay: &'a Overlay,
    layout: Layout,
    groups: BTreeMap<u32, Edited>,
}

/// A group in which blocks or inodes are freed.
struct Edited {
    group: Group,
    blocks: Option<Bitmap>,
    inodes: Option<Bitmap>,
}

fn corrupt(number: u32, what: &str) -> StorageError {
    StorageError::Corrupt(format!("ext4: orphan inode {number} {what}"))
}

impl Work<'_> {
    /// Reads an orphan; refuses one that is listed twice.
    fn take(&self, number: u32, seen: &mut BTreeSet<u32>) -> Result<Inode, StorageError> {
        if !seen.insert(number) || seen.len() > MOST {
            return Err(corrupt(number, "is there twice, or there are too many"));
        }
        if number < self.reader.superblock.first_inode {
            return Err(corrupt(number, "is a reserved one"));
        }
        self.reader.orphan_inode(number)
    }

    fn settle(&mut self, mut inode: Inode) -> Result<(), StorageError> {
        let (number, index) = self.reader.group_of_inode(inode.number)?;
        if !self.inodes_of(number)?.get(index) {
            return Err(corrupt(inode.number, "is free"));
        }
        if inode.links > 0 {
            self.check_length(&inode)?;
            put(&mut inode, DELETED, &[0; 4]);
            return self.write(inode);
        }
        if inode.has(EA_INODE) || inline_attributes(&inode)?.iter().any(Attribute::has_own_inode) {
            return Err(refused());
        }
        for block in self.reader.map(&inode)?.blocks() {
            self.free_block(block)?;
        }
        if inode.xattr_block != 0 {
            self.leave_attributes(inode.xattr_block)?;
        }
        put(&mut inode, XATTR_BLOCK, &[0; 4]);
        put(&mut inode, XATTR_BLOCK_HIGH, &[0; 2]);
        let time = self.time();
        put(&mut inode, DELETED, &time.to_le_bytes());
        let is_directory = inode.kind == FileKind::Directory;
        self.write(inode)?;
        self.inodes_of(number)?.clear(index);
        let group = &mut self.edited(number)?.group;
        group.free_inodes = group.free_inodes.saturating_add(1);
        group.directories = group.directories.saturating_sub(u32::from(is_directory));
        Ok(())
    }

    /// The time of deletion, in seconds: the last write of the file system, so that the same image always gives the
    /// same result. Never a valid inode number: e2fsck would take it for a list entry.
    fn time(&self) -> u32 {
        let written = u32::try_from(self.reader.superblock.write_time).unwrap_or(u32::MAX);
        written.max(self.reader.superblock.inodes.saturating_add(1))
    }

    /// Refuses a file that has a name, and blocks after its end, or data after its end in the last block.
    fn check_length(&self, inode: &Inode) -> Result<(), StorageError> {
        if inode.has(INLINE_DATA) || !matches!(inode.kind, FileKind::File | FileKind::Directory) {
            return Ok(());
        }
        let size = u64::from(self.reader.geometry.block_size);
        let map = self.reader.map(inode)?;
        let end = map.extents.last().map_or(0, |extent| extent.logical.saturating_add(extent.length));
        if end > inode.size.div_ceil(size) {
            return Err(refused());
        }
        let Some(last) = map.find(inode.size / size) else { return Ok(()) };
        let block = self.reader.block(last)?;
        let used = usize::try_from(inode.size % size).unwrap_or(0);
        let is_cut = block.get(used..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0));
        if is_cut { Ok(()) } else { Err(refused()) }
    }

    fn edited(&mut self, number: u32) -> Result<&mut Edited, StorageError> {
        match self.groups.entry(number) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                Ok(entry.insert(Edited { group: self.reader.group(number)?, blocks: None, inodes: None }))
            }
        }
    }

    fn inodes_of(&mut self, number: u32) -> Result<&mut Bitmap, StorageError> {
        let reader = self.reader;
        let Edited { group, inodes, .. } = self.edited(number)?;
        match inodes {
            Some(bitmap) => Ok(bitmap),
            None => Ok(inodes.insert(reader.inode_bitmap(group)?)),
        }
    }

    fn free_block(&mut self, block: u64) -> Result<(), StorageError> {
        let reader = self.reader;
        if let Some(what) = self.layout.at(block) {
            return Err(StorageError::Corrupt(format!("ext4: an orphan uses block {block} of {what}")));
        }
        let number = reader.group_of_block(block)?;
        let bit = u32::try_from(block.saturating_sub(reader.first_block_of(number))).unwrap_or(u32::MAX);
        let Edited { group, blocks, .. } = self.edited(number)?;
        let bitmap = match blocks {
            Some(bitmap) => bitmap,
            None => blocks.insert(reader.block_bitmap(group)?),
        };
        if !bitmap.get(bit) {
            return Err(StorageError::Corrupt(format!("ext4: an orphan uses block {block}, which is free")));
        }
        bitmap.clear(bit);
        group.free_blocks = group.free_blocks.saturating_add(1);
        Ok(())
    }

    /// Removes one reference to an attribute block; the last one frees it. `h_refcount`, 0x4, u32; `h_checksum`, 0x10,
    /// u32.
    fn leave_attributes(&mut self, number: u64) -> Result<(), StorageError> {
        let wrong = || StorageError::Corrupt(format!("ext4: block {number} contains no attributes"));
        // Read through the overlay: two orphans may share it.
        let mut block = Wiped::zeros(usize_of(self.reader.geometry.block_size));
        let reading = |error| StorageError::io(format!("reading ext4 block {number}"), error);
        self.overlay.read_exact_at(self.reader.block_offset(number)?, &mut block).map_err(reading)?;
        if le32(&block, 0) != XATTR_MAGIC {
            return Err(wrong());
        }
        if block_attributes(&block).ok_or_else(wrong)?.iter().any(Attribute::has_own_inode) {
            return Err(refused());
        }
        let users = le32(&block, 4);
        if users <= 1 {
            return self.free_block(number);
        }
        block[4..8].copy_from_slice(&users.saturating_sub(1).to_le_bytes());
        if self.reader.superblock.has_checksums() {
            let checksum = self.reader.attribute_checksum(number, &block);
            block[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
        }
        self.put_block(number, &block)
    }

    /// Writes an inode with an updated checksum.
    fn write(&self, mut inode: Inode) -> Result<(), StorageError> {
        self.reader.seal_inode(&mut inode);
        let (block, inside) = self.reader.inode_place(inode.number)?;
        let offset = self.reader.block_offset(block)?.saturating_add(u64::try_from(inside).unwrap_or(u64::MAX));
        self.put(offset, &inode.raw)
    }

    /// Empties a block of the orphan file. `ob_checksum` covers the block's number and the entries, seeded with the
    /// file's inode (kernel, `ext4_orphan_file_block_csum`).
    fn empty(&self, block: &FileBlock) -> Result<(), StorageError> {
        let file = self.reader.inode(self.reader.superblock.orphan_file_inode)?;
        let mut bytes = self.reader.block(block.number)?;
        let names = block.names.len();
        bytes[..names].fill(0);
        if self.reader.superblock.has_checksums() {
            let seed = self.reader.inode_seed(file.number, file.generation);
            let checksum = crc32c(crc32c(seed, &block.number.to_le_bytes()), &bytes[..names]);
            bytes[names + 4..names + 8].copy_from_slice(&checksum.to_le_bytes());
        }
        self.put_block(block.number, &bytes)
    }

    /// Writes the bitmaps and the descriptors.
    fn finish(self) -> Result<(), StorageError> {
        for (number, Edited { group, blocks, inodes }) in &self.groups {
            let raw = self.reader.edited_descriptor(group, blocks.as_ref(), inodes.as_ref());
            if let Some(bitmap) = blocks {
                self.put_block(group.block_bitmap, &bitmap.0)?;
            }
            if let Some(bitmap) = inodes {
                self.put_block(group.inode_bitmap, &bitmap.0)?;
            }
            let (block, inside) = self.reader.descriptor_place(*number)?;
            let offset = self.reader.block_offset(block)?.saturating_add(u64::try_from(inside).unwrap_or(u64::MAX));
            self.put(offset, &raw)?;
        }
        Ok(())
    }

    fn put_block(&self, number: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.put(self.reader.block_offset(number)?, bytes)
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.overlay.write_at(offset, bytes).map_err(|error| StorageError::io("releasing orphans in memory", error))
    }
}

fn refused() -> StorageError {
    StorageError::refused(REFUSAL, Remedy::CheckFileSystem)
}

/// Writes a field that every inode has.
fn put(inode: &mut Inode, at: usize, bytes: &[u8]) {
    if let Some(field) = inode.raw.get_mut(at..at.saturating_add(bytes.len())) {
        field.copy_from_slice(bytes);
    }
}
