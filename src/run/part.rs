//! One host's part of a run: its secrets, and their values. An image, a directory and this machine count as one host.

use std::collections::{HashMap, HashSet};

use deaddrop_core::near;
use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;
use deaddrop_vault::{Cause, LookupError, Reference, SourceError, Sources};

use super::desired::{self, DesiredFile, Need, Unfit};
use super::message::{Failure, Message};
use super::remedy;
use crate::manifest::{BecomePassword, Host, Manifest, SecretSpec};

/// One host and its secrets.
#[derive(Debug)]
pub struct HostPart<'m> {
    /// The name in messages.
    pub name: &'m str,
    /// Its entry in the manifest; `None` without SSH.
    pub host: Option<&'m Host>,
    /// The value of `{host}`; `None` without a name in the manifest.
    pub as_host: Option<&'m str>,
    /// Its secrets.
    pub secrets: Vec<&'m SecretSpec>,
}

impl HostPart<'_> {
    /// The reference of its become password, if a source provides it.
    fn password_reference(&self) -> Option<Reference> {
        match self.host?.become_password.as_ref()? {
            BecomePassword::From(reference) => Some(reference.for_host(self.as_host)),
            BecomePassword::Ask => None,
        }
    }

    /// The files that the host should have.
    ///
    /// # Errors
    /// As [`desired::build`].
    pub fn files(&self, manifest: &Manifest, values: &Values) -> Result<Vec<DesiredFile>, Vec<Unfit>> {
        desired::build(manifest, &self.secrets, &values.values, self.as_host)
    }

    /// Its become password, if the manifest sets one.
    ///
    /// # Errors
    /// If no value was read for it.
    pub fn become_password(&self, values: &Values) -> Result<Option<Secret>, &'static str> {
        let password = match self.host.and_then(|host| host.become_password.as_ref()) {
            None => return Ok(None),
            Some(BecomePassword::Ask) => values.typed.clone(),
            Some(BecomePassword::From(_)) => {
                self.password_reference().and_then(|reference| values.values.get(&reference).cloned())
            }
        };
        password.map(Some).ok_or("no value was read for its `become_password`")
    }
}

/// All values of a run.
#[derive(Debug, Default)]
pub struct Values {
    values: HashMap<Reference, Secret>,
    /// The become password that the user typed.
    typed: Option<Secret>,
    /// Warnings about the sources and the values, each once.
    warnings: Vec<Warning>,
}

