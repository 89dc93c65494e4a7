//! The header: qemu, docs/interop/qcow2.rst, "Header" and "Header extensions", whose names the fields have here. Every
//! integer is big-endian.

use deaddrop_core::bytes::{array, be32, be64, slice};
use deaddrop_core::error::StorageError;
use deaddrop_core::text;

use crate::device::ReadAt;

/// `QFI\xfb`.
pub(in super::super) const MAGIC: &[u8; 4] = b"QFI\xfb";

/// The largest disk, as for a compressed image.
const MOST_DISK: u64 = 2 << 40;
/// Entries of the L1 table: block/qcow2.h, `QCOW_MAX_L1_SIZE` (32 MiB).
const MOST_L1: u64 = (32 << 20) / 8;
/// Bytes of the refcount table: block/qcow2.h, `QCOW_MAX_REFTABLE_SIZE`.
const MOST_REFCOUNT_TABLE: u64 = 8 << 20;
/// "Length of the backing file name in bytes. Must not be longer than 1023 bytes."
const MOST_NAME: u32 = 1023;

/// Bits of `incompatible_features`.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// A header that was judged: all that it names lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    /// The size of a cluster, as a power of two.
    pub(super) cluster_bits: u32,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Entries of the L1 table that the disk needs; the table may have more.
    pub(super) l1_entries: u64,
    pub(super) l1_offset: u64,
    pub(super) refcount_offset: u64,
    /// Bytes.
    pub(super) refcount_size: u64,
    /// True if clusters are compressed by zstd, and not by zlib.
    pub(super) zstd: bool,
    pub(super) backing: Option<Backing>,
}

/// The file that has what this one has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(super) name: Vec<u8>,
    /// "raw", "qcow2", …, if the header says so.
    pub(super) format: Option<Vec<u8>>,
    /// deaddrop has made the image: there is a header extension of its own.
    pub(super) is_own: bool,
}

impl Backing {
    /// For an image that is made here; `None` if the name is too long.
    pub(crate) fn new(name: Vec<u8>, format: &str) -> Option<Self> {
        let is_short = u32::try_from(name.len()).is_ok_and(|length| (1..=MOST_NAME).contains(&length));
        is_short.then(|| Self { name, format: Some(format.as_bytes().to_vec()), is_own: true })
    }

    /// The header extensions, and the name, which follows them.
    pub(super) fn extensions(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut extension = |kind: u32, data: &[u8]| {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u32::try_from(data.len()).unwrap_or_default().to_be_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        };
        if let Some(format) = &self.format {
            extension(BACKING_FORMAT, format);
        }
        if self.is_own {
            extension(OWN, OWN_DATA);
        }
        extension(0, &[]);
        bytes
    }
}

/// "Backing file format name string".
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// The extension that tells our own overlays. "Unknown header extension, can be safely ignored."
const OWN: u32 = 0x6465_6164;
const OWN_DATA: &[u8] = b"deaddrop";

impl Header {
    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that one L2 table maps.
    pub(super) fn span(&self) -> u64 {
        // At most 21 bits twice.
        self.cluster() * (self.cluster() / 8)
    }

    /// Reads and judges the header of `file`, called `name`.
    ///
    /// # Errors
    /// `Corrupt`, `Refused` or `Unsupported` with the field or the feature; `Io`.
    pub(super) fn read(file: &dyn ReadAt, name: &str) -> Result<Self, StorageError> {
        let corrupt = |what: &str| StorageError::corrupt(format!("{name}: the qcow2 header {what}"));
        let mut head = vec![0; usize::try_from(file.size()).unwrap_or(HEAD).min(HEAD)];
        file.read_exact_at(0, &mut head).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
        let cut = || corrupt("is cut off");
        let word = |at| be32(&head, at).ok_or_else(cut);
        let long = |at| be64(&head, at).ok_or_else(cut);
        let version = word(4)?;
        if !matches!(version, 2 | 3) {
            return Err(StorageError::unsupported(
                format!("{name} is a qcow2 image of version {version}"),
                "convert it first: qemu-img convert -O qcow2 IMAGE NEW.qcow2",
            ));
        }
        let cluster_bits = word(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt("has a cluster size that is not from 512 bytes to 2 MiB"));
        }
        let (features, header_length) = if version == 2 { (0, 72) } else { (long(72)?, word(100)?) };
        refuse_features(features, name)?;
        refuse_contents(word(32)?, word(60)?, name)?;
        let cluster = 1_u64 << cluster_bits;
        let shortest = if version == 2 { 72 } else { 104 };
        if u64::from(header_length) > cluster || header_length < shortest {
            return Err(corrupt("has an impossible length"));
        }
        if version == 3 && word(96)? > 6 {
            return Err(corrupt("has refcounts of more than 64 bits"));
        }
        let zstd = compression_is_zstd(&head, header_length, features, name)?;
        let size = long(24)?;
        // qemu's disks have whole sectors.
        if !size.is_multiple_of(512) {
            return Err(corrupt("has a size that is no whole number of sectors"));
        }
        if size == 0 || size > MOST_DISK {
            let size = text::size(size);
            return Err(StorageError::corrupt(format!("{name}: the qcow2 header declares a disk of {size}")));
        }
        let (l1_entries, l1_offset) = (u64::from(word(36)?), long(40)?);
        let (refcount_offset, refcount_clusters) = (long(48)?, u64::from(word(56)?));
        let inside = |offset: u64, size: u64| {
            offset != 0
                && offset.is_multiple_of(cluster)
                && offset.checked_add(size).is_some_and(|end| end <= file.size())
        };
        // At most 21 bits twice.
        let needed = size.div_ceil(cluster * (cluster / 8));
        if l1_entries < needed || l1_entries > MOST_L1 {
            return Err(corrupt("has an L1 table that does not fit the disk"));
        }
        // Cannot overflow: at most 32 MiB.
        if !inside(l1_offset, l1_entries * 8) {
            return Err(corrupt("has an L1 table that is not in the file"));
        }
        let refcount_size = refcount_clusters.saturating_mul(cluster);
        if refcount_size > MOST_REFCOUNT_TABLE || !inside(refcount_offset, refcount_size) {
            return Err(corrupt("has a refcount table that is not in the file"));
        }
        let backing = backing(&head, long(8)?, word(16)?, header_length, cluster).ok_or_else(|| corrupt(BACKING))?;
        Ok(Self {
            version,
            cluster_bits,
            size,
            l1_entries: needed,
            l1_offset,
            refcount_offset,
            refcount_size,
            zstd,
            backing,
        })
    }
}

