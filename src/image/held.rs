//! Who else has the image in hands: a mount, a loop device, a running virtual machine, another deaddrop.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
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
    if try_lock(file, exclusive).map_err(|e| ImageError::io(format!("locking {name}"), e))? {
        return Ok(());
    }
    Err(ImageError::refused(
        format!("{name} is locked by another process, perhaps another deaddrop"),
        "wait until it is done",
    ))
}

/// Locks a file as long as it is open. False when another holds a lock that excludes ours.
pub(super) fn try_lock(file: &File, exclusive: bool) -> io::Result<bool> {
    for attempt in 1..=ATTEMPTS {
        let result = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match result {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => break,
            // A file system without locks: nothing to be done, and no reason to stop.
            Err(TryLockError::Error(e)) if has_no_locks(&e) => return Ok(true),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(false)
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
        Some(by) => Err(ImageError::refused(format!("{name} {by}: writing to it now would damage it"), LET_GO)),
    }
}

/// The refusal of a device that the kernel gives to nobody else, although nothing that [`refuse_if_held`] knows holds it.
#[must_use]
pub fn busy(name: &str) -> ImageError {
    ImageError::refused(
        format!(
            "{name}, or a part of it, is in use (mounted elsewhere, swap, a disk array, another run): writing to it now \
             would damage it"
        ),
        LET_GO,
    )
}

const LET_GO: &str = "unmount it, detach it or stop the machine; --force writes all the same";

fn holder(file: &File) -> io::Result<Option<String>> {
    let image = file.metadata()?;
    // No /proc: a mounted device is still refused when it is opened to be written.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if image.file_type().is_block_device() {
        let numbers = with_partitions(&number_of(image.rdev()));
        if let Some(place) = mounted_at(&mounts, &numbers) {
            return Ok(Some(format!("is mounted at {place}")));
        }
        if let Some(above) = numbers.iter().find_map(|number| device_above(number)) {
            return Ok(Some(format!("is used by {above}")));
        }
    }
    if let Some((device, number)) = loop_device_of(&image) {
        return Ok(Some(match mounted_at(&mounts, &with_partitions(&number)) {
            Some(place) => format!("is attached to {device} and mounted at {place}"),
            None => format!("is attached to {device}"),
        }));
    }
    if is_locked_by_qemu(file)? {
        return Ok(Some("is open in a virtual machine (qemu's lock is on it)".into()));
    }
    Ok(None)
}

/// `major:minor`, as proc and sysfs name a device.
fn number_of(rdev: u64) -> String {
    format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

/// A block device's number and those of its partitions.
fn with_partitions(number: &str) -> Vec<String> {
    let mut numbers = vec![number.to_owned()];
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

/// A device that lies on this one: a RAID, a logical volume, an encrypted one (sysfs, `holders`).
fn device_above(number: &str) -> Option<String> {
    let holder = fs::read_dir(format!("/sys/dev/block/{number}/holders")).ok()?.flatten().next()?;
    Some(format!("/dev/{}", holder.file_name().to_string_lossy()))
}

/// The mount point of the first mount of one of the devices `numbers`. proc(5), mountinfo: the third field is
/// `major:minor`, the fifth the mount point, and the second after the one `-` the device's path. Where a file system has
/// a number of its own (btrfs), only that path tells.
fn mounted_at(mounts: &str, numbers: &[String]) -> Option<String> {
    let is_one = |number: &str| numbers.iter().any(|wanted| wanted == number);
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let number = fields.nth(2)?;
        let place = fields.nth(1)?;
        let by_path = || {
            let path = source.split(' ').nth(1).filter(|path| path.starts_with("/dev/"))?;
            let device = fs::metadata(unescaped(path)).ok().filter(|found| found.file_type().is_block_device())?;
            Some(is_one(&number_of(device.rdev())))
        };
        (is_one(number) || by_path().unwrap_or(false)).then(|| unescaped(place))
    })
}

/// A path of mountinfo, where space, tab, newline and backslash stand as `\040` and so on.
fn unescaped(path: &str) -> String {
    let plain = |text: String, (code, character): (&str, &str)| text.replace(code, character);
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")].into_iter().fold(path.to_owned(), plain)
}

/// The loop device that this file (or device) backs: its path, and its number.
fn loop_device_of(image: &fs::Metadata) -> Option<(String, String)> {
    // No /sys in a container: then there is no loop device to be found either.
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|device| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        let backing = fs::metadata(Path::new(backing.trim_end_matches('\n'))).ok()?;
        let number = fs::read_to_string(device.path().join("dev")).ok()?;
        let same = match image.file_type().is_block_device() {
            true => backing.file_type().is_block_device() && backing.rdev() == image.rdev(),
            false => (backing.dev(), backing.ino()) == (image.dev(), image.ino()),
        };
        same.then(|| (format!("/dev/{}", device.file_name().to_string_lossy()), number.trim().to_owned()))
    })
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
