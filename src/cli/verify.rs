//! `deaddrop verify`: succeeds if the plan is empty.

use super::args::{HostsArgs, ManifestArgs, SurveyArgs, Target};
use super::images::names;
use super::prepare::prepare;
use crate::report::rotate::RunKind;
use crate::report::{ProgressDisplay, Ui, json, plan as report};
use crate::run::message::{Exit, Failure};
use crate::run::plan::Action;

/// Checks that an image, a directory or a running node has every secret as declared: content, mode and owner.
///
/// Example: deaddrop verify node1.img -m secrets.yaml --host node1
///
/// Writes nothing. Exits with 3 on any difference.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: SurveyArgs,

    #[command(flatten)]
    manifest: ManifestArgs,

    #[command(flatten)]
    hosts: HostsArgs,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let Some(target) = self.target.target() else {
            return self.target.run_all(ui, &self.manifest, RunKind::Verify, true);
        };
        if self.hosts.are_several() {
            return self.target.run_images(ui, target, &self.manifest, &self.hosts, RunKind::Verify, (false, true));
        }
        let host = self.hosts.one();
        let path = names::of_host(target.path, host)?;
        let target = Target { path: &path, by_mark: names::has_mark(target.path), ..target };
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        let prepared = prepare(ui, target, &self.manifest, host, None, &watch)?;
        let (name, plan) = (target.path.display().to_string(), &prepared.plan);
        ui.print_json(|| json::plan("verify", &name, plan))?;
        let columns = ui.columns_of_result();
        let differences =
            if ui.verbose < 2 { report::differences(plan, columns) } else { report::table(plan, columns) };
        ui.result(&differences)?;
        if plan.is_empty() {
            ui.result(&format!("{name}: {} as declared", report::secrets(plan.secrets().len())))?;
            return Ok(Exit::Done);
        }
        let actions = plan.secrets();
        let (all, differing) = (actions.len(), actions.iter().filter(|action| **action != Action::Unchanged).count());
        let are = if differing == 1 { "is" } else { "are" };
        let after = prepared.after.as_ref().map_or(String::new(), |after| format!("; rotate {after}"));
        ui.result(&format!("{name}: {differing} of {} {are} not as declared{after}", report::secrets(all)))?;
        Ok(Exit::Differences)
    }
}
