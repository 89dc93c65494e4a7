//! A directory of this machine as a tree.
//!
//! Every path is opened one component at a time, and the kernel never follows links, so nothing outside the directory
//! is ever read or written.

mod operations;
pub mod read_back;
pub mod transaction;
mod whole;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{self, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{self, Mode, SFlag};
use xattr::FileExt;
use zeroize::Zeroizing;

use crate::error::StorageError;
use crate::secret::Secret;
use crate::text;
use crate::tree::{Child, FileKind, Label, Stat, Tree, acl, walk};

/// An open file or directory of the tree and its parent: reading it needs a second open with read access.
#[derive(Clone)]
pub struct Node(Rc<Opened>);

struct Opened {
    /// Opened with O_PATH: never blocks, never acts on a device.
    fd: OwnedFd,
    parent: Option<(Node, Vec<u8>)>,
}

impl Node {
    /// The absolute path of this node inside the target; safe for a terminal.
    fn path(&self) -> String {
        self.0.parent.as_ref().map_or_else(|| "/".to_owned(), |(parent, name)| parent.path_of(name))
    }

    /// The absolute path of `name` in this directory, inside the target; safe for a terminal.
    fn path_of(&self, name: &[u8]) -> String {
        let mut names = vec![name];
        let mut node = self;
        while let Some((parent, name)) = &node.0.parent {
            names.push(name);
            node = parent;
        }
        let path = names.iter().rev().flat_map(|name| [b"/", *name]).collect::<Vec<&[u8]>>().concat();
        text::shown(&path).unwrap_or_default()
    }
}

/// A directory as a tree.
pub struct DirectoryTree {
    root: Node,
}

impl DirectoryTree {
    /// The tree below a directory.
    ///
    /// # Errors
    /// If it is not a directory, or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = fcntl::open(path, flags, Mode::empty())
            .map_err(|errno| failure("opening", &path.display().to_string(), errno))?;
        Ok(Self::at(fd))
    }

    /// The tree below an open directory (O_PATH is enough).
    pub fn at(directory: OwnedFd) -> Self {
        Self { root: Node(Rc::new(Opened { fd: directory, parent: None })) }
    }
}

impl DirectoryTree {
    /// Opens the file or directory at a physical path for ioctls; `None` if nothing exists there, or it is neither a
    /// file nor a directory.
    pub fn open_for_query(&self, path: &str) -> Result<Option<File>, StorageError> {
        let mut node = self.root.clone();
        let mut kind = FileKind::Directory;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            match self.child(&node, component.as_bytes())? {
                Some((child, stat)) => (node, kind) = (child, stat.kind),
                None => return Ok(None),
            }
        }
        let (parent, name) = match &node.0.parent {
            _ if !matches!(kind, FileKind::Directory | FileKind::File) => return Ok(None),
            Some((parent, name)) => (parent, name.as_slice()),
            None => (&node, b".".as_slice()),
        };
        let opened = open_component(parent, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
        opened.map(|fd| Some(File::from(fd))).map_err(|errno| failure("opening", &node.path(), errno))
    }
}

impl Tree for DirectoryTree {
    type Node = Node;

    fn root(&self) -> Result<Node, StorageError> {
        Ok(self.root.clone())
    }

    fn root_stat(&self) -> Result<Stat, StorageError> {
        fd_stat(&self.root.0.fd).map_err(|errno| failure("looking at", "/", errno))
    }

