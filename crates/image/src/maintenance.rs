//! Work on an image without secrets: recovery, and zeroing of blocks that no file owns.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use deaddrop_core::error::StorageError;

use crate::ext4::Ext4;
use crate::fsck::with_fsck_commands;
use crate::open::disk::DiskImage;
use crate::output::{Destination, Output};
use crate::progress::{Watch, quiet};
use crate::table::root::{Root, choose_root};

/// The image and the options.
#[derive(Debug, Clone, Copy)]
pub struct ImageArgs<'a> {
    /// The image, or a block device.
    pub path: &'a Path,
    /// The root's partition, by number or label.
    pub root_partition: Option<&'a str>,
    /// Write even if the image file is mounted or in use, or the device is not removable.
    pub force: bool,
    /// The directory of an undo file.
    pub undo: Option<&'a Path>,
}

/// An image that is open for writing.
struct WritableImage {
    image: DiskImage,
    output: Output,
    root: Root,
    file_system: Ext4,
}

fn open(args: &ImageArgs<'_>) -> Result<WritableImage, StorageError> {
    let destination = Destination::InPlace { keep_mode: true, force: args.force, undo: args.undo.map(Path::to_owned) };
    let (image, output) = DiskImage::open_for(args.path, &destination, &quiet)?;
    if !output.takes_transaction(&image) {
        let name = image.name();
        let (unpack, _) = image.container().unpacked(&name);
        return Err(StorageError::unsupported(
            format!("{name} is {}, and is never changed in place", image.container().packed_as().unwrap_or("packed")),
            format!("nothing is left half done in it; to work on what it holds: {unpack} again"),
        ));
    }
    let root = choose_root(&image, args.root_partition)?;
    let file_system = Ext4::open(Arc::new(image.partition(&root.partition)?))?;
    Ok(WritableImage { image, output, root, file_system })
}

/// The result of [`recover`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// There was nothing to recover.
    Nothing,
    /// A dirty journal was replayed, or a torn superblock repaired.
    Journal,
    /// An interrupted change was rolled back from its undo file.
    RolledBack,
}

/// Rolls back an interrupted change from its undo file, replays and checkpoints a dirty journal, and repairs a torn
/// superblock.
///
/// # Errors
/// If the image cannot be opened, read or written, or needs `e2fsck`.
pub fn recover(args: &ImageArgs<'_>) -> Result<Recovered, StorageError> {
    let WritableImage { image, output, root, file_system } = open(args)?;
    // Compressed images are refused above, so the offsets are those of the file.
    let commands = |error| {
        with_fsck_commands(error, &image.name(), image.container(), &root.partition, &file_system, image.is_device())
    };
    file_system.check_writable().map_err(commands)?;
    let found = if image.was_rolled_back() { Recovered::RolledBack } else { Recovered::Nothing };
    let Some(transaction) = file_system.transaction()? else { return Ok(found) };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let written = output.commit_transaction(&image, transaction, root.partition.start, seconds)?.written;
    Ok(if written && found == Recovered::Nothing { Recovered::Journal } else { found })
}

/// Zeroes all free blocks and the idle journal, after recovering an interrupted run. Returns the number of bytes
/// zeroed.
///
/// # Errors
/// As [`recover`].
pub fn scrub(args: &ImageArgs<'_>, watch: Watch<'_>) -> Result<u64, StorageError> {
    recover(args)?;
    let WritableImage { image, output, root, file_system } = open(args)?;
    output.scrub(&image, &file_system, root.partition.start, watch)
}
