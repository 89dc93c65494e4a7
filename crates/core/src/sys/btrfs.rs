//! Requests to a btrfs. include/uapi/linux/btrfs.h.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// The btrfs subvolume that `place` is in: `struct btrfs_ioctl_get_subvol_info_args`. include/uapi/linux/btrfs.h,
/// BTRFS_IOC_GET_SUBVOL_INFO.
///
/// # Errors
/// If the system call fails.
pub fn btrfs_subvolume(place: &OwnedFd) -> nix::Result<[u8; 504]> {
    const GET_SUBVOL_INFO: libc::Ioctl = nix::request_code_read!(0x94, 60, 504);
    let mut answer = [0; 504];
    // SAFETY: room for the result, whose size is in the request number.
    Errno::result(unsafe { libc::ioctl(place.as_raw_fd(), GET_SUBVOL_INFO, answer.as_mut_ptr()) })?;
    Ok(answer)
}

/// Calls the btrfs that `place` is in with 4,096 bytes of arguments, which also receive the result.
fn btrfs_call(place: &OwnedFd, request: libc::Ioctl, arguments: &mut [u8; 4096]) -> nix::Result<()> {
    // SAFETY: the requests of both callers have this size in their number.
    Errno::result(unsafe { libc::ioctl(place.as_raw_fd(), request, arguments.as_mut_ptr()) }).map(drop)
}

/// A device of a btrfs: `struct btrfs_ioctl_dev_info_args`. BTRFS_IOC_DEV_INFO.
///
/// # Errors
/// ENODEV if there is no such device.
pub fn btrfs_device(place: &OwnedFd, id: u64) -> nix::Result<[u8; 4096]> {
    const DEV_INFO: libc::Ioctl = nix::request_code_readwrite!(0x94, 30, 4096);
    let mut arguments = [0; 4096];
    arguments[0..8].copy_from_slice(&id.to_ne_bytes());
    btrfs_call(place, DEV_INFO, &mut arguments)?;
    Ok(arguments)
}

/// Searches a tree of a btrfs: `struct btrfs_ioctl_search_args`, filled by the caller. BTRFS_IOC_TREE_SEARCH.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN; other errors of the system call.
pub fn btrfs_search(place: &OwnedFd, arguments: &mut [u8; 4096]) -> nix::Result<()> {
    const TREE_SEARCH: libc::Ioctl = nix::request_code_readwrite!(0x94, 17, 4096);
    btrfs_call(place, TREE_SEARCH, arguments)
}
