//! Which blocks an inode's content lies in. Kernel documentation, ext4, "Extent Tree" and "Direct/Indirect Block
//! Addressing".

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
/// The deepest extent tree that the format knows. `eh_depth`.
const MOST_LEVELS: u16 = 5;
/// Nodes (extent or indirect blocks) that one inode may have before we give up: enough for 16 GiB of single blocks.
const MOST_NODES: usize = 20_000;
/// Blocks of a map that are read at a time, where they follow each other.
const AHEAD: usize = 32;
/// As many holes as are passed over at a time.
const ZEROS: [u8; 256] = [0; 256];
/// Extents that one inode may have before we give up.
const MOST_EXTENTS: usize = 1_000_000;

/// A run of an inode's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ext4) struct Extent {
    /// First block of the content, from 0.
    pub logical: u64,
    /// First block on the device.
    pub physical: u64,
    /// Blocks, at least 1.
    pub length: u64,
    /// Allocated but not written: reads as zeros.
    pub unwritten: bool,
}

/// All blocks of one inode's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::ext4) struct BlockMap {
    /// Content, in order, without overlap.
    pub extents: Vec<Extent>,
    /// Blocks that hold the map itself.
    pub nodes: Vec<u64>,
}

impl BlockMap {
    /// The device's block for block `logical` of the content; `None` for a hole and for what was not written.
    pub fn find(&self, logical: u64) -> Option<u64> {
        let after = self.extents.partition_point(|extent| extent.logical <= logical);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let inside = logical - extent.logical;
        (inside < extent.length && !extent.unwritten).then(|| extent.physical + inside)
    }

    /// Blocks of content.
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
    /// Reads the map of an inode. Empty for what has no blocks: inline content, short links, devices.
    ///
    /// # Errors
    /// When the map is damaged, too large, or cannot be read. [`StorageError::Refused`] when the inode uses a block of the
    /// journal, and is not the journal (see [`Reader::guard_journal`]).
    pub fn map(&self, inode: &Inode) -> Result<BlockMap, StorageError> {
        let mut map = BlockMap::default();
        self.map_into(inode, &mut map)?;
        Ok(map)
    }

    /// The same into a map that was used before, which it empties first.
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
        let mut walk = Walk { reader: self, inode, map, next: 0, ahead: Ahead::default() };
        if inode.has(EXTENTS) {
            walk.extent_node(inode.block_area(), None)
        } else {
            walk.block_pointers(inode.block_area())
        }
    }

    /// True when a link's target lies in `i_block`: it has no block but, perhaps, that of its attributes.
    pub fn is_short_link(&self, inode: &Inode) -> bool {
        let attributes = if inode.xattr_block == 0 { 0 } else { u64::from(self.geometry.block_size / 512) };
        let short = u64::try_from(BLOCK_SIZE).unwrap_or(u64::MAX);
        !inode.has(EXTENTS) && inode.size < short && inode.sectors <= attributes
    }
}

/// A map as it is being read.
struct Walk<'a> {
    reader: &'a Reader,
    inode: &'a Inode,
    map: &'a mut BlockMap,
    /// First block of the content that no extent has claimed yet.
    next: u64,
    /// Blocks of the map that were read before they were asked for.
    ahead: Ahead,
}

/// Consecutive blocks.
#[derive(Default)]
struct Ahead {
    /// Number of the first.
    first: u64,
    bytes: Wiped,
}

impl Ahead {
    /// Block `number`, if it is among them. `size` is that of a block, in bytes.
    fn get(&self, number: u64, size: usize) -> Option<&[u8]> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.bytes.chunks_exact(size).nth(place)
    }
}

impl Walk<'_> {
    fn wrong(&self, what: &str) -> StorageError {
        StorageError::Corrupt(format!("ext4: inode {}: {what}", self.inode.number))
    }

    /// Reads one node of an extent tree, and what is below it. `depth` is what the node above promised.
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
                // Lengths over 32768 mark an extent that was not written.
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

    /// An extent block ends with a crc32c, right after room for its entries. `et_checksum`.
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

    /// Reads a block of pointers to content, and takes what they lead to. Where one lies behind another, the next ones are
    /// read with it: the resize inode, which most file systems have, has hundreds in a row.
    fn last_node(&mut self, block: u64) -> Result<(), StorageError> {
        let follows = self.map.nodes.last().is_some_and(|last| last.checked_add(1) == Some(block));
        self.count_node(block)?;
        let size = usize_of(self.reader.geometry.block_size);
        if follows && self.ahead.get(block, size).is_none() {
            self.ahead.first = block;
            self.ahead.bytes.resize(size.saturating_mul(AHEAD), 0);
            if self.reader.read_blocks(block, &mut self.ahead.bytes).is_err() {
                // What is broken may lie behind what was asked for.
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
                // Most of a map mostly is a hole.
                self.next = self.next.saturating_add(u64::try_from(some.len() / 4).unwrap_or(0));
                continue;
            }
            for pointer in some.chunks_exact(4) {
                self.pointer(le32(pointer, 0), 0)?;
            }
        }
        Ok(())
    }

    /// Takes an extent into the map.
    fn claim(&mut self, extent: Extent) -> Result<(), StorageError> {
        let end = extent.physical.checked_add(extent.length);
        if extent.length == 0
            || extent.physical <= u64::from(self.reader.superblock.first_data_block)
            || end.is_none_or(|end| end > self.reader.superblock.blocks)
        {
            return Err(self.wrong("its content lies outside the file system"));
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
            return Err(self.wrong("its content lies in too many pieces"));
        }
        self.map.extents.push(extent);
        Ok(())
    }

    /// Twelve direct pointers, then one each to a block of pointers, of blocks of pointers, and one more level.
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
