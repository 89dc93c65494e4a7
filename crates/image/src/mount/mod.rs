//! The mount back end: a root file system of an image, mounted by the kernel.
//!
//! ```text
//! file ─> loop device (offset, size) ─> context (fsopen, fsconfig)
//!      ─> mount that is attached nowhere ─> its top directory
//! ```
//!
//! The mount has no mount point and is in no mount namespace but its own: it is in no `/proc/*/mounts`, and it is
//! removed, with its loop device, when the last of our descriptors is closed, even by SIGKILL. [`image`] walks and
//! changes the tree. The mount itself does not depend on paths and values.

pub mod btrfs;
mod context;
pub(crate) mod disk_file;
mod free_space;
pub mod image;
mod loop_device;
mod scrub;
mod superblocks;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;

use deaddrop_core::error::StorageError;
use deaddrop_core::sys;
use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::stat::Mode;
use nix::unistd;

use self::context::Context;
use self::loop_device::LoopDevice;
use crate::table::probe::ContentKind;
use crate::table::root::Root;

pub use self::superblocks::check_superblock;

/// The purpose of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountMode {
    /// For reading: nothing is ever written to the image.
    Read,
    /// For reading the state below a log that was not replayed.
    ReadUnreplayed,
    /// For a change: the log is replayed, and the kernel writes.
    Change,
}

/// The reason why there is no mount.
#[derive(Debug)]
pub enum MountError {
    /// A log needs a replay, which [`MountMode::Read`] must not do.
    Unreplayed,
    /// Anything else.
    Image(StorageError),
}

impl From<StorageError> for MountError {
    fn from(error: StorageError) -> Self {
        Self::Image(error)
    }
}

/// A mount to be created.
pub struct Request<'a> {
    /// The file, or block device, with the disk; open for writing if the mount is for a change.
    pub disk: &'a File,
    /// The partition, checked by [`check_superblock`].
    pub root: &'a Root,
    /// For btrfs: the subvolume's path or number, instead of the default one.
    pub subvolume: Option<&'a str>,
    /// The image's name, for messages.
    pub name: &'a str,
}

/// A mounted file system. It is unmounted when this and every file in it is closed.
pub struct Mount {
    /// Its top directory, as with O_PATH. Dropped before the device: a mounted device cannot be freed.
    top: OwnedFd,
    device: LoopDevice,
}

