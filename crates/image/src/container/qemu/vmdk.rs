//! VMDK in one file: VMware, "Virtual Disk Format 5.0", "Hosted Sparse Extents" and "The Descriptor File". Numbers are
//! little-endian, places are sectors of 512 bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use deaddrop_core::bytes::{le32, le64};
use deaddrop_core::error::StorageError;

use super::{Identity, Shape, header, refuse_difference};
use crate::container::Format;
use crate::device::ReadAt;

/// `KDMV`.
pub(in super::super) const MAGIC: &[u8; 4] = b"KDMV";
/// Where qemu reads and writes the descriptor, and how many bytes of it (block/vmdk.c: `desc_offset`, `DESC_SIZE`).
const PLACE: u64 = 512;
const SIZE: usize = 20 * 512;

/// The text that says what an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor(String);

pub(super) fn judge(file: &dyn ReadAt, name: &str) -> Result<Shape, StorageError> {
    let refused = |what: &str| {
        StorageError::unsupported(
            format!("{name} is a VMDK image {what}"),
            "make one file of it: qemu-img convert -O vmdk IMAGE NEW.vmdk, if you trust it",
        )
    };
    let head = header(file, 0, 512, name, "VMDK")?;
    // With a capacity of 0, qemu takes the embedded descriptor for one that names other files.
    let (capacity, place) = (le64(&head, 12).unwrap_or(0), le64(&head, 28).unwrap_or(0));
    if capacity == 0 || place == 0 {
        return Err(refused("of several files, of which this is one"));
    }
    if place.checked_mul(512) != Some(PLACE) || !matches!(le32(&head, 4), Some(1..=3)) {
        return Err(refused("of a kind that deaddrop does not know"));
    }
    let descriptor = Descriptor::read(&header(file, PLACE, SIZE, name, "VMDK")?)
        .ok_or_else(|| StorageError::corrupt(format!("{name}: the VMDK descriptor is no text")))?;
    let kind = match descriptor.value("createType") {
        Some(kind @ ("monolithicSparse" | "streamOptimized")) => kind,
        Some(_) => return Err(refused("whose data is in other files")),
        None => return Err(refused("of several files, of which this is one")),
    };
    if descriptor.value("parentFileNameHint").is_some() || descriptor.value("parentCID") != Some("ffffffff") {
        return Err(refuse_difference(name, "VMDK"));
    }
    let one = descriptor.extents().map(|extent| extent.split(' ').nth(2)).eq([Some("SPARSE")]);
    if !one {
        return Err(refused("whose data is in other files"));
    }
    let mut options = format!("subformat={kind}");
    let adapter = descriptor.value("ddb.adapterType");
    if let Some(adapter) = adapter.filter(|adapter| ["ide", "buslogic", "lsilogic", "legacyESX"].contains(adapter)) {
        options += &format!(",adapter_type={adapter}");
    }
    let version = descriptor.value("ddb.virtualHWVersion").filter(|version| version.parse::<u8>().is_ok());
    if let Some(version) = version {
        options += &format!(",hwversion={version}");
    }
    Ok(Shape::new(Format::Vmdk, options, Identity::Vmdk(descriptor)))
}

impl Descriptor {
    /// The text at the start of `bytes`, which zeros follow.
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = bytes.split(|byte| *byte == 0).next()?;
        String::from_utf8(text.to_vec()).ok().map(Self)
    }

    /// The value of `key = value`, without quotes.
    fn value(&self, key: &str) -> Option<&str> {
        let mut entries = self.0.lines().filter_map(|line| line.split_once('='));
        entries.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().trim_matches('"'))
    }

    /// The lines that name files.
    fn extents(&self) -> impl Iterator<Item = &str> {
        let is_extent = |line: &&str| ["RW ", "RDONLY ", "NOACCESS "].iter().any(|word| line.starts_with(word));
        self.0.lines().map(str::trim_start).filter(is_extent)
    }

    /// Puts it into a new image, with the content's identifier (`CID`) of that.
    pub(super) fn put(&self, to: &File) -> io::Result<()> {
        let new = stored(to)?;
        let id = new.value("CID").unwrap_or("fffffffe");
        let lines = self.0.lines().map(|line| match line.split_once('=') {
            Some((name, _)) if name.trim() == "CID" => format!("CID={id}\n"),
            _ => format!("{line}\n"),
        });
        write(to, &lines.collect::<String>())
    }
}

/// Puts the name of the file into the descriptor of a new image: qemu has written the name by which it was given it.
pub(super) fn put_name(to: &File, name: &str) -> io::Result<()> {
    let descriptor = stored(to)?;
    let name = Path::new(name).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // A quote would end it, and VMware's programs take no other way to write one.
    let name = name.replace(['"', '\n', '\r'], "_");
    let lines = descriptor.0.lines().map(|line| match line.split_once(" SPARSE \"") {
        Some((before, _)) if line.starts_with("RW ") => format!("{before} SPARSE \"{name}\"\n"),
        _ => format!("{line}\n"),
    });
    write(to, &lines.collect::<String>())
}

fn stored(to: &File) -> io::Result<Descriptor> {
    let mut bytes = [0; SIZE];
    to.read_exact_at(&mut bytes, PLACE)?;
    Descriptor::read(&bytes).ok_or_else(|| io::Error::other("qemu-img wrote no descriptor"))
}

fn write(to: &File, text: &str) -> io::Result<()> {
    let mut bytes = [0; SIZE];
    // With one zero behind it.
    let room = bytes.get_mut(..text.len()).filter(|_| text.len() < SIZE);
    room.ok_or_else(|| io::Error::other("the VMDK descriptor is too long"))?.copy_from_slice(text.as_bytes());
    to.write_all_at(&bytes, PLACE)
}
