//! `keepass`: databases of KeePass, KDBX 3.1 and 4.
//!
//! `header` reads the header and checks its limits before a key is derived; `key` derives it; `payload` decrypts and
//! authenticates; `inner` and `xml` parse the content, one entry in memory at a time; `entry` lists the fields of an
//! entry; `refer` resolves references to other entries. The decrypted document stays compressed in memory, as in the
//! file, and is parsed again for an attachment or a reference.

mod entry;
mod header;
mod inner;
mod key;
mod payload;
mod refer;
mod xml;

use std::cell::RefCell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use deaddrop_core::contain::contain;
use deaddrop_core::keys::Field;
use deaddrop_core::limits::MIB;
use deaddrop_core::secret::Secret;
use flate2::read::GzDecoder;
use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::shown;
use crate::input::context::Context;
use crate::input::password::Password;
use crate::input::{Input, read};
use crate::items::item::{Sink, SinkLimit};
use crate::items::reader::Vault;
use crate::keys::{Declared, FileKeys, KdfLimitKeys, PasswordKeys};
use crate::kinds::Kind;
use crate::spec::{FileSpec, Spec};
use crate::{OpenError, Source};
use entry::{Entry, PlacedEntry};
use header::{Header, Version};
use inner::{Inner, InnerHeader};
use payload::Damaged;
use refer::{Answers, Templates};

/// Maximum length of a database, in bytes.
const MAX_FILE: usize = 256 << 20;
/// Maximum length of the decompressed document, in bytes.
const MAX_DOCUMENT: u64 = 512 << 20;
/// Maximum length of a key file, in bytes.
const MAX_KEY_FILE: usize = 64 << 20;
/// Maximum total length of values with resolved references, in bytes.
const MAX_RESOLVED: usize = 128 << 20;

/// A source of kind `keepass`.
pub(crate) struct Keepass<'m> {
    input: Input<'m>,
    key_file: Option<&'m Path>,
    /// The decrypted content, once it is decrypted.
    opened: Option<Opened>,
    /// Values that refer to other entries.
    templates: Rc<RefCell<Templates>>,
    /// The same values, resolved, in the same order.
    resolved: Option<Vec<Result<Secret, &'static str>>>,
}

/// A decrypted database.
struct Opened {
    header: Header,
    /// Compressed if the header says so.
    payload: Zeroizing<Vec<u8>>,
}

/// The reason why parsing the content stopped.
#[derive(Debug)]
enum Stop {
    /// A message.
    Damaged(&'static str),
    /// A limit is exceeded: a message.
    Over(String),
    /// A limit of the sink is exceeded.
    Sink(SinkLimit),
}

impl Stop {
    fn message(self) -> String {
        match self {
            Self::Damaged(what) => what.to_owned(),
            Self::Over(what) => what,
            Self::Sink(limit) => limit.to_string(),
        }
    }
}

impl<'m> Keepass<'m> {
    pub(crate) fn new(input: Input<'m>, key_file: Option<&'m Path>) -> Self {
        Self { input, key_file, opened: None, templates: Rc::default(), resolved: None }
    }

