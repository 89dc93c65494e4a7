//! Features specific to btrfs: subvolumes and snapshots, and its superblock, which the kernel finds by UUID.
//!
//! Numbers in the kernel's replies are in native byte order, items of its trees are little-endian. Layouts:
//! include/uapi/linux/btrfs.h and btrfs_tree.h.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use deaddrop_core::bytes::{array, le16, le64, slice};
use deaddrop_core::error::StorageError;
use deaddrop_core::{sys, text};

use super::loop_device::LoopDevice;

/// Offset of the superblock, in bytes.
pub(super) const SUPERBLOCK: u64 = 0x10000;
/// `log_root` in the superblock: not 0 if a log needs a replay.
const LOG_ROOT: u64 = 0x60;
/// `dev_item.devid` in the superblock.
const DEVICE_ID: u64 = 0xC9;

/// The number of the top-level subvolume.
const TOP_LEVEL: u64 = 5;

/// A subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolume {
    /// Its number.
    pub id: u64,
    /// Its last path component, safe for a terminal; `None` for the top level.
    pub name: Option<String>,
    /// True if it is read-only.
    pub read_only: bool,
    /// True if it was created as a snapshot.
    pub is_snapshot: bool,
}

impl Subvolume {
    /// Its name in messages: `subvolume 256 (@)`.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("subvolume {} ({name})", self.id),
            None if self.id == TOP_LEVEL => "the top level".to_owned(),
            None => format!("subvolume {}", self.id),
        }
    }
}

/// The subvolume that `place` is in.
///
/// # Errors
/// If the kernel does not report it.
pub fn subvolume(place: &OwnedFd) -> Result<Subvolume, StorageError> {
    // `struct btrfs_ioctl_get_subvol_info_args`: treeid u64, name 256, parent_id, dirid, generation, flags u64, uuid
    // 16, parent_uuid 16.
    const READ_ONLY: u64 = 1;
    let failed = |errno: nix::errno::Errno| StorageError::io("asking btrfs for its subvolume", errno.into());
    let answer = sys::btrfs_subvolume(place).map_err(failed)?;
    // OK to default: the reply has room for all of these.
    let number = |offset| array(&answer, offset).map(u64::from_ne_bytes).unwrap_or_default();
    Ok(Subvolume {
        id: number(0),
        name: slice(&answer, 8, 256).and_then(text::shown),
        read_only: number(288) & READ_ONLY != 0,
        is_snapshot: slice(&answer, 312, 16).is_some_and(|uuid| uuid.iter().any(|byte| *byte != 0)),
    })
}

/// Snapshots that may contain an earlier state of the subvolume `own`: all other snapshots, or all other subvolumes if
/// it is a snapshot itself. Whether they share a file with it is not checked.
///
/// # Errors
/// If the kernel does not report them.
pub fn snapshots(place: &OwnedFd, own: &Subvolume) -> Result<Vec<String>, StorageError> {
    // `struct btrfs_root_item`: refs u32 at 216, parent_uuid at 263. Without references it is being deleted.
    const ROOT_ITEM: u32 = 132;
    let mut found = Vec::new();
    search(place, ROOT_ITEM, |id, _, item| {
        let lives = slice(item, 216, 4).is_some_and(|refs| refs.iter().any(|byte| *byte != 0));
        let is_snapshot = slice(item, 263, 16).is_some_and(|uuid| uuid.iter().any(|byte| *byte != 0));
        if id != own.id && lives && (is_snapshot || own.is_snapshot) {
            found.push(id);
        }
    })?;
    let names = all(place)?;
    Ok(found.iter().map(|id| names.get(id).cloned().unwrap_or_else(|| format!("subvolume {id}"))).collect())
}

/// The last path components of all subvolumes, by number.
///
/// # Errors
/// If the kernel does not report them.
pub(super) fn names(place: &OwnedFd) -> Result<Vec<String>, StorageError> {
    Ok(all(place)?.into_iter().map(|(id, name)| format!("{id} ({name})")).collect())
}

fn all(place: &OwnedFd) -> Result<BTreeMap<u64, String>, StorageError> {
    // `struct btrfs_root_ref`: dirid u64, sequence u64, name_len u16, then the name.
    const ROOT_BACKREF: u32 = 144;
    let mut names = BTreeMap::new();
    search(place, ROOT_BACKREF, |id, _, item| {
        let length = le16(item, 16).map_or(0, usize::from);
        if let Some(name) = slice(item, 18, length).and_then(text::shown) {
            names.insert(id, name);
        }
    })?;
    Ok(names)
}

