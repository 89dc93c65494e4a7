//! NX010: symbolic links that lead where NixOS does not read the file, or nowhere.

use deaddrop_core::tree::walk::{self, WalkError};

use super::Finding;
use super::paths::is_at_or_below;

/// The code of these findings.
const CODE: &str = "NX010";

/// The code for a link that leads to `physical`: NX010 for a place in the Nix store.
#[must_use]
pub fn into_the_store(physical: &str) -> Option<&'static str> {
    is_at_or_below(physical, "/nix/store").then_some(CODE)
}

/// The code for a link that leads nowhere inside the target, or in a circle.
#[must_use]
pub fn to_nowhere(error: &WalkError) -> Option<&'static str> {
    matches!(error, WalkError::Dangling { .. } | WalkError::Loop { .. } | WalkError::BadLink { .. }).then_some(CODE)
}

/// The finding of the place that the links of `path` lead to, told with the way there.
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
