//! The changes of one run in a directory: staged without names, renamed into place one by one, rolled back if one
//! fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{self, Mode};
use nix::unistd::{self, Gid, Uid, UnlinkatFlags};
use xattr::FileExt;

use super::operations::{
    changed_meanwhile, exchange, fill, link, open_directory, own, permissions, random_name, rename, sync_directory,
    unnamed,
};
use super::read_back::{Unlabelled, read_back, unlabelled_note};
use super::{DirectoryTree, Node, failure, fd_stat, open_component};
use crate::error::StorageError;
use crate::tree::{FileKind, Label, Stat, Tree, TreeChange};

/// One completed step, and how to roll it back.
enum Undo {
    RemoveDirectory {
        parent: Node,
        name: String,
    },
    RemoveFile {
        parent: Node,
        name: String,
    },
    /// The old file is at `aside`; both are in `parent`.
    ExchangeBack {
        parent: Node,
        name: String,
        aside: String,
    },
    /// The removed file is at `aside`, and nothing is at `name`; both are in `parent`.
    RenameBack {
        parent: Node,
        name: String,
        aside: String,
    },
    Metadata {
        path: String,
        file: OwnedFd,
        stat: Stat,
    },
}

/// All changes of one run. After [`DirectoryTransaction::run`] it must be finished or rolled back; dropping it, as by a
/// panic, rolls it back.
pub struct DirectoryTransaction<'a> {
    tree: &'a DirectoryTree,
    undo: Vec<Undo>,
    /// The directories that are changed, by path: each is opened once.
    directories: BTreeMap<String, Node>,
    unlabelled: Unlabelled,
    /// Directories that are removed at the end, if they are empty then.
    emptied: Vec<(Node, String)>,
}

/// An old file whose name was removed.
pub struct Dropped {
    /// Its former path.
    pub path: String,
    /// The file, open for reading and writing; or the error of opening it.
    pub file: nix::Result<File>,
}

/// The result of [`DirectoryTransaction::finish_with_old`].
pub struct Finished {
    /// The old files.
    pub dropped: Vec<Dropped>,
    /// Old names that could not be removed, as messages for the user.
    pub stuck: Vec<String>,
    /// Paths without their label.
    pub unlabelled: Unlabelled,
}

/// A file with its content, mode and owner, and no name yet.
struct Staged<'c> {
    path: &'c str,
    parent: Node,
    name: String,
    file: File,
}

impl<'a> DirectoryTransaction<'a> {
    /// A transaction without any step.
    pub fn new(tree: &'a DirectoryTree) -> Self {
        Self {
            tree,
            undo: Vec::new(),
            directories: BTreeMap::new(),
            unlabelled: Unlabelled::new(),
            emptied: Vec::new(),
        }
    }

    /// Makes all changes, and reads them back. `time` becomes the time of new files.
    ///
    /// # Errors
    /// The first failure; the steps completed before it are rolled back by [`DirectoryTransaction::roll_back`].
    pub fn run(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<(), StorageError> {
        let mut staged = Vec::new();
        // Everything that can fail because of space or permissions happens before the first name changes.
        for change in changes {
            match change {
                TreeChange::MakeDirectory { path, mode, uid, gid, label } => {
                    self.make_directory(path, *mode, (*uid, *gid), label.as_ref())?;
                }
                TreeChange::WriteFile { path, content, mode, uid, gid, label } => {
                    let (parent, name) = self.parent(path)?;
                    let mut file = unnamed(&parent, path)?;
                    fill(&mut file, path, content, time)?;
                    self.label(&file, path, label.as_ref());
                    own(&file, path, *uid, *gid)?;
                    stat::fchmod(&file, permissions(*mode))
                        .map_err(|errno| failure("setting the mode of", path, errno))?;
                    unistd::fsync(&file).map_err(|errno| failure("syncing", path, errno))?;
                    staged.push(Staged { path, parent, name, file });
                }
                TreeChange::SetMetadata { .. } | TreeChange::RemoveFile { .. } | TreeChange::RemoveDirectory { .. } => {
                }
            }
        }
        for change in changes {
            if let TreeChange::SetMetadata { path, mode, uid, gid } = change {
                self.set_metadata(path, *mode, *uid, *gid)?;
            }
        }
        for file in &staged {
            self.put_in_place(file)?;
        }
        for change in changes {
            match change {
                TreeChange::RemoveFile { path } => self.set_aside(path)?,
                TreeChange::RemoveDirectory { path } => {
                    let place = self.parent(path)?;
                    self.emptied.push(place);
                }
                _ => {}
            }
        }
        read_back(self.tree, changes, &self.unlabelled)
    }

    /// The parent directory of a physical path, and its last component.
    fn parent(&mut self, path: &str) -> Result<(Node, String), StorageError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let node = match self.directories.get(above) {
            Some(node) => node.clone(),
            None => {
                let node = open_directory(self.tree, above)?;
                self.directories.insert(above.to_owned(), node.clone());
                node
            }
        };
        Ok((node, name.to_owned()))
    }

