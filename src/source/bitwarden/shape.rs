//! What stands in an export: only the keys that matter here, everything else is skipped unseen.
//!
//! The names of the keys are those of `libs/common/src/models/export/` in bitwarden/clients: `cipher.export.ts`,
//! `login.export.ts`, `field.export.ts`, `ssh-key.export.ts`. A value that is not text does not stop the reading: it
//! matters only if it is asked for.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

/// The longest list inside one item (custom fields, URIs, collections).
const LONGEST_LIST: usize = 1000;

/// Keys of an export's top level.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
pub(super) enum TopKey {
    Encrypted,
    PasswordProtected,
    Folders,
    Collections,
    Items,
    #[serde(other)]
    Other,
}

/// A folder or collection. Its name holds the names of those above it, joined by `/`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Folder {
    pub(super) id: Text,
    pub(super) name: Text,
}

/// An item ("cipher").
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Item {
    pub(super) id: Text,
    pub(super) name: Text,
    pub(super) folder_id: Text,
    pub(super) collection_ids: List<Text>,
    pub(super) notes: Text,
    pub(super) login: Option<Login>,
    pub(super) ssh_key: Option<SshKey>,
    pub(super) fields: List<Field>,
    /// Set for an item in the trash.
    pub(super) deleted_date: Text,
    /// RFC 3339.
    pub(super) revision_date: Text,
}

/// What an item of type 1 has.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Login {
    pub(super) username: Text,
    pub(super) password: Text,
    pub(super) totp: Text,
    pub(super) uris: List<Uri>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Uri {
    pub(super) uri: Text,
}

/// What an item of type 5 has.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SshKey {
    pub(super) private_key: Text,
    pub(super) public_key: Text,
}

/// A custom field.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Field {
    pub(super) name: Text,
    pub(super) value: Text,
    /// 0 text, 1 hidden, 2 boolean, 3 linked.
    #[serde(rename = "type")]
    pub(super) kind: Number,
    /// What a linked field stands for: 100 the login's username, 101 its password.
    pub(super) linked_id: Number,
}

/// A value that ought to be text. Its content is wiped when it goes.
#[derive(Default)]
pub(super) enum Text {
    /// Not there, or `null`.
    #[default]
    Absent,
    /// Text, or `true` or `false`.
    Is(Zeroizing<String>),
    /// A number, list or object.
    Other,
}

impl Text {
    /// The text, if it is text.
    pub(super) fn get(&self) -> Option<&str> {
        match self {
            Self::Is(text) => Some(text),
            Self::Absent | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        // Exact capacity: nothing moves, so nothing is left behind.
        Ok(Text::Is(Zeroizing::new(text.to_owned())))
    }
    fn visit_bool<E>(self, is: bool) -> Result<Text, E> {
        Ok(Text::Is(Zeroizing::new(is.to_string())))
    }
    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::Absent)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
}

/// A small number; `None` for everything else.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or null")
    }
    fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
        Ok(Number(Some(number)))
    }
    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number(None))
    }
}

/// A list of at most [`LONGEST_LIST`]; `null` is an empty one.
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }
    fn visit_unit<E>(self) -> Result<List<T>, E> {
        Ok(List::default())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
        let mut out = Vec::new();
        while let Some(element) = list.next_element()? {
            if out.len() == LONGEST_LIST {
                return Err(A::Error::custom("list too long"));
            }
            out.push(element);
        }
        Ok(List(out))
    }
}
