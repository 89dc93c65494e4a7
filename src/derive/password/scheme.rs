//! What `hash` in a manifest can ask for.

use schemars::JsonSchema;
use serde::Deserialize;

/// A crypt(3) scheme that `hash` can ask for.
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
