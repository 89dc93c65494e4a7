//! A directory tree that is read as a whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat;

use super::{DirectoryTree, Node, failure, fd_stat, open_component, open_to_read};
use crate::bytes::length;
use crate::error::StorageError;
use crate::sys;
use crate::tree::whole::{Entry, WholeTree};
use crate::tree::{FileKind, Stat, Tree};

/// Size of the units in which a file's space is counted, in bytes: stat(2), `st_blocks`.
const SECTOR: u64 = 512;

impl WholeTree for DirectoryTree {
    fn entries(&self, directory: &Node) -> Result<Vec<Entry>, StorageError> {
        let failed = |errno| failure("listing", &directory.path(), errno);
        let opened = open_component(directory, b".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed)?;
        let mut entries = Vec::new();
        for entry in Dir::from_fd(opened).map_err(failed)?.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(Entry { name: name.to_vec(), inode: entry.ino() });
            }
        }
        entries.sort_by_key(|entry| entry.inode);
        Ok(entries)
    }

    fn open_entry(&self, directory: &Node, entry: &Entry) -> Result<Option<(Node, Stat)>, StorageError> {
        self.child(directory, &entry.name)
    }

    fn device(&self, directory: &Node) -> Result<u64, StorageError> {
        let stat = stat::fstat(&directory.0.fd).map_err(|errno| failure("looking at", &directory.path(), errno))?;
        Ok(stat.st_dev)
    }

    fn read_pieces(
        &self,
        file: &Node,
        buffer: &mut [u8],
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StorageError> {
        let Some((parent, name)) = &file.0.parent else {
            return Err(StorageError::corrupt("the root is not a regular file"));
        };
        // Opening anything else could wait for ever, or act on a device.
        let seen = fd_stat(&file.0.fd).map_err(|errno| failure("looking at", &file.path(), errno))?;
        if seen.kind != FileKind::File {
            return Err(StorageError::corrupt(format!("{} is {}", file.path(), seen.kind.name())));
        }
        let opened = open_to_read(parent, name, file)?;
        pieces(&opened, buffer, visit).map_err(|error| StorageError::io(format!("reading {}", file.path()), error))
    }

    fn capacity(&self) -> Option<u64> {
        // Blocks are shared by reflinks, and mounts may be on the way.
        None
    }
}

/// Reads what an open file has now; what is appended meanwhile is left out.
fn pieces(file: &File, buffer: &mut [u8], visit: &mut dyn FnMut(u64, &[u8])) -> io::Result<u64> {
    let metadata = file.metadata()?;
    let size = metadata.len();
    let has_holes = metadata.blocks().saturating_mul(SECTOR) < size;
    let (mut at, mut read) = (0, 0_u64);
    while at < size {
        let data = if has_holes { sys::next_data(file, at..size)? } else { Some(at..size) };
        let Some(data) = data else { break };
        at = data.start;
        while at < data.end {
            let want = usize::try_from(data.end - at).unwrap_or(usize::MAX).min(buffer.len());
            let count = file.read_at(buffer.get_mut(..want).unwrap_or_default(), at)?;
            // It was cut meanwhile.
            let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { return Ok(read) };
            visit(at, piece);
            at = at.saturating_add(length(piece));
            read = read.saturating_add(length(piece));
        }
    }
    Ok(read)
}
