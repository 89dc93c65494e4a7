//! System calls on one file or name of a directory tree, with the errors of [`super::failure`].

use std::fs::{File, FileTimes};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{self, AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{self, Mode};
use nix::unistd::{self, Gid, Uid};

use super::{DirectoryTree, Node, failure, open_component};
use crate::error::StorageError;
use crate::secret::Secret;
use crate::tree::{FileKind, Tree, walk};

/// Makes the names in a directory durable; syncs everything if the directory cannot be opened, or its file system does
/// not sync directories.
pub(super) fn sync_directory(directory: &Node) -> nix::Result<()> {
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
pub(super) fn open_directory(tree: &DirectoryTree, path: &str) -> Result<Node, StorageError> {
    let mut node = tree.root.clone();
    for component in path.split('/').filter(|component| !component.is_empty()) {
        node = match tree.child(&node, component.as_bytes())? {
            Some((child, stat)) if stat.kind == FileKind::Directory => child,
            _ => return Err(changed_meanwhile(path)),
        };
    }
    Ok(node)
}

/// Creates an unnamed file in the directory where it will get its name.
pub(super) fn unnamed(parent: &Node, path: &str) -> Result<File, StorageError> {
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

/// Writes the content. The times are set directly afterwards, while we still own the file.
pub(super) fn fill(file: &mut File, path: &str, content: &Secret, time: SystemTime) -> Result<(), StorageError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(number) => failure("writing", path, Errno::from_raw(number)),
        None => StorageError::io(format!("writing {path}"), error),
    };
    file.write_all(content.expose()).map_err(failed)?;
    file.set_times(FileTimes::new().set_accessed(time).set_modified(time)).map_err(failed)
}

/// Gives an unnamed file a name; fails if the name exists. open(2), O_TMPFILE, documents this use of /proc; without
/// /proc (a bare chroot) only root can link a file by its descriptor.
pub(super) fn link(file: &File, parent: &Node, name: &str) -> nix::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    match unistd::linkat(fcntl::AT_FDCWD, unnamed.as_str(), &parent.0.fd, name, AtFlags::AT_SYMLINK_FOLLOW) {
        Err(Errno::ENOENT) => unistd::linkat(file, "", &parent.0.fd, name, AtFlags::AT_EMPTY_PATH),
        other => other,
    }
}

/// Exchanges two names of one directory.
pub(super) fn exchange(directory: &Node, one: &str, other: &str) -> nix::Result<()> {
    let fd = &directory.0.fd;
    fcntl::renameat2(fd, one, fd, other, RenameFlags::RENAME_EXCHANGE)
}

/// Renames inside one directory; fails if the new name exists.
pub(super) fn rename(directory: &Node, old: &str, new: &str) -> nix::Result<()> {
    let fd = &directory.0.fd;
    fcntl::renameat2(fd, old, fd, new, RenameFlags::RENAME_NOREPLACE)
}

/// A name that does not exist, not even as a leftover of a killed run.
pub(super) fn random_name() -> Result<String, StorageError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| StorageError::io("choosing a name", io::Error::other(error.to_string())))?;
    Ok(format!(".deaddrop-{:016x}", u64::from_ne_bytes(random)))
}

pub(super) fn changed_meanwhile(path: &str) -> StorageError {
    let what = format!("{} changed while deaddrop was at work", walk::shown(path));
    StorageError::refused(what, "does somebody else work in this directory? try again when they are done")
}

/// Sets the owner of a file, if it differs.
pub(super) fn own(file: &impl AsFd, path: &str, uid: u32, gid: u32) -> Result<(), StorageError> {
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

pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}
