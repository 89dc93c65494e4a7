//! The GUID partition table. UEFI specification 2.10, section 5.3; the `gpt` crate decodes it.
//!
//! Every count, size and offset is checked here before the crate gets the entries, because it allocates what the header
//! declares and asserts an entry size.

use std::io::{self, Cursor};

use deaddrop_core::contain::contain;
use deaddrop_core::text;
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, HeaderError};

use super::{Partition, Table, TableKind, read_inside, types};
use crate::device::ReadAt;

/// Maximum number of entries. The specification requires room for 128, which is what every tool creates; the kernel
/// stops at 256.
const MAX_ENTRIES: u32 = 1024;
/// The size of an entry, in bytes. Others are allowed (128 × 2^n) but not in use: the kernel refuses them too.
const ENTRY_SIZE: u32 = 128;

/// The result of searching for a GPT.
pub(super) enum FoundGpt {
    /// An intact table, primary or backup.
    Table(Table),
    /// A damaged table without an intact backup; the text is the problem.
    Damaged(String),
    /// A table with a matching checksum that declares more than any disk has.
    TooLarge(String),
    /// No table.
    Nothing,
}

/// The reason why a header, or its table, cannot be used.
enum GptFlaw {
    Absent,
    Damaged(String),
    TooLarge(String),
    Io(io::Error),
}

impl From<io::Error> for GptFlaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Searches for a GPT: its primary header at sector 1 of 512 or of 4096 bytes, then its backup.
pub(super) fn read(disk: &dyn ReadAt) -> io::Result<FoundGpt> {
    const SIZES: [LogicalBlockSize; 2] = [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096];

    let mut flaw = None;
    for sector in SIZES {
        match read_at(disk, 1, sector) {
            Ok(table) => return Ok(FoundGpt::Table(table)),
            Err(GptFlaw::Absent) => {}
            Err(GptFlaw::Io(e)) => return Err(e),
            // A valid checksum over impossible fields is no accident: the backup is not trusted either.
            Err(GptFlaw::TooLarge(what)) => return Ok(FoundGpt::TooLarge(what)),
            Err(GptFlaw::Damaged(why)) => flaw = flaw.or(Some(why)),
        }
    }
    for sector in SIZES {
        let last = (disk.size() / u64::from(sector)).saturating_sub(1);
        match read_at(disk, last, sector) {
            Ok(mut table) => {
                let why = flaw.as_deref().unwrap_or("it is missing");
                table.notes = vec![format!("the primary GPT cannot be used ({why}): its backup at the end was read")];
                return Ok(FoundGpt::Table(table));
            }
            Err(GptFlaw::Io(e)) => return Err(e),
            // The flaw of the first header is reported. Without a first header, a damaged backup is no sign of a table:
            // it may be a leftover.
            Err(_) => {}
        }
    }
    Ok(flaw.map_or(FoundGpt::Nothing, FoundGpt::Damaged))
}

/// The table with its header at sector `lba`.
fn read_at(disk: &dyn ReadAt, lba: u64, sector: LogicalBlockSize) -> Result<Table, GptFlaw> {
    let header = header(disk, lba, sector)?;
    let entries = entries(disk, &header, sector)?;
    let bytes = u64::from(sector);
    let mut notes = Vec::new();
    let end = header.backup_lba.checked_add(1).and_then(|sectors| sectors.checked_mul(bytes));
    if lba == 1 && end.is_some_and(|end| end < disk.size()) {
        notes.push("the backup GPT is not at the end of the image: the image was made larger".to_owned());
    }
    let partitions = entries.iter().filter(|(_, entry)| entry.is_used());
    Ok(Table {
        kind: TableKind::Gpt,
        sector_size: if matches!(sector, LogicalBlockSize::Lb4096) { 4096 } else { 512 },
        id: Some(header.disk_guid.to_string()),
        notes,
        partitions: partitions.map(|(number, entry)| partition(*number, entry, bytes)).collect(),
    })
}

