//! `deaddrop rotate`: files on running nodes, and the units that use them.

use std::path::PathBuf;
use std::time::Duration;

use super::flow::{self, ManifestArgs};
use crate::manifest::{Manifest, SecretSpec};
use crate::report::{Exit, Failure, Message, Ui, plan as report, print_error_stream};
use crate::rotate::{self, HostEnd, HostJob, Options, Status};
use crate::source;

/// Puts secrets in place on running nodes, over SSH, and restarts the units that use them.
///
/// Example: deaddrop rotate node1 -m secrets.yaml
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hosts of the manifest
    #[arg(value_name = "HOST", required_unless_present = "local")]
    hosts: Vec<String>,

    #[command(flatten)]
    manifest: ManifestArgs,

    /// This machine itself, without SSH; --host says which one it is
    #[arg(long, conflicts_with_all = ["hosts", "ssh_config", "ssh_option"])]
    local: bool,

    /// ssh's configuration file, instead of your own
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,

    /// An option for ssh, as its -o takes it (may be given several times)
    #[arg(long, value_name = "OPTION")]
    ssh_option: Vec<String>,

    /// Keep the new files also where something is not well with them
    #[arg(long)]
    no_rollback: bool,

    /// Show what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Give a node up that says nothing for so long
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let manifest = flow::load(&self.manifest)?;
        let options = Options {
            ssh_config: self.ssh_config.clone(),
            ssh_options: self.ssh_option.clone(),
            rollback: !self.no_rollback,
            dry_run: self.dry_run,
            contact_timeout: Duration::from_secs(self.timeout),
            interactive: rotate::has_terminal(),
            hidden: source::hidden_variables(&manifest),
        };
        let mut jobs = Vec::new();
        if self.local {
            jobs.push(("localhost", flow::select(&manifest, &self.manifest)?));
        }
        for host in &self.hosts {
            let args = ManifestArgs { host: Some(host.clone()), ..self.manifest.clone() };
            jobs.push((host.as_str(), flow::select(&manifest, &args)?));
        }
        let (mut done, mut failed, mut half) = (0_usize, 0_usize, 0_usize);
        for (name, specs) in jobs {
            let end = self.one(&manifest, name, specs, &options)?;
            show(ui, name, &end);
            match end.status {
                Status::Done => done += 1,
                Status::Unchanged => {}
                _ if end.changed_anything => half += 1,
                _ => failed += 1,
            }
        }
        Ok(match (done, failed, half) {
            (_, 0, 0) => Exit::Done,
            (0, _, 0) => Exit::Refused,
            _ => Exit::SomeDone,
        })
    }

    fn one(
        &self,
        manifest: &Manifest,
        name: &str,
        specs: Vec<&SecretSpec>,
        options: &Options,
    ) -> Result<HostEnd, Failure> {
        let host = if self.local { None } else { manifest.hosts.get(name) };
        let become_password = match host {
            Some(host) => rotate::become_password(manifest, name, host)?,
            None => None,
        };
        let files = flow::desired_files(manifest, &specs)?;
        Ok(rotate::rotate_host(HostJob { name, host, files, specs, become_password, options }, &|_| {}))
    }
}

fn show(ui: &Ui, name: &str, end: &HostEnd) {
    if let Some(plan) = &end.plan {
        let lines = report::changed_lines(plan);
        if !lines.is_empty() {
            ui.say(&lines);
        }
    }
    if let Some(message) = &end.error {
        print_error_stream(&Message::render(message));
    }
    ui.say(&format!("{name}: {} ({:.1} s)", end.status.name(), end.seconds));
}
