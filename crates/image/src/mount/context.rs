//! A mount in the making: fsopen(2), fsconfig(2), fsmount(2), of Linux 5.2.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use deaddrop_core::error::StorageError;
use deaddrop_core::{sys, text};
use nix::errno::Errno;

/// include/uapi/linux/mount.h.
const MOUNT_ATTR_RDONLY: u32 = 0x1;
const MOUNT_ATTR_NOSUID: u32 = 0x2;
const MOUNT_ATTR_NODEV: u32 = 0x4;
const MOUNT_ATTR_NOEXEC: u32 = 0x8;
/// Reading changes nothing.
const MOUNT_ATTR_NOATIME: u32 = 0x10;
/// Since Linux 5.14.
const MOUNT_ATTR_NOSYMFOLLOW: u32 = 0x0020_0000;

/// What fsopen(2) gives.
pub(super) struct Context {
    fd: OwnedFd,
    driver: &'static str,
}

impl Context {
    /// Begins a mount by the kernel's driver of this name. `image` is for messages.
    pub(super) fn open(driver: &'static str, image: &str) -> Result<Self, StorageError> {
        // OK to fall back: no name of a driver holds a NUL.
        // OK to default: no driver's name holds a NUL byte, and the kernel knows none without a name.
        let name = CString::new(driver).unwrap_or_default();
        match sys::fs_open(&name) {
            Ok(fd) => Ok(Self { fd, driver }),
            Err(Errno::ENODEV) => Err(StorageError::unsupported(
                format!("{image}: this kernel does not have {driver}"),
                format!("load its module (`modprobe {driver}`), or run deaddrop where the kernel has it"),
            )),
            Err(Errno::ENOSYS) => Err(StorageError::unsupported(
                "this kernel has no fsopen(2), which --backend mount needs",
                "run deaddrop on Linux 5.8 or later",
            )),
            Err(errno) => Err(not_allowed(&format!("mounting a {driver}"), errno)),
        }
    }

    /// Sets an option, with a value or as a flag.
    pub(super) fn option(&self, key: &CStr, value: Option<&CStr>) -> Result<(), StorageError> {
        sys::fs_option(&self.fd, key, value).map_err(|errno| {
            let (driver, key, words) = (self.driver, key.to_string_lossy(), self.words());
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
            // Older than 5.14. No path of ours is ever followed through a link by the kernel, with or without.
            Err(Errno::EINVAL) => sys::fs_mount(&self.fd, attributes),
            other => other,
        };
        mounted.map_err(|errno| not_allowed(&format!("mounting a {}", self.driver), errno))
    }

    /// What the kernel wrote about it, one message a read; to follow an error. Documentation/filesystems/mount_api.rst.
    pub(super) fn words(&self) -> String {
        const MOST: usize = 8;
        let Ok(mut log) = self.fd.try_clone().map(File::from) else { return String::new() };
        let mut words = String::new();
        let mut message = [0; 1024];
        for _ in 0..MOST {
            // ENODATA when there is no more.
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

/// What is not allowed to us although we are root.
pub(super) fn not_allowed(act: &str, errno: Errno) -> StorageError {
    match errno {
        Errno::EPERM | Errno::EACCES => StorageError::refused(
            format!("{act}: {}", errno.desc()),
            "--backend mount needs root with CAP_SYS_ADMIN; in a container: --privileged, and /dev/loop-control",
        ),
        errno => StorageError::io(act, errno.into()),
    }
}
