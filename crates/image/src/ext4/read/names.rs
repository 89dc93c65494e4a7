//! The names of directories that were searched: a survey walks hundreds of paths through the same few directories.
//!
//! For a file system that does not change. A directory that is large, or damaged after the name that is searched for,
//! is searched as if nothing were known.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use deaddrop_core::error::StorageError;

use crate::ext4::format::directory::Entry;
use crate::ext4::format::inode::Inode;
use crate::ext4::format::reader::Reader;

/// Maximum size of a directory that is remembered, in bytes.
const MOST_BYTES: u64 = 64 << 10;
/// Maximum number of directories.
const MOST_DIRECTORIES: usize = 64;

/// The names of some directories.
#[derive(Default)]
pub(in crate::ext4) struct KnownNames(Mutex<BTreeMap<u32, BTreeMap<Vec<u8>, Entry>>>);

impl KnownNames {
    /// As [`Reader::find`], on the same `reader` each time.
    ///
    /// # Errors
    /// As [`Reader::find`].
    pub fn find(&self, reader: &Reader, directory: &Inode, name: &[u8]) -> Result<Option<Entry>, StorageError> {
        if directory.size > MOST_BYTES {
            return reader.find(directory, name);
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = known.get(&directory.number) {
            return Ok(names.get(name).copied());
        }
        let mut names = BTreeMap::new();
        let listed = reader.each_entry(directory, &mut |name, entry| {
            // The first of two with one name is the one that a search finds.
            names.entry(name.to_vec()).or_insert(entry);
            ControlFlow::Continue(())
        });
        if listed.is_err() {
            return reader.find(directory, name);
        }
        let found = names.get(name).copied();
        if known.len() < MOST_DIRECTORIES {
            known.insert(directory.number, names);
        }
        Ok(found)
    }
}
