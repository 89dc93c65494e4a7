//! `age`: files encrypted by age (age-encryption.org/v1), as a source of their own and around the files of other sources.
//!
//! `identity` opens what a manifest names as `identity`, `stream` decrypts a file as it is read.

mod identity;
mod stream;

use std::io::Read;

use super::document::{self, Document};
use super::input::Input;
use super::{Listed, LookupError, OpenError, Source};
use crate::manifest::{DataFormat, Reference};
use crate::secret::Secret;

pub(super) use identity::{Identities, open as identities};
pub(super) use stream::{Key, decrypt as decrypt_with};

/// What the age file `file` holds, decrypted as it is read. `input` says what opens it.
///
/// # Errors
/// Nothing that the manifest names opens it.
pub(super) fn decrypt(file: Box<dyn Read>, input: &Input<'_>) -> Result<Box<dyn Read>, OpenError> {
    let (spec, context) = (input.spec(), input.context());
    let result = match (&spec.identity, &spec.password) {
        (Some(path), password) => {
            // Around another format, the password is that of what is inside.
            let password = password.as_ref().filter(|_| input.is_age_source());
            let identities = identities(context, input.source(), path, password)?;
            decrypt_with(file, Key::Identities(&identities))
        }
        (None, Some(password)) => {
            let password = context.password(input.source(), password)?;
            decrypt_with(file, Key::Password(&password))
        }
        (None, None) => return Err(input.refused("nothing is said that opens it", "add `identity` or `password`")),
    };
    result.map_err(|failure| failure.at(input.name()))
}

/// An age file that holds a document.
pub(super) struct Age<'m> {
    input: Input<'m>,
    format: DataFormat,
}

impl<'m> Age<'m> {
    /// `input` is one of [`Input::age`].
    pub(super) fn new(input: Input<'m>, format: DataFormat) -> Self {
        Self { input, format }
    }

    fn document(&self) -> Result<Document, OpenError> {
        let bytes = self.input.read(document::longest(self.format))?;
        Document::parse(&bytes, self.format).map_err(|error| self.input.refused(error.to_string(), ""))
    }
}

impl Source for Age<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        Ok(self.document()?.fetch(wanted))
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        Ok(self.document()?.list())
    }
}

#[cfg(test)]
mod tests;
