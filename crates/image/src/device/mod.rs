//! Positioned reads: the common interface of a disk, a partition and an overlay.

pub(crate) mod cache;
pub mod overlay;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use deaddrop_core::sys;

/// A fixed-size device that can be read at any offset.
pub trait ReadAt: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset` (bytes from the start of this device).
    ///
    /// # Errors
    /// `UnexpectedEof` if the range is not completely inside the device; other errors of the read.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The first part of `range` (bytes) that may contain nonzero bytes; `None` if all of it is zero. A device that
    /// does not know its holes returns all of `range`.
    ///
    /// # Errors
    /// If the system call fails.
    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        Ok(Some(range).filter(|range| !range.is_empty()))
    }
}

/// A file (or block device) as a disk. The size is fixed when it is opened.
pub struct FileDevice {
    file: File,
    size: u64,
}

impl FileDevice {
    /// Wraps an open file of `size` bytes.
    #[must_use]
    pub fn new(file: File, size: u64) -> Self {
        Self { file, size }
    }
}

impl ReadAt for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        sys::next_data(&self.file, range)
    }
}

/// A part of another device, such as a partition.
#[derive(Clone)]
pub struct Section {
    base: Arc<dyn ReadAt>,
    start: u64,
    size: u64,
}

impl Section {
    /// The `size` bytes of `base` from `start` on; `None` if they are not completely inside.
    #[must_use]
    pub fn new(base: Arc<dyn ReadAt>, start: u64, size: u64) -> Option<Self> {
        let end = start.checked_add(size)?;
        (end <= base.size()).then_some(Self { base, start, size })
    }
}

impl ReadAt for Section {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let length = u64::try_from(buf.len()).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = offset.checked_add(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Cannot overflow: start + size was checked in `new`, and offset <= size.
        self.base.read_exact_at(self.start + offset, buf)
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let range = range.start.min(self.size)..range.end.min(self.size);
        // Cannot overflow: start + size was checked in `new`.
        let found = self.base.next_data(self.start + range.start..self.start + range.end)?;
        Ok(found.map(|data| data.start - self.start..data.end - self.start))
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
