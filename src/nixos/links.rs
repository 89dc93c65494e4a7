//! NX010: symbolic links that lead into the Nix store, to nothing, or in a loop.

use deaddrop_core::tree::walk::{self, WalkError};

use super::Finding;
use super::paths::is_at_or_below;

/// The code of these findings.
const CODE: &str = "NX010";

/// NX010 if a link that leads to `physical` leads into the Nix store.
#[must_use]
pub fn into_the_store(physical: &str) -> Option<&'static str> {
    is_at_or_below(physical, "/nix/store").then_some(CODE)
}

/// NX010 if a walk failed at a link that leads to nothing, or in a loop.
#[must_use]
pub fn to_nowhere(error: &WalkError) -> Option<&'static str> {
    matches!(error, WalkError::Dangling { .. } | WalkError::Loop { .. } | WalkError::BadLink { .. }).then_some(CODE)
}

/// A finding about the place that the links of `path` lead to, with the links in its text.
#[must_use]
pub fn landing<N>(path: &str, walked: &walk::Walk<N>, finding: Finding) -> Finding {
    let reason = finding.reason.strip_prefix(&walked.physical).unwrap_or(&finding.reason).trim_start();
    Finding {
        code: into_the_store(&walked.physical).unwrap_or(finding.code),
        reason: format!(
            "{path} would be written to {}, through {}: that {reason}",
            walk::shown(&walked.physical),
            walk::chain(&walked.links),
        ),
        ..finding
    }
}
