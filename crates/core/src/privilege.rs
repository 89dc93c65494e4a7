//! How a login user becomes root.

use schemars::JsonSchema;
use serde::Deserialize;

/// The program with which a login user becomes root.
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
    /// The name in the manifest, which is also the name of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sudo => "sudo",
            Self::Doas => "doas",
        }
    }
}
