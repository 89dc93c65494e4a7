//! Writes the chunks of a disk to a device, and reads them back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread;

use deaddrop_core::error::StorageError;
use deaddrop_core::sys;

use super::Job;
use super::device::{ALIGNMENT, BLOCK, Buffer, Device, wide};
use super::feed::{CHUNK, Chunk, Feed, Source};
use crate::open::spool::is_zero;
use crate::output::patch::Patch;
use crate::progress::{Progress, Work};

/// Chunks that wait to be written, at most.
const WAITING: usize = 2;
/// Bytes of the end of an image that are written after the rest: they have the backup of its table.
const TAIL: u64 = 1 << 20;

/// A part of the device that was written.
pub(super) struct Piece {
    offset: u64,
    size: usize,
    /// CRC-32C of its bytes; `None` if they are zeros.
    checksum: Option<u32>,
}

/// A disk that is on the device but for its head and its tail.
pub(super) struct Body {
    /// Bytes of the disk.
    pub(super) size: u64,
    pub(super) pieces: Vec<Piece>,
    /// The first bytes of the disk.
    pub(super) head: Buffer,
    /// The last bytes, from `tail_offset` on.
    pub(super) tail: Buffer,
    pub(super) tail_offset: u64,
}

impl Body {
    pub(super) fn head(&self) -> &[u8] {
        self.head.bytes()
    }

    pub(super) fn head_mut(&mut self) -> &mut [u8] {
        self.head.bytes_mut()
    }

    pub(super) fn tail(&self) -> &[u8] {
        self.tail.bytes()
    }

    pub(super) fn tail_mut(&mut self) -> &mut [u8] {
        self.tail.bytes_mut()
    }
}

/// The error for a signal that is deferred.
pub(super) fn stop_on_signal(device: &Device) -> Result<(), StorageError> {
    match sys::is_deferred() {
        true => Err(StorageError::refused(format!("writing {} was stopped by a signal", device.name()), "")),
        false => Ok(()),
    }
}

/// Writes all of `source` but its head and its tail, with `patch` over it.
pub(super) fn write(
    device: &mut Device,
    job: &Job<'_>,
    source: Source<'_>,
    patch: &Patch<'_>,
) -> Result<Body, StorageError> {
    let (to, chunks) = sync_channel(WAITING);
    let (give_back, free) = channel();
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        let feed = Feed::new(to, free, job.map, job.name);
        let done = &done;
        let reader = scope.spawn(move || feed.run(source, done));
        let mut writer = Writer { device, patch, give_back, pieces: Vec::new() };
        let mut head = None;
        // The tail is of these: the last one may be short.
        let mut held: VecDeque<Chunk> = VecDeque::new();
        let mut take = |chunk: Chunk| {
            stop_on_signal(writer.device)?;
            let end = chunk.offset.saturating_add(wide(chunk.size));
            if end > writer.device.size() {
                return Err(too_small(writer.device, job.name));
            }
            if chunk.offset == 0 {
                head = Some(chunk);
                return Ok(());
            }
            held.push_back(chunk);
            if held.len() > 2 {
                held.pop_front().map_or(Ok(()), |chunk| writer.write(chunk))?;
            }
            let done = if job.of_disk { end } else { done.load(Ordering::Relaxed) };
            (job.watch)(Progress { work: Work::Flash, done, total: job.total.max(done) });
            Ok(())
        };
        let taken = chunks.iter().try_for_each(&mut take);
        // The reader stops at its next chunk.
        drop(chunks);
        let read = reader.join().unwrap_or_else(|_| Err(StorageError::corrupt("the reader of the image failed")));
        taken?;
        let size = read?;
        let head = head.ok_or_else(|| StorageError::corrupt(format!("{} is empty", job.name)))?;
        let (tail_offset, tail) = writer.finish(held, size)?;
        let mut body = Body { size, pieces: writer.pieces, head: Buffer::new(head.size), tail, tail_offset };
        // Copied into a buffer of its own: that of the chunk is larger.
        body.head_mut().get_mut(..head.bytes().len()).unwrap_or_default().copy_from_slice(head.bytes());
        patch.lay_over(0, body.head_mut());
        patch.lay_over(tail_offset, body.tail_mut());
        (job.watch)(Progress { work: Work::Flash, done: job.total, total: job.total });
        Ok(body)
    })
}

pub(super) fn too_small(device: &Device, image: &str) -> StorageError {
    StorageError::refused(
        format!(
            "{image} does not fit: {} has {} bytes ({})",
            device.name(),
            device.size(),
            deaddrop_core::text::size(device.size())
        ),
        "take a larger one",
    )
}

struct Writer<'a> {
    device: &'a mut Device,
    patch: &'a Patch<'a>,
    give_back: Sender<Buffer>,
    pieces: Vec<Piece>,
}

