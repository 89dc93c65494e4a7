//! Containers around a raw disk, detected by their magic, never by a name. Used by [`crate::open::disk`].
//!
//! Each is a file of its own, or a folder, with both directions: decoded to a disk, and encoded from it. What is above
//! sees a [`Container`].

pub mod compression;
pub(crate) mod foreign;
pub(crate) mod qcow2;
pub(crate) mod qemu;
pub(crate) mod vma;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use deaddrop_core::error::StorageError;

pub use self::compression::Compression;
use crate::device::{FileDevice, ReadAt};
use crate::tar;

/// The container of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// The compression around all of it.
    pub compression: Option<Compression>,
    /// The format of the disk inside.
    pub format: Format,
}

/// The format of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// qemu's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's, in one file. This one and those that follow are read and written by qemu-img.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Microsoft's older one, which qemu calls vpc.
    Vhd,
    /// Microsoft's newer one.
    Vhdx,
    /// Proxmox's archive of a machine, with the disk as one of its devices.
    Vma,
    /// A tar with the disk as its only file.
    Tar,
}

impl Format {
    /// Those that are made of a disk alone.
    pub const MADE: [Self; 6] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhd, Self::Vhdx];
    /// All of them.
    const ALL: [Self; 8] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhd, Self::Vhdx, Self::Vma, Self::Tar];

    /// Its name: "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "vma", "tar".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vma => "vma",
            Self::Tar => "tar",
        }
    }

    /// The format of that name, in lower case. VHD is also "vpc", as in qemu.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "vpc" { "vhd" } else { name };
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What an image is, as the end of a sentence: "a qcow2 image"; `None` for a raw one.
    fn described(self) -> Option<&'static str> {
        match self {
            Self::Raw => None,
            Self::Qcow2 => Some("a qcow2 image"),
            Self::Vmdk => Some("a VMDK image"),
            Self::Vdi => Some("a VDI image"),
            Self::Vhd => Some("a VHD image"),
            Self::Vhdx => Some("a VHDX image"),
            Self::Vma => Some("a VMA archive"),
            Self::Tar => Some("a tar of a disk"),
        }
    }

    /// True if qemu-img reads and writes it.
    pub(crate) fn is_by_qemu(self) -> bool {
        !matches!(self, Self::Raw | Self::Qcow2 | Self::Vma | Self::Tar)
    }

    /// The suffixes of its files, in lower case.
    pub(crate) fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Raw => &["img", "raw"],
            Self::Qcow2 => &["qcow2"],
            Self::Vmdk => &["vmdk"],
            Self::Vdi => &["vdi"],
            Self::Vhd => &["vhd", "vpc"],
            Self::Vhdx => &["vhdx"],
            Self::Vma => &["vma"],
            Self::Tar => &["tar"],
        }
    }

    /// The format of files with this suffix, which is in lower case.
    pub(crate) fn of_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.suffixes().contains(&suffix))
    }

    /// The format that the start of a file tells. A fixed VHD is told by its end: [`has_footer`].
    pub(crate) fn told_by(head: &[u8]) -> Self {
        let magics: [(usize, &[u8], Self); 6] = [
            (0, qcow2::MAGIC, Self::Qcow2),
            (0, qemu::VMDK, Self::Vmdk),
            (0x40, qemu::VDI, Self::Vdi),
            (0, qemu::VHD, Self::Vhd),
            (0, qemu::VHDX, Self::Vhdx),
            (0, vma::header::MAGIC, Self::Vma),
        ];
        let found = magics
            .into_iter()
            .find(|(offset, magic, _)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)));
        match found {
            Some((.., format)) => format,
            None if tar::disk::tells(head) => Self::Tar,
            None => Self::Raw,
        }
    }
}

/// How what an image names is read.
pub(crate) struct Reading<'a> {
    /// Read the backing file that a qcow2 image names.
    pub(crate) follow_backing: bool,
    /// Where relative names of backing files start.
    pub(crate) directory: &'a Path,
    /// Number of files above this one.
    pub(crate) depth: u32,
}

