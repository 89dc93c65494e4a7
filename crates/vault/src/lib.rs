//! Where values come from: one folder a password manager or kind of store, behind one trait.
//!
//! [`fetch`] is the only way in. It groups what is wanted by source, opens a source only if something is wanted from
//! it and then once, asks it for those items only, and collects every error of every source before it gives up.
//! Knows nothing of targets. No error, `Display` or `Debug`, holds a value or a part of one.
//!
//! A new kind of source is one folder in `kinds` with an `impl` of its trait, and one line in its table.

mod error;
mod input;
mod items;
mod keys;
mod kinds;
mod reference;
mod spec;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use deaddrop_core::limits::{MAX_TOTAL, MAX_VALUE};
use deaddrop_core::secret::Secret;

use crate::input::context::Context;

pub use error::{Cause, LookupError, Match, OpenError, SourceError, SourceErrors};
pub use input::child::ChildError;
pub use input::read::ReadError;
pub use keys::{FileKeys, NoKeys, PasswordFromKeys, PasswordKeys, ProgramKeys, StoreKeys};
pub use kinds::age::{AgeKeys, AgeSpec};
pub use kinds::csv::{CsvKeys, CsvSpec};
pub use kinds::env::{EnvKeys, EnvSpec};
pub use kinds::exec::{ExecKeys, ExecSpec};
pub use kinds::file::{DirectoryKeys, DirectorySpec};
pub use kinds::keepass::{KeePassKeys, KeePassSpec};
pub use kinds::sops::{SopsKeys, SopsSpec};
pub use kinds::store::{PassageKeys, PassageSpec};
pub use kinds::{SourceKeys, SourceSpec};
pub use reference::{HOST, Reference};
pub use spec::{DataFormat, FileSpec, PasswordSpec, ProgramSpec, StoreSpec};

/// The sources of one manifest.
#[derive(Debug, Clone)]
pub struct Sources<'m> {
    /// Where relative paths start, and programs run.
    pub directory: &'m Path,
    /// Named sources. `env` and `file` are always there, named or not.
    pub specs: &'m BTreeMap<String, SourceSpec>,
    /// Everything that the manifest refers to: no program that is started gets a variable that one of these reads.
    pub references: Vec<&'m Reference>,
}

/// One reference, and who wants it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What is wanted.
    pub reference: &'a Reference,
    /// The secret that wants it, for messages.
    pub secret: &'a str,
    /// Whether that secret takes an empty value.
    pub allow_empty: bool,
}

/// A kind of place that holds values. One `impl` a file.
trait Source {
    /// Gets values: one answer for each of `wanted`, in that order, byte for byte as the source holds it. No reference
    /// comes twice. Called once.
    ///
    /// # Errors
    /// The outer error is about the source as a whole; an inner one about that one item.
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError>;

    /// What there is in it: names, never a value. Called once, instead of `fetch`.
    ///
    /// # Errors
    /// What is wrong with the source as a whole, or that it cannot be listed.
    fn list(&mut self) -> Result<Vec<Listed>, OpenError>;
}

/// An item as a listing shows it. All names are fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The folders, collections or vault that it is in.
    pub folders: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its id; empty when it has none.
    pub id: String,
    /// The names of its fields; none where the source's items have no fields.
    pub fields: Vec<String>,
}

impl Listed {
    /// An item of a source whose items have no fields, no folders and no ids.
    fn without_fields(name: String) -> Self {
        Self { folders: Vec::new(), name, id: String::new(), fields: Vec::new() }
    }
}

/// Environment variables that hold values or passwords of this manifest: no program that is started may have them.
#[must_use]
pub fn hidden_variables(sources: &Sources<'_>) -> Vec<String> {
    Context::new(sources).surroundings().hidden().map(str::to_owned).collect()
}

/// Asks a person for a password on the terminal; what is typed is not shown.
///
/// # Errors
/// There is no terminal; the line is too long.
pub fn ask(prompt: &str) -> std::io::Result<Secret> {
    input::terminal::ask(prompt)
}

/// What there is in the source called `name`.
///
/// # Errors
/// What is wrong with the source.
pub fn list(sources: &Sources<'_>, name: &str) -> Result<Vec<Listed>, Box<SourceError>> {
    let context = Context::new(sources);
    open(sources, name, &context)
        .and_then(|mut source| source.list())
        .map_err(|error| Box::new(SourceError { name: name.to_owned(), secrets: Vec::new(), cause: error.into() }))
}

/// Gets every wanted value. A reference that several secrets want is read once.
///
/// # Errors
/// All that is wrong with any source or item, in the order in which `wanted` names them first. An empty value is an
/// error for each secret that does not take one.
pub fn fetch(sources: &Sources<'_>, wanted: &[Wanted<'_>]) -> Result<HashMap<Reference, Secret>, SourceErrors> {
    let mut users: HashMap<&Reference, Vec<usize>> = HashMap::new();
    let mut groups: Vec<(&str, Vec<&Reference>)> = Vec::new();
    let mut group_of: HashMap<&str, usize> = HashMap::new();
    for (index, want) in wanted.iter().enumerate() {
        let users = users.entry(want.reference).or_default();
        if users.is_empty() {
            let name = want.reference.source.as_str();
            let group = *group_of.entry(name).or_insert_with(|| {
                groups.push((name, Vec::new()));
                groups.len() - 1
            });
            groups[group].1.push(want.reference);
        }
        users.push(index);
    }

    let context = Context::new(sources);
    let mut values = HashMap::new();
    let mut total: usize = 0;
    let mut errors: Vec<(usize, SourceError)> = Vec::new();
    let mut fail = |name: &str, users: Vec<usize>, cause: Cause| {
        let first = users.first().copied().unwrap_or(0);
        let secrets = users.iter().map(|&user| wanted[user].secret.to_owned()).collect();
        errors.push((first, SourceError { name: name.to_owned(), secrets, cause }));
    };
    for (name, references) in &groups {
        let answers = open(sources, name, &context).and_then(|mut source| source.fetch(references));
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                let mut all: Vec<usize> = references.iter().flat_map(|reference| &users[reference]).copied().collect();
                all.sort_unstable();
                fail(name, all, error.into());
                continue;
            }
        };
        for (&reference, answer) in references.iter().zip(answers) {
            let users = &users[reference];
            match answer {
                Err(error) => fail(name, users.clone(), error.into()),
                Ok(value) if value.len() > MAX_VALUE => {
                    fail(name, users.clone(), LookupError::TooLong { item: error::item(reference) }.into());
                }
                Ok(value) if total.saturating_add(value.len()) > MAX_TOTAL => {
                    fail(name, users.clone(), LookupError::TooMuch { item: error::item(reference) }.into());
                }
                Ok(value) => {
                    total = total.saturating_add(value.len());
                    if value.is_empty() {
                        let strict: Vec<usize> =
                            users.iter().copied().filter(|&user| !wanted[user].allow_empty).collect();
                        if !strict.is_empty() {
                            fail(name, strict, LookupError::Empty { item: error::item(reference) }.into());
                        }
                    }
                    values.insert(reference.clone(), value);
                }
            }
        }
    }
    if errors.is_empty() {
        return Ok(values);
    }
    errors.sort_by_key(|(first, _)| *first);
    Err(SourceErrors(errors.into_iter().map(|(_, error)| error).collect()))
}

/// The source of a name. `env` and `file` are there without being declared.
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