    /// Decrypts the database. The key is derived here, and only here.
    fn open(&self) -> Result<Opened, OpenError> {
        let file = self.input.read(MAX_FILE)?;
        let header =
            Header::read(&file, self.input.spec().kdf_limit).map_err(|(what, hint)| self.input.refused(what, hint))?;
        payload::check_header(&file, &header).map_err(|problem| self.damaged(problem))?;
        let key_file = match self.key_file {
            None => None,
            Some(path) => {
                let path = self.input.context().at(path);
                let bytes = read::read(&path, MAX_KEY_FILE)
                    .map_err(|problem| OpenError::Read { path: path.clone(), problem })?;
                let key = contain(|| key::key_file(&bytes)).unwrap_or(Err("the key file is damaged"));
                Some(key.map_err(|what| OpenError::refused(&path, what, ""))?)
            }
        };
        // An empty password is one only beside a key file.
        let mut password = match key_file {
            Some(_) => self.input.password_even_empty()?,
            None => self.input.password()?,
        };
        if password.is_none() && key_file.is_none() {
            let hint = "without `identity`, `password` opens the age file: add `identity`, or a `key_file`";
            return Err(self.input.refused("nothing is said that opens the database inside", hint));
        }
        let derivation = self.input.derivation();
        loop {
            let secret = password.as_ref().map(Password::secret);
            for composite in key::composites(secret, key_file.as_ref().map(|key| key.as_slice())) {
                let derived = derivation.run(&header.kdf.cost(), || key::transform(&composite, &header.kdf));
                let transformed = derived.map_err(|what| self.input.refused(what, ""))?;
                if payload::is_key(&file, &header, &transformed).map_err(|problem| self.damaged(problem))? {
                    let payload = payload::open(file, &header, &transformed);
                    return Ok(Opened { payload: payload.map_err(|problem| self.damaged(problem))?, header });
                }
            }
            if !password.as_mut().is_some_and(Password::was_wrong) {
                return Err(self.wrong(password.map(|password| password.secret().is_empty())));
            }
        }
    }

    fn damaged(&self, Damaged(what): Damaged) -> OpenError {
        self.input.refused(what, "is there a backup of it?")
    }

    /// The error for a wrong key. `empty_password`: the password is empty; `None` if there is none.
    fn wrong(&self, empty_password: Option<bool>) -> OpenError {
        let (what, hint) = match (empty_password, self.key_file.is_some()) {
            (Some(false), true) => (
                "the password and the key file do not open it together",
                "are both the right ones? try them in KeePassXC",
            ),
            (Some(false), false) => ("the password does not open it", "if it also has a key file, say `key_file`"),
            (Some(true), _) => (
                "the password is empty, and the key file does not open it, with an empty password or without one",
                "is the password set where it comes from, and is this the right key file?",
            ),
            (None, _) => (
                "the key file does not open it, without a password or with an empty one",
                "if it has another password, say `password`; is this the right key file?",
            ),
        };
        self.input.refused(what, hint)
    }
}

/// A KeePass database.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a keepass source", default, deny_unknown_fields)]
#[schemars(rename = "keepass-source", extend(
    "required" = ["path"],
    "anyOf" = [{ "required": ["password"] }, { "required": ["key_file"] }],
))]
pub struct KeePassKeys {
    /// The database, or `-` for standard input; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// The database's password. Not needed if a key file alone opens it.
    pub password: Field<PasswordKeys>,
    /// The database's key file.
    #[schemars(length(min = 1))]
    pub key_file: Field<String>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
    /// `none`: deriving the key from the password may cost anything. Without it, time and memory are bounded.
    pub kdf_limit: Field<KdfLimitKeys>,
}

/// A KeePass database, and how to open it.
#[derive(Debug, Clone)]
pub struct KeePassSpec {
    /// The database, and its password.
    pub file: FileSpec,
    /// Its key file.
    pub key_file: Option<PathBuf>,
}

impl Spec for KeePassSpec {
    type Keys = KeePassKeys;

    fn check(declared: &Declared<'_>, keys: KeePassKeys) -> Option<Self> {
        let neither = keys.password.is_missing() && keys.key_file.is_missing();
        if neither {
            let hint = "`password: { env: NAME }`, `password: ask`, or `key_file: FILE`; both if it needs both";
            declared.problem("a keepass source needs a `password` or a `key_file`", hint);
        }
        let key_file = declared.path(keys.key_file);
        let KeePassKeys { path, password, identity, kdf_limit, .. } = keys;
        let file = FileKeys { path, password, identity, kdf_limit };
        let file = declared.file(file)?;
        let key_file = key_file?;
        (!neither).then_some(KeePassSpec { file, key_file })
    }

    fn file(&self) -> Option<&FileSpec> {
        Some(&self.file)
    }
}

