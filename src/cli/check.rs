//! `deaddrop check`: the manifest and its references hold.

use deaddrop_core::warning::Warning;

use super::flow::{self, ManifestArgs};
use crate::manifest::{Manifest, SecretSpec};
use crate::report::{Ui, json};
use crate::run::desired::Unfit;
use crate::run::message::{Exit, Failure};
use crate::run::part::{self, Part, Values};
use crate::run::plan;

/// Checks the manifest: keys, paths, references, modes.
///
/// Example: deaddrop check -m secrets.yaml
///
/// Touches no target, and no source without --values.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArgs,

    /// Read every value from its source as well, and check that it fits
    #[arg(long)]
    values: bool,
}

impl Args {
    /// Reads every value and checks that it fits, and adds what is odd about them to the warnings.
    fn read<'m>(
        &'m self,
        manifest: &'m Manifest,
        secrets: Vec<&'m SecretSpec>,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), Failure> {
        let parts = self.parts(manifest, secrets);
        let values = Values::read(manifest, &parts)?;
        let mut unfit: Vec<Unfit> = Vec::new();
        for part in parts {
            match part.files(manifest, &values) {
                Ok(files) => {
                    for warning in files.iter().flat_map(plan::value_warnings) {
                        // What is odd for several hosts is told once.
                        let is_known =
                            |known: &Warning| known.secret == warning.secret && known.message == warning.message;
                        if !warnings.iter().any(is_known) {
                            warnings.push(warning);
                        }
                    }
                }
                Err(errors) => {
                    let new: Vec<Unfit> = errors.into_iter().filter(|error| !unfit.contains(error)).collect();
                    unfit.extend(new);
                }
            }
        }
        if unfit.is_empty() { Ok(()) } else { Err(part::does_not_fit(&unfit)) }
    }

    /// As which hosts it is read: as the one that is named; without one, what differs from host to host as each host in its
    /// turn.
    fn parts<'m>(&'m self, manifest: &'m Manifest, secrets: Vec<&'m SecretSpec>) -> Vec<Part<'m>> {
        let part =
            |host: Option<&'m str>, secrets| Part { name: host.unwrap_or(""), host: None, as_host: host, secrets };
        if let Some(host) = &self.manifest.host {
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
        let manifest = flow::load(&self.manifest)?;
        // Without a host every secret is checked: nothing is written, so none has to be left out.
        let secrets = match self.manifest.host {
            Some(_) => flow::select(&manifest, &self.manifest)?,
            None => manifest.named(&self.manifest.only).map_err(|error| flow::wrong_selection(&error))?,
        };
        let mut warnings = flow::manifest_warnings(&manifest, &secrets);
        if self.values {
            self.read(&manifest, secrets.clone(), &mut warnings)?;
        }
        for warning in &warnings {
            ui.say(&crate::report::plan::warning_lines(warning));
        }
        let name = self.manifest.manifest.display().to_string();
        ui.print_json(|| json::check(&name, secrets.len(), &warnings))?;
        let values = if self.values { "; every value was read and fits" } else { "" };
        let secrets = crate::report::plan::secrets(secrets.len());
        let hosts = manifest.hosts.len();
        let hosts = format!("{hosts} host{}", if hosts == 1 { "" } else { "s" });
        ui.say(&format!("{name}: {secrets}, {hosts}, no errors{values}"));
        Ok(Exit::Done)
    }
}