impl Request<'_> {
    /// Mounts it.
    ///
    /// # Errors
    /// [`MountError::Unreplayed`] for [`MountMode::Read`] at a file system with a log to replay; `Unsupported` if the
    /// kernel does not support it; `Refused` with the kernel's message.
    pub fn mount(&self, access: MountMode) -> Result<Mount, MountError> {
        let partition = &self.root.partition;
        let device =
            LoopDevice::attach(self.disk, partition.start, partition.size, access != MountMode::Change, self.name)?;
        let kind = self.root.kind;
        if kind == ContentKind::Btrfs && access == MountMode::Read && btrfs::has_log(&device)? {
            // The kernel would refuse, with an ambiguous error.
            return Err(MountError::Unreplayed);
        }
        let context = Context::open(driver(kind), self.name)?;
        context.option(c"source", Some(&device.c_path()?))?;
        self.set_options(&context, access)?;
        let turn = if kind == ContentKind::Btrfs { btrfs::lock_mounts() } else { None };
        if let Err(errno) = context.create() {
            // Finding the reason may require another mount.
            drop(turn);
            return Err(match (errno, access) {
                (Errno::EROFS, MountMode::Read) => MountError::Unreplayed,
                _ => self.failure(&context, errno).into(),
            });
        }
        let top = context.mount(access != MountMode::Change)?;
        let mount = Mount { top, device };
        if kind == ContentKind::Btrfs {
            btrfs::check_device(&mount.open_top()?, &mount.device)?;
        }
        drop(turn);
        Ok(mount)
    }

    /// Sets the mount options for this kind of file system and this purpose.
    fn set_options(&self, context: &Context, access: MountMode) -> Result<(), StorageError> {
        let flag = |key| context.option(key, None);
        if access != MountMode::Change {
            flag(c"ro")?;
        }
        match self.root.kind {
            ContentKind::Xfs => {
                // Images of one build have the same UUID, and several may be mounted at a time.
                flag(c"nouuid")?;
                if access == MountMode::ReadUnreplayed {
                    flag(c"norecovery")?;
                }
            }
            ContentKind::Btrfs => {
                if let Some(subvolume) = self.subvolume {
                    let text = CString::new(subvolume).map_err(|_| btrfs::no_such_subvolume(subvolume, &[]))?;
                    let is_number = !subvolume.is_empty() && subvolume.bytes().all(|byte| byte.is_ascii_digit());
                    context.option(if is_number { c"subvolid" } else { c"subvol" }, Some(&text))?;
                }
                match access {
                    MountMode::ReadUnreplayed => context.option(c"rescue", Some(c"nologreplay"))?,
                    // An interrupted balance would continue, and move everything.
                    MountMode::Change => flag(c"skip_balance")?,
                    MountMode::Read => {}
                }
            }
            _ => {
                // The superblock may request a panic of the machine on errors.
                context.option(c"errors", Some(c"remount-ro"))?;
                if access == MountMode::ReadUnreplayed {
                    flag(c"noload")?;
                }
            }
        }
        Ok(())
    }

    /// The kernel's refusal, with its own message if there is one.
    fn failure(&self, context: &Context, errno: Errno) -> StorageError {
        let (title, words) = (self.root.partition.title(), context.messages());
        if let (Errno::ENOENT | Errno::EINVAL, Some(asked)) = (errno, self.subvolume)
            && let Some(names) = self.subvolumes()
        {
            // The btrfs exists, so the requested path is missing, or is no subvolume.
            return btrfs::no_such_subvolume(asked, &names);
        }
        if (self.root.kind, errno) == (ContentKind::Btrfs, Errno::EEXIST) {
            return StorageError::refused(
                format!(
                    "{}: {title}: a btrfs with the same UUID is mounted, and this kernel takes one at a time",
                    self.name
                ),
                "unmount the other one, or wait until that run is done (Linux 6.7 and later take both)",
            );
        }
        StorageError::refused(
            format!("{}: the kernel does not mount {title}: {}{words}", self.name, errno.desc()),
            "`dmesg` may tell more; is the image whole, and its file system sound?",
        )
    }

    /// The names of a btrfs' subvolumes, for the error about a missing one.
    fn subvolumes(&self) -> Option<Vec<String>> {
        let plain = Request { subvolume: None, ..*self };
        let mount = plain.mount(MountMode::Read).or_else(|_| plain.mount(MountMode::ReadUnreplayed)).ok()?;
        let names = mount.open_top().ok().and_then(|top| btrfs::names(&top).ok());
        mount.unmount();
        names
    }
}

/// The kernel's driver for a kind of file system. The ext4 driver handles ext2 to ext4.
fn driver(kind: ContentKind) -> &'static str {
    match kind {
        ContentKind::Ext2 | ContentKind::Ext3 | ContentKind::Ext4 => "ext4",
        other => other.name(),
    }
}

impl Mount {
    /// Its top directory, opened as with O_PATH: another descriptor of the mount, which stays mounted as long as one of
    /// them is open.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn top(&self) -> Result<OwnedFd, StorageError> {
        self.top.try_clone().map_err(|error| StorageError::io("opening a mounted file system", error))
    }

    /// Its top directory, opened for system calls that read it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open_top(&self) -> Result<OwnedFd, StorageError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        fcntl::openat(&self.top, ".", flags, Mode::empty())
            .map_err(|errno| StorageError::io("opening a mounted file system", errno.into()))
    }

    /// Returns when everything written is on the image.
    ///
    /// # Errors
    /// If any of it could not be written.
    pub fn sync(&self) -> Result<(), StorageError> {
        let top = self.open_top()?;
        unistd::syncfs(&top).map_err(|errno| StorageError::io("syncing the mounted file system", errno.into()))
    }

    /// Discards the free space: in a file it becomes holes, which read as zeros. Returns the number of bytes.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the device below does not support it; other errors of the system call.
    pub fn trim(&self) -> nix::Result<u64> {
        let top = self.open_top().map_err(|_| Errno::EIO)?;
        sys::trim(&top)
    }

    /// True if the loop device bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.device.is_direct()
    }

    /// Unmounts it, and waits until its loop device is free. Every other descriptor in it must be closed before. False
    /// if another process still uses the device after a while: it is freed when that process closes it.
    pub fn unmount(self) -> bool {
        drop(self.top);
        self.device.detach()
    }
}