    fn make_directory(
        &mut self,
        path: &str,
        mode: u32,
        (uid, gid): (u32, u32),
        label: Option<&Label>,
    ) -> Result<(), StorageError> {
        let (parent, name) = self.parent(path)?;
        let failed = |act: &str, errno: Errno| failure(act, path, errno);
        stat::mkdirat(&parent.0.fd, name.as_str(), Mode::S_IRWXU).map_err(|errno| failed("making", errno))?;
        self.undo.push(Undo::RemoveDirectory { parent: parent.clone(), name: name.clone() });
        let made = open_component(&parent, name.as_bytes(), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(|errno| failed("opening", errno))?;
        let made = File::from(made);
        self.label(&made, path, label);
        own(&made, path, uid, gid)?;
        stat::fchmod(&made, permissions(mode)).map_err(|errno| failed("setting the mode of", errno))
    }

    /// Sets the SELinux label of a new file or directory. If the system does not allow it, the change continues: the
    /// path is reported at the end, and a relabel repairs it.
    fn label(&mut self, file: &File, path: &str, label: Option<&Label>) {
        let Some(label) = label else { return };
        if let Err(error) = file.set_xattr(Label::ATTRIBUTE, label.value()) {
            let why =
                error.raw_os_error().map_or_else(|| error.to_string(), |code| Errno::from_raw(code).desc().to_owned());
            self.unlabelled.insert(path.to_owned(), why);
        }
    }

    fn set_metadata(&mut self, path: &str, mode: u32, uid: u32, gid: u32) -> Result<(), StorageError> {
        let (parent, name) = self.parent(path)?;
        let file = open_component(&parent, name.as_bytes(), OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .map_err(|errno| failure("opening", path, errno))?;
        let stat = fd_stat(&file).map_err(|errno| failure("looking at", path, errno))?;
        if stat.kind != FileKind::File {
            return Err(changed_meanwhile(path));
        }
        let handle = file.try_clone().map_err(|error| StorageError::io(format!("opening {path}"), error))?;
        self.undo.push(Undo::Metadata { path: path.to_owned(), file: handle, stat });
        // Narrower permissions first: the new owner must never be able to read the file under the old, wider mode.
        let narrow = permissions(mode & stat.mode);
        stat::fchmod(&file, narrow).map_err(|errno| failure("setting the mode of", path, errno))?;
        own(&file, path, uid, gid)?;
        stat::fchmod(&file, permissions(mode)).map_err(|errno| failure("setting the mode of", path, errno))?;
        unistd::fsync(&file).map_err(|errno| failure("syncing", path, errno))
    }

    fn put_in_place(&mut self, staged: &Staged<'_>) -> Result<(), StorageError> {
        let Staged { path, parent, name, file } = staged;
        match link(file, parent, name) {
            Ok(()) => {
                self.undo.push(Undo::RemoveFile { parent: parent.clone(), name: name.clone() });
                return Ok(());
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failure("naming", path, errno)),
        }
        // An unnamed file cannot replace a name directly: it gets a temporary name for the exchange.
        let aside = random_name()?;
        link(file, parent, &aside).map_err(|errno| failure("naming", path, errno))?;
        self.undo.push(Undo::RemoveFile { parent: parent.clone(), name: aside.clone() });
        exchange(parent, &aside, name).map_err(|errno| failure("replacing", path, errno))?;
        self.undo.pop();
        self.undo.push(Undo::ExchangeBack { parent: parent.clone(), name: name.clone(), aside: aside.clone() });
        self.check_aside(parent, &aside, path)
    }

    /// Renames a file to a temporary name, which it keeps until the end.
    fn set_aside(&mut self, path: &str) -> Result<(), StorageError> {
        let (parent, name) = self.parent(path)?;
        let aside = random_name()?;
        rename(&parent, &name, &aside).map_err(|errno| failure("removing", path, errno))?;
        self.undo.push(Undo::RenameBack { parent: parent.clone(), name, aside: aside.clone() });
        self.check_aside(&parent, &aside, path)
    }

    /// The file at the temporary name must be the one that was checked: a regular file, not something created since the
    /// survey.
    fn check_aside(&self, parent: &Node, aside: &str, path: &str) -> Result<(), StorageError> {
        match self.tree.child(parent, aside.as_bytes())? {
            Some((_, stat)) if stat.kind == FileKind::File => Ok(()),
            _ => Err(changed_meanwhile(path)),
        }
    }

    /// Makes all names durable, those of new and of old files.
    ///
    /// # Errors
    /// For the first directory that cannot be synced.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.directories.iter().try_for_each(|(path, directory)| {
            let place = if path.is_empty() { "/" } else { path };
            sync_directory(directory).map_err(|errno| failure("syncing", place, errno))
        })
    }

    /// Removes the old files and syncs a second time, so that a failure here concerns only the names of old files.
    /// Returns notes for the user.
    ///
    /// # Errors
    /// `HalfDone` if a directory could not be synced.
    pub fn finish(mut self) -> Result<Vec<String>, StorageError> {
        let mut notes = Vec::new();
        notes.extend(unlabelled_note(&self.unlabelled));
        let is_old = |undo: &Undo| matches!(undo, Undo::ExchangeBack { .. } | Undo::RenameBack { .. });
        if self.emptied.is_empty() && !self.undo.iter().any(is_old) {
            self.undo.clear();
            return Ok(notes);
        }
        self.drop_old(|_, _, _| {}, &mut notes);
        self.sync().map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
            StorageError::HalfDone {
                what: format!("all files are as declared, but {error}{cause}"),
                hint: "is the disk in order? a power cut may bring back names of old files, as `.deaddrop-…`".into(),
            }
        })?;
        Ok(notes)
    }

    /// Like [`DirectoryTransaction::finish`], but the caller syncs, and gets the old files.
    pub fn finish_with_old(mut self) -> Finished {
        let (mut dropped, mut stuck) = (Vec::new(), Vec::new());
        let keep = |parent: &Node, aside: &str, path: &str| {
            let file = open_component(parent, aside.as_bytes(), OFlag::O_RDWR | OFlag::O_NONBLOCK).map(File::from);
            dropped.push(Dropped { path: path.to_owned(), file });
        };
        self.drop_old(keep, &mut stuck);
        Finished { dropped, stuck, unlabelled: std::mem::take(&mut self.unlabelled) }
    }

    /// Removes the names of the old files. Before each, calls `before` with its directory, its current name and its
    /// former path.
    fn drop_old(&mut self, mut before: impl FnMut(&Node, &str, &str), notes: &mut Vec<String>) {
        // No rollback from here on.
        for undo in std::mem::take(&mut self.undo) {
            let (Undo::ExchangeBack { parent, name, aside } | Undo::RenameBack { parent, name, aside }) = undo else {
                continue;
            };
            let path = parent.path_of(name.as_bytes());
            before(&parent, &aside, &path);
            if let Err(errno) = unistd::unlinkat(&parent.0.fd, aside.as_str(), UnlinkatFlags::NoRemoveDir) {
                let (old, why) = (parent.path_of(aside.as_bytes()), errno.desc());
                notes.push(format!("the old {path} could not be removed ({why}): it is {old} now, remove it"));
            }
        }
        for (parent, name) in &self.emptied {
            // A directory that is not empty stays.
            let _ = unistd::unlinkat(&parent.0.fd, name.as_str(), UnlinkatFlags::RemoveDir);
        }
    }

    /// Rolls back every step, last first, and returns `error` with the steps that could not be rolled back.
    pub fn roll_back(mut self, error: StorageError) -> StorageError {
        let stuck = self.roll_back_all();
        // Best effort: a directory that cannot be synced may be the cause, and its names are the old ones again.
        let _ = self.sync();
        if stuck.is_empty() {
            return error;
        }
        // One line for the cause: its own causes could not be told from the rollback's below it.
        let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        StorageError::HalfDone {
            what: format!("{error}{cause}; and this could not be taken back: {}", stuck.join(", ")),
            hint: "run the command again: it goes on from what stands there; old files may be left as `.deaddrop-…`"
                .into(),
        }
    }

    /// Rolls back every step, last first; returns the paths that could not be rolled back.
    fn roll_back_all(&mut self) -> Vec<String> {
        let mut stuck = Vec::new();
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            let (path, result) = undo.roll_back();
            if let Err(errno) = result {
                stuck.push(format!("{path} ({})", errno.desc()));
            }
        }
        stuck
    }
}

