//! `file`: a file's bytes, all of them and nothing else. An item is a path.

use std::path::PathBuf;

use super::error::shown;
use super::{LookupError, MAX_TOTAL, MAX_VALUE, OpenError, Source, read};
use crate::manifest::Reference;
use crate::secret::Secret;

/// Files below a directory, or anywhere with an absolute path.
pub(super) struct File {
    directory: PathBuf,
}

impl File {
    /// `directory` is where relative items start.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn get(&self, reference: &Reference) -> Result<Secret, LookupError> {
        if let Some(field) = &reference.field {
            return Err(LookupError::NoFields {
                field: shown(field),
                kind: "a file",
                whole: super::error::item(reference),
            });
        }
        let path = self.directory.join(&reference.item);
        match read::read(&path, MAX_VALUE) {
            Ok(mut bytes) => Ok(Secret::new(std::mem::take(&mut *bytes))),
            Err(problem) => Err(LookupError::File { path, problem }),
        }
    }
}

impl Source for File {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let mut total: usize = 0;
        let mut get = |reference: &&Reference| {
            // What is over the limit is not even read: the files of a manifest are as large as somebody makes them.
            if total > MAX_TOTAL {
                return Err(LookupError::TooMuch { item: super::error::item(reference) });
            }
            let value = self.get(reference)?;
            total = total.saturating_add(value.len());
            Ok(value)
        };
        Ok(wanted.iter().map(&mut get).collect())
    }
}