impl Kind for Keepass<'_> {
    type Spec = KeePassSpec;

    const TAKES_PASSWORD: bool = true;

    fn open<'m>(spec: &'m KeePassSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Keepass::new(Input::new(name, &spec.file, context), spec.key_file.as_deref()))
    }
}

impl Vault for Keepass<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let opened = self.open()?;
        let mut handing = Handing { sink, templates: &self.templates };
        let result = opened.read(&mut handing);
        self.opened = Some(opened);
        result.map_err(|stop| match stop {
            Stop::Sink(limit) => OpenError::Limit { path: self.input.name().to_owned(), limit: limit.to_string() },
            stop @ Stop::Damaged(xml::OTHER_HEADER) => self.input.refused(stop.message(), "is there a backup of it?"),
            stop => self.input.refused(stop.message(), ""),
        })
    }

    fn attachment(&mut self, place: &str) -> Result<Secret, String> {
        let not_there = || format!("{} cannot be read", shown(place));
        let opened = self.opened.as_ref().ok_or_else(not_there)?;
        if let Some(id) = place.strip_prefix("file:") {
            let mut bytes = opened.attachment(id).map_err(Stop::message)?;
            return Ok(Secret::new(std::mem::take(&mut *bytes)));
        }
        let index: usize = place.strip_prefix("ref:").and_then(|index| index.parse().ok()).ok_or_else(not_there)?;
        let templates = &self.templates;
        let resolved = self.resolved.get_or_insert_with(|| opened.resolve(templates.borrow_mut().take()));
        match resolved.get(index) {
            Some(Ok(secret)) => Ok(secret.clone()),
            Some(Err(what)) => Err((*what).to_owned()),
            None => Err(not_there()),
        }
    }
}

impl Opened {
    /// The decompressed content.
    fn document(&self) -> Box<dyn Read + '_> {
        match self.header.gzip {
            true => Box::new(GzDecoder::new(self.payload.as_slice())),
            false => Box::new(self.payload.as_slice()),
        }
    }

    /// The XML document, and the key stream of its values.
    fn inside(&self) -> Result<(Box<dyn Read + '_>, Inner), Stop> {
        let mut document = self.document();
        let inner = match &self.header.version {
            Version::Three { inner: (id, key), .. } => Inner::new(*id, key)?,
            Version::Four => match inner::header(&mut document, None)? {
                InnerHeader::Stream(inner) => inner,
                InnerHeader::Attachment(_) => return Err(Stop::Damaged("the header inside is damaged")),
            },
        };
        Ok((document, inner))
    }

    fn read(&self, visitor: &mut dyn xml::Visitor) -> Result<(), Stop> {
        contained(|| {
            let (document, inner) = self.inside()?;
            let header = match &self.header.version {
                Version::Three { hash, .. } => Some(hash),
                // Its own HMAC authenticates it.
                Version::Four => None,
            };
            xml::read(document, inner, header, visitor)
        })
    }

    /// An attachment by its reference: in version 4 its index in the inner header, in version 3 its `ID` in the
    /// document.
    fn attachment(&self, id: &str) -> Result<Zeroizing<Vec<u8>>, Stop> {
        contained(|| match &self.header.version {
            Version::Three { inner: (stream, key), .. } => xml::binary(self.document(), Inner::new(*stream, key)?, id),
            Version::Four => {
                let index = id.parse().map_err(|_| Stop::Damaged(xml::NO_BINARY))?;
                match inner::header(&mut self.document(), Some(index))? {
                    InnerHeader::Attachment(bytes) => Ok(bytes),
                    InnerHeader::Stream(_) => Err(Stop::Damaged(xml::NO_BINARY)),
                }
            }
        })
    }

    /// Resolves the references in `values`. Each step parses the document once, for all of them.
    fn resolve(&self, values: Vec<Zeroizing<Vec<u8>>>) -> Vec<Result<Secret, &'static str>> {
        struct Offering<'a>(&'a mut Answers);
        impl xml::Visitor for Offering<'_> {
            fn group(&mut self, _: &[u8; 16], _: &[String]) -> Result<(), Stop> {
                Ok(())
            }
            fn entry(&mut self, entry: Entry, _: &[u8; 16]) -> Result<(), Stop> {
                self.0.offer(&entry);
                Ok(())
            }
        }
        let mut values: Vec<Result<Zeroizing<Vec<u8>>, &'static str>> = values.into_iter().map(Ok).collect();
        for step in 0..=refer::MOST_STEPS {
            let mut answers = Answers::default();
            let mut open = Vec::new();
            for (index, value) in values.iter_mut().enumerate() {
                let Ok(bytes) = value else { continue };
                if !refer::has_reference(bytes) {
                    continue;
                }
                match answers.ask(bytes) {
                    _ if step == refer::MOST_STEPS => {
                        *value = Err("its {REF:…} lead in a circle, or over 10 steps \
                    on")
                    }
                    Ok(()) => open.push(index),
                    Err(what) => *value = Err(what),
                }
            }
            if open.is_empty() {
                break;
            }
            // The same content was parsed completely before, so an error here is not expected.
            let again = self.read(&mut Offering(&mut answers)).map_err(|_| "its {REF:…} cannot be resolved");
            let mut total = 0_usize;
            for index in open {
                let Some(value) = values.get_mut(index) else { continue };
                let filled = again.and_then(|()| answers.fill(value.as_deref().map_or(&[], |value| value)));
                total = total.saturating_add(filled.as_ref().map_or(0, |filled| filled.len()));
                *value =
                    if total > MAX_RESOLVED { Err("what {REF:…} lead to is over 128 MiB together") } else { filled };
            }
        }
        values.into_iter().map(|value| value.map(|mut value| Secret::new(std::mem::take(&mut *value)))).collect()
    }
}

