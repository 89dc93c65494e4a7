//! A file system as a tree that is walked one component at a time; links are never followed implicitly.
//!
//! [`walk`] follows links inside a tree and checks them; it works on every [`Tree`].

pub mod acl;
pub mod directory;
pub mod walk;
pub mod whole;

use crate::error::StorageError;
use crate::secret::Secret;

/// The kind of a file.
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
    /// The kind as a noun with article, for errors ("is a directory").
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

/// Metadata of a file, directory or link.
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
    /// Number of hard links.
    pub links: u32,
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of the content, in seconds since 1970.
    pub modified: i64,
}

/// A SELinux label: the value of the extended attribute `security.selinux`, byte for byte. Usually an ASCII context and
/// a NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Vec<u8>);

impl Label {
    /// The name of the attribute.
    pub const ATTRIBUTE: &str = "security.selinux";
    /// Maximum length of a label that is written, in bytes: it fits into a block of 1 KiB together with its name.
    pub const LONGEST: usize = 900;

    /// A value of the attribute. `None` if it is empty or longer than [`Label::LONGEST`].
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
    /// The context, safe for a terminal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::text::shown(&self.0).unwrap_or_default())
    }
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub struct Child<N> {
    /// Its name.
    pub name: Vec<u8>,
    /// The file, directory or link.
    pub node: N,
    /// Its metadata.
    pub stat: Stat,
}

/// A tree of files that can be read.
pub trait Tree {
    /// A file, directory or link in the tree: an inode number, an open descriptor.
    type Node: Clone;

    /// The tree's top directory.
    ///
    /// # Errors
    /// If it cannot be read.
    fn root(&self) -> Result<Self::Node, StorageError>;

    /// Metadata of the top directory.
    ///
    /// # Errors
    /// If it cannot be read.
    fn root_stat(&self) -> Result<Stat, StorageError>;

    /// The entry `name` of `directory`; links are not followed. `None` if there is no such entry.
    ///
    /// # Errors
    /// If the directory cannot be read, or is damaged.
    fn child(&self, directory: &Self::Node, name: &[u8]) -> Result<Option<(Self::Node, Stat)>, StorageError>;

    /// The target of a symbolic link, as stored.
    ///
    /// # Errors
    /// If `link` is not a symbolic link, or cannot be read.
    fn read_link(&self, link: &Self::Node) -> Result<Vec<u8>, StorageError>;

    /// A regular file's content; `None` if it has more than `limit` bytes.
    ///
    /// # Errors
    /// If `file` is not a regular file, or cannot be read.
    fn read(&self, file: &Self::Node, limit: u64) -> Result<Option<Secret>, StorageError>;

    /// The SELinux label of a file or directory; `None` if it has none.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or is longer than [`Label::LONGEST`].
    fn label(&self, node: &Self::Node) -> Result<Option<Label>, StorageError>;

    /// True if the access ACL of a directory with group write permission lets another user write too: a user or group
    /// other than number 0 (acl(5)).
    ///
    /// # Errors
    /// If the ACL cannot be read, or is damaged.
    fn acl_lets_write(&self, directory: &Self::Node) -> Result<bool, StorageError>;

    /// At most `limit` of the entries of `directory`, in an unspecified order; links are not followed. Damaged entries
    /// are omitted.
    ///
    /// # Errors
    /// If the directory cannot be read, or is damaged.
    fn children(&self, directory: &Self::Node, limit: usize) -> Result<Vec<Child<Self::Node>>, StorageError>;

    /// The names alone of at most `limit` of the entries of `directory`: for large directories, since nothing is opened
    /// or read for a name.
    ///
    /// # Errors
    /// If the directory cannot be read, or is damaged.
    fn names(&self, directory: &Self::Node, limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
        Ok(self.children(directory, limit)?.into_iter().map(|child| child.name).collect())
    }
}

/// One change to a tree. Paths are absolute and physical: no component is a symbolic link. The change of a directory
/// comes before those of its entries.
#[derive(Clone)]
pub enum TreeChange {
    /// Create a directory; its parent exists.
    MakeDirectory {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
        /// The SELinux label; `None` on a system without labels.
        label: Option<Label>,
    },
    /// Create a regular file, or replace the existing one: a new inode gets the name, so other hard links keep the old
    /// content.
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
        /// The SELinux label; `None` on a system without labels.
        label: Option<Label>,
    },
    /// Change only the mode and owner of a regular file.
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
    /// Remove the name of an existing regular file; other hard links keep the content. If no other name remains, an
    /// image's old content is zeroed.
    RemoveFile {
        /// Absolute path.
        path: String,
    },
    /// Remove a directory if it is empty after all other changes; otherwise it stays. Comes after the removal of the
    /// names in it.
    RemoveDirectory {
        /// Absolute path.
        path: String,
    },
}

impl TreeChange {
    /// The path of the change.
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

    /// The SELinux label of the new file or directory, if it gets one.
    #[must_use]
    pub fn label(&self) -> Option<&Label> {
        match self {
            Self::MakeDirectory { label, .. } | Self::WriteFile { label, .. } => label.as_ref(),
            Self::SetMetadata { .. } | Self::RemoveFile { .. } | Self::RemoveDirectory { .. } => None,
        }
    }
}

impl std::fmt::Debug for TreeChange {
    /// The path, never a value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a change of {}", self.path())
    }
}

/// Effects in addition to the changes, as text for the user.
#[derive(Debug, Default)]
pub struct Applied {
    /// Notes for the user: "node1.img holds secrets: its mode is now 0600".
    pub notes: Vec<String>,
    /// Details for `-v`: the read-back, the commit.
    pub details: Vec<String>,
}
