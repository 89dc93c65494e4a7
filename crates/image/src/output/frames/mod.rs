//! A disk as zstd: independent frames of 16 MiB each, with their size and a checksum. `zstd -d` reads them like one.
//!
//! While a compressed image is decoded, its unchanged disk is compressed again ([`Recorder`], used by
//! [`crate::open::spool`]). After the change only the affected frames are compressed again, and all frames are
//! concatenated ([`write()`], used by [`crate::output`]): changed old data never reaches the output, and most of the
//! work is done before the change is known.

mod pool;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys;

use self::pool::{Frame, Pool, Sink};
use super::copy::CopyJob;
use super::patch::Patch;
use crate::open::spool::is_zero;
use crate::progress::Work;

/// Number of bytes of the disk in one frame; the last frame has the remainder.
pub(crate) const FRAME: usize = 16 << 20;
/// The same as an offset type.
const STEP: u64 = 16 << 20;

/// The frames of a disk before its change.
pub(crate) struct Kept {
    /// The concatenated frames. An unnamed file.
    file: File,
    /// Length of each frame, in bytes.
    lengths: Vec<u64>,
}

impl Sink for Kept {
    fn take(&mut self, frame: Frame<'_>) -> io::Result<()> {
        if let Frame::New(bytes) = frame {
            self.file.write_all(bytes)?;
            self.lengths.push(length(bytes));
        }
        Ok(())
    }
}

/// Compresses a disk while it is decoded.
pub(crate) struct Recorder(Pool<Kept>);

impl Recorder {
    /// Writes the frames into `file`, which is empty and unnamed.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        Pool::new(Kept { file, lengths: Vec::new() }).map(Self)
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
    kept: Option<Kept>,
    /// Number of frames written.
    done: usize,
}

impl Sink for FrameWriter<'_> {
    fn take(&mut self, frame: Frame<'_>) -> io::Result<()> {
        let kept = self.kept.as_ref().and_then(|kept| Some((&kept.file, *kept.lengths.get(self.done)?)));
        match (frame, kept) {
            (Frame::New(bytes), None) => self.to.write_all(bytes)?,
            (Frame::New(bytes), Some((mut file, length))) => {
                self.to.write_all(bytes)?;
                // Skips the old frame that it replaces.
                file.seek_relative(i64::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?)?;
            }
            (Frame::Known, Some((file, length))) => {
                // Inside the kernel, if it can (copy_file_range).
                if io::copy(&mut file.take(length), &mut { self.to })? != length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            (Frame::Known, None) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        self.done = self.done.saturating_add(1);
        let done = STEP.saturating_mul(u64::try_from(self.done).unwrap_or(u64::MAX));
        self.job.tell(Work::Compress, done.min(self.job.size));
        Ok(())
    }
}

/// Writes the disk with `patch` over it to the empty file `to`. `kept` are the frames of the disk without the patch, if
/// there are any: frames that the patch does not affect are copied.
///
/// # Errors
/// `Io` if the disk cannot be read, or `to` cannot be written.
pub(crate) fn write(job: &CopyJob<'_>, patch: &Patch<'_>, kept: Option<Kept>, to: &File) -> Result<(), StorageError> {
    let count = job.size.div_ceil(STEP);
    let mut kept = kept.filter(|kept| u64::try_from(kept.lengths.len()).is_ok_and(|frames| frames == count));
    let writing = |e| job.writing(e);
    if let Some(kept) = &mut kept {
        kept.file.seek(SeekFrom::Start(0)).map_err(writing)?;
    }
    let has_kept = kept.is_some();
    let mut pool = Pool::new(FrameWriter { job, to, kept, done: 0 }).map_err(writing)?;
    for number in 0..count {
        // Cannot overflow: it starts inside the disk.
        let offset = number * STEP;
        let size = (job.size - offset).min(STEP);
        let touched = patch.touches(offset, size);
        if has_kept && !touched {
            pool.known().map_err(writing)?;
            continue;
        }
        let size_in_memory = usize::try_from(size).unwrap_or(FRAME);
        let hole = sys::next_data(job.from, offset..offset + size).map_err(|e| job.reading(e))?.is_none();
        if hole && !touched {
            pool.zeros(size_in_memory).map_err(writing)?;
            continue;
        }
        let mut piece = pool.buffer(size_in_memory);
        job.from.read_exact_at(&mut piece, offset).map_err(|e| job.reading(e))?;
        patch.lay_over(offset, &mut piece);
        if is_zero(&piece) {
            pool.return_buffer(piece);
            pool.zeros(size_in_memory).map_err(writing)?;
        } else {
            pool.compress(piece).map_err(writing)?;
        }
    }
    pool.finish().map_err(writing).map(drop)
}
