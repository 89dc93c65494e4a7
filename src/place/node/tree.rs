//! A node's files, as far as they are known. The walk and the rules for images work on it. A path that they need and
//! that is not known yet is recorded, assumed to be a directory for now, and asked for; then they run again.
//!
//! A node's answers are hostile: its links could lead anywhere, over long paths and again and again. What is kept
//! because of them and how far they are followed is limited ([`MOST_KEPT`], [`MOST_WALKED`]), and a node over a limit
//! is refused.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{Child, FileKind, Label, Stat, Tree};

use crate::place::survey::USERS_FILE_LIMIT;

/// Maximum number of paths of one survey: hostile links could lead through any number.
const MOST_PATHS: usize = 400_000;
/// Maximum length of a path on Linux, in bytes, without its NUL.
pub(super) const LONGEST_PATH: usize = 4095;
/// Memory limit for what a node adds to the declared paths, in bytes, approximately: paths of links, links, users.
const MOST_KEPT: usize = 16 << 20;
/// And for each declared file: each link in its path is one more path.
const MOST_KEPT_A_FILE: usize = 4 << 10;
/// Cost of a path in addition to its text, which exists three times: recorded, in the question, and known.
const PATH: usize = 256;
/// Maximum size of a node's passwd, group or shadow, in bytes.
pub(super) const MOST_USERS: u64 = 1 << 20;
/// Cost of a line of passwd or group, however short.
const USER: usize = 256;
/// Limit for the paths walked in all surveys of a session, in bytes: 10,000 files behind links take a tenth.
const MOST_WALKED: usize = 192 << 20;
/// Cost of a step of a walk in addition to its path.
const STEP: usize = 64;
/// The same limits for the files of a NixOS: a large one has 2,000 units behind links.
const MOST_KEPT_OF_SYSTEM: usize = 64 << 20;
const MOST_WALKED_OF_SYSTEM: usize = 1 << 30;
/// Maximum size of all contents that are read of a NixOS, in bytes.
const MOST_OF_SYSTEM: u64 = 16 << 20;

/// Assumed for an unknown path, until the node has answered.
const UNKNOWN: Stat =
    Stat { kind: FileKind::Directory, mode: 0o755, uid: 0, gid: 0, size: 0, links: 2, inode: 0, modified: 0 };

/// What exists at a path.
#[derive(Debug)]
pub(super) struct NodeFile {
    pub stat: Stat,
    /// `DEV:INO:SIZE:MTIME:CTIME`, which detects a change.
    pub state: String,
    /// Target of a link; `None` if it contains a line end.
    pub link: Option<Vec<u8>>,
    /// Content of a regular file, once it was requested.
    pub content: Option<Secret>,
}

/// The known files of a node.
#[derive(Debug, Default)]
pub(super) struct NodeTree {
    /// By physical path; `None` if nothing exists there.
    known: HashMap<String, Option<NodeFile>>,
    /// Needed and not known yet: with the maximum size of a regular file's content to read.
    asked: RefCell<BTreeMap<String, Option<u64>>>,
    /// True if an ACL lets others write to a directory, by physical path; `None` if it is needed and not known yet.
    writers: RefCell<HashMap<String, Option<bool>>>,
    /// The names in a directory, by physical path; `None` if they are needed and not known yet.
    names: RefCell<HashMap<String, Option<Vec<Vec<u8>>>>>,
    /// It is a NixOS that is read: its own limits, and [`Self::contents`].
    is_system: bool,
    /// Use of [`MOST_OF_SYSTEM`].
    contents: Cell<u64>,
    /// Use of [`MOST_KEPT`]: since everything was forgotten, and in the current run of the rules.
    kept: Cell<usize>,
    met: Cell<usize>,
    files: Cell<usize>,
    /// Use of [`MOST_WALKED`].
    walked: Cell<usize>,
}

impl NodeTree {
    /// For the files of a NixOS.
    pub(super) fn of_system() -> Self {
        Self { is_system: true, ..Self::default() }
    }

    /// The rules start a run over this many declared files.
    pub(super) fn begin(&self, files: usize) {
        self.files.set(files);
        self.begin_again();
    }

    /// They start again, over the same files.
    pub(super) fn begin_again(&self) {
        self.met.set(0);
    }

    /// Counts what is kept because of the node, or met (a refusal contains the links that led to it).
    fn cost(&self, counter: &Cell<usize>, bytes: usize) -> Result<(), StorageError> {
        counter.set(counter.get().saturating_add(bytes));
        let most = if self.is_system { MOST_KEPT_OF_SYSTEM } else { MOST_KEPT };
        let most = most.saturating_add(self.files.get().saturating_mul(MOST_KEPT_A_FILE));
        if self.kept.get().saturating_add(self.met.get()) > most { Err(too_much()) } else { Ok(()) }
    }

