//! Opens the file that the user named as an image: by its kind, without blocking and without side effects of opening.
//! Used by [`super::disk`].

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use deaddrop_core::error::StorageError;
use nix::fcntl::OFlag;

use crate::open::holders;

/// The purpose of opening an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading; others may read it too.
    Read,
    /// For writing; a block device in use is refused.
    Write,
}

/// An open image file, or block device, and its metadata at that time.
pub struct Input {
    /// The path as given.
    pub path: PathBuf,
    /// The path with all symbolic links resolved.
    pub real: PathBuf,
    /// Open for reading.
    pub file: File,
    /// Size of the file or device, in bytes.
    pub size: u64,
    /// The metadata when it was opened.
    pub metadata: Metadata,
}

impl Input {
    /// Opens `path` for reading. A symbolic link is followed first.
    ///
    /// # Errors
    /// `Refused` for an empty file, and for what is neither a regular file nor a block device (with its kind); `Io`.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let name = path.display();
        // Checked before it is opened (opening a FIFO blocks, opening a device may have effects), and again afterwards.
        let seen = fs::metadata(path).map_err(|e| not_there(path, e))?;
        refuse_by_kind(path, seen.file_type())?;
        let real = fs::canonicalize(path).map_err(|e| not_there(path, e))?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(&real)
            .map_err(|e| StorageError::io(format!("opening {name}"), e))?;
        let metadata = file.metadata().map_err(|e| StorageError::io(format!("opening {name}"), e))?;
        refuse_by_kind(path, metadata.file_type())?;
        let size = if metadata.file_type().is_block_device() {
            // A block device's metadata has no size; seeking to the end gives it.
            (&file).seek(SeekFrom::End(0)).map_err(|e| StorageError::io(format!("measuring {name}"), e))?
        } else {
            metadata.len()
        };
        if size == 0 {
            return Err(StorageError::refused(format!("{name} is empty"), "was it copied or downloaded whole?"));
        }
        Ok(Self { path: path.to_owned(), real, file, size, metadata })
    }

    /// The same open file once more, with its lock.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn share(&self) -> io::Result<Self> {
        let Self { path, real, file, size, metadata } = self;
        let (path, real, metadata) = (path.clone(), real.clone(), metadata.clone());
        Ok(Self { path, real, file: file.try_clone()?, size: *size, metadata })
    }

    /// Locks the image until this is dropped: for writing against every other run of deaddrop, for reading against runs
    /// that write in place. For writing the file is opened again, for reading and writing.
    ///
    /// # Errors
    /// `Refused` if another process has a lock or the device, or has replaced the file; `Io`.
    pub fn lock(&mut self, access: Access) -> Result<(), StorageError> {
        let for_writing = access != Access::Read;
        if for_writing {
            let mut flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            if self.is_device() {
                // open(2): without O_CREAT, on a block device, it fails if the device, or a part of it, is mounted or
                // opened exclusively, in whatever namespace; and prevents both as long as it is open.
                flags |= OFlag::O_EXCL;
            }
            let opened = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(&self.real);
            let file = match opened {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    // Another deaddrop on the same device also has a lock, and is the better explanation.
                    holders::lock(&self.file, &self.name(), true)?;
                    return Err(holders::busy(&self.name()));
                }
                Err(e) => return Err(StorageError::io(format!("opening {} to write", self.name()), e)),
            };
            let metadata =
                file.metadata().map_err(|e| StorageError::io(format!("opening {} to write", self.name()), e))?;
            if !self.is_same(&metadata) {
                return Err(self.was_changed());
            }
            self.file = file;
        }
        holders::lock(&self.file, &self.name(), for_writing)
    }

    /// True for a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.metadata.file_type().is_block_device()
    }

    /// The name in messages: the path as given.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// True if `other` is the same file.
    #[must_use]
    pub fn is_same(&self, other: &Metadata) -> bool {
        (self.metadata.dev(), self.metadata.ino()) == (other.dev(), other.ino())
    }

    /// Checks that no process has written to the image, or replaced it, since it was opened.
    ///
    /// # Errors
    /// `Refused` if one has; `Io`.
    pub fn check_unchanged(&self) -> Result<(), StorageError> {
        let now = fs::metadata(&self.real).map_err(|e| StorageError::io(format!("looking at {}", self.name()), e))?;
        let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        // The time of a device node does not depend on the content of the device.
        let same_content = self.is_device() || (now.len() == self.size && time(&now) == time(&self.metadata));
        if self.is_same(&now) && same_content {
            return Ok(());
        }
        Err(self.was_changed())
    }

    fn was_changed(&self) -> StorageError {
        StorageError::refused(
            format!("{} was changed by somebody else while it was worked on", self.name()),
            "is it in use by a virtual machine, or by another run? try again when it is not",
        )
    }
}

/// The error for a path that cannot be followed, which distinguishes a dangling link from a missing file.
fn not_there(path: &Path, error: io::Error) -> StorageError {
    let name = path.display();
    match (fs::read_link(path), error.kind()) {
        (Ok(target), io::ErrorKind::NotFound) => StorageError::refused(
            format!("{name} is a symbolic link to {}, which is not there", target.display()),
            "build or copy the image again, or name another",
        ),
        (Ok(target), _) => StorageError::io(format!("opening {name}, a symbolic link to {}", target.display()), error),
        (Err(_), io::ErrorKind::NotFound) => {
            StorageError::refused(format!("{name}: there is no such file"), "name an image file, or a block device")
        }
        (Err(_), _) => StorageError::io(format!("opening {name}"), error),
    }
}

fn refuse_by_kind(path: &Path, kind: FileType) -> Result<(), StorageError> {
    match kind_name(kind) {
        None => Ok(()),
        Some(kind) => Err(StorageError::refused(
            format!("{} is {kind}, not a disk image", path.display()),
            "name an image file, or a block device",
        )),
    }
}

/// The name of a kind that cannot be an image; `None` for a regular file and a block device.
#[must_use]
pub(crate) fn kind_name(kind: FileType) -> Option<&'static str> {
    if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else if kind.is_char_device() {
        Some("a character device")
    } else {
        None
    }
}
