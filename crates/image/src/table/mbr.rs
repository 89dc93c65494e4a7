//! The DOS partition table. The `gpt` crate decodes a sector; it does not know logical partitions: their chain is
//! followed here.
//!
//! Layout: UEFI 2.10 section 5.2.1 (the sector), and the kernel's block/partitions/msdos.c (the chain, and the numbers
//! of its members). The unit is always 512 bytes here: images do not declare another.

use std::io;

use ::gpt::disk::LogicalBlockSize;
use ::gpt::mbr::{PartRecord, ProtectiveMBR};
use deaddrop_core::contain::contain;
use deaddrop_core::error::StorageError;

use super::{Partition, Table, TableKind, read_inside, types};
use crate::device::ReadAt;

/// Size of a sector, in bytes.
const SECTOR: u64 = 512;
/// Maximum number of links of the chain. The kernel supports at most 256 partitions.
const MAX_LINKS: usize = 256;
/// The type of the partition that protects a GPT. UEFI 2.10, table 5-4.
const PROTECTIVE: u8 = 0xee;

/// The types of an extended partition: of DOS, of Windows 95, of Linux, and two of DR-DOS.
const EXTENDED: [u8; 5] = [0x05, 0x0f, 0x85, 0xc5, 0xd5];
/// The mark of a partition that is booted from. Another may be 0 only.
const BOOTABLE: u8 = 0x80;

/// A sector 0 that has a table's signature, and boot marks that a table can have.
pub(super) struct Mbr(ProtectiveMBR);

/// The reason why the table cannot be read.
pub(super) enum MbrFlaw {
    /// The chain of logical partitions is damaged; the text is the problem.
    Chain(String),
    /// A system call failed.
    Io(io::Error),
}

impl From<io::Error> for MbrFlaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl MbrFlaw {
    /// The error, with the image's name.
    pub(super) fn in_image(self, name: &str) -> StorageError {
        match self {
            Self::Chain(how) => {
                StorageError::corrupt(format!("{name}: the chain of logical partitions is damaged: {how}"))
            }
            Self::Io(e) => StorageError::io(format!("reading the partition table of {name}"), e),
        }
    }
}

impl Mbr {
    /// Decodes a sector. `None` if it is no MBR: no signature, or a boot flag that is neither 0 nor 0x80.
    ///
    /// # Errors
    /// `Corrupt` if the crate fails on it.
    pub(super) fn decode(sector: &[u8; 512], name: &str) -> Result<Option<Self>, StorageError> {
        let header = header(sector).ok_or_else(|| StorageError::corrupt(format!("{name}: {DECODER}")))?;
        Ok(header.map(Self))
    }

    /// True if an entry says that the disk has a GPT.
    pub(super) fn protects_a_gpt(&self) -> bool {
        self.used().any(|(_, entry)| entry.os_type == PROTECTIVE)
    }

    /// True if no entry is used.
    pub(super) fn is_empty(&self) -> bool {
        self.used().next().is_none()
    }

    /// True if every used entry is after the table and inside the disk, and no two overlap: text or code in a boot
    /// sector does not look like this by chance.
    pub(super) fn is_faultless(&self, disk: u64) -> bool {
        let spans: Vec<(u64, u64)> = self.used().map(|(_, entry)| span(0, entry)).collect();
        let apart = |(index, (start, end)): (usize, &(u64, u64))| {
            spans.iter().skip(index + 1).all(|(other, other_end)| end <= other || other_end <= start)
        };
        spans.iter().all(|(start, end)| *start >= SECTOR && *end <= disk) && spans.iter().enumerate().all(apart)
    }

    /// The table: the primary partitions, and the logical ones from 5 on.
    pub(super) fn table(&self, disk: &dyn ReadAt) -> Result<Table, MbrFlaw> {
        let mut partitions: Vec<Partition> = self.used().map(|(number, entry)| partition(number, 0, entry)).collect();
        let mut number = 5;
        let mut seen = Vec::new();
        for (_, extended) in self.used().filter(|(_, entry)| is_extended(*entry)) {
            follow(disk, extended, &mut seen, |ebr, entry| {
                partitions.push(partition(number, ebr, entry));
                number += 1;
            })?;
        }
        let signature = u32::from_le_bytes(*self.0.disk_signature());
        Ok(Table {
            kind: TableKind::Mbr,
            sector_size: 512,
            id: Some(format!("0x{signature:08x}")),
            notes: Vec::new(),
            partitions,
        })
    }

