//! The disk of an image in chunks, in order, from a thread of its own: reading or decoding, and writing, overlap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;

use super::device::{Buffer, wide};
use super::stream::Stream;
use crate::device::ReadAt;
use crate::open::spool::is_zero;
use crate::sidecars::map::{BlockMap, Checked};

/// Bytes of the first chunk, which is written last. It has the partition table, and whatever makes a device look like
/// one that holds something.
pub(super) const HEAD: usize = 1 << 20;
/// Bytes of the others, but for the last.
pub(super) const CHUNK: usize = 4 << 20;
/// Runs of zeros are counted in units of this many bytes.
const PIECE: usize = 64 << 10;

/// A part of the disk.
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) size: usize,
    /// Its bytes; `None` if all are zero.
    pub(super) buffer: Option<Buffer>,
}

impl Chunk {
    /// Its bytes; empty if all are zero.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().and_then(|buffer| buffer.bytes().get(..self.size)).unwrap_or_default()
    }

    /// Its bytes, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(|| Buffer::new(CHUNK));
        buffer.bytes_mut().get_mut(..self.size).unwrap_or_default()
    }
}

/// What is read.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// A disk that can be read anywhere.
    Disk(&'a dyn ReadAt),
    /// One that comes out of a decoder.
    Stream(&'a Stream),
}

/// Where chunks go.
pub(super) struct Feed<'a> {
    to: SyncSender<Chunk>,
    /// Buffers that were written.
    free: Receiver<Buffer>,
    map: Option<Checked<'a>>,
    name: &'a str,
    /// Offset of the current chunk.
    offset: u64,
    filled: usize,
    /// Of the current chunk, once it has a byte that is not zero.
    buffer: Option<Buffer>,
}

impl<'a> Feed<'a> {
    pub(super) fn new(to: SyncSender<Chunk>, free: Receiver<Buffer>, map: Option<&'a BlockMap>, name: &'a str) -> Self {
        Self { to, free, map: map.map(BlockMap::checked), name, offset: 0, filled: 0, buffer: None }
    }

    /// Reads all of `source`, and returns its size in bytes. `done` counts the bytes of the disk, or those of the image
    /// file that are decoded.
    ///
    /// # Errors
    /// If the image cannot be read or decoded, or does not fit to its block map; `Interrupted`, as `Io`, once the
    /// receiver is gone.
    pub(super) fn run(mut self, source: Source<'_>, done: &AtomicU64) -> Result<u64, StorageError> {
        let size = match source {
            Source::Disk(disk) => self.read(disk, done)?,
            Source::Stream(stream) => {
                let watch = |taken| done.store(taken, Ordering::Relaxed);
                let size = stream.decode(&watch, &mut |_, bytes| self.put(bytes))?;
                if self.filled > 0 {
                    self.send()?;
                }
                size
            }
        };
        if let Some(map) = self.map.take() {
            map.finish(size).map_err(|why| self.differs(&why))?;
        }
        Ok(size)
    }

    fn read(&mut self, disk: &dyn ReadAt, done: &AtomicU64) -> Result<u64, StorageError> {
        let size = disk.size();
        while self.offset < size {
            let count = usize::try_from(size - self.offset).unwrap_or(usize::MAX).min(self.room());
            let end = self.offset.saturating_add(wide(count));
            let reading = |e| StorageError::io(format!("reading {} at byte {}", self.name, self.offset), e);
            let is_mapped = self.map.as_ref().is_none_or(|map| map.has(self.offset..end));
            if is_mapped && disk.next_data(self.offset..end).map_err(reading)?.is_some() {
                let mut buffer = self.spare();
                let bytes = buffer.bytes_mut().get_mut(..count).unwrap_or_default();
                disk.read_exact_at(self.offset, bytes).map_err(reading)?;
                self.buffer = Some(buffer);
            }
            self.filled = count;
            self.send()?;
            done.store(end, Ordering::Relaxed);
        }
        Ok(size)
    }

    /// Adds bytes of a stream; returns how many are not known to be zero.
    fn put(&mut self, mut bytes: &[u8]) -> Result<u64, StorageError> {
        let mut stored = 0_u64;
        while !bytes.is_empty() {
            let count = bytes.len().min(PIECE).min(self.room().saturating_sub(self.filled));
            let (piece, rest) = bytes.split_at(count);
            let zero = is_zero(piece);
            if !zero {
                stored = stored.saturating_add(length(piece));
                if self.buffer.is_none() {
                    let mut buffer = self.spare();
                    buffer.bytes_mut().get_mut(..self.filled).unwrap_or_default().fill(0);
                    self.buffer = Some(buffer);
                }
            }
            let end = self.filled.saturating_add(count);
            if let Some(to) = self.buffer.as_mut().and_then(|buffer| buffer.bytes_mut().get_mut(self.filled..end)) {
                to.copy_from_slice(piece);
            }
            self.filled = end;
            bytes = rest;
            if self.filled == self.room() {
                self.send()?;
            }
        }
        Ok(stored)
    }

    /// Size of the current chunk, in bytes, if it is not the last.
    fn room(&self) -> usize {
        if self.offset == 0 { HEAD } else { CHUNK }
    }

    /// A buffer, with anything in it.
    fn spare(&self) -> Buffer {
        // How many are made is bounded by how many chunks are on the way.
        self.free.try_recv().unwrap_or_else(|_| Buffer::new(CHUNK))
    }

    /// Sends the current chunk.
    fn send(&mut self) -> Result<(), StorageError> {
        let mut chunk = Chunk { offset: self.offset, size: self.filled, buffer: self.buffer.take() };
        if let Some(map) = self.map.as_mut() {
            let bytes = chunk.buffer.as_mut().and_then(|buffer| buffer.bytes_mut().get_mut(..chunk.size));
            let fits = map.take(chunk.offset, wide(chunk.size), bytes);
            fits.map_err(|why| self.differs(&why))?;
        }
        if is_zero(chunk.bytes()) {
            chunk.buffer = None;
        }
        self.offset = self.offset.saturating_add(wide(self.filled));
        self.filled = 0;
        self.to.send(chunk).map_err(|_| StorageError::io("writing", std::io::ErrorKind::Interrupted.into()))
    }

    fn differs(&self, why: &str) -> StorageError {
        StorageError::refused(
            format!("{}: {why}", self.name),
            "is one of the two older? remove the .bmap, or make both again",
        )
    }
}

/// A disk without what its block map leaves out, which reads as zeros.
pub(super) struct Mapped {
    pub(super) base: Arc<dyn ReadAt>,
    pub(super) map: Arc<BlockMap>,
}

impl ReadAt for Mapped {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.base.read_exact_at(offset, buf)?;
        self.map.clear(offset, buf);
        Ok(())
    }

    fn next_data(&self, range: std::ops::Range<u64>) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.base.next_data(range)
    }
}
