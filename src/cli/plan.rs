//! `deaddrop plan`: the changes that inject or rotate would make, without values.

use std::time::SystemTime;

use super::args::{HostsArgs, ManifestArgs, SurveyArgs, Target};
use super::failure;
use super::images::names;
use super::prepare::{Opened, Prepared, prepare, time_of_run, tree_changes};
use crate::report::rotate::RunKind;
use crate::report::{ProgressDisplay, Ui, json, plan as report};
use crate::run::message::{Exit, Failure, Message};

/// Shows what inject would do to an image or a directory, or rotate to a running node, and writes nothing.
///
/// Example: deaddrop plan node1.img -m secrets.yaml --host node1
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: SurveyArgs,

    #[command(flatten)]
    manifest: ManifestArgs,

    #[command(flatten)]
    hosts: HostsArgs,

    /// Exit with 3 if there is something to do
    #[arg(long)]
    exit_code: bool,

    /// Only compare: do not check whether inject could make the changes (images and block devices)
    ///
    /// Without it, the whole change to an image is made and checked in memory, as by inject: plan refuses what inject
    /// would refuse.
    #[arg(long, conflicts_with = "all")]
    quick: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let Some(target) = self.target.target() else {
            return self.target.run_all(ui, &self.manifest, RunKind::Plan, self.exit_code);
        };
        if self.hosts.are_several() {
            let tells = (self.quick, self.exit_code);
            return self.target.run_images(ui, target, &self.manifest, &self.hosts, RunKind::Plan, tells);
        }
        let host = self.hosts.one();
        let path = names::of_host(target.path, host)?;
        let target = Target { path: &path, by_mark: names::has_mark(target.path), ..target };
        if self.quick && (target.is_node() || target.path.is_dir()) {
            let what = if target.is_node() { "a running node" } else { "a directory" };
            let message = format!("--quick is for images and block devices, and `{}` is {what}", target.path.display());
            return Err(Failure::usage(Message::new(message).hint("leave it out: there is nothing more to check")));
        }
        let time = time_of_run()?;
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        let mut prepared = prepare(ui, target, &self.manifest, host, None, &watch)?;
        let name = target.path.display().to_string();
        let place = prepared.place.place();
        let (heading, is_packed) = (place.title(), place.packed_as().is_some());
        let checked = if self.quick { Ok(Vec::new()) } else { dry_run(&mut prepared, &name, time) };
        let plan = &prepared.plan;
        // JSON has either a plan that inject can carry out, or the error.
        if checked.is_ok() {
            ui.print_json(|| json::plan("plan", &name, plan))?;
        }
        let host = host.map_or(String::new(), |host| format!(", as {host}"));
        let rewrites = match is_packed {
            true => format!(" Without -o, inject rewrites {name}."),
            false => String::new(),
        };
        let sum = match plan.is_empty() {
            true => format!("Nothing to do: {} as declared.", report::secrets(plan.secrets().len())),
            false => format!("{}. Nothing was written.{rewrites}", report::sum(plan)),
        };
        let notes: String = checked.iter().flatten().map(|note| format!("\n{note}")).collect();
        let after = prepared.after.as_ref().map_or(String::new(), |after| format!("  {after}\n\n"));
        ui.result(&format!(
            "{heading}{host}\n\n{}\n\n{after}{sum}{notes}",
            report::table(plan, ui.columns_of_result())
        ))?;
        checked?;
        Ok(if self.exit_code && !plan.is_empty() { Exit::Differences } else { Exit::Done })
    }
}

/// Refuses what inject would refuse, with the same message.
fn dry_run(prepared: &mut Prepared<'_>, name: &str, time: SystemTime) -> Result<Vec<String>, Failure> {
    let Opened::Files(place) = &mut prepared.place else { return Ok(Vec::new()) };
    let changes = tree_changes(&prepared.plan, name)?;
    place.dry_run(&changes, time).map_err(|error| failure::failed(name, &error))
}
