//! Turns the decoded keys of `sources` into specs. The checks of each kind's keys are in deaddrop-vault.

use std::collections::BTreeMap;

use deaddrop_core::keys::{Entries, Entry, Field, NodeId, Refusal, Report};
use deaddrop_core::shown::quoted;
use deaddrop_vault::{SourceKeys, SourceSpec};

use super::check::Checker;
use super::{values, veil};

impl Report for Checker<'_, '_> {
    fn problem(&self, at: NodeId, message: String, hint: Option<String>) {
        self.push(self.mark(at), message, hint);
    }

    fn refuse(&self, at: NodeId, refusal: Refusal) {
        Checker::refuse(self, at, refusal);
    }

    fn child(&self, at: NodeId, key: &str) -> Option<NodeId> {
        self.context.tree.child(at, key)
    }

    fn hide(&self, at: NodeId) {
        veil::below(self.context.tree, at, &mut self.context.problems.borrow_mut());
    }
}

impl Checker<'_, '_> {
    /// The checker as the trait that the vault crate's checks report to.
    pub(super) fn keys(&self) -> &dyn Report {
        self
    }

    /// `by_manifest`: standard input is the manifest.
    pub(super) fn sources(&self, raw: Field<Entries<SourceKeys>>, by_manifest: bool) -> BTreeMap<String, SourceSpec> {
        let entries = raw.good().map(|(_, entries)| entries.0).unwrap_or_default();
        let mut from_input = by_manifest.then(|| "the manifest (`-m -`)".to_owned());
        let mut sources = BTreeMap::new();
        for entry in entries {
            let key = entry.key;
            let Some((name, spec)) = self.source(entry) else { continue };
            if spec.reads_standard_input() {
                if let Some(first) = &from_input {
                    let message = format!("standard input (`-`) can be read once, and {first} reads it already");
                    self.push(self.mark(key), message, Some("give one of them a path".to_owned()));
                }
                from_input.get_or_insert_with(|| quoted(&name));
            }
            sources.insert(name, spec);
        }
        sources
    }

    fn source(&self, entry: Entry<SourceKeys>) -> Option<(String, SourceSpec)> {
        self.accept(entry.key, values::name(&entry.name, "a source"));
        let (id, keys) = entry.value.good()?;
        // These two names are predeclared, with fixed kinds.
        if matches!(entry.name.as_str(), "env" | "file") && keys.kind() != entry.name {
            let message = format!("{} always is a source of type `{}`", quoted(&entry.name), entry.name);
            self.push(self.mark(entry.key), message, Some("give this source another name".to_owned()));
            return None;
        }
        Some((entry.name, keys.check(entry.key, id, self)?))
    }
}
