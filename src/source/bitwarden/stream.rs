//! Reads an export from beginning to end, one item in memory at a time, whatever the order of its keys.
//!
//! serde_json's own messages are never shown: they can quote what they met. What is told is a line, a column and one of
//! our sentences.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use zeroize::Zeroizing;

use super::shape::{Folder, Item, Text, TopKey};
use crate::source::error::{OpenError, WrongExport};
use crate::source::item::{self, Sink};
use crate::source::read::ReadError;

/// The longest export: 1 GiB, some million items.
const MAX_EXPORT: u64 = 1 << 30;

/// The longest item or folder, as it stands in the file. It bounds what serde_json buffers.
const MAX_ITEM: u64 = 32 << 20;

/// Why reading stopped.
pub(super) enum Failure {
    /// The system says no.
    Io(io::Error),
    /// Not JSON, or not all of it, at a line and column.
    Json(usize, usize, &'static str),
    /// Something else than a plain export.
    Wrong(WrongExport),
    /// Over a limit.
    Limit(Limit),
}

/// A limit that an export went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
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

impl Failure {
    /// The error for the export at `path`.
    pub(super) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Io(error) => OpenError::Read { path, problem: ReadError::Io(error) },
            Self::Json(line, column, problem) => OpenError::Json { path, line, column, problem },
            Self::Wrong(kind) => OpenError::WrongExport { path, kind },
            Self::Limit(limit) => OpenError::Limit { path, limit: limit.to_string() },
        }
    }
}

/// Feeds every folder and item of an export to `sink`, those in the trash left out.
///
/// # Errors
/// What stopped it; `sink` is of no use then.
pub(super) fn read(file: impl Read, sink: &mut dyn Sink) -> Result<(), Failure> {
    let meter = Meter::default();
    let mut metered = Metered::new(file, &meter);
    metered.fill().map_err(|error| meter.limit.get().map_or(Failure::Io(error), Failure::Limit))?;
    metered.check_kind().map_err(Failure::Wrong)?;

    let mut header = Header::default();
    let mut deserializer = serde_json::Deserializer::from_reader(metered);
    let export = Export { meter: &meter, sink, header: &mut header };
    let result = export.deserialize(&mut deserializer).and_then(|()| deserializer.end());

    // An encrypted export may break a limit with its one long string, and is to be called what it is.
    if header.encrypted {
        return Err(Failure::Wrong(if header.password_protected {
            WrongExport::PasswordProtected
        } else {
            WrongExport::AccountRestricted
        }));
    }
    match result {
        Ok(()) if header.items => Ok(()),
        Ok(()) => Err(Failure::Wrong(WrongExport::NoItems)),
        Err(error) => Err(failure(error, meter.limit.get())),
    }
}

/// What an error means, without its words.
fn failure(error: serde_json::Error, limit: Option<Limit>) -> Failure {
    if let Some(limit) = limit {
        return Failure::Limit(limit);
    }
    // serde_json counts the columns of a line that has just begun from 0.
    let (line, column) = (error.line(), error.column().max(1));
    match error.classify() {
        Category::Io => Failure::Io(error.into()),
        Category::Eof => Failure::Json(line, column, "the file ends in the middle of the export"),
        Category::Syntax => Failure::Json(line, column, "this is not JSON"),
        Category::Data => Failure::Json(line, column, "this is JSON, but a Bitwarden export has something else here"),
    }
}

/// What the top level says about the whole.
#[derive(Default)]
struct Header {
    encrypted: bool,
    password_protected: bool,
    items: bool,
}

/// The top level.
struct Export<'r> {
    meter: &'r Meter,
    sink: &'r mut dyn Sink,
    header: &'r mut Header,
}

