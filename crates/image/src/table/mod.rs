//! The partition table: GPT, MBR, or none.
//!
//! Used by [`crate::open::disk`] when an image is opened. The table is chosen as in the kernel and the firmware: a GPT
//! if the MBR protects one (or there is no MBR to contradict it), otherwise the MBR, otherwise the whole disk is one
//! file system. Partitions that are not inside the image are listed with their problem, and cannot be opened.

mod gpt;
mod mbr;
pub mod probe;
pub mod root;
mod types;

use std::io;
use std::sync::Arc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use serde::Serialize;

use self::probe::Probe;
use super::device::{ReadAt, Section};

/// The kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// A GUID partition table.
    Gpt,
    /// A DOS partition table.
    Mbr,
    /// None: the disk is one file system.
    None,
}

impl TableKind {
    /// Its name in `inspect`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt => "GPT",
            Self::Mbr => "MBR",
            Self::None => "no partition table",
        }
    }
}

/// A partition table and its partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// GPT, MBR or none.
    pub kind: TableKind,
    /// Sector size in bytes, the table's unit: 512 or 4096.
    pub sector_size: u32,
    /// The disk's GUID (GPT), or its signature as 0x… (MBR).
    pub id: Option<String>,
    /// Notes for the user about the table itself: a backup that was used, a backup that is not at the end.
    pub notes: Vec<String>,
    /// By number. Without a table there is one entry, which has no number and is the whole disk.
    pub partitions: Vec<Partition>,
}

/// One partition, or the whole disk if there is no table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number in the table, from 1, as in Linux; not always the order on the disk.
    pub number: Option<u32>,
    /// Its offset on the disk, in bytes.
    pub start: u64,
    /// Its size, in bytes.
    pub size: u64,
    /// The name of its type ("EFI system", "Linux", …); `None` for an unknown type.
    pub type_name: Option<&'static str>,
    /// Its type: a GUID (GPT) or 0x83 (MBR). `None` for the whole disk.
    pub type_id: Option<String>,
    /// Its own GUID (GPT only).
    pub uuid: Option<String>,
    /// Its name in the table (GPT only), safe for a terminal.
    pub name: Option<String>,
    /// True if it is marked for booting: active (MBR), legacy BIOS bootable (GPT).
    pub bootable: bool,
    /// Its content, if it is known.
    pub file_system: Option<Probe>,
    /// The reason why it cannot be used; `None` if it can.
    pub problem: Option<String>,
}

impl Partition {
    /// Its name in messages: `partition 2 (ext4, nixos)`.
    #[must_use]
    pub fn title(&self) -> String {
        let name = match self.number {
            Some(number) => format!("partition {number}"),
            None => "the whole disk".to_owned(),
        };
        match &self.file_system {
            Some(Probe { kind, label: Some(label), .. }) => format!("{name} ({}, {label})", kind.name()),
            Some(Probe { kind, .. }) => format!("{name} ({})", kind.name()),
            None => name,
        }
    }

    /// One past its last byte on the disk.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// True if the two overlap.
    fn overlaps(&self, other: &Self) -> bool {
        self.size > 0 && other.size > 0 && self.start < other.end() && other.start < self.end()
    }

    /// True for a partition with the type of a root ("Discoverable Partitions Specification").
    pub(super) fn is_typed_root(&self) -> bool {
        self.type_id.as_deref().is_some_and(types::is_root)
    }

    /// True for a partition that may be the root by type and content: a Linux file system (or a layer that may contain
    /// one), and unknown content.
    pub(super) fn may_be_root(&self) -> bool {
        let has_type = |is: fn(&str) -> bool| self.type_id.as_deref().is_some_and(is);
        match &self.file_system {
            Some(found) => found.kind.can_hold_root() && !has_type(types::is_extended_boot),
            None => !has_type(types::is_no_root) && !self.is_container(),
        }
    }

    /// True for an MBR partition that only contains the logical ones.
    fn is_container(&self) -> bool {
        matches!(self.type_id.as_deref(), Some("0x05" | "0x0f" | "0x85"))
    }
}

impl Table {
    /// Reads the table of `disk`, and probes each partition. `name` is the image's, for messages.
    ///
    /// # Errors
    /// `Corrupt` if the image ends in its table, or the table is damaged or contradicts itself; `Unsupported` for
    /// tables larger than any in use; `Io`.
    pub fn read(disk: &Arc<dyn ReadAt>, name: &str) -> Result<Self, StorageError> {
        let mut table = Self::read_raw(disk.as_ref(), name)?;
        table.partitions.sort_by_key(|partition| partition.number);
        for partition in &mut table.partitions {
            if !(table.kind == TableKind::Mbr && partition.is_container()) {
                let looking = |e| StorageError::io(format!("looking into {} of {name}", partition.title()), e);
                if partition.file_system.is_none() {
                    partition.file_system = probe_partition(partition, disk).map_err(looking)?;
                }
            }
            table.notes.extend(shorten(partition, disk.size()));
            set_problem(partition, disk.size(), table.kind, table.sector_size);
        }
        for index in 0..table.partitions.len() {
            let mine = &table.partitions[index];
            let shares = |other: &Partition| {
                // Two records with one number are the same partition, which does not overlap itself.
                other.number != mine.number && !other.is_container() && !mine.is_container() && mine.overlaps(other)
            };
            if let Some(other) = table.partitions.iter().find(|other| shares(other)) {
                let problem = format!("it shares bytes with {}", other.title());
                table.partitions[index].problem.get_or_insert(problem);
            }
        }
        Ok(table)
    }

