//! Which value of an item a reference means.
//!
//! Without a field: the login's password, and nothing else. With one: a built-in field of that name if the item has it,
//! else the custom field of that name.

use super::shape::{Field, Item, Number, Text};
use crate::manifest::Reference;
use crate::secret::Secret;
use crate::source::LookupError;
use crate::source::error::shown;

/// `type` of a custom field that is `true` or `false`.
const BOOLEAN: Number = Number(Some(2));
/// `type` of a custom field that stands for another one.
const LINKED: Number = Number(Some(3));
/// `linkedId` of the login's username. `LoginLinkedId` in bitwarden/clients.
const LINKED_USERNAME: Number = Number(Some(100));
/// `linkedId` of the login's password.
const LINKED_PASSWORD: Number = Number(Some(101));

/// How many of an item's fields an error names.
const NAMED_FIELDS: usize = 30;

/// The value that `reference` means in `item`.
///
/// # Errors
/// The item does not have the field, has it twice, or it has no text.
pub(super) fn select(item: &Item, reference: &Reference) -> Result<Secret, LookupError> {
    let value = match &reference.field {
        None => built_in(item, "password"),
        Some(field) => match built_in(item, field) {
            None => return custom(item, field, reference),
            built_in => built_in,
        },
    };
    match value {
        Some(text) => read(text, reference, reference.field.as_deref().unwrap_or("password")),
        None => Err(no_field(item, reference)),
    }
}

/// A field that Bitwarden itself knows, if the item has it.
fn built_in<'i>(item: &'i Item, name: &str) -> Option<&'i Text> {
    let login = item.login.as_ref();
    let text = match name {
        "password" => &login?.password,
        "username" => &login?.username,
        "totp" => &login?.totp,
        "uri" => &login?.uris.0.first()?.uri,
        "notes" => &item.notes,
        "private_key" => &item.ssh_key.as_ref()?.private_key,
        "public_key" => &item.ssh_key.as_ref()?.public_key,
        _ => return None,
    };
    match text {
        Text::Absent => None,
        text => Some(text),
    }
}

fn custom(item: &Item, name: &str, reference: &Reference) -> Result<Secret, LookupError> {
    let mut fields = item.fields.0.iter().filter(|field| field.name.get() == Some(name));
    let field = fields.next().ok_or_else(|| no_field(item, reference))?;
    let more = fields.count();
    if more > 0 {
        let (item, field) = (shown(&reference.item), shown(name));
        return Err(LookupError::SameField { item, field, count: more.saturating_add(1) });
    }
    match &field.value {
        Text::Absent if field.kind == LINKED => match linked(item, field) {
            Some(text) => read(text, reference, name),
            None => Err(LookupError::Linked { item: shown(&reference.item), field: shown(name) }),
        },
        Text::Absent if field.kind == BOOLEAN => Ok(Secret::new(b"false".to_vec())),
        // A text field without text. Whether that will do is the caller's to say.
        Text::Absent => Ok(Secret::new(Vec::new())),
        text => read(text, reference, name),
    }
}

/// What a linked field stands for, if it is in the item's login.
fn linked<'i>(item: &'i Item, field: &Field) -> Option<&'i Text> {
    match field.linked_id {
        LINKED_USERNAME => built_in(item, "username"),
        LINKED_PASSWORD => built_in(item, "password"),
        _ => None,
    }
}

fn read(text: &Text, reference: &Reference, field: &str) -> Result<Secret, LookupError> {
    match text.get() {
        Some(text) => Ok(Secret::new(text.as_bytes().to_vec())),
        None => Err(LookupError::NotText { item: shown(&reference.item), field: shown(field) }),
    }
}

fn no_field(item: &Item, reference: &Reference) -> LookupError {
    const BUILT_IN: [&str; 7] = ["password", "username", "totp", "uri", "notes", "private_key", "public_key"];
    let built_in = BUILT_IN.into_iter().filter(|name| built_in(item, name).is_some()).map(str::to_owned);
    let custom = item.fields.0.iter().filter_map(|field| field.name.get()).map(shown);
    LookupError::NoField {
        item: shown(&reference.item),
        field: reference.field.as_deref().map(shown),
        fields: built_in.chain(custom).take(NAMED_FIELDS).collect(),
    }
}
