//! `keepass`: databases of KeePass, KDBX 3.1 and 4.
//!
//! `header` reads what a file asks for and judges it before a key is derived; `key` derives it; `payload` decrypts and
//! checks; `inner` and `xml` read what is inside, one entry in memory at a time; `entry` says which fields one has, `refer`
//! resolves references to others. The decrypted document is kept compressed, as it is in the file, and gone through again
//! for an attachment or a reference.

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
use crate::input::{Input, read};
use crate::items::item::{Limit, Sink};
use crate::items::reader::Vault;
use crate::keys::{Declared, FileKeys, PasswordKeys};
use crate::kinds::Kind;
use crate::spec::FileSpec;
use crate::{OpenError, Source};
use entry::{Entry, Placed};
use header::{Header, Version};
use inner::{Found, Inner};
use payload::Problem;
use refer::{Answers, Templates};

/// The longest database, in bytes.
const MAX_FILE: usize = 256 << 20;
/// The longest document inside, decompressed, in bytes.
const MAX_DOCUMENT: u64 = 512 << 20;
/// The longest key file, in bytes.
const MAX_KEY_FILE: usize = 64 << 20;
/// What the values with references may become together, in bytes.
const MAX_RESOLVED: usize = 128 << 20;

/// A database.
pub(crate) struct Keepass<'m> {
    input: Input<'m>,
    key_file: Option<&'m Path>,
    /// What is inside, once it is decrypted.
    opened: Option<Opened>,
    /// Values that refer to others.
    templates: Rc<RefCell<Templates>>,
    /// The same, resolved, in their order.
    resolved: Option<Vec<Result<Secret, &'static str>>>,
}

/// A decrypted database.
struct Opened {
    header: Header,
    /// Compressed, if the header says so.
    payload: Zeroizing<Vec<u8>>,
}

/// Why reading the inside stopped.
#[derive(Debug)]
enum Stop {
    /// In words.
    Damaged(&'static str),
    /// Over a limit, in words.
    Over(String),
    /// A limit of the sink's.
    Sink(Limit),
}

impl Stop {
    fn words(self) -> String {
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

    /// Decrypts the database. Its key is derived here, and only here.
    fn open(&self) -> Result<Opened, OpenError> {
        let file = self.input.read(MAX_FILE)?;
        let header = Header::read(&file).map_err(|(what, hint)| self.input.refused(what, hint))?;
        payload::check_header(&file, &header).map_err(|problem| self.wrong(problem, false))?;
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
        let password = self.input.password()?;
        if password.is_none() && key_file.is_none() {
            let hint = "without `identity`, `password` opens the age file: add `identity`, or a `key_file`";
            return Err(self.input.refused("nothing is said that opens the database inside", hint));
        }
        let composite = key::composite(password.as_ref(), key_file.as_ref().map(|key| key.as_slice()));
        let transformed = key::transform(&composite, &header.kdf).map_err(|what| self.input.refused(what, ""))?;
        let payload = payload::open(file, &header, &transformed);
        let payload = payload.map_err(|problem| self.wrong(problem, password.is_some()))?;
        Ok(Opened { header, payload })
    }

    fn wrong(&self, problem: Problem, has_password: bool) -> OpenError {
        let what = match (problem, has_password, self.key_file.is_some()) {
            (Problem::Damaged(what), ..) => return self.input.refused(what, "is there a backup of it?"),
            (Problem::WrongKey, true, true) => "the password and the key file do not open it together",
            (Problem::WrongKey, false, _) => "the key file does not open it",
            (Problem::WrongKey, true, false) => "the password does not open it",
        };
        let hint = match (has_password, self.key_file.is_some()) {
            (true, true) => "are both the right ones? try them in KeePassXC",
            (false, _) => "if it also has a password, say `password`",
            (true, false) => "if it also has a key file, say `key_file`",
        };
        self.input.refused(what, hint)
    }
}

/// A KeePass database.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a keepass source", default, deny_unknown_fields)]
#[schemars(rename = "keepass-source", extend("required" = ["path"]))]
pub struct KeePassKeys {
    /// The database, or `-` for standard input; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// The database's password. None where a key file alone opens it.
    pub password: Field<PasswordKeys>,
    /// The database's key file.
    #[schemars(length(min = 1))]
    pub key_file: Field<String>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
}

/// What opens a KeePass database.
#[derive(Debug, Clone)]
pub struct KeePassSpec {
    /// The database, and its password.
    pub file: FileSpec,
    /// Its key file.
    pub key_file: Option<PathBuf>,
}

impl Kind for Keepass<'_> {
    type Keys = KeePassKeys;
    type Spec = KeePassSpec;

