//! What is done to an image without any secret: recovering it, and zeroing what no file owns.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use deaddrop_core::error::StorageError;

use super::native::{choose_root, with_commands};
use crate::ext4::Ext4;
use crate::open::disk::DiskImage;
use crate::output::{Destination, Output};
use crate::progress::{Watch, quiet};
use crate::table::root::Root;

/// Which image, and how.
#[derive(Debug, Clone, Copy)]
pub struct ImageArgs<'a> {
    /// The image, or a block device.
    pub path: &'a Path,
    /// The root's partition, by number or label.
    pub root_partition: Option<&'a str>,
    /// Write although it is a file that is mounted or in use, or a device that is not removable.
    pub force: bool,
    /// Where an undo file may be.
    pub undo: Option<&'a Path>,
}

/// An image that is open to be written.
struct Opened {
    image: DiskImage,
    output: Output,
    root: Root,
    file_system: Ext4,
}

fn open(args: &ImageArgs<'_>) -> Result<Opened, StorageError> {
    let destination = Destination::InPlace { keep_mode: true, force: args.force, undo: args.undo.map(Path::to_owned) };
    let (image, output) = DiskImage::open_for(args.path, &destination, &quiet)?;
    if !output.takes_transaction(&image) {
        return Err(StorageError::unsupported(
            format!("{} is compressed, and is never changed in place", image.name()),
            "nothing is left half done in it; decompress it to work on what it holds: zstd -d IMAGE",
        ));
    }
    let root = choose_root(&image, args.root_partition)?;
    let file_system = Ext4::open(Arc::new(image.partition(&root.partition)?))?;
    Ok(Opened { image, output, root, file_system })
}

/// What [`recover`] found and dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing.
    Nothing,
    /// A dirty journal, or a torn superblock.
    Journal,
    /// A change that was cut off and is taken back, from its undo file.
    TakenBack,
}

/// Takes back what an undo file says was cut off, brings a dirty journal home, and mends a torn superblock.
///
/// # Errors
/// When the image cannot be opened, read or written, or needs `e2fsck`.
pub fn recover(args: &ImageArgs<'_>) -> Result<Recovered, StorageError> {
    let Opened { image, output, root, file_system } = open(args)?;
    // A compressed image was refused.
    let commands = |error| with_commands(error, &image.name(), false, &root.partition, &file_system, image.is_device());
    file_system.check_writable().map_err(commands)?;
    let found = if image.was_taken_back() { Recovered::TakenBack } else { Recovered::Nothing };
    let Some(transaction) = file_system.transaction()? else { return Ok(found) };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let written = output.commit_transaction(&image, transaction, root.partition.start, seconds)?.written;
    Ok(if written && found == Recovered::Nothing { Recovered::Journal } else { found })
}

/// Zeroes all free blocks and the idle journal, after recovering what is left of an earlier run. Returns the bytes that
/// were zeroed.
///
/// # Errors
/// As [`recover`].
pub fn scrub(args: &ImageArgs<'_>, watch: Watch<'_>) -> Result<u64, StorageError> {
    recover(args)?;
    let Opened { image, output, root, file_system } = open(args)?;
    output.scrub(&image, &file_system, root.partition.start, watch)
}
