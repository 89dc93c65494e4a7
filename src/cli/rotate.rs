//! `deaddrop rotate`: writes secrets to running nodes.

use std::path::PathBuf;

use super::args::{SshArgs, USUAL_MANIFEST};
use super::fleet::{self, Machines, Request};
use crate::report::Ui;
use crate::report::rotate::RunKind;
use crate::rotate::choose::Selection;
use crate::rotate::schedule::Limits;
use crate::rotate::shard::ShardArgument;
use crate::run::message::{Exit, Failure, Message};

/// Writes the declared secrets to running nodes, over SSH, and restarts the units whose secrets changed.
///
/// Example: deaddrop rotate tag:server -m secrets.yaml
///
/// A node needs only a POSIX shell. One SSH session per host; all its files or none. If a node's units fail with the
/// new values, its old files are restored. A host's failure does not stop the others. Exits with 4 if some hosts are
/// done and some are not, with 1 if nothing was changed anywhere.
///
/// A secret with `kind: k3s-token` or `rke2-token` comes first: it is changed in the running cluster too, on all of its
/// hosts in one run, and no old file comes back after that.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hosts of the manifest, or tag:NAME for all hosts with that tag
    #[arg(value_name = "HOST|tag:NAME")]
    hosts: Vec<String>,

    /// Every host of the manifest
    #[arg(long)]
    all: bool,

    /// This machine, without SSH; --host names its host in the manifest
    #[arg(long, conflicts_with_all = REMOTE_ONLY)]
    local: bool,

    /// With --local: this machine's host in the manifest
    #[arg(long, value_name = "NAME", requires = "local", conflicts_with_all = ["hosts", "all"])]
    host: Option<String>,

    /// The manifest, YAML or JSON; - reads it from standard input
    #[arg(short, long, value_name = "FILE", default_value = USUAL_MANIFEST)]
    manifest: PathBuf,

    /// Only this secret (repeatable); the others are not changed, and their values are not read
    #[arg(long, value_name = "SECRET")]
    only: Vec<String>,

    /// Show what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Keep the new files if units fail with them
    #[arg(long)]
    no_rollback: bool,

    /// Give up files of an interrupted run whose directories are missing
    ///
    /// The others are restored or finished as usual. If possible, mount the missing file system instead.
    #[arg(long)]
    forget_list: bool,

    #[command(flatten)]
    ssh: SshArgs,

    /// Run the first N hosts before all others, which start only if none of these fails
    #[arg(long, value_name = "N", default_value_t = 0)]
    canary: usize,

    /// Run in batches of N hosts: a batch starts when the previous one has ended
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,

    /// Start no further host after more than N have failed
    #[arg(long, value_name = "N")]
    max_failures: Option<usize>,

    /// Run hosts with this tag one at a time, and stop after the first failure among them (repeatable; `serial` in the
    /// manifest sets it permanently)
    #[arg(long, value_name = "TAG")]
    serial: Vec<String>,

    /// Only the I-th of N parts of the hosts, counted from 1; `auto` takes both from JOB_COMPLETION_INDEX and
    /// JOB_COMPLETIONS, or from CI_NODE_INDEX and CI_NODE_TOTAL
    #[arg(long, value_name = "I/N|auto")]
    shard: Option<ShardArgument>,

    /// Write the public parts of the generated keys, and of changed host keys, to FILE: a known_hosts line for a host key,
    /// public keys and age recipients as comments; as JSON if FILE ends in .json
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    public_out: Option<PathBuf>,

    /// Not for rotate: use `inject` for images
    #[arg(long, hide = true, num_args = 0.., value_name = "IMAGE")]
    image: Option<Vec<PathBuf>>,
}

/// The arguments that have no meaning for this machine.
const REMOTE_ONLY: [&str; 10] =
    ["hosts", "all", "shard", "canary", "batch", "max_failures", "serial", "parallel", "ssh_config", "ssh_option"];

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
            true => Machines::Local(self.host.as_deref()),
            false => Machines::Nodes(Selection { named: &self.hosts, all: self.all }),
        };
        // With `usize` under 32 bits, no batch is that large.
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
                public_out: self.public_out.as_deref(),
                kind: if self.dry_run { RunKind::DryRun } else { RunKind::Rotate },
                exit_on_difference: false,
            },
        )
    }
}
