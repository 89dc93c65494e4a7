//! `allow`: findings that the user accepts, by code, each with the reason. A secret's own entry comes before that of
//! its host, and that before the one at the top of the manifest.

use std::collections::BTreeMap;

use deaddrop_core::keys::{Entries, Field};
use deaddrop_core::warning::Warning;

use super::check::Checker;
use super::model::{Host, Manifest, SecretSpec};
use super::schema::Reason;
use super::values;

/// Codes that are allowed, each with the user's reason.
pub type Allow = BTreeMap<String, String>;

/// What is allowed on one host, or without a host.
#[derive(Debug, Clone, Copy)]
pub struct Allowances<'m> {
    manifest: &'m Manifest,
    host: Option<&'m Host>,
}

impl Manifest {
    /// What is allowed on this host. `None`, or a name that is no host here: on every host.
    #[must_use]
    pub fn allowances(&self, host: Option<&str>) -> Allowances<'_> {
        Allowances { manifest: self, host: host.and_then(|name| self.hosts.get(name)) }
    }
}

impl Allowances<'_> {
    /// The codes that are allowed for a secret.
    #[must_use]
    pub fn of(&self, spec: &SecretSpec) -> Allow {
        let mut all = self.of_target();
        all.extend(spec.allow.clone());
        all
    }

    /// The codes that are allowed for the target as a whole.
    #[must_use]
    pub fn of_target(&self) -> Allow {
        let mut all = self.manifest.allow.clone();
        all.extend(self.host.iter().flat_map(|host| host.allow.clone()));
        all
    }

    /// Removes the warnings that are allowed.
    pub fn filter(&self, warnings: &mut Vec<Warning>) {
        let target = self.of_target();
        warnings.retain(|warning| {
            let own = || {
                let name = warning.secret.as_ref()?;
                self.manifest.secrets.iter().find(|spec| spec.name == *name)?.allow.get(warning.code)
            };
            !target.contains_key(warning.code) && own().is_none()
        });
    }
}

impl Checker<'_, '_> {
    /// The codes of an `allow`, with their reasons. `None` if one is wrong (reported).
    pub(super) fn allow(&self, field: Field<Entries<Reason>>) -> Option<Allow> {
        let entries = match field {
            Field::Missing => return Some(Allow::new()),
            Field::Bad => return None,
            Field::Good(_, entries) => entries.0,
        };
        // Check all entries, so that every problem is reported.
        let checked: Vec<Option<(String, String)>> = entries
            .into_iter()
            .map(|entry| {
                let reason = entry.value.good().map(|(_, Reason(reason))| reason);
                // The reason is wrong and reported; check the code anyway.
                let text = reason.as_deref().unwrap_or("wrong");
                self.accept(entry.key, values::allowed(&entry.name, text))?;
                Some((entry.name, reason?))
            })
            .collect();
        checked.into_iter().collect()
    }
}
