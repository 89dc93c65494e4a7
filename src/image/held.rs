//! Who else has the image in hands: a mount, a loop device, a running virtual machine, another deaddrop.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::error::ImageError;

/// qemu locks single bytes of these ranges for the permissions it uses and the ones it shares (qemu,
/// block/file-posix.c: RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE).
const QEMU_LOCKS_START: i64 = 100;
const QEMU_LOCKS_LENGTH: i64 = 200;

/// How often a lock is tried, and how long between: udev holds one for a moment when it looks at a device.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Locks the image against other runs of deaddrop (flock(2)), as long as `file` is open.
///
/// # Errors
/// When another process holds a lock that excludes ours.
pub fn lock(file: &File, name: &str, exclusive: bool) -> Result<(), ImageError> {
    for attempt in 1..=ATTEMPTS {
        let result = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match result {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => break,
            // A file system without locks: nothing to be done, and no reason to stop.
            Err(TryLockError::Error(e)) if has_no_locks(&e) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(ImageError::io(format!("locking {name}"), e)),
        }
    }
    Err(ImageError::refused(
        format!("{name} is locked by another process, perhaps another deaddrop"),
        "wait until it is done",
    ))
}

fn has_no_locks(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS))
}

/// Refuses an image that is mounted, attached to a loop device, or open in a virtual machine.
///
/// # Errors
/// The refusal, saying who holds it.
pub fn refuse_if_held(file: &File, name: &str) -> Result<(), ImageError> {
    let held = holder(file).map_err(|error| ImageError::io(format!("looking who uses {name}"), error))?;
    match held {
        None => Ok(()),
        Some(by) => Err(ImageError::refused(
            format!("{name} {by}: writing to it now would damage it"),
            "unmount it, detach it or stop the machine; --force writes all the same",
        )),
    }
}

fn holder(file: &File) -> io::Result<Option<String>> {
    let image = file.metadata()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if image.file_type().is_block_device() {
        if let Some(place) = device_mounted_at(&mounts, &device_numbers(image.rdev())) {
            return Ok(Some(format!("is mounted at {place}")));
        }
    } else if let Some(device) = loop_device_of(&image)? {
        let numbers = fs::read_to_string(device.join("dev")).unwrap_or_default();
        let name = format!("/dev/{}", device.file_name().unwrap_or_default().to_string_lossy());
        return Ok(Some(match device_mounted_at(&mounts, &[numbers.trim().to_owned()]) {
            Some(place) => format!("is attached to {name} and mounted at {place}"),
            None => format!("is attached to {name}"),
        }));
    }
    if is_locked_by_qemu(file)? {
        return Ok(Some("is open in a virtual machine (qemu's lock is on it)".into()));
    }
    Ok(None)
}

/// `major:minor` of a block device and of its partitions.
fn device_numbers(rdev: u64) -> Vec<String> {
    let number = format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let mut numbers = vec![number.clone()];
    let Ok(children) = fs::read_dir(format!("/sys/dev/block/{number}")) else { return numbers };
    for child in children.flatten() {
        if child.path().join("partition").exists()
            && let Ok(number) = fs::read_to_string(child.path().join("dev"))
        {
            numbers.push(number.trim().to_owned());
        }
    }
    numbers
}

/// The mount point of the first of `numbers` that is mounted. proc(5), mountinfo: the third field is `major:minor`,
/// the fifth the mount point.
fn device_mounted_at<'a>(mounts: &'a str, numbers: &[String]) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let number = fields.nth(2)?;
        numbers.iter().any(|wanted| wanted == number).then(|| fields.nth(1))?
    })
}

/// The sysfs directory of a loop device that this file backs.
fn loop_device_of(image: &fs::Metadata) -> io::Result<Option<PathBuf>> {
    // No /sys in a container: then there is no loop device to be found either.
    let Ok(devices) = fs::read_dir("/sys/block") else { return Ok(None) };
    for device in devices.flatten() {
        let Ok(backing) = fs::read_to_string(device.path().join("loop/backing_file")) else { continue };
        let same = fs::metadata(Path::new(backing.trim_end_matches('\n')))
            .is_ok_and(|backing| (backing.dev(), backing.ino()) == (image.dev(), image.ino()));
        if same {
            return Ok(Some(device.path()));
        }
    }
    Ok(None)
}

/// Asks for a conflicting open-file-description lock, and takes none.
fn is_locked_by_qemu(file: &File) -> io::Result<bool> {
    let mut lock = nix::libc::flock {
        l_type: lock_type(nix::libc::F_WRLCK),
        l_whence: lock_type(nix::libc::SEEK_SET),
        l_start: QEMU_LOCKS_START,
        l_len: QEMU_LOCKS_LENGTH,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(lock.l_type != lock_type(nix::libc::F_UNLCK)),
        // Some file systems have no such locks: then qemu has none there either.
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn lock_type(constant: i32) -> i16 {
    // OK to default: the constants are 0 to 2 on Linux.
    i16::try_from(constant).unwrap_or_default()
}
