//! Errors of one item.

use std::path::PathBuf;

use deaddrop_core::limits::{MAX_TOTAL, MAX_VALUE, MIB};
use deaddrop_core::near::items::near;

use super::shown_path;
use crate::input::read::ReadError;
use crate::items::item::LeftOut;

/// One of several items that match a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// `folder/name`, or the name of an item without a folder; safe for a terminal.
    pub label: String,
    /// Its id; empty if the source has none.
    pub id: String,
    /// The day of its last change, `YYYY-MM-DD`, if known.
    pub changed: Option<String>,
}

/// An item that a source cannot provide. `item` is always the manifest's text, safe for a terminal.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No item has that id, name or folder/name.
    #[error("no item \"{item}\"")]
    NoItem {
        /// The item.
        item: String,
        /// Similar names, best first.
        near: Vec<String>,
        /// For a dotenv file: lines that do not parse, which may be the missing item.
        bad_lines: Vec<usize>,
    },
    /// The only items of that id, name or folder/name are where nothing is taken from.
    #[error("item \"{item}\" is in {}, and no value is taken from there", place.name())]
    LeftOut {
        /// The item.
        item: String,
        /// Where it is.
        place: LeftOut,
    },
    /// Several items have that id, name or folder/name.
    #[error("{} items are called \"{item}\"", count(found.len().saturating_add(*more)))]
    Ambiguous {
        /// The item.
        item: String,
        /// Some of them.
        found: Vec<Match>,
        /// The number of the others.
        more: usize,
    },
    /// The item does not have the field.
    #[error("item \"{item}\" has no {}; {}", field_name(field.as_deref()), fields_it_has(fields, *unnamed))]
    NoField {
        /// The item.
        item: String,
        /// The field; `None` for the password.
        field: Option<String>,
        /// The fields of the item.
        fields: Vec<String>,
        /// The number of its other fields, whose names may be pieces of values.
        unnamed: usize,
    },
    /// The item has several fields of that name, and no built-in one.
    #[error("item \"{item}\" has {count} fields called \"{field}\"")]
    SameField {
        /// The item.
        item: String,
        /// The field.
        field: String,
        /// Their number.
        count: usize,
        /// Names that find some of them.
        ways: Vec<String>,
    },
    /// The field's value is not text; no password manager writes such a field.
    #[error("field \"{field}\" of item \"{item}\" is not text")]
    NotText {
        /// The item.
        item: String,
        /// The field.
        field: String,
    },
    /// The field is a link to a field other than the login's username or password.
    #[error("field \"{field}\" of item \"{item}\" is linked to another field, and has no value of its own")]
    Linked {
        /// The item.
        item: String,
        /// The field.
        field: String,
    },
    /// The reference has a `#field`, and the source has no fields.
    #[error("`#{field}`: {kind} has no fields")]
    NoFields {
        /// The field.
        field: String,
        /// The kind of source, with its article.
        kind: &'static str,
        /// Item and field as one name, for a name that contains `#`.
        whole: String,
    },
    /// An item that is not available, for a reason of its kind that does not name the item first.
    #[error("{message}")]
    Other {
        /// The message, without a part of a value.
        message: String,
        /// The hint.
        hint: Option<String>,
    },
    /// The last line of the key in a dotenv file has no `=`.
    #[error("\"{item}\" has no value: its last line has no `=`")]
    NoValue {
        /// The key.
        item: String,
    },
    /// The file cannot be read.
    #[error("{}: {problem}", shown_path(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        problem: ReadError,
    },
    /// The value is empty, and the secret does not have `allow_empty: true`.
    #[error("\"{item}\" is empty")]
    Empty {
        /// The item, with its field.
        item: String,
    },
    /// The item is not available, for a reason of its kind.
    #[error("\"{item}\": {what}")]
    Refused {
        /// The item, with its field.
        item: String,
        /// The message, without a part of a value.
        what: String,
        /// The hint.
        hint: Option<String>,
    },
    /// The value exceeds [`MAX_VALUE`].
    #[error("the value of \"{item}\" is over {} MiB, the longest that is taken", MAX_VALUE / MIB)]
    TooLong {
        /// The item, with its field.
        item: String,
    },
    /// With this value, all values exceed [`MAX_TOTAL`].
    #[error("with \"{item}\", all values together are over {} MiB, the most that one run takes", MAX_TOTAL / MIB)]
    TooMuch {
        /// The item, with its field.
        item: String,
    },
}

