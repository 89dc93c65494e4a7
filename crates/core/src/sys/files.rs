//! Requests to files, block devices and file systems: ioctl(2).

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Whence, lseek64};

/// Makes `to` share all blocks of `from`, on a file system that supports it (btrfs, xfs, bcachefs, …). `to` becomes
/// as long as `from`; writes to one do not affect the other.
///
/// # Errors
/// If the system call fails; mostly because the file system does not support it.
pub fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor by value, and no memory.
    let result = unsafe { libc::ioctl(to.as_fd().as_raw_fd(), libc::FICLONE, from.as_fd().as_raw_fd()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `size` bytes of `to`, from `to_offset` on, share the blocks of those of `from` from `from_offset` on
/// (ioctl_ficlonerange(2)).
///
/// # Errors
/// If the system call fails: the file system does not support it, the offsets are not on its blocks, or the files are
/// on two.
pub fn reflink_range(from: &File, from_offset: u64, size: u64, to: &File, to_offset: u64) -> io::Result<()> {
    if size == 0 {
        // To the kernel, 0 means all that follows.
        return Ok(());
    }
    let range = libc::file_clone_range {
        src_fd: from.as_fd().as_raw_fd().into(),
        src_offset: from_offset,
        src_length: size,
        dest_offset: to_offset,
    };
    // SAFETY: FICLONERANGE reads one `file_clone_range`.
    let result = unsafe { libc::ioctl(to.as_fd().as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel to begin writing `size` bytes of a file from `offset` on to the disk, so that less is left for an
/// fsync. Best effort: sync_file_range(2).
pub fn begin_writing(file: &File, offset: u64, size: u64) {
    let (Ok(offset), Ok(size)) = (i64::try_from(offset), i64::try_from(size)) else { return };
    // SAFETY: numbers only.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, size, libc::SYNC_FILE_RANGE_WRITE) };
}

/// True for a block device that is read-only in the kernel: a locked card, `blockdev --setro`.
///
/// # Errors
/// If the system call fails, for example because the file is not a block device.
pub fn is_read_only(device: &File) -> io::Result<bool> {
    /// `BLKROGET` of linux/fs.h: `_IO(0x12, 94)`.
    const BLKROGET: libc::Ioctl = nix::request_code_none!(0x12, 94);
    let mut read_only: c_int = 0;
    // SAFETY: BLKROGET writes one int, and `read_only` is one.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BLKROGET, &raw mut read_only) };
    if result == 0 { Ok(read_only != 0) } else { Err(io::Error::last_os_error()) }
}

/// The logical sector size of a block device, in bytes: the unit of direct I/O and of partition tables. BLKSSZGET of
/// linux/fs.h.
///
/// # Errors
/// If the system call fails.
pub fn sector_size(device: &File) -> io::Result<u32> {
    let mut size: c_int = 0;
    // SAFETY: BLKSSZGET writes one int, and `size` is one.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::BLKSSZGET, &raw mut size) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Makes `size` bytes of a block device from `offset` on read as zeros; both are multiples of its sector size. The kernel
/// writes zeros where the device has no command for it. Documentation/ABI/stable/sysfs-block,
/// `queue/write_zeroes_max_bytes`; BLKZEROOUT of linux/fs.h.
///
/// # Errors
/// If the system call fails.
pub fn zero_out(device: &File, offset: u64, size: u64) -> io::Result<()> {
    /// `BLKZEROOUT` of linux/fs.h: `_IO(0x12, 127)`.
    const BLKZEROOUT: libc::Ioctl = nix::request_code_none!(0x12, 127);
    let range = [offset, size];
    // SAFETY: BLKZEROOUT reads two u64, and `range` has two.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel read the partition table of a block device again. BLKRRPART of linux/fs.h.
///
/// # Errors
/// EBUSY if a partition is in use; EINVAL for a device without partitions; other errors of the system call.
pub fn reread_table(device: &File) -> nix::Result<()> {
    /// `BLKRRPART` of linux/fs.h: `_IO(0x12, 95)`.
    const BLKRRPART: libc::Ioctl = nix::request_code_none!(0x12, 95);
    // SAFETY: takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), BLKRRPART) }).map(drop)
}

/// Discards the free space of a mounted file system on the device below it. `place` is open on it, not with O_PATH.
/// Returns the number of bytes discarded. include/uapi/linux/fs.h, FITRIM.
///
/// # Errors
/// EOPNOTSUPP if the device does not support it; other errors of the system call.
pub fn trim(place: &OwnedFd) -> nix::Result<u64> {
    const FITRIM: libc::Ioctl = nix::request_code_readwrite!(b'X', 121, 24);
    // `struct fstrim_range`: start, length, minimum length of a free range.
    let mut range = [0, u64::MAX, 0];
    // SAFETY: three u64, which the kernel reads and writes.
    Errno::result(unsafe { libc::ioctl(place.as_raw_fd(), FITRIM, range.as_mut_ptr()) })?;
    Ok(range[1])
}

/// Size of one extent in the result of [`extents`], in bytes.
pub const EXTENT_SIZE: usize = 56;

/// Fills `answer` with the extents of a file from byte `start` on; returns their number, each of [`EXTENT_SIZE`].
/// Documentation/filesystems/fiemap.rst, FS_IOC_FIEMAP.
///
/// # Errors
/// EOPNOTSUPP from a file system without it; other errors of the system call.
pub fn extents(file: &File, start: u64, answer: &mut [u8; 32 + 32 * EXTENT_SIZE]) -> nix::Result<usize> {
    const FS_IOC_FIEMAP: libc::Ioctl = nix::request_code_readwrite!(b'f', 11, 32);
    const MOST: u32 = 32;
    // `struct fiemap`: start and length u64; flags, mapped extents, room for extents, reserved u32.
    answer.fill(0);
    answer[0..8].copy_from_slice(&start.to_ne_bytes());
    answer[8..16].copy_from_slice(&(u64::MAX - start).to_ne_bytes());
    answer[24..28].copy_from_slice(&MOST.to_ne_bytes());
    // SAFETY: room for the header and for as many extents as it declares.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, answer.as_mut_ptr()) })?;
    let [a, b, c, d] = [answer[20], answer[21], answer[22], answer[23]];
    let count = u32::from_ne_bytes([a, b, c, d]).min(MOST);
    usize::try_from(count).map_err(|_| Errno::EOVERFLOW)
}

/// `FS_IMMUTABLE_FL` and `FS_APPEND_FL` of [`file_flags`] (include/uapi/linux/fs.h).
pub const IMMUTABLE: u32 = 0x10;
/// See [`IMMUTABLE`].
pub const APPEND_ONLY: u32 = 0x20;

/// The flags of an open file, as set by chattr(1). FS_IOC_GETFLAGS, ioctl_iflags(2).
///
/// # Errors
/// If the file system has no such flags.
pub fn file_flags(file: &File) -> nix::Result<u32> {
    // The request number is defined with `long`, but the kernel writes an int.
    let mut flags: [u32; 2] = [0; 2];
    // SAFETY: the kernel writes an int to `flags`, which has room for a long and lives until the call returns.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, flags.as_mut_ptr()) })?;
    Ok(flags[0])
}

/// Opens the controlling terminal, even if standard input and output are redirected.
///
/// # Errors
/// If the process has none.
pub fn open_terminal() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

/// The first part of `range` (bytes) of `file` that is not a hole; `None` if all of it is a hole. On a file system that
/// does not report holes, everything is data.
///
/// # Errors
/// If the system call fails.
pub fn next_data(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let position = i64::try_from(range.start).map_err(|_| io::ErrorKind::InvalidInput)?;
    let start = match lseek64(file, position, Whence::SeekData) {
        Ok(start) => start,
        // A hole up to the end of the file.
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some(range)),
        Err(e) => return Err(e.into()),
    };
    let end = lseek64(file, start, Whence::SeekHole)?;
    let place = |position: i64| u64::try_from(position).unwrap_or(range.end).clamp(range.start, range.end);
    Ok(Some(place(start)..place(end)).filter(|data| !data.is_empty()))
}
