//! What NixOS does with a file that somebody else puts in its way: every rule with a code `NX…`. A code never changes its
//! meaning; docs/nixos.md lists them. Knows trees and paths; no manifests, no plans.

pub mod etc;
pub mod homes;
pub mod k3s;
pub mod links;
pub mod passwords;
pub mod paths;

use deaddrop_core::warning::Warning;

/// Codes of refusals that a manifest can allow; each becomes a warning with the person's reason.
pub const ALLOWED: [&str; 1] = [homes::CODE];

/// What NixOS would do with a file, as a coded finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `NX001`, …
    pub code: &'static str,
    /// True: refused. False: told, and the run goes on.
    pub refuse: bool,
    /// What happens, and why.
    pub reason: String,
    /// What to do instead.
    pub instead: String,
}

impl Finding {
    /// As a warning about a secret.
    #[must_use]
    pub fn warning(self, secret: &str) -> Warning {
        Warning { code: self.code, secret: Some(secret.to_owned()), message: self.reason, hint: self.instead }
    }
}
