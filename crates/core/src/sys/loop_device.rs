//! Loop devices. loop(4).

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// The number of a free loop device, which is created if there is none. loop(4), LOOP_CTL_GET_FREE.
///
/// # Errors
/// If the system call fails.
pub fn free_loop_device(control: &File) -> nix::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
    // SAFETY: takes no argument.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    Errno::result(result).and_then(|number| u32::try_from(number).map_err(|_| Errno::EINVAL))
}

/// Detaches the file behind a loop device, at the device's last close. loop(4), LOOP_CLR_FD.
///
/// # Errors
/// If the system call fails.
pub fn detach_loop_device(device: &File) -> nix::Result<()> {
    const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
    // SAFETY: takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) }).map(drop)
}

/// include/uapi/linux/loop.h, `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// include/uapi/linux/loop.h, `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

/// Makes a free loop device show `size` bytes of `backing` from `offset` on, in one step; `flags` are LO_FLAGS_….
/// loop(4), LOOP_CONFIGURE, Linux 5.8.
///
/// # Errors
/// EBUSY if the device is no longer free; EINVAL for a flag that is not available; other errors of the system call.
pub fn configure_loop_device(device: &File, backing: &File, offset: u64, size: u64, flags: u32) -> nix::Result<()> {
    const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset,
        size_limit: size,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let config = LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: a structure of the size and layout that the kernel reads, and it lives as long as the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    Errno::result(result).map(drop)
}