    /// Counts a step of a walk.
    fn step(&self, path: &str) -> Result<(), StorageError> {
        self.walked.set(self.walked.get().saturating_add(path.len()).saturating_add(STEP));
        let most = if self.is_system { MOST_WALKED_OF_SYSTEM } else { MOST_WALKED };
        if self.walked.get() > most { Err(too_much()) } else { Ok(()) }
    }

    /// Asks for a path; with `limit` also for its content.
    pub(super) fn ask(&self, path: &str, limit: Option<u64>) {
        let mut asked = self.asked.borrow_mut();
        if asked.len() < MOST_PATHS {
            let before = asked.entry(path.to_owned()).or_default();
            *before = (*before).max(limit);
        }
    }

    /// The paths to ask for now.
    pub(super) fn take_asked(&self) -> Vec<(String, Option<u64>)> {
        let mut asked: Vec<_> = std::mem::take(&mut *self.asked.borrow_mut()).into_iter().collect();
        // The node expects the content of a directory right after it.
        asked.sort_by(|(one, _), (other, _)| one.split('/').cmp(other.split('/')));
        asked
    }

    /// True if a known directory above lets a user other than root replace the path.
    pub(super) fn is_foreign(&self, path: &str) -> bool {
        if self.is_system {
            // The store's own group may add to it, and change nothing in it.
            return false;
        }
        let above = path.match_indices('/').map(|(end, _)| if end == 0 { "/" } else { &path[..end] });
        above.filter_map(|above| self.at(above)).any(|known| known.stat.uid != 0 || known.stat.mode & 0o022 != 0)
    }

    /// Directories whose ACLs must be asked for now.
    pub(super) fn asked_writers(&self) -> Vec<String> {
        let writers = self.writers.borrow();
        writers.iter().filter(|(_, known)| known.is_none()).map(|(path, _)| path.clone()).collect()
    }

    /// Stores whether an ACL lets others write to a directory.
    pub(super) fn learn_writers(&self, path: String, others_write: bool) {
        self.writers.borrow_mut().insert(path, Some(others_write));
    }

    /// True if something is needed that is not known.
    pub(super) fn has_questions(&self) -> bool {
        !self.asked.borrow().is_empty()
            || self.writers.borrow().values().any(Option::is_none)
            || self.names.borrow().values().any(Option::is_none)
    }

    /// Directories whose names must be asked for now.
    pub(super) fn asked_names(&self) -> Vec<String> {
        let names = self.names.borrow();
        names.iter().filter(|(_, known)| known.is_none()).map(|(path, _)| path.clone()).collect()
    }

    /// Stores the names in a directory.
    pub(super) fn learn_names(&self, path: String, names: Vec<Vec<u8>>) -> Result<(), StorageError> {
        self.cost(&self.kept, names.iter().map(|name| name.len().saturating_add(STEP)).sum())?;
        self.names.borrow_mut().insert(path, Some(names));
        Ok(())
    }

    /// Asks for the content of a file of a NixOS.
    fn ask_content(&self, path: &str, size: u64) -> Result<(), StorageError> {
        if self.asked.borrow().get(path).is_none_or(Option::is_none) {
            self.contents.set(self.contents.get().saturating_add(size));
            if self.contents.get() > MOST_OF_SYSTEM {
                let most = MOST_OF_SYSTEM >> 20;
                return Err(StorageError::refused(format!("over {most} MiB of the system were read before it"), ""));
            }
        }
        self.ask(path, Some(size));
        Ok(())
    }

    pub(super) fn learn(&mut self, path: String, known: Option<NodeFile>) -> Result<(), StorageError> {
        if self.known.len() >= MOST_PATHS {
            return Err(too_much());
        }
        if let Some(link) = known.as_ref().and_then(|known| known.link.as_ref()) {
            self.cost(&self.kept, link.len())?;
        }
        self.known.insert(path, known);
        Ok(())
    }

    /// Forgets everything, to survey again.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.asked.borrow_mut().clear();
        self.writers.borrow_mut().clear();
        self.names.borrow_mut().clear();
        self.kept.set(0);
        self.met.set(0);
    }

    /// In a directory of a NixOS a node looks a name up at once, however large it is.
    fn stat_of(&self, known: &NodeFile) -> Stat {
        match self.is_system && known.stat.kind == FileKind::Directory {
            true => Stat { size: 0, ..known.stat },
            false => known.stat,
        }
    }

    /// What exists at a physical path; `None` if nothing does, or it was not surveyed.
    pub(super) fn at(&self, path: &str) -> Option<&NodeFile> {
        self.known.get(path)?.as_ref()
    }
}

