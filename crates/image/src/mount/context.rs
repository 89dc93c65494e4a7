//! A mount while it is set up: fsopen(2), fsconfig(2), fsmount(2), of Linux 5.2.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::{sys, text};
use nix::errno::Errno;

/// include/uapi/linux/mount.h.
const MOUNT_ATTR_RDONLY: u32 = 0x1;
const MOUNT_ATTR_NOSUID: u32 = 0x2;
const MOUNT_ATTR_NODEV: u32 = 0x4;
const MOUNT_ATTR_NOEXEC: u32 = 0x8;
/// Reading changes nothing on the image.
const MOUNT_ATTR_NOATIME: u32 = 0x10;
/// Since Linux 5.14.
const MOUNT_ATTR_NOSYMFOLLOW: u32 = 0x0020_0000;

/// A file-system context of fsopen(2).
pub(super) struct Context {
    fd: OwnedFd,
    driver: &'static str,
}

impl Context {
    /// Starts a mount by the kernel's driver of this name. `image` is for messages.
    pub(super) fn open(driver: &'static str, image: &str) -> Result<Self, StorageError> {
        // OK to default: no driver's name contains a NUL byte, and the kernel has no driver without a name.
        let name = CString::new(driver).unwrap_or_default();
        match sys::fs_open(&name) {
            Ok(fd) => Ok(Self { fd, driver }),
            Err(Errno::ENODEV) => Err(StorageError::unsupported(
                format!("{image}: this kernel does not have {driver}"),
                format!("load its module (`modprobe {driver}`), or run deaddrop where the kernel has it"),
            )),
            Err(Errno::ENOSYS) => Err(StorageError::unsupported(
                "this kernel has no fsopen(2), which a mount of an image needs",
                "run deaddrop on Linux 5.8 or later",
            )),
            Err(errno) => Err(not_allowed(&format!("mounting a {driver}"), errno)),
        }
    }

    /// Sets an option, with a value or as a flag.
    pub(super) fn option(&self, key: &CStr, value: Option<&CStr>) -> Result<(), StorageError> {
        sys::fs_option(&self.fd, key, value).map_err(|errno| {
            let (driver, key, words) = (self.driver, key.to_string_lossy(), self.messages());
            StorageError::refused(
                format!("the kernel's {driver} does not take the mount option {key}: {}{words}", errno.desc()),
                "run deaddrop where the kernel is newer",
            )
        })
    }

    /// Opens the file system.
    pub(super) fn create(&self) -> nix::Result<()> {
        sys::fs_create(&self.fd)
    }

    /// The mount, attached nowhere.
    pub(super) fn mount(&self, read_only: bool) -> Result<OwnedFd, StorageError> {
        let plain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME;
        let attributes = if read_only { plain | MOUNT_ATTR_RDONLY } else { plain };
        let mounted = match sys::fs_mount(&self.fd, attributes | MOUNT_ATTR_NOSYMFOLLOW) {
            // Older than 5.14. The kernel never follows a link in one of our paths, with or without this.
            Err(Errno::EINVAL) => sys::fs_mount(&self.fd, attributes),
            other => other,
        };
        mounted.map_err(|errno| not_allowed(&format!("mounting a {}", self.driver), errno))
    }

    /// The kernel's messages about the mount, one per read; appended to an error.
    /// Documentation/filesystems/mount_api.rst.
    pub(super) fn messages(&self) -> String {
        const MOST: usize = 8;
        let Ok(mut log) = self.fd.try_clone().map(File::from) else { return String::new() };
        let mut words = String::new();
        let mut message = [0; 1024];
        for _ in 0..MOST {
            // ENODATA after the last message.
            let Ok(length) = log.read(&mut message) else { break };
            let text = message.get(..length).and_then(text::shown).unwrap_or_default();
            // "e " is an error, "w " a warning, "i " for information.
            let text = text.strip_prefix("e ").or_else(|| text.strip_prefix("w ")).unwrap_or("");
            if !text.is_empty() {
                words = format!("{words} ({text})");
            }
        }
        words
    }
}

/// The refusal of an action that root is not permitted here.
pub(super) fn not_allowed(act: &str, errno: Errno) -> StorageError {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            StorageError::refused(format!("{act}: {}", errno.desc()), Remedy::GrantMountPrivileges)
        }
        errno => StorageError::io(act, errno.into()),
    }
}
