//! A node's files as far as they are known. The same walk and the same rules as for an image work on it: what they look at and is not
//! known yet is noted, assumed to be a directory for the time being, and asked for; then they look again.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::image::error::ImageError;
use crate::image::tree::{Kind, Label, Stat, Tree};
use crate::secret::Secret;

/// The most paths of one survey: hostile links could lead through any number of them.
const MOST_PATHS: usize = 400_000;
/// The longest path that Linux takes, in bytes, less its NUL.
const LONGEST_PATH: usize = 4095;

/// What is not known yet is taken for this, until the node has answered.
const UNKNOWN: Stat =
    Stat { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, size: 0, links: 2, inode: 0, modified: 0 };

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
    writers: RefCell<BTreeMap<String, Option<bool>>>,
}

impl NodeTree {
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
        std::mem::take(&mut *self.asked.borrow_mut()).into_iter().collect()
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

    pub(super) fn learn(&mut self, path: String, known: Option<Known>) -> Result<(), ImageError> {
        if self.known.len() >= MOST_PATHS {
            return Err(ImageError::refused(
                "its symbolic links lead through more directories than deaddrop follows",
                "choose paths without links on the way",
            ));
        }
        self.known.insert(path, known);
        Ok(())
    }

    /// Forgets everything, to look again.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.asked.borrow_mut().clear();
        self.writers.borrow_mut().clear();
    }

    /// What stands at a physical path; `None` where nothing does, or it was not looked at.
    pub(super) fn at(&self, path: &str) -> Option<&Known> {
        self.known.get(path)?.as_ref()
    }
}

impl Tree for NodeTree {
    type Node = String;

    fn root(&self) -> Result<String, ImageError> {
        Ok(String::new())
    }

    fn root_stat(&self) -> Result<Stat, ImageError> {
        match self.known.get("/") {
            Some(Some(known)) => Ok(known.stat),
            _ => {
                self.ask("/", None);
                Ok(UNKNOWN)
            }
        }
    }

    fn acl_lets_write(&self, directory: &String) -> Result<bool, ImageError> {
        let path = if directory.is_empty() { "/" } else { directory };
        let mut writers = self.writers.borrow_mut();
        if writers.len() >= MOST_PATHS {
            return Ok(true);
        }
        Ok(writers.entry(path.to_owned()).or_default().unwrap_or(false))
    }

    fn child(&self, directory: &String, name: &[u8]) -> Result<Option<(String, Stat)>, ImageError> {
        let path = format!("{directory}/{}", String::from_utf8_lossy(name));
        if path.len() > LONGEST_PATH || path.contains(['\n', '\0']) {
            return Err(ImageError::refused(
                "a symbolic link leads to a path that is too long, or holds a line end",
                "choose paths without links on the way",
            ));
        }
        match self.known.get(&path) {
            Some(known) => Ok(known.as_ref().map(|known| (path, known.stat))),
            None => {
                self.ask(&path, None);
                Ok(Some((path, UNKNOWN)))
            }
        }
    }

    fn read_link(&self, link: &String) -> Result<Vec<u8>, ImageError> {
        // An empty text is a link that leads to no place for a file.
        Ok(self.at(link).and_then(|known| known.link.clone()).unwrap_or_default())
    }

    fn read(&self, file: &String, limit: u64) -> Result<Option<Secret>, ImageError> {
        let Some(known) = self.at(file) else { return Ok(None) };
        if known.stat.kind != Kind::File || known.stat.size > limit {
            return Ok(None);
        }
        if known.stat.size == 0 {
            return Ok(Some(Secret::new(Vec::new())));
        }
        if known.content.is_none() {
            self.ask(file, Some(limit));
        }
        Ok(known.content.clone())
    }

    /// On a running node the kernel and its policy label what is made.
    fn label(&self, _: &String) -> Result<Option<Label>, ImageError> {
        Ok(None)
    }

    fn some_children(&self, _: &String, _: usize) -> Result<Vec<(String, Stat)>, ImageError> {
        Ok(Vec::new())
    }
}
