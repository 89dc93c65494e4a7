//! A tar that holds one disk, as Google Compute Engine takes it: `disk.raw`, usually as a sparse entry of old GNU form.
//! Used by [`crate::open::disk`], as a container around the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::text;

use super::edit::{Piece, ending};
use super::header::{self, BLOCK, Block, STEP};
use super::member::{Blocks, Kind, Member};
use super::records;
use super::sparse::{self, Written};
use super::tree::parts;
use super::write;
use crate::device::ReadAt;
use crate::open::spool::{is_zero, write_sparse};
use crate::output::copy::CopyJob;
use crate::output::patch::Patch;
use crate::progress::Work;

/// Maximum size of a disk, in bytes.
const MOST: u64 = 2 << 40;
/// Maximum number of entries.
const MOST_ENTRIES: usize = 1000;
/// Number of bytes read at a time.
const CHUNK: u64 = 1 << 20;
/// What is zero is left out in units of so many bytes at least: of larger ones, if a map would become too long.
const UNIT: u64 = 4096;

/// A tar with a disk.
pub(crate) struct TarDisk {
    device: Arc<dyn ReadAt>,
    /// The entry with the disk.
    member: Member,
    /// Offset behind the last entry.
    end: u64,
    name: String,
}

/// True if `head` is the start of a tar whose first file, at its top, has the name of a disk.
pub(crate) fn tells(head: &[u8]) -> bool {
    first_file(head).is_some_and(|name| {
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        !name.contains(&b'/') && [&b".raw"[..], b".img"].iter().any(|suffix| name.ends_with(suffix))
    })
}

/// The name of the first entry that is a file, if its header is in `head`.
fn first_file(head: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut long) = (0_usize, None);
    loop {
        let block = Block(head.get(at..)?.first_chunk().copied()?);
        if block.is_zero() || !block.is_sealed() {
            return None;
        }
        let data = at.checked_add(BLOCK)?;
        let size = usize::try_from(block.number(header::SIZE)?).ok()?;
        match block.kind() {
            b'x' | b'L' => {
                let content = head.get(data..data.checked_add(size)?)?;
                long = match block.kind() {
                    b'L' => content.split(|byte| *byte == 0).next().map(<[u8]>::to_vec),
                    _ => {
                        let records = records::parse(content)?;
                        let name = records::get(&records, "GNU.sparse.name").or(records::get(&records, "path"));
                        name.map(<[u8]>::to_vec)
                    }
                };
            }
            b'g' | b'5' | b'V' => long = None,
            b'0' | 0 | b'7' | b'S' => return Some(long.unwrap_or_else(|| block.name())),
            _ => return None,
        }
        at = data.checked_add(size.checked_next_multiple_of(BLOCK)?)?;
    }
}

impl TarDisk {
    /// Finds the disk in the tar in `device`.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged; `Unsupported` if it holds more than one file, or no disk; `Io`.
    pub(crate) fn open(device: Arc<dyn ReadAt>, name: &str) -> Result<Self, StorageError> {
        let refused = |what: String| {
            let hint = "unpack it (tar -xSf IMAGE), and name the disk";
            Err(StorageError::unsupported(format!("{name} is a tar {what}"), hint))
        };
        let mut blocks = Blocks::new(&*device);
        let (mut end, mut disk, mut count) = (0, None, 0);
        while let Some(member) = blocks.member(end).map_err(|error| super::with_name(name, error))? {
            end = member.end;
            count += 1;
            match member.kind {
                Kind::Directory | Kind::Label if count <= MOST_ENTRIES => {}
                Kind::File if disk.is_none() => disk = Some(member),
                _ => return refused("of a disk and of more".to_owned()),
            }
        }
        let Some(member) = disk else { return refused("without a disk".to_owned()) };
        if member.size() > MOST {
            return refused(format!("of a disk of over {}", text::size(MOST)));
        }
        Ok(Self { device, member, end, name: name.to_owned() })
    }

