//! VHD: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0, "Hard Disk Footer Format". Numbers are
//! big-endian. The footer is the last sector; a dynamic image has a copy of it in the first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use deaddrop_core::bytes::{array, be16, be32, be64, slice};
use deaddrop_core::error::StorageError;

use super::{Identity, Shape, header, refuse_difference};
use crate::container::Format;
use crate::device::ReadAt;

/// `Cookie`.
pub(in super::super) const COOKIE: &[u8; 8] = b"conectix";
/// Bytes of the footer.
pub(in super::super) const FOOTER: u64 = 512;
const SIZE: usize = 512;
/// `Creator Application`.
const CREATOR: usize = 28;
/// `Current Size`, in bytes.
const CURRENT_SIZE: usize = 48;
/// `Disk Geometry`: cylinders (u16), heads, sectors in a track.
const GEOMETRY: usize = 56;
/// The largest geometry, in sectors: such a disk is larger than that, and its size is that of the footer (block/vpc.c,
/// `VHD_MAX_GEOMETRY`).
const MOST_BY_GEOMETRY: u64 = 65535 * 16 * 255;
/// `Disk Type`: 2 fixed, 3 dynamic, 4 differencing.
const TYPE: usize = 60;
const CHECKSUM: usize = 64;
/// `Unique Id`.
const ID: usize = 68;

/// By which programs know an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id([u8; 16]);

impl Id {
    /// Sets it in the footer, and in its copy if there is one.
    pub(super) fn put(&self, to: &File) -> io::Result<()> {
        let last = to.metadata()?.len().checked_sub(FOOTER).ok_or(io::ErrorKind::UnexpectedEof)?;
        for place in [0, last] {
            let mut footer = [0; SIZE];
            to.read_exact_at(&mut footer, place)?;
            if footer.starts_with(COOKIE) {
                // OK to index: inside of 512 bytes.
                footer[ID..ID + 16].copy_from_slice(&self.0);
                let sum = checksum(&footer);
                footer[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_be_bytes());
                to.write_all_at(&footer, place)?;
            }
        }
        Ok(())
    }
}

/// "A one's complement of the sum of all the bytes in the footer without the checksum field."
fn checksum(footer: &[u8; SIZE]) -> u32 {
    let bytes = footer.iter().enumerate().filter(|(at, _)| !(CHECKSUM..CHECKSUM + 4).contains(at));
    !bytes.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

pub(super) fn judge(file: &dyn ReadAt, name: &str) -> Result<Shape, StorageError> {
    let mut footer = header(file, 0, SIZE, name, "VHD")?;
    if !footer.starts_with(COOKIE) {
        footer = header(file, file.size().saturating_sub(FOOTER), SIZE, name, "VHD")?;
    }
    let kind = match be32(&footer, TYPE) {
        Some(2) => "subformat=fixed",
        Some(3) => "subformat=dynamic",
        Some(4) => return Err(refuse_difference(name, "VHD")),
        _ => return Err(StorageError::corrupt(format!("{name}: the VHD footer has an unknown type of disk"))),
    };
    let options = if is_by_geometry(&footer) { kind.to_owned() } else { format!("{kind},force_size=on") };
    Ok(Shape::new(Format::Vhd, options, Identity::Vhd(Id(array(&footer, ID).unwrap_or_default()))))
}

/// As qemu reads them (block/vpc.c): of these two, the size is that of the geometry, and else that of the footer.
fn is_by_geometry(footer: &[u8]) -> bool {
    matches!(slice(footer, CREATOR, 4), Some(b"vpc " | b"qemu"))
}

/// True if the disk in the new image `to` has `size` bytes. By geometry, qemu-img makes only some sizes, and takes the
/// next larger one; others make more.
pub(super) fn has_size(to: &File, size: u64) -> io::Result<bool> {
    let last = to.metadata()?.len().checked_sub(FOOTER).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut footer = [0; SIZE];
    to.read_exact_at(&mut footer, last)?;
    let factor = |at: usize| footer.get(at).copied().map_or(0, u64::from);
    let cylinders = be16(&footer, GEOMETRY).map_or(0, u64::from);
    // At most 2^32: no overflow.
    let sectors = cylinders * factor(GEOMETRY + 2) * factor(GEOMETRY + 3);
    if is_by_geometry(&footer) && sectors != MOST_BY_GEOMETRY {
        return Ok(sectors * 512 == size);
    }
    Ok(be64(&footer, CURRENT_SIZE) == Some(size))
}
