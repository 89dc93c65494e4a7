//! A 1Password item as an [`Entry`]: built-in fields under the names common to all password managers, then custom
//! fields.

use std::cell::OnceCell;
use std::collections::HashMap;

use deaddrop_core::day::day;

use super::shape::{Address, Document, Held, Item, LoginField, SectionField, SshKey};
use crate::items::item::{Entry, Field, Value, in_section};
use crate::items::json::Text;

/// Ids of the section fields that hold an item's password: of a server, a database, an e-mail account and others; of an
/// API credential; of a wireless router.
const PASSWORD_IDS: [&str; 3] = ["password", "credential", "wireless_password"];

/// Ids of the section fields that hold an item's user name.
const USERNAME_IDS: [&str; 1] = ["username"];

/// An item, and the vault that contains it.
pub(super) struct PlacedItem<'i> {
    item: &'i Item,
    place: &'i str,
    files: &'i HashMap<String, usize>,
    changed: OnceCell<Option<String>>,
}

impl<'i> PlacedItem<'i> {
    /// `item` in the vault `place`. `files`: indexes in the archive by document id.
    pub(super) fn new(item: &'i Item, place: &'i str, files: &'i HashMap<String, usize>) -> Self {
        Self { item, place, files, changed: OnceCell::new() }
    }

    fn login_fields(&self) -> impl Iterator<Item = &'i LoginField> {
        self.item.details.iter().flat_map(|details| details.login_fields.0.iter().flatten())
    }

    fn section_fields(&self) -> impl Iterator<Item = (&'i Text, &'i SectionField)> {
        let sections = self.item.details.iter().flat_map(|details| details.sections.0.iter().flatten());
        sections.flat_map(|section| section.fields.0.iter().flatten().map(|field| (&section.title, field)))
    }

    /// A built-in field of a login: the designated field, `other`, or the section field with one of `ids`; the first
    /// non-empty one.
    fn login(&self, designation: &str, other: Option<Value>, ids: &[&str]) -> Option<Value> {
        let designated = self.login_fields().filter(|field| field.designation.get() == Some(designation));
        let designated = designated.filter_map(|field| value(&field.value));
        let with_id =
            ids.iter().flat_map(|id| self.section_fields().filter(move |(_, field)| field.id.get() == Some(*id)));
        let with_id = with_id.filter_map(|(_, field)| value(&field.value));
        let mut empty = None;
        for value in designated.chain(other).chain(with_id) {
            match &value {
                Value::Bytes(bytes) if bytes.is_empty() => empty.get_or_insert(value),
                _ => return Some(value),
            };
        }
        empty
    }

    fn uri(&self) -> Option<Value> {
        let overview = self.item.overview.as_ref();
        let urls = overview
            .into_iter()
            .flat_map(|overview| [&overview.url].into_iter().chain(overview.urls.0.iter().map(|url| &url.url)));
        let fields = self.section_fields().filter_map(|(_, field)| match &field.value {
            Held::Url(url) => Some(url),
            _ => None,
        });
        urls.chain(fields).find(|url| url.get().is_some_and(|url| !url.is_empty())).and_then(text)
    }

    fn ssh_key(&self) -> Option<&'i SshKey> {
        self.section_fields().find_map(|(_, field)| match &field.value {
            Held::SshKey(key) => Some(&**key),
            _ => None,
        })
    }

    fn totp(&self) -> Option<Value> {
        self.section_fields().find_map(|(_, field)| match &field.value {
            Held::Totp(totp) => text(totp),
            _ => None,
        })
    }

    /// An attachment, if it has a name.
    fn attachment(&self, document: &Document) -> Option<Field> {
        let name = document.file_name.get()?;
        let index = document.document_id.get().and_then(|id| self.files.get(id));
        Some(match index {
            Some(index) => Field::attachment(name, index.to_string()),
            None => {
                let hint = "export again, and wait until 1Password has loaded its documents";
                let value = Value::Refused("this file is not in the export".to_owned(), hint.to_owned());
                Field::custom(&format!("file:{name}"), value)
            }
        })
    }

    /// A section's field, as a custom field.
    fn custom(&self, section: &Text, field: &SectionField, fields: &mut Vec<Field>) {
        if let Held::File(document) = &field.value {
            fields.extend(self.attachment(document));
            return;
        }
        let Some(name) = first_text([&field.title, &field.id, section]) else { return };
        let id = field.id.get().unwrap_or_default();
        let names = |name: &str| in_section(section.get().unwrap_or_default(), name).into_iter();
        match &field.value {
            Held::Address(address) => {
                fields.extend(parts(name, address).map(|part| {
                    let names = names(&part.name);
                    part.also_called(names)
                }));
            }
            held => fields.extend(
                value(held).map(|value| Field::custom(name, value).also_called(names(name).chain([id.to_owned()]))),
            ),
        }
    }
}

