//! Loads the manifest, and selects the secrets of a run.

use std::path::Path;

use deaddrop_core::warning::Warning;

use crate::manifest::{Manifest, SecretSpec, SelectError};
use crate::nixos;
use crate::run::message::{Failure, Message};

/// Loads and checks the manifest.
///
/// # Errors
/// Exit 2 with every error of the file.
pub fn load(manifest: &Path) -> Result<Manifest, Failure> {
    Manifest::load(manifest).map_err(|errors| Failure::usage(Message::rendered(errors.to_string())))
}

/// The secrets of the host, or those of them that `only` names.
///
/// # Errors
/// Exit 2 if the host or a secret is unknown, if a host must be named, or if a secret is not for this host.
pub fn select<'a>(manifest: &'a Manifest, host: Option<&str>, only: &[String]) -> Result<Vec<&'a SecretSpec>, Failure> {
    manifest.select(host, only).map_err(|error| wrong_selection(&error))
}

/// The command line names a host or a secret that the manifest does not have.
#[must_use]
pub fn wrong_selection(error: &SelectError) -> Failure {
    Failure::usage(Message::new(error.to_string()).hint(error.hint()))
}

/// The secrets of the host that `@HOST` names.
///
/// # Errors
/// Exit 2, as [`select`]; also if `--host` names another host.
pub fn select_of_node<'a>(
    manifest: &'a Manifest,
    host: Option<&str>,
    only: &[String],
    node: &str,
) -> Result<Vec<&'a SecretSpec>, Failure> {
    if host.is_some_and(|host| host != node) {
        let message = format!("`@{node}` is a host itself: --host names another one");
        return Err(Failure::usage(Message::new(message).hint("leave --host out")));
    }
    select(manifest, Some(node), only)
}

/// The manifest's own warnings about these secrets, as far as they are not allowed on `host`.
pub fn manifest_warnings(manifest: &Manifest, secrets: &[&SecretSpec], host: Option<&str>) -> Vec<Warning> {
    let allowances = manifest.allowances(host);
    let is_ours = |warning: &&Warning| secrets.iter().any(|secret| warning.secret.as_ref() == Some(&secret.name));
    let mut warnings: Vec<Warning> = manifest.warnings.iter().filter(is_ours).cloned().collect();
    allowances.filter(&mut warnings);
    let about_its_path = |secret: &&SecretSpec| {
        let finding = nixos::paths::judge(secret.path.as_str())?.unless_allowed(&allowances.of(secret))?;
        (!finding.refuse).then(|| finding.warning(&secret.name))
    };
    warnings.extend(secrets.iter().filter_map(about_its_path));
    warnings
}
