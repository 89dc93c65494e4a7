//! Where each cluster of the disk is: the L1 table and the L2 tables (qemu, docs/interop/qcow2.rst, "Cluster mapping"),
//! and the check of all of them when an image is opened.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use deaddrop_core::error::StorageError;
use deaddrop_core::text;

use super::header::Header;
use crate::device::ReadAt;

/// Bits 9 to 55 of an entry: a host offset.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
/// Bit 63: the refcount is one.
pub(super) const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry.
pub(super) const PACKED: u64 = 1 << 62;
/// Bit 0 of an L2 entry of version 3: "the cluster reads as all zeros".
pub(super) const ZERO: u64 = 1;

/// Host clusters that are kept account of: a bit each, twice.
const MOST_CLUSTERS: u64 = 1 << 27;
/// Bytes of compressed clusters that may come out of any file, and of each byte of a file beyond that; as for an image
/// compressed by gzip.
const FREE: u64 = 512 << 20;
const RATIO: u64 = 50;
/// L2 tables that are kept, at most 2 MiB each.
const TABLES: usize = 4;

/// Where a cluster of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the backing file; without one, zeros.
    Absent,
    Zero,
    /// At this host offset.
    Data(u64),
    /// Compressed, in these bytes of the file, of which the end may belong to others.
    Packed {
        offset: u64,
        length: u64,
    },
}

/// The tables of an open image.
pub(super) struct Map {
    header: Header,
    /// Host offsets of the L2 tables; 0 if there is none.
    l1: Vec<u64>,
    tables: Mutex<VecDeque<(u64, Arc<Vec<u64>>)>>,
    /// Number of compressed clusters.
    packed: u64,
}

impl Map {
    /// Reads the L1 table and checks everything that it leads to.
    ///
    /// # Errors
    /// `Corrupt` if something is not in the file, or at the same place as something else; `Io`.
    pub(super) fn read(header: &Header, file: &dyn ReadAt, name: &str) -> Result<Self, StorageError> {
        let reading = |e| StorageError::io(format!("reading {name}"), e);
        let corrupt = |what: &str| StorageError::corrupt(format!("{name}: {what} of the qcow2 image"));
        let clusters = file.size().div_ceil(header.cluster());
        if clusters > MOST_CLUSTERS {
            return Err(StorageError::unsupported(
                format!("{name} is a qcow2 image of {clusters} clusters, and more than {MOST_CLUSTERS} are not read"),
                "make one with larger clusters: qemu-img convert -O qcow2 IMAGE NEW",
            ));
        }
        let mut taken = Taken { cluster_bits: header.cluster_bits, clusters, alone: Bits::new(clusters), shared: None };
        let overlap = || corrupt("two parts share a cluster");
        taken.alone(0, 1).ok_or_else(overlap)?;
        // Cannot overflow: at most 32 MiB.
        taken.alone(header.l1_offset, header.l1_entries * 8).ok_or_else(overlap)?;
        taken.alone(header.refcount_offset, header.refcount_size).ok_or_else(overlap)?;
        for entry in words(file, header.refcount_offset, header.refcount_size).map_err(reading)? {
            if entry != 0 {
                taken.alone(entry, header.cluster()).ok_or_else(|| corrupt("a block of refcounts is misplaced"))?;
            }
        }
        let mut map = Self {
            header: header.clone(),
            l1: words(file, header.l1_offset, header.l1_entries * 8).map_err(reading)?,
            tables: Mutex::default(),
            packed: 0,
        };
        for entry in &mut map.l1 {
            *entry &= OFFSET;
        }
        let mut holes = Holes { file, known: 0..0 };
        for index in 0..map.l1.len() {
            let offset = map.l1.get(index).copied().unwrap_or_default();
            if offset == 0 {
                continue;
            }
            taken.alone(offset, header.cluster()).ok_or_else(|| corrupt("an L2 table is misplaced"))?;
            if holes.has(offset, header.cluster()).map_err(reading)? {
                // As if there were none: a file of almost nothing can have millions of them.
                map.l1.get_mut(index).into_iter().for_each(|entry| *entry = 0);
                continue;
            }
            for entry in words(file, offset, header.cluster()).map_err(reading)? {
                match map.place_of(entry) {
                    Place::Absent | Place::Zero => {}
                    Place::Data(offset) => {
                        taken.alone(offset, header.cluster()).ok_or_else(|| corrupt("a cluster is misplaced"))?;
                    }
                    Place::Packed { offset, length } => {
                        taken.shared(offset, length).ok_or_else(|| corrupt("a compressed cluster is misplaced"))?;
                        map.packed = map.packed.saturating_add(1);
                    }
                }
                // A cluster that reads as zeros may have a place all the same.
                if entry & (PACKED | ZERO) == ZERO && entry & OFFSET != 0 && header.version > 2 {
                    taken.alone(entry & OFFSET, header.cluster()).ok_or_else(|| corrupt("a cluster is misplaced"))?;
                }
            }
        }
        let unpacked = map.packed.saturating_mul(header.cluster());
        if unpacked > FREE && unpacked > file.size().saturating_mul(RATIO) {
            return Err(StorageError::corrupt(format!(
                "{name}: the clusters that are compressed in {} hold {}: this is no disk image, or one made to harm \
                 (convert it by hand with qemu-img convert -O raw if you trust it)",
                text::size(file.size()),
                text::size(unpacked)
            )));
        }
        Ok(map)
    }

    /// True if a cluster is compressed.
    pub(super) fn has_packed(&self) -> bool {
        self.packed > 0
    }

