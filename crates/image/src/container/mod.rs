//! Containers around a raw disk, detected by their magic, never by a name. Used by [`crate::open::disk`].
//!
//! Each is a file of its own, or a folder, with both directions: decoded to a disk, and encoded from it. What is above
//! sees a [`Container`].

pub mod compression;
pub(crate) mod foreign;

use deaddrop_core::error::StorageError;

pub use self::compression::Compression;
use crate::device::ReadAt;

/// The container of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// The compression around all of it.
    pub compression: Option<Compression>,
}

impl Container {
    /// The disk, byte for byte.
    pub const RAW: Self = Self { compression: None };

    /// The name of the outermost layer in `inspect`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.compression.map_or("raw", Compression::name)
    }

    /// How a person gets at the raw disk of the image `name`, as the start of a sentence ("decompress it (zstd -d), then"),
    /// and the name that the disk has then. For a raw disk: "first", and `name`.
    pub(crate) fn unpacked(self, name: &str) -> (String, &str) {
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

/// The container format at the start of `device`.
///
/// # Errors
/// `Unsupported` with its name for a known format that is not supported, with a hint; `Io` if the start cannot be read.
pub fn sniff(device: &dyn ReadAt, name: &str) -> Result<Container, StorageError> {
    let mut head = vec![0; usize::try_from(device.size()).unwrap_or(foreign::HEAD).min(foreign::HEAD)];
    device.read_exact_at(0, &mut head).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
    if let Some(compression) = Compression::told_by(&head) {
        return Ok(Container { compression: Some(compression) });
    }
    foreign::refuse(&head, name)?;
    if let Some(footer) = device.size().checked_sub(512) {
        // A fixed VHD is the raw disk with a footer. "Virtual Hard Disk Image Format Specification", "Hard Disk
        // Footer".
        let mut cookie = [0; 8];
        device.read_exact_at(footer, &mut cookie).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
        if &cookie == b"conectix" {
            return Err(StorageError::unsupported(format!("{name} is a fixed VHD image"), foreign::CONVERT));
        }
    }
    Ok(Container::RAW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_known_by_its_start_and_everything_else_is_raw() {
        for (name, bytes, want) in [
            ("zstd", &b"\x28\xb5\x2f\xfd\x00"[..], "zstd"),
            ("zstd, a skippable frame first", b"\x5e\x2a\x4d\x18\x00\x00\x00\x00", "zstd"),
            ("gzip", b"\x1f\x8b\x08\x00", "gzip"),
            ("a method that gzip does not have", b"\x1f\x8b\x07\x00", "raw"),
            ("xz", b"\xfd7zXZ\0\0\x04", "xz"),
            ("bzip2", b"BZh9", "bzip2"),
            ("a block of no size", b"BZh0", "raw"),
            ("zeros", &[0; 600], "raw"),
            ("short", b"\x28", "raw"),
            ("nothing", b"", "raw"),
        ] {
            assert_eq!(sniff(&bytes.to_vec(), "x").unwrap().name(), want, "{name}");
        }
    }

    #[test]
    fn a_fixed_vhd_is_known_by_its_end() {
        let mut fixed = vec![0; 4096];
        fixed[3584..3592].copy_from_slice(b"conectix");
        assert_eq!(sniff(&fixed, "x.img").unwrap_err().to_string(), "x.img is a fixed VHD image");
    }
}
