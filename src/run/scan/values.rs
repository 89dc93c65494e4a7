//! What is searched for: the values of the manifest, with the secrets that have them.

use std::collections::{BTreeMap, HashMap};

use deaddrop_core::secret::Secret;

use super::forms::{self, Form};
use crate::derive::password;
use crate::manifest::{Manifest, SecretSpec, SelectError, ValueSpec};
use crate::place::OwnFile;
use crate::run::desired;
use crate::run::part::{HostPart, Values};

/// The secrets whose values are searched for: those of one host, or of all. A host's part has only what differs from
/// host to host, if all are meant.
///
/// # Errors
/// An unknown host or secret, or a secret that is not for the host.
pub fn parts<'m>(
    manifest: &'m Manifest,
    host: Option<&'m str>,
    only: &[String],
) -> Result<Vec<HostPart<'m>>, SelectError> {
    let part = |name, secrets| HostPart { name, host: None, as_host: Some(name), secrets };
    if let Some(host) = host {
        return Ok(vec![part(host, manifest.select(Some(host), only)?)]);
    }
    if manifest.hosts.is_empty() {
        return Ok(vec![HostPart { name: "all", host: None, as_host: None, secrets: manifest.select(None, only)? }]);
    }
    let named = manifest.named(only)?;
    let (differ, same): (Vec<_>, Vec<_>) = named.into_iter().partition(|secret| secret.names_host());
    let hosts = manifest
        .hosts
        .iter()
        .map(|(name, host)| part(name, differ.iter().copied().filter(|secret| secret.is_for(name, host)).collect()));
    let all = HostPart { name: "all hosts", host: None, as_host: None, secrets: same };
    Ok(std::iter::once(all).chain(hosts).filter(|part| !part.secrets.is_empty()).collect())
}

/// A value, and what it is of.
#[derive(Debug)]
pub struct Known {
    /// The bytes, without the newlines at their end.
    pub bytes: Secret,
    /// The secrets that have it, by their index in the manifest.
    pub secrets: Vec<usize>,
    /// A file has the hash of it.
    pub is_password: bool,
    /// It is itself the hash of a password.
    pub is_hash: bool,
}

/// Collects values; one that several secrets have is there once.
pub struct Collected<'m> {
    /// The secrets' indexes in the manifest.
    secrets: HashMap<&'m str, usize>,
    values: BTreeMap<Bytes, Known>,
}

/// The order of values.
#[derive(PartialEq, Eq)]
struct Bytes(Secret);

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.expose().cmp(other.0.expose())
    }
}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<'m> Collected<'m> {
    /// No values yet, of this manifest's secrets.
    #[must_use]
    pub fn new(manifest: &'m Manifest) -> Self {
        let secrets = manifest.secrets.iter().enumerate().map(|(index, spec)| (spec.name.as_str(), index));
        Self { secrets: secrets.collect(), values: BTreeMap::new() }
    }

    /// Adds what the sources have, decoded as in the secrets' files.
    pub fn add_of_sources(&mut self, parts: &[HostPart<'_>], values: &Values) {
        for part in parts {
            for need in desired::needs(&part.secrets, part.as_host) {
                let Some(value) = values.get(&need.reference) else { continue };
                let encoding = need.spec.encoding.filter(|_| matches!(need.spec.value, ValueSpec::From(_)));
                let decoded = encoding.and_then(|encoding| encoding.decode(value.expose()).ok());
                let known = self.add(need.spec, decoded.as_ref().unwrap_or(value));
                known.is_password |= need.spec.hash.is_some();
            }
        }
    }

    /// Adds what only the target has: a key that it generated, and the hash of a password.
    pub fn add_of_target(&mut self, spec: &SecretSpec, own: &OwnFile) {
        let Some(content) = &own.content else { return };
        if spec.hash.is_some() && password::recognise(content.expose()).is_some() {
            self.add(spec, content).is_hash = true;
        } else if matches!(spec.value, ValueSpec::Generate(_)) {
            self.add(spec, content);
        }
    }

    fn add(&mut self, spec: &SecretSpec, value: &Secret) -> &mut Known {
        let bytes = forms::trimmed(value.expose());
        let bytes = if bytes.len() == value.len() { value.clone() } else { Secret::new(bytes.to_vec()) };
        let new = || Known { bytes: bytes.clone(), secrets: Vec::new(), is_password: false, is_hash: false };
        let known = self.values.entry(Bytes(bytes.clone())).or_insert_with(new);
        known.secrets.extend(self.secrets.get(spec.name.as_str()).filter(|index| !known.secrets.contains(index)));
        known
    }

    /// The values.
    #[must_use]
    pub fn into_values(self) -> Vec<Known> {
        self.values.into_values().collect()
    }
}

impl Known {
    /// The form that a find of it has.
    #[must_use]
    pub fn form(&self, form: Form) -> Form {
        if self.is_hash { Form::Hash } else { form }
    }
}

/// True for a secret of which something is in the target only.
#[must_use]
pub fn is_of_target(spec: &SecretSpec) -> bool {
    spec.hash.is_some() || matches!(spec.value, ValueSpec::Generate(_))
}
