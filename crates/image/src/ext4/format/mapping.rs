//! The blocks of an inode's content. Kernel documentation, ext4, "Extent Tree" and "Direct/Indirect Block Addressing".

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::tree::FileKind;

use super::bytes::{halves, le16, le32};
use super::checksum::crc32c;
use super::inode::{BLOCK_SIZE, EXTENTS, INLINE_DATA, Inode};
use super::reader::{Reader, usize_of};
use crate::ext4::read::layout::damaged;

/// `eh_magic` of every extent node.
const EXTENT_MAGIC: u16 = 0xF30A;
/// Maximum depth of an extent tree in the format. `eh_depth`.
const MOST_LEVELS: u16 = 5;
/// Maximum number of nodes (extent or indirect blocks) of one inode: enough for 16 GiB of single blocks.
const MOST_NODES: usize = 20_000;
/// Number of consecutive map blocks read at a time.
const AHEAD: usize = 32;
/// Holes are skipped in runs of this many bytes of pointers.
const ZEROS: [u8; 256] = [0; 256];
/// Maximum number of extents of one inode.
const MOST_EXTENTS: usize = 1_000_000;

/// A contiguous range of an inode's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ext4) struct Extent {
    /// First block of the content, from 0.
    pub logical: u64,
    /// First block on the device.
    pub physical: u64,
    /// Number of blocks, at least 1.
    pub length: u64,
    /// Allocated but not written: reads as zeros.
    pub unwritten: bool,
}

/// All blocks of one inode's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::ext4) struct BlockMap {
    /// Content, sorted, without overlap.
    pub extents: Vec<Extent>,
    /// Blocks of the map itself.
    pub nodes: Vec<u64>,
}

impl BlockMap {
    /// The device's block for block `logical` of the content; `None` for a hole and for an unwritten extent.
    pub fn find(&self, logical: u64) -> Option<u64> {
        let after = self.extents.partition_point(|extent| extent.logical <= logical);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let inside = logical - extent.logical;
        (inside < extent.length && !extent.unwritten).then(|| extent.physical + inside)
    }

    /// Number of content blocks.
    pub fn content_blocks(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length).sum()
    }

    /// Every block: content, then map.
    pub fn blocks(&self) -> impl Iterator<Item = u64> {
        self.content().chain(self.nodes.iter().copied())
    }

    /// Every block of content.
    pub fn content(&self) -> impl Iterator<Item = u64> {
        self.extents.iter().flat_map(|extent| extent.physical..extent.physical + extent.length)
    }
}

impl Reader {
    /// Reads the map of an inode. Empty for an inode without blocks: inline content, short links, devices.
    ///
    /// # Errors
    /// If the map is damaged, too large, or cannot be read. [`StorageError::Refused`] if an inode other than the
    /// journal's uses a block of the journal (see [`Reader::guard_journal`]).
    pub fn map(&self, inode: &Inode) -> Result<BlockMap, StorageError> {
        let mut map = BlockMap::default();
        self.map_into(inode, &mut map)?;
        Ok(map)
    }

    /// Like [`Reader::map`], into an existing map, which is cleared first.
    ///
    /// # Errors
    /// As [`Reader::map`].
    pub fn map_into(&self, inode: &Inode, map: &mut BlockMap) -> Result<(), StorageError> {
        self.unguarded_map(inode, map)?;
        let Some(journal) = self.journal_place.as_ref().filter(|_| inode.number != self.superblock.journal_inode)
        else {
            return Ok(());
        };
        let content = map.extents.iter().find_map(|extent| journal.first_within(extent.physical, extent.length));
        let others = || map.nodes.iter().chain([&inode.xattr_block]).copied().find(|block| journal.contains(*block));
        match content.or_else(others) {
            Some(block) => Err(damaged(format!("inode {} uses block {block} of the journal", inode.number))),
            None => Ok(()),
        }
    }