/// Calls `visit` with object, offset and content of each item of this type in the tree of roots.
fn search(place: &OwnedFd, wanted: u32, mut visit: impl FnMut(u64, u64, &[u8])) -> Result<(), StorageError> {
    // `struct btrfs_ioctl_search_key`: tree, objects from and to, offsets from and to, transactions from and to u64;
    // types from and to, number of items u32; the items follow at 104, each with a header: transaction, object, offset
    // u64, type, length u32.
    const ROOT_TREE: u64 = 1;
    const FIRST: u64 = 256;
    const LAST: u64 = u64::MAX - 255;
    const ITEMS: usize = 104;
    const HEADER: usize = 32;
    /// Each reply has at least one item. Subvolumes beyond this number are ignored.
    const MOST: usize = 10_000;
    let failed = |errno: nix::errno::Errno| StorageError::io("asking btrfs for its subvolumes", errno.into());
    let mut from = (FIRST, wanted, 0_u64);
    for _ in 0..MOST {
        let mut answer = [0; 4096];
        let words = [ROOT_TREE, from.0, LAST, from.2, u64::MAX, 0, u64::MAX];
        for (field, word) in answer.chunks_exact_mut(8).zip(words) {
            field.copy_from_slice(&word.to_ne_bytes());
        }
        for (field, word) in answer[56..68].chunks_exact_mut(4).zip([from.1, wanted, 4096]) {
            field.copy_from_slice(&word.to_ne_bytes());
        }
        sys::btrfs_search(place, &mut answer).map_err(failed)?;
        let count = array(&answer, 64).map_or(0, u32::from_ne_bytes);
        if count == 0 {
            return Ok(());
        }
        let mut at = ITEMS;
        for _ in 0..count {
            let header = |offset: usize| array(answer.get(at..)?, offset);
            let number = |offset| header(offset).map(u64::from_ne_bytes);
            let half = |offset| array(answer.get(at..)?, offset).map(u32::from_ne_bytes);
            let (Some(object), Some(offset), Some(kind), Some(length)) = (number(8), number(16), half(24), half(28))
            else {
                return Ok(());
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(item) = answer.get(at.saturating_add(HEADER)..).and_then(|rest| rest.get(..length)) else {
                return Ok(());
            };
            if kind == wanted {
                visit(object, offset, item);
            }
            from = match offset.checked_add(1) {
                Some(next) => (object, kind, next),
                None => (object, kind.saturating_add(1), 0),
            };
            at = at.saturating_add(HEADER).saturating_add(length);
        }
    }
    Ok(())
}

/// The refusal of a subvolume that does not exist.
pub(super) fn no_such_subvolume(asked: &str, names: &[String]) -> StorageError {
    const MOST: usize = 16;
    let shown = names.get(..MOST).unwrap_or(names).join(", ");
    let there = match names.len().checked_sub(MOST) {
        _ if names.is_empty() => "it has none but the top level (5)".to_owned(),
        Some(more @ 1..) => format!("there are: {shown} and {more} more"),
        _ => format!("there are: {shown}"),
    };
    StorageError::refused(
        format!("there is no subvolume `{}`", text::shown_text(asked).unwrap_or_default()),
        format!("name it by its path from the top level, or by its number; {there}"),
    )
}

/// True if a log needs a replay.
pub(super) fn has_log(device: &LoopDevice) -> Result<bool, StorageError> {
    Ok(field(device, LOG_ROOT)? != 0)
}

fn field(device: &LoopDevice, offset: u64) -> Result<u64, StorageError> {
    let mut bytes = [0; 8];
    // Cannot overflow: both are small constants.
    let read = device.file().read_exact_at(&mut bytes, SUPERBLOCK + offset);
    read.map_err(|error| StorageError::io("reading the btrfs superblock", error))?;
    le64(&bytes, 0).ok_or_else(|| StorageError::corrupt("the btrfs superblock is truncated"))
}

/// Waits for this program's turn to mount a btrfs; the turn ends when the returned file is dropped.
///
/// The kernel finds a btrfs by its UUID, in two steps (since Linux 6.17): a mount of another image with the same UUID
/// in between could get the file system of the wrong image. Images of one build have the same UUID. [`check_device`]
/// checks the result, because other programs mount too.
pub(super) fn lock_mounts() -> Option<File> {
    const PATIENCE: Duration = Duration::from_secs(10);
    // Without the device node there is no such lock, and only the check.
    let control = File::open("/dev/btrfs-control").ok()?;
    let since = Instant::now();
    while control.try_lock().is_err() && since.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(2));
    }
    Some(control)
}

/// Checks that the file system mounted at `place` is on our device.
///
/// # Errors
/// `Refused` if it is on another.
pub(super) fn check_device(place: &OwnedFd, device: &LoopDevice) -> Result<(), StorageError> {
    // `struct btrfs_ioctl_dev_info_args` ends with the device's path, 1,024 bytes.
    let failed = |error| StorageError::io("asking btrfs for its device", error);
    let answer = sys::btrfs_device(place, field(device, DEVICE_ID)?).map_err(|errno| failed(errno.into()))?;
    let path = slice(&answer, 3072, 1024).unwrap_or_default();
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    let own = device.file().metadata().map_err(failed)?.rdev();
    if fs::metadata(OsStr::from_bytes(path)).is_ok_and(|found| found.rdev() == own) {
        return Ok(());
    }
    Err(StorageError::refused(
        format!(
            "the kernel took {} for {}: another btrfs with the same UUID was mounted at that moment",
            text::shown(path).unwrap_or_default(),
            device.path().display()
        ),
        "try again",
    ))
}
