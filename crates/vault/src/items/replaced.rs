//! Values in the text that a program prints. Where a value's bytes are no UTF-8, programs that print JSON write U+FFFD
//! (the replacement character) in their place, as Go's encoding/json does, and say nothing.

use deaddrop_core::secret::Secret;

use crate::error::item;
use crate::{LookupError, Reference};

/// Refuses the values of `wanted` that hold U+FFFD. `hint`: how to get the bytes themselves.
pub(crate) fn refuse(
    wanted: &[&Reference],
    values: Vec<Result<Secret, LookupError>>,
    hint: &str,
) -> Vec<Result<Secret, LookupError>> {
    wanted.iter().zip(values).map(|(reference, value)| check(reference, value?, hint)).collect()
}

/// The value, if it has no U+FFFD. `hint`: how to get the bytes themselves.
///
/// # Errors
/// The value has one.
pub(crate) fn check(reference: &Reference, value: Secret, hint: &str) -> Result<Secret, LookupError> {
    const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
    match value.expose().windows(REPLACEMENT.len()).any(|window| window == REPLACEMENT) {
        false => Ok(value),
        true => Err(LookupError::Refused {
            item: item(reference),
            what: "it holds U+FFFD, which programs write in place of bytes that are no UTF-8: those bytes are lost"
                .to_owned(),
            hint: Some(hint.to_owned()),
        }),
    }
}
