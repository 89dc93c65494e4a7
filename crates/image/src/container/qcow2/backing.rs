//! Backing files, which are followed only if asked for: their names are the image's, and it is hostile input. A raw one
//! must look like a disk, so that no other file of this machine gets into an image.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::text;

use super::header::Backing;
use super::{MAGIC, Qcow2};
use crate::container::Reading;
use crate::device::{FileDevice, ReadAt};
use crate::open::input::{Access, Input};
use crate::open::spool::looks_like_a_disk;

/// How many files may lie below each other.
const DEEPEST: u32 = 8;
/// Bytes that must look like a disk.
const HEAD: usize = 1 << 20;

/// True for an image that deaddrop has made of a base which lies in the image's own directory: a file, and no link.
pub(super) fn is_own_and_beside(backing: &Backing, reading: &Reading<'_>) -> bool {
    let name = backing.name.strip_prefix(b"./").unwrap_or(&backing.name);
    let is_plain = !name.contains(&b'/') && !matches!(name, b"" | b"." | b"..");
    let is_file =
        || reading.directory.join(OsStr::from_bytes(name)).symlink_metadata().is_ok_and(|found| found.is_file());
    backing.is_own && is_plain && is_file()
}

/// Opens the backing file of the image `name`.
///
/// # Errors
/// `Refused` or `Unsupported` for a name that is no file's, for a file that is no disk image, and for a chain that is too
/// long; what opening it gives.
pub(super) fn open(backing: &Backing, name: &str, reading: &Reading<'_>) -> Result<Arc<dyn ReadAt>, StorageError> {
    let shown = text::shown_text(&String::from_utf8_lossy(&backing.name)).unwrap_or_default();
    let refused = |why: &str| {
        StorageError::refused(
            format!("the backing file of {name}, `{shown}`, {why}"),
            "make one file of it: qemu-img convert -O qcow2 IMAGE NEW",
        )
    };
    if reading.depth >= DEEPEST {
        return Err(refused("is one of more than 8 below each other"));
    }
    // qemu reads `nbd://…` and `json:{…}` there: a colon before the first slash (block.c, path_has_protocol).
    let before_slash = backing.name.split(|byte| *byte == b'/').next().unwrap_or_default();
    if before_slash.contains(&b':') || backing.name.contains(&0) {
        return Err(refused("is no file's name"));
    }
    let path = reading.directory.join(Path::new(OsStr::from_bytes(&backing.name)));
    let mut input = Input::open(&path)?;
    if input.is_device() {
        return Err(refused("is a block device"));
    }
    input.lock(Access::Read)?;
    let directory = input.real.parent().unwrap_or(Path::new("/")).to_owned();
    let below = Reading { follow_backing: reading.follow_backing, directory: &directory, depth: reading.depth + 1 };
    let mut head = vec![0; usize::try_from(input.size).unwrap_or(HEAD).min(HEAD)];
    let file = FileDevice::new(input.file, input.size);
    file.read_exact_at(0, &mut head).map_err(|e| StorageError::io(format!("reading {shown}"), e))?;
    let file: Arc<dyn ReadAt> = Arc::new(file);
    let is_qcow2 = head.starts_with(MAGIC);
    match backing.format.as_deref() {
        Some(b"qcow2") if !is_qcow2 => Err(refused("is no qcow2 image, and should be one")),
        // A guest could have written this magic to its disk: what the header says counts.
        None | Some(b"qcow2") if is_qcow2 => Ok(Arc::new(Qcow2::open(file, &path.display().to_string(), &below)?)),
        None | Some(b"raw") if looks_like_a_disk(&head) => Ok(file),
        _ => Err(refused("is no disk image that can be read")),
    }
}
