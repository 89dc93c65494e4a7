//! `deaddrop plan`: what inject or rotate would do, never a value.

use std::time::SystemTime;

use super::flow::{self, LookArgs, ManifestArgs, Opened, Prepared, time_of_run};
use crate::report::rotate::RunKind;
use crate::report::{ProgressDisplay, Ui, json, plan as report};
use crate::run::message::{Exit, Failure, Message};

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

    /// Only compare: do not judge whether inject could make the changes (images and block devices)
    ///
    /// Without it, the whole change to an image is made and checked in memory, as inject does it: what inject would refuse, plan
    /// refuses.
    #[arg(long, conflicts_with = "all")]
    quick: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let Some(looked) = self.target.one() else {
            return self.target.all(ui, &self.manifest, RunKind::Plan, self.exit_code);
        };
        if self.quick && (looked.is_node() || looked.target.is_dir()) {
            let what = if looked.is_node() { "a running node" } else { "a directory" };
            let message =
                format!("--quick is for images and block devices, and `{}` is {what}", looked.target.display());
            return Err(Failure::usage(Message::new(message).hint("leave it out: there is nothing more to judge")));
        }
        let time = time_of_run()?;
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        let mut prepared = flow::prepare(ui, looked, &self.manifest, None, &watch)?;
        let name = looked.target.display().to_string();
        let heading = prepared.place.place().title();
        let judged = if self.quick { Ok(Vec::new()) } else { judge(&mut prepared, &name, time) };
        let plan = &prepared.plan;
        // A program gets the plan of what can be done, or the error.
        if judged.is_ok() {
            ui.print_json(|| json::plan("plan", &name, plan))?;
        }
        let host = self.manifest.host.as_ref().map_or(String::new(), |host| format!(", as {host}"));
        let sum = match plan.is_empty() {
            true => format!("Nothing to do: {} as declared.", report::secrets(plan.secrets().len())),
            false => format!("{}. Nothing was written.", report::sum(plan)),
        };
        let notes: String = judged.iter().flatten().map(|note| format!("\n{note}")).collect();
        let text = format!("{heading}{host}\n\n{}\n\n{sum}{notes}", report::table(plan));
        if ui.json || ui.quiet {
            ui.say(&text)
        } else {
            ui.print(&format!("{text}\n"))?
        }
        judged?;
        Ok(if self.exit_code && !plan.is_empty() { Exit::Differences } else { Exit::Done })
    }
}

/// What inject would refuse is refused here, with the same words.
fn judge(prepared: &mut Prepared<'_>, name: &str, time: SystemTime) -> Result<Vec<String>, Failure> {
    let Opened::Files(place) = &mut prepared.place else { return Ok(Vec::new()) };
    let changes = flow::tree_changes(&prepared.plan, name)?;
    place.judge(&changes, time).map_err(|error| flow::failed(name, &error))
}
