//! Parses an export with one item in memory at a time, for any order of its keys.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{WrongExport, malformed};
use super::shape::{Folder, Item, Text, TopKey};
use crate::OpenError;
use crate::input::meter::{Meter, Metered};
use crate::input::read::ReadError;
use crate::items::item::Sink;
use crate::items::json::{self, Each, parse};

/// Message for JSON of another shape.
pub(super) const SHAPE: &str = "this is JSON, but a Bitwarden export has something else here";

/// The reason why parsing stopped.
#[derive(Debug)]
pub(crate) enum ExportError {
    /// The JSON is incomplete or malformed, or exceeds a limit.
    Read(json::JsonError),
    /// The file is not a plain export.
    Wrong(WrongExport),
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Read(json::JsonError::Io(error))
    }
}

impl ExportError {
    /// The error for the export at `path`.
    pub(crate) fn at(self, path: &Path) -> OpenError {
        match self {
            Self::Read(json::JsonError::Io(error)) => {
                OpenError::Read { path: path.to_owned(), problem: ReadError::Io(error) }
            }
            Self::Read(json::JsonError::Json(line, column, problem)) => malformed(path, line, column, problem),
            Self::Read(json::JsonError::Limit(limit)) => {
                OpenError::Limit { path: path.to_owned(), limit: limit.to_string() }
            }
            Self::Wrong(kind) => kind.at(path),
        }
    }
}

/// Passes every folder and item of an export to `sink`; those in the trash and the archive as left out. Also accepts a
/// bare list of items, as `bw list items` prints it; it names folders by id only.
///
/// # Errors
/// The reason why parsing stopped; `sink` is incomplete then.
pub(crate) fn read(file: impl Read, sink: &mut dyn Sink) -> Result<(), ExportError> {
    let meter = Meter::default();
    let metered = Metered::new(file, &meter)?;
    check_kind(metered.ahead()).map_err(ExportError::Wrong)?;

    let mut header = ExportHeader::default();
    let result = parse(metered, SHAPE, Export { meter: &meter, sink, header: &mut header });

    // The one long string of an encrypted export may exceed a limit first; report the encryption, not the limit.
    if header.encrypted {
        return Err(ExportError::Wrong(header.kind()));
    }
    match result {
        Ok(()) if header.items => Ok(()),
        Ok(()) => Err(ExportError::Wrong(WrongExport::NoItems)),
        Err(failure) => Err(ExportError::Read(failure)),
    }
}

/// True if an export that starts with `beginning` declares that a password protects it. It may also declare it later.
pub(super) fn begins_protected(beginning: &[u8]) -> bool {
    let beginning = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning);
    let mut header = ExportHeader::default();
    // The text is truncated, so the parser's error is ignored: the keys before it matter.
    let _ = serde_json::Deserializer::from_slice(beginning).deserialize_map(Beginning(&mut header));
    header.encrypted && header.password_protected
}

/// Checks the first bytes.
fn check_kind(text: &[u8]) -> Result<(), WrongExport> {
    /// Start of the header of Bitwarden's CSV exports: personal, and of an organisation.
    const CSV: [&[u8]; 2] = [b"folder,favorite,", b"collections,type,"];
    match () {
        () if text.is_empty() => Err(WrongExport::Empty),
        () if text.starts_with(b"PK\x03\x04") => Err(WrongExport::Zip),
        () if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") => Err(WrongExport::Utf16),
        () if CSV.iter().any(|header| text.starts_with(header)) => Err(WrongExport::Csv),
        () => Ok(()),
    }
}

/// The keys of the top level that describe the whole export.
#[derive(Default)]
struct ExportHeader {
    encrypted: bool,
    password_protected: bool,
    items: bool,
}

impl ExportHeader {
    fn kind(&self) -> WrongExport {
        if self.password_protected { WrongExport::PasswordProtected } else { WrongExport::AccountRestricted }
    }
}

/// Parses only the header.
struct Beginning<'r>(&'r mut ExportHeader);

impl<'de> Visitor<'de> for Beginning<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an export")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            match key {
                TopKey::Encrypted => self.0.encrypted = map.next_value::<Text>()?.get() == Some("true"),
                TopKey::PasswordProtected => {
                    self.0.password_protected = map.next_value::<Text>()?.get() == Some("true");
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Parses the top level.
struct Export<'r> {
    meter: &'r Meter,
    sink: &'r mut dyn Sink,
    header: &'r mut ExportHeader,
}

impl<'de> DeserializeSeed<'de> for Export<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Export<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an export")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.header.items = true;
        items(self.meter, self.sink).visit_seq(list)
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
                    map.next_value_seed(Each::new(meter, take))?;
                }
                TopKey::Items if header.items => return Err(A::Error::custom("items twice")),
                TopKey::Items => {
                    header.items = true;
                    map.next_value_seed(items(meter, sink))?;
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

/// Parses a list of items for `sink`.
fn items<'r>(
    meter: &'r Meter,
    sink: &'r mut dyn Sink,
) -> Each<'r, Item, impl FnMut(Item) -> Result<(), crate::items::item::SinkLimit>> {
    Each::new(meter, move |item: Item| match item.left_out() {
        None => sink.item(&item),
        Some(place) => sink.left_out(&item, place),
    })
}
