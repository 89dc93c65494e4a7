//! `deaddrop plan`: what inject or rotate would do, never a value.

use super::flow::{self, LookArgs, ManifestArgs};
use crate::report::rotate::Kind;
use crate::report::{Exit, Failure, Progress, Ui, json, plan as report};

/// Shows what inject would do to an image or a directory, or rotate to a running node, and writes nothing.
///
/// Example: deaddrop plan node1.img -m secrets.yaml --host node1
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: LookArgs,

    #[command(flatten)]
    manifest: ManifestArgs,

    /// Exit with 3 when there is something to do
    #[arg(long)]
    exit_code: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let Some(looked) = self.target.one() else {
            return self.target.all(ui, &self.manifest, Kind::Plan, self.exit_code);
        };
        let progress = Progress::new(ui);
        let watch = |step| progress.show(step);
        let prepared = flow::prepare(ui, looked, &self.manifest, None, &watch)?;
        let (name, plan) = (looked.target.display().to_string(), &prepared.plan);
        ui.print_json(|| json::plan("plan", &name, plan))?;
        let host = self.manifest.host.as_ref().map_or(String::new(), |host| format!(", as {host}"));
        ui.say(&format!("{}{host}\n", prepared.target.describe()));
        ui.say(&report::table(plan));
        if plan.is_empty() {
            ui.say(&format!("\nNothing to do: {} as declared.", report::secrets(plan.secrets().len())));
            return Ok(Exit::Done);
        }
        ui.say(&format!("\n{}. Nothing was written.", report::sum(plan)));
        Ok(if self.exit_code { Exit::Differences } else { Exit::Done })
    }
}