/// No real node is like this.
fn too_much() -> StorageError {
    StorageError::refused(
        "its symbolic links lead through more than deaddrop follows, or it has more users than it reads",
        "choose paths without links on the way",
    )
}

impl Tree for NodeTree {
    type Node = String;

    fn root(&self) -> Result<String, StorageError> {
        Ok(String::new())
    }

    fn root_stat(&self) -> Result<Stat, StorageError> {
        match self.known.get("/") {
            Some(Some(known)) => Ok(known.stat),
            _ => {
                self.ask("/", None);
                Ok(UNKNOWN)
            }
        }
    }

    fn acl_lets_write(&self, directory: &String) -> Result<bool, StorageError> {
        let path = if directory.is_empty() { "/" } else { directory };
        self.step(path)?;
        let mut writers = self.writers.borrow_mut();
        if writers.len() >= MOST_PATHS {
            return Ok(true);
        }
        if !writers.contains_key(path) {
            self.cost(&self.kept, path.len().saturating_add(PATH))?;
        }
        Ok(writers.entry(path.to_owned()).or_default().unwrap_or(false))
    }

    fn child(&self, directory: &String, name: &[u8]) -> Result<Option<(String, Stat)>, StorageError> {
        let path = format!("{directory}/{}", String::from_utf8_lossy(name));
        if path.len() > LONGEST_PATH || name.iter().any(|byte| matches!(byte, b'\n' | 0)) {
            return Err(StorageError::refused(
                "a symbolic link leads to a path that is too long, or holds a line end",
                "choose paths without links on the way",
            ));
        }
        self.step(&path)?;
        match self.known.get(&path) {
            Some(known) => Ok(known.as_ref().map(|known| (path, self.stat_of(known)))),
            None => {
                if !self.asked.borrow().contains_key(&path) {
                    self.cost(&self.kept, path.len().saturating_mul(3).saturating_add(PATH))?;
                }
                self.ask(&path, None);
                Ok(Some((path, UNKNOWN)))
            }
        }
    }

    fn read_link(&self, link: &String) -> Result<Vec<u8>, StorageError> {
        // An empty text is a link that leads to no valid place.
        let to = self.at(link).and_then(|known| known.link.clone()).unwrap_or_default();
        self.cost(&self.met, link.len().saturating_add(to.len()).saturating_mul(2))?;
        Ok(to)
    }

    fn read(&self, file: &String, limit: u64) -> Result<Option<Secret>, StorageError> {
        let Some(known) = self.at(file) else { return Ok(None) };
        if known.stat.kind != FileKind::File || known.stat.size > limit {
            return Ok(None);
        }
        if known.stat.size == 0 {
            return Ok(Some(Secret::new(Vec::new())));
        }
        // (The limit is larger than any declared file's: it identifies the lists of users.)
        let of_users = limit == USERS_FILE_LIMIT;
        if of_users && known.stat.size > MOST_USERS {
            return Err(too_much());
        }
        if known.content.is_none() && self.is_system {
            self.ask_content(file, known.stat.size)?;
        } else if known.content.is_none() {
            self.ask(file, Some(if of_users { MOST_USERS } else { limit }));
        }
        if let Some(content) = known.content.as_ref().filter(|_| of_users) {
            let lines = content.expose().iter().filter(|byte| **byte == b'\n').count();
            self.cost(&self.met, lines.saturating_mul(USER).saturating_add(content.len()))?;
        }
        Ok(known.content.clone())
    }

    fn names(&self, directory: &String, limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
        let path = if directory.is_empty() { "/" } else { directory };
        // One that is not known yet may be none.
        if !self.is_system || self.at(path).is_none_or(|known| known.stat.kind != FileKind::Directory) {
            return Ok(Vec::new());
        }
        let mut all = self.names.borrow_mut();
        let names = all.entry(path.to_owned()).or_default();
        Ok(names.iter().flatten().take(limit).cloned().collect())
    }

    /// On a running node the kernel and its policy label new files.
    fn label(&self, _: &String) -> Result<Option<Label>, StorageError> {
        Ok(None)
    }

    fn children(&self, _: &String, _: usize) -> Result<Vec<Child<String>>, StorageError> {
        Ok(Vec::new())
    }
}
