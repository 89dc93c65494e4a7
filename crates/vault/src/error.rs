//! What can go wrong with a source or an item, and what a person can do about it. Never a value.

use std::fmt;
use std::path::{Path, PathBuf};

use deaddrop_core::limits::{MAX_TOTAL, MAX_VALUE, MIB};

use crate::Reference;
use crate::input::read::ReadError;

/// How many secrets an error names before it counts the rest.
const NAMED_SECRETS: usize = 5;

/// Everything that went wrong in one [`super::fetch`]. Never empty.
#[derive(Debug)]
pub struct SourceErrors(pub(super) Vec<SourceError>);

impl SourceErrors {
    /// The errors, in the order in which the manifest names what they are about.
    pub fn iter(&self) -> std::slice::Iter<'_, SourceError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a SourceErrors {
    type Item = &'a SourceError;
    type IntoIter = std::slice::Iter<'a, SourceError>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for SourceErrors {
    /// One error below the other, without hints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SourceErrors {}

/// One thing that is wrong: which source, for which secrets, and what.
#[derive(Debug)]
pub struct SourceError {
    /// The source's name in the manifest.
    pub name: String,
    /// The secrets that want it, in the manifest's order.
    pub secrets: Vec<String>,
    /// What is wrong.
    pub cause: Cause,
}

impl SourceError {
    /// What to do about it, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.cause {
            Cause::Open(error) => error.hint(),
            Cause::Lookup(error) => error.hint(&self.name),
        }
    }
}

