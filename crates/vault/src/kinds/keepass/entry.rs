//! A KeePass entry as an [`Entry`](crate::items::item::Entry): built-in fields under the names common to all password
//! managers.

use std::cell::RefCell;
use std::rc::Rc;

use zeroize::Zeroizing;

use super::refer::{self, Templates};
use crate::items::item::{self, Field, Value};

/// KeePass's names of its standard strings, and ours.
const BUILT_IN: [(&str, &str); 5] =
    [("Password", "password"), ("UserName", "username"), ("otp", "totp"), ("URL", "uri"), ("Notes", "notes")];

/// An entry of the database.
#[derive(Default)]
pub(super) struct Entry {
    /// With dashes, in lower case.
    uuid: String,
    /// All strings, including `Title`.
    pub strings: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// Attachments by name.
    pub attached: Vec<(String, Attached)>,
    /// RFC 3339, or the day only.
    pub changed: Option<String>,
}

/// The location of an attachment.
pub(super) enum Attached {
    /// In the database, with this reference.
    Reference(String),
    /// The content itself.
    Bytes(Zeroizing<Vec<u8>>),
}

impl Entry {
    pub(super) fn set_uuid(&mut self, uuid: &[u8; 16]) {
        self.uuid = dashed(uuid);
    }

    /// With dashes, in lower case.
    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The value of a string.
    pub(super) fn string(&self, name: &str) -> Option<&[u8]> {
        self.strings.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_slice())
    }
}

/// A UUID in the usual notation.
pub(super) fn dashed(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

/// An entry, and the groups that contain it.
pub(super) struct PlacedEntry {
    pub entry: Entry,
    /// Its title.
    pub name: String,
    /// Ids of its folders.
    pub places: Vec<String>,
    /// Receives values that refer to other entries.
    pub templates: Rc<RefCell<Templates>>,
}

impl PlacedEntry {
    fn value(&self, bytes: &[u8]) -> Value {
        if !refer::has_reference(bytes) {
            return Value::Bytes(Zeroizing::new(bytes.to_vec()));
        }
        match self.templates.borrow_mut().add(bytes) {
            Some(place) => Value::Attachment(place),
            None => Value::Refused("its {REF:…} cannot be resolved: there are too many".to_owned(), String::new()),
        }
    }
}

impl item::Entry for PlacedEntry {
    fn id(&self) -> &str {
        self.entry.uuid()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn places(&self) -> Vec<&str> {
        self.places.iter().map(String::as_str).collect()
    }

    fn changed(&self) -> Option<&str> {
        self.entry.changed.as_deref()
    }

    fn fields(&self) -> Vec<Field> {
        let built_in = BUILT_IN
            .into_iter()
            .filter_map(|(own, name)| Some(Field::built_in_value(name, self.value(self.entry.string(own)?))));
        let is_own = |name: &str| name == "Title" || BUILT_IN.iter().any(|(own, _)| *own == name && name != "otp");
        let custom = self.entry.strings.iter().filter(|(name, _)| !is_own(name));
        let custom = custom.map(|(name, value)| Field::custom(name, self.value(value)));
        let attached = self.entry.attached.iter().map(|(name, attached)| match attached {
            Attached::Reference(place) => Field::attachment(name, format!("file:{place}")),
            Attached::Bytes(bytes) => {
                Field::custom(&format!("file:{name}"), Value::Bytes(Zeroizing::new(bytes.to_vec())))
            }
        });
        built_in.chain(custom).chain(attached).collect()
    }
}
