//! The JSON of `export.data`: only the keys that are used; all others are skipped.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::items::item::LeftOut;
use crate::items::json::{List, Text};

/// `attrs` of a vault.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Attributes {
    pub(super) name: Text,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Item {
    pub(super) uuid: Text,
    /// Seconds since 1970.
    pub(super) updated_at: Text,
    /// `active` or `archived`.
    state: Text,
    /// In exports of earlier versions: `true` for an item in the trash.
    trashed: Text,
    pub(super) details: Option<Details>,
    pub(super) overview: Option<Overview>,
}

impl Item {
    /// Where it is, if no value is taken from there.
    pub(super) fn left_out(&self) -> Option<LeftOut> {
        match self.state.get() {
            Some("trashed" | "deleted") => Some(LeftOut::Trash),
            Some("archived") => Some(LeftOut::Archive),
            _ => Some(LeftOut::Trash).filter(|_| self.trashed.get() == Some("true")),
        }
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Overview {
    pub(super) title: Text,
    pub(super) url: Text,
    pub(super) urls: List<Url>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Url {
    pub(super) url: Text,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Details {
    pub(super) login_fields: List<Option<LoginField>>,
    pub(super) notes_plain: Text,
    /// Only in items of the category "password".
    pub(super) password: Text,
    pub(super) sections: List<Option<Section>>,
    /// Only in items of the category "document".
    pub(super) document_attributes: Option<Document>,
}

/// A field of a web form. Its value is text, or an object as in a section.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct LoginField {
    pub(super) value: Held,
    pub(super) id: Text,
    pub(super) name: Text,
    /// `username`, `password`, or absent.
    pub(super) designation: Text,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Section {
    pub(super) title: Text,
    pub(super) fields: List<Option<SectionField>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct SectionField {
    pub(super) title: Text,
    pub(super) id: Text,
    pub(super) value: Held,
}

/// A file in the archive.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) file_name: Text,
    pub(super) document_id: Text,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SshKey {
    private_key: Text,
    metadata: KeyMetadata,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct KeyMetadata {
    private_key: Text,
    public_key: Text,
}

impl SshKey {
    /// The private key. It has two places, and some versions write a format other than PEM to one of them.
    pub(super) fn private_key(&self) -> &Text {
        let is_pem = |text: &Text| text.get().is_some_and(|text| text.starts_with("-----BEGIN"));
        if is_pem(&self.metadata.private_key) && !is_pem(&self.private_key) {
            &self.metadata.private_key
        } else {
            &self.private_key
        }
    }

    pub(super) fn public_key(&self) -> &Text {
        &self.metadata.public_key
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Address {
    pub(super) street: Text,
    pub(super) city: Text,
    pub(super) state: Text,
    pub(super) zip: Text,
    pub(super) country: Text,
}

/// The value of a field: an object with one key, its type; or text.
#[derive(Default)]
pub(super) enum Held {
    /// Nothing.
    #[default]
    Absent,
    /// `string`, `concealed`, `phone`, `menu`, `gender`, `creditCardType`, `creditCardNumber`, `email`, `reference`
    /// (another item's id), and unknown types.
    Text(Text),
    /// `totp`
    Totp(Text),
    /// `url`
    Url(Text),
    /// `date`, seconds since 1970
    Date(Text),
    /// `monthYear`, such as 202612
    MonthYear(Text),
    /// `address`
    Address(Box<Address>),
    /// `sshKey`
    SshKey(Box<SshKey>),
    /// `file`
    File(Document),
}

impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeldVisitor)
    }
}

struct HeldVisitor;

impl<'de> Visitor<'de> for HeldVisitor {
    type Value = Held;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_str<E>(self, text: &str) -> Result<Held, E> {
        Ok(Held::Text(Text::from(text)))
    }
    fn visit_bool<E>(self, is: bool) -> Result<Held, E> {
        Ok(Held::Text(Text::from(if is { "true" } else { "false" })))
    }
    fn visit_unit<E>(self) -> Result<Held, E> {
        Ok(Held::Absent)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Held, E> {
        Ok(Held::Text(Text::Other))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Held, E> {
        Ok(Held::Text(Text::Other))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Held, E> {
        Ok(Held::Text(Text::Other))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Held, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Held::Text(Text::Other))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Held, A::Error> {
        let mut held = Held::Absent;
        while let Some(key) = map.next_key::<String>()? {
            if !matches!(held, Held::Absent) || key == "provider" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            held = match key.as_str() {
                "totp" => Held::Totp(map.next_value()?),
                "url" => Held::Url(map.next_value()?),
                "date" => Held::Date(map.next_value()?),
                "monthYear" => Held::MonthYear(map.next_value()?),
                // `{email_address, provider}`, or text in earlier versions.
                "email" => map.next_value()?,
                "address" => map.next_value::<Option<_>>()?.map_or(Held::Absent, Held::Address),
                "sshKey" => map.next_value::<Option<_>>()?.map_or(Held::Absent, Held::SshKey),
                "file" => map.next_value::<Option<_>>()?.map_or(Held::Absent, Held::File),
                _ => Held::Text(map.next_value()?),
            };
        }
        Ok(held)
    }
}