    fn child(&self, directory: &Node, name: &[u8]) -> Result<Option<(Node, Stat)>, StorageError> {
        let fd = match open_component(directory, name, OFlag::O_PATH) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failure("opening", &directory.path_of(name), errno)),
        };
        let stat = fd_stat(&fd).map_err(|errno| failure("looking at", &directory.path_of(name), errno))?;
        Ok(Some((Node(Rc::new(Opened { fd, parent: Some((directory.clone(), name.to_vec())) })), stat)))
    }

    fn read_link(&self, link: &Node) -> Result<Vec<u8>, StorageError> {
        let text = fcntl::readlinkat(&link.0.fd, "")
            .map_err(|errno| StorageError::io("reading a symbolic link", errno.into()))?;
        Ok(text.as_bytes().to_vec())
    }

    fn read(&self, file: &Node, limit: u64) -> Result<Option<Secret>, StorageError> {
        let Some((parent, name)) = &file.0.parent else {
            return Err(StorageError::corrupt("the root is not a regular file"));
        };
        let path = parent.path_of(name);
        let seen = fd_stat(&file.0.fd).map_err(|errno| failure("looking at", &path, errno))?;
        if seen.kind != FileKind::File {
            return Err(StorageError::corrupt(format!("{path} is {}", seen.kind.name())));
        }
        if seen.size > limit {
            return Ok(None);
        }
        read_at_most(open_to_read(parent, name, file)?, limit)
            .map_err(|error| StorageError::io(format!("reading {path}"), error))
    }

    fn acl_lets_write(&self, directory: &Node) -> Result<bool, StorageError> {
        let failed = |error| StorageError::io(format!("reading the ACL of {}", directory.path()), error);
        let opened = open_component(directory, b".", OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        let file = File::from(opened.map_err(|errno| failed(errno.into()))?);
        match file.get_xattr(acl::ATTRIBUTE) {
            Ok(None) => Ok(false),
            // An attribute that is not a known ACL might allow anything.
            Ok(Some(value)) => Ok(acl::lets_write(&value, acl::Form::Attribute).unwrap_or(true)),
            // A file system without ACLs.
            Err(error) if error.raw_os_error().map(Errno::from_raw) == Some(Errno::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    fn label(&self, node: &Node) -> Result<Option<Label>, StorageError> {
        let opened = match &node.0.parent {
            Some((parent, name)) => open_component(parent, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK),
            None => open_component(node, b".", OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        };
        let file = match opened {
            Ok(fd) if same_file(&fd, &node.0.fd) => File::from(fd),
            // No permission to read it, or it was replaced since: its label is unknown.
            Ok(_) | Err(Errno::EACCES | Errno::EPERM | Errno::ENOENT | Errno::ELOOP) => return Ok(None),
            Err(errno) => return Err(failure("opening", &node.path(), errno)),
        };
        read_label(&file, &node.path())
    }

    fn children(&self, directory: &Node, limit: usize) -> Result<Vec<Child<Node>>, StorageError> {
        let mut children = Vec::new();
        for name in self.names(directory, limit)? {
            let found = self.child(directory, &name)?;
            children.extend(found.map(|(node, stat)| Child { name, node, stat }));
        }
        Ok(children)
    }

    fn names(&self, directory: &Node, limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
        let failed = |errno| failure("listing", &directory.path(), errno);
        let opened = match open_component(directory, b".", OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(Errno::EACCES | Errno::EPERM) => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(opened).map_err(failed)?.iter() {
            if names.len() >= limit {
                break;
            }
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }
}

/// The SELinux label of an open file or directory; `path` is for messages.
fn read_label(file: &File, path: &str) -> Result<Option<Label>, StorageError> {
    let value = match file.get_xattr(Label::ATTRIBUTE) {
        Ok(value) => value.filter(|value| !value.is_empty()),
        // A file system without labels.
        Err(error) if error.raw_os_error().map(Errno::from_raw) == Some(Errno::EOPNOTSUPP) => None,
        Err(error) => return Err(StorageError::io(format!("reading the label of {path}"), error)),
    };
    let Some(value) = value else { return Ok(None) };
    Label::new(value).map(Some).ok_or_else(|| {
        StorageError::unsupported(
            format!("the SELinux label of {path} has over {} bytes", Label::LONGEST),
            "give it a usual one: `chcon` or `restorecon`",
        )
    })
}

/// Opens `name` in `directory` without following it. `name` is one component.
///
/// openat2 states this to the kernel; if a container's filter forbids it, O_NOFOLLOW on one component has the same
/// effect.
fn open_component(directory: &Node, name: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match fcntl::openat2(&directory.0.fd, name, how) {
        Err(Errno::ENOSYS | Errno::EPERM) => fcntl::openat(&directory.0.fd, name, flags, Mode::empty()),
        other => other,
    }
}

/// Opens `file`, which is `name` in `parent`, to read its content.
fn open_to_read(parent: &Node, name: &[u8], file: &Node) -> Result<File, StorageError> {
    let opened = open_component(parent, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
        .map_err(|errno| failure("opening", &parent.path_of(name), errno))?;
    if !same_file(&opened, &file.0.fd) {
        let hint = "does somebody else work in this directory? try again when they are done";
        return Err(StorageError::refused(format!("{} was replaced while it was read", parent.path_of(name)), hint));
    }
    Ok(File::from(opened))
}

fn fd_stat(fd: &OwnedFd) -> nix::Result<Stat> {
    let stat = stat::fstat(fd)?;
    let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => FileKind::Directory,
        SFlag::S_IFLNK => FileKind::Symlink,
        SFlag::S_IFBLK => FileKind::BlockDevice,
        SFlag::S_IFCHR => FileKind::CharacterDevice,
        SFlag::S_IFIFO => FileKind::Fifo,
        SFlag::S_IFSOCK => FileKind::Socket,
        _ => FileKind::File,
    };
    Ok(Stat {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        inode: stat.st_ino,
        modified: stat.st_mtime,
    })
}

fn same_file(one: &OwnedFd, other: &OwnedFd) -> bool {
    match (stat::fstat(one), stat::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

fn read_at_most(file: File, limit: u64) -> io::Result<Option<Secret>> {
    let size = file.metadata()?.len();
    if size > limit {
        return Ok(None);
    }
    // One byte more than the size, so that the buffer is never reallocated while it is filled.
    let room = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?.saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(size.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > limit) {
        return Ok(None);
    }
    Ok(Some(Secret::new(std::mem::take(&mut *bytes))))
}

/// The error of a system call, with a hint if one is known.
fn failure(act: &str, path: &str, errno: Errno) -> StorageError {
    let path = walk::shown(path);
    let hint = match errno {
        Errno::ENOSPC | Errno::EDQUOT => "make room there",
        Errno::EROFS => "mount it writable; a btrfs subvolume: `btrfs property set DIRECTORY ro false`",
        Errno::EACCES | Errno::EPERM => "run deaddrop as root for a directory target; `lsattr` shows immutable files",
        Errno::EMFILE | Errno::ENFILE => "raise the number of open files: `ulimit -n`",
        _ => return StorageError::io(format!("{act} {path}"), errno.into()),
    };
    StorageError::refused(format!("{act} {path}: {}", errno.desc()), hint)
}