    fn check(declared: &Declared<'_>, keys: KeePassKeys) -> Option<KeePassSpec> {
        let neither = keys.password.is_missing() && keys.key_file.is_missing();
        if neither {
            let hint = "`password: { env: NAME }`, `password: ask`, or `key_file: FILE`; both if it needs both";
            declared.problem("a keepass source needs a `password` or a `key_file`", hint);
        }
        let key_file = declared.path(keys.key_file);
        let file = FileKeys { path: keys.path, password: keys.password, identity: keys.identity };
        let file = declared.file(file, true)?;
        let key_file = key_file?;
        (!neither).then_some(KeePassSpec { file, key_file })
    }

    fn open<'m>(spec: &'m KeePassSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Keepass::new(Input::new(name, &spec.file, context), spec.key_file.as_deref()))
    }

    fn file(spec: &KeePassSpec) -> Option<&FileSpec> {
        Some(&spec.file)
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
            stop => self.input.refused(stop.words(), ""),
        })
    }

    fn attachment(&mut self, place: &str) -> Result<Secret, String> {
        let not_there = || format!("{} cannot be read", shown(place));
        let opened = self.opened.as_ref().ok_or_else(not_there)?;
        if let Some(id) = place.strip_prefix("file:") {
            let mut bytes = opened.attachment(id).map_err(Stop::words)?;
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
    /// What is inside, decompressed as it is read.
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
                Found::Stream(inner) => inner,
                Found::Attachment(_) => return Err(Stop::Damaged("the header inside is damaged")),
            },
        };
        Ok((document, inner))
    }

    fn read(&self, visitor: &mut dyn xml::Visitor) -> Result<(), Stop> {
        contained(|| {
            let (document, inner) = self.inside()?;
            xml::read(document, inner, visitor)
        })
    }

    /// An attachment by its reference: in version 4 its number in the inner header, in version 3 its `ID` in the document.
    fn attachment(&self, id: &str) -> Result<Zeroizing<Vec<u8>>, Stop> {
        contained(|| match &self.header.version {
            Version::Three { inner: (stream, key), .. } => xml::binary(self.document(), Inner::new(*stream, key)?, id),
            Version::Four => {
                let index = id.parse().map_err(|_| Stop::Damaged(xml::NO_BINARY))?;
                match inner::header(&mut self.document(), Some(index))? {
                    Found::Attachment(bytes) => Ok(bytes),
                    Found::Stream(_) => Err(Stop::Damaged(xml::NO_BINARY)),
                }
            }
        })
    }

    /// Puts in what values refer to. Each step goes through the document once, for all of them.
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
                    _ if step == refer::MOST_STEPS => *value = Err("its {REF:…} lead in a circle, or over 10 steps on"),
                    Ok(()) => open.push(index),
                    Err(what) => *value = Err(what),
                }
            }
            if open.is_empty() {
                break;
            }
            // It was read to its end once: what could go wrong now has gone wrong then.
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

/// Hands groups and entries on.
struct Handing<'a> {
    sink: &'a mut dyn Sink,
    templates: &'a Rc<RefCell<Templates>>,
}

impl xml::Visitor for Handing<'_> {
    /// A folder is the path below the root group. The path from the root group on is taken as well, and not listed: the
    /// entries of the root group itself are in no folder.
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
        let placed = Placed { entry, name, places, templates: Rc::clone(self.templates) };
        self.sink.item(&placed).map_err(Stop::Sink)
    }
}

/// Decompresses at most `limit` bytes.
fn gunzip(bytes: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>, Stop> {
    read::to_end(GzDecoder::new(bytes), 0, limit).map_err(|problem| match problem {
        read::ReadError::Over(limit) => {
            Stop::Over(format!("an attachment is over {} MiB, the longest that is read", limit / MIB))
        }
        _ => Stop::Damaged("an attachment is damaged: it cannot be decompressed"),
    })
}

#[cfg(test)]
mod tests;
