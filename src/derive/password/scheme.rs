//! Hash schemes: the values of `hash` in the manifest.

use schemars::JsonSchema;
use serde::Deserialize;

/// A crypt(3) scheme for `hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "hash")]
pub enum HashScheme {
    /// `$y$`, the default of current distributions.
    Yescrypt,
    /// `$6$`, for systems whose libcrypt is old.
    Sha512crypt,
}

impl HashScheme {
    /// Its name in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Yescrypt => "yescrypt",
            Self::Sha512crypt => "sha512crypt",
        }
    }
}
