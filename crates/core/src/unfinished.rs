//! A file that does not appear before it is complete: it has no name while it is written, and mode 0600 from the start.
//!
//! Used for the spool of a compressed image and for every output. With `O_TMPFILE` the kernel removes the file when the
//! process ends, for whatever reason. On a file system without `O_TMPFILE` (NFS, FAT, …) the file has a temporary
//! name, which is removed on drop and on SIGHUP, SIGINT and SIGTERM; `kill -9` or a power cut may leave it, with mode
//! 0600. So may they with a file that is about to replace another. Its writer holds a lock on it (flock(2)), by which
//! [`remove_left`] knows that it is nobody's any more.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::BuildHasher;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{geteuid, linkat, syncfs};

use crate::error::CommitError;
use crate::sys::{RemoveOnSignal, SignalsWait};

/// A file without a name, or with a temporary one.
pub struct Unfinished {
    file: File,
    directory: PathBuf,
    /// On a file system without unnamed files.
    name: Option<TemporaryName>,
}

/// A name that is removed on drop.
struct TemporaryName {
    path: PathBuf,
    _guard: Option<RemoveOnSignal>,
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        // Ignored: either it is removed already, or it stays as a file that only this user can read.
        let _ = fs::remove_file(&self.path);
    }
}

impl Unfinished {
    /// A new file that will get its name in `directory`.
    ///
    /// # Errors
    /// If `directory` is not writable; the error of the system call.
    pub fn create(directory: &Path) -> io::Result<Self> {
        match unnamed(directory) {
            Ok(file) => Ok(Self { file, directory: directory.to_owned(), name: None }),
            Err(e) if has_no_unnamed_files(&e) => Self::create_named(directory),
            Err(e) => Err(e),
        }
    }

    /// Like [`Self::create`], for a file system without unnamed files.
    fn create_named(directory: &Path) -> io::Result<Self> {
        let ((file, guard), path) = with_new_name(directory, |path| {
            // Registered before the file exists, so that no signal arrives in between.
            let guard = RemoveOnSignal::new(path);
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
            hold(&file);
            Ok((file, guard))
        })?;
        Ok(Self { file, directory: directory.to_owned(), name: Some(TemporaryName { path, _guard: guard }) })
    }

    /// A new file that never gets a name.
    ///
    /// # Errors
    /// If `directory` is not writable; the error of the system call.
    pub fn scratch(directory: &Path) -> io::Result<File> {
        let mut unfinished = Self::create(directory)?;
        // Dropping the name removes it; the open file stays usable.
        unfinished.name = None;
        Ok(unfinished.file)
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the content durable and gives the file its name `to`, which must be in the directory where it was created.
    ///
    /// # Errors
    /// `Before`, with `AlreadyExists` if that name exists now, otherwise with the error of the system call: nothing is
    /// left behind. `After` if the name exists but may not be durable.
    pub fn publish(self, to: &Path) -> Result<(), CommitError> {
        let directory = self.make_durable().map_err(CommitError::Before)?;
        let signals = SignalsWait::new();
        self.take_name(to).map_err(CommitError::Before)?;
        let synced = sync_names(directory.as_ref(), &self.file).map_err(|error| match fs::remove_file(to) {
            // As if the file had never existed.
            Ok(()) => CommitError::Before(error),
            Err(_) => CommitError::After(error),
        });
        // Before signals are allowed again: one that terminates the process now must not find a second name.
        drop(self);
        if !matches!(synced, Err(CommitError::Before(_))) {
            signals.committed();
        }
        synced
    }

    fn take_name(&self, to: &Path) -> io::Result<()> {
        match &self.name {
            None => link_unnamed(&self.file, to),
            Some(name) => match fs::hard_link(&name.path, to) {
                // No hard links here (FAT): check, then rename. A file that another process creates at `to` in between
                // is lost.
                Err(e) if matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::EPERM | Errno::EOPNOTSUPP)) => {
                    if fs::symlink_metadata(to).is_ok() {
                        return Err(io::ErrorKind::AlreadyExists.into());
                    }
                    fs::rename(&name.path, to)
                }
                other => other,
            },
        }
    }

    /// Makes the content durable and replaces `to` in one step: at every moment, `to` is wholly the old file or wholly
    /// the new one.
    ///
    /// # Errors
    /// `Before`: `to` is unchanged, and nothing is left behind. `After`: `to` is the new file, and a power cut may
    /// bring the old one back.
    pub fn replace(mut self, to: &Path) -> Result<(), CommitError> {
        // Before the rename: a durable name with content that is not durable would be neither old nor new.
        let directory = self.make_durable().map_err(CommitError::Before)?;
        let signals = SignalsWait::new();
        let name = match self.name.take() {
            Some(name) => name,
            None => {
                // An unnamed file cannot replace a name: it gets a temporary one first.
                let ((), path) = with_new_name(&self.directory, |path| link_unnamed(&self.file, path))
                    .map_err(CommitError::Before)?;
                TemporaryName { path, _guard: None }
            }
        };
        fs::rename(&name.path, to).map_err(CommitError::Before)?;
        let synced = sync_names(directory.as_ref(), &self.file).map_err(CommitError::After);
        signals.committed();
        synced
    }

    /// Makes the content durable, and opens the directory while nothing is changed yet.
    fn make_durable(&self) -> io::Result<Option<File>> {
        self.file.sync_all()?;
        open_for_sync(&self.directory)
    }

    /// Sets the permission bits of the file.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))
    }
}

fn unnamed(directory: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits()).open(directory)?;
    hold(&file);
    Ok(file)
}

/// Locks a new file. Without locks on this file system, [`remove_left`] cannot remove anything either.
fn hold(file: &File) {
    let _ = file.try_lock();
}

