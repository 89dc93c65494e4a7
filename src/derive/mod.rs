//! Content derived from values, and checks of values: password hashes, templates, decoding, conditions on a value or a
//! file, and the generation of keys. The specs of these are here too. Uses no sources and no targets, and never shows a
//! value.

pub mod cluster_token;
mod crypt_text;
pub mod encoding;
pub mod expect;
pub mod format;
pub mod generate;
pub mod newline;
pub mod password;
pub mod template;
pub mod unintended;

/// A value that does not fulfil its declaration. Printed after the secret's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The reason; never the value or its length.
    pub reason: String,
    /// The hint; may be empty.
    pub hint: String,
}

impl Misfit {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into() }
    }
}
