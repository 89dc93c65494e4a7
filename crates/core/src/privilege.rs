//! How a user that logs in becomes root.

use schemars::JsonSchema;
use serde::Deserialize;

/// How the user that logs in becomes root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "become")]
pub enum Become {
    /// With sudo(8).
    Sudo,
    /// With doas(1).
    Doas,
}

impl Become {
    /// Its name in the manifest, and the program's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sudo => "sudo",
            Self::Doas => "doas",
        }
    }
}