fn contained<T>(work: impl FnOnce() -> Result<T, Stop>) -> Result<T, Stop> {
    contain(work).unwrap_or(Err(Stop::Damaged("the document inside makes its decoder fail")))
}

/// Passes groups and entries on to the sink.
struct Handing<'a> {
    sink: &'a mut dyn Sink,
    templates: &'a Rc<RefCell<Templates>>,
}

impl xml::Visitor for Handing<'_> {
    /// The name of a folder is the path below the root group. The path including the root group is an alias, which is
    /// not listed. The entries of the root group are in no folder.
    fn group(&mut self, uuid: &[u8; 16], path: &[String]) -> Result<(), Stop> {
        let id = entry::dashed(uuid);
        if let Some((_, below @ [_, ..])) = path.split_first() {
            self.sink.folder(&id, &below.join("/")).map_err(Stop::Sink)?;
        }
        self.sink.alias(&format!("{id} "), &path.join("/")).map_err(Stop::Sink)
    }

    fn entry(&mut self, entry: Entry, group: &[u8; 16]) -> Result<(), Stop> {
        let name = String::from_utf8_lossy(entry.string("Title").unwrap_or_default()).into_owned();
        let group = entry::dashed(group);
        let places = vec![group.clone(), format!("{group} ")];
        let placed = PlacedEntry { entry, name, places, templates: Rc::clone(self.templates) };
        self.sink.item(&placed).map_err(Stop::Sink)
    }
}

/// Decompresses at most `limit` bytes. No bytes are an empty attachment: KeePass and KeePassXC do not compress one, and
/// call it compressed all the same.
fn gunzip(bytes: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>, Stop> {
    if bytes.is_empty() {
        return Ok(Zeroizing::default());
    }
    read::to_end(GzDecoder::new(bytes), 0, limit).map_err(|problem| match problem {
        read::ReadError::Over(limit) => {
            Stop::Over(format!("an attachment is over {} MiB, the longest that is read", limit / MIB))
        }
        _ => Stop::Damaged("an attachment is damaged: it cannot be decompressed"),
    })
}

#[cfg(test)]
mod tests;