impl fmt::Display for SourceError {
    /// `SOURCE: what is wrong (for SECRET)`, and below it, indented, the details of an error that has some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.cause)?;
        let named = self.secrets.len().min(NAMED_SECRETS);
        if named > 0 {
            write!(f, " (for {}", self.secrets[..named].join(", "))?;
            match self.secrets.len() - named {
                0 => f.write_str(")")?,
                more => write!(f, " and {more} more)")?,
            }
        }
        if let Cause::Lookup(LookupError::Ambiguous { found, more, .. }) = &self.cause {
            let width = found.iter().map(|found| found.label.chars().count()).max().unwrap_or(0);
            for Match { label, id, changed } in found {
                // Some kinds of source have no ids.
                match (id.is_empty(), changed) {
                    (true, None) => write!(f, "\n   {label}")?,
                    _ => write!(f, "\n   {label:width$}   {id}")?,
                }
                if let Some(day) = changed {
                    write!(f, "   changed {day}")?;
                }
            }
            if *more > 0 {
                write!(f, "\n   and {more} more")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

/// What a [`SourceError`] is about.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The source as a whole.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// One item in it.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// A source cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The manifest does not declare it (validation finds this first).
    #[error("there is no such source")]
    Unknown,
    /// The file cannot be opened or read.
    #[error("{}: {problem}", shown_path(path))]
    Read {
        /// The source's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ReadError,
    },
    /// A dotenv file that is not UTF-8.
    #[error("{}:{line}: this is not UTF-8", shown_path(path))]
    NotUtf8 {
        /// The source's file.
        path: PathBuf,
        /// 1-based.
        line: usize,
    },
    /// An export that is not JSON, or not all of it.
    #[error("{}:{line}:{column}: {problem}", shown_path(path))]
    Json {
        /// The source's file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// 1-based, in bytes.
        column: usize,
        /// What is wrong, in words that are the same for every content.
        problem: &'static str,
    },
    /// A file that is something else than an export that can be read.
    #[error("{}: {kind}", shown_path(path))]
    WrongExport {
        /// The source's file.
        path: PathBuf,
        /// What it is.
        kind: WrongExport,
    },
    /// A file or store that cannot be used, for a reason of its kind.
    #[error("{}: {what}", shown_path(path))]
    Refused {
        /// The source's file or store.
        path: PathBuf,
        /// Why; no part of a value.
        what: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// A program that gives no values.
    #[error("{program} {error}")]
    Program {
        /// Its name, and nothing of its arguments.
        program: String,
        /// Why.
        error: crate::input::child::ChildError,
        /// What to do; may be empty.
        hint: String,
    },
    /// What a program printed is not what it should print.
    #[error("{program}: {what}")]
    Output {
        /// Its name, and nothing of its arguments.
        program: String,
        /// Why; no part of a value.
        what: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// The password that opens the source cannot be had.
    #[error("{what}")]
    Password {
        /// Why.
        what: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// An export that goes over one of the reader's limits.
    #[error("{}: {limit}", shown_path(path))]
    Limit {
        /// The source's file.
        path: PathBuf,
        /// Which one, with its number.
        limit: String,
    },
}

/// A file in place of a Bitwarden export that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongExport {
    /// `encrypted` and `passwordProtected`.
    #[error("this export is protected by a password, and the source has none")]
    PasswordProtected,
    /// `encrypted` alone.
    #[error("this export is encrypted for your account only, and cannot be opened outside Bitwarden")]
    AccountRestricted,
    /// Bitwarden's CSV, which lacks ids, SSH keys and the types of fields.
    #[error("this is a CSV export, and deaddrop reads Bitwarden's JSON and ZIP exports")]
    Csv,
    /// A ZIP file where there is no sense in one: inside a ZIP file.
    #[error("this is a ZIP file in place of a JSON export")]
    Zip,
    /// UTF-16, as PowerShell's `>` writes it.
    #[error("this is UTF-16, and JSON is UTF-8")]
    Utf16,
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// JSON, but nothing that Bitwarden writes.
    #[error("this is JSON, but not a Bitwarden export: it has no `items`")]
    NoItems,
}

impl OpenError {
    /// A file or store that cannot be used. Neither `what` nor `hint` holds a part of a value.
    pub(super) fn refused(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), what: what.into(), hint: hint.into() }
    }

    fn hint(&self) -> Option<String> {
        const EXPORT: &str = "in Bitwarden: Tools, Export vault, file format `.json` (or `.zip`, with attachments); see docs/sources.md#bitwarden";
        match self {
            Self::Read { problem, .. } => problem.hint(),
            Self::Refused { hint, .. }
            | Self::Program { hint, .. }
            | Self::Output { hint, .. }
            | Self::Password { hint, .. } => Some(hint.clone()).filter(|hint| !hint.is_empty()),
            Self::WrongExport { kind, .. } => Some(match kind {
                WrongExport::PasswordProtected => {
                    "say where the password comes from: `password: { env: NAME }`, `{ file: PATH }`, `{ exec: [PROGRAM, …] }` \
                     or `ask`"
                        .to_owned()
                }
                WrongExport::AccountRestricted => {
                    "export again with \"Password protected\" (or as plain `.json`, or `.zip`), see docs/sources.md#bitwarden"
                        .to_owned()
                }
                WrongExport::Utf16 => "write the file with `bw export --output FILE`, not with `>`".to_owned(),
                WrongExport::Csv | WrongExport::Zip | WrongExport::Empty | WrongExport::NoItems => EXPORT.to_owned(),
            }),
            Self::Json { .. } => Some(format!("export it again; {EXPORT}")),
            Self::Unknown | Self::NotUtf8 { .. } | Self::Limit { .. } => None,
        }
    }
}

/// One of several items that a reference could mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// `folder/name`, or the name of an item that is in no folder; fit for a terminal.
    pub label: String,
    /// Its id.
    pub id: String,
    /// The day of its last change, `YYYY-MM-DD`, if the export has one.
    pub changed: Option<String>,
}

/// A source cannot give one item. `item` is always as the manifest has it, made fit for a terminal.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No item of that id, name or folder/name.
    #[error("no item \"{item}\"")]
    NoItem {
        /// What was looked for.
        item: String,
        /// Names that look like it, best first.
        near: Vec<String>,
        /// Lines of a dotenv file that could not be understood, where it may hide.
        bad_lines: Vec<usize>,
    },
    /// Several items of that id, name or folder/name.
    #[error("{} items are called \"{item}\"", count(found.len().saturating_add(*more)))]
    Ambiguous {
        /// What was looked for.
        item: String,
        /// The first of them.
        found: Vec<Match>,
        /// How many others there are.
        more: usize,
    },
    /// The item is there, the field is not.
    #[error("item \"{item}\" has no {}; {}", field_name(field.as_deref()), fields_it_has(fields))]
    NoField {
        /// The item.
        item: String,
        /// The field; none for the password.
        field: Option<String>,
        /// The names of the fields that it has.
        fields: Vec<String>,
    },
    /// Several custom fields of one name.
    #[error("item \"{item}\" has {count} custom fields called \"{field}\"")]
    SameField {
        /// The item.
        item: String,
        /// The field.
        field: String,
        /// How many.
        count: usize,
    },
    /// A field whose value is no text, as no password manager writes it.
    #[error("field \"{field}\" of item \"{item}\" is not text")]
    NotText {
        /// The item.
        item: String,
        /// The field.
        field: String,
    },
    /// A custom field of type "linked" that is linked to something else than the login's username or password.
    #[error("field \"{field}\" of item \"{item}\" is linked to another field, and has no value of its own")]
    Linked {
        /// The item.
        item: String,
        /// The field.
        field: String,
    },
    /// `#field` on a source without fields.
    #[error("`#{field}`: {kind} has no fields")]
    NoFields {
        /// The field.
        field: String,
        /// The kind of source, with its article.
        kind: &'static str,
        /// The item and the field as one name, for a name that holds `#`.
        whole: String,
    },
    /// The environment variable is not set.
    #[error("${variable} is not set")]
    NotSet {
        /// The whole name, with the source's prefix.
        variable: String,
    },
    /// No environment variable can have that name.
    #[error("\"{variable}\" cannot be the name of an environment variable: {reason}")]
    VariableName {
        /// The whole name, with the source's prefix.
        variable: String,
        /// Why.
        reason: &'static str,
    },
    /// A key of a dotenv file that stands there without `=`.
    #[error("\"{item}\" has no value: its last line has no `=`")]
    NoValue {
        /// The key.
        item: String,
    },
    /// A file that cannot be read.
    #[error("{}: {problem}", shown_path(path))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ReadError,
    },
    /// An empty value for a secret that does not say `allow_empty: true`.
    #[error("\"{item}\" is empty")]
    Empty {
        /// The item, with its field.
        item: String,
    },
    /// An item that cannot be had, for a reason of its kind.
    #[error("\"{item}\": {what}")]
    Refused {
        /// The item, with its field.
        item: String,
        /// Why; no part of a value.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A value over [`MAX_VALUE`].
    #[error("the value of \"{item}\" is over {} MiB, the longest that is taken", MAX_VALUE / MIB)]
    TooLong {
        /// The item, with its field.
        item: String,
    },
    /// One value more than [`MAX_TOTAL`] allows.
    #[error("with \"{item}\", all values together are over {} MiB, the most that one run takes", MAX_TOTAL / MIB)]
    TooMuch {
        /// The item, with its field.
        item: String,
    },
}

