//! How the bytes of a disk get into another file: shared, copied with its holes, or compressed.
//! Called by [`super::output`] only, which knows where and why.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::thread;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use zeroize::Zeroizing;
use zstd::stream::write::Encoder;

use super::bytes::length;
use super::device::next_data;
use super::error::ImageError;
use super::patch::Patch;
use super::progress::{Step, Watch, Work};
use super::spool::write_sparse;
use crate::sys;

/// Bytes that are moved at a time.
const CHUNK: usize = 1 << 20;
/// zstd's default level, which nixpkgs takes for its images too.
const LEVEL: i32 = 3;

/// A disk to be copied: an open file, its size in bytes, and the names of it and of where it goes, for messages.
pub(super) struct Job<'a> {
    pub(super) from: &'a File,
    pub(super) size: u64,
    pub(super) from_name: &'a str,
    pub(super) to_name: &'a str,
    pub(super) watch: Watch<'a>,
}

impl Job<'_> {
    fn reading(&self, error: io::Error) -> ImageError {
        ImageError::io(format!("reading {}", self.from_name), error)
    }

    pub(super) fn writing(&self, error: io::Error) -> ImageError {
        ImageError::io(format!("writing {}", self.to_name), error)
    }

    fn tell(&self, work: Work, done: u64) {
        (self.watch)(Step { work, done, total: self.size });
    }

    /// Makes the empty file `to` the same disk: by sharing blocks where the file system can, else by copying what is
    /// neither a hole nor zero. Returns the bytes copied; none when the blocks are shared.
    pub(super) fn copy(&self, to: &File) -> Result<Option<u64>, ImageError> {
        if sys::reflink(self.from, to).is_ok() {
            return Ok(None);
        }
        let mut buffer = Zeroizing::new(vec![0; CHUNK]);
        let mut copied = 0_u64;
        let mut offset = 0;
        while let Some(run) = next_data(self.from, offset..self.size).map_err(|e| self.reading(e))? {
            offset = run.start;
            while offset < run.end {
                let chunk = part(&mut buffer, run.end - offset);
                self.from.read_exact_at(chunk, offset).map_err(|e| self.reading(e))?;
                copied = copied.saturating_add(write_sparse(to, offset, chunk).map_err(|e| self.writing(e))?);
                offset = offset.saturating_add(length(chunk));
                self.tell(Work::Copy, offset);
            }
        }
        to.set_len(self.size).map_err(|e| self.writing(e))?;
        self.tell(Work::Copy, self.size);
        Ok(Some(copied))
    }

    /// Writes the disk with `patch` over it to `to`, as one zstd frame with its size and a checksum.
    pub(super) fn compress(&self, patch: &Patch<'_>, to: &File) -> Result<(), ImageError> {
        let mut encoder = self.encoder(to).map_err(|e| self.writing(e))?;
        let mut buffer = Zeroizing::new(vec![0; CHUNK]);
        let zeros = vec![0; CHUNK];
        let mut offset = 0;
        // The run of data that is in reach; none when only a hole is left.
        let mut run = Some(0..0);
        while offset < self.size {
            if run.as_ref().is_some_and(|run| run.end <= offset) {
                run = next_data(self.from, offset..self.size).map_err(|e| self.reading(e))?;
            }
            let chunk = part(&mut buffer, self.size - offset);
            let (size, count) = (length(chunk), chunk.len());
            let in_a_hole = run.as_ref().is_none_or(|run| run.start >= offset.saturating_add(size));
            let bytes = if in_a_hole && !patch.touches(offset, size) {
                // OK to index: both buffers have CHUNK bytes.
                &zeros[..count]
            } else {
                self.from.read_exact_at(chunk, offset).map_err(|e| self.reading(e))?;
                patch.lay_over(offset, chunk);
                chunk
            };
            encoder.write_all(bytes).map_err(|e| self.writing(e))?;
            offset = offset.saturating_add(size);
            self.tell(Work::Compress, offset);
        }
        let mut writer = encoder.finish().map_err(|e| self.writing(e))?;
        writer.flush().map_err(|e| self.writing(e))
    }

    fn encoder<'b>(&self, to: &'b File) -> io::Result<Encoder<'static, BufWriter<&'b File>>> {
        let mut encoder = Encoder::new(BufWriter::with_capacity(CHUNK, to), LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(self.size))?;
        encoder.multithread(workers())?;
        Ok(encoder)
    }
}

/// The first `left` bytes of the buffer, or all of it.
fn part(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    &mut buffer[..count]
}

/// One worker a core, but no more than the address space has room for: each takes a job of 8 MiB, a stack, and an arena
/// of the C library.
fn workers() -> u32 {
    const EACH: u64 = 160 << 20;
    const OURS: u64 = 200 << 20;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let room = match getrlimit(Resource::RLIMIT_AS) {
        Ok((limit, _)) if limit != RLIM_INFINITY => limit.saturating_sub(OURS) / EACH,
        _ => u64::MAX,
    };
    let workers = u64::try_from(cores).unwrap_or(1).min(room).max(1);
    u32::try_from(workers).unwrap_or(1)
}
