//! What NixOS expects of a path and of an image. Codes `NX…` never change their meaning; docs/nixos.md lists them.

pub mod etc;
pub mod paths;

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
