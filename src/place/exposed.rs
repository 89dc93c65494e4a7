//! The files of a disk that others can read: users other than a file's owner, who are not in its group either; and
//! everything in the Nix store, which is for everybody and is copied to other machines.

use std::collections::HashSet;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::{Secret, Wiped};
use deaddrop_core::shown;
use deaddrop_core::tree::walk::{self, WalkError};
use deaddrop_core::tree::whole::{Entry, WholeTree};
use deaddrop_core::tree::{FileKind, Stat};

use super::survey::{self, SystemChoice};
use crate::nixos::open_file_system::OpenFileSystem;

/// Permission bit: others may read a file.
const READ: u32 = 0o004;
/// Permission bit: others may enter a directory.
const ENTER: u32 = 0o001;

/// The store.
const STORE: &[u8] = b"/nix/store";
/// The store in a file system that is mounted at /nix.
const STORE_AT_TOP: &[u8] = b"/store";
/// Its directory of hard links to its files (nix.conf, `auto-optimise-store`).
const LINKS: &[u8] = b".links";

/// Size of a piece of a file, in bytes.
const PIECE: usize = 1 << 20;

/// What a file costs besides its content, in bytes: about what could be read in that time.
const FILE_COST: u64 = 256;

/// How often as much as the file system holds is read before its files are said to overlap.
const MOST_TIMES: u64 = 4;

/// Maximum number of unreadable files that are named.
const MOST_NAMED: usize = 100;

/// Takes the content of files, one after the other.
pub trait Reader {
    /// A file begins, at this absolute path. Returns false to skip it.
    fn begin(&mut self, path: &[u8], stat: &Stat) -> bool;

    /// A piece of its content, with its offset in bytes, in order. Holes are left out.
    fn piece(&mut self, offset: u64, bytes: &[u8]);

    /// The file ends.
    fn end(&mut self);
}

/// Files and directories that could not be read.
#[derive(Debug, Default)]
pub struct Unread {
    /// Their number.
    pub count: usize,
    /// Some of them, each with the reason.
    pub reasons: Vec<String>,
}

impl Unread {
    /// Adds what another part of the run could not read.
    pub fn append(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.reasons.extend(other.reasons);
    }

    fn add(&mut self, path: &[u8], error: &StorageError) {
        self.count = self.count.saturating_add(1);
        if self.reasons.len() < MOST_NAMED {
            let cause = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
            self.reasons.push(format!("{}: {error}{cause}", shown_path(path)));
        }
    }
}

/// A path for people; safe for a terminal.
#[must_use]
pub fn shown_path(path: &[u8]) -> String {
    shown::text(&String::from_utf8_lossy(path))
}

/// What stands at a declared path.
#[derive(Debug)]
pub struct OwnFile {
    /// The path without symbolic links.
    pub physical: String,
    /// Its inode number, if others can read it at this path and it has other names.
    pub shared: Option<u64>,
    /// Its content, if it was asked for; `None` if it is larger than the limit, or cannot be read.
    pub content: Option<Secret>,
}

/// What stands at each of these paths; `None` where no regular file does. With a path: whether the content is wanted,
/// if it has at most `limit` bytes. What cannot be read is added to `unread`.
///
/// # Errors
/// If the tree cannot be read.
pub fn own_files<T: WholeTree>(
    tree: &T,
    paths: &[(&str, bool)],
    limit: u64,
    unread: &mut Unread,
    choice: &SystemChoice,
    open: &OpenFileSystem,
) -> Result<Vec<Option<OwnFile>>, StorageError> {
    let declared: Vec<&str> = paths.iter().map(|(path, _)| *path).collect();
    let located = survey::locate_all(tree, &declared, choice, open)?;
    let mut own = |((_, is_wanted), path): (&(&str, bool), &String)| {
        let walked = match walk::trace(tree, path) {
            Ok(walked) => walked,
            Err(WalkError::Image(error)) => return Err(error),
            Err(_) => return Ok(None),
        };
        let Some((node, stat)) = walked.found.as_ref().filter(|(_, stat)| stat.kind == FileKind::File) else {
            return Ok(None);
        };
        let is_exposed = stat.mode & READ != 0 && walked.parents_have(ENTER);
        let shared = (is_exposed && stat.links > 1).then_some(stat.inode);
        let content = if *is_wanted { tree.read(node, limit) } else { Ok(None) };
        let content = content.unwrap_or_else(|error| {
            unread.add(walked.physical.as_bytes(), &error);
            None
        });
        Ok(Some(OwnFile { physical: walked.physical, shared, content }))
    };
    paths.iter().zip(&located).map(&mut own).collect()
}