impl LookupError {
    /// What to do, for an item of the source called `name`.
    fn hint(&self, name: &str) -> Option<String> {
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
            Self::NoField { item, fields, .. } => {
                fields.first().map(|field| format!("name the field, as in `{name}:{item}#{field}`"))
            }
            Self::SameField { .. } => Some("rename one of them".to_owned()),
            Self::NoFields { whole, .. } => Some(format!(
                "leave it out; for a name that holds `#` write `from: {{ source: {name}, item: \"{whole}\" }}`"
            )),
            Self::NotSet { variable } => Some(format!(
                "set it for this run only, from a file or a prompt: `read -rs {variable}; export {variable}`"
            )),
            Self::File { problem, .. } => problem.hint(),
            Self::Empty { .. } => Some("if that is meant, say `allow_empty: true`".to_owned()),
            Self::Linked { .. } => Some("name the field that it is linked to".to_owned()),
            Self::Refused { hint, .. } => hint.clone().filter(|hint| !hint.is_empty()),
            Self::TooMuch { .. } => Some("share the secrets out over several manifests".to_owned()),
            Self::NotText { .. } | Self::VariableName { .. } | Self::NoValue { .. } | Self::TooLong { .. } => None,
        }
    }
}

/// A reference's item and field as one text for a message.
pub(super) fn item(reference: &Reference) -> String {
    match &reference.field {
        Some(field) => shown(&format!("{}#{field}", reference.item)),
        None => shown(&reference.item),
    }
}

/// A name from an export or a manifest, fit for a terminal, and cut after 120 characters.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 120;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", deaddrop_core::shown::text(&name[..end])),
        None => deaddrop_core::shown::text(name),
    }
}

/// A path, whole, fit for a terminal.
pub(super) fn shown_path(path: &Path) -> String {
    deaddrop_core::shown::text(&path.to_string_lossy())
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

/// What an item has, by name.
fn fields_it_has(fields: &[String]) -> String {
    if fields.is_empty() { "it has no fields".to_owned() } else { format!("it has: {}", fields.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hidden_character_is_left_in_a_name_or_a_path() {
        for hidden in deaddrop_core::shown::all_hidden() {
            let name = format!("a{hidden}b");
            assert_eq!(shown(&name), "a\u{fffd}b", "{hidden:?}");
            assert_eq!(shown_path(Path::new(&name)), "a\u{fffd}b", "{hidden:?}");
        }
    }
}
