//! Limits on what is read of an export: all of it, and one item.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};

use zeroize::Zeroizing;

use crate::items::item;

/// The longest export: 1 GiB, some million items.
const MAX_EXPORT: u64 = 1 << 30;

/// The longest item or folder, as it stands in the file. It bounds what serde_json buffers.
const MAX_ITEM: u64 = 32 << 20;

/// A limit that an export went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// [`MAX_EXPORT`]
    Export,
    /// [`MAX_ITEM`]
    Item,
    /// One of the [`Sink`]'s.
    Sink(item::Limit),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Export => f.write_str("over 1 GiB, the longest export that is read"),
            Self::Item => f.write_str("one item in it is over 32 MiB, the longest that is read"),
            Self::Sink(limit) => limit.fmt(f),
        }
    }
}

/// What the reader below has read, shared with those who know where an item ends.
#[derive(Default)]
pub(crate) struct Meter {
    /// Bytes of the whole file.
    all: Cell<u64>,
    /// Bytes since the last item's end.
    item: Cell<u64>,
    /// Why reading was stopped, if it was.
    limit: Cell<Option<Limit>>,
}

impl Meter {
    /// Says that an item has ended.
    pub(crate) fn restart(&self) {
        self.item.set(0);
    }

    /// The limit that was gone over, if one was.
    pub(crate) fn limit(&self) -> Option<Limit> {
        self.limit.get()
    }

    /// Counts bytes that were read.
    fn count(&self, bytes: usize) -> io::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.all.set(self.all.get().saturating_add(bytes));
        self.item.set(self.item.get().saturating_add(bytes));
        let limit = match () {
            () if self.all.get() > MAX_EXPORT => Limit::Export,
            () if self.item.get() > MAX_ITEM => Limit::Item,
            () => return Ok(()),
        };
        self.limit.set(Some(limit));
        Err(io::Error::other("over a limit"))
    }

    /// Keeps a limit of the sink's, and gives the error that ends the reading.
    pub(crate) fn over(&self, limit: item::Limit) -> io::Error {
        self.limit.set(Some(Limit::Sink(limit)));
        io::Error::other("over a limit")
    }
}

/// A buffered reader that stops at the limits. The buffer is wiped when it goes.
pub(crate) struct Metered<'m, R> {
    inner: R,
    meter: &'m Meter,
    buffer: Zeroizing<Vec<u8>>,
    /// What of `buffer` has not been handed out yet.
    next: usize,
    end: usize,
}

impl<'m, R: Read> Metered<'m, R> {
    const BUFFER: usize = 64 << 10;
    const FIRST: usize = 64;

    /// A reader of `inner`, with its first bytes read and a byte order mark left out.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(inner: R, meter: &'m Meter) -> io::Result<Self> {
        let mut new = Self { inner, meter, buffer: Zeroizing::new(vec![0; Self::BUFFER]), next: 0, end: 0 };
        // A pipe may give one byte at a time, and what tells the kind of a file has a few.
        while new.end < Self::FIRST && new.fill()? > 0 {}
        if new.ahead().starts_with(b"\xef\xbb\xbf") {
            new.next = 3;
        }
        Ok(new)
    }

    /// Reads what there is into the rest of the buffer; how many bytes, 0 at the end of the file.
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

    /// The meter that it was made with.
    pub(crate) fn meter(&self) -> &'m Meter {
        self.meter
    }

    /// What has been read and not been handed out.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.buffer[self.next..self.end]
    }
}

impl<R: Read> Read for Metered<'_, R> {
    // serde_json asks for one byte at a time.
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
