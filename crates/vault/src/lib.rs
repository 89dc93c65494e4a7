//! deaddrop-vault: values from the exports, databases, files and programs of password managers.
//!
//! [`fetch()`] groups references by source, opens each source at most once, asks it for the wanted items only, and
//! collects all errors of all sources. [`list`] returns the names in one source. Both get their input as [`Sources`]:
//! this crate reads no manifest and knows no targets. No error, `Display` or `Debug` contains a value or a part of one.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use deaddrop_vault::{FileSpec, Reference, SourceSpec, Sources, Wanted, fetch};
//!
//! let directory = tempfile::tempdir()?;
//! let export = r#"{
//!     "encrypted": false,
//!     "folders": [],
//!     "items": [{ "id": "1", "type": 1, "name": "Wifi", "login": { "username": "me", "password": "hunter2" } }]
//! }"#;
//! std::fs::write(directory.path().join("export.json"), export)?;
//!
//! let specs = BTreeMap::from([("home".to_owned(), SourceSpec::Bitwarden(FileSpec::plain("export.json")))]);
//! let sources = Sources { directory: directory.path(), specs: &specs, references: Vec::new(), tell: None };
//!
//! let wifi = Reference { source: "home".to_owned(), item: "Wifi".to_owned(), field: None };
//! let fetched = fetch(&sources, &[Wanted { reference: &wifi, secret: "wifi-password", allow_empty: false }])?;
//! assert_eq!(fetched.values[&wifi].expose(), b"hunter2");
//! assert!(!format!("{fetched:?}").contains("hunter2"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules:
//! - `kinds`: the table of the kinds of sources, and a file or folder per kind;
//! - `items`: the common form of items, the search for the wanted ones, JSON and documents;
//! - `input`: files, streams, archives, programs and passwords, with limits on all of them;
//! - `spec` and `keys`: settings that several kinds share, checked and unchecked;
//! - `reference`, `fetch` and `error`: the references of a manifest, reading their values, and the errors;
//! - `finding`: what a source noticed that does not stop the run.

mod error;
mod fetch;
mod finding;
mod input;
mod items;
mod keys;
mod kinds;
mod reference;
mod spec;

use std::collections::BTreeMap;
use std::path::Path;

use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;

use crate::input::context::Context;

pub use error::{Cause, LookupError, Match, OpenError, SourceError, SourceErrors};
pub use fetch::{Fetched, fetch};
pub use input::child::ChildError;
pub use input::read::ReadError;
pub use items::item::LeftOut;
pub use keys::{FileKeys, KdfLimitKeys, NoKeys, PasswordFromKeys, PasswordKeys, ProgramKeys, StoreKeys};
pub use kinds::age::{AgeKeys, AgeSpec};
pub use kinds::csv::{Column, ColumnKey, CsvKeys, CsvSpec};
pub use kinds::env::{EnvKeys, EnvSpec};
pub use kinds::exec::{ExecKeys, ExecSpec};
pub use kinds::file::{DirectoryKeys, DirectorySpec};
pub use kinds::keepass::{KeePassKeys, KeePassSpec};
pub use kinds::sops::{SopsKeys, SopsSpec};
pub use kinds::store::{AgeStoreKeys, AgeStoreSpec};
pub use kinds::{SourceKeys, SourceSpec};
pub use reference::{HOST, Reference};
pub use spec::{DataFormat, FileSpec, KdfLimit, PasswordSpec, ProgramSpec, StoreSpec};

/// The sources of one manifest.
#[derive(Debug, Clone)]
pub struct Sources<'m> {
    /// Start of relative paths, and working directory of programs.
    pub directory: &'m Path,
    /// Declared sources. `env` and `file` are predeclared.
    pub specs: &'m BTreeMap<String, SourceSpec>,
    /// All references of the manifest: no child process inherits a variable that one of them reads.
    pub references: Vec<&'m Reference>,
    /// Shows the user a line about work that takes long. `None`: nothing is shown.
    pub tell: Option<fn(&str)>,
}

/// A reference, and the secret that needs its value.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The reference.
    pub reference: &'a Reference,
    /// The secret's name, for messages.
    pub secret: &'a str,
    /// True if the value may be empty.
    pub allow_empty: bool,
}

/// An open source. One `impl` per kind.
trait Source {
    /// Reads values: one result for each of `wanted`, in that order, byte for byte as in the source. The references are
    /// distinct. Called at most once.
    ///
    /// # Errors
    /// The outer error concerns the source as a whole, an inner error one item.
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError>;

    /// Lists the items: names, never a value. Called at most once, instead of `fetch`.
    ///
    /// # Errors
    /// The source cannot be read, or cannot be listed.
    fn list(&mut self) -> Result<Vec<Listed>, OpenError>;
}

/// An item in a listing. All names are safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The folders, collections or vault that contain it.
    pub folders: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its id; empty if it has none.
    pub id: String,
    /// The names of its fields; empty if the source's items have no fields.
    pub fields: Vec<String>,
}

impl Listed {
    /// An item of a source without fields, folders and ids.
    fn without_fields(name: String) -> Self {
        Self { folders: Vec::new(), name, id: String::new(), fields: Vec::new() }
    }
}

/// The environment variables with values or passwords of this manifest, which no child process may inherit.
#[must_use]
pub fn hidden_variables(sources: &Sources<'_>) -> Vec<String> {
    Context::new(sources).surroundings().hidden().map(str::to_owned).collect()
}

/// Asks for a password on the terminal, without echo.
///
/// # Errors
/// There is no terminal, or the line is too long.
pub fn ask(prompt: &str) -> std::io::Result<Secret> {
    input::terminal::ask(prompt)
}

/// Lists the items of the source called `name`, and returns warnings about the source as a whole.
///
/// # Errors
/// The source is unknown, cannot be read, or cannot be listed.
pub fn list(sources: &Sources<'_>, name: &str) -> Result<(Vec<Listed>, Vec<Warning>), Box<SourceError>> {
    let context = Context::new(sources);
    let items = open(sources, name, &context)
        .and_then(|mut source| source.list())
        .map_err(|error| Box::new(SourceError { name: name.to_owned(), secrets: Vec::new(), cause: error.into() }))?;
    Ok((items, finding::warnings(context.findings(), |_| Vec::new())))
}

/// The source called `name`, which may be declared or predeclared.
fn open<'m>(sources: &Sources<'m>, name: &'m str, context: &'m Context<'m>) -> Result<Box<dyn Source + 'm>, OpenError> {
    match sources.specs.get(name) {
        Some(spec) => Ok(spec.open(name, context)),
        None if name == "env" => Ok(Box::new(kinds::env::Env::new(String::new()))),
        None if name == "file" => Ok(Box::new(kinds::file::File::new(context.directory().to_owned()))),
        None => Err(OpenError::Unknown),
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
