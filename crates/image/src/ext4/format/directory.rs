//! Directories. Kernel documentation, ext4, "Directory Entries". Hash trees are read as linear directories: their index
//! nodes look like unused entries.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::FileKind;

use super::bytes::{le16, le32};
use super::checksum::crc32c;
use super::features::Incompat;
use super::inode::{INDEX, INLINE_DATA, Inode};
use super::reader::{Reader, usize_of};

/// Maximum size of a directory that is read, in bytes: about two million names.
const MOST_BYTES: u64 = 64 << 20;
/// `det_reserved_ft` of the entry with a block's checksum.
const TAIL_TYPE: u8 = 0xDE;

/// A directory entry without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ext4) struct Entry {
    /// `inode`, 0x0, u32.
    pub inode: u32,
    /// `file_type`, 0x7, u8: 1 file, 2 directory, 7 symbolic link, …; 0 without the feature `filetype`.
    pub file_type: u8,
}

impl Reader {
    /// The entry for this inode: with its type, if entries have types.
    pub fn entry(&self, inode: u32, kind: FileKind) -> Entry {
        let file_type = match kind {
            _ if !self.superblock.features.incompat.has(Incompat::FILETYPE) => 0,
            FileKind::File => 1,
            FileKind::Directory => 2,
            FileKind::CharacterDevice => 3,
            FileKind::BlockDevice => 4,
            FileKind::Fifo => 5,
            FileKind::Socket => 6,
            FileKind::Symlink => 7,
        };
        Entry { inode, file_type }
    }

