//! A Bitwarden item as an [`Entry`]: built-in fields under the names common to all password managers, those of cards
//! and identities under Bitwarden's own, then custom fields.

use super::shape::{Field as CustomField, Item, Number, Text};
use crate::items::item::{Entry, Field, Value};

/// `type` of a boolean custom field.
const BOOLEAN: Number = Number(Some(2));
/// `type` of a custom field that links to another field.
const LINKED: Number = Number(Some(3));
/// `linkedId` of the login's username. `LoginLinkedId` in bitwarden/clients.
const LINKED_USERNAME: Number = Number(Some(100));
/// `linkedId` of the login's password.
const LINKED_PASSWORD: Number = Number(Some(101));

/// Names of the built-in fields.
const BUILT_IN: [&str; 7] = ["password", "username", "totp", "uri", "notes", "private_key", "public_key"];

impl Entry for Item {
    fn id(&self) -> &str {
        self.id.get().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.name.get().unwrap_or_default()
    }

    fn places(&self) -> Vec<&str> {
        self.folder_id.get().into_iter().chain(self.collection_ids.0.iter().filter_map(Text::get)).collect()
    }

    fn changed(&self) -> Option<&str> {
        self.revision_date.get()
    }

    fn fields(&self) -> Vec<Field> {
        let built_in =
            BUILT_IN.into_iter().filter_map(|name| Some(Field::built_in_value(name, value(built_in(self, name)?))));
        let custom =
            self.fields.0.iter().filter_map(|field| Some(Field::custom(field.name.get()?, custom(self, field))));
        let attachments = self.attachments.0.iter().filter_map(|attachment| {
            let place = format!("{}/{}", self.id(), attachment.id.get()?);
            Some(Field::attachment(attachment.file_name.get()?, place))
        });
        let of_kind = [&self.card, &self.identity].into_iter().flatten().flat_map(|texts| &texts.0);
        let of_kind = of_kind.filter(|(_, text)| !matches!(text, Text::Absent));
        let of_kind = of_kind.map(|(name, text)| Field::built_in_value(name, value(text)));
        built_in.chain(of_kind).chain(custom).chain(attachments).collect()
    }
}

/// The built-in field called `name`, if the item has it.
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

fn custom(item: &Item, field: &CustomField) -> Value {
    match &field.value {
        Text::Absent if field.kind == LINKED => match linked(item, field) {
            Some(text) => value(text),
            None => Value::Linked,
        },
        Text::Absent if field.kind == BOOLEAN => Value::text("false"),
        // An absent text is an empty one; the caller decides whether empty values are allowed.
        Text::Absent => Value::text(""),
        text => value(text),
    }
}

/// The target of a linked field, if it is in the item's login.
fn linked<'i>(item: &'i Item, field: &CustomField) -> Option<&'i Text> {
    match field.linked_id {
        LINKED_USERNAME => built_in(item, "username"),
        LINKED_PASSWORD => built_in(item, "password"),
        _ => None,
    }
}

fn value(text: &Text) -> Value {
    text.get().map_or(Value::NotText, Value::text)
}