    /// Writes the disk to the empty file `to`; returns its size in bytes.
    ///
    /// # Errors
    /// `Io`, also if there is no space.
    pub(crate) fn decode(&self, to: &File) -> Result<u64, StorageError> {
        let reading = |e| StorageError::io(format!("reading {}", self.name), e);
        let writing = |e| StorageError::io(format!("writing the disk in {}", self.name), e);
        let mut chunk = Wiped::zeros(usize::try_from(CHUNK).unwrap_or(BLOCK));
        for (offset, from, size) in parts(&self.member) {
            let (mut at, end) = (from, from.saturating_add(size));
            while let Some(run) = self.device.next_data(at..end).map_err(reading)? {
                at = run.start;
                while at < run.end {
                    let piece = part(&mut chunk, run.end.saturating_sub(at));
                    self.device.read_exact_at(at, piece).map_err(reading)?;
                    write_sparse(to, offset.saturating_add(at.saturating_sub(from)), piece).map_err(writing)?;
                    at = at.saturating_add(length(piece));
                }
            }
        }
        to.set_len(self.member.size()).map_err(writing)?;
        Ok(self.member.size())
    }

    /// Writes the tar with the disk of `job`, and `patch` over it, to the empty file `to`: the entry in its own form, all
    /// else as it is.
    ///
    /// # Errors
    /// `Io`, also if there is no space; `Refused` if the disk has another size.
    pub(crate) fn encode(&self, job: &CopyJob<'_>, patch: &Patch<'_>, to: &File) -> Result<(), StorageError> {
        if job.size != self.member.size() {
            return Err(StorageError::refused("the disk has another size than in the tar", "is it the same?"));
        }
        let (header, parts) = match &self.member.map {
            None => (self.old(self.member.start..self.member.rest, job)?, vec![(0, job.size)]),
            Some(_) => {
                let parts = self.parts(job, patch)?;
                (self.sparse_header(&parts), parts)
            }
        };
        let before = self.old(0..self.member.start, job)?;
        to.write_all_at(&before, 0).map_err(|e| job.writing(e))?;
        to.write_all_at(&header, length(&before)).map_err(|e| job.writing(e))?;
        let mut at = length(&before).saturating_add(length(&header));
        let start = at;
        for (offset, size) in parts {
            write_part(job, patch, offset, size, (to, at))?;
            at = at.saturating_add(size);
        }
        // The data ends in a whole block: behind a map of version 1.0 it starts at one.
        at = start.saturating_add(at.saturating_sub(start).next_multiple_of(STEP));
        let rest = self.old(self.member.end..self.end, job)?;
        to.write_all_at(&rest, at).map_err(|e| job.writing(e))?;
        at = at.saturating_add(length(&rest));
        match ending(&*self.device, self.end, at)? {
            Piece::New(zeros) => at = at.saturating_add(length(&zeros)),
            Piece::Old(range) => {
                let tail = self.old(range, job)?;
                to.write_all_at(&tail, at).map_err(|e| job.writing(e))?;
                at = at.saturating_add(length(&tail));
            }
        }
        to.set_len(at).map_err(|e| job.writing(e))
    }

