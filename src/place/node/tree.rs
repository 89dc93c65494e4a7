//! A node's files as far as they are known. The same walk and the same rules as for an image work on it: what they look at and is not
//! known yet is noted, assumed to be a directory for the time being, and asked for; then they look again.
//!
//! What a node answers is hostile: its links could lead anywhere, through long ways and again and again. What is kept because of them, and
//! how long they are followed, is counted ([`MOST_KEPT`], [`MOST_WALKED`]), and a node that goes over is refused.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, Label, Stat, Tree};

use crate::place::survey::USERS_FILE_LIMIT;

/// The most paths of one survey: hostile links could lead through any number of them.
const MOST_PATHS: usize = 400_000;
/// The longest path that Linux takes, in bytes, less its NUL.
pub(super) const LONGEST_PATH: usize = 4095;
/// What a node may cost besides what was declared, in bytes of memory, about: paths that links lead to, links, users.
const MOST_KEPT: usize = 16 << 20;
/// And for each declared file: each link on its way is a path more.
const MOST_KEPT_A_FILE: usize = 4 << 10;
/// What a path costs besides its text, which is there three times: asked for, in the question, and known.
const PATH: usize = 256;
/// The longest passwd, group or shadow of a node, in bytes.
pub(super) const MOST_USERS: u64 = 1 << 20;
/// What a line of passwd or group costs, however short.
const USER: usize = 256;
/// How much of paths is walked in all surveys of a session, in bytes: 10,000 files behind links take a tenth.
const MOST_WALKED: usize = 192 << 20;
/// What a step of a walk costs besides its path.
const STEP: usize = 64;

/// What is not known yet is taken for this, until the node has answered.
const UNKNOWN: Stat =
    Stat { kind: FileKind::Directory, mode: 0o755, uid: 0, gid: 0, size: 0, links: 2, inode: 0, modified: 0 };

/// What stands at a path.
#[derive(Debug)]
pub(super) struct Known {
    pub stat: Stat,
    /// `DEV:INO:SIZE:MTIME:CTIME`, by which a change is noticed.
    pub state: String,
    /// Where a link leads; `None` where that cannot be said on one line.
    pub link: Option<Vec<u8>>,
    /// What is in a regular file, once it was asked for.
    pub content: Option<Secret>,
}

/// What is known of a node's files.
#[derive(Debug, Default)]
pub(super) struct NodeTree {
    /// By physical path; `None` where nothing stands.
    known: HashMap<String, Option<Known>>,
    /// Looked for, and not known yet: with the size up to which a regular file's content is wanted.
    asked: RefCell<BTreeMap<String, Option<u64>>>,
    /// Whether an ACL lets others write to a directory, by physical path; `None` where that was asked and is not known yet.
    writers: RefCell<HashMap<String, Option<bool>>>,
    /// Of [`MOST_KEPT`]: since all was forgotten, and in this look at what is known.
    kept: Cell<usize>,
    met: Cell<usize>,
    files: Cell<usize>,
    /// Of [`MOST_WALKED`].
    walked: Cell<usize>,
}

impl NodeTree {
    /// The rules begin to look at what is known of so many declared files.
    pub(super) fn begin(&self, files: usize) {
        self.files.set(files);
        self.met.set(0);
    }

    /// Counts what is kept because of the node, or met (a refusal keeps the links that led to it).
    fn cost(&self, counter: &Cell<usize>, bytes: usize) -> Result<(), StorageError> {
        counter.set(counter.get().saturating_add(bytes));
        let most = MOST_KEPT.saturating_add(self.files.get().saturating_mul(MOST_KEPT_A_FILE));
        if self.kept.get().saturating_add(self.met.get()) > most { Err(too_much()) } else { Ok(()) }
    }

    /// Counts a step of a walk.
    fn step(&self, path: &str) -> Result<(), StorageError> {
        self.walked.set(self.walked.get().saturating_add(path.len()).saturating_add(STEP));
        if self.walked.get() > MOST_WALKED { Err(too_much()) } else { Ok(()) }
    }

    /// Asks for a path; `limit` for the content as well.
    pub(super) fn ask(&self, path: &str, limit: Option<u64>) {
        let mut asked = self.asked.borrow_mut();
        if asked.len() < MOST_PATHS {
            let before = asked.entry(path.to_owned()).or_default();
            *before = (*before).max(limit);
        }
    }

    /// What has to be asked for now.
    pub(super) fn take_asked(&self) -> Vec<(String, Option<u64>)> {
        let mut asked: Vec<_> = std::mem::take(&mut *self.asked.borrow_mut()).into_iter().collect();
        // The node expects what is in a directory right after it.
        asked.sort_by(|(one, _), (other, _)| one.split('/').cmp(other.split('/')));
        asked
    }

    /// True where a directory that is known lets somebody else than root put something in the place of what is below it.
    pub(super) fn is_foreign(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(end, _)| if end == 0 { "/" } else { &path[..end] });
        above.filter_map(|above| self.at(above)).any(|known| known.stat.uid != 0 || known.stat.mode & 0o022 != 0)
    }

    /// Directories whose ACLs have to be asked for now.
    pub(super) fn asked_writers(&self) -> Vec<String> {
        let writers = self.writers.borrow();
        writers.iter().filter(|(_, known)| known.is_none()).map(|(path, _)| path.clone()).collect()
    }

    /// Learns whether an ACL lets others write to a directory.
    pub(super) fn learn_writers(&self, path: String, others_write: bool) {
        self.writers.borrow_mut().insert(path, Some(others_write));
    }

    /// True when something was looked for that is not known.
    pub(super) fn has_questions(&self) -> bool {
        !self.asked.borrow().is_empty() || self.writers.borrow().values().any(Option::is_none)
    }

    pub(super) fn learn(&mut self, path: String, known: Option<Known>) -> Result<(), StorageError> {
        if self.known.len() >= MOST_PATHS {
            return Err(too_much());
        }
        if let Some(link) = known.as_ref().and_then(|known| known.link.as_ref()) {
            self.cost(&self.kept, link.len())?;
        }
        self.known.insert(path, known);
        Ok(())
    }

    /// Forgets everything, to look again.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.asked.borrow_mut().clear();
        self.writers.borrow_mut().clear();
        self.kept.set(0);
        self.met.set(0);
    }

    /// What stands at a physical path; `None` where nothing does, or it was not looked at.
    pub(super) fn at(&self, path: &str) -> Option<&Known> {
        self.known.get(path)?.as_ref()
    }
}

/// It is not what nodes look like.
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
            Some(known) => Ok(known.as_ref().map(|known| (path, known.stat))),
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
        // An empty text is a link that leads to no place for a file.
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
        // (Longer than any declared file: that is how the lists of users are asked for.)
        let of_users = limit == USERS_FILE_LIMIT;
        if of_users && known.stat.size > MOST_USERS {
            return Err(too_much());
        }
        if known.content.is_none() {
            self.ask(file, Some(if of_users { MOST_USERS } else { limit }));
        }
        if let Some(content) = known.content.as_ref().filter(|_| of_users) {
            let lines = content.expose().iter().filter(|byte| **byte == b'\n').count();
            self.cost(&self.met, lines.saturating_mul(USER).saturating_add(content.len()))?;
        }
        Ok(known.content.clone())
    }

    /// On a running node the kernel and its policy label what is made.
    fn label(&self, _: &String) -> Result<Option<Label>, StorageError> {
        Ok(None)
    }

    fn some_children(&self, _: &String, _: usize) -> Result<Vec<(String, Stat)>, StorageError> {
        Ok(Vec::new())
    }
}