impl<'de> DeserializeSeed<'de> for Export<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Export<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an export")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { meter, sink, header } = self;
        while let Some(key) = map.next_key()? {
            match key {
                TopKey::Encrypted => header.encrypted = map.next_value::<Text>()?.get() == Some("true"),
                TopKey::PasswordProtected => {
                    header.password_protected = map.next_value::<Text>()?.get() == Some("true");
                }
                TopKey::Folders | TopKey::Collections => {
                    let take = |folder: Folder| match (folder.id.get(), folder.name.get()) {
                        (Some(id), Some(name)) => sink.folder(id, name),
                        _ => Ok(()),
                    };
                    map.next_value_seed(Each { meter, take, element: PhantomData })?;
                }
                TopKey::Items if header.items => return Err(A::Error::custom("items twice")),
                TopKey::Items => {
                    header.items = true;
                    let take = |item: Item| match item.deleted_date.get() {
                        None => sink.item(&item),
                        Some(_) => Ok(()),
                    };
                    map.next_value_seed(Each { meter, take, element: PhantomData })?;
                }
                TopKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            meter.restart();
        }
        Ok(())
    }
}

/// A list (or `null`), each of whose elements goes to `take` and is gone.
struct Each<'r, T, F> {
    meter: &'r Meter,
    take: F,
    element: PhantomData<T>,
}

impl<'de, T: serde::Deserialize<'de>, F: FnMut(T) -> Result<(), item::Limit>> DeserializeSeed<'de> for Each<'_, T, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: serde::Deserialize<'de>, F: FnMut(T) -> Result<(), item::Limit>> Visitor<'de> for Each<'_, T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            if let Err(limit) = (self.take)(element) {
                self.meter.limit.set(Some(Limit::Sink(limit)));
                return Err(A::Error::custom("limit"));
            }
            self.meter.restart();
        }
        Ok(())
    }
}

/// What the reader below has read, shared with those who know where an item ends.
#[derive(Default)]
struct Meter {
    /// Bytes of the whole file.
    all: Cell<u64>,
    /// Bytes since the last item's end.
    item: Cell<u64>,
    /// Why reading was stopped, if it was.
    limit: Cell<Option<Limit>>,
}

impl Meter {
    fn restart(&self) {
        self.item.set(0);
    }
}

/// A buffered reader that stops at the limits. The buffer is wiped when it goes.
struct Metered<'m, R> {
    inner: R,
    meter: &'m Meter,
    buffer: Zeroizing<Vec<u8>>,
    /// What of `buffer` has not been handed out yet.
    next: usize,
    end: usize,
}

impl<'m, R: Read> Metered<'m, R> {
    const BUFFER: usize = 64 << 10;

    fn new(inner: R, meter: &'m Meter) -> Self {
        Self { inner, meter, buffer: Zeroizing::new(vec![0; Self::BUFFER]), next: 0, end: 0 }
    }

    /// Fills the empty buffer; leaves it empty at the end of the file.
    fn fill(&mut self) -> io::Result<()> {
        (self.next, self.end) = (0, 0);
        loop {
            match self.inner.read(&mut self.buffer) {
                Ok(count) => {
                    self.end = count;
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    self.meter.all.set(self.meter.all.get().saturating_add(count));
                    self.meter.item.set(self.meter.item.get().saturating_add(count));
                    let limit = if self.meter.all.get() > MAX_EXPORT {
                        Limit::Export
                    } else if self.meter.item.get() > MAX_ITEM {
                        Limit::Item
                    } else {
                        return Ok(());
                    };
                    self.meter.limit.set(Some(limit));
                    return Err(io::Error::other("limit"));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Judges the first bytes, and steps over a byte order mark.
    fn check_kind(&mut self) -> Result<(), WrongExport> {
        /// How the header of Bitwarden's CSV exports begins, personal and of an organisation.
        const CSV: [&[u8]; 2] = [b"folder,favorite,", b"collections,type,"];
        let first = &self.buffer[..self.end];
        if first.starts_with(b"\xef\xbb\xbf") {
            self.next = 3;
        }
        let text = &first[self.next..];
        match () {
            () if text.is_empty() => Err(WrongExport::Empty),
            () if text.starts_with(b"PK\x03\x04") => Err(WrongExport::Zip),
            () if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") => Err(WrongExport::Utf16),
            () if CSV.iter().any(|header| text.starts_with(header)) => Err(WrongExport::Csv),
            () => Ok(()),
        }
    }
}

impl<R: Read> Read for Metered<'_, R> {
    // serde_json asks for one byte at a time.
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.next == self.end {
            self.fill()?;
        }
        let count = out.len().min(self.end - self.next);
        out[..count].copy_from_slice(&self.buffer[self.next..self.next + count]);
        self.next += count;
        Ok(count)
    }
}
