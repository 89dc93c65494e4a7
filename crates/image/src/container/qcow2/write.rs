//! Writes a disk as a new qcow2 file: qemu, docs/interop/qcow2.rst. What is zero has no place; the rest lies one after the
//! other in the order of the disk, with an L2 table behind what it maps. The refcounts come last, when all is placed, and
//! the header after them: a file that was cut off is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys;

use super::Qcow2;
use super::header::{Backing, COMPRESSION_TYPE, MAGIC};
use super::map::{COPIED, PACKED, Place, ZERO};
use crate::open::spool::is_zero;
use crate::output::copy::CopyJob;
use crate::output::patch::Patch;
use crate::progress::Work;

/// Bytes of the disk that are worked on at a time, if a cluster is not larger.
const CHUNK: u64 = 2 << 20;
/// Bytes after which the kernel is asked to write them to the disk.
const BEGIN: u64 = 8 << 20;
/// `header_length` of version 3, with `compression_type` and its padding.
const HEADER_LENGTH: u32 = 112;
/// Refcounts have 16 bits; fewer compressed clusters than that are put into one.
const MOST_SHARED: u16 = u16::MAX - 1;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// True if compressed clusters are zstd.
    pub(crate) zstd: bool,
}

impl Default for Shape {
    /// What `qemu-img create` makes.
    fn default() -> Self {
        Self { version: 3, cluster_bits: 16, zstd: false }
    }
}

/// Writes the disk of `job` with `patch` over it to the empty file `to`. Clusters that are compressed in `source`, which
/// is the same disk, stay so, but for those that the patch touches; others share their blocks where the file system can.
///
/// # Errors
/// `Io` if the disk cannot be read, or `to` cannot be written.
pub(crate) fn write(
    job: &CopyJob<'_>,
    patch: &Patch<'_>,
    source: Option<&Qcow2>,
    to: &File,
) -> Result<(), StorageError> {
    let shape = source.map_or_else(Shape::default, Qcow2::shape);
    let mut writer = Writer::new(shape, job, to);
    writer.shares = source.is_some_and(|source| source.shared.is_some());
    writer.write_tables(|writer, at, size, entries| {
        let touched = patch.touches(at, size);
        let data = job.from.next_data(at..at + size).map_err(|e| job.reading(e))?;
        // Else there is nothing that need not be read and written.
        let kept = source.filter(|source| source.map.has_packed() || writer.shares);
        match (data.is_some() || touched, kept) {
            (false, _) => Ok(()),
            (true, None) => writer.write_chunk(at, size, patch, entries),
            (true, Some(source)) => writer.write_each(at, size, patch, source, entries),
        }
    })
}

/// Writes an image of what differs from `backing`: what `patch` changes, and what `source`, which is the disk of `job` and
/// has the same backing file, has already.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_overlay(
    job: &CopyJob<'_>,
    patch: &Patch<'_>,
    source: Option<&Qcow2>,
    backing: &Backing,
    to: &File,
) -> Result<(), StorageError> {
    // Version 2 has no entry for zeros, which hide what the backing file has.
    let shape = Shape { version: 3, ..source.map_or_else(Shape::default, Qcow2::shape) };
    let mut writer = Writer::new(shape, job, to);
    writer.backing = Some(backing.clone());
    writer.write_tables(|writer, at, size, entries| writer.write_differing(at, size, patch, source, entries))
}

/// The file, and what of it is taken.
struct Writer<'a> {
    shape: Shape,
    job: &'a CopyJob<'a>,
    to: &'a File,
    /// Bytes of a cluster.
    cluster: u64,
    /// The first cluster that is free; all behind it are.
    next: u64,
    /// Refcounts of clusters with compressed ones in them; all others have one.
    shared: BTreeMap<u64, u16>,
    /// The free bytes for compressed clusters: start and end. The end is that of a cluster.
    room: (u64, u64),
    /// The image has only what differs from this file.
    backing: Option<Backing>,
    /// False once the file system has not let a cluster share its blocks with the source's.
    shares: bool,
    /// Bytes that the kernel was asked to write to the disk.
    begun: u64,
    /// That of the chunk before: to allocate and to wipe one each time costs more than to fill it.
    buffer: Option<Wiped>,
}

impl<'a> Writer<'a> {
    fn new(shape: Shape, job: &'a CopyJob<'a>, to: &'a File) -> Self {
        // The first cluster is the header's.
        let (cluster, shared) = (1 << shape.cluster_bits, BTreeMap::new());
        Self {
            shape,
            job,
            to,
            cluster,
            next: 1,
            shared,
            room: (0, 0),
            backing: None,
            shares: false,
            begun: 0,
            buffer: None,
        }
    }

