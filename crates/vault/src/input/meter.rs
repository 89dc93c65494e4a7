//! Limits on reading an export: the length of the whole file, and of one item.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};

use zeroize::Zeroizing;

use crate::items::item;

/// Maximum length of an export, in bytes: 1 GiB, some million items.
const MAX_EXPORT: u64 = 1 << 30;

/// Maximum length of one item or folder in the file, in bytes. Bounds what serde_json buffers.
const MAX_ITEM: u64 = 32 << 20;

/// A limit that an export exceeds. Printed after its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportLimit {
    /// [`MAX_EXPORT`].
    Export,
    /// [`MAX_ITEM`].
    Item,
    /// A limit of the [`Sink`](item::Sink).
    Sink(item::SinkLimit),
}

impl fmt::Display for ExportLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Export => f.write_str("over 1 GiB, the longest export that is read"),
            Self::Item => f.write_str("one item in it is over 32 MiB, the longest that is read"),
            Self::Sink(limit) => limit.fmt(f),
        }
    }
}

/// Counts the bytes that a [`Metered`] reader has read. Shared with the parsers, which know where an item ends.
#[derive(Default)]
pub(crate) struct Meter {
    /// Bytes of the whole file so far.
    all: Cell<u64>,
    /// Bytes since the end of the last item.
    item: Cell<u64>,
    /// The limit that stopped reading, if one did.
    limit: Cell<Option<ExportLimit>>,
}

impl Meter {
    /// Starts a new item.
    pub(crate) fn restart(&self) {
        self.item.set(0);
    }

    /// The limit that was exceeded, if one was.
    pub(crate) fn limit(&self) -> Option<ExportLimit> {
        self.limit.get()
    }

    /// Adds `bytes` to the counters, and checks the limits.
    fn count(&self, bytes: usize) -> io::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.all.set(self.all.get().saturating_add(bytes));
        self.item.set(self.item.get().saturating_add(bytes));
        let limit = match () {
            () if self.all.get() > MAX_EXPORT => ExportLimit::Export,
            () if self.item.get() > MAX_ITEM => ExportLimit::Item,
            () => return Ok(()),
        };
        self.limit.set(Some(limit));
        Err(io::Error::other("over a limit"))
    }

    /// Records a limit of the sink; returns the error that stops the parser.
    pub(crate) fn over(&self, limit: item::SinkLimit) -> io::Error {
        self.limit.set(Some(ExportLimit::Sink(limit)));
        io::Error::other("over a limit")
    }
}

/// A buffered reader that stops at the limits. Its buffer is zeroized on drop.
pub(crate) struct Metered<'m, R> {
    inner: R,
    meter: &'m Meter,
    buffer: Zeroizing<Vec<u8>>,
    /// Start of the bytes in `buffer` that have not been returned yet.
    next: usize,
    end: usize,
}

impl<'m, R: Read> Metered<'m, R> {
    const BUFFER: usize = 64 << 10;
    const FIRST: usize = 64;

    /// A reader of `inner` that has its first bytes buffered and skips a byte order mark.
    ///
    /// # Errors
    /// The error of the first read.
    pub(crate) fn new(inner: R, meter: &'m Meter) -> io::Result<Self> {
        let mut new = Self { inner, meter, buffer: Zeroizing::new(vec![0; Self::BUFFER]), next: 0, end: 0 };
        // A pipe may return one byte at a time, and detecting the format needs the first few.
        while new.end < Self::FIRST && new.fill()? > 0 {}
        if new.ahead().starts_with(b"\xef\xbb\xbf") {
            new.next = 3;
        }
        Ok(new)
    }

    /// Reads once into the rest of the buffer. Returns the number of bytes, 0 at the end of the file.
    fn fill(&mut self) -> io::Result<usize> {
        loop {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    self.meter.count(count)?;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The meter passed to [`Metered::new`].
    pub(crate) fn meter(&self) -> &'m Meter {
        self.meter
    }

    /// Bytes that are buffered and not yet returned.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.buffer[self.next..self.end]
    }
}

impl<R: Read> Read for Metered<'_, R> {
    // serde_json reads one byte at a time.
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.next == self.end {
            (self.next, self.end) = (0, 0);
            self.fill()?;
        }
        let count = out.len().min(self.end - self.next);
        out[..count].copy_from_slice(&self.buffer[self.next..self.next + count]);
        self.next += count;
        Ok(count)
    }
}
