//! `file`: files, each of them one value, byte for byte. An item is a path.

use std::fs;
use std::path::PathBuf;

use deaddrop_core::keys::Field;
use deaddrop_core::limits::{MAX_TOTAL, MAX_VALUE};
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::shown;
use crate::input::context::Context;
use crate::input::read;
use crate::keys::Declared;
use crate::kinds::Kind;
use crate::spec::Spec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Maximum depth, below the directory, of files that are listed.
const DEEPEST: usize = 8;

/// Maximum number of files that are listed.
const MOST_LISTED: usize = 10_000;

/// Files: relative items start at a directory, absolute items do not.
pub(crate) struct File {
    directory: PathBuf,
}

impl File {
    /// `directory` is the start of relative items.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn get(&self, reference: &Reference) -> Result<Secret, LookupError> {
        if let Some(field) = &reference.field {
            return Err(LookupError::NoFields {
                field: shown(field),
                kind: "a file",
                whole: crate::error::item(reference),
            });
        }
        let path = self.directory.join(&reference.item);
        match read::read(&path, MAX_VALUE) {
            Ok(mut bytes) => Ok(Secret::new(std::mem::take(&mut *bytes))),
            Err(problem) => Err(LookupError::File { path, problem }),
        }
    }
}

/// Files, each a value.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a file source", default, deny_unknown_fields)]
#[schemars(rename = "file-source")]
pub struct DirectoryKeys {
    /// The directory where relative items start; a relative one starts at the manifest's directory, which is the
    /// default.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
}

/// Files; items are paths, relative to `path` if given.
#[derive(Debug, Clone, Default)]
pub struct DirectorySpec {
    /// The directory. `None`: the manifest's.
    pub path: Option<PathBuf>,
}

impl Spec for DirectorySpec {
    type Keys = DirectoryKeys;

    fn check(declared: &Declared<'_>, keys: DirectoryKeys) -> Option<Self> {
        Some(DirectorySpec { path: declared.path(keys.path)? })
    }
}

impl Kind for File {
    type Spec = DirectorySpec;

    const HAS_FIELDS: bool = false;

    fn open<'m>(spec: &'m DirectorySpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(File::new(
            spec.path.as_deref().map_or_else(|| context.directory().to_owned(), |path| context.at(path)),
        ))
    }

    fn keeps_files(_: &DirectorySpec) -> bool {
        true
    }
}

impl Source for File {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let mut total: usize = 0;
        let mut get = |reference: &&Reference| {
            // Beyond the limit nothing more is read: the size of the files is unbounded.
            if total > MAX_TOTAL {
                return Err(LookupError::TooMuch { item: crate::error::item(reference) });
            }
            let value = self.get(reference)?;
            total = total.saturating_add(value.len());
            Ok(value)
        };
        Ok(wanted.iter().map(&mut get).collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let mut items = Vec::new();
        let mut waiting = vec![(self.directory.clone(), String::new(), 0)];
        while let Some((directory, prefix, depth)) = waiting.pop() {
            let entries = fs::read_dir(&directory)
                .map_err(|error| OpenError::Read { path: directory.clone(), problem: read::ReadError::Io(error) })?;
            // An unreadable entry is not listed.
            for entry in entries.flatten() {
                let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
                let item = format!("{prefix}{name}");
                // A symbolic link to a directory may form a cycle, so none is followed.
                if kind.is_dir() && depth < DEEPEST {
                    waiting.push((entry.path(), format!("{item}/"), depth.saturating_add(1)));
                } else if entry.path().is_file() {
                    items.push(shown(&item));
                }
                if items.len().saturating_add(waiting.len()) > MOST_LISTED {
                    return Err(OpenError::refused(&self.directory, "over 10,000 files", "name a directory below it"));
                }
            }
        }
        items.sort_unstable();
        Ok(items.into_iter().map(Listed::without_fields).collect())
    }
}
