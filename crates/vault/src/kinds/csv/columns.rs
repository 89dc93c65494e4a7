//! The header of a table.

use super::{CsvError, Row};
use crate::error::shown;

/// Maximum number of columns that an error names.
const NAMED: usize = 40;

/// The names of the columns.
pub(crate) struct Header(Vec<String>);

impl Header {
    /// The header with the names in `row`, which has `count` fields.
    pub(super) fn new(row: &Row<'_>, count: usize) -> Self {
        Self((0..count).map(|column| row.get(column).to_owned()).collect())
    }

    /// Number of columns.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The index of the column called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|known| known == name)
    }

    /// The indexes of the columns called `wanted`.
    ///
    /// # Errors
    /// Some are missing, or duplicated. If the first line has none of them, it may contain values instead of names, so
    /// the error shows none of it.
    pub(crate) fn find(&self, wanted: &[&str]) -> Result<Vec<usize>, CsvError> {
        let found: Vec<Option<usize>> = wanted.iter().map(|name| self.get(name)).collect();
        let missing: Vec<&str> =
            wanted.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(name, _)| *name).collect();
        if missing.len() == wanted.len() {
            let what = format!("its first line, which must be the header, has no column {}", quoted(&missing));
            return Err(CsvError::refused(
                what,
                "columns are separated by commas; their names are compared letter by letter",
            ));
        }
        if !missing.is_empty() {
            let names: Vec<&str> = self.0.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
            let more = if names.len() > NAMED { ", …" } else { "" };
            let names: Vec<String> = names.iter().take(NAMED).map(|name| shown(name)).collect();
            let what = format!("it has no column {}; there are: {}{more}", quoted(&missing), names.join(", "));
            return Err(CsvError::refused(what, ""));
        }
        let mut names: Vec<&str> = self.0.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let what = format!("two of its columns are called {}", quoted(&twice[..1]));
            return Err(CsvError::refused(what, "rename one of them in the file's first line"));
        }
        Ok(found.into_iter().flatten().collect())
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{}\"", shown(name))).collect::<Vec<_>>().join(", ")
}
