//! VMDK, VDI, VHD and VHDX, which `qemu-img` reads and writes: from the image to a raw disk in an unnamed file, and back.
//!
//! The header is judged by us first (a file each): what names another file is refused, whatever qemu would make of it,
//! and how the image is made is kept. qemu is told the driver, so that it probes nothing, and gets open files instead of
//! names ([`program`]).

mod program;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::fs::File;

use deaddrop_core::error::StorageError;

use self::program::{Job, Measure};
pub(super) use self::vdi::MAGIC as VDI;
pub(super) use self::vhd::{COOKIE as VHD, FOOTER as VHD_FOOTER};
pub(super) use self::vhdx::MAGIC as VHDX;
pub(super) use self::vmdk::MAGIC as VMDK;
use super::Format;
use crate::device::ReadAt;

/// How an image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    format: Format,
    /// For `qemu-img convert -o`.
    options: String,
    /// What tells this image from others, for the programs that know it by that.
    identity: Identity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    None,
    Vdi(vdi::Ids),
    Vhd(vhd::Id),
    Vmdk(vmdk::Descriptor),
}

impl Shape {
    fn new(format: Format, options: impl Into<String>, identity: Identity) -> Self {
        Self { format, options: options.into(), identity }
    }

    /// The format of such images.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// A new image in `format`.
    pub(crate) fn of(format: Format) -> Self {
        let options = match format {
            Format::Vmdk => "subformat=monolithicSparse",
            // Without it, the disk would grow to a whole number of cylinders, and a GPT would not end it any more.
            Format::Vhd => "subformat=dynamic,force_size=on",
            Format::Vhdx => "subformat=dynamic",
            Format::Vdi | Format::Raw | Format::Qcow2 | Format::Vma | Format::Tar => "",
        };
        Self::new(format, options, Identity::None)
    }

    /// Judges the image in `file`, called `name`, and tells how it is made.
    ///
    /// # Errors
    /// `Unsupported` or `Refused` for what is not read, by its name; `Corrupt`; `Io`.
    pub(crate) fn read(format: Format, file: &dyn ReadAt, name: &str) -> Result<Self, StorageError> {
        match format {
            Format::Vmdk => vmdk::judge(file, name),
            Format::Vdi => vdi::judge(file, name),
            Format::Vhd => vhd::judge(file, name),
            Format::Vhdx => vhdx::judge(file, name),
            Format::Raw | Format::Qcow2 | Format::Vma | Format::Tar => {
                Err(StorageError::corrupt(format!("{name} is no image that qemu-img reads")))
            }
        }
    }
}

/// Converts the image in `from`, of `size` bytes and called `name`, to a raw disk in the empty file `to`. Returns the
/// size of the disk.
///
/// # Errors
/// `Unsupported` if there is no `qemu-img`; `Corrupt` if it refuses the image, or if that gives more than an image can;
/// `Io`.
pub(crate) fn decode(format: Format, from: &File, size: u64, to: &File, name: &str) -> Result<u64, StorageError> {
    let job = Job { driver: driver(format), from, to, what: name, measure: Some(Measure::of(size)) };
    job.convert("raw", "")?;
    let size = to.metadata().map_err(|e| StorageError::io(format!("reading {name}"), e))?.len();
    if size == 0 {
        return Err(StorageError::corrupt(format!("{name}: its disk has no size")));
    }
    Ok(size)
}

/// Converts the raw disk in `from` to an image like `shape` in the empty file `to`, which will be called `to_name`. With
/// `same`, it is the old image, changed.
///
/// # Errors
/// As for [`decode`].
pub(crate) fn encode(shape: &Shape, same: bool, from: &File, to: &File, to_name: &str) -> Result<(), StorageError> {
    let job = Job { driver: driver(Format::Raw), from, to, what: to_name, measure: None };
    job.convert(driver(shape.format), &shape.options)?;
    let writing = |e| StorageError::io(format!("writing {to_name}"), e);
    if shape.format == Format::Vhd {
        let size = from.metadata().map_err(writing)?.len();
        if !vhd::has_size(to, size).map_err(writing)? {
            to.set_len(0).map_err(writing)?;
            job.convert(driver(shape.format), &format!("{},force_size=on", shape.options))?;
        }
    }
    let kept = match (&shape.identity, shape.format) {
        (Identity::Vdi(ids), _) if same => ids.put(to),
        (Identity::Vhd(id), _) if same => id.put(to),
        (Identity::Vmdk(descriptor), _) if same => descriptor.put(to),
        (_, Format::Vmdk) => vmdk::put_name(to, to_name),
        _ => Ok(()),
    };
    kept.map_err(writing)
}

/// qemu's name of a format.
fn driver(format: Format) -> &'static str {
    match format {
        Format::Vhd => "vpc",
        other => other.name(),
    }
}

/// `size` bytes of a header at `offset`; an error that says so if the file ends before.
fn header(file: &dyn ReadAt, offset: u64, size: usize, name: &str, kind: &str) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; size];
    let end = u64::try_from(size).ok().and_then(|size| offset.checked_add(size));
    if end.is_none_or(|end| end > file.size()) {
        return Err(StorageError::corrupt(format!("{name}: the {kind} header is not in the file")));
    }
    file.read_exact_at(offset, &mut bytes).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
    Ok(bytes)
}

/// What an image is that has only what differs from another file.
fn refuse_difference(name: &str, kind: &str) -> StorageError {
    StorageError::refused(
        format!("{name} is a {kind} image that has only what differs from another file"),
        "make one file of both: qemu-img convert -O qcow2 IMAGE NEW.qcow2, if you trust it",
    )
}
