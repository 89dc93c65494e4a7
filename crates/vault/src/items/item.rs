//! What the items of all password managers have in common, and which value of an item a reference means.
//!
//! Without a field: the password, and nothing else. With one: a built-in field of that name if the item has it, else the
//! custom field of that name.

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::error::shown;
use crate::{LookupError, Reference};

/// How many of an item's fields an error names.
const NAMED_FIELDS: usize = 30;

/// An item of a password manager, as its reader hands it on. One in the trash or the archive is not handed on.
pub(crate) trait Entry {
    /// Its id; empty when the format has none.
    fn id(&self) -> &str;
    /// Its name.
    fn name(&self) -> &str;
    /// The ids of the folders, collections or vaults that it is in: those of [`Sink::folder`].
    fn places(&self) -> Vec<&str>;
    /// When it was last changed, RFC 3339 or at least beginning with `YYYY-MM-DD`; `None` when that is not known.
    fn changed(&self) -> Option<&str>;
    /// Its fields, built-in ones first. Called for items that are wanted or listed, and for no others.
    fn fields(&self) -> Vec<Field>;
}

/// Who takes what a reader finds. Folders and items may come in any order.
pub(crate) trait Sink {
    /// Takes a folder, collection or vault: its id and its name, which holds the names of those above it, joined by `/`.
    /// Where folders have no ids, the name is the id.
    ///
    /// # Errors
    /// Too much to keep.
    fn folder(&mut self, id: &str, name: &str) -> Result<(), Limit>;

    /// Takes another name of a folder, with an id of its own: items can be found by it, and it is not listed.
    ///
    /// # Errors
    /// Too much to keep.
    fn alias(&mut self, id: &str, name: &str) -> Result<(), Limit> {
        self.folder(id, name)
    }

    /// Takes an item.
    ///
    /// # Errors
    /// Too much to keep, or too many candidates.
    fn item(&mut self, item: &dyn Entry) -> Result<(), Limit>;
}

/// A limit of a [`Sink`]; printed after the source's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Limit {
    /// What is kept in memory.
    #[error("the wanted values and the names of its folders are over 128 MiB, the most that is kept")]
    Kept,
    /// How many items could be the same wanted one.
    #[error("too many of its items could be a wanted one, and its folders come after them")]
    Candidates,
}

/// A field of an item.
pub(crate) struct Field {
    /// Its name: one of `password`, `username`, `totp`, `notes`, `uri`, `public_key`, `private_key`; `file:NAME` for an
    /// attachment; else a custom field's own.
    pub name: String,
    /// A custom field: a built-in one of the same name wins.
    pub is_custom: bool,
    /// What it holds.
    pub value: Value,
}

/// What a field holds.
pub(crate) enum Value {
    /// These bytes.
    Bytes(Zeroizing<Vec<u8>>),
    /// An attachment that the source reads when it is wanted: its place there, as the source itself says it.
    Attachment(String),
    /// A value that is no text, as no password manager writes it.
    NotText,
    /// A link to another field that has no value of its own.
    Linked,
    /// Something that cannot be had: what, and what to do. Never a value.
    Refused(String, String),
}

impl Field {
    /// A field that the password manager itself knows.
    pub(crate) fn built_in(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), is_custom: false, value: Value::text(text) }
    }

    /// A field that the person made.
    pub(crate) fn custom(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), is_custom: true, value }
    }

    /// An attachment called `name`, found again by `place`.
    pub(crate) fn attachment(name: &str, place: impl Into<String>) -> Self {
        Self { name: format!("file:{name}"), is_custom: true, value: Value::Attachment(place.into()) }
    }
}

impl Value {
    /// Text, its bytes as they are.
    pub(crate) fn text(text: &str) -> Self {
        // Exact capacity: nothing moves, so nothing is left behind.
        Self::Bytes(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

/// What was found for a reference.
pub(crate) enum Answer {
    /// The value.
    Value(Secret),
    /// Where the attachment is that holds it.
    Attachment(String),
}

impl Answer {
    /// Length in bytes of what is kept in memory.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Value(secret) => secret.len(),
            Self::Attachment(place) => place.len(),
        }
    }
}

/// The value that `reference` means, out of an item's `fields`.
///
/// # Errors
/// The item does not have the field, has it twice, or it has no text.
pub(crate) fn select(mut fields: Vec<Field>, reference: &Reference) -> Result<Answer, LookupError> {
    let name = reference.field.as_deref().unwrap_or("password");
    let built_in = fields.iter().position(|field| !field.is_custom && field.name == name);
    let chosen = match built_in {
        Some(at) => at,
        None if reference.field.is_none() => return Err(no_field(&fields, reference)),
        None => {
            let mut same = fields.iter().enumerate().filter(|(_, field)| field.name == name);
            let Some((at, _)) = same.next() else { return Err(no_field(&fields, reference)) };
            let more = same.count();
            if more > 0 {
                let (item, field) = (shown(&reference.item), shown(name));
                return Err(LookupError::SameField { item, field, count: more.saturating_add(1) });
            }
            at
        }
    };
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

fn no_field(fields: &[Field], reference: &Reference) -> LookupError {
    LookupError::NoField {
        item: shown(&reference.item),
        field: reference.field.as_deref().map(shown),
        fields: fields.iter().take(NAMED_FIELDS).map(|field| shown(&field.name)).collect(),
    }
}
