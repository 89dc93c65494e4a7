//! Holders of an image: a mount, a loop device, a running virtual machine, another deaddrop.

use std::fs::{self, File, Metadata, TryLockError};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{io, thread};

use deaddrop_core::error::{Hint, Remedy, StorageError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::open::block_devices::{Number, System};

/// qemu locks single bytes of these ranges for the permissions it uses and the ones it shares (qemu,
/// block/file-posix.c: RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE).
const QEMU_LOCKS_START: i64 = 100;
const QEMU_LOCKS_LENGTH: i64 = 200;

/// Maximum number of attempts to take a lock, and the time between them: udev holds one briefly when it probes a
/// device.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Maximum time that a loop device is waited for which the kernel frees at its last close: whoever looks at it (udev,
/// another program) keeps it for a moment after umount(8) returned.
const PATIENCE: Duration = Duration::from_secs(2);

/// Locks the image against other runs of deaddrop (flock(2)), as long as `file` is open.
///
/// # Errors
/// If another process has a conflicting lock.
pub fn lock(file: &File, name: &str, exclusive: bool) -> Result<(), StorageError> {
    if try_lock(file, exclusive).map_err(|e| StorageError::io(format!("locking {name}"), e))? {
        return Ok(());
    }
    Err(StorageError::refused(
        format!("{name} is locked by another process, perhaps another deaddrop"),
        "wait until it is done",
    ))
}

/// Locks a file as long as it is open. False if another process has a conflicting lock.
pub(crate) fn try_lock(file: &File, exclusive: bool) -> io::Result<bool> {
    for attempt in 1..=ATTEMPTS {
        let result = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match result {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => break,
            // A file system without locks: not an error.
            Err(TryLockError::Error(e)) if has_no_locks(&e) => return Ok(true),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(false)
}

fn has_no_locks(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS))
}

/// Refuses an image that is mounted, attached to a loop device, used as swap or by another device, or open in a virtual
/// machine.
///
/// # Errors
/// The refusal, with the holder. For a file its hint offers the override; a device in use is never written to.
pub fn refuse_holders(file: &File, name: &str) -> Result<(), StorageError> {
    let looking = |error| StorageError::io(format!("looking who uses {name}"), error);
    let is_device = file.metadata().map_err(looking)?.file_type().is_block_device();
    let system = System::running();
    let over = await_freed(&file.metadata().map_err(looking)?, &system);
    let held = holder(file, over, &system).map_err(looking)?;
    match held {
        None => Ok(()),
        Some(by) => Err(StorageError::refused(
            format!("{name} {by}: writing to it now would damage it"),
            if is_device { LET_GO.into() } else { Hint::from(Remedy::OverrideHolder) },
        )),
    }
}

/// The refusal of a device that the kernel does not open exclusively, although [`refuse_holders`] found no holder.
#[must_use]
pub fn busy(name: &str) -> StorageError {
    StorageError::refused(
        format!(
            "{name}, or a part of it, is in use (mounted elsewhere, swap, a disk array, another run): writing to it \
             now would damage it"
        ),
        LET_GO,
    )
}

/// The hint for a device in use.
pub(crate) const LET_GO: &str = "unmount it, or detach what uses it";

/// What holds the image; `over` is the loop device over it.
fn holder(file: &File, over: Option<(String, Number)>, system: &System) -> io::Result<Option<String>> {
    let image = file.metadata()?;
    if image.file_type().is_block_device() {
        let number = Number::of(image.rdev());
        if let Some(place) = system.mounted_at(&number) {
            return Ok(Some(format!("is mounted at {place}")));
        }
        if system.is_swap(&number) {
            return Ok(Some("is in use as swap".into()));
        }
        if let Some(above) = system.used_by(&number) {
            return Ok(Some(format!("is used by {above}")));
        }
        if let Some((other, place)) = mounted_twin(&number, system) {
            return Ok(Some(format!("is over the same file as {other}, which is mounted at {place}")));
        }
    }
    if let Some((device, number)) = over {
        return Ok(Some(match system.mounted_at(&number) {
            Some(place) => format!("is attached to {device} and mounted at {place}"),
            None => format!("is attached to {device}"),
        }));
    }
    if is_locked_by_qemu(file)? {
        return Ok(Some("is open in a virtual machine (qemu's lock is on it)".into()));
    }
    Ok(None)
}

/// The loop device over this file (or device): its path, and its number.
fn loop_device_over(image: &Metadata, system: &System) -> Option<(String, Number)> {
    system.loop_devices().into_iter().find_map(|(device, number, backing)| {
        // Removed, or a path of another mount namespace: it cannot be compared, which is no reason to refuse all
        // images.
        let backing = fs::metadata(backing).ok()?;
        let same = match image.file_type().is_block_device() {
            true => backing.file_type().is_block_device() && backing.rdev() == image.rdev(),
            false => (backing.dev(), backing.ino()) == (image.dev(), image.ino()),
        };
        same.then_some((device, number))
    })
}

/// Waits, for a limited time, while a loop device over this file is neither mounted nor kept beyond its last close.
/// Returns the one that is left.
fn await_freed(image: &Metadata, system: &System) -> Option<(String, Number)> {
    let since = Instant::now();
    loop {
        let over = loop_device_over(image, system);
        let is_about_to_go = |(_, number): &(String, Number)| {
            system.is_autoclear(number) && system.mounted_at(number).is_none() && since.elapsed() < PATIENCE
        };
        if !over.as_ref().is_some_and(is_about_to_go) {
            return over;
        }
        thread::sleep(PAUSE);
    }
}

/// Another loop device over the file behind the loop device `number`, if it is mounted, and its mount point.
fn mounted_twin(number: &Number, system: &System) -> Option<(String, String)> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let ours = identity(&system.backing_file(number)?)?;
    let itself = system.disk_of(number)?;
    system.loop_devices().into_iter().filter(|(_, other, _)| *other != itself).find_map(|(device, other, backing)| {
        (identity(&backing)? == ours).then_some(())?;
        Some((device, system.mounted_at(&other)?))
    })
}

/// Tests for a conflicting open-file-description lock, and takes none.
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
        // Some file systems do not have such locks: then qemu has none there either.
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn lock_type(constant: i32) -> i16 {
    // OK to default: the constants are 0 to 2 on Linux.
    i16::try_from(constant).unwrap_or_default()
}
