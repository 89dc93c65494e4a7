//! Copies a disk into another raw file: by sharing blocks, or with its holes. Used by [`crate::output`] only.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys;
use nix::errno::Errno;
use nix::fcntl::copy_file_range;

use crate::device::ReadAt;
use crate::open::spool::write_sparse;
use crate::progress::{Progress, Watch, Work};

/// Number of bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// A disk to copy, its size in bytes, and the names of source and destination, for messages.
pub(crate) struct CopyJob<'a> {
    pub(crate) from: &'a dyn ReadAt,
    /// The file that has the disk byte for byte, if there is one.
    pub(crate) file: Option<&'a File>,
    pub(crate) size: u64,
    pub(crate) from_name: &'a str,
    pub(crate) to_name: &'a str,
    pub(crate) watch: Watch<'a>,
    /// Give up on a signal that is deferred: the file has no name yet.
    pub(crate) gives_up: bool,
}

impl CopyJob<'_> {
    pub(crate) fn reading(&self, error: io::Error) -> StorageError {
        StorageError::io(format!("reading {}", self.from_name), error)
    }

    pub(crate) fn writing(&self, error: io::Error) -> StorageError {
        StorageError::io(format!("writing {}", self.to_name), error)
    }

    /// Reports progress.
    ///
    /// # Errors
    /// `Interrupted` if the job is to be given up.
    pub(crate) fn tell(&self, work: Work, done: u64) -> io::Result<()> {
        (self.watch)(Progress { work, done, total: self.size });
        if self.gives_up && sys::is_deferred() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// Makes the empty file `to` the same disk: by sharing blocks if the file system can, otherwise by copying
    /// everything that is neither a hole nor zero. Returns the number of bytes copied; `None` if the blocks are shared.
    pub(crate) fn copy(&self, to: &File) -> Result<Option<u64>, StorageError> {
        if self.file.is_some_and(|file| sys::reflink(file, to).is_ok()) {
            return Ok(None);
        }
        let mut buffer = Wiped::zeros(CHUNK);
        let mut copied = 0_u64;
        let mut offset = 0;
        while let Some(run) = self.from.next_data(offset..self.size).map_err(|e| self.reading(e))? {
            offset = run.start;
            while offset < run.end {
                let chunk = part(&mut buffer, run.end - offset);
                self.from.read_exact_at(offset, chunk).map_err(|e| self.reading(e))?;
                copied = copied.saturating_add(write_sparse(to, offset, chunk).map_err(|e| self.writing(e))?);
                offset = offset.saturating_add(length(chunk));
                self.tell(Work::Copy, offset).map_err(|e| self.writing(e))?;
            }
        }
        to.set_len(self.size).map_err(|e| self.writing(e))?;
        self.tell(Work::Copy, self.size).map_err(|e| self.writing(e))?;
        Ok(Some(copied))
    }
}

/// Bytes that the kernel is asked to copy at a time.
const MOST_IN_KERNEL: usize = 16 << 20;

/// Copies `length` bytes from an offset of `from`, whose own position others use, to the position of `to`: inside the
/// kernel, if it can (copy_file_range(2)).
///
/// # Errors
/// `UnexpectedEof` if there are fewer bytes; those of the system calls.
pub(crate) fn copy_range(from: &File, mut offset: u64, length: u64, mut to: &File) -> io::Result<()> {
    let end = offset.saturating_add(length);
    let mut in_kernel = true;
    let mut buffer = Vec::new();
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(MOST_IN_KERNEL).min(MOST_IN_KERNEL);
        let count = if in_kernel {
            let mut position = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            match copy_file_range(from, Some(&mut position), to, None, left) {
                Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                    in_kernel = false;
                    buffer.resize(left, 0);
                    continue;
                }
                result => result?,
            }
        } else {
            let piece = left.min(buffer.len());
            let count = from.read_at(&mut buffer[..piece], offset)?;
            to.write_all(&buffer[..count])?;
            count
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset = offset.saturating_add(u64::try_from(count).unwrap_or(0));
    }
    Ok(())
}

/// The first `left` bytes of the buffer, or all of it.
fn part(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    &mut buffer[..count]
}