/// Bytes that are read of the start. "The backing file name is stored in the remaining space between the end of the
/// header extension area and the end of the first cluster": qemu puts it right behind the extensions.
const HEAD: usize = 64 << 10;

const BACKING: &str = "has a backing file's name that is not in its first cluster";

fn refuse_features(features: u64, name: &str) -> Result<(), StorageError> {
    let unsupported = |what: &str, hint: &'static str| {
        Err(StorageError::unsupported(format!("{name} is a qcow2 image {what}"), hint))
    };
    if features & CORRUPT != 0 {
        return Err(StorageError::refused(
            format!("{name} is a qcow2 image that is marked as corrupt"),
            "`qemu-img check -r all IMAGE` may repair it; or build or copy it again",
        ));
    }
    if features & DIRTY != 0 {
        return Err(StorageError::refused(
            format!("{name} is a qcow2 image that is marked as dirty: what had it open did not close it"),
            "is it in use? else `qemu-img check -r all IMAGE` repairs it",
        ));
    }
    if features & DATA_FILE != 0 {
        return unsupported(
            "whose data is in another file",
            "make one file of it: qemu-img convert -O qcow2 IMAGE NEW",
        );
    }
    if features & EXTENDED_L2 != 0 {
        return unsupported(
            "with subclusters (extended L2 entries)",
            "make one without: qemu-img convert -O qcow2 IMAGE NEW",
        );
    }
    let unknown = features & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2);
    if unknown != 0 {
        let what = format!("with features that deaddrop does not know ({unknown:#x})");
        return unsupported(&what, "a newer qemu-img may convert it: qemu-img convert -O raw IMAGE disk.img");
    }
    Ok(())
}

/// `crypt_method` and `nb_snapshots`.
fn refuse_contents(crypt_method: u32, snapshots: u32, name: &str) -> Result<(), StorageError> {
    if crypt_method != 0 {
        let method = if crypt_method == 2 { "LUKS" } else { "AES" };
        return Err(StorageError::unsupported(
            format!("{name} is an encrypted qcow2 image ({method})"),
            "build it unencrypted, or add the secrets when the system runs",
        ));
    }
    if snapshots != 0 {
        let plural = if snapshots == 1 { "" } else { "s" };
        return Err(StorageError::unsupported(
            format!("{name} is a qcow2 image with {snapshots} internal snapshot{plural}, which would keep old values"),
            "make one without: qemu-img convert -O qcow2 IMAGE NEW (`qemu-img snapshot -l IMAGE` lists them)",
        ));
    }
    Ok(())
}

/// `compression_type`, byte 104, if the header is that long.
fn compression_is_zstd(head: &[u8], header_length: u32, features: u64, name: &str) -> Result<bool, StorageError> {
    let kind = if header_length > 104 { array::<1>(head, 104).map_or(0, |[kind]| kind) } else { 0 };
    match (kind, features & COMPRESSION_TYPE != 0) {
        (0, false) => Ok(false),
        (1, true) => Ok(true),
        // "If the incompatible bit is set, the field must be present and non-zero", and the other way round.
        (0 | 1, _) => Err(StorageError::corrupt(format!("{name}: the qcow2 header contradicts itself (compression)"))),
        (kind, _) => Err(StorageError::unsupported(
            format!("{name} is a qcow2 image with an unknown compression ({kind})"),
            "a newer qemu-img may convert it: qemu-img convert -O raw IMAGE disk.img",
        )),
    }
}

/// The backing file; `None` if its name is not where it may be.
fn backing(head: &[u8], offset: u64, size: u32, header_length: u32, cluster: u64) -> Option<Option<Backing>> {
    if offset == 0 {
        return Some(None);
    }
    if size == 0 || size > MOST_NAME || offset.checked_add(size.into())? > cluster {
        return None;
    }
    let (offset, size) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
    let name = slice(head, offset, size)?.to_vec();
    // "Header extensions": type, length, data, padding to 8 bytes.
    let mut at = usize::try_from(header_length).ok()?.next_multiple_of(8);
    let (mut format, mut is_own) = (None, false);
    while at < offset {
        let (kind, length) = (be32(head, at)?, usize::try_from(be32(head, at.checked_add(4)?)?).ok()?);
        let data = at.checked_add(8)?;
        match kind {
            0 => break,
            BACKING_FORMAT => format = Some(slice(head, data, length)?.to_vec()),
            OWN => is_own = slice(head, data, length)? == OWN_DATA,
            _ => {}
        }
        at = data.checked_add(length)?.checked_next_multiple_of(8)?;
    }
    Some(Some(Backing { name, format, is_own }))
}
