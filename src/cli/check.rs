//! `deaddrop check`: validates the manifest and its references, and with `--values` every value.

use deaddrop_core::warning::Warning;

use super::args::ManifestArgs;
use super::select;
use crate::manifest::{Manifest, SecretSpec};
use crate::report::{Ui, json};
use crate::run::message::{Exit, Failure};
use crate::run::part::{self, HostPart, Values};
use crate::run::plan;

/// Checks the manifest: keys, paths, references, modes.
///
/// Example: deaddrop check -m secrets.yaml
///
/// Opens no target, and no source without --values.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArgs,

    /// The target's host in the manifest
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Also read every value from its source, and check that it fits
    #[arg(long)]
    values: bool,
}

impl Args {
    /// Reads every value and checks that it fits. Adds the warnings about suspicious values.
    fn read<'m>(
        &'m self,
        ui: &Ui,
        manifest: &'m Manifest,
        secrets: Vec<&'m SecretSpec>,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), Failure> {
        let parts = self.parts(manifest, secrets);
        let values = Values::read(manifest, &parts, ui.tell())?;
        warnings.extend_from_slice(values.warnings());
        part::check_that_values_fit(manifest, &parts, &values, |files| {
            for warning in files.iter().flat_map(plan::value_warnings) {
                // One warning for a value that several hosts share.
                let is_known = |known: &Warning| known.secret == warning.secret && known.message == warning.message;
                if !warnings.iter().any(is_known) {
                    warnings.push(warning);
                }
            }
        })
    }

    /// The hosts to check for: the named one; without `--host`, once for what is the same on all hosts, and each host
    /// separately for secrets that name the host.
    fn parts<'m>(&'m self, manifest: &'m Manifest, secrets: Vec<&'m SecretSpec>) -> Vec<HostPart<'m>> {
        let part =
            |host: Option<&'m str>, secrets| HostPart { name: host.unwrap_or(""), host: None, as_host: host, secrets };
        if let Some(host) = &self.host {
            return vec![part(Some(host), secrets)];
        }
        let (of_hosts, same): (Vec<_>, Vec<_>) = secrets.into_iter().partition(|secret| secret.names_host());
        let mut parts = vec![part(None, same)];
        if !of_hosts.is_empty() {
            for (name, host) in &manifest.hosts {
                let its = of_hosts.iter().copied().filter(|secret| secret.is_for(name, host)).collect();
                parts.push(part(Some(name.as_str()), its));
            }
        }
        parts
    }

    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let manifest = select::load(&self.manifest.manifest)?;
        // Without a host every secret is checked: nothing is written, so the choice of a host does not matter.
        let secrets = match self.host {
            Some(_) => select::select(&manifest, self.host.as_deref(), &self.manifest.only)?,
            None => manifest.named(&self.manifest.only).map_err(|error| select::wrong_selection(&error))?,
        };
        let mut warnings = select::manifest_warnings(&manifest, &secrets, self.host.as_deref());
        if self.values {
            self.read(ui, &manifest, secrets.clone(), &mut warnings)?;
        }
        for warning in &warnings {
            ui.result(&crate::report::plan::warning_lines(warning))?;
        }
        let name = self.manifest.manifest.display().to_string();
        ui.print_json(|| json::check(&name, secrets.len(), &warnings))?;
        let values = if self.values { "; every value was read and fits" } else { "" };
        let secrets = crate::report::plan::secrets(secrets.len());
        let hosts = manifest.hosts.len();
        let hosts = format!("{hosts} host{}", if hosts == 1 { "" } else { "s" });
        ui.result(&format!("{name}: {secrets}, {hosts}, no errors{values}"))?;
        Ok(Exit::Done)
    }
}
