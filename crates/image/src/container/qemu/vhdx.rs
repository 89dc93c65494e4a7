//! VHDX: \[MS-VHDX\], sections 2.2.3 and 2.6. Numbers are little-endian.

use deaddrop_core::bytes::{le16, le32, le64, slice};
use deaddrop_core::error::StorageError;

use super::{Identity, Shape, header, refuse_difference};
use crate::container::Format;
use crate::device::ReadAt;

/// `vhdxfile`, the file type identifier.
pub(in super::super) const MAGIC: &[u8; 8] = b"vhdxfile";
/// The first region table, at 192 KiB, and its size.
const REGIONS: u64 = 192 << 10;
const TABLE: usize = 64 << 10;
/// "Metadata region", 8B7CA206-4790-4B9A-B8FE-575F050F886E.
const METADATA: &[u8; 16] = b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
/// "File Parameters", CAA16737-FA36-4D43-B3B6-33F0AA44E76B.
const PARAMETERS: &[u8; 16] = b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
/// `LeaveBlocksAllocated` and `HasParent` of the file parameters.
const FIXED: u32 = 1;
const HAS_PARENT: u32 = 1 << 1;

pub(super) fn judge(file: &dyn ReadAt, name: &str) -> Result<Shape, StorageError> {
    let damaged = || StorageError::corrupt(format!("{name}: the VHDX metadata is damaged"));
    let regions = header(file, REGIONS, TABLE, name, "VHDX")?;
    // Signature, checksum, number of entries, 4 bytes; entries: GUID, offset (u64), length (u32), flags.
    let region = entry(&regions, b"regi", le32(&regions, 8), 16, METADATA).ok_or_else(damaged)?;
    let start = le64(region, 16).ok_or_else(damaged)?;
    let metadata = header(file, start, TABLE, name, "VHDX")?;
    // Signature, 2 bytes, number of entries (u16), 20 bytes; entries: GUID, offset (u32), length (u32), flags.
    let count = le16(&metadata, 10).map(u32::from);
    let item = entry(&metadata, b"metadata", count, 32, PARAMETERS).ok_or_else(damaged)?;
    let offset = start.checked_add(le32(item, 16).ok_or_else(damaged)?.into()).ok_or_else(damaged)?;
    let parameters = header(file, offset, 8, name, "VHDX")?;
    let (block, flags) = (le32(&parameters, 0).ok_or_else(damaged)?, le32(&parameters, 4).ok_or_else(damaged)?);
    if flags & HAS_PARENT != 0 {
        return Err(refuse_difference(name, "VHDX"));
    }
    // "The value MUST be at least 1 MB and not greater than 256 MB, and MUST be a power of 2."
    if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block) {
        return Err(damaged());
    }
    let kind = if flags & FIXED != 0 { "fixed" } else { "dynamic" };
    Ok(Shape::new(Format::Vhdx, format!("subformat={kind},block_size={block}"), Identity::None))
}

/// The entry with `guid` of a table that begins with `signature`; entries have 32 bytes, and begin at `first`.
fn entry<'a>(table: &'a [u8], signature: &[u8], count: Option<u32>, first: usize, guid: &[u8]) -> Option<&'a [u8]> {
    if !table.starts_with(signature) {
        return None;
    }
    // "At most 2,047 entries."
    let count = usize::try_from(count?).ok().filter(|count| *count <= 2047)?;
    let entries = table.get(first..)?.chunks(32).take(count);
    entries.map(|entry| slice(entry, 0, 32)).find_map(|entry| entry.filter(|entry| entry.starts_with(guid)))
}