impl Container {
    /// The disk, byte for byte.
    pub const RAW: Self = Self { compression: None, format: Format::Raw };

    /// The name of the outermost layer in `inspect`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.compression.map_or(self.format.name(), Compression::name)
    }

    /// What an image is that cannot be changed in its own file, as the end of a sentence: "compressed", "a qcow2
    /// image". `None` for a raw disk.
    #[must_use]
    pub fn packed_as(self) -> Option<&'static str> {
        match self.compression {
            Some(_) => Some("compressed"),
            None => self.format.described(),
        }
    }

    /// How a person gets at the raw disk of the image `name`, as the start of a sentence ("decompress it (zstd -d),
    /// then"), and the name that the disk has then. For a raw disk: "first", and `name`.
    pub(crate) fn unpacked(self, name: &str) -> (String, &str) {
        if self.format != Format::Raw {
            let unpack = match self.compression {
                Some(compression) => format!("{} and ", compression.codec().by_hand()),
                None => String::new(),
            };
            let convert = match self.format {
                Format::Vma => "vma extract IMAGE DIRECTORY",
                Format::Tar => "tar -xSf IMAGE",
                _ => "qemu-img convert -O raw IMAGE disk.img",
            };
            return (format!("convert it ({unpack}{convert}), then"), "disk.img");
        }
        let Some(compression) = self.compression else { return ("first".to_owned(), name) };
        let raw = compression.codec().suffixes().iter().find_map(|suffix| name.strip_suffix(&format!(".{suffix}")));
        (format!("decompress it ({}), then", compression.codec().by_hand()), raw.unwrap_or(name))
    }

    /// True for a disk byte for byte, which can be changed in its own file.
    #[must_use]
    pub fn is_raw(self) -> bool {
        self == Self::RAW
    }
}

