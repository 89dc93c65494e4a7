//! The rules of NixOS (codes `NX…`): places that it empties, rewrites or ignores. A code never changes its meaning;
//! docs/nixos.md lists them. Knows trees and paths; no manifests, no plans.

pub mod etc;
pub mod homes;
pub mod k3s;
pub mod links;
pub mod passwords;
pub mod paths;

use deaddrop_core::warning::Warning;

/// Codes of refusals that a manifest can allow; each becomes a warning with the reason from the manifest.
pub const ALLOWED: [&str; 1] = [homes::CODE];

/// A rule that applies to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `NX001`, …
    pub code: &'static str,
    /// True if the file is refused, false for a warning.
    pub refuse: bool,
    /// The effect, and its cause.
    pub reason: String,
    /// The advice.
    pub instead: String,
}

impl Finding {
    /// As a warning about a secret.
    #[must_use]
    pub fn warning(self, secret: &str) -> Warning {
        Warning { code: self.code, secret: Some(secret.to_owned()), message: self.reason, hint: self.instead }
    }
}
