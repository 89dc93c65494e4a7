//! The common form of items of all password managers, and the selection of the field that a reference names.
//!
//! Without a field: the password only. With a field: the built-in field of that name if the item has it, otherwise the
//! custom field, otherwise the field with that id or `SECTION/NAME`.

use std::collections::{HashMap, HashSet};

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use super::words::is_common_name;
use crate::error::shown;
use crate::{LookupError, Reference};

/// The field of a reference that names none.
const PASSWORD: &str = "password";

/// Maximum number of an item's fields that an error names.
const NAMED_FIELDS: usize = 30;

/// An item as a reader passes it to a [`Sink`].
pub(crate) trait Entry {
    /// Its id; empty if the format has none.
    fn id(&self) -> &str;
    /// Its name.
    fn name(&self) -> &str;
    /// The ids, as in [`Sink::folder`], of the folders, collections or vaults that contain it.
    fn places(&self) -> Vec<&str>;
    /// Time of its last change: RFC 3339, or a text that starts with `YYYY-MM-DD`. `None` if unknown.
    fn changed(&self) -> Option<&str>;
    /// Its fields, built-in ones first. Called only for items that are wanted or listed.
    fn fields(&self) -> Vec<Field>;
}

/// Receives the folders and items of a reader, in any order.
pub(crate) trait Sink {
    /// Receives a folder, collection or vault: its id, and its name including those of its parents, joined by `/`. If
    /// the format has no folder ids, the name is also the id.
    ///
    /// # Errors
    /// A limit on memory is exceeded.
    fn folder(&mut self, id: &str, name: &str) -> Result<(), SinkLimit>;

    /// Receives another name of a folder, with its own id: items can be found by it, but it is not listed.
    ///
    /// # Errors
    /// A limit on memory is exceeded.
    fn alias(&mut self, id: &str, name: &str) -> Result<(), SinkLimit> {
        self.folder(id, name)
    }

    /// Receives an item.
    ///
    /// # Errors
    /// A limit on memory or on candidates is exceeded.
    fn item(&mut self, item: &dyn Entry) -> Result<(), SinkLimit>;

    /// Receives an item from which no value is taken, because of where it is. It is not listed.
    ///
    /// # Errors
    /// A limit on memory is exceeded.
    fn left_out(&mut self, _item: &dyn Entry, _place: LeftOut) -> Result<(), SinkLimit> {
        Ok(())
    }
}

/// Where an item is from which no value is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// In the trash.
    Trash,
    /// In the archive.
    Archive,
}

impl LeftOut {
    /// "the trash", "the archive".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trash => "the trash",
            Self::Archive => "the archive",
        }
    }
}

/// A limit of a [`Sink`]. Printed after the source's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SinkLimit {
    /// Total memory.
    #[error("the wanted values and the names of its folders are over 128 MiB, the most that is kept")]
    Kept,
    /// Number of items that may match one reference.
    #[error("too many of its items could be a wanted one, and its folders come after them")]
    Candidates,
}

/// A field of an item.
pub(crate) struct Field {
    /// Its name: `password`, `username`, `totp`, `notes`, `uri`, `public_key`, `private_key`; `file:NAME` for an
    /// attachment; or the name of a custom field.
    pub name: String,
    /// True for a custom field. A built-in field of the same name has priority.
    pub is_custom: bool,
    /// Other names that find it if no field has them as its name: `SECTION/NAME`, and its id. Most readable first.
    pub other_names: Vec<String>,
    /// True if its name may be a piece of a value: no message and no listing shows it.
    pub is_unnamed: bool,
    /// Its value.
    pub value: Value,
}

/// The value of a field.
pub(crate) enum Value {
    /// Bytes.
    Bytes(Zeroizing<Vec<u8>>),
    /// An attachment, read only if it is wanted: its location, in the source's own terms.
    Attachment(String),
    /// A value that is not text; no password manager writes one.
    NotText,
    /// A link to another field.
    Linked,
    /// A value that cannot be used: the message and a hint, without a part of the value.
    Refused(String, String),
}

impl Field {
    /// A built-in field.
    pub(crate) fn built_in(name: &str, text: &str) -> Self {
        Self::built_in_value(name, Value::text(text))
    }

    /// A built-in field with a value of any sort.
    pub(crate) fn built_in_value(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), is_custom: false, other_names: Vec::new(), is_unnamed: false, value }
    }

    /// A custom field.
    pub(crate) fn custom(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), is_custom: true, other_names: Vec::new(), is_unnamed: false, value }
    }

    /// A custom field whose name is what stands before a colon in free text.
    pub(crate) fn of_free_text(name: &str, value: Value) -> Self {
        Self { is_unnamed: !is_common_name(name), ..Self::custom(name, value) }
    }

    /// The same field with other names, each once, without empty ones.
    pub(crate) fn also_called(mut self, names: impl IntoIterator<Item = String>) -> Self {
        for name in names {
            if !name.is_empty() && name != self.name && !self.other_names.contains(&name) {
                self.other_names.push(name);
            }
        }
        self
    }

    /// An attachment called `name`, at `place` in the source's own terms.
    pub(crate) fn attachment(name: &str, place: impl Into<String>) -> Self {
        Self::custom(&format!("file:{name}"), Value::Attachment(place.into()))
    }
}