impl Values {
    /// Reads every value and every become password, each once, in one pass over the sources; then asks the user, once.
    /// `tell` shows a line about work that takes long.
    ///
    /// # Errors
    /// Exit 1 with every missing value; also if there is no terminal to ask on.
    pub fn read(manifest: &Manifest, parts: &[HostPart<'_>], tell: Option<fn(&str)>) -> Result<Self, Failure> {
        let mut needs: Vec<Need<'_>> =
            parts.iter().flat_map(|part| desired::needs(&part.secrets, part.as_host)).collect();
        // Most hosts need the same values: an error about one is reported once.
        let mut seen = HashSet::new();
        needs.retain(|need| seen.insert((need.spec.name.as_str(), need.reference.clone())));
        let password = |part: &HostPart<'_>| {
            let reference = part.password_reference()?;
            Some((format!("become_password of {}", part.name), reference))
        };
        let passwords: Vec<(String, Reference)> = parts.iter().filter_map(password).collect();
        let wanted: Vec<deaddrop_vault::Wanted<'_>> = needs
            .iter()
            .map(|need| deaddrop_vault::Wanted {
                reference: &need.reference,
                secret: &need.spec.name,
                allow_empty: need.spec.allow_empty,
            })
            .chain(passwords.iter().map(|(whose, reference)| deaddrop_vault::Wanted {
                reference,
                secret: whose,
                allow_empty: false,
            }))
            .collect();
        let mut fetched = deaddrop_vault::fetch(&Sources { tell, ..manifest.vaults() }, &wanted).map_err(|errors| {
            let message = |error: &SourceError| {
                let is_unknown = matches!(error.cause, Cause::Lookup(LookupError::NoItem { .. }));
                let lists = manifest.sources.get(&error.name).is_some_and(|source| source.kind() != "vals");
                let hint = error.hint().or_else(|| (is_unknown && lists).then(|| remedy::list_items(&error.name)));
                Message::from_error(error).hint(hint.unwrap_or_default())
            };
            Failure::refused(errors.iter().map(message).collect())
        })?;
        let asks = |part: &&HostPart<'_>| {
            part.host.is_some_and(|host| matches!(host.become_password, Some(BecomePassword::Ask)))
        };
        let asking: Vec<&str> = parts.iter().filter(asks).map(|part| part.name).collect();
        let typed = if asking.is_empty() { None } else { Some(ask(&asking)?) };
        for warning in &mut fetched.warnings {
            // A become password belongs to no secret of the manifest.
            let is_password = |name: &String| passwords.iter().any(|(whose, _)| whose == name);
            warning.secret = warning.secret.take().filter(|name| !is_password(name));
        }
        // What is allowed on one host only is shown in a run over several.
        let host = if let [part] = parts { part.as_host } else { None };
        manifest.allowances(host).filter(&mut fetched.warnings);
        Ok(Self { values: fetched.values, typed, warnings: fetched.warnings })
    }

    /// The value of a reference, with the host's name inserted; `None` if it was not read.
    #[must_use]
    pub fn get(&self, reference: &Reference) -> Option<&Secret> {
        self.values.get(reference)
    }

    /// Warnings about the sources and the values, each once.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// One password, for all hosts with `become_password: ask`.
fn ask(hosts: &[&str]) -> Result<Secret, Failure> {
    let prompt = format!("Password of the user on {}: ", near::list(hosts.iter().copied()));
    let refused = |what: String| {
        let hint =
            "run it in a terminal, or say in the manifest where the password comes from: become_password: SOURCE:ITEM";
        Err(Failure::refused(vec![Message::new(what).hint(hint)]))
    };
    match deaddrop_vault::ask(&prompt) {
        Ok(password) if password.is_empty() => refused("become_password: an empty password was given".to_owned()),
        Ok(password) => Ok(password),
        Err(error) => refused(format!("become_password: `ask` needs a terminal ({error})")),
    }
}

/// Builds the files of each part once, passes them to `visit` and drops them, so that every error is reported before
/// any contact.
///
/// # Errors
/// Exit 1 with every value that does not fit, each once.
pub fn check_that_values_fit(
    manifest: &Manifest,
    parts: &[HostPart<'_>],
    values: &Values,
    mut visit: impl FnMut(&[DesiredFile]),
) -> Result<(), Failure> {
    let mut seen: HashSet<(Option<&str>, Vec<&str>)> = HashSet::new();
    let mut reported: HashSet<String> = HashSet::new();
    let mut unfit: Vec<Unfit> = Vec::new();
    for part in parts {
        // Hosts with the same secrets have the same files, unless a secret names the host.
        let named = part.as_host.filter(|_| part.secrets.iter().any(|secret| secret.names_host()));
        if !seen.insert((named, part.secrets.iter().map(|secret| secret.name.as_str()).collect())) {
            continue;
        }
        match part.files(manifest, values) {
            Ok(files) => visit(&files),
            Err(errors) => unfit.extend(errors.into_iter().filter(|error| reported.insert(error.to_string()))),
        }
    }
    if unfit.is_empty() { Ok(()) } else { Err(does_not_fit(&unfit)) }
}

/// The error for values that do not fit their declaration.
#[must_use]
pub fn does_not_fit(unfit: &[Unfit]) -> Failure {
    let message = |error: &Unfit| Message::from_error(error).hint(error.hint.as_str());
    Failure::refused(unfit.iter().map(message).collect())
}