    /// Writes the whole image; `write` writes what is to be written of a part of the disk (offset, size), and sets the
    /// entries from its first cluster on.
    fn write_tables(
        mut self,
        write: impl Fn(&mut Self, u64, u64, &mut [u64]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let (job, span) = (self.job, self.span());
        let mut l1 = vec![0_u64; usize::try_from(job.size.div_ceil(span)).unwrap_or(usize::MAX)];
        let l1_offset = self.take(length_of(&l1).div_ceil(self.cluster));
        for (index, entry) in l1.iter_mut().enumerate() {
            let start = u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(span);
            let end = start.saturating_add(span).min(job.size);
            let mut table = vec![0_u64; usize::try_from(self.cluster / 8).unwrap_or_default()];
            let mut at = start;
            while at < end {
                let size = (end - at).min(CHUNK.max(self.cluster));
                let first = usize::try_from((at - start) / self.cluster).unwrap_or(usize::MAX);
                write(&mut self, at, size, table.get_mut(first..).unwrap_or_default())?;
                at += size;
                self.begin_writing();
                job.tell(Work::Copy, at).map_err(|e| job.writing(e))?;
            }
            if table.iter().any(|entry| *entry != 0) {
                let offset = self.take(1);
                self.put(offset, &bytes_of(&table))?;
                *entry = offset | COPIED;
            }
        }
        self.put(l1_offset, &bytes_of(&l1))?;
        self.finish(l1_offset, l1.len())
    }

    /// Writes the clusters of a part of the disk that differ from the backing file.
    fn write_differing(
        &mut self,
        at: u64,
        size: u64,
        patch: &Patch<'_>,
        source: Option<&Qcow2>,
        entries: &mut [u64],
    ) -> Result<(), StorageError> {
        let (mut offset, end) = (at, at + size);
        while offset < end {
            let (place, run_end) = match source {
                Some(source) => source.place(offset, end).map_err(|e| self.job.reading(e))?,
                None => (Place::Absent, end),
            };
            let same = patch.untouched(offset, run_end - offset);
            let skipped = if run_end - offset == same { same } else { same / self.cluster * self.cluster };
            if matches!(place, Place::Absent) && skipped > 0 {
                offset += skipped;
                continue;
            }
            let count = self.cluster.min(end - offset);
            let index = usize::try_from((offset - at) / self.cluster).unwrap_or(usize::MAX);
            let entry = entries.get_mut(index..index.saturating_add(1)).unwrap_or_default();
            let buffer = self.read(offset, count, patch)?;
            if is_zero(&buffer) {
                entry.fill(ZERO);
            } else {
                let host = self.set_entries(1, entry);
                self.put(host, &buffer)?;
            }
            self.buffer = Some(buffer);
            offset += count;
        }
        Ok(())
    }

    /// Bytes of the disk that one L2 table maps.
    fn span(&self) -> u64 {
        // At most 21 bits twice.
        self.cluster * (self.cluster / 8)
    }

    /// Takes the next `count` clusters; returns their offset.
    fn take(&mut self, count: u64) -> u64 {
        let offset = self.next << self.shape.cluster_bits;
        self.next = self.next.saturating_add(count);
        offset
    }

    /// The disk works while the next chunks are read.
    fn begin_writing(&mut self) {
        let done = self.next << self.shape.cluster_bits;
        if done.saturating_sub(self.begun) >= BEGIN {
            sys::begin_writing(self.to, self.begun, done - self.begun);
            self.begun = done;
        }
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.to.write_all_at(bytes, offset).map_err(|e| self.job.writing(e))
    }

    /// `size` bytes of the changed disk from `at` on, filled up to whole clusters.
    fn read(&mut self, at: u64, size: u64, patch: &Patch<'_>) -> Result<Wiped, StorageError> {
        let whole = usize::try_from(size.next_multiple_of(self.cluster)).unwrap_or_default();
        let before = self.buffer.take().filter(|buffer| buffer.len() == whole);
        let mut buffer = before.unwrap_or_else(|| Wiped::zeros(whole));
        let (part, rest) = buffer.split_at_mut(usize::try_from(size).unwrap_or_default().min(whole));
        rest.fill(0);
        self.job.from.read_exact_at(at, part).map_err(|e| self.job.reading(e))?;
        patch.lay_over(at, part);
        Ok(buffer)
    }

    /// Writes what is not zero of `size` bytes of the disk from `at` on, and sets the clusters' entries.
    fn write_chunk(&mut self, at: u64, size: u64, patch: &Patch<'_>, entries: &mut [u64]) -> Result<(), StorageError> {
        let buffer = self.read(at, size, patch)?;
        let cluster = usize::try_from(self.cluster).unwrap_or(usize::MAX);
        let mut rest = buffer.as_slice();
        let mut number = 0_usize;
        while !rest.is_empty() {
            let count = |zero: bool| rest.chunks(cluster).take_while(|piece| is_zero(piece) == zero).count();
            let (zeros, data) = (count(true), count(false));
            let (run, more) = rest.split_at(data.saturating_mul(cluster).min(rest.len()));
            if data > 0 {
                let taken = entries.get_mut(number..number.saturating_add(data)).unwrap_or_default();
                let offset = self.set_entries(u64::try_from(data).unwrap_or(u64::MAX), taken);
                self.put(offset, run)?;
                rest = more;
            } else {
                rest = rest.get(zeros.saturating_mul(cluster)..).unwrap_or_default();
            }
            // One of the two is 0.
            number = number.saturating_add(zeros).saturating_add(data);
        }
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Like [`Writer::write_chunk`], for a disk of which some clusters are compressed in `source`, or may share its
    /// blocks.
    fn write_each(
        &mut self,
        at: u64,
        size: u64,
        patch: &Patch<'_>,
        source: &Qcow2,
        entries: &mut [u64],
    ) -> Result<(), StorageError> {
        let (mut offset, end) = (at, at + size);
        let mut rest = entries;
        while offset < end {
            let (place, run_end) = source.place(offset, end).map_err(|e| self.job.reading(e))?;
            let count = match place {
                Place::Packed { .. } => self.cluster,
                // Without the clusters that change, most of the run stays as it is.
                _ if self.shares => patch.untouched(offset, run_end - offset) / self.cluster * self.cluster,
                _ => run_end - offset,
            };
            let count = count.clamp(self.cluster, end.next_multiple_of(self.cluster) - offset).min(end - offset);
            let clusters = usize::try_from(count.div_ceil(self.cluster)).unwrap_or(usize::MAX).min(rest.len());
            let (run, more) = rest.split_at_mut(clusters);
            match place {
                _ if patch.touches(offset, count) => self.write_chunk(offset, count, patch, run)?,
                Place::Zero => {}
                Place::Absent if source.backing.is_none() => {}
                Place::Packed { .. } => self.write_packed(offset, count, patch, source, run)?,
                Place::Data(host) if self.share(host, source, run) => {}
                _ => self.write_chunk(offset, count, patch, run)?,
            }
            (offset, rest) = (offset + count, more);
        }
        Ok(())
    }

    /// Copies a compressed cluster, unless it is zero or not smaller than the others.
    fn write_packed(
        &mut self,
        at: u64,
        size: u64,
        patch: &Patch<'_>,
        source: &Qcow2,
        entries: &mut [u64],
    ) -> Result<(), StorageError> {
        match (source.packed(at).map_err(|e| self.job.reading(e))?, entries) {
            (Some((_, content)), _) if is_zero(&content) => Ok(()),
            (Some((bytes, _)), [entry]) if length(&bytes) < self.cluster => {
                *entry = self.put_packed(&bytes)?;
                Ok(())
            }
            (_, entries) => self.write_chunk(at, size, patch, entries),
        }
    }

    /// Lets clusters share the blocks of the source's, from `host` on. Returns false if the file system cannot.
    fn share(&mut self, host: u64, source: &Qcow2, entries: &mut [u64]) -> bool {
        let Some(from) = source.shared.as_ref().filter(|_| self.shares) else { return false };
        let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let size = count.saturating_mul(self.cluster);
        let to = self.next << self.shape.cluster_bits;
        // A last cluster that is cut off in the file is read and written.
        if host.saturating_add(size) > source.file.size() {
            return false;
        }
        if sys::reflink_range(from, host, size, self.to, to).is_err() {
            self.shares = false;
            return false;
        }
        self.set_entries(count, entries);
        true
    }

    /// Takes the next clusters for `entries`; returns their offset.
    fn set_entries(&mut self, count: u64, entries: &mut [u64]) -> u64 {
        let offset = self.take(count);
        for (index, entry) in entries.iter_mut().enumerate() {
            let index = u64::try_from(index).unwrap_or(u64::MAX);
            *entry = offset.saturating_add(index.saturating_mul(self.cluster)) | COPIED;
        }
        offset
    }

    /// Writes a compressed cluster; returns its entry. "Compressed Clusters Descriptor".
    fn put_packed(&mut self, bytes: &[u8]) -> Result<u64, StorageError> {
        let size = length(bytes);
        let (start, end) = self.room;
        let crowded = self.shared.get(&(start >> self.shape.cluster_bits)).is_some_and(|count| *count >= MOST_SHARED);
        if end - start < size || crowded {
            let joined = end == self.next << self.shape.cluster_bits && !crowded;
            let new = self.take(1);
            // Less than a cluster: with one more there is room.
            self.room = (if joined { start } else { new }, new.saturating_add(self.cluster));
        }
        let at = self.room.0;
        self.put(at, bytes)?;
        self.room.0 = at.saturating_add(size);
        let last = at.saturating_add(size).saturating_sub(1);
        for cluster in at >> self.shape.cluster_bits..=last >> self.shape.cluster_bits {
            *self.shared.entry(cluster).or_default() += 1;
        }
        let sectors = (last / 512).saturating_sub(at / 512);
        // As in `Map::place_of`.
        let bits = 70_u32.saturating_sub(self.shape.cluster_bits);
        Ok(PACKED | sectors << bits | at)
    }

    /// Writes the refcounts ("Host cluster management") and the header.
    fn finish(mut self, l1_offset: u64, l1_entries: usize) -> Result<(), StorageError> {
        let per_block = self.cluster / 2;
        // Blocks and their table have refcounts too.
        let (mut blocks, mut tables) = (0, 0);
        loop {
            let all = self.next.saturating_add(blocks).saturating_add(tables);
            let (more, table) = (all.div_ceil(per_block), (all.div_ceil(per_block) * 8).div_ceil(self.cluster));
            if (more, table) == (blocks, tables) {
                break;
            }
            (blocks, tables) = (more, table);
        }
        let first = self.take(blocks);
        let table_offset = self.take(tables);
        let mut table = Vec::new();
        for number in 0..blocks {
            let offset = first.saturating_add(number.saturating_mul(self.cluster));
            table.push(offset);
            let clusters = number.saturating_mul(per_block)..(number + 1).saturating_mul(per_block);
            let mut block = Vec::new();
            for cluster in clusters {
                let count = if cluster < self.next { self.shared.get(&cluster).copied().unwrap_or(1) } else { 0 };
                block.extend_from_slice(&count.to_be_bytes());
            }
            self.put(offset, &block)?;
        }
        self.put(table_offset, &bytes_of(&table))?;
        self.to.set_len(self.next << self.shape.cluster_bits).map_err(|e| self.job.writing(e))?;
        let header = self.header(l1_offset, l1_entries, table_offset, tables);
        self.put(0, &header.map_err(|e| self.job.writing(e))?)
    }

    fn header(&self, l1_offset: u64, l1_entries: usize, table_offset: u64, tables: u64) -> io::Result<Vec<u8>> {
        let word = |number: u64| u32::try_from(number).map(u32::to_be_bytes).map_err(io::Error::other);
        let mut header = MAGIC.to_vec();
        header.extend(self.shape.version.to_be_bytes());
        // Behind the header extensions: the offset and the length of the backing file's name.
        let extensions = self.backing.as_ref().map(Backing::extensions).unwrap_or_default();
        let name = self.backing.as_ref().map_or(&[][..], |backing| &backing.name);
        let name_offset = u64::from(HEADER_LENGTH).saturating_add(length(&extensions));
        header.extend(if name.is_empty() { 0 } else { name_offset }.to_be_bytes());
        header.extend(word(length(name))?);
        header.extend(self.shape.cluster_bits.to_be_bytes());
        // qemu's disks have whole sectors.
        header.extend(self.job.size.next_multiple_of(512).to_be_bytes());
        // Not encrypted.
        header.extend([0; 4]);
        header.extend(word(u64::try_from(l1_entries).map_err(io::Error::other)?)?);
        header.extend(l1_offset.to_be_bytes());
        header.extend(table_offset.to_be_bytes());
        header.extend(word(tables)?);
        // No snapshots.
        header.extend([0; 12]);
        if self.shape.version > 2 {
            let incompatible = if self.shape.zstd { COMPRESSION_TYPE } else { 0 };
            header.extend(incompatible.to_be_bytes());
            // Neither compatible nor autoclear features.
            header.extend([0; 16]);
            // `refcount_order`: 16 bits.
            header.extend(4_u32.to_be_bytes());
            header.extend(HEADER_LENGTH.to_be_bytes());
            header.extend([u8::from(self.shape.zstd), 0, 0, 0, 0, 0, 0, 0]);
            header.extend(extensions);
            header.extend(name);
        }
        Ok(header)
    }
}

fn length_of(words: &[u64]) -> u64 {
    u64::try_from(words.len()).unwrap_or(u64::MAX).saturating_mul(8)
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}