    /// The table as stored, before the checks.
    fn read_raw(disk: &dyn ReadAt, name: &str) -> Result<Self, StorageError> {
        let io = |e| StorageError::io(format!("reading the partition table of {name}"), e);
        if disk.size() < 512 {
            return Err(StorageError::corrupt(format!("{name} is no disk image: it has {} bytes", disk.size())));
        }
        let mut sector = [0; 512];
        disk.read_exact_at(0, &mut sector).map_err(io)?;
        let mbr = mbr::Mbr::decode(&sector, name)?;
        let whole = probe::probe_disk(disk).map_err(io)?;
        let table = Self::read_tables(disk, name, mbr, whole.as_ref())?;
        // One half of a mirror has the table of the whole: a signature outside all partitions is the disk's own.
        let covers = |at: u64| table.partitions.iter().any(|p| !p.is_container() && p.start <= at && at < p.end());
        match probe::at_the_end(disk, true).map_err(io)? {
            Some((member, at)) if table.kind != TableKind::None && !covers(at) => {
                Ok(Self::of_whole_disk(disk.size(), Some(member)))
            }
            _ if table.kind == TableKind::None => Ok(Self::of_whole_disk(disk.size(), whole)),
            _ => Ok(table),
        }
    }

    /// The table alone. `whole` is the content of the disk if there is no table.
    fn read_tables(
        disk: &dyn ReadAt,
        name: &str,
        mbr: Option<mbr::Mbr>,
        whole: Option<&Probe>,
    ) -> Result<Self, StorageError> {
        let io = |e| StorageError::io(format!("reading the partition table of {name}"), e);
        if mbr.as_ref().is_none_or(mbr::Mbr::protects_a_gpt) {
            match gpt::read(disk).map_err(io)? {
                gpt::FoundGpt::Table(table) => return Ok(table),
                // Without an MBR, and with a file system at 0, a damaged GPT is a leftover.
                gpt::FoundGpt::Damaged(_) | gpt::FoundGpt::TooLarge(_) if mbr.is_none() && whole.is_some() => {}
                gpt::FoundGpt::Damaged(why) => return Err(StorageError::corrupt(format!("{name}: {why}"))),
                gpt::FoundGpt::TooLarge(what) => {
                    return Err(StorageError::unsupported(format!("{name}: {what}"), TOO_LARGE));
                }
                gpt::FoundGpt::Nothing if mbr.is_some() => {
                    return Err(StorageError::corrupt(format!(
                        "{name}: the MBR says that there is a GPT, but neither the GPT nor its backup is in the {} \
                         that the image has",
                        text::size(disk.size())
                    )));
                }
                gpt::FoundGpt::Nothing => {}
            }
        }
        match mbr {
            // A boot sector ends like an MBR: with a file system at 0, only a faultless table counts.
            Some(mbr) if !mbr.is_empty() && (whole.is_none() || mbr.is_faultless(disk.size())) => {
                mbr.table(disk).map_err(|e| e.in_image(name))
            }
            _ => Ok(Self::of_whole_disk(disk.size(), None)),
        }
    }

    /// The single "partition" of a disk without a table.
    fn of_whole_disk(size: u64, file_system: Option<Probe>) -> Self {
        let whole = Partition { size, file_system, ..Partition::default() };
        Self { kind: TableKind::None, sector_size: 512, id: None, notes: Vec::new(), partitions: vec![whole] }
    }
}

const TOO_LARGE: &str = "no disk has such a table; the image is damaged or made to harm";

/// Sets the partition's problem if its location is wrong.
fn set_problem(partition: &mut Partition, disk: u64, kind: TableKind, sector_size: u32) {
    // The sectors of the tables themselves: the MBR's, and the GPT's header after it.
    let reserved = match kind {
        TableKind::Gpt => u64::from(sector_size) * 2,
        TableKind::Mbr => u64::from(sector_size),
        TableKind::None => 0,
    };
    let problem = if partition.size == 0 {
        "it has no size".to_owned()
    } else if partition.start < reserved {
        "it starts inside the partition table".to_owned()
    } else if partition.start.checked_add(partition.size).is_none_or(|end| end > disk) {
        format!(
            "it ends at {}, and the image at {}: the image is truncated",
            text::size(partition.end()),
            text::size(disk)
        )
    } else {
        return;
    };
    partition.problem.get_or_insert(problem);
}

/// Shortens a partition that ends after the image to the end of the image, if its file system fits completely: as in
/// the kernel (block/partitions/core.c, `blk_add_partition`). Returns the note, if so.
fn shorten(partition: &mut Partition, disk: u64) -> Option<String> {
    let there = disk.checked_sub(partition.start).filter(|there| *there < partition.size)?;
    let size = partition.file_system.as_ref()?.size.filter(|size| *size > 0 && *size <= there)?;
    let note = format!(
        "{} ends at {} by the table, and the image at {}: its file system of {} is wholly there",
        partition.title(),
        text::size(partition.end()),
        text::size(disk),
        text::size(size),
    );
    partition.size = there;
    Some(note)
}

/// Probes a partition, or as much of it as the image has.
fn probe_partition(partition: &Partition, disk: &Arc<dyn ReadAt>) -> io::Result<Option<Probe>> {
    let there = disk.size().checked_sub(partition.start).map(|there| there.min(partition.size));
    let section = there.and_then(|there| Section::new(Arc::clone(disk), partition.start, there));
    section.map_or(Ok(None), |section| probe::probe(&section))
}

/// Reads whole sectors; false if they are not all inside the disk.
fn read_inside(disk: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
    if offset.checked_add(length(buf)).is_none_or(|end| end > disk.size()) {
        return Ok(false);
    }
    disk.read_exact_at(offset, buf).map(|()| true)
}

#[cfg(test)]
mod tests;
