//! A tree that is read as a whole: each directory and each file once, in bounded memory.

use super::{Stat, Tree};
use crate::error::StorageError;

/// An entry of a directory, not opened yet.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its inode number, as the directory has it.
    pub inode: u64,
}

/// A tree whose files can be read piece by piece.
pub trait WholeTree: Tree {
    /// All entries of `directory` by their inode numbers, which is nearly the order of the files on the disk.
    ///
    /// # Errors
    /// If the directory cannot be read, or is damaged.
    fn entries(&self, directory: &Self::Node) -> Result<Vec<Entry>, StorageError>;

    /// The file, directory or link of an entry of `directory`; links are not followed. `None` if it is gone.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    fn open_entry(&self, directory: &Self::Node, entry: &Entry) -> Result<Option<(Self::Node, Stat)>, StorageError>;

    /// The file system that a directory belongs to: inode numbers are unique in it.
    ///
    /// # Errors
    /// If it cannot be read.
    fn device(&self, directory: &Self::Node) -> Result<u64, StorageError>;

    /// Passes the content of a regular file to `visit` in pieces, each with its offset in bytes, in order. Holes are
    /// left out. `buffer` is at least 64 KiB long; a piece is at most as long as it. Returns what was read, in bytes:
    /// content, and about what it took to find it.
    ///
    /// # Errors
    /// If `file` is not a regular file, is damaged, or cannot be read; some of it may have been visited.
    fn read_pieces(
        &self,
        file: &Self::Node,
        buffer: &mut [u8],
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StorageError>;

    /// What all files together can have, in bytes, if none of them share blocks; `None` if they may.
    fn capacity(&self) -> Option<u64>;
}