    fn unguarded_map(&self, inode: &Inode, map: &mut BlockMap) -> Result<(), StorageError> {
        map.extents.clear();
        map.nodes.clear();
        let mapped = match inode.kind {
            FileKind::File | FileKind::Directory => true,
            FileKind::Symlink => !self.is_short_link(inode),
            FileKind::BlockDevice | FileKind::CharacterDevice | FileKind::Fifo | FileKind::Socket => false,
        };
        if !mapped || inode.has(INLINE_DATA) {
            return Ok(());
        }
        let mut walk = MapReader { reader: self, inode, map, next: 0, ahead: Ahead::default() };
        if inode.has(EXTENTS) {
            walk.extent_node(inode.block_area(), None)
        } else {
            walk.block_pointers(inode.block_area())
        }
    }

    /// True if a link's target is in `i_block`: it has no block except possibly an attribute block.
    pub fn is_short_link(&self, inode: &Inode) -> bool {
        let attributes = if inode.xattr_block == 0 { 0 } else { u64::from(self.geometry.block_size / 512) };
        let short = u64::try_from(BLOCK_SIZE).unwrap_or(u64::MAX);
        !inode.has(EXTENTS) && inode.size < short && inode.sectors <= attributes
    }
}

/// A map while it is being read.
struct MapReader<'a> {
    reader: &'a Reader,
    inode: &'a Inode,
    map: &'a mut BlockMap,
    /// First block of the content after all extents so far.
    next: u64,
    /// Map blocks that were read ahead.
    ahead: Ahead,
}

/// Consecutive blocks.
#[derive(Default)]
struct Ahead {
    /// Number of the first block.
    first: u64,
    bytes: Wiped,
}

impl Ahead {
    /// Block `number`, if it was read ahead. `size` is the block size, in bytes.
    fn get(&self, number: u64, size: usize) -> Option<&[u8]> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.bytes.chunks_exact(size).nth(place)
    }
}

