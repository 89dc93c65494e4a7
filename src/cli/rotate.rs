//! `deaddrop rotate`: the same manifest, on machines that run.

use std::path::PathBuf;

use super::fleet::{self, Request, SshArgs, Which};
use crate::report::Ui;
use crate::report::rotate::RunKind;
use crate::rotate::choose::Wish;
use crate::rotate::schedule::Limits;
use crate::rotate::shard::ShardArgument;
use crate::run::message::{Exit, Failure, Message};

/// Puts the declared secrets onto running nodes, over SSH, and restarts what uses those that changed.
///
/// Example: deaddrop rotate tag:server -m secrets.yaml
///
/// A node needs nothing but a POSIX shell: one SSH session a host, all its files or none of them. A node whose units fail with
/// the new values gets its old files back. A host's failure does not stop the others. Exits with 4 when some hosts are done
/// and some are not, with 1 when nothing was changed anywhere.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hosts of the manifest, or tag:NAME for all hosts with that tag
    #[arg(value_name = "HOST|tag:NAME")]
    hosts: Vec<String>,

    /// Every host of the manifest
    #[arg(long)]
    all: bool,

    /// This machine itself, without SSH; --host says which one it is
    #[arg(long, conflicts_with_all = ["hosts", "all", "shard", "canary", "batch", "max_failures", "serial", "parallel", "ssh_config", "ssh_option"])]
    local: bool,

    /// With --local: the host that this machine is in the manifest
    #[arg(long, value_name = "NAME", requires = "local", conflicts_with_all = ["hosts", "all"])]
    host: Option<String>,

    /// The manifest
    #[arg(short, long, value_name = "FILE", default_value = "secrets.yaml")]
    manifest: PathBuf,

    /// Only this secret (may be given several times); the others are left as they are, and their values are not read
    #[arg(long, value_name = "SECRET")]
    only: Vec<String>,

    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Leave the new files where units fail with them
    #[arg(long)]
    no_rollback: bool,

    /// Where a run was cut off, and files that it was about are in directories that are not there now: give these up
    ///
    /// The others are put back or finished, as without it. Mount what is missing instead, if it can be had.
    #[arg(long)]
    forget_list: bool,

    #[command(flatten)]
    ssh: SshArgs,

    /// The first N hosts go before all others, which begin only if none of these fails
    #[arg(long, value_name = "N", default_value_t = 0)]
    canary: usize,

    /// In batches of N hosts: a batch begins when the one before has ended
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,

    /// At most N hosts may fail: when one more does, no other host begins
    #[arg(long, value_name = "N")]
    max_failures: Option<usize>,

    /// Hosts with this tag go one at a time, and stop at the first of them that fails (may be given several times; the
    /// manifest's `serial` says it for good)
    #[arg(long, value_name = "TAG")]
    serial: Vec<String>,

    /// Only the I-th of N parts of the hosts, counted from 1; `auto` takes both from JOB_COMPLETION_INDEX and
    /// JOB_COMPLETIONS, or from CI_NODE_INDEX and CI_NODE_TOTAL
    #[arg(long, value_name = "I/N|auto")]
    shard: Option<ShardArgument>,

    /// Not here: what images are for is `inject`
    #[arg(long, hide = true, num_args = 0.., value_name = "IMAGE")]
    image: Option<Vec<PathBuf>>,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        if let Some(images) = &self.image {
            let image = images.first().map_or("IMAGE".into(), |image| image.display().to_string());
            let image = deaddrop_core::text::shown_text(&image).unwrap_or_default();
            let hint = format!("deaddrop inject {image} --host NAME");
            return Err(Failure::usage(
                Message::new("rotate is for nodes that run; on images it is `inject`").hint(hint),
            ));
        }
        let hosts = match self.local {
            true => Which::Local(self.host.as_deref()),
            false => Which::Nodes(Wish { named: &self.hosts, all: self.all }),
        };
        // Over 32 bits of hosts there is no batch that is smaller.
        let batch = self.batch.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        let limits = Limits { canary: self.canary, batch, max_failures: self.max_failures, ..Limits::default() };
        fleet::run(
            ui,
            &Request {
                manifest: &self.manifest,
                only: &self.only,
                hosts,
                shard: self.shard,
                serial: &self.serial,
                limits,
                ssh: &self.ssh,
                rollback: !self.no_rollback,
                forget_list: self.forget_list,
                kind: if self.dry_run { RunKind::DryRun } else { RunKind::Rotate },
                tells_differences: false,
            },
        )
    }
}
