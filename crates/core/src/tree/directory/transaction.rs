//! The changes of one run in a directory: staged without names, put in place one by one, taken back if one fails.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{self, AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{self, Mode};
use nix::unistd::{self, Gid, Uid, UnlinkatFlags};
use xattr::FileExt;

use super::{DirectoryTree, Node, failure, fd_stat, open_component};
use crate::error::StorageError;
use crate::secret::Secret;
use crate::tree::{FileKind, Label, Stat, Tree, TreeChange, walk};

/// One step that was taken, and how to take it back.
enum Undo {
    RemoveDirectory {
        parent: Node,
        name: String,
    },
    RemoveFile {
        parent: Node,
        name: String,
    },
    /// The old file stands under `aside`; both are in `parent`.
    SwapBack {
        parent: Node,
        name: String,
        aside: String,
    },
    /// The removed file stands under `aside`, and nothing under `name`; both are in `parent`.
    NameBack {
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

/// What could not be given its SELinux label, by path, and why.
pub type Unlabelled = BTreeMap<String, String>;

/// All changes of one run. After [`Transaction::run`] it is either finished or taken back; also when it is dropped, as by a
/// panic.
pub struct Transaction<'a> {
    tree: &'a DirectoryTree,
    undo: Vec<Undo>,
    /// The directories that are worked in, by path: each is opened once.
    directories: BTreeMap<String, Node>,
    unlabelled: Unlabelled,
    /// Directories that go at the end, if they are empty then.
    emptied: Vec<(Node, String)>,
}

/// An old file whose name is gone.
pub struct Dropped {
    /// The path that it had.
    pub path: String,
    /// The file, open for reading and writing; the error when it cannot be opened so.
    pub file: nix::Result<File>,
}

/// What [`Transaction::finish_with_old`] leaves to the caller.
pub struct Finished {
    /// The old files.
    pub dropped: Vec<Dropped>,
    /// Old names that could not be taken away, in words for a person.
    pub stuck: Vec<String>,
    /// What has no label.
    pub unlabelled: Unlabelled,
}

/// A file that has its content, mode and owner, and no name yet.
struct Staged<'c> {
    path: &'c str,
    parent: Node,
    name: String,
    file: File,
}

impl<'a> Transaction<'a> {
    /// One in which nothing has happened yet.
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
    /// Whatever fails first; what was done until then waits for [`Transaction::take_back`].
    pub fn run(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<(), StorageError> {
        let mut staged = Vec::new();
        // Everything that can fail for want of space or rights happens before the first name changes.
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

    /// The directory of a physical path, and the last name.
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

    /// Gives a new file or directory its SELinux label. Where the system lets nobody, that is no reason to leave it out: it is
    /// told at the end, and a relabel mends it.
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
        // Fewer rights first: the file never is readable by its new owner under the old, wider mode.
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
        // A new file cannot take over a name at once: it gets another one for as long as the exchange takes.
        let aside = random_name()?;
        link(file, parent, &aside).map_err(|errno| failure("naming", path, errno))?;
        self.undo.push(Undo::RemoveFile { parent: parent.clone(), name: aside.clone() });
        exchange(parent, &aside, name).map_err(|errno| failure("replacing", path, errno))?;
        self.undo.pop();
        self.undo.push(Undo::SwapBack { parent: parent.clone(), name: name.clone(), aside: aside.clone() });
        self.check_aside(parent, &aside, path)
    }

    /// Takes a file's name away; until the end it has another one.
    fn set_aside(&mut self, path: &str) -> Result<(), StorageError> {
        let (parent, name) = self.parent(path)?;
        let aside = random_name()?;
        rename(&parent, &name, &aside).map_err(|errno| failure("removing", path, errno))?;
        self.undo.push(Undo::NameBack { parent: parent.clone(), name, aside: aside.clone() });
        self.check_aside(&parent, &aside, path)
    }

    /// What now stands aside must be what was judged: a regular file, not something put there since the survey.
    fn check_aside(&self, parent: &Node, aside: &str, path: &str) -> Result<(), StorageError> {
        match self.tree.child(parent, aside.as_bytes())? {
            Some((_, stat)) if stat.kind == FileKind::File => Ok(()),
            _ => Err(changed_meanwhile(path)),
        }
    }

    /// Makes all names durable, the new ones and those of the old files.
    ///
    /// # Errors
    /// For the first directory that cannot be synced.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.directories.iter().try_for_each(|(path, directory)| {
            let place = if path.is_empty() { "/" } else { path };
            sync_directory(directory).map_err(|errno| failure("syncing", place, errno))
        })
    }

    /// Drops the old files and syncs: the second time, so that what fails here is about the names of old files alone. What a
    /// person should know of it is returned.
    ///
    /// # Errors
    /// `HalfDone` when a directory could not be synced.
    pub fn finish(mut self) -> Result<Vec<String>, StorageError> {
        let mut notes = Vec::new();
        notes.extend(unlabelled_note(&self.unlabelled));
        let is_old = |undo: &Undo| matches!(undo, Undo::SwapBack { .. } | Undo::NameBack { .. });
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

    /// The same where the caller syncs, and gets the old files to deal with.
    pub fn finish_with_old(mut self) -> Finished {
        let (mut dropped, mut stuck) = (Vec::new(), Vec::new());
        let keep = |parent: &Node, aside: &str, path: &str| {
            let file = open_component(parent, aside.as_bytes(), OFlag::O_RDWR | OFlag::O_NONBLOCK).map(File::from);
            dropped.push(Dropped { path: path.to_owned(), file });
        };
        self.drop_old(keep, &mut stuck);
        Finished { dropped, stuck, unlabelled: std::mem::take(&mut self.unlabelled) }
    }

    /// Takes the names of the old files away; `before` is told of each, with its directory, the name that it has by now, and
    /// the path that it had.
    fn drop_old(&mut self, mut before: impl FnMut(&Node, &str, &str), notes: &mut Vec<String>) {
        // Nothing is taken back any more.
        for undo in std::mem::take(&mut self.undo) {
            let (Undo::SwapBack { parent, name, aside } | Undo::NameBack { parent, name, aside }) = undo else {
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
            // One that is not empty stays.
            let _ = unistd::unlinkat(&parent.0.fd, name.as_str(), UnlinkatFlags::RemoveDir);
        }
    }

    /// Takes back every step, the last first, and returns the error with what could not be taken back.
    pub fn take_back(mut self, error: StorageError) -> StorageError {
        let stuck = self.take_back_all();
        // Best effort: a directory that cannot be synced may be why we are here, and its names are as they were.
        let _ = self.sync();
        if stuck.is_empty() {
            return error;
        }
        // One line for the cause of all: the causes below it are not told apart from these any more.
        let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        StorageError::HalfDone {
            what: format!("{error}{cause}; and this could not be taken back: {}", stuck.join(", ")),
            hint: "run the command again: it goes on from what stands there; old files may be left as `.deaddrop-…`"
                .into(),
        }
    }

    /// Takes back every step, the last first; what could not be taken back is returned.
    fn take_back_all(&mut self) -> Vec<String> {
        let mut stuck = Vec::new();
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            let (path, result) = undo.take_back();
            if let Err(errno) = result {
                stuck.push(format!("{path} ({})", errno.desc()));
            }
        }
        stuck
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Empty, but after a panic: then there is nobody to tell.
        let _ = self.take_back_all();
    }
}

