//! VDI: qemu, block/vdi.c, `VdiHeader`. Numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use deaddrop_core::bytes::{array, le32};
use deaddrop_core::error::StorageError;

use super::{Identity, Shape, header, refuse_difference};
use crate::container::Format;
use crate::device::ReadAt;

/// `VDI_SIGNATURE`, at 0x40.
pub(in super::super) const MAGIC: &[u8; 4] = b"\x7f\x10\xda\xbe";
/// `image_type`.
const TYPE: usize = 0x4C;
/// `uuid_image` and `uuid_last_snap`, 16 bytes each: VirtualBox knows a disk by the first.
const IDS: usize = 0x188;
/// `uuid_link` and `uuid_parent`, 16 bytes each; zero without a parent.
const PARENT: usize = 0x1A8;
const SIZE: usize = 512;

/// By which VirtualBox knows an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids([u8; 32]);

impl Ids {
    pub(super) fn put(&self, to: &File) -> io::Result<()> {
        to.write_all_at(&self.0, 0x188)
    }
}

pub(super) fn judge(file: &dyn ReadAt, name: &str) -> Result<Shape, StorageError> {
    let header = header(file, 0, SIZE, name, "VDI")?;
    let zero = [0; 32];
    if array::<32>(&header, PARENT).unwrap_or(zero) != zero {
        return Err(refuse_difference(name, "VDI"));
    }
    let options = match le32(&header, TYPE) {
        Some(1) => "",
        Some(2) => "static=on",
        _ => return Err(refuse_difference(name, "VDI")),
    };
    let ids = array::<32>(&header, IDS).unwrap_or(zero);
    Ok(Shape::new(Format::Vdi, options, Identity::Vdi(Ids(ids))))
}
