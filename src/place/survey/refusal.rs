//! Why no file may be written at a path.

use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Tree};

use crate::nixos;

/// The reason why no file may be written at a path. The run ends, and nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `NX…` if the reason is a rule of NixOS.
    pub code: Option<&'static str>,
    /// The reason, with the path.
    pub reason: String,
    /// What to do instead.
    pub hint: String,
}

impl From<nixos::Finding> for Refusal {
    fn from(finding: nixos::Finding) -> Self {
        let hint = finding.advice();
        Self { code: Some(finding.code), reason: finding.reason, hint }
    }
}

impl Refusal {
    pub(super) fn plain(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: None, reason: reason.into(), hint: hint.into() }
    }
}

/// A path where there is something else than a regular file.
pub(super) fn kind_refusal<T: Tree>(tree: &T, path: &str, walked: &Walk<T::Node>, kind: FileKind) -> Refusal {
    const HINT: &str = "only a regular file is replaced or removed: choose another path, or remove it there";
    if kind != FileKind::Symlink {
        return Refusal::plain(format!("{path} is {}", kind.name()), HINT);
    }
    // The chain shows where the link leads; if it cannot be followed, the error says why.
    match walk::trace_to_end(tree, path) {
        Ok(end) => Refusal {
            code: nixos::links::into_the_store(&end.physical),
            reason: format!("{path} is a symbolic link: {}", walk::chain(&end.links)),
            hint: HINT.into(),
        },
        Err(error) => {
            let at = walk::shown(&walked.physical);
            let reason = match error {
                WalkError::Dangling { links } => {
                    format!("{at} is a symbolic link that leads to nothing: {}", walk::chain(&links))
                }
                WalkError::Loop { .. } => format!("{at} is a symbolic link without an end: {error}"),
                _ => format!("{at} is a symbolic link: {error}"),
            };
            Refusal::plain(reason, HINT)
        }
    }
}

/// A path to which no way leads.
pub(super) fn walk_refusal(path: &str, error: &WalkError) -> Refusal {
    let hint = match error {
        WalkError::NotADirectory { .. } => "choose a path whose parents are directories",
        WalkError::Foreign { .. } => {
            "links are followed only where nobody but root can lay them: declare the path where it leads, or give the \
             link and its directories to root"
        }
        _ => "choose a path without this link on the way",
    };
    let code = nixos::links::to_nowhere(error);
    Refusal { code, reason: format!("{path}: {error}"), hint: hint.into() }
}