impl Writer<'_> {
    fn write(&mut self, mut chunk: Chunk) -> Result<(), StorageError> {
        let (offset, size) = (chunk.offset, chunk.size);
        if self.patch.touches(offset, wide(size)) {
            self.patch.lay_over(offset, chunk.bytes_mut());
        }
        if chunk.buffer.is_none() {
            self.device.zero(offset, wide(size))?;
        } else {
            self.device.write(offset, chunk.bytes())?;
        }
        let checksum = chunk.buffer.is_some().then(|| crc32c::crc32c(chunk.bytes()));
        self.pieces.push(Piece { offset, size, checksum });
        if let Some(buffer) = chunk.buffer.take() {
            // The reader may have ended: then it is dropped.
            let _ = self.give_back.send(buffer);
        }
        Ok(())
    }

    /// Writes what is held but for the tail, which is returned with its offset.
    fn finish(&mut self, held: VecDeque<Chunk>, size: u64) -> Result<(u64, Buffer), StorageError> {
        let start = held.front().map_or(size, |chunk| chunk.offset);
        let tail_offset = (size.saturating_sub(TAIL) / BLOCK * BLOCK).max(start);
        let tail_size = usize::try_from(size.saturating_sub(tail_offset)).unwrap_or(0);
        let mut tail = Buffer::new(tail_size);
        for mut chunk in held {
            let keep = usize::try_from(tail_offset.saturating_sub(chunk.offset)).unwrap_or(usize::MAX).min(chunk.size);
            let rest = chunk.bytes().get(keep..).unwrap_or_default();
            let to = chunk.offset.saturating_add(wide(keep)).saturating_sub(tail_offset);
            let to = usize::try_from(to).unwrap_or(usize::MAX);
            if let Some(to) = tail.bytes_mut().get_mut(to..to.saturating_add(rest.len())) {
                to.copy_from_slice(rest);
            }
            chunk.size = keep;
            if keep > 0 {
                self.write(chunk)?;
            }
        }
        Ok((tail_offset, tail))
    }
}

/// Lays `patch` over what is on the device; what is written again is first read and compared.
pub(super) fn amend(device: &mut Device, body: &mut Body, patch: &Patch<'_>) -> Result<(), StorageError> {
    let mut buffer = Buffer::new(CHUNK);
    for piece in body.pieces.iter_mut().filter(|piece| patch.touches(piece.offset, wide(piece.size))) {
        stop_on_signal(device)?;
        compare(device, piece, &mut buffer)?;
        let bytes = buffer.bytes_mut().get_mut(..piece.size).unwrap_or_default();
        patch.lay_over(piece.offset, bytes);
        piece.checksum = Some(crc32c::crc32c(bytes));
        let is_changed = |at: usize| {
            let size = ALIGNMENT.min(piece.size.saturating_sub(at));
            patch.touches(piece.offset.saturating_add(wide(at)), wide(size))
        };
        let mut at = 0;
        while at < piece.size {
            // A run of blocks with a change in each, or of others.
            let changed = is_changed(at);
            let mut end = at;
            while end < piece.size && is_changed(end) == changed {
                end = end.saturating_add(ALIGNMENT);
            }
            let run = buffer.bytes().get(at..end.min(piece.size)).unwrap_or_default();
            if changed {
                device.write(piece.offset.saturating_add(wide(at)), run)?;
            }
            at = end;
        }
    }
    let tail_offset = body.tail_offset;
    patch.lay_over(0, body.head_mut());
    patch.lay_over(tail_offset, body.tail_mut());
    Ok(())
}

/// Reads a piece, and compares it with its checksum.
fn compare(device: &Device, piece: &Piece, buffer: &mut Buffer) -> Result<(), StorageError> {
    let bytes = buffer.bytes_mut().get_mut(..piece.size).unwrap_or_default();
    device.read(piece.offset, bytes)?;
    judge(device, piece, bytes)
}

fn judge(device: &Device, piece: &Piece, bytes: &[u8]) -> Result<(), StorageError> {
    let same = match piece.checksum {
        Some(checksum) => crc32c::crc32c(bytes) == checksum,
        None => is_zero(bytes),
    };
    if same { Ok(()) } else { Err(differs(device, piece.offset, piece.size)) }
}

/// The error for a device that does not hold what was written.
pub(super) fn differs(device: &Device, offset: u64, size: usize) -> StorageError {
    StorageError::refused(
        format!(
            "{} does not hold what was written to it: it gives other bytes back, at byte {offset} or in the {size} \
             bytes from there",
            device.name()
        ),
        "take another device: this one is broken, or smaller than it says",
    )
}

/// Reads everything back past the page cache, and compares it: with `patch`, the rest by its checksums.
pub(super) fn read_back(device: &Device, job: &Job<'_>, body: &Body, patch: &Patch<'_>) -> Result<(), StorageError> {
    let (to, read) = sync_channel::<Buffer>(WAITING);
    let (give_back, free) = channel::<Buffer>();
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            for piece in &body.pieces {
                let mut buffer = free.try_recv().unwrap_or_else(|_| Buffer::new(CHUNK));
                device.read(piece.offset, buffer.bytes_mut().get_mut(..piece.size).unwrap_or_default())?;
                if to.send(buffer).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let mut judged = Ok(());
        for (piece, buffer) in body.pieces.iter().zip(read.iter()) {
            let bytes = buffer.bytes().get(..piece.size).unwrap_or_default();
            judged = stop_on_signal(device).and_then(|()| judge(device, piece, bytes)).and_then(|()| {
                match patch.is_in(piece.offset, bytes) {
                    true => Ok(()),
                    false => Err(differs(device, piece.offset, piece.size)),
                }
            });
            if judged.is_err() {
                break;
            }
            let done = piece.offset.saturating_add(wide(piece.size));
            (job.watch)(Progress { work: Work::ReadBack, done, total: body.tail_offset });
            // The reader may have ended: then it is dropped.
            let _ = give_back.send(buffer);
        }
        drop(read);
        let end = reader.join().unwrap_or_else(|_| Err(StorageError::corrupt("the reader of the device failed")));
        judged.and(end)
    })
}