impl Entry for PlacedItem<'_> {
    fn id(&self) -> &str {
        self.item.uuid.get().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.item.overview.as_ref().and_then(|overview| overview.title.get()).unwrap_or_default()
    }

    fn places(&self) -> Vec<&str> {
        vec![self.place]
    }

    fn changed(&self) -> Option<&str> {
        self.changed.get_or_init(|| self.item.updated_at.number().and_then(day)).as_deref()
    }

    fn fields(&self) -> Vec<Field> {
        let details = self.item.details.as_ref();
        let key = self.ssh_key();
        let built_in = [
            ("password", self.login("password", details.and_then(|details| text(&details.password)), &PASSWORD_IDS)),
            ("username", self.login("username", None, &USERNAME_IDS)),
            ("totp", self.totp()),
            ("uri", self.uri()),
            ("notes", details.and_then(|details| text(&details.notes_plain))),
            ("private_key", key.and_then(|key| text(key.private_key()))),
            ("public_key", key.and_then(|key| text(key.public_key()))),
        ];
        let mut fields: Vec<Field> =
            built_in.into_iter().filter_map(|(name, value)| Some(Field::built_in_value(name, value?))).collect();
        let mut custom = Vec::new();
        for field in self.login_fields().filter(|field| field.designation.get().is_none_or(str::is_empty)) {
            let named = first_text([&field.name, &field.id]).zip(value(&field.value));
            let id = field.id.get().unwrap_or_default().to_owned();
            custom.extend(named.map(|(name, value)| Field::custom(name, value).also_called([id])));
        }
        for (section, field) in self.section_fields() {
            // A server's field "password" is already its built-in password.
            let is_built_in = PASSWORD_IDS.iter().chain(&USERNAME_IDS).any(|id| field.id.get() == Some(*id))
                && fields.iter().any(|built_in| Some(built_in.name.as_str()) == field.title.get());
            if !is_built_in {
                self.custom(section, field, &mut custom);
            }
        }
        fields.append(&mut custom);
        let document = details.and_then(|details| details.document_attributes.as_ref());
        fields.extend(document.and_then(|document| self.attachment(document)));
        fields
    }
}

/// The single value of a field. `None` if it has none, or several.
fn value(held: &Held) -> Option<Value> {
    match held {
        Held::Absent | Held::Address(_) | Held::File(_) => None,
        Held::Text(held) | Held::Totp(held) | Held::Url(held) => text(held),
        Held::Date(date) => Some(date.number().and_then(day).map_or(Value::NotText, |day| Value::text(&day))),
        Held::MonthYear(month) => Some(match month.number() {
            Some(month @ 100_001..=999_912) => Value::text(&format!("{:04}-{:02}", month / 100, month % 100)),
            _ => Value::NotText,
        }),
        Held::SshKey(key) => text(key.private_key()),
    }
}

fn text(text: &Text) -> Option<Value> {
    match text {
        Text::Absent => None,
        text => Some(text.get().map_or(Value::NotText, Value::text)),
    }
}

/// The parts of an address as fields `NAME/street` and so on.
fn parts<'a>(name: &'a str, address: &'a Address) -> impl Iterator<Item = Field> + 'a {
    let parts = [
        ("street", &address.street),
        ("city", &address.city),
        ("state", &address.state),
        ("zip", &address.zip),
        ("country", &address.country),
    ];
    parts.into_iter().filter_map(move |(part, held)| Some(Field::custom(&format!("{name}/{part}"), text(held)?)))
}

/// The first non-empty text.
fn first_text<'a>(texts: impl IntoIterator<Item = &'a Text>) -> Option<&'a str> {
    texts.into_iter().filter_map(Text::get).find(|text| !text.is_empty())
}
