//! The errors of [`crate::fetch()`] and [`crate::list`], with hints. None contains a value or a part of one.
//!
//! `open` has the errors of a source as a whole, `lookup` those of one item, `text` the forms of names in messages.
//! Errors of one kind of source are in its folder: they become an [`OpenError::Refused`] or a [`LookupError::Refused`].

mod lookup;
mod open;
mod text;

use std::fmt;

pub use lookup::{LookupError, Match};
pub use open::OpenError;
pub(crate) use text::{item, shown, shown_path};

/// Maximum number of secrets that an error names; the others are counted.
const NAMED_SECRETS: usize = 5;

/// All errors of one [`crate::fetch()`]. Never empty.
#[derive(Debug)]
pub struct SourceErrors(pub(super) Vec<SourceError>);

impl SourceErrors {
    /// The errors, in the order of the manifest.
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
    /// One error per line, without hints.
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

/// An error of one source, and the secrets that it affects.
#[derive(Debug)]
pub struct SourceError {
    /// The source's name in the manifest.
    pub name: String,
    /// The affected secrets, in the manifest's order.
    pub secrets: Vec<String>,
    /// The error.
    pub cause: Cause,
}

impl SourceError {
    /// The hint for the user, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.cause {
            Cause::Open(error) => error.hint(),
            Cause::Lookup(error) => error.hint(&self.name),
        }
    }
}

impl fmt::Display for SourceError {
    /// `SOURCE: MESSAGE (for SECRET)`; for an ambiguous item, followed by the list of its matches.
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

/// The error of a [`SourceError`].
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Of the source as a whole.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Of one item.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}
