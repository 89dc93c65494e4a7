//! A compressed disk: independent frames of 16 MiB each (what the compression calls a frame, member, stream or block),
//! which its own program reads like one.
//!
//! While a compressed image is decoded, its unchanged disk is compressed again ([`Recorder`], used by
//! [`crate::open::spool`]). After the change only the affected frames are compressed again, and all frames are
//! concatenated ([`write()`], used by [`crate::output`]): changed old data never reaches the output, and most of the
//! work is done before the change is known.

mod pool;

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use self::pool::{Frame, Pool, Sink};
use super::copy::{CopyJob, copy_range};
use super::patch::Patch;
use crate::container::Compression;
use crate::container::compression::{Packed, Part};
use crate::open::spool::is_zero;
use crate::progress::Work;

/// Number of bytes of the disk in one frame; the last frame has the remainder.
pub(crate) const FRAME: usize = 16 << 20;
/// The same as an offset type.
const STEP: u64 = 16 << 20;

/// The frames of a disk before its change.
pub(crate) struct Kept {
    compression: Compression,
    /// The concatenated frames. An unnamed file.
    file: File,
    parts: Vec<Part>,
}

impl Sink for Kept {
    fn take(&mut self, frame: Frame<'_>, size: usize) -> io::Result<()> {
        if let Frame::New(packed) = frame {
            self.file.write_all(&packed.bytes)?;
            self.parts.push(part(packed, size));
        }
        Ok(())
    }
}

/// A packed piece of `size` bytes of the disk.
fn part(packed: &Packed, size: usize) -> Part {
    Part { length: length(&packed.bytes), unpadded: packed.unpadded, size: u64::try_from(size).unwrap_or(u64::MAX) }
}

/// Compresses a disk while it is decoded.
pub(crate) struct Recorder(Pool<Kept>);

impl Recorder {
    /// Writes the frames into `file`, which is empty and unnamed.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn new(compression: Compression, file: File) -> io::Result<Self> {
        Pool::new(compression, Kept { compression, file, parts: Vec::new() }).map(Self)
    }

    /// A buffer of [`FRAME`] bytes.
    pub(crate) fn buffer(&mut self) -> Wiped {
        self.0.buffer(FRAME)
    }

    /// Takes the next [`FRAME`] bytes of the disk, or the remainder, in a buffer from [`Recorder::buffer`].
    ///
    /// # Errors
    /// If a frame cannot be compressed or written.
    pub(crate) fn take(&mut self, piece: Wiped, zero: bool) -> io::Result<()> {
        if !zero {
            return self.0.compress(piece);
        }
        let size = piece.len();
        self.0.return_buffer(piece);
        self.0.zeros(size)
    }

    /// Waits for the last frames.
    ///
    /// # Errors
    /// If a frame cannot be compressed or written.
    pub(crate) fn finish(self) -> io::Result<Kept> {
        self.0.finish()
    }
}

/// The destination of the frames of a changed disk.
struct FrameWriter<'a> {
    job: &'a CopyJob<'a>,
    to: &'a File,
    kept: Option<Arc<Kept>>,
    /// Where the next frame of `kept` begins.
    kept_at: u64,
    /// The frames written.
    parts: Vec<Part>,
}

impl Sink for FrameWriter<'_> {
    fn take(&mut self, frame: Frame<'_>, size: usize) -> io::Result<()> {
        let kept = self.kept.as_ref().and_then(|kept| Some((&kept.file, *kept.parts.get(self.parts.len())?)));
        match (frame, kept) {
            (Frame::New(packed), _) => {
                self.to.write_all(&packed.bytes)?;
                self.parts.push(part(packed, size));
            }
            (Frame::Known, Some((file, part))) => {
                copy_range(file, self.kept_at, part.length, self.to)?;
                self.parts.push(part);
            }
            (Frame::Known, None) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        self.kept_at = self.kept_at.saturating_add(kept.map_or(0, |(_, part)| part.length));
        let done = STEP.saturating_mul(u64::try_from(self.parts.len()).unwrap_or(u64::MAX));
        self.job.tell(Work::Compress, done.min(self.job.size))
    }
}

/// Writes the disk with `patch` over it to the empty file `to`, as `compression`. `kept` are the frames of the disk
/// without the patch, if there are any: frames that the patch does not affect are copied.
///
/// # Errors
/// `Io` if the disk cannot be read, or `to` cannot be written.
pub(crate) fn write(
    compression: Compression,
    job: &CopyJob<'_>,
    patch: &Patch<'_>,
    kept: Option<Arc<Kept>>,
    to: &File,
) -> Result<(), StorageError> {
    let count = job.size.div_ceil(STEP);
    let fits = |kept: &Arc<Kept>| kept.compression == compression && u64::try_from(kept.parts.len()) == Ok(count);
    let kept = kept.filter(fits);
    let writing = |e| job.writing(e);
    let mut file = to;
    file.write_all(compression.codec().head()).map_err(writing)?;
    let has_kept = kept.is_some();
    let mut pool =
        Pool::new(compression, FrameWriter { job, to, kept, kept_at: 0, parts: Vec::new() }).map_err(writing)?;
    for number in 0..count {
        // Cannot overflow: it starts inside the disk.
        let offset = number * STEP;
        let size = (job.size - offset).min(STEP);
        let touched = patch.touches(offset, size);
        let size_in_memory = usize::try_from(size).unwrap_or(FRAME);
        if has_kept && !touched {
            pool.known(size_in_memory).map_err(writing)?;
            continue;
        }
        let hole = job.from.next_data(offset..offset + size).map_err(|e| job.reading(e))?.is_none();
        if hole && !touched {
            pool.zeros(size_in_memory).map_err(writing)?;
            continue;
        }
        let mut piece = pool.buffer(size_in_memory);
        job.from.read_exact_at(offset, &mut piece).map_err(|e| job.reading(e))?;
        patch.lay_over(offset, &mut piece);
        if is_zero(&piece) {
            pool.return_buffer(piece);
            pool.zeros(size_in_memory).map_err(writing)?;
        } else {
            pool.compress(piece).map_err(writing)?;
        }
    }
    let parts = pool.finish().map_err(writing)?.parts;
    file.write_all(&compression.codec().tail(&parts)).map_err(writing)
}
