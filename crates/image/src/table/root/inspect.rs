//! Chooses the root of an open image: inspects its ext4 file systems with the native reader.

use std::sync::Arc;

use deaddrop_core::error::StorageError;

use super::{Backend, Root, TreeKind};
use crate::device::Section;
use crate::ext4::Ext4;
use crate::open::disk::DiskImage;

/// Chooses the root partition, reading ext4 file systems for /nix/store if that decides.
///
/// # Errors
/// If there is none, more than one, or it cannot be used.
pub fn choose_root(image: &DiskImage, asked: Option<&str>) -> Result<Root, StorageError> {
    choose_root_for(image, Backend::Native, asked)
}

/// Like [`choose_root`], for the file systems that `backend` writes; nothing is mounted for it.
///
/// # Errors
/// As [`choose_root`].
pub fn choose_root_for(image: &DiskImage, backend: Backend, asked: Option<&str>) -> Result<Root, StorageError> {
    image.root_for(backend, asked, &|partition| match partition.file_system.as_ref().is_some_and(|fs| fs.kind.is_ext())
    {
        true => tree_kind(image.partition(partition)?),
        false => Ok(TreeKind::Unknown),
    })
}

/// The kind of tree in an ext4. If it is not a root, an unsupported feature is the error to report.
fn tree_kind(section: Section) -> Result<TreeKind, StorageError> {
    // Damage is reported, with more detail, when the chosen root is opened.
    let Ok(file_system) = Ext4::open(Arc::new(section)) else { return Ok(TreeKind::Unknown) };
    match TreeKind::of(&file_system) {
        TreeKind::Other => file_system.check_features().map(|()| TreeKind::Other),
        kind => Ok(kind),
    }
}