    fn place_of(&self, entry: u64) -> Place {
        if entry & PACKED != 0 {
            // "Compressed Clusters Descriptor": bits 0 to x-1 are the offset, x to 61 the number of further sectors of
            // 512 bytes, with x = 62 - (cluster_bits - 8).
            let bits = 70_u32.saturating_sub(self.header.cluster_bits);
            let offset = entry & ((1 << bits) - 1);
            let sectors = ((entry & (PACKED - 1)) >> bits) + 1;
            return Place::Packed { offset, length: sectors * 512 - offset % 512 };
        }
        match entry & OFFSET {
            _ if entry & ZERO != 0 && self.header.version > 2 => Place::Zero,
            0 => Place::Absent,
            offset => Place::Data(offset),
        }
    }

    /// Where the cluster with `offset` (bytes of the disk) is, and where the clusters of the same kind behind it end
    /// (at most `end`): without a place, or one after the other.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub(super) fn run(&self, file: &dyn ReadAt, offset: u64, end: u64) -> io::Result<(Place, u64)> {
        let (span, cluster) = (self.header.span(), self.header.cluster());
        let index = offset / span;
        // Cannot overflow: a span is at most 512 GiB, and a disk at most 2 TiB.
        let span_end = (index + 1) * span;
        let Some(table) = self.table(file, index)? else { return Ok((Place::Absent, end.min(span_end))) };
        let at = |offset: u64| {
            let number = usize::try_from(offset % span / cluster).unwrap_or(usize::MAX);
            table.get(number).map_or(Place::Absent, |entry| self.place_of(*entry))
        };
        let first = at(offset);
        let mut next = offset - offset % cluster + cluster;
        let mut expected = first;
        while next < end.min(span_end) {
            expected = match expected {
                Place::Data(host) => Place::Data(host + cluster),
                other => other,
            };
            if matches!(first, Place::Packed { .. }) || at(next) != expected {
                break;
            }
            next += cluster;
        }
        let first = match first {
            Place::Data(host) => Place::Data(host + offset % cluster),
            other => other,
        };
        Ok((first, next.min(end).min(span_end)))
    }

    fn table(&self, file: &dyn ReadAt, index: u64) -> io::Result<Option<Arc<Vec<u64>>>> {
        let offset = usize::try_from(index).ok().and_then(|index| self.l1.get(index)).copied().unwrap_or_default();
        if offset == 0 {
            return Ok(None);
        }
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = tables.iter().find(|(known, _)| *known == index) {
            return Ok(Some(Arc::clone(table)));
        }
        let table = Arc::new(words(file, offset, self.header.cluster())?);
        if tables.len() == TABLES {
            tables.pop_front();
        }
        tables.push_back((index, Arc::clone(&table)));
        Ok(Some(table))
    }
}

/// `size` bytes at `offset`, as numbers.
fn words(file: &dyn ReadAt, offset: u64, size: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_exact_at(offset, &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
}

/// What is known of the holes of a file, so that many tables in one hole cost one system call.
struct Holes<'a> {
    file: &'a dyn ReadAt,
    /// Nothing but zeros.
    known: Range<u64>,
}

impl Holes<'_> {
    /// True if `size` bytes from `offset` on are in one.
    fn has(&mut self, offset: u64, size: u64) -> io::Result<bool> {
        if !self.known.contains(&offset) {
            let data = self.file.next_data(offset..self.file.size())?;
            self.known = offset..data.map_or(u64::MAX, |data| data.start);
        }
        Ok(offset.saturating_add(size) <= self.known.end)
    }
}

/// Which host clusters have an owner.
struct Taken {
    cluster_bits: u32,
    /// Number of clusters of the file.
    clusters: u64,
    /// Those that have exactly one.
    alone: Bits,
    /// Those of compressed clusters, which share.
    shared: Option<Bits>,
}

impl Taken {
    /// Takes the clusters of `size` bytes from `offset` on, which nothing else may have. `None` if it is not aligned, not
    /// in the file, or something has them.
    fn alone(&mut self, offset: u64, size: u64) -> Option<()> {
        let range = self.range(offset, size)?;
        if !offset.is_multiple_of(1 << self.cluster_bits) {
            return None;
        }
        for cluster in range {
            let free = !self.alone.set(cluster) && !self.shared.as_ref().is_some_and(|shared| shared.get(cluster));
            free.then_some(())?;
        }
        Some(())
    }

    /// Takes a part of clusters that other compressed clusters may have a part of.
    fn shared(&mut self, offset: u64, size: u64) -> Option<()> {
        // "The last cluster may be cut off": sectors beyond the end of the file are not there.
        for cluster in self.range(offset, 1)?.start..self.range(offset, size)?.end {
            if self.alone.get(cluster) {
                return None;
            }
            let clusters = self.clusters;
            self.shared.get_or_insert_with(|| Bits::new(clusters)).set(cluster);
        }
        Some(())
    }

    /// The clusters of `size` bytes from `offset` on, if they are in the file.
    fn range(&self, offset: u64, size: u64) -> Option<Range<u64>> {
        let end = offset.checked_add(size)?.checked_sub(1)? >> self.cluster_bits;
        (end < self.clusters).then_some(offset >> self.cluster_bits..end + 1)
    }
}

struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u64) -> Self {
        Self(vec![0; usize::try_from(count.div_ceil(64)).unwrap_or_default()])
    }

    fn get(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|at| self.0.get(at));
        word.is_some_and(|word| word >> (number % 64) & 1 != 0)
    }

    /// Sets a bit; returns whether it was set.
    fn set(&mut self, number: u64) -> bool {
        let was = self.get(number);
        if let Some(word) = usize::try_from(number / 64).ok().and_then(|at| self.0.get_mut(at)) {
            *word |= 1 << (number % 64);
        }
        was
    }
}
