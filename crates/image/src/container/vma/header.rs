//! The headers of a VMA: Proxmox, pve-qemu, vma_spec.txt. Numbers are big-endian, but for the sizes of blobs.

use deaddrop_core::bytes::{array, be16, be32, be64, le16, slice};
use md5::{Digest, Md5};

/// The start of a file, and of an extent.
pub(crate) const MAGIC: &[u8] = b"VMA\0";
const EXTENT_MAGIC: &[u8] = b"VMAE";

/// Size of a block, the unit that is stored or left out, in bytes.
pub(super) const BLOCK: u64 = 4096;
/// Blocks in a cluster.
pub(super) const BLOCKS: u16 = 16;
/// Size of a cluster, in bytes.
pub(super) const CLUSTER: u64 = 64 << 10;
/// Size of an extent's header, in bytes.
pub(super) const EXTENT: usize = 512;
/// Clusters of an extent.
const CLUSTERS: usize = 59;

/// Size of a header without its blobs, in bytes.
const FIXED: u64 = 12_288;
/// Maximum size of a header, in bytes: all blobs that it can name are shorter.
const MOST_HEADER: u64 = 64 << 20;
/// Offset of the checksum in a header, and in an extent's.
const MD5: usize = 32;
const EXTENT_MD5: usize = 24;
/// Offset of the table of devices, and the size of an entry.
const DEVICES: usize = 4096;
const DEVICE: usize = 32;

/// A device of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) id: u8,
    /// "drive-scsi0".
    pub(super) name: Vec<u8>,
    /// In bytes.
    pub(super) size: u64,
}

/// The header of a file.
pub(super) struct Header {
    /// All of its bytes.
    pub(super) bytes: Vec<u8>,
    pub(super) uuid: [u8; 16],
    pub(super) devices: Vec<Device>,
}

/// The size of the header that starts with `start`, of at least 60 bytes. `None` if it is none.
pub(super) fn size_of(start: &[u8]) -> Option<usize> {
    let is_known = start.starts_with(MAGIC) && be32(start, 4) == Some(1);
    let size = u64::from(be32(start, 56)?);
    let fits = is_known && (FIXED..=MOST_HEADER).contains(&size) && size.is_multiple_of(512);
    usize::try_from(size).ok().filter(|_| fits)
}

impl Header {
    /// Checks a whole header. `None` if it is damaged.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        if size_of(&bytes)? != bytes.len() || !is_sealed(&bytes, MD5) {
            return None;
        }
        let uuid = array(&bytes, 8)?;
        let start = usize::try_from(be32(&bytes, 48)?).ok()?;
        let length = usize::try_from(be32(&bytes, 52)?).ok()?;
        let blobs = slice(&bytes, start, length)?;
        let mut devices = Vec::new();
        // Number 0 is that of no device.
        for id in 1..=u8::MAX {
            let at = DEVICES.checked_add(usize::from(id).checked_mul(DEVICE)?)?;
            let (name, size) = (be32(&bytes, at)?, be64(&bytes, at.checked_add(8)?)?);
            if name == 0 {
                continue;
            }
            let blob = blob(blobs, name)?;
            let name = blob.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
            devices.push(Device { id, name, size });
        }
        Some(Self { bytes, uuid, devices })
    }
}

/// The blob at an offset: its size in two bytes, which are little-endian, and its bytes.
fn blob(blobs: &[u8], offset: u32) -> Option<&[u8]> {
    let at = usize::try_from(offset).ok()?;
    slice(blobs, at.checked_add(2)?, usize::from(le16(blobs, at)?))
}

/// A cluster of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cluster {
    /// The device; 0 for none.
    pub(super) device: u8,
    pub(super) number: u32,
    /// The blocks that are stored; the others are zero.
    pub(super) mask: u16,
}

/// The clusters of the extent whose header this is. `None` if it is damaged, or of another file. The checksum of one that
/// was `seen` before is not computed again.
pub(super) fn clusters(bytes: &[u8; EXTENT], uuid: &[u8; 16], seen: bool) -> Option<Vec<Cluster>> {
    let fits = bytes.starts_with(EXTENT_MAGIC)
        && array(bytes, 8).as_ref() == Some(uuid)
        && (seen || is_sealed(bytes, EXTENT_MD5));
    let mut clusters = Vec::with_capacity(CLUSTERS);
    let mut blocks = 0;
    for index in 0..CLUSTERS {
        let at = 40_usize.checked_add(index.checked_mul(8)?)?;
        let (mask, number) = (be16(bytes, at)?, be32(bytes, at.checked_add(4)?)?);
        let device = *bytes.get(at.checked_add(3)?)?;
        if device == 0 && mask != 0 {
            return None;
        }
        blocks += mask.count_ones();
        clusters.push(Cluster { device, number, mask });
    }
    (fits && be16(bytes, 6).map(u32::from) == Some(blocks)).then_some(clusters)
}

/// The header of an extent with these clusters.
pub(super) fn extent(clusters: &[Cluster], uuid: &[u8; 16]) -> [u8; EXTENT] {
    let mut bytes = Vec::with_capacity(EXTENT);
    // At most 59 times 16 blocks.
    let blocks: u16 = clusters.iter().map(|cluster| u16::try_from(cluster.mask.count_ones()).unwrap_or(BLOCKS)).sum();
    bytes.extend(EXTENT_MAGIC);
    bytes.extend([0, 0]);
    bytes.extend(blocks.to_be_bytes());
    bytes.extend(uuid);
    bytes.extend([0; 16]);
    for cluster in clusters {
        bytes.extend(cluster.mask.to_be_bytes());
        bytes.extend([0, cluster.device]);
        bytes.extend(cluster.number.to_be_bytes());
    }
    bytes.resize(EXTENT, 0);
    let sum = Md5::digest(&bytes);
    bytes[EXTENT_MD5..EXTENT_MD5 + 16].copy_from_slice(&sum);
    bytes.first_chunk().copied().unwrap_or([0; EXTENT])
}

/// True if the checksum at `at` is right: that of all bytes, with zeros in its own place.
fn is_sealed(bytes: &[u8], at: usize) -> bool {
    let (Some(before), Some(after)) = (bytes.get(..at), bytes.get(at.saturating_add(16)..)) else { return false };
    let mut sum = Md5::new();
    sum.update(before);
    sum.update([0; 16]);
    sum.update(after);
    slice(bytes, at, 16) == Some(&sum.finalize()[..])
}
