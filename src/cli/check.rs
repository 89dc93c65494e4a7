//! `deaddrop check`: the manifest and its references hold.

use super::flow::{self, ManifestArgs};
use crate::report::{Exit, Failure, Ui, json};

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
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let manifest = flow::load(&self.manifest)?;
        // Without a host every secret is checked: nothing is written, so none has to be left out.
        let secrets = match self.manifest.host {
            Some(_) => flow::select(&manifest, &self.manifest)?,
            None => manifest.named(&self.manifest.only).map_err(|error| flow::wrong_selection(&error))?,
        };
        if self.values {
            flow::desired_files(&manifest, &secrets)?;
        }
        let warnings = flow::manifest_warnings(&manifest, &secrets);
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
