//! Reads an export from beginning to end, one item in memory at a time, whatever the order of its keys.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::shape::{Folder, Item, Text, TopKey};
use crate::error::{OpenError, WrongExport};
use crate::input::meter::{Meter, Metered};
use crate::input::read::ReadError;
use crate::items::item::Sink;
use crate::items::json::{self, Each, parse};

/// What is said of JSON that is something else.
pub(super) const SHAPE: &str = "this is JSON, but a Bitwarden export has something else here";

/// Why reading stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not a whole export.
    Read(json::Failure),
    /// Something else than a plain export.
    Wrong(WrongExport),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(json::Failure::Io(error))
    }
}

impl Failure {
    /// The error for the export at `path`.
    pub(crate) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Read(json::Failure::Io(error)) => OpenError::Read { path, problem: ReadError::Io(error) },
            Self::Read(json::Failure::Json(line, column, problem)) => OpenError::Json { path, line, column, problem },
            Self::Read(json::Failure::Limit(limit)) => OpenError::Limit { path, limit: limit.to_string() },
            Self::Wrong(kind) => OpenError::WrongExport { path, kind },
        }
    }
}

/// Feeds every folder and item of an export to `sink`, those in the trash left out. A list of items alone, as
/// `bw list items` prints it, will do as well; it names its folders by their ids only.
///
/// # Errors
/// What stopped it; `sink` is of no use then.
pub(crate) fn read(file: impl Read, sink: &mut dyn Sink) -> Result<(), Failure> {
    let meter = Meter::default();
    let metered = Metered::new(file, &meter)?;
    check_kind(metered.ahead()).map_err(Failure::Wrong)?;

    let mut header = Header::default();
    let result = parse(metered, SHAPE, Export { meter: &meter, sink, header: &mut header });

    // An encrypted export may break a limit with its one long string, and is to be called what it is.
    if header.encrypted {
        return Err(Failure::Wrong(header.kind()));
    }
    match result {
        Ok(()) if header.items => Ok(()),
        Ok(()) => Err(Failure::Wrong(WrongExport::NoItems)),
        Err(failure) => Err(Failure::Read(failure)),
    }
}

/// Whether an export that begins like this says that it is protected by a password. It may also say so only later.
pub(super) fn begins_protected(beginning: &[u8]) -> bool {
    let beginning = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning);
    let mut header = Header::default();
    // It ends in the middle of something: what it says up to there is what matters.
    let _ = serde_json::Deserializer::from_slice(beginning).deserialize_map(Beginning(&mut header));
    header.encrypted && header.password_protected
}

/// Judges the first bytes.
fn check_kind(text: &[u8]) -> Result<(), WrongExport> {
    /// How the header of Bitwarden's CSV exports begins, personal and of an organisation.
    const CSV: [&[u8]; 2] = [b"folder,favorite,", b"collections,type,"];
    match () {
        () if text.is_empty() => Err(WrongExport::Empty),
        () if text.starts_with(b"PK\x03\x04") => Err(WrongExport::Zip),
        () if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") => Err(WrongExport::Utf16),
        () if CSV.iter().any(|header| text.starts_with(header)) => Err(WrongExport::Csv),
        () => Ok(()),
    }
}

/// What the top level says about the whole.
#[derive(Default)]
struct Header {
    encrypted: bool,
    password_protected: bool,
    items: bool,
}

impl Header {
    fn kind(&self) -> WrongExport {
        if self.password_protected { WrongExport::PasswordProtected } else { WrongExport::AccountRestricted }
    }
}

/// Reads what the top level says, and nothing else.
struct Beginning<'r>(&'r mut Header);

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

/// The top level.
struct Export<'r> {
    meter: &'r Meter,
    sink: &'r mut dyn Sink,
    header: &'r mut Header,
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

/// A list of items for `sink`, those in the trash left out.
fn items<'r>(
    meter: &'r Meter,
    sink: &'r mut dyn Sink,
) -> Each<'r, Item, impl FnMut(Item) -> Result<(), crate::items::item::Limit>> {
    Each::new(meter, move |item: Item| match item.deleted_date.get() {
        None => sink.item(&item),
        Some(_) => Ok(()),
    })
}
