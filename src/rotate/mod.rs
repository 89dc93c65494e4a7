//! Rotation: the files of a manifest on running nodes. This file: the input and the result of one node.
//!
//! Called by `cli`. The flow is that of an image (desired files, survey, plan); then the node applies the plan and
//! restarts its units.

mod actions;
pub mod choose;
pub mod fleet;
mod host;
mod host_keys;
mod messages;
mod passwords;
pub mod schedule;
pub mod shard;
pub mod token;

use std::path::PathBuf;
use std::time::Duration;

use deaddrop_core::secret::Secret;

use crate::manifest::{self, Allowances, SecretSpec};
use crate::run::desired::DesiredFile;
use crate::run::make::PublicPart;
use crate::run::message::Message;
use crate::run::plan::Plan;

pub use host::{Node, announced, enter, rotate_host};
pub use passwords::InForce;

/// Default time limit for a node's greeting and for each answer.
pub const SILENCE: Duration = Duration::from_secs(30);

/// True if ssh can ask the user on a terminal.
#[must_use]
pub fn has_terminal() -> bool {
    deaddrop_core::sys::open_terminal().is_ok()
}

/// The input of one host's run.
pub struct HostJob<'a> {
    /// The host's name.
    pub name: &'a str,
    /// Its entry in the manifest; `None` for this machine, without SSH.
    pub host: Option<&'a manifest::Host>,
    /// The findings that are allowed on it.
    pub allowances: Allowances<'a>,
    /// Where files are written that would not be kept there.
    pub persist_root: Option<String>,
    /// The files that it should have.
    pub files: Vec<DesiredFile>,
    /// The secrets that `files` come from, in any order.
    pub specs: Vec<&'a SecretSpec>,
    /// The password for sudo there.
    pub become_password: Option<Secret>,
    /// The settings of the whole run.
    pub options: &'a Options,
}

/// The settings of a run, the same for all hosts.
#[derive(Debug, Clone)]
pub struct Options {
    /// ssh's configuration file, instead of the user's own.
    pub ssh_config: Option<PathBuf>,
    /// For ssh's `-o`, after those of a host: of two different values ssh takes the first.
    pub ssh_options: Vec<String>,
    /// Restore the old files if a unit, program or check fails after the change.
    pub rollback: bool,
    /// Abandon the entries of an interrupted run whose directories are missing.
    pub forget_list: bool,
    /// Change and write nothing.
    pub dry_run: bool,
    /// Time limit for a node's greeting and for each answer.
    pub contact_timeout: Duration,
    /// ssh may ask the user on the terminal.
    pub interactive: bool,
    /// Environment variables that contain values ([`deaddrop_vault::hidden_variables`]): ssh does not get them.
    pub hidden: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ssh_config: None,
            ssh_options: Vec::new(),
            rollback: true,
            forget_list: false,
            dry_run: false,
            contact_timeout: SILENCE,
            interactive: false,
            hidden: Vec::new(),
        }
    }
}

/// The current step of a host, for the display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostStep {
    /// ssh connects.
    Connecting,
    /// The files are surveyed and compared.
    Comparing,
    /// Files are written.
    Writing,
    /// Units are restarted, programs run.
    Restarting,
    /// Units are watched, checks run.
    Settling,
}

/// The result of a host, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostStatus {
    /// It is as declared now; in a dry run, it could be changed so.
    Done,
    /// It was as declared already.
    Unchanged,
    /// It failed; [`HostResult::changed_anything`] is true if files were changed.
    Failed,
    /// A unit, program or check failed with the new files, and the old files are restored.
    RolledBack,
    /// ssh could not connect.
    Unreachable,
    /// It was not started.
    Skipped,
}

impl HostStatus {
    /// Its name in `--json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::Unreachable => "unreachable",
            Self::Skipped => "skipped",
        }
    }

    /// True if the user must act.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack | Self::Unreachable)
    }
}

/// The result of a host.
#[derive(Debug)]
pub struct HostResult {
    /// The result in one word.
    pub status: HostStatus,
    /// The reason, if it did not succeed.
    pub error: Option<Message>,
    /// Files were changed, and the result is failed or unknown.
    pub changed_anything: bool,
    /// The changes and their warnings; `None` if there was no plan.
    pub plan: Option<Plan>,
    /// What a dry run would do on the node after the files: "would restart k3s.service"; empty for nothing.
    pub announced: String,
    /// Units that were restarted or reloaded, in order.
    pub restarted: Vec<String>,
    /// The passwords that were applied and are in force.
    pub passwords: Vec<InForce>,
    /// The public parts of its generated keys, and of the host keys that were changed.
    pub public_parts: Vec<PublicPart>,
    /// The time for which the units were watched and healthy.
    pub healthy_for: Option<Duration>,
    /// ssh would have asked the user, and could not: with a terminal it may succeed.
    pub needs_user: bool,
    /// It is one of a cluster's hosts, which are done in one run.
    pub is_of_cluster: bool,
    /// Duration of the run on this host.
    pub seconds: f64,
}

impl HostResult {
    /// The result of a host on which something else was done before.
    #[must_use]
    pub fn after(mut self, before: Self) -> Self {
        let was_done = before.status == HostStatus::Done;
        if self.status == HostStatus::Unchanged && was_done {
            self.status = HostStatus::Done;
        }
        self.changed_anything |= before.changed_anything || was_done && self.status != HostStatus::Done;
        self.plan = match (before.plan, self.plan) {
            (Some(mut first), Some(second)) => {
                first.changes.extend(second.changes);
                first.directories.extend(second.directories);
                first.warnings.extend(second.warnings.into_iter().filter(|warning| warning.secret.is_some()));
                Some(first)
            }
            (first, second) => first.or(second),
        };
        self.announced = [before.announced, self.announced]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        self.restarted.splice(0..0, before.restarted);
        self.is_of_cluster |= before.is_of_cluster;
        self.seconds += before.seconds;
        self
    }

    /// A result with a status only.
    #[must_use]
    pub fn new(status: HostStatus) -> Self {
        Self {
            status,
            error: None,
            changed_anything: false,
            plan: None,
            announced: String::new(),
            restarted: Vec::new(),
            passwords: Vec::new(),
            public_parts: Vec::new(),
            healthy_for: None,
            needs_user: false,
            is_of_cluster: false,
            seconds: 0.0,
        }
    }
}
