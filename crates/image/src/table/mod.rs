//! The partition table: GPT, MBR, or none at all.
//!
//! Called by [`crate::open::disk`] when an image is opened. Which table counts is decided as the kernel and the firmware
//! do: a GPT where the MBR protects one (or there is no MBR to contradict it), else the MBR, else the whole disk is
//! one file system. Partitions that do not lie in the image are listed, with what is wrong, and cannot be opened.

pub mod probe;
pub mod root;

mod gpt;
mod mbr;
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
    /// Its name, as `inspect` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt => "GPT",
            Self::Mbr => "MBR",
            Self::None => "no partition table",
        }
    }
}

/// A partition table and what it lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// GPT, MBR or none.
    pub kind: TableKind,
    /// Bytes in a sector, the table's unit: 512 or 4096.
    pub sector_size: u32,
    /// The disk's GUID (GPT), or its signature as 0x…  (MBR).
    pub id: Option<String>,
    /// What a person should know about the table itself: a backup that was used, a backup that is not at the end.
    pub notes: Vec<String>,
    /// By number. With no table there is one, which has no number and is the whole disk.
    pub partitions: Vec<Partition>,
}

/// One partition, or the whole disk where there is no table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number in the table, from 1, as Linux counts; not always the order on the disk.
    pub number: Option<u32>,
    /// Where it starts, in bytes from the start of the disk.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The name of its type ("EFI system", "Linux", …); none when it is not one that we know.
    pub type_name: Option<&'static str>,
    /// Its type: a GUID (GPT) or 0x83 (MBR). None for the whole disk.
    pub type_id: Option<String>,
    /// Its own GUID (GPT only).
    pub uuid: Option<String>,
    /// Its name in the table (GPT only), made harmless for a terminal.
    pub name: Option<String>,
    /// Marked for booting: active (MBR), legacy BIOS bootable (GPT).
    pub bootable: bool,
    /// What it holds, if we know it.
    pub file_system: Option<Probe>,
    /// Why it cannot be used; none when it can.
    pub problem: Option<String>,
}

impl Partition {
    /// How a message calls it: `partition 2 (ext4, nixos)`.
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

    /// True when the two share a byte.
    fn overlaps(&self, other: &Self) -> bool {
        self.size > 0 && other.size > 0 && self.start < other.end() && other.start < self.end()
    }

    /// True for one with the type of a root ("Discoverable Partitions Specification").
    pub(super) fn is_typed_root(&self) -> bool {
        self.type_id.as_deref().is_some_and(types::is_root)
    }

    /// True for what the root may be, as far as type and content tell: a Linux file system (or a layer that one may lie in),
    /// and what nothing is known of.
    pub(super) fn may_be_root(&self) -> bool {
        let has_type = |is: fn(&str) -> bool| self.type_id.as_deref().is_some_and(is);
        match &self.file_system {
            Some(found) => found.kind.can_hold_root() && !has_type(types::is_extended_boot),
            None => !has_type(types::is_no_root) && !self.is_container(),
        }
    }

    /// True for an MBR partition that only holds the logical ones.
    fn is_container(&self) -> bool {
        matches!(self.type_id.as_deref(), Some("0x05" | "0x0f" | "0x85"))
    }
}

impl Table {
    /// Reads the table of `disk`, and probes each partition. `name` is the image's, for messages.
    ///
    /// # Errors
    /// `Corrupt` when the image ends in its table, or the table is damaged or contradicts itself; `Unsupported` for
    /// tables larger than any that is in use; `Io`.
    pub fn read(disk: &Arc<dyn ReadAt>, name: &str) -> Result<Self, StorageError> {
        let mut table = Self::read_raw(disk.as_ref(), name)?;
        table.partitions.sort_by_key(|partition| partition.number);
        for partition in &mut table.partitions {
            if !(table.kind == TableKind::Mbr && partition.is_container()) {
                let looking = |e| StorageError::io(format!("looking into {} of {name}", partition.title()), e);
                if partition.file_system.is_none() {
                    partition.file_system = look_into(partition, disk).map_err(looking)?;
                }
            }
            table.notes.extend(shorten(partition, disk.size()));
            judge(partition, disk.size(), table.kind, table.sector_size);
        }
        for index in 0..table.partitions.len() {
            let mine = &table.partitions[index];
            let shares = |other: &Partition| {
                // Two records of one number cannot be: a partition shares bytes with another, not with itself.
                other.number != mine.number && !other.is_container() && !mine.is_container() && mine.overlaps(other)
            };
            if let Some(other) = table.partitions.iter().find(|other| shares(other)) {
                let problem = format!("it shares bytes with {}", other.title());
                table.partitions[index].problem.get_or_insert(problem);
            }
        }
        Ok(table)
    }

