//! The mount back end: a root file system of an image, opened by the kernel.
//!
//! ```text
//! file ─> loop device (offset, size) ─> context (fsopen, fsconfig) ─> mount that is attached nowhere ─> its top directory
//! ```
//!
//! The mount has no mount point and is in no mount namespace but its own: it is in nobody's `/proc/*/mounts`, and it is gone,
//! with its loop device, when the last of our descriptors is closed, also when SIGKILL closes them. Called by
//! `target::mounted`, which walks and changes the tree. Knows nothing of paths and values.

pub(crate) mod disk_file;
mod room;
mod scrub;

pub mod btrfs;
mod context;
pub mod image;
mod judge;
mod loop_device;

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

pub use self::judge::judge;

/// What a mount is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To look: nothing is ever written to the image.
    Look,
    /// To look at what lies below a log that was not replayed.
    LookUnreplayed,
    /// To change: the log is replayed, and the kernel writes.
    Change,
}

/// Why there is no mount.
#[derive(Debug)]
pub enum MountError {
    /// A log waits to be replayed, which [`Access::Look`] must not do.
    Unreplayed,
    /// Anything else.
    Image(StorageError),
}

impl From<StorageError> for MountError {
    fn from(error: StorageError) -> Self {
        Self::Image(error)
    }
}

/// What is to be mounted.
pub struct Request<'a> {
    /// The file, or block device, that holds the disk; open for writing where that is wanted.
    pub disk: &'a File,
    /// The partition, which [`judge`] has passed.
    pub root: &'a Root,
    /// For btrfs: the subvolume's path or number, instead of the default one.
    pub subvolume: Option<&'a str>,
    /// The image's name, for messages.
    pub name: &'a str,
}

/// A mounted file system. It is unmounted when this and every file in it is closed.
pub struct Mount {
    /// Its top directory, as with O_PATH. Before the device: what is mounted cannot be freed.
    top: OwnedFd,
    device: LoopDevice,
}

impl Request<'_> {
    /// Mounts it.
    ///
    /// # Errors
    /// [`MountError::Unreplayed`] for [`Access::Look`] at a file system with a log to replay; `Unsupported` when the kernel
    /// cannot do it; `Refused` with what the kernel says.
    pub fn mount(&self, access: Access) -> Result<Mount, MountError> {
        let partition = &self.root.partition;
        let device =
            LoopDevice::attach(self.disk, partition.start, partition.size, access != Access::Change, self.name)?;
        let kind = self.root.kind;
        if kind == ContentKind::Btrfs && access == Access::Look && btrfs::has_log(&device)? {
            // The kernel would refuse, with an error that others have as well.
            return Err(MountError::Unreplayed);
        }
        let context = Context::open(driver(kind), self.name)?;
        context.option(c"source", Some(&device.c_path()?))?;
        self.set_options(&context, access)?;
        let turn = if kind == ContentKind::Btrfs { btrfs::take_turn() } else { None };
        if let Err(errno) = context.create() {
            // Whoever looks for the reason may have to mount it once more.
            drop(turn);
            return Err(match (errno, access) {
                (Errno::EROFS, Access::Look) => MountError::Unreplayed,
                _ => self.failure(&context, errno).into(),
            });
        }
        let top = context.mount(access != Access::Change)?;
        let mount = Mount { top, device };
        if kind == ContentKind::Btrfs {
            btrfs::check_device(&mount.open_top()?, &mount.device)?;
        }
        drop(turn);
        Ok(mount)
    }

    /// Sets what this kind of file system, and what the mount is for, ask for.
    fn set_options(&self, context: &Context, access: Access) -> Result<(), StorageError> {
        let flag = |key| context.option(key, None);
        if access != Access::Change {
            flag(c"ro")?;
        }
        match self.root.kind {
            ContentKind::Xfs => {
                // Images that were made from one have the same UUID, and several may be mounted at a time.
                flag(c"nouuid")?;
                if access == Access::LookUnreplayed {
                    flag(c"norecovery")?;
                }
            }
            ContentKind::Btrfs => {
                if let Some(subvolume) = self.subvolume {
                    let text = CString::new(subvolume).map_err(|_| btrfs::no_such(subvolume, &[]))?;
                    let is_number = !subvolume.is_empty() && subvolume.bytes().all(|byte| byte.is_ascii_digit());
                    context.option(if is_number { c"subvolid" } else { c"subvol" }, Some(&text))?;
                }
                match access {
                    Access::LookUnreplayed => context.option(c"rescue", Some(c"nologreplay"))?,
                    // A balance that was stopped would go on, and move everything.
                    Access::Change => flag(c"skip_balance")?,
                    Access::Look => {}
                }
            }
            _ => {
                // The superblock may say that the machine is to panic.
                context.option(c"errors", Some(c"remount-ro"))?;
                if access == Access::LookUnreplayed {
                    flag(c"noload")?;
                }
            }
        }
        Ok(())
    }

    /// The kernel's refusal, with its own words where it has any.
    fn failure(&self, context: &Context, errno: Errno) -> StorageError {
        let (title, words) = (self.root.partition.title(), context.words());
        if let (Errno::ENOENT | Errno::EINVAL, Some(asked)) = (errno, self.subvolume)
            && let Some(names) = self.subvolumes()
        {
            // There is a btrfs, so what was asked for is not there, or is no subvolume.
            return btrfs::no_such(asked, &names);
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

    /// The names of a btrfs' subvolumes, for the person who named another.
    fn subvolumes(&self) -> Option<Vec<String>> {
        let plain = Request { subvolume: None, ..*self };
        let mount = plain.mount(Access::Look).or_else(|_| plain.mount(Access::LookUnreplayed)).ok()?;
        let names = mount.open_top().ok().and_then(|top| btrfs::names(&top).ok());
        mount.unmount();
        names
    }
}

/// The kernel's driver for a kind of file system. ext4's does all three.
fn driver(kind: ContentKind) -> &'static str {
    match kind {
        ContentKind::Ext2 | ContentKind::Ext3 | ContentKind::Ext4 => "ext4",
        other => other.name(),
    }
}

impl Mount {
    /// Its top directory, opened as with O_PATH: another descriptor of the mount, which lives as long as this one or longer.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn top(&self) -> Result<OwnedFd, StorageError> {
        self.top.try_clone().map_err(|error| StorageError::io("opening a mounted file system", error))
    }

    /// Its top directory, opened to be worked on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_top(&self) -> Result<OwnedFd, StorageError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        fcntl::openat(&self.top, ".", flags, Mode::empty())
            .map_err(|errno| StorageError::io("opening a mounted file system", errno.into()))
    }

    /// Returns when all that was written is on the image.
    ///
    /// # Errors
    /// When any of it could not be written.
    pub fn sync(&self) -> Result<(), StorageError> {
        let top = self.open_top()?;
        unistd::syncfs(&top).map_err(|errno| StorageError::io("syncing the mounted file system", errno.into()))
    }

    /// Drops what is free: in a file it becomes holes, which read as zeros. Returns the bytes.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where what lies below cannot do it; what else the system says.
    pub fn trim(&self) -> nix::Result<u64> {
        let top = self.open_top().map_err(|_| Errno::EIO)?;
        sys::trim(&top)
    }

    /// True when the loop device goes past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.device.is_direct()
    }

    /// Unmounts it, and waits until its loop device is free. Every other descriptor in it must be closed by now. False when
    /// somebody else still holds the device after a while: it is free when they are done.
    pub fn unmount(self) -> bool {
        drop(self.top);
        self.device.detach()
    }
}