impl Undo {
    /// Takes the step back; the path that it was about comes with the result.
    fn take_back(self) -> (String, nix::Result<()>) {
        match self {
            Self::RemoveDirectory { parent, name } => {
                let result = unistd::unlinkat(&parent.0.fd, name.as_str(), UnlinkatFlags::RemoveDir);
                (parent.path_of(name.as_bytes()), result)
            }
            Self::RemoveFile { parent, name } => {
                let result = unistd::unlinkat(&parent.0.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
                (parent.path_of(name.as_bytes()), result)
            }
            Self::SwapBack { parent, name, aside } => {
                let result = exchange(&parent, &aside, &name)
                    .and_then(|()| unistd::unlinkat(&parent.0.fd, aside.as_str(), UnlinkatFlags::NoRemoveDir));
                (parent.path_of(name.as_bytes()), result)
            }
            Self::NameBack { parent, name, aside } => {
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

/// Makes the names in a directory durable; with everything else where it cannot be opened, or its file system does not sync
/// directories.
fn sync_directory(directory: &Node) -> nix::Result<()> {
    let synced = open_component(directory, b".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)
        .and_then(|directory| unistd::fsync(&directory));
    match synced {
        Err(Errno::EACCES | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            unistd::sync();
            Ok(())
        }
        other => other,
    }
}

/// Opens a directory by its physical path, component by component.
fn open_directory(tree: &DirectoryTree, path: &str) -> Result<Node, StorageError> {
    let mut node = tree.root.clone();
    for component in path.split('/').filter(|component| !component.is_empty()) {
        node = match tree.child(&node, component.as_bytes())? {
            Some((child, stat)) if stat.kind == FileKind::Directory => child,
            _ => return Err(changed_meanwhile(path)),
        };
    }
    Ok(node)
}

/// Opens every changed file again by its path and compares: content (in constant time), kind, mode, owner, and the label but
/// of what is `unlabelled`.
///
/// # Errors
/// `Refused` for the first that is not as the change says; when it cannot be read.
pub fn read_back(tree: &DirectoryTree, changes: &[TreeChange], unlabelled: &Unlabelled) -> Result<(), StorageError> {
    for change in changes {
        let path = change.path();
        let differs = || {
            let what = format!("{} does not read back as it was written", walk::shown(path));
            StorageError::refused(what, "is the disk in order, and does nobody else work in this directory?")
        };
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let found = tree.child(&open_directory(tree, above)?, name.as_bytes())?;
        let (kind, mode, uid, gid) = match change {
            TreeChange::MakeDirectory { mode, uid, gid, .. } => (FileKind::Directory, mode, uid, gid),
            TreeChange::WriteFile { mode, uid, gid, .. } | TreeChange::SetMetadata { mode, uid, gid, .. } => {
                (FileKind::File, mode, uid, gid)
            }
            TreeChange::RemoveFile { .. } if found.is_none() => continue,
            TreeChange::RemoveFile { .. } => return Err(differs()),
            // It goes once nothing is taken back any more.
            TreeChange::RemoveDirectory { .. } => continue,
        };
        let (node, stat) = found.ok_or_else(differs)?;
        if (stat.kind, stat.mode, stat.uid, stat.gid) != (kind, *mode, *uid, *gid) {
            return Err(differs());
        }
        if let Some(label) = change.label()
            && !unlabelled.contains_key(path)
            && tree.label(&node)?.as_ref() != Some(label)
        {
            return Err(differs());
        }
        if let TreeChange::WriteFile { content, .. } = change
            && tree.read(&node, stat.size)?.as_ref() != Some(content)
        {
            return Err(differs());
        }
    }
    Ok(())
}

/// What a person should know of files without a label.
pub fn unlabelled_note(unlabelled: &Unlabelled) -> Option<String> {
    let (path, why) = unlabelled.first_key_value()?;
    let others = match unlabelled.len() {
        1 => String::new(),
        count => format!(" and {} more", count.saturating_sub(1)),
    };
    Some(format!(
        "{}{others} could not be given a SELinux label ({why}): a relabel at boot is needed, make /.autorelabel there",
        walk::shown(path)
    ))
}

/// Makes a file without a name, in the directory where it will get one.
fn unnamed(parent: &Node, path: &str) -> Result<File, StorageError> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    match fcntl::openat(&parent.0.fd, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(fd) => Ok(File::from(fd)),
        // EISDIR comes from kernels and file systems that do not know the flag (open(2), O_TMPFILE).
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => Err(StorageError::unsupported(
            format!("the file system of {} cannot make a file without a name", walk::shown(path)),
            "inject into the image instead, before it is mounted",
        )),
        Err(errno) => Err(failure("making a file for", path, errno)),
    }
}

/// Writes the content. The time is set first thing after it, while the file is still ours.
fn fill(file: &mut File, path: &str, content: &Secret, time: SystemTime) -> Result<(), StorageError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(number) => failure("writing", path, Errno::from_raw(number)),
        None => StorageError::io(format!("writing {path}"), error),
    };
    file.write_all(content.expose()).map_err(failed)?;
    file.set_times(FileTimes::new().set_accessed(time).set_modified(time)).map_err(failed)
}

/// Gives an unnamed file a name; fails where the name is taken. open(2), O_TMPFILE, shows this use of /proc; without
/// /proc (a bare chroot) only root can name a file by its descriptor alone.
fn link(file: &File, parent: &Node, name: &str) -> nix::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    match unistd::linkat(fcntl::AT_FDCWD, unnamed.as_str(), &parent.0.fd, name, AtFlags::AT_SYMLINK_FOLLOW) {
        Err(Errno::ENOENT) => unistd::linkat(file, "", &parent.0.fd, name, AtFlags::AT_EMPTY_PATH),
        other => other,
    }
}

/// Swaps two names of one directory.
fn exchange(directory: &Node, one: &str, other: &str) -> nix::Result<()> {
    let fd = &directory.0.fd;
    fcntl::renameat2(fd, one, fd, other, RenameFlags::RENAME_EXCHANGE)
}

/// Renames inside one directory; fails where the new name is taken.
fn rename(directory: &Node, old: &str, new: &str) -> nix::Result<()> {
    let fd = &directory.0.fd;
    fcntl::renameat2(fd, old, fd, new, RenameFlags::RENAME_NOREPLACE)
}

/// A name that nothing has, also where an earlier run was killed.
fn random_name() -> Result<String, StorageError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| StorageError::io("choosing a name", io::Error::other(error.to_string())))?;
    Ok(format!(".deaddrop-{:016x}", u64::from_ne_bytes(random)))
}

fn changed_meanwhile(path: &str) -> StorageError {
    let what = format!("{} changed while deaddrop was at work", walk::shown(path));
    StorageError::refused(what, "does somebody else work in this directory? try again when they are done")
}

/// Gives a file its owner, if it has another.
fn own(file: &impl AsFd, path: &str, uid: u32, gid: u32) -> Result<(), StorageError> {
    let now = stat::fstat(file).map_err(|errno| failure("looking at", path, errno))?;
    if (now.st_uid, now.st_gid) == (uid, gid) {
        return Ok(());
    }
    match unistd::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Err(Errno::EPERM) => Err(StorageError::refused(
            format!("{} is to belong to {uid}:{gid}, and only root may give a file away", walk::shown(path)),
            "run deaddrop as root for a directory target",
        )),
        other => other.map_err(|errno| failure("setting the owner of", path, errno)),
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}
