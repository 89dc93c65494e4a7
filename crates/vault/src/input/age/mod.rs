//! Decrypts files of age (age-encryption.org/v1): those of the kind `age`, and `.age` files around other formats.
//!
//! `identity` reads the file that the manifest's `identity` names; `stream` decrypts while reading.

mod identity;
mod stream;

use std::cell::RefCell;
use std::io::Read;

use crate::OpenError;
use crate::input::Input;

pub(crate) use identity::{Identities, open as identities};
pub(crate) use stream::{Key, decrypt as decrypt_with};

/// The decrypted content of the age file `file`, with the identity or password of `input`.
///
/// # Errors
/// Neither the identity nor the password of the manifest decrypts it.
pub(crate) fn decrypt(file: Box<dyn Read>, input: &Input<'_>) -> Result<Box<dyn Read>, OpenError> {
    let (spec, context) = (input.spec(), input.context());
    let result = match (&spec.identity, &spec.password) {
        (Some(path), password) => {
            // If the source is of another kind, the password belongs to the file inside.
            let password = password.as_ref().filter(|_| input.is_age_source());
            let identities = identities(context, input.source(), path, password, spec.kdf_limit)?;
            decrypt_with(file, Key::Identities(&identities))
        }
        (None, Some(password)) => {
            let password = context.password(input.source(), password, spec.kdf_limit)?.not_empty()?;
            decrypt_with(file, Key::Password(&RefCell::new(password)))
        }
        (None, None) => return Err(input.refused("nothing is said that opens it", "add `identity` or `password`")),
    };
    result.map_err(|failure| failure.at(input.name()))
}

#[cfg(test)]
mod tests;
