//! The DOS partition table. The `mbrman` crate decodes a sector; the walk along the logical partitions is ours,
//! because the crate's has no limit, takes only ascending chains, and overflows on hostile ones.
//!
//! Layout: UEFI 2.10 section 5.2.1 (the sector), and the kernel's block/partitions/msdos.c (the chain, and how its
//! members are numbered). Its unit is always 512 bytes here: images do not say what else it would be.

use std::io::{self, Cursor};

use deaddrop_core::contain::contain;
use deaddrop_core::error::StorageError;
use mbrman::{MBRHeader, MBRPartitionEntry};

use super::{Partition, Table, TableKind, read_inside, types};
use crate::device::ReadAt;

/// Bytes in a sector.
const SECTOR: u64 = 512;
/// Links of the chain that are followed at most. The kernel numbers 256 partitions at most.
const MAX_LINKS: usize = 256;
/// The type of the partition that protects a GPT. UEFI 2.10, table 5-4.
const PROTECTIVE: u8 = 0xee;

/// A sector 0 that has a table's signature, and boot marks that a table can have.
pub(super) struct Mbr(MBRHeader);

/// Why the table cannot be read.
pub(super) enum Flaw {
    /// The chain of logical partitions is damaged: how.
    Chain(String),
    /// The system failed.
    Io(io::Error),
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Flaw {
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
    /// `None` when `sector` is no MBR: no signature, or a mark in an entry that is neither 0 nor 0x80.
    ///
    /// # Errors
    /// `Corrupt` when the crate fails on it.
    pub(super) fn decode(sector: &[u8; 512], name: &str) -> Result<Option<Self>, StorageError> {
        let header = header(sector).ok_or_else(|| StorageError::corrupt(format!("{name}: {DECODER}")))?;
        Ok(header.map(Self))
    }

    /// True when an entry says that the disk has a GPT.
    pub(super) fn protects_a_gpt(&self) -> bool {
        self.used().any(|(_, entry)| entry.sys == PROTECTIVE)
    }

    /// True when no entry is used.
    pub(super) fn is_empty(&self) -> bool {
        self.used().next().is_none()
    }

    /// True when every used entry lies behind the table and inside the disk, and no two overlap: as no text or code
    /// in a boot sector comes out by chance.
    pub(super) fn is_faultless(&self, disk: u64) -> bool {
        let spans: Vec<(u64, u64)> = self.used().map(|(_, entry)| span(0, entry)).collect();
        let apart = |(index, (start, end)): (usize, &(u64, u64))| {
            spans.iter().skip(index + 1).all(|(other, other_end)| end <= other || other_end <= start)
        };
        spans.iter().all(|(start, end)| *start >= SECTOR && *end <= disk) && spans.iter().enumerate().all(apart)
    }

    /// The table: the primary partitions, and the logical ones from 5 on.
    pub(super) fn table(&self, disk: &dyn ReadAt) -> Result<Table, Flaw> {
        let mut partitions: Vec<Partition> = self.used().map(|(number, entry)| partition(number, 0, entry)).collect();
        let mut number = 5;
        let mut seen = Vec::new();
        for (_, extended) in self.used().filter(|(_, entry)| entry.is_extended()) {
            follow(disk, extended, &mut seen, |ebr, entry| {
                partitions.push(partition(number, ebr, entry));
                number += 1;
            })?;
        }
        let signature = u32::from_le_bytes(self.0.disk_signature);
        Ok(Table {
            kind: TableKind::Mbr,
            sector_size: 512,
            id: Some(format!("0x{signature:08x}")),
            notes: Vec::new(),
            partitions,
        })
    }

    /// Entries in use: a type, and a size, as the kernel asks.
    fn used(&self) -> impl Iterator<Item = (u32, &MBRPartitionEntry)> {
        used(&self.0)
    }
}

/// What is wrong when the crate panics.
const DECODER: &str = "the MBR makes its decoder fail";

/// A sector as a table; `Some(None)` when it is none, `None` when the crate panics.
fn header(sector: &[u8; 512]) -> Option<Option<MBRHeader>> {
    contain(|| MBRHeader::read_from(&mut Cursor::new(sector)).ok())
}

fn used(header: &MBRHeader) -> impl Iterator<Item = (u32, &MBRPartitionEntry)> {
    (1..=4).zip(header.iter()).map(|(number, (_, entry))| (number, entry)).filter(|(_, e)| e.is_used() && e.sectors > 0)
}

/// Calls `found` for each logical partition in `extended`, with the sector of the record that lists it. `seen` holds
/// the sectors that were visited.
fn follow(
    disk: &dyn ReadAt,
    extended: &MBRPartitionEntry,
    seen: &mut Vec<u64>,
    mut found: impl FnMut(u64, &MBRPartitionEntry),
) -> Result<(), Flaw> {
    let base = u64::from(extended.starting_lba);
    let mut ebr = base;
    loop {
        if seen.contains(&ebr) {
            return Err(Flaw::Chain(format!("it comes back to sector {ebr}")));
        }
        if seen.len() >= MAX_LINKS {
            return Err(Flaw::Chain(format!("it has more than {MAX_LINKS} links")));
        }
        seen.push(ebr);
        let mut sector = [0; 512];
        // Cannot overflow: a sum of two u32, times 512.
        if !read_inside(disk, ebr * SECTOR, &mut sector)? {
            return Err(Flaw::Chain(format!("sector {ebr} is outside of the image")));
        }
        let record = header(&sector).ok_or_else(|| Flaw::Chain(DECODER.to_owned()))?;
        let Some(record) = record else {
            // An extended partition that is still empty needs no record at its start.
            return if ebr == base { Ok(()) } else { Err(Flaw::Chain(format!("sector {ebr} is no link of it"))) };
        };
        for (_, entry) in used(&record).filter(|(_, entry)| !entry.is_extended()) {
            found(ebr, entry);
        }
        // The link counts from the start of the extended partition, the data from this record.
        match used(&record).find(|(_, entry)| entry.is_extended()) {
            Some((_, link)) => ebr = base + u64::from(link.starting_lba),
            None => return Ok(()),
        }
    }
}

/// Start and end in bytes. `base` is the sector that the entry counts from.
fn span(base: u64, entry: &MBRPartitionEntry) -> (u64, u64) {
    // Cannot overflow: sums of u32, times 512.
    let start = (base + u64::from(entry.starting_lba)) * SECTOR;
    (start, start + u64::from(entry.sectors) * SECTOR)
}

fn partition(number: u32, base: u64, entry: &MBRPartitionEntry) -> Partition {
    let (start, end) = span(base, entry);
    Partition {
        number: Some(number),
        start,
        size: end - start,
        type_name: types::mbr(entry.sys),
        type_id: Some(format!("0x{:02x}", entry.sys)),
        uuid: None,
        name: None,
        bootable: entry.is_active(),
        file_system: None,
        problem: None,
    }
}