impl MapReader<'_> {
    fn wrong(&self, what: &str) -> StorageError {
        StorageError::Corrupt(format!("ext4: inode {}: {what}", self.inode.number))
    }

    /// Reads one node of an extent tree, and everything below it. `depth` is the depth that the parent node declares.
    fn extent_node(&mut self, node: &[u8], depth: Option<u16>) -> Result<(), StorageError> {
        if le16(node, 0) != EXTENT_MAGIC {
            return Err(self.wrong("an extent node without its magic number"));
        }
        let (entries, most, levels) = (le16(node, 2), le16(node, 4), le16(node, 6));
        let room = (node.len() / 12).saturating_sub(1);
        if entries > most
            || usize::from(most) > room
            || levels > MOST_LEVELS
            || depth.is_some_and(|want| want != levels)
        {
            return Err(self.wrong("an extent node whose counts contradict each other"));
        }
        for entry in node.chunks_exact(12).skip(1).take(usize::from(entries)) {
            let logical = u64::from(le32(entry, 0));
            if logical < self.next {
                return Err(self.wrong("extents that overlap or are out of order"));
            }
            if levels == 0 {
                let length = le16(entry, 4);
                // Lengths over 32768 mark an unwritten extent.
                let unwritten = length > 32768;
                let length = u64::from(if unwritten { length - 32768 } else { length });
                let physical = halves(le32(entry, 8), u32::from(le16(entry, 6)));
                self.claim(Extent { logical, physical, length, unwritten })?;
            } else {
                let child = halves(le32(entry, 4), u32::from(le16(entry, 8)));
                let block = self.node(child)?;
                self.check_node(&block)?;
                // Cannot underflow: levels is not 0.
                self.extent_node(&block, Some(levels - 1))?;
            }
        }
        Ok(())
    }

    /// An extent block ends with a crc32c, directly after the space for its entries. `et_checksum`.
    fn check_node(&self, block: &[u8]) -> Result<(), StorageError> {
        if !self.reader.superblock.has_checksums() {
            return Ok(());
        }
        let tail = 12 + 12 * usize::from(le16(block, 4));
        let seed = self.reader.inode_seed(self.inode.number, self.inode.generation);
        match block.get(..tail) {
            Some(covered) if tail + 4 <= block.len() && crc32c(seed, covered) == le32(block, tail) => Ok(()),
            _ => Err(self.wrong("the checksum of an extent block does not match")),
        }
    }

    /// Counts a block of the map.
    fn count_node(&mut self, block: u64) -> Result<(), StorageError> {
        if self.map.nodes.len() >= MOST_NODES {
            return Err(self.wrong("its block map is too large"));
        }
        if block <= u64::from(self.reader.superblock.first_data_block) {
            return Err(self.wrong("its block map leads to the superblock"));
        }
        self.map.nodes.push(block);
        Ok(())
    }

    /// Reads a block of the map, and counts it.
    fn node(&mut self, block: u64) -> Result<Wiped, StorageError> {
        self.count_node(block)?;
        self.reader.block(block)
    }

    /// Reads a block of pointers to content, and adds their blocks. Consecutive blocks are read together: the resize
    /// inode, which most file systems have, has hundreds of them.
    fn last_node(&mut self, block: u64) -> Result<(), StorageError> {
        let follows = self.map.nodes.last().is_some_and(|last| last.checked_add(1) == Some(block));
        self.count_node(block)?;
        let size = usize_of(self.reader.geometry.block_size);
        if follows && self.ahead.get(block, size).is_none() {
            self.ahead.first = block;
            self.ahead.bytes.resize(size.saturating_mul(AHEAD), 0);
            if self.reader.read_blocks(block, &mut self.ahead.bytes).is_err() {
                // The unreadable sector may be after the requested block.
                self.ahead.bytes.clear();
            }
        }
        let ahead = std::mem::take(&mut self.ahead);
        let done = match ahead.get(block, size) {
            Some(known) => self.content_pointers(known),
            None => self.content_pointers(&self.reader.block(block)?),
        };
        self.ahead = ahead;
        done
    }

    fn content_pointers(&mut self, pointers: &[u8]) -> Result<(), StorageError> {
        for some in pointers.chunks(ZEROS.len()) {
            if ZEROS.get(..some.len()) == Some(some) {
                // Most of a map is usually a hole.
                self.next = self.next.saturating_add(u64::try_from(some.len() / 4).unwrap_or(0));
                continue;
            }
            for pointer in some.chunks_exact(4) {
                match le32(pointer, 0) {
                    0 => self.next = self.next.saturating_add(1),
                    block => self.pointer(block, 0)?,
                }
            }
        }
        Ok(())
    }

    /// Adds an extent to the map.
    fn claim(&mut self, extent: Extent) -> Result<(), StorageError> {
        let end = extent.physical.checked_add(extent.length);
        if extent.length == 0
            || extent.physical <= u64::from(self.reader.superblock.first_data_block)
            || end.is_none_or(|end| end > self.reader.superblock.blocks)
        {
            return Err(self.wrong("its content is outside the file system"));
        }
        // Cannot overflow: logical is a u32, length a u16.
        self.next = extent.logical + extent.length;
        if let Some(last) = self.map.extents.last_mut()
            && last.logical + last.length == extent.logical
            && last.physical + last.length == extent.physical
            && last.unwritten == extent.unwritten
        {
            last.length += extent.length;
            return Ok(());
        }
        if self.map.extents.len() >= MOST_EXTENTS {
            return Err(self.wrong("its content has too many pieces"));
        }
        self.map.extents.push(extent);
        Ok(())
    }

    /// Twelve direct pointers, then one each to a block of pointers, to a block of pointers to such blocks, and to one
    /// more level.
    fn block_pointers(&mut self, area: &[u8]) -> Result<(), StorageError> {
        for (index, pointer) in area.chunks_exact(4).enumerate() {
            let levels = u32::try_from(index.saturating_sub(11)).unwrap_or(0);
            self.pointer(le32(pointer, 0), levels)?;
        }
        Ok(())
    }

    /// One pointer to content (`levels` 0) or to a block of pointers. A zero pointer is a hole.
    fn pointer(&mut self, block: u32, levels: u32) -> Result<(), StorageError> {
        let per_block = u64::from(self.reader.geometry.block_size / 4);
        if block == 0 {
            self.next = self.next.saturating_add(per_block.saturating_pow(levels));
            return Ok(());
        }
        if levels == 0 {
            let logical = self.next;
            return self.claim(Extent { logical, physical: u64::from(block), length: 1, unwritten: false });
        }
        if levels == 1 {
            return self.last_node(u64::from(block));
        }
        let node = self.node(u64::from(block))?;
        for pointer in node.chunks_exact(4) {
            self.pointer(le32(pointer, 0), levels - 1)?;
        }
        Ok(())
    }
}
