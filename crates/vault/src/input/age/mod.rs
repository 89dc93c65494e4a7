//! `age`: files encrypted by age (age-encryption.org/v1), as a source of their own and around the files of other sources.
//!
//! `identity` opens what a manifest names as `identity`, `stream` decrypts a file as it is read.

mod identity;
mod stream;

use std::io::Read;

use crate::OpenError;
use crate::input::Input;

pub(crate) use identity::{Identities, open as identities};
pub(crate) use stream::{Key, decrypt as decrypt_with};

/// What the age file `file` holds, decrypted as it is read. `input` says what opens it.
///
/// # Errors
/// Nothing that the manifest names opens it.
pub(crate) fn decrypt(file: Box<dyn Read>, input: &Input<'_>) -> Result<Box<dyn Read>, OpenError> {
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

#[cfg(test)]
mod tests;
