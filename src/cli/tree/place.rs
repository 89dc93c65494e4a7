//! The directory that becomes a tree: one that the user names, or one in memory. Both are wiped on drop, unless the
//! tree is kept.
//!
//! A tree in memory is locked (flock(2)) as long as its run lives. One without a lock was left by a run that was
//! killed: the next run wipes it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, access, geteuid};

/// What the name of a tree in memory begins with; the user's number and a random number follow.
const PREFIX: &str = "deaddrop-tree";
/// Zeros are written in pieces of this size, in bytes.
const PIECE: usize = 64 << 10;

/// A directory of mode 0700 that becomes a tree.
pub struct Directory {
    path: PathBuf,
    /// Held, never read.
    _lock: Option<Flock<File>>,
    is_kept: bool,
}

impl Directory {
    /// Makes `path`.
    ///
    /// # Errors
    /// If it exists, or cannot be made.
    pub fn make(path: &Path) -> io::Result<Self> {
        make(path)?;
        let made = Self { path: path.to_owned(), _lock: None, is_kept: false };
        // Without a set-group-ID bit that the directory above passes on.
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        Ok(made)
    }

    /// Makes one with a random name in `parent`, and locks it.
    ///
    /// # Errors
    /// If it cannot be made, or is not in memory.
    pub fn make_in_memory(parent: &Path) -> io::Result<Self> {
        loop {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
            let name = format!("{PREFIX}-{}-{:016x}", geteuid(), u64::from_ne_bytes(random));
            let path = parent.join(name);
            make(&path)?;
            let mut made = Self { path, _lock: None, is_kept: false };
            let file = open_directory(&made.path)?;
            // Another run may take it for a left one, until it is locked.
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            if !is_at(&lock, &made.path) {
                continue;
            }
            if !is_in_memory(&lock) {
                return Err(io::Error::other("it is not in memory"));
            }
            made._lock = Some(lock);
            fs::set_permissions(&made.path, Permissions::from_mode(0o700))?;
            return Ok(made);
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Wipes it.
    ///
    /// # Errors
    /// If a file of it could not be wiped, or not be removed.
    pub fn wipe(mut self) -> io::Result<()> {
        self.is_kept = true;
        wipe(&self.path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_kept {
            // After an error, which is what the user has to know of.
            let _ = wipe(&self.path);
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn is_at(directory: &File, path: &Path) -> bool {
    let number = |data: fs::Metadata| (data.dev(), data.ino());
    directory.metadata().map(number).ok() == path.symlink_metadata().map(number).ok()
}

fn is_in_memory(directory: &File) -> bool {
    fstatfs(directory).is_ok_and(|known| known.filesystem_type() == TMPFS_MAGIC)
}

/// The directories where a tree in memory may be: of the user alone first.
fn candidates() -> Vec<PathBuf> {
    let user = geteuid();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = user.is_root().then(|| PathBuf::from("/run"));
    let of_user = PathBuf::from(format!("/run/user/{user}"));
    let mut all: Vec<PathBuf> = named.into_iter().chain(own).chain([of_user, PathBuf::from("/dev/shm")]).collect();
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|path| seen.insert(path.clone()));
    all
}

/// True for a directory in memory in which no other user can replace a name of ours.
fn fits(path: &Path) -> bool {
    let is_ours = |data: &fs::Metadata| {
        let closed = data.mode() & 0o022 == 0 || data.mode() & 0o1000 != 0;
        closed && (data.uid() == 0 || data.uid() == geteuid().as_raw())
    };
    open_directory(path)
        .is_ok_and(|directory| is_in_memory(&directory) && directory.metadata().is_ok_and(|data| is_ours(&data)))
}

/// The first directory where a tree in memory may be made.
///
/// # Errors
/// The directories that were looked at, if none is.
pub fn in_memory() -> Result<PathBuf, Vec<PathBuf>> {
    let writable = |path: &&PathBuf| access(*path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    let all = candidates();
    all.iter().find(|path| fits(path) && writable(path)).cloned().ok_or(all)
}

/// Wipes the trees of this user that no run holds any more. Returns a line about each.
pub fn wipe_left() -> Vec<String> {
    let prefix = format!("{PREFIX}-{}-", geteuid());
    let places = candidates().into_iter().filter(|place| fits(place));
    let entries = places.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let is_left = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&prefix);
    let mut lines = Vec::new();
    for path in entries.filter(is_left).map(|entry| entry.path()) {
        let Ok(directory) = open_directory(&path) else { continue };
        if !directory.metadata().is_ok_and(|data| data.uid() == geteuid().as_raw()) {
            continue;
        }
        // Held until it is wiped.
        let Ok(lock) = Flock::lock(directory, FlockArg::LockExclusiveNonblock) else { continue };
        if !is_at(&lock, &path) {
            continue;
        }
        let shown = path.display();
        lines.push(match wipe(&path) {
            Ok(()) => format!("{shown}: a run that was cut off had left it; it is wiped"),
            Err(error) => format!("{shown}: a run that was cut off has left it, and it could not be wiped: {error}"),
        });
    }
    lines
}

/// Writes zeros over every file of a tree, and removes it. Goes on after an error, and returns the first.
fn wipe(path: &Path) -> io::Result<()> {
    let mut result = Ok(());
    let mut note = |outcome: io::Result<()>| {
        if result.is_ok() {
            result = outcome;
        }
    };
    // The owner may be a user who cannot write to it.
    note(fs::set_permissions(path, Permissions::from_mode(0o700)));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        match kind {
            Ok(kind) if kind.is_dir() => note(wipe(&path)),
            Ok(kind) if kind.is_file() => {
                note(overwrite(&path));
                note(fs::remove_file(&path));
            }
            _ => note(fs::remove_file(&path)),
        }
    }
    note(fs::remove_dir(path));
    result
}

fn overwrite(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let mut file = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let mut left = file.metadata()?.len();
    let zeros = [0; PIECE];
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        file.write_all(zeros.get(..piece).unwrap_or_default())?;
        left = left.saturating_sub(u64::try_from(piece).unwrap_or(left));
    }
    // A directory that the user named may be on a disk, which has the values by now.
    file.sync_all()
}
