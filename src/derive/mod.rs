//! What is made from a value, and what a value must be: a password hash, a template, a decoded value; the checks that a value
//! or a file is what the manifest says; and what is made where there is no value yet: a key. Knows no sources and no targets;
//! never shows a value.

mod crypt_text;
pub mod encoding;
pub mod expect;
pub mod format;
pub mod generate;
pub mod oddities;
pub mod password;
pub mod template;

/// Why a value is not what it is declared to be. Printed after the secret's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// What is wrong; never the value, nor its length.
    pub reason: String,
    /// What to do; empty when there is nothing to say.
    pub hint: String,
}

impl Misfit {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into() }
    }
}