impl Drop for DirectoryTransaction<'_> {
    fn drop(&mut self) {
        // Nothing to do except after a panic, when there is no caller to report to.
        let _ = self.roll_back_all();
    }
}

impl Undo {
    /// Rolls the step back; returns its path with the result.
    fn roll_back(self) -> (String, nix::Result<()>) {
        match self {
            Self::RemoveDirectory { parent, name } => {
                let result = unistd::unlinkat(&parent.0.fd, name.as_str(), UnlinkatFlags::RemoveDir);
                (parent.path_of(name.as_bytes()), result)
            }
            Self::RemoveFile { parent, name } => {
                let result = unistd::unlinkat(&parent.0.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
                (parent.path_of(name.as_bytes()), result)
            }
            Self::ExchangeBack { parent, name, aside } => {
                let result = exchange(&parent, &aside, &name)
                    .and_then(|()| unistd::unlinkat(&parent.0.fd, aside.as_str(), UnlinkatFlags::NoRemoveDir));
                (parent.path_of(name.as_bytes()), result)
            }
            Self::RenameBack { parent, name, aside } => {
                let result = rename(&parent, &aside, &name);
                (parent.path_of(name.as_bytes()), result)
            }
            Self::Metadata { path, file, stat } => {
                let result = unistd::fchown(&file, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))
                    .and_then(|()| stat::fchmod(&file, permissions(stat.mode)));
                (path, result)
            }
        }
    }
}