impl LookupError {
    /// The hint for the user, if there is one. `name` is the source's name.
    pub(super) fn hint(&self, name: &str) -> Option<String> {
        match self {
            Self::NoItem { near, bad_lines, .. } => {
                let lines: Vec<String> = bad_lines.iter().map(usize::to_string).collect();
                match (near.as_slice(), lines.as_slice()) {
                    ([], []) => None,
                    ([], [line]) => Some(format!("line {line} of the file could not be understood")),
                    ([], _) => Some(format!("lines {} of the file could not be understood", lines.join(", "))),
                    (near, _) => {
                        let near: Vec<String> = near.iter().map(|item| format!("`{name}:{item}`")).collect();
                        Some(format!("did you mean {}?", near.join(" or ")))
                    }
                }
            }
            Self::Ambiguous { found, .. } => {
                let is_unique = |one: &&Match| {
                    one.label.contains('/') && found.iter().filter(|other| other.label == one.label).count() == 1
                };
                let without_ids = found.iter().all(|one| one.id.is_empty());
                Some(match found.iter().find(is_unique) {
                    Some(one) if without_ids => format!("write `{name}:{}`", one.label),
                    Some(one) => format!("write `{name}:{}`, or the id", one.label),
                    None if without_ids => "rename one of them: this kind of source has no ids".to_owned(),
                    None => format!("write the id, as in `{name}:{}`", found.first().map_or("", |one| &one.id)),
                })
            }
            Self::NoField { item, field, fields, .. } => {
                let wanted = field.as_deref().unwrap_or_default();
                match near(wanted, fields.iter().map(String::as_str)).first() {
                    Some(near) => Some(format!("did you mean `{name}:{item}#{near}`?")),
                    None => fields.first().map(|field| format!("name the field, as in `{name}:{item}#{field}`")),
                }
            }
            Self::SameField { item, ways, .. } => match ways.as_slice() {
                [] => Some("rename one of them".to_owned()),
                ways => {
                    let ways: Vec<String> = ways.iter().map(|way| format!("`{name}:{item}#{way}`")).collect();
                    Some(format!("write {}", ways.join(" or ")))
                }
            },
            Self::NoFields { whole, .. } => Some(format!(
                "leave it out; for a name that holds `#` write `from: {{ source: {name}, item: \"{whole}\" }}`"
            )),
            Self::File { problem, .. } => problem.hint(),
            Self::LeftOut { .. } => Some("restore it, or name another item".to_owned()),
            Self::Empty { .. } => Some("if that is meant, say `allow_empty: true`".to_owned()),
            Self::Linked { .. } => Some("name the field that it is linked to".to_owned()),
            Self::Other { hint, .. } | Self::Refused { hint, .. } => hint.clone().filter(|hint| !hint.is_empty()),
            Self::TooMuch { .. } => Some("share the secrets out over several manifests".to_owned()),
            Self::NotText { .. } | Self::NoValue { .. } | Self::TooLong { .. } => None,
        }
    }
}

/// "two items", "12 items".
fn count(number: usize) -> String {
    match number {
        2 => "two".to_owned(),
        3 => "three".to_owned(),
        more => more.to_string(),
    }
}

/// "password", or `field "pin"`.
fn field_name(field: Option<&str>) -> String {
    field.map_or_else(|| "password".to_owned(), |field| format!("field \"{field}\""))
}

/// The fields of an item, for a message.
fn fields_it_has(fields: &[String], unnamed: usize) -> String {
    match (fields, unnamed) {
        ([], 0) => "it has no fields".to_owned(),
        (fields, 0) => format!("it has: {}", fields.join(", ")),
        (fields, unnamed) => {
            format!("it has: {} (not shown, because they may be values: {unnamed} more)", fields.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_there_is_told_with_the_nearest_one_that_is() {
        let fields = ["password", "server", "agent", "agent token"].map(str::to_owned).to_vec();
        for (field, want) in [
            (Some("agent_token"), "did you mean `vault:K3s#agent token`?"),
            (Some("Server"), "did you mean `vault:K3s#server`?"),
            (Some("something else"), "name the field, as in `vault:K3s#password`"),
            (None, "name the field, as in `vault:K3s#password`"),
        ] {
            let field = field.map(str::to_owned);
            let error = LookupError::NoField { item: "K3s".into(), field, fields: fields.clone(), unnamed: 0 };
            assert_eq!(error.hint("vault").as_deref(), Some(want));
        }
    }
}