/// `SECTION/NAME`, for a field in a section with a name.
pub(crate) fn in_section(section: &str, name: &str) -> Option<String> {
    (!section.is_empty()).then(|| format!("{section}/{name}"))
}

impl Value {
    /// Text, byte for byte.
    pub(crate) fn text(text: &str) -> Self {
        // Exact capacity: the buffer never moves, so no copy remains.
        Self::Bytes(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

/// The result for one reference.
pub(crate) enum Answer {
    /// The value.
    Value(Secret),
    /// The location of the attachment that is the value.
    Attachment(String),
}

impl Answer {
    /// Length of the content in memory, in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Value(secret) => secret.len(),
            Self::Attachment(place) => place.len(),
        }
    }
}

/// Selects the field that `reference` names from an item's `fields`.
///
/// # Errors
/// The item lacks the field, has it twice, or its value cannot be used.
pub(crate) fn select(mut fields: Vec<Field>, reference: &Reference) -> Result<Answer, LookupError> {
    let chosen = choose(&fields, reference)?;
    let name = reference.field.as_deref().unwrap_or(PASSWORD);
    let (item, field) = (shown(&reference.item), shown(name));
    match fields.swap_remove(chosen).value {
        Value::Bytes(mut bytes) => Ok(Answer::Value(Secret::new(std::mem::take(&mut *bytes)))),
        Value::Attachment(place) => Ok(Answer::Attachment(place)),
        Value::NotText => Err(LookupError::NotText { item, field }),
        Value::Linked => Err(LookupError::Linked { item, field }),
        Value::Refused(what, hint) => {
            Err(LookupError::Refused { item: format!("{item}#{field}"), what, hint: Some(hint) })
        }
    }
}

/// The index of the field that `reference` names: the built-in field of that name, else the one custom field of that
/// name, else the one field with that other name. Without a name: the built-in password.
fn choose(fields: &[Field], reference: &Reference) -> Result<usize, LookupError> {
    let name = reference.field.as_deref().unwrap_or(PASSWORD);
    let found = |test: &dyn Fn(&Field) -> bool| -> Vec<usize> {
        fields.iter().enumerate().filter(|(_, field)| test(field)).map(|(index, _)| index).collect()
    };
    if let Some(&built_in) = found(&|field| !field.is_custom && field.name == name).first() {
        return Ok(built_in);
    }
    let named = found(&|field| field.name == name);
    let named = match named.as_slice() {
        [] if reference.field.is_some() => found(&|field| field.other_names.iter().any(|other| other == name)),
        // Without `#password`, a custom field of that name is not meant; several of them are told.
        [_] if reference.field.is_none() => Vec::new(),
        _ => named,
    };
    match named.as_slice() {
        [] => Err(LookupError::NoField {
            item: shown(&reference.item),
            field: reference.field.as_deref().map(shown),
            fields: names(fields).into_iter().take(NAMED_FIELDS).collect(),
            unnamed: fields.iter().filter(|field| field.is_unnamed).count(),
        }),
        [one] => Ok(*one),
        several => {
            let names = Names::of(fields);
            let ways = several.iter().filter_map(|index| names.unique(fields.get(*index)?)).map(shown);
            let (item, field) = (shown(&reference.item), shown(name));
            Err(LookupError::SameField { item, field, count: several.len(), ways: ways.take(NAMED_FIELDS).collect() })
        }
    }
}

/// The names that find the fields, each once, in their order, except those that may be values; safe for a terminal.
pub(crate) fn names(fields: &[Field]) -> Vec<String> {
    let names = Names::of(fields);
    let mut seen = HashSet::new();
    let name = |field| names.unique(field).unwrap_or(&field.name);
    let named = fields.iter().filter(|field| !field.is_unnamed);
    named.map(name).filter(|name| seen.insert(*name)).map(shown).collect()
}

/// How many fields of an item have a name, and how many have it as another name.
struct Names<'f> {
    names: HashMap<&'f str, usize>,
    others: HashMap<&'f str, usize>,
}

impl<'f> Names<'f> {
    fn of(fields: &'f [Field]) -> Self {
        fn count<'f>(texts: impl Iterator<Item = &'f str>) -> HashMap<&'f str, usize> {
            let mut counts = HashMap::new();
            for text in texts {
                let count: &mut usize = counts.entry(text).or_default();
                *count = count.saturating_add(1);
            }
            counts
        }
        Self {
            names: count(fields.iter().map(|field| field.name.as_str())),
            others: count(fields.iter().flat_map(|field| &field.other_names).map(String::as_str)),
        }
    }

    /// A name by which [`choose`] finds this field and no other.
    fn unique(&self, field: &'f Field) -> Option<&'f str> {
        if !field.is_custom || self.names.get(field.name.as_str()) == Some(&1) {
            return Some(&field.name);
        }
        let is_free = |name: &&str| !self.names.contains_key(*name) && self.others.get(*name) == Some(&1);
        field.other_names.iter().map(String::as_str).find(is_free)
    }
}