    /// Searches for `name`; `None` if it does not exist.
    ///
    /// # Errors
    /// If the inode is not a directory, or the directory is damaged, too large, or cannot be read.
    pub fn find(&self, directory: &Inode, name: &[u8]) -> Result<Option<Entry>, StorageError> {
        let mut found = None;
        self.each_entry(directory, &mut |entry_name, entry| {
            if entry_name == name {
                found = Some(entry);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// All names, including `.` and `..` (except in an inline directory, which has neither).
    ///
    /// # Errors
    /// As [`Reader::find`], and if a name exists twice.
    pub fn entries(&self, directory: &Inode) -> Result<BTreeMap<Vec<u8>, Entry>, StorageError> {
        let mut entries = BTreeMap::new();
        let mut twice = false;
        self.each_entry(directory, &mut |name, entry| {
            twice |= entries.insert(name.to_vec(), entry).is_some();
            ControlFlow::Continue(())
        })?;
        if twice { Err(wrong(directory, "a name is there twice")) } else { Ok(entries) }
    }

    /// At most `limit` names with their inodes, without `.` and `..`.
    ///
    /// # Errors
    /// As [`Reader::find`].
    pub fn some_entries(&self, directory: &Inode, limit: usize) -> Result<Vec<(Vec<u8>, u32)>, StorageError> {
        let mut entries = Vec::new();
        self.each_entry(directory, &mut |name, entry| {
            if entries.len() >= limit {
                return ControlFlow::Break(());
            }
            if name != b"." && name != b".." {
                entries.push((name.to_vec(), entry.inode));
            }
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Visits the names, including `.` and `..`, until `visit` breaks.
    ///
    /// # Errors
    /// As [`Reader::find`].
    pub fn each_entry(
        &self,
        directory: &Inode,
        visit: &mut dyn FnMut(&[u8], Entry) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        if directory.kind != FileKind::Directory {
            return Err(wrong(directory, "it is not a directory"));
        }
        if directory.has(INLINE_DATA) {
            let content = self.inline_content(directory)?;
            // The first four bytes are the parent's inode number, instead of `.` and `..`.
            for part in [content.area.get(4..).unwrap_or_default(), &content.rest] {
                if self.entries_in(directory, part, visit)?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let block_size = u64::from(self.geometry.block_size);
        if directory.size > MOST_BYTES || !directory.size.is_multiple_of(block_size) || directory.size == 0 {
            return Err(wrong(directory, &format!("a directory of {} bytes", directory.size)));
        }
        let map = self.map(directory)?;
        let mut block = vec![0; usize_of(self.geometry.block_size)];
        for logical in 0..directory.size / block_size {
            // A hole in a directory is not allowed, but harmless: it contains no names.
            let Some(physical) = map.find(logical) else { continue };
            self.read_block(physical, &mut block)?;
            self.check_directory_block(directory, logical, &block)?;
            if self.entries_in(directory, &block, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Visits the entries of one block (or inline part).
    fn entries_in(
        &self,
        directory: &Inode,
        part: &[u8],
        visit: &mut dyn FnMut(&[u8], Entry) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StorageError> {
        let typed = self.superblock.features.incompat.has(Incompat::FILETYPE);
        let mut rest = part;
        while !rest.is_empty() {
            let inode = le32(rest, 0);
            let length = usize::from(le16(rest, 4));
            let name_length = if typed { le16(rest, 6) & 0xFF } else { le16(rest, 6) };
            let file_type = if typed { rest.get(7).copied().unwrap_or(0) } else { 0 };
            let (Some(entry), Some(after)) = (rest.get(..length), rest.get(length..)) else {
                return Err(wrong(directory, "an entry reaches beyond its block"));
            };
            if length < 8 || !length.is_multiple_of(4) {
                return Err(wrong(directory, &format!("an entry of {length} bytes")));
            }
            if inode != 0 {
                let Some(name) = entry.get(8..8 + usize::from(name_length)).filter(|name| !name.is_empty()) else {
                    return Err(wrong(directory, "a name does not fit its entry"));
                };
                if inode > self.superblock.inodes {
                    return Err(wrong(directory, &format!("an entry leads to inode {inode}")));
                }
                if visit(name, Entry { inode, file_type }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            rest = after;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Checks the crc32c of a directory block: in a tail that looks like an unused entry (`det_checksum`), or, in an
    /// index node, after the space for its entries (`dt_checksum`).
    fn check_directory_block(&self, directory: &Inode, logical: u64, block: &[u8]) -> Result<(), StorageError> {
        if !self.superblock.has_checksums() {
            return Ok(());
        }
        let seed = self.inode_seed(directory.number, directory.generation);
        let size = block.len();
        let fits = match index_entries(directory, logical, block) {
            Some(start) => {
                let (limit, count) = (usize::from(le16(block, start)), usize::from(le16(block, start + 2)));
                let tail = start + limit * 8;
                count <= limit
                    && tail + 8 <= size
                    && block.get(..start + count * 8).zip(block.get(tail..tail + 4)).is_some_and(
                        |(covered, reserved)| {
                            let checksum = crc32c(crc32c(crc32c(seed, covered), reserved), &[0; 4]);
                            checksum == le32(block, tail + 4)
                        },
                    )
            }
            None => {
                // At least 1,024 bytes, so that the tail's place cannot underflow.
                let tail = size - 12;
                le32(block, tail) == 0
                    && le16(block, tail + 4) == 12
                    && block.get(tail + 7) == Some(&TAIL_TYPE)
                    && crc32c(seed, block.get(..tail).unwrap_or_default()) == le32(block, tail + 8)
            }
        };
        if fits { Ok(()) } else { Err(wrong(directory, "the checksum of a directory block does not match")) }
    }
}

/// Start of the entries of an index node, in bytes; `None` for a block of names. Kernel documentation, ext4, "Hash Tree
/// Directories": the root is block 0, after `.` and `..`; inner nodes are one unused entry as long as the block.
fn index_entries(directory: &Inode, logical: u64, block: &[u8]) -> Option<usize> {
    if !directory.has(INDEX) {
        None
    } else if logical == 0 {
        Some(0x20)
    } else {
        (le32(block, 0) == 0 && usize::from(le16(block, 4)) == block.len()).then_some(8)
    }
}

fn wrong(directory: &Inode, what: &str) -> StorageError {
    StorageError::Corrupt(format!("ext4: directory inode {}: {what}", directory.number))
}
