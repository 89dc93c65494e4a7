//! A loop device over a part of a file: allocated, configured in one call, and freed when the process ends, for
//! whatever reason.
//!
//! No partition scan, which would race and make partitions visible to others: the part is given by offset and size.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, thread};

use deaddrop_core::error::StorageError;
use deaddrop_core::sys;
use nix::errno::Errno;

use super::context::not_allowed;

/// include/uapi/linux/loop.h.
const LO_FLAGS_READ_ONLY: u32 = 1;
/// Freed at the last close.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Maximum number of attempts: another process may take a free device before it is configured.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);
/// Time that another process (udev probes every new device) may keep a detached device open.
const PATIENCE: Duration = Duration::from_secs(10);

/// A loop device of ours.
pub(super) struct LoopDevice {
    file: File,
    path: PathBuf,
    number: u32,
    /// The file behind it as named in sysfs; `None` without sysfs.
    backing: Option<String>,
    direct: bool,
}

impl LoopDevice {
    /// Takes a free loop device and configures it to show `size` bytes of `disk` from `start` on. `image` is for
    /// messages.
    pub(super) fn attach(
        disk: &File,
        start: u64,
        size: u64,
        read_only: bool,
        image: &str,
    ) -> Result<Self, StorageError> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(no_loop_devices)?;
        let act = || format!("attaching {image} to a loop device");
        for _ in 0..ATTEMPTS {
            let number = sys::free_loop_device(&control).map_err(|errno| not_allowed(&act(), errno))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = match OpenOptions::new().read(true).write(!read_only).open(&path) {
                Ok(file) => file,
                // Its node is created by another process, or it was removed again.
                Err(error)
                    if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENXIO)) =>
                {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(no_loop_devices(error)),
            };
            // udev ignores a locked device (systemd, "Locking Block Device MountMode").
            if file.try_lock().is_err() {
                thread::sleep(PAUSE);
                continue;
            }
            let flags = LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
            let configure = |flags| sys::configure_loop_device(&file, disk, start, size, flags);
            let (configured, direct) = match configure(flags | LO_FLAGS_DIRECT_IO) {
                // Not every file system supports it, and not at every offset.
                Err(Errno::EINVAL) => (configure(flags), false),
                other => (other, true),
            };
            match configured {
                Ok(()) => {
                    let backing = backing(number);
                    let direct = direct && is_direct(number);
                    return Ok(Self { file, path, number, backing, direct });
                }
                Err(Errno::EBUSY) => thread::sleep(PAUSE),
                Err(errno) => return Err(not_allowed(&act(), errno)),
            }
        }
        Err(StorageError::refused(
            format!("{}: no loop device is free", act()),
            "others take them all the time: try again, or see `losetup -a`",
        ))
    }

    /// Its path in /dev, for the kernel.
    pub(super) fn c_path(&self) -> Result<CString, StorageError> {
        CString::new(self.path.to_string_lossy().as_bytes())
            .map_err(|_| StorageError::corrupt("a NUL in a device's name"))
    }

    /// Its path in /dev.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The device, open.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// True if it bypasses the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Closes it, and waits until it is free. False if it is still in use after a while.
    pub(super) fn detach(self) -> bool {
        let Self { file, number, backing: before, .. } = self;
        drop(file);
        let since = Instant::now();
        // The same number may already be another process's device, with another backing file.
        while before.is_some() && backing(number) == before {
            if since.elapsed() > PATIENCE {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }
}

/// The file behind a loop device as named in sysfs; `None` if it is free.
fn backing(number: u32) -> Option<String> {
    fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file")).ok()
}

fn is_direct(number: u32) -> bool {
    fs::read_to_string(format!("/sys/block/loop{number}/loop/dio")).is_ok_and(|text| text.trim_end() == "1")
}

fn no_loop_devices(error: io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::NotFound => StorageError::unsupported(
            "there are no loop devices here (/dev/loop-control is missing)",
            "`modprobe loop`; in a container: --privileged with /dev of the host",
        ),
        _ => match error.raw_os_error() {
            Some(number) => not_allowed("opening a loop device", Errno::from_raw(number)),
            None => StorageError::io("opening a loop device", error),
        },
    }
}
