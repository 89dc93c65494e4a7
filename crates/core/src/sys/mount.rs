//! The mount API of Linux 5.2: fsopen(2), fsconfig(2), fsmount(2).

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

/// Starts to set up a mount of a file system of this kind; returns the context that the `fs_*` functions below work on.
/// fsopen(2), Linux 5.2. The kernel loads the file system's module if it has one.
///
/// # Errors
/// ENODEV if the kernel does not have the file system; EPERM without CAP_SYS_ADMIN; ENOSYS from an old kernel.
pub fn fs_open(kind: &CStr) -> nix::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    // SAFETY: a NUL-terminated string that lives as long as the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

/// Sets one option of a context: with a value, or as a flag. fsconfig(2), FSCONFIG_SET_STRING and FSCONFIG_SET_FLAG.
///
/// # Errors
/// EINVAL for an option that the file system does not know.
pub fn fs_option(context: &OwnedFd, key: &CStr, value: Option<&CStr>) -> nix::Result<()> {
    const SET_FLAG: libc::c_uint = 0;
    const SET_STRING: libc::c_uint = 1;
    let (command, value) = value.map_or((SET_FLAG, ptr::null()), |value| (SET_STRING, value.as_ptr()));
    let context = context.as_raw_fd();
    // SAFETY: NUL-terminated strings that live as long as the call; the value of a flag is null, as required.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key.as_ptr(), value, 0) };
    Errno::result(result).map(drop)
}

/// Makes the kernel open the file system that was set up. fsconfig(2), FSCONFIG_CMD_CREATE.
///
/// # Errors
/// The error of the file system; its messages are read from the context.
pub fn fs_create(context: &OwnedFd) -> nix::Result<()> {
    const CREATE: libc::c_uint = 6;
    let none: *const c_char = ptr::null();
    // SAFETY: this command takes neither key nor value.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, 0) };
    Errno::result(result).map(drop)
}

/// Creates a mount of a file system that was opened with [`fs_create`]. The mount is attached nowhere: no other process
/// can see it, and it is unmounted when its last descriptor is closed, even if the process is killed. The descriptor
/// refers to its top directory, as with O_PATH. fsmount(2); `attributes` are MOUNT_ATTR_….
///
/// # Errors
/// EINVAL for an attribute that the kernel does not know.
pub fn fs_mount(context: &OwnedFd, attributes: u32) -> nix::Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

fn descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    let number = Errno::result(result)?;
    let number = RawFd::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