/// Removes the files of this user in `directory` that a run which was killed has left: none if it cannot be listed.
/// Returns their names.
#[must_use]
pub fn remove_left(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_left(path) && fs::remove_file(path).is_ok()).collect()
}

/// True if nobody is writing to the unfinished file `path`.
fn is_left(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let random = name.strip_prefix(PREFIX).unwrap_or_default();
    if random.len() != 16 || !random.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return false;
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) else { return false };
    let Ok(found) = file.metadata() else { return false };
    // Empty: perhaps just created, and about to be locked.
    let ours = found.is_file() && found.len() > 0 && found.nlink() == 1 && found.uid() == geteuid().as_raw();
    ours && found.mode() & 0o7777 == 0o600 && file.try_lock().is_ok()
}

/// How a temporary name begins; 16 hexadecimal digits follow.
const PREFIX: &str = ".deaddrop-new-";

/// open(2), `O_TMPFILE`: EOPNOTSUPP from the file system; EISDIR or ENOENT from a kernel that does not know the flag.
fn has_no_unnamed_files(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL))
}

/// linkat(2): the method without privileges goes through /proc.
fn link_unnamed(file: &File, to: &Path) -> io::Result<()> {
    let through_proc = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(AT_FDCWD, through_proc.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW) {
        // No /proc here.
        Err(Errno::ENOENT) => Ok(linkat(file, "", AT_FDCWD, to, AtFlags::AT_EMPTY_PATH)?),
        other => Ok(other?),
    }
}

/// Calls `make` with names in `directory` until one is free.
fn with_new_name<T>(directory: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    for attempt in 0..100_u32 {
        // The hash keys of the standard library are random; a collision only costs another attempt, because `make`
        // never overwrites.
        let random = RandomState::new().hash_one((std::process::id(), attempt));
        let path = directory.join(format!("{PREFIX}{random:016x}"));
        match make(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
            Ok(made) => return Ok((made, path)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Opens a directory for [`sync_names`]; `None` if it is writable but not readable.
///
/// # Errors
/// If the system call fails.
pub fn open_for_sync(directory: &Path) -> io::Result<Option<File>> {
    match File::open(directory) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        other => other.map(Some),
    }
}

/// Makes the names in `directory` durable. If it cannot be opened, or its file system does not sync directories, syncs
/// the whole file system of `file`.
///
/// # Errors
/// If the system call fails: then it is unknown whether a name is durable.
pub fn sync_names(directory: Option<&File>, file: &File) -> io::Result<()> {
    match directory.map(File::sync_all) {
        Some(Ok(())) => Ok(()),
        Some(Err(e))
            if !matches!(
                e.raw_os_error().map(Errno::from_raw),
                Some(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP)
            ) =>
        {
            Err(e)
        }
        _ => Ok(syncfs(file)?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Both constructors: the same must be true for both.
    const WAYS: [fn(&Path) -> io::Result<Unfinished>; 2] = [Unfinished::create, Unfinished::create_named];

    #[test]
    fn it_appears_whole_with_mode_0600_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        for way in WAYS {
            let unfinished = way(directory.path()).unwrap();
            unfinished.file().write_all(b"whole").unwrap();
            let to = directory.path().join("out");
            assert!(!to.exists());
            unfinished.publish(&to).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"whole");
            assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o600);
            assert_eq!(names(directory.path()), ["out"], "nothing else is left");
            fs::remove_file(&to).unwrap();
        }
        for way in WAYS {
            drop(way(directory.path()).unwrap());
            assert!(names(directory.path()).is_empty());
        }
    }

    #[test]
    fn it_never_takes_over_a_name_that_appeared_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        for way in WAYS {
            let unfinished = way(directory.path()).unwrap();
            let to = directory.path().join("out");
            fs::write(&to, "theirs").unwrap();
            let error = unfinished.publish(&to).unwrap_err();
            assert!(matches!(error, CommitError::Before(e) if e.kind() == io::ErrorKind::AlreadyExists));
            assert_eq!(fs::read(&to).unwrap(), b"theirs");
            assert_eq!(names(directory.path()), ["out"]);
        }
    }

    #[test]
    fn it_takes_over_a_name_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        for way in WAYS {
            let unfinished = way(directory.path()).unwrap();
            let to = directory.path().join("out");
            fs::write(&to, "old").unwrap();
            unfinished.file().write_all(b"new").unwrap();
            unfinished.replace(&to).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"new");
            assert_eq!(names(directory.path()), ["out"]);
        }
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_another_writes_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let name = |name: &str| directory.path().join(name);
        let living = Unfinished::create_named(directory.path()).unwrap();
        living.file().write_all(b"whole").unwrap();
        for other in [".deaddrop-new-0123456789abcdeg", ".deaddrop-0123456789abcdef", ".deaddrop-new-0000000000000000"]
        {
            fs::write(name(other), "theirs").unwrap();
        }
        let left = name(".deaddrop-new-0123456789abcdef");
        fs::write(&left, "a value").unwrap();
        for (path, mode) in [(name(".deaddrop-new-0123456789abcdeg"), 0o600), (left.clone(), 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        // Not 0600.
        fs::set_permissions(name(".deaddrop-new-0000000000000000"), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(remove_left(directory.path()), [left]);
        assert!(remove_left(directory.path()).is_empty());
        living.publish(&name("out")).unwrap();
        assert_eq!(names(directory.path()).len(), 4);
    }

    #[test]
    fn a_scratch_file_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let mut scratch = Unfinished::scratch(directory.path()).unwrap();
        scratch.write_all(b"x").unwrap();
        assert_eq!(scratch.metadata().unwrap().nlink(), 0);
        assert!(names(directory.path()).is_empty());
    }
}