/// The suffix of a path, in lower case.
pub(crate) fn suffix(path: &Path) -> String {
    path.extension().map(|suffix| suffix.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// True for a name that an image or a tar usually has, compressed or not: `node1.img.zst`, `root.tgz`. Only a guess:
/// what a file is, its content tells.
#[must_use]
pub fn is_named_as_image(path: &Path) -> bool {
    let outer = suffix(path);
    let inner = match Compression::of_suffix(&outer) {
        Some(_) => suffix(&path.with_extension("")),
        None => outer.clone(),
    };
    Format::of_suffix(&inner).is_some() || Compression::of_short_tar(&outer).is_some()
}

/// The container of the image in `file`, of `size` bytes. Of a compressed one the start is decoded.
///
/// # Errors
/// `Unsupported` with its name for a known format that is not supported, with a hint; `Io` if the start cannot be read.
pub(crate) fn sniff(file: &File, size: u64, name: &str) -> Result<Container, StorageError> {
    let opening = |e| StorageError::io(format!("opening {name}"), e);
    let device = FileDevice::new(file.try_clone().map_err(opening)?, size);
    let mut head = vec![0; usize::try_from(size).unwrap_or(foreign::HEAD).min(foreign::HEAD)];
    device.read_exact_at(0, &mut head).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
    if let Some(compression) = Compression::told_by(&head) {
        let start = decoded_start(compression, file, START);
        return Ok(Container { compression: Some(compression), format: Format::told_by(&start) });
    }
    let format = Format::told_by(&head);
    if format != Format::Raw {
        return Ok(Container { compression: None, format });
    }
    foreign::refuse(&head, name)?;
    let is_fixed_vhd = has_footer(&device).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
    Ok(Container { compression: None, format: if is_fixed_vhd { Format::Vhd } else { Format::Raw } })
}

/// True for a fixed VHD: the raw disk with a footer (see [`qemu`]).
pub(crate) fn has_footer(device: &dyn ReadAt) -> io::Result<bool> {
    let Some(footer) = device.size().checked_sub(qemu::VHD_FOOTER) else { return Ok(false) };
    let mut cookie = [0; 8];
    device.read_exact_at(footer, &mut cookie)?;
    Ok(&cookie == qemu::VHD)
}

/// The first `most` bytes of what is compressed in `file`, or as many as there are. Damage, and what is no disk, is told
/// when all of it is decoded.
pub(crate) fn decoded_start(compression: Compression, file: &File, most: u64) -> Vec<u8> {
    let mut start = Vec::new();
    let from = BufReader::new(FileReader { file, offset: 0 }.take(MOST_FOR_START));
    if let Ok(decoder) = compression.codec().decoder(Box::new(from)) {
        let _ = decoder.take(most).read_to_end(&mut start);
    }
    start
}

/// Bytes of a decoded start that tell its format.
pub(crate) const START: u64 = 32 << 10;
/// Bytes of a file that are read for that: more than a block of bzip2 has.
const MOST_FOR_START: u64 = 4 << 20;

/// Reads a file by position: others read it by theirs.
pub(crate) struct FileReader<'a> {
    pub(crate) file: &'a File,
    pub(crate) offset: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buf, self.offset)?;
        self.offset = self.offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use deaddrop_core::bytes::length;

    use super::*;

    fn sniffed(bytes: &[u8]) -> Result<Container, StorageError> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        sniff(&file, length(bytes), "x.img")
    }

    #[test]
    fn a_container_is_known_by_its_start_and_everything_else_is_raw() {
        for (name, bytes, want) in [
            ("zstd", &b"\x28\xb5\x2f\xfd\x00"[..], "zstd"),
            ("zstd, a skippable frame first", b"\x5e\x2a\x4d\x18\x00\x00\x00\x00", "zstd"),
            ("gzip", b"\x1f\x8b\x08\x00", "gzip"),
            ("a method that gzip does not have", b"\x1f\x8b\x07\x00", "raw"),
            ("xz", b"\xfd7zXZ\0\0\x04", "xz"),
            ("bzip2", b"BZh9", "bzip2"),
            ("a block of no size", b"BZh0", "raw"),
            ("qcow2", b"QFI\xfb\0\0\0\x03", "qcow2"),
            ("VMDK", b"KDMV\x01\0\0\0", "vmdk"),
            ("VHDX", b"vhdxfileQ\0E\0", "vhdx"),
            ("a dynamic VHD", b"conectix\0\0\0\x02", "vhd"),
            ("zeros", &[0; 600], "raw"),
            ("short", b"\x28", "raw"),
            ("nothing", b"", "raw"),
        ] {
            assert_eq!(sniffed(bytes).unwrap().name(), want, "{name}");
        }
    }

    #[test]
    fn the_format_inside_of_a_compression_is_known_before_it_is_decoded() {
        let image = [&b"QFI\xfb"[..], &[7; 100_000]].concat();
        let container = sniffed(&zstd::encode_all(&image[..], 1).unwrap()).unwrap();
        assert_eq!(container, Container { compression: Some(Compression::Zstd), format: Format::Qcow2 });
    }

    #[test]
    fn a_fixed_vhd_is_known_by_its_end() {
        let mut fixed = vec![0; 4096];
        fixed[3584..3592].copy_from_slice(b"conectix");
        assert_eq!(sniffed(&fixed).unwrap().name(), "vhd");
    }

    #[test]
    fn an_image_is_guessed_by_its_name_in_every_compression() {
        for (name, is_image) in [
            ("node1.img", true),
            ("result/NODE1.IMG", true),
            ("node1.raw.xz", true),
            ("node1.qcow2.zst", true),
            ("node1.vma.gz", true),
            ("root.tar", true),
            ("root.tar.bz2", true),
            ("root.tgz", true),
            ("node1.img.sha256", false),
            ("node1.bmap", false),
            ("notes.gz", false),
            ("img", false),
            ("zst", false),
            ("", false),
        ] {
            assert_eq!(is_named_as_image(Path::new(name)), is_image, "{name}");
        }
    }
}
