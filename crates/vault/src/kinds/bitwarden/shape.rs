//! The JSON of an export: only the keys that are used; all others are skipped.
//!
//! The names of the keys are in `libs/common/src/models/export/` of bitwarden/clients: `cipher.export.ts`,
//! `login.export.ts`, `field.export.ts`, `ssh-key.export.ts`, `card.export.ts`, `identity.export.ts`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::items::item::LeftOut;
pub(super) use crate::items::json::{List, Number, Text};

/// Keys of the top level.
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

/// A folder or collection. Its name includes those of its parents, joined by `/`.
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
    pub(super) card: Option<Texts>,
    pub(super) identity: Option<Texts>,
    pub(super) fields: List<Field>,
    pub(super) attachments: List<Attachment>,
    /// Present if the item is in the trash.
    pub(super) deleted_date: Text,
    /// Present if the item is in the archive.
    pub(super) archived_date: Text,
    /// RFC 3339.
    pub(super) revision_date: Text,
}

impl Item {
    /// Where it is, if no value is taken from there.
    pub(super) fn left_out(&self) -> Option<LeftOut> {
        match (self.deleted_date.get(), self.archived_date.get()) {
            (Some(_), _) => Some(LeftOut::Trash),
            (None, Some(_)) => Some(LeftOut::Archive),
            (None, None) => None,
        }
    }
}

/// The login of an item of type 1.
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

/// An attachment's metadata; its content is a file of the ZIP export.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Attachment {
    pub(super) id: Text,
    pub(super) file_name: Text,
}

/// The key of an item of type 5.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SshKey {
    pub(super) private_key: Text,
    pub(super) public_key: Text,
}

/// Maximum number of keys of a card or an identity. An identity has 18.
const MAX_KEYS: usize = 200;

/// The texts of a card (type 3) or an identity (type 4), by Bitwarden's names: `number`, `code`, `firstName`, ….
/// `card.export.ts`, `identity.export.ts`.
#[derive(Default)]
pub(super) struct Texts(pub(super) Vec<(String, Text)>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(pair) = map.next_entry()? {
            texts.push(pair);
            if texts.len() > MAX_KEYS {
                return Err(A::Error::custom("too many keys"));
            }
        }
        Ok(Texts(texts))
    }
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
    /// Target of a linked field: 100 the login's username, 101 its password.
    pub(super) linked_id: Number,
}
