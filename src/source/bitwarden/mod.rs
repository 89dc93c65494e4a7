//! `bitwarden`: the plain JSON export of Bitwarden and Vaultwarden, personal and of an organisation.
//!
//! `shape` says what an export looks like, `stream` reads it item by item, `search` keeps what is wanted and decides what
//! a reference means, `field` picks the value out of an item.

mod field;
mod search;
mod shape;
mod stream;

use std::path::PathBuf;

use super::{LookupError, OpenError, Source, read};
use crate::manifest::Reference;
use crate::secret::Secret;

/// An export.
pub(super) struct Bitwarden {
    path: PathBuf,
}

impl Bitwarden {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Source for Bitwarden {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let file = read::open(&self.path).map_err(|problem| OpenError::Read { path: self.path.clone(), problem })?;
        let mut search = search::Search::new(wanted);
        stream::read(file, &mut search).map_err(|failure| failure.at(&self.path))?;
        Ok(search.finish())
    }
}

#[cfg(test)]
mod tests;
