//! The rules of NixOS (codes `NX…`): places that it empties, rewrites or ignores. A code never changes its meaning;
//! docs/nixos.md lists them. Knows trees and paths; no manifests, no plans.

pub mod closure;
pub mod decrypt;
pub mod env_file;
pub mod etc;
pub mod homes;
pub mod k3s;
pub mod links;
pub mod location;
pub mod open_file_system;
pub mod options;
pub mod passwords;
pub mod paths;
pub mod wants;

use std::collections::BTreeMap;

use deaddrop_core::warning::{NEVER_ALLOWED, Warning};

/// NX119: a system of NixOS that cannot be read, or not all of it.
#[must_use]
pub fn unreadable(why: &str) -> Finding {
    Finding {
        code: "NX119",
        refuse: false,
        reason: format!("the NixOS system in it cannot be read: {why}; what depends on it was not checked"),
        instead: "is the image whole? --system PATH names a system in its store".to_owned(),
    }
}

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
    /// What becomes of it, if the codes in `allow` are allowed, each for a reason: a warning is dropped, a refusal
    /// becomes a warning with the reason.
    #[must_use]
    pub fn unless_allowed(self, allow: &BTreeMap<String, String>) -> Option<Self> {
        match allow.get(self.code) {
            None => Some(self),
            Some(_) if !self.refuse => None,
            Some(why) => {
                let reason = format!("{}; that is allowed: {why}", self.reason);
                Some(Self { refuse: false, reason, ..self })
            }
        }
    }

    /// As a warning about a target as a whole.
    #[must_use]
    pub fn of_target(&self) -> Warning {
        Warning { code: self.code, secret: None, message: self.reason.clone(), hint: self.instead.clone() }
    }

    /// What to do about it; for a refusal that can be allowed, also how.
    #[must_use]
    pub fn advice(&self) -> String {
        match self.refuse && !NEVER_ALLOWED.contains(&self.code) {
            true => format!("{}; or go on all the same: `allow: {{ {}: \"the reason\" }}`", self.instead, self.code),
            false => self.instead.clone(),
        }
    }

    /// As a warning about a secret.
    #[must_use]
    pub fn warning(self, secret: &str) -> Warning {
        Warning { code: self.code, secret: Some(secret.to_owned()), message: self.reason, hint: self.instead }
    }
}
