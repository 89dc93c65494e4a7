//! A Proton Pass item as an [`Entry`]: built-in fields under the names common to all password managers, then custom
//! fields.

use std::cell::OnceCell;
use std::collections::HashMap;

use deaddrop_core::day::day;

use super::shape::{Content, Extra, Item, place};
use crate::items::item::{Entry, Field, Value, in_section};
use crate::items::json::Text;

/// Length of the ids that earlier versions put before a file's name and `-`.
const OLD_ID: usize = 16;

/// Minimum length of the part of a file's name that is taken as the id before the suffix.
const SHORTEST_ID: usize = 16;

/// Keys of an item's content that are built-in fields.
const BUILT_IN: [&str; 7] = ["password", "itemUsername", "username", "totpUri", "privateKey", "publicKey", "itemEmail"];

/// The files in the archive.
#[derive(Default)]
pub(super) struct Files {
    by_name: HashMap<String, usize>,
    /// Names and indexes by the ids of earlier versions.
    by_id: HashMap<String, (String, usize)>,
}

impl Files {
    /// Adds the file called `name`.
    pub(super) fn add(&mut self, name: &str, index: usize) {
        if let Some((id, rest)) = name.split_at_checked(OLD_ID)
            && let Some(rest) = rest.strip_prefix('-')
        {
            self.by_id.insert(id.to_owned(), (rest.to_owned(), index));
        }
        self.by_name.insert(name.to_owned(), index);
    }

    /// The attachment that `listed`, an element of an item's `files`, refers to, under one or two names.
    fn find(&self, listed: &str) -> Vec<Field> {
        // In the archive, a name has no directories.
        let name = listed.replace(['/', '\\'], "_");
        if let Some(index) = self.by_name.get(&name) {
            let names = [Some(name.clone()), without_id(&name)];
            return names.iter().flatten().map(|name| Field::attachment(name, index.to_string())).collect();
        }
        if let Some((name, index)) = self.by_id.get(listed) {
            return vec![Field::attachment(name, index.to_string())];
        }
        let hint = "export again, with the attachments";
        let value = Value::Refused("this file is not in the export".to_owned(), hint.to_owned());
        vec![Field::custom(&format!("file:{name}"), value)]
    }
}

/// `NAME.ID.SUFFIX` or `NAME.ID`, without the id.
fn without_id(name: &str) -> Option<String> {
    let is_id = |piece: &str| {
        piece.len() >= SHORTEST_ID && piece.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte))
    };
    let (rest, last) = name.rsplit_once('.')?;
    if is_id(last) {
        return Some(rest.to_owned());
    }
    let (rest, id) = rest.rsplit_once('.')?;
    is_id(id).then(|| format!("{rest}.{last}"))
}

/// An item, and the vault that contains it.
pub(super) struct PlacedItem<'i> {
    item: &'i Item,
    vault: &'i str,
    folder: Option<String>,
    files: &'i Files,
    changed: OnceCell<Option<String>>,
}

impl<'i> PlacedItem<'i> {
    /// `item` in the vault `vault`.
    pub(super) fn new(item: &'i Item, vault: &'i str, files: &'i Files) -> Self {
        let folder = item.folder_id.get().map(|id| place(vault, id));
        Self { item, vault, folder, files, changed: OnceCell::new() }
    }

    fn content(&self) -> Option<&'i Content> {
        self.item.data.as_ref()?.content.as_ref()
    }

    /// All custom fields, each with the name of its section, or an empty one.
    fn extra(&self) -> impl Iterator<Item = (&'i str, &'i Extra)> {
        let own = self.item.data.iter().flat_map(|data| &data.extra_fields.0);
        let own = own.chain(self.content().into_iter().flat_map(|content| &content.extra).flat_map(|list| &list.0));
        let sections = self.content().into_iter().flat_map(|content| &content.sections).flat_map(|list| &list.0);
        let in_sections = sections.flat_map(|section| {
            section.section_fields.0.iter().map(|field| (section.section_name.get().unwrap_or_default(), field))
        });
        own.map(|field| ("", field)).chain(in_sections)
    }

    /// The first non-empty value; if all are empty, the first that exists.
    fn first(&self, keys: &[&str], others: &[Option<&Text>]) -> Option<Value> {
        let own = keys.iter().map(|key| self.content().and_then(|content| content.get(key)));
        let there = || own.clone().chain(others.iter().copied()).flatten().filter(|text| !matches!(text, Text::Absent));
        there().find(|text| text.get() != Some("")).or_else(|| there().next()).and_then(value)
    }
}

impl Entry for PlacedItem<'_> {
    fn id(&self) -> &str {
        self.item.item_id.get().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.item.data.as_ref().and_then(|data| data.metadata.name.get()).unwrap_or_default()
    }

    fn places(&self) -> Vec<&str> {
        [self.vault].into_iter().chain(self.folder.as_deref()).collect()
    }

    fn changed(&self) -> Option<&str> {
        self.changed.get_or_init(|| self.item.modify_time.number().and_then(day)).as_deref()
    }

    fn fields(&self) -> Vec<Field> {
        let alias = Some(&self.item.alias_email);
        let extra_totp =
            self.extra().map(|(_, extra)| extra).find(|extra| extra.kind.get() == Some("totp")).map(Extra::value);
        let note = self.item.data.as_ref().map(|data| &data.metadata.note);
        let uri = self.content().and_then(|content| {
            let autofilled = content.autofill_urls.0.iter().map(|autofilled| &autofilled.url);
            content.urls.0.iter().chain(autofilled).next()
        });
        let built_in = [
            ("password", self.first(&["password"], &[])),
            ("username", self.first(&["itemUsername", "username", "itemEmail"], &[alias])),
            ("totp", self.first(&["totpUri"], &[extra_totp])),
            ("uri", uri.and_then(value)),
            ("notes", note.and_then(value)),
            ("private_key", self.first(&["privateKey"], &[])),
            ("public_key", self.first(&["publicKey"], &[])),
        ];
        let mut fields: Vec<Field> =
            built_in.into_iter().filter_map(|(name, value)| Some(Field::built_in_value(name, value?))).collect();
        let email = self.first(&["itemEmail"], &[alias]);
        fields.extend(email.filter(is_filled).map(|email| Field::custom("email", email)));
        // An identity has dozens of empty values, and its numbers are enumerations.
        let own = self.content().into_iter().flat_map(|content| &content.values);
        let own = own
            .filter(|(key, text)| !BUILT_IN.contains(&key.as_str()) && text.get().is_some_and(|text| !text.is_empty()));
        fields.extend(own.filter_map(|(key, text)| Some(Field::custom(key, value(text)?))));
        fields.extend(self.extra().filter_map(|(section, extra)| {
            let name = extra.field_name.get()?;
            Some(Field::custom(name, value(extra.value())?).also_called(in_section(section, name)))
        }));
        let files = self.item.files.0.iter().filter_map(Text::get);
        fields.extend(files.flat_map(|listed| self.files.find(listed)));
        fields
    }
}

fn is_filled(value: &Value) -> bool {
    !matches!(value, Value::Bytes(bytes) if bytes.is_empty())
}

fn value(text: &Text) -> Option<Value> {
    match text {
        Text::Absent => None,
        text => Some(text.get().map_or(Value::NotText, Value::text)),
    }
}
