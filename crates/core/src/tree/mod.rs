//! A file system as a tree that is walked one component at a time, links never followed by themselves.
//!
//! The walk that follows links, and judges them, is `target::walk`; it works on anything that is a [`Tree`].

pub mod acl;
pub mod directory;

pub mod walk;

use crate::error::StorageError;
use crate::secret::Secret;

/// What kind of thing a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharacterDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// Its name, as an error says it ("is a directory").
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::BlockDevice => "a block device",
            Self::CharacterDevice => "a character device",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
        }
    }
}

/// What stands at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File, directory, link, …
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (`mode & 0o7777`).
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of names (hard links).
    pub links: u32,
    /// Its inode's number.
    pub inode: u64,
    /// When its content was last changed, in seconds since 1970.
    pub modified: i64,
}

/// A SELinux label: the value of the extended attribute `security.selinux`, byte for byte. Mostly a context in ASCII and a
/// NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Vec<u8>);

impl Label {
    /// The attribute's name.
    pub const ATTRIBUTE: &str = "security.selinux";
    /// The longest one that is written, in bytes: one that fits into a block of 1 KiB beside its name.
    pub const LONGEST: usize = 900;

    /// A value of the attribute. `None` when it is empty or longer than [`Label::LONGEST`].
    #[must_use]
    pub fn new(value: Vec<u8>) -> Option<Self> {
        (1..=Self::LONGEST).contains(&value.len()).then_some(Self(value))
    }

    /// The attribute's value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for Label {
    /// The context, fit for a terminal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::text::shown(&self.0).unwrap_or_default())
    }
}

/// A tree of files that can be looked at.
pub trait Tree {
    /// A file, directory or link in the tree: an inode number, an open descriptor.
    type Node: Clone;

    /// The tree's top directory.
    ///
    /// # Errors
    /// When it cannot be read.
    fn root(&self) -> Result<Self::Node, StorageError>;

    /// What the top directory is.
    ///
    /// # Errors
    /// When it cannot be read.
    fn root_stat(&self) -> Result<Stat, StorageError>;

    /// What `name` in `directory` is; links are not followed. `None` when there is no such name.
    ///
    /// # Errors
    /// When the directory cannot be read, or is damaged.
    fn child(&self, directory: &Self::Node, name: &[u8]) -> Result<Option<(Self::Node, Stat)>, StorageError>;

    /// Where a symbolic link leads, as stored.
    ///
    /// # Errors
    /// When `link` is not one, or cannot be read.
    fn read_link(&self, link: &Self::Node) -> Result<Vec<u8>, StorageError>;

    /// A regular file's content; `None` when it has more than `limit` bytes.
    ///
    /// # Errors
    /// When `file` is not a regular file, or cannot be read.
    fn read(&self, file: &Self::Node, limit: u64) -> Result<Option<Secret>, StorageError>;

    /// The SELinux label of a file or directory; `None` when it has none.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is longer than [`Label::LONGEST`].
    fn label(&self, node: &Self::Node) -> Result<Option<Label>, StorageError>;

    /// True when the access ACL of a directory, whose group may write to it, lets somebody else write as well: a user or a group
    /// other than number 0 (acl(5)).
    ///
    /// # Errors
    /// When the ACL cannot be read, or is damaged.
    fn acl_lets_write(&self, directory: &Self::Node) -> Result<bool, StorageError>;

    /// At most `limit` of the files and directories in `directory`, in no order that means anything. What is damaged is left
    /// out.
    ///
    /// # Errors
    /// When the directory cannot be read, or is damaged.
    fn some_children(&self, directory: &Self::Node, limit: usize) -> Result<Vec<(Self::Node, Stat)>, StorageError>;
}

/// One change to a tree. Paths are absolute and physical: no component is a symbolic link. Parents come before
/// what is in them.
#[derive(Clone)]
pub enum TreeChange {
    /// Make a directory; its parent exists.
    MakeDirectory {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
        /// Its SELinux label; none where nothing is labelled.
        label: Option<Label>,
    },
    /// Create a regular file, or replace the one that stands there: a new inode gets the name, so other hard links
    /// keep the old content.
    WriteFile {
        /// Absolute path.
        path: String,
        /// The exact bytes.
        content: Secret,
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
        /// Its SELinux label; none where nothing is labelled.
        label: Option<Label>,
    },
    /// Change mode and owner of a regular file, and nothing else.
    SetMetadata {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
    },
    /// Take away the name of a regular file that stands there; other hard links keep the content. Where no other name is
    /// left, an image's old content is zeroed.
    RemoveFile {
        /// Absolute path.
        path: String,
    },
    /// Take away a directory that is empty once all other changes are made; one that is not stays. Comes after what takes away
    /// the names in it.
    RemoveDirectory {
        /// Absolute path.
        path: String,
    },
}

impl TreeChange {
    /// The path that is changed.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::MakeDirectory { path, .. }
            | Self::WriteFile { path, .. }
            | Self::SetMetadata { path, .. }
            | Self::RemoveFile { path }
            | Self::RemoveDirectory { path } => path,
        }
    }

    /// The SELinux label of what is made, if it gets one.
    #[must_use]
    pub fn label(&self) -> Option<&Label> {
        match self {
            Self::MakeDirectory { label, .. } | Self::WriteFile { label, .. } => label.as_ref(),
            Self::SetMetadata { .. } | Self::RemoveFile { .. } | Self::RemoveDirectory { .. } => None,
        }
    }
}

impl std::fmt::Debug for TreeChange {
    /// Its path, and never a value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a change of {}", self.path())
    }
}

/// What was done besides the changes, in words for a person.
#[derive(Debug, Default)]
pub struct Applied {
    /// What a person should know: "node1.img holds secrets: its mode is now 0600".
    pub notes: Vec<String>,
    /// What `-v` tells: the read-back, the commit.
    pub details: Vec<String>,
}
