//! Rotation of secrets on running nodes.

pub mod choose;
pub mod fleet;
pub mod schedule;
pub mod shard;

use std::path::PathBuf;
use std::time::Duration;

use crate::desired::DesiredFile;
use crate::manifest::{Host, SecretSpec};
use crate::plan::Plan;
use crate::report::Message;
use crate::secret::Secret;

/// One host's part of a run.
pub struct HostJob<'a> {
    /// Its name.
    pub name: &'a str,
    /// None: this machine.
    pub host: Option<&'a Host>,
    /// What it should hold.
    pub files: Vec<DesiredFile>,
    /// What they were made of.
    pub specs: Vec<&'a SecretSpec>,
    /// For sudo.
    pub become_password: Option<Secret>,
    /// Of the run.
    pub options: &'a Options,
}

/// Of the run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// ssh -F.
    pub ssh_config: Option<PathBuf>,
    /// ssh -o.
    pub ssh_options: Vec<String>,
    /// Roll back.
    pub rollback: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// For an answer.
    pub contact_timeout: Duration,
    /// A terminal is there.
    pub interactive: bool,
}

/// How far a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// ssh.
    Connecting,
    /// Survey.
    Comparing,
    /// Apply.
    Writing,
    /// Units.
    Restarting,
    /// Health.
    Settling,
}

/// How a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Changed.
    Done,
    /// Nothing to do.
    Unchanged,
    /// Failed.
    Failed,
    /// Rolled back.
    RolledBack,
    /// Not reached.
    Unreachable,
    /// Not begun.
    Skipped,
}

/// A host's end.
pub struct HostEnd {
    /// How.
    pub status: Status,
    /// Why.
    pub error: Option<Message>,
    /// Files changed and the end is failed or unknown.
    pub changed_anything: bool,
    /// What.
    pub plan: Option<Plan>,
    /// Units.
    pub restarted: Vec<String>,
    /// Health.
    pub healthy_for: Option<Duration>,
    /// ssh would have to ask a person.
    pub needs_an_answer: bool,
    /// How long.
    pub seconds: f64,
}

/// Runs one host.
pub fn rotate_host(_job: HostJob<'_>, _progress: &(dyn Fn(Step) + Sync)) -> HostEnd {
    HostEnd::new(Status::Unreachable)
}

impl Status {
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

    /// True where a person has to look.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack | Self::Unreachable)
    }
}

impl HostEnd {
    /// An end without anything to tell.
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self {
            status,
            error: None,
            changed_anything: false,
            plan: None,
            restarted: Vec::new(),
            healthy_for: None,
            needs_an_answer: false,
            seconds: 0.0,
        }
    }
}