    /// Entries in use: a type, and a size, as the kernel asks.
    fn used(&self) -> impl Iterator<Item = (u32, PartRecord)> {
        used(&self.0)
    }
}

/// The problem if the crate panics.
const DECODER: &str = "the MBR makes its decoder fail";

/// A sector as a table; `Some(None)` when it is none, `None` when the crate panics.
fn header(sector: &[u8; 512]) -> Option<Option<ProtectiveMBR>> {
    let header = contain(|| ProtectiveMBR::from_bytes(sector, LogicalBlockSize::Lb512).ok())?;
    let marks_are_right = |header: &ProtectiveMBR| entries(header).all(|e| matches!(e.boot_indicator, 0 | BOOTABLE));
    Some(header.filter(marks_are_right))
}

fn entries(header: &ProtectiveMBR) -> impl Iterator<Item = PartRecord> {
    (0..4).filter_map(|index| header.partition(index))
}

fn is_extended(entry: PartRecord) -> bool {
    EXTENDED.contains(&entry.os_type)
}

fn used(header: &ProtectiveMBR) -> impl Iterator<Item = (u32, PartRecord)> {
    (1..).zip(entries(header)).filter(|(_, e)| e.os_type != 0 && e.lb_size > 0)
}

/// Calls `found` for each logical partition in `extended`, with the sector of its record. `seen` has the visited
/// sectors.
fn follow(
    disk: &dyn ReadAt,
    extended: PartRecord,
    seen: &mut Vec<u64>,
    mut found: impl FnMut(u64, PartRecord),
) -> Result<(), MbrFlaw> {
    let base = u64::from(extended.lb_start);
    let mut ebr = base;
    loop {
        if seen.contains(&ebr) {
            return Err(MbrFlaw::Chain(format!("it comes back to sector {ebr}")));
        }
        if seen.len() >= MAX_LINKS {
            return Err(MbrFlaw::Chain(format!("it has more than {MAX_LINKS} links")));
        }
        seen.push(ebr);
        let mut sector = [0; 512];
        // Cannot overflow: a sum of two u32, times 512.
        if !read_inside(disk, ebr * SECTOR, &mut sector)? {
            return Err(MbrFlaw::Chain(format!("sector {ebr} is outside of the image")));
        }
        let record = header(&sector).ok_or_else(|| MbrFlaw::Chain(DECODER.to_owned()))?;
        let Some(record) = record else {
            // An empty extended partition needs no record at its start.
            return if ebr == base { Ok(()) } else { Err(MbrFlaw::Chain(format!("sector {ebr} is no link of it"))) };
        };
        for (_, entry) in used(&record).filter(|(_, entry)| !is_extended(*entry)) {
            found(ebr, entry);
        }
        // The link counts from the start of the extended partition, the data from this record.
        match used(&record).find(|(_, entry)| is_extended(*entry)) {
            Some((_, link)) => ebr = base + u64::from(link.lb_start),
            None => return Ok(()),
        }
    }
}

/// Start and end in bytes. `base` is the sector that the entry counts from.
fn span(base: u64, entry: PartRecord) -> (u64, u64) {
    // Cannot overflow: sums of u32, times 512.
    let start = (base + u64::from(entry.lb_start)) * SECTOR;
    (start, start + u64::from(entry.lb_size) * SECTOR)
}

fn partition(number: u32, base: u64, entry: PartRecord) -> Partition {
    let (start, end) = span(base, entry);
    Partition {
        number: Some(number),
        start,
        size: end - start,
        type_name: types::mbr(entry.os_type),
        type_id: Some(format!("0x{:02x}", entry.os_type)),
        bootable: entry.boot_indicator == BOOTABLE,
        ..Partition::default()
    }
}