    /// The bytes of the old tar that stay: headers, and what follows the last entry.
    fn old(&self, range: std::ops::Range<u64>, job: &CopyJob<'_>) -> Result<Vec<u8>, StorageError> {
        let size = range.end.saturating_sub(range.start);
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= MOST_OLD) else {
            let what = format!("{} has {} besides its disk", self.name, text::size(size));
            return Err(StorageError::unsupported(what, "unpack it (tar -xSf IMAGE), and name the disk"));
        };
        let mut bytes = vec![0; size];
        self.device.read_exact_at(range.start, &mut bytes).map_err(|e| job.reading(e))?;
        Ok(bytes)
    }

    /// The parts of the changed disk that are not zero.
    fn parts(&self, job: &CopyJob<'_>, patch: &Patch<'_>) -> Result<Vec<(u64, u64)>, StorageError> {
        let mut unit = UNIT;
        loop {
            if let Some(parts) = runs(job, patch, unit)? {
                return Ok(parts);
            }
            unit = unit.saturating_mul(16).min(CHUNK);
        }
    }

    /// The header of the entry with these parts, and the map with it.
    fn sparse_header(&self, parts: &[(u64, u64)]) -> Vec<u8> {
        let member = &self.member;
        let stored = parts.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        let mut all = parts.to_vec();
        // GNU tar marks the end of a file that ends in a hole so.
        if all.last().is_none_or(|(offset, size)| offset.saturating_add(*size) < member.size()) {
            all.push((member.size(), 0));
        }
        let mut block = member.block.clone();
        if block.kind() == b'S' {
            let blocks = sparse::put_gnu(&mut block, &all);
            return [write::resized(member, block, stored, member.records.clone()), blocks].concat();
        }
        let Written { records, leading } = sparse::put_pax(&member.records, &all);
        let stored = stored.saturating_add(length(&leading));
        [write::resized(member, block, stored, records), leading].concat()
    }
}

/// Maximum number of bytes of a tar besides the disk.
const MOST_OLD: usize = 16 << 20;

/// The runs of the disk with `patch` over it that are not zero, in units of `unit` bytes. `None` if there are too many.
fn runs(job: &CopyJob<'_>, patch: &Patch<'_>, unit: u64) -> Result<Option<Vec<(u64, u64)>>, StorageError> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let unit = usize::try_from(unit).unwrap_or(BLOCK);
    let mut chunk = Wiped::zeros(usize::try_from(CHUNK).unwrap_or(BLOCK));
    let mut at = 0;
    while at < job.size {
        let piece = part(&mut chunk, job.size.saturating_sub(at));
        if read_piece(job, patch, at, piece)? {
            for block in piece.chunks(unit) {
                let size = length(block);
                if !is_zero(block) {
                    match runs.last_mut() {
                        Some((start, sum)) if start.saturating_add(*sum) == at => *sum = sum.saturating_add(size),
                        _ => runs.push((at, size)),
                    }
                }
                at = at.saturating_add(size);
            }
            if runs.len() >= sparse::MOST_PARTS && u64::try_from(unit).is_ok_and(|unit| unit < CHUNK) {
                return Ok(None);
            }
        } else {
            at = at.saturating_add(length(piece));
        }
    }
    Ok(Some(runs))
}

/// Fills `piece` with the disk at `at`, `patch` over it. False if all of it is a hole.
fn read_piece(job: &CopyJob<'_>, patch: &Patch<'_>, at: u64, piece: &mut [u8]) -> Result<bool, StorageError> {
    let size = length(piece);
    let data = job.from.next_data(at..at.saturating_add(size)).map_err(|e| job.reading(e))?;
    if data.is_none() && !patch.touches(at, size) {
        return Ok(false);
    }
    job.from.read_exact_at(at, piece).map_err(|e| job.reading(e))?;
    patch.lay_over(at, piece);
    Ok(true)
}

/// Writes `size` bytes of the disk from `offset` on to a place in a file.
fn write_part(
    job: &CopyJob<'_>,
    patch: &Patch<'_>,
    offset: u64,
    size: u64,
    (to, place): (&File, u64),
) -> Result<(), StorageError> {
    let mut chunk = Wiped::zeros(usize::try_from(size.min(CHUNK)).unwrap_or(BLOCK));
    let mut done = 0;
    while done < size {
        let piece = part(&mut chunk, size.saturating_sub(done));
        if read_piece(job, patch, offset.saturating_add(done), piece)? {
            write_sparse(to, place.saturating_add(done), piece).map_err(|e| job.writing(e))?;
        }
        done = done.saturating_add(length(piece));
        job.tell(Work::Copy, offset.saturating_add(done)).map_err(|e| job.writing(e))?;
    }
    Ok(())
}

/// The first `left` bytes of the buffer, or all of it.
fn part(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    // OK to index: it is at most the length.
    &mut buffer[..count]
}
