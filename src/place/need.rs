//! The system of a running node: what is asked of it, once something would change, and what only a node knows.

use std::collections::BTreeSet;

/// What a running node's system is asked about its survey.
#[derive(Debug, Clone, Default)]
pub struct Need {
    /// For each wanted path: it would change.
    pub changing: Vec<bool>,
    /// Who reads these files is needed: every unit is read for that.
    pub wants: bool,
    /// Everything, for `lint`.
    pub all: bool,
}

impl Need {
    /// Everything about this many paths.
    #[must_use]
    pub fn all(paths: usize) -> Self {
        Self { changing: vec![true; paths], wants: true, all: true }
    }
}

/// What is known of a running node with NixOS.
#[derive(Debug, Default)]
pub struct NodeFacts {
    /// The declared files of password hashes that do not stand, if a perl script reads them.
    pub missing_password_files: BTreeSet<String>,
}