    /// The table as it stands, not yet judged.
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
        // One half of a mirror has the table of the whole: a signature that lies in no partition is the disk's own.
        let covers = |at: u64| table.partitions.iter().any(|p| !p.is_container() && p.start <= at && at < p.end());
        match probe::at_the_end(disk, true).map_err(io)? {
            Some((member, at)) if table.kind != TableKind::None && !covers(at) => {
                Ok(Self::of_whole_disk(disk.size(), Some(member)))
            }
            _ if table.kind == TableKind::None => Ok(Self::of_whole_disk(disk.size(), whole)),
            _ => Ok(table),
        }
    }

    /// The table by itself. `whole` is what the disk would hold without one.
    fn read_tables(
        disk: &dyn ReadAt,
        name: &str,
        mbr: Option<mbr::Mbr>,
        whole: Option<&Probe>,
    ) -> Result<Self, StorageError> {
        let io = |e| StorageError::io(format!("reading the partition table of {name}"), e);
        if mbr.as_ref().is_none_or(mbr::Mbr::protects_a_gpt) {
            match gpt::read(disk).map_err(io)? {
                gpt::Found::Table(table) => return Ok(table),
                // With no MBR, and a file system from 0 on, what looks like a GPT is what is left of one.
                gpt::Found::Damaged(_) | gpt::Found::TooLarge(_) if mbr.is_none() && whole.is_some() => {}
                gpt::Found::Damaged(why) => return Err(StorageError::corrupt(format!("{name}: {why}"))),
                gpt::Found::TooLarge(what) => {
                    return Err(StorageError::unsupported(format!("{name}: {what}"), TOO_LARGE));
                }
                gpt::Found::Nothing if mbr.is_some() => {
                    return Err(StorageError::corrupt(format!(
                        "{name}: the MBR says that there is a GPT, but neither the GPT nor its backup is in the {} \
                         that the image has",
                        text::size(disk.size())
                    )));
                }
                gpt::Found::Nothing => {}
            }
        }
        match mbr {
            // A boot sector ends like an MBR: where a file system starts at 0, only a faultless table counts.
            Some(mbr) if !mbr.is_empty() && (whole.is_none() || mbr.is_faultless(disk.size())) => {
                mbr.table(disk).map_err(|e| e.in_image(name))
            }
            _ => Ok(Self::of_whole_disk(disk.size(), None)),
        }
    }

    /// The one "partition" of a disk without a table.
    fn of_whole_disk(size: u64, file_system: Option<Probe>) -> Self {
        let whole = Partition {
            number: None,
            start: 0,
            size,
            type_name: None,
            type_id: None,
            uuid: None,
            name: None,
            bootable: false,
            file_system,
            problem: None,
        };
        Self { kind: TableKind::None, sector_size: 512, id: None, notes: Vec::new(), partitions: vec![whole] }
    }
}

const TOO_LARGE: &str = "no disk has such a table; the image is damaged or made to harm";

/// Says what is wrong with where a partition lies, if anything is.
fn judge(partition: &mut Partition, disk: u64, kind: TableKind, sector_size: u32) {
    // What the tables themselves take: the MBR's sector, and the GPT's header after it.
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

/// Takes a partition that ends behind the end of the image for as long as the image is, if its file system says that it is
/// wholly there: as the kernel does (block/partitions/core.c, `blk_add_partition`). What is said of it, if so.
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
fn look_into(partition: &Partition, disk: &Arc<dyn ReadAt>) -> io::Result<Option<Probe>> {
    let there = disk.size().checked_sub(partition.start).map(|there| there.min(partition.size));
    let section = there.and_then(|there| Section::new(Arc::clone(disk), partition.start, there));
    section.map_or(Ok(None), |section| probe::probe(&section))
}

/// Reads whole sectors, or says that they are not all there.
fn read_inside(disk: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
    if offset.checked_add(length(buf)).is_none_or(|end| end > disk.size()) {
        return Ok(false);
    }
    disk.read_exact_at(offset, buf).map(|()| true)
}

#[cfg(test)]
mod tests;