/// The header at sector `lba`, with its checksum verified and its fields within the limits of a disk.
fn header(disk: &dyn ReadAt, lba: u64, sector: LogicalBlockSize) -> Result<Header, GptFlaw> {
    let bytes = u64::from(sector);
    let offset = lba.checked_mul(bytes).ok_or(GptFlaw::Absent)?;
    // The crate reads a header at the device's sector 1: it gets two sectors, the second of which is the header's.
    let mut two = vec![0; sector.as_usize() * 2];
    let (_, second) = two.split_at_mut(sector.as_usize());
    if !read_inside(disk, offset, second)? {
        let mut start = [0; 8];
        let cut = read_inside(disk, offset, &mut start)? && &start == b"EFI PART";
        return Err(if cut { truncated(disk) } else { GptFlaw::Absent });
    }
    let header = decoded(|| gpt::header::read_header_from_arbitrary_device(&mut Cursor::new(two), sector))?.map_err(
        |e| match e {
            HeaderError::Io(e) => GptFlaw::Io(e),
            HeaderError::InvalidGptSignature => GptFlaw::Absent,
            HeaderError::InvalidCRC32Checksum => GptFlaw::Damaged("the GPT header's checksum is wrong".to_owned()),
            other => GptFlaw::Damaged(format!("the GPT header cannot be read: {other}")),
        },
    )?;
    if header.num_parts > MAX_ENTRIES {
        return Err(GptFlaw::TooLarge(format!(
            "the GPT declares {} entries, and {MAX_ENTRIES} is the most",
            header.num_parts
        )));
    }
    if header.part_size != ENTRY_SIZE {
        return Err(GptFlaw::TooLarge(format!(
            "the GPT declares entries of {} bytes, and only {ENTRY_SIZE} are in use",
            header.part_size
        )));
    }
    if header.current_lba != lba {
        return Err(GptFlaw::Damaged(format!("the GPT header at sector {lba} says it is at {}", header.current_lba)));
    }
    if header.part_start < 2 {
        return Err(GptFlaw::Damaged(format!("the GPT's entries are said to start at sector {}", header.part_start)));
    }
    Ok(header)
}

/// The entries of `header`, with their checksum verified. By number, including unused ones.
fn entries(
    disk: &dyn ReadAt,
    header: &Header,
    sector: LogicalBlockSize,
) -> Result<std::collections::BTreeMap<u32, gpt::partition::Partition>, GptFlaw> {
    let damaged = |why: &str| GptFlaw::Damaged(why.to_owned());
    let offset = header.part_start.checked_mul(u64::from(sector)).ok_or_else(|| damaged("the GPT lies nowhere"))?;
    // OK: `header` accepts at most MAX_ENTRIES × ENTRY_SIZE = 128 KiB.
    let size = usize::try_from(header.num_parts * header.part_size).map_err(|_| damaged("the GPT is too large"))?;
    let mut bytes = vec![0; size];
    if !read_inside(disk, offset, &mut bytes)? {
        return Err(truncated(disk));
    }
    // The crate seeks to the table itself: it gets the table alone, at sector 0.
    let alone = Header { part_start: 0, ..header.clone() };
    decoded(|| gpt::partition::file_read_partitions(&mut Cursor::new(bytes), &alone, sector))?
        .map_err(|_| damaged("the checksum of the GPT's entries is wrong"))
}

/// The result of a call into the crate; a panic in it counts as damage.
fn decoded<T>(decode: impl FnOnce() -> T) -> Result<T, GptFlaw> {
    contain(decode).ok_or_else(|| GptFlaw::Damaged("the GPT makes its decoder fail".to_owned()))
}

fn truncated(disk: &dyn ReadAt) -> GptFlaw {
    GptFlaw::Damaged(format!("the image ends inside its partition table: it has {}", text::size(disk.size())))
}

/// An entry as a partition; `bytes` is the sector size. A number out of range becomes a problem.
fn partition(number: u32, entry: &gpt::partition::Partition, bytes: u64) -> Partition {
    /// UEFI 2.10, table 5-8, bit 2.
    const LEGACY_BIOS_BOOTABLE: u64 = 1 << 2;

    let sectors = entry.last_lba.checked_sub(entry.first_lba).and_then(|span| span.checked_add(1));
    let place = entry.first_lba.checked_mul(bytes).zip(sectors.and_then(|sectors| sectors.checked_mul(bytes)));
    let problem = if entry.last_lba < entry.first_lba {
        Some("it ends before it starts")
    } else if place.is_none() {
        Some("it lies outside of any disk")
    } else {
        None
    };
    let (start, size) = place.unwrap_or((u64::MAX, 0));
    let type_id = entry.part_type_guid.guid.to_string();
    Partition {
        number: Some(number),
        start,
        size,
        type_name: types::gpt(&type_id),
        type_id: Some(type_id),
        uuid: Some(entry.part_guid.to_string()),
        name: text::shown_text(&entry.name),
        bootable: entry.flags & LEGACY_BIOS_BOOTABLE != 0,
        file_system: None,
        problem: problem.map(str::to_owned),
    }
}