/// Passes every exposed file to `reader`, each once, whatever its number of names. A directory or file that cannot be
/// read is passed over, and named in the result.
///
/// The top directory counts as open: a directory that a root is built in is often closed, and the root is not.
///
/// # Errors
/// If the tree cannot be read at all, or its files overlap, so that reading them would not end.
pub fn read_exposed<T: WholeTree>(tree: &T, reader: &mut dyn Reader) -> Result<Unread, StorageError> {
    let root = tree.root()?;
    let has_nix = tree.child(&root, b"nix")?.is_some();
    let mut walk = Exposed {
        tree,
        reader,
        store: if has_nix { STORE } else { STORE_AT_TOP },
        seen: HashSet::new(),
        unread: Unread::default(),
        buffer: Wiped::zeros(PIECE),
        read: 0,
        most: tree.capacity().map(|capacity| capacity.saturating_mul(MOST_TIMES)),
    };
    let top = walk.list(root, b"", &tree.root_stat()?, true)?;
    let mut stack: Vec<Directory<T::Node>> = top.into_iter().collect();
    while let Some(directory) = stack.last_mut() {
        let Some(entry) = directory.entries.pop() else {
            stack.pop();
            continue;
        };
        let below = walk.entry(directory, &entry)?;
        stack.extend(below);
    }
    Ok(walk.unread)
}

/// A directory whose entries are being read.
struct Directory<N> {
    node: N,
    /// Its absolute path; empty for the root.
    path: Vec<u8>,
    device: u64,
    /// The entries that are left, the next one last.
    entries: Vec<Entry>,
    /// Others can enter it.
    open: bool,
}

struct Exposed<'a, T: WholeTree> {
    tree: &'a T,
    reader: &'a mut dyn Reader,
    store: &'static [u8],
    /// Directories, and files with several names: file system and inode number.
    seen: HashSet<(u64, u64)>,
    unread: Unread,
    buffer: Wiped,
    /// What was read, in bytes.
    read: u64,
    /// The most that is read, in bytes.
    most: Option<u64>,
}

impl<T: WholeTree> Exposed<'_, T> {
    /// One entry of a directory: reads the file, or returns the directory to go on with.
    fn entry(
        &mut self,
        directory: &Directory<T::Node>,
        entry: &Entry,
    ) -> Result<Option<Directory<T::Node>>, StorageError> {
        let path = [&directory.path, &b"/"[..], &entry.name].concat();
        self.spend(FILE_COST)?;
        let (node, stat) = match self.tree.open_entry(&directory.node, entry) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.unread.add(&path, &error);
                return Ok(None);
            }
        };
        let in_store = is_at_or_below(&path, self.store);
        match stat.kind {
            FileKind::Directory => {
                let open = directory.open && stat.mode & ENTER != 0;
                let leads_to_store = is_at_or_below(self.store, &path);
                if open || in_store || leads_to_store { self.enter(node, &path, &stat, open) } else { Ok(None) }
            }
            FileKind::File if in_store || (directory.open && stat.mode & READ != 0) => {
                let is_new = stat.links < 2 || self.seen.insert((directory.device, stat.inode));
                if is_new && stat.size > 0 && self.reader.begin(&path, &stat) {
                    self.file(&node, &path)?;
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn file(&mut self, node: &T::Node, path: &[u8]) -> Result<(), StorageError> {
        let reader = &mut *self.reader;
        let read = self.tree.read_pieces(node, &mut self.buffer, &mut |offset, bytes| reader.piece(offset, bytes));
        self.reader.end();
        match read {
            Ok(read) => self.spend(read),
            Err(error) => {
                self.unread.add(path, &error);
                Ok(())
            }
        }
    }

    /// A directory to go on with; `None` if it was listed already, or cannot be.
    fn enter(
        &mut self,
        node: T::Node,
        path: &[u8],
        stat: &Stat,
        open: bool,
    ) -> Result<Option<Directory<T::Node>>, StorageError> {
        self.spend(stat.size)?;
        Ok(self.list(node, path, stat, open).unwrap_or_else(|error| {
            self.unread.add(path, &error);
            None
        }))
    }

    /// Lists a directory; `None` if it was listed already.
    fn list(
        &mut self,
        node: T::Node,
        path: &[u8],
        stat: &Stat,
        open: bool,
    ) -> Result<Option<Directory<T::Node>>, StorageError> {
        let device = self.tree.device(&node)?;
        if !self.seen.insert((device, stat.inode)) {
            return Ok(None);
        }
        let mut entries = self.tree.entries(&node)?;
        // They are taken from the end.
        entries.reverse();
        if path == self.store {
            // A file of the store is better known by its own name than by the one in there.
            entries.sort_by_key(|entry| entry.name != LINKS);
        }
        Ok(Some(Directory { node, path: path.to_vec(), device, entries, open }))
    }

    /// Counts what is read.
    fn spend(&mut self, bytes: u64) -> Result<(), StorageError> {
        self.read = self.read.saturating_add(bytes);
        if self.most.is_some_and(|most| self.read > most) {
            return Err(StorageError::corrupt("its files are larger than the file system (run `e2fsck -f`)"));
        }
        Ok(())
    }
}

/// True if `path` is `directory` or below it.
fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
