//! The JSON of Proton Pass: only the keys that are used; all others are skipped.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::items::item::LeftOut;
use crate::items::json::{List, Text};

/// Maximum number of keys of an item's content. An identity has about forty.
const MAX_KEYS: usize = 200;

/// The id of the folder `folder` in the vault `vault`.
pub(super) fn place(vault: &str, folder: &str) -> String {
    format!("{vault}/{folder}")
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Folder {
    pub(super) folder_id: Text,
    pub(super) parent_folder_id: Text,
    pub(super) name: Text,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Item {
    pub(super) item_id: Text,
    /// 1 active, 2 in the trash.
    state: Text,
    pub(super) folder_id: Text,
    /// The address of an alias.
    pub(super) alias_email: Text,
    /// Seconds since 1970.
    pub(super) modify_time: Text,
    /// Names of its files in the archive; in earlier versions the ids before these names.
    pub(super) files: List<Text>,
    pub(super) data: Option<Data>,
}

impl Item {
    /// Where it is, if no value is taken from there.
    pub(super) fn left_out(&self) -> Option<LeftOut> {
        (self.state.number() == Some(2)).then_some(LeftOut::Trash)
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Data {
    pub(super) metadata: Metadata,
    pub(super) content: Option<Content>,
    pub(super) extra_fields: List<Extra>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) name: Text,
    pub(super) note: Text,
}

/// A custom field.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Extra {
    pub(super) field_name: Text,
    /// `text`, `hidden`, `totp` or `timestamp`.
    #[serde(rename = "type")]
    pub(super) kind: Text,
    data: ExtraData,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExtraData {
    content: Text,
    totp_uri: Text,
    timestamp: Text,
}

impl Extra {
    pub(super) fn value(&self) -> &Text {
        match self.kind.get() {
            Some("totp") => &self.data.totp_uri,
            Some("timestamp") => &self.data.timestamp,
            _ => &self.data.content,
        }
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Section {
    pub(super) section_name: Text,
    pub(super) section_fields: List<Extra>,
}

/// An address, and the mode in which it is filled in, which is not used.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct AutofillUrl {
    pub(super) url: Text,
}

/// The content of an item: single values by key, and lists.
#[derive(Default)]
pub(super) struct Content {
    pub(super) values: Vec<(String, Text)>,
    /// Those of the default mode; all are in `autofill_urls`, which earlier versions do not write.
    pub(super) urls: List<Text>,
    pub(super) autofill_urls: List<AutofillUrl>,
    /// `extraPersonalDetails` and others of an identity.
    pub(super) extra: Vec<List<Extra>>,
    /// `sections`, and `extraSections` of an identity.
    pub(super) sections: Vec<List<Section>>,
}

impl Content {
    /// The single value with this key.
    pub(super) fn get(&self, key: &str) -> Option<&Text> {
        self.values.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut content = Content::default();
        let mut keys = 0;
        while let Some(key) = map.next_key::<String>()? {
            keys += 1;
            if keys > MAX_KEYS {
                return Err(A::Error::custom("too many keys"));
            }
            match key.as_str() {
                "urls" => content.urls = map.next_value()?,
                "autofillUrls" => content.autofill_urls = map.next_value()?,
                "passkeys" => drop(map.next_value::<IgnoredAny>()?),
                "sections" | "extraSections" => content.sections.push(map.next_value()?),
                key if key.starts_with("extra") => content.extra.push(map.next_value()?),
                _ => content.values.push((key, map.next_value()?)),
            }
        }
        Ok(content)
    }
}
