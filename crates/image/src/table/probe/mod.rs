//! Detects the content of a partition: the kind of file system, its label, UUID and size, from the first bytes; and the
//! layer below it, if any: `layers` also reads the end.
//!
//! Used by [`crate::table`] for each partition. Checks magics only; the reader of a file system checks whether it is
//! valid. Offsets are bytes from the partition's start, on-disk names those of the Linux headers.

mod kinds;
mod layers;
mod signatures;

use std::io;
use std::sync::{Mutex, PoisonError};

use deaddrop_core::bytes::length;
use deaddrop_core::text;
use serde::Serialize;

pub use self::kinds::ContentKind;
use self::signatures::{bcachefs, btrfs, dos, erofs, ext, f2fs, iso9660, luks, lvm, squashfs, swap, verity, xfs, zfs};
use crate::device::ReadAt;

/// The content of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// The kind of content.
    pub kind: ContentKind,
    /// Its label, safe for a terminal.
    pub label: Option<String>,
    /// Its UUID, or the serial number of a FAT.
    pub uuid: Option<String>,
    /// Its size in bytes, according to itself; `None` if that is expensive to find.
    pub size: Option<u64>,
    /// Bytes in use, according to itself; `None` if that is expensive to find.
    pub used: Option<u64>,
}

impl Probe {
    fn new(kind: ContentKind) -> Self {
        Self { kind, label: None, uuid: None, size: None, used: None }
    }

    /// Adds label and UUID, if present.
    fn named(mut self, label: Option<&[u8]>, uuid: Option<[u8; 16]>) -> Self {
        self.label = label.and_then(text::shown);
        self.uuid = uuid.and_then(|uuid| text::uuid(&uuid));
        self
    }

    /// Adds size and use, both in bytes.
    fn sized(mut self, size: Option<u64>, used: Option<u64>) -> Self {
        (self.size, self.used) = (size, used);
        self
    }
}

/// Number of bytes read of a partition's start: up to the end of btrfs' superblock (0x10000 + 0x1000).
const HEAD: usize = 0x11000;

/// The content of the partition `device`. `None` if it is unknown.
///
/// # Errors
/// If a relevant range cannot be read: a member of a RAID must not be taken for a separate file system.
pub fn probe(device: &dyn ReadAt) -> io::Result<Option<Probe>> {
    ErrorRecorder::ask(device, |device| detect(device, false))
}

/// Like [`probe`], for a whole disk, which may have a RAID controller's metadata.
///
/// # Errors
/// As [`probe`].
pub fn probe_disk(device: &dyn ReadAt) -> io::Result<Option<Probe>> {
    ErrorRecorder::ask(device, |device| detect(device, true))
}

/// A device that records read errors, for probes that only return whether a signature exists.
struct ErrorRecorder<'d> {
    device: &'d dyn ReadAt,
    failed: Mutex<Option<io::Error>>,
}

impl<'d> ErrorRecorder<'d> {
    /// Runs a probe, and returns a read error of the device instead of its result, if there was one.
    fn ask<T>(device: &'d dyn ReadAt, ask: impl FnOnce(&dyn ReadAt) -> T) -> io::Result<T> {
        let recorder = Self { device, failed: Mutex::new(None) };
        let answer = ask(&recorder);
        match recorder.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }
}

impl ReadAt for ErrorRecorder<'_> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // A read after the end of the device is not an error: there is nothing.
        if offset.checked_add(length(buf)).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.device.read_exact_at(offset, buf).map_err(|error| {
            let kind = error.kind();
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            kind.into()
        })
    }
}

/// The layer with its signature at the end of `device`, and the offset of the signature; see [`layers::at_the_end`].
///
/// # Errors
/// As [`probe`].
pub(crate) fn at_the_end(device: &dyn ReadAt, whole: bool) -> io::Result<Option<(Probe, u64)>> {
    ErrorRecorder::ask(device, |device| layers::at_the_end(device, whole))
}

fn detect(device: &dyn ReadAt, whole: bool) -> Option<Probe> {
    let mut head = vec![0; usize::try_from(device.size()).unwrap_or(HEAD).min(HEAD)];
    device.read_exact_at(0, &mut head).ok()?;
    // Layers below a file system first: the content that they cover may still look like an earlier file system.
    let layers = [luks, lvm, verity, bcachefs].iter().find_map(|probe| probe(&head));
    if let Some(layer) = layers.or_else(|| layers::at_the_start(device, &head)) {
        return Some(layer);
    }
    let known = [btrfs, xfs, ext, f2fs, erofs, squashfs, layers::reiserfs, layers::jfs, swap, iso9660, dos];
    let known = layers::nilfs2(device, 1024).or_else(|| known.iter().find_map(|probe| probe(&head)));
    let known = known.or_else(|| zfs(device));
    // A signature inside a file system is part of it: a leftover, or a file's content.
    let inside = |at: u64| known.as_ref().and_then(|found| found.size).is_some_and(|size| at < size);
    if let Some((layer, at)) = layers::at_the_end(device, whole)
        && !inside(at)
    {
        return Some(layer);
    }
    known.or_else(|| layers::luks_copy(device)).or_else(|| layers::nilfs2_copy(device))
}

#[cfg(test)]
mod tests;
