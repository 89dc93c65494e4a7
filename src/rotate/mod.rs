//! Rotation: the files of a manifest on running nodes. This file: what one node's part of a run is, and how it ended.
//!
//! Called by `cli`. Uses the same flow as for an image: desired files, a survey, a plan; then a node applies it and tells its units.

mod actions;
pub mod choose;
pub mod fleet;
mod host;
pub mod schedule;
pub mod shard;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use deaddrop_core::secret::Secret;

use crate::manifest::{self, SecretSpec};
use crate::run::desired::DesiredFile;
use crate::run::message::Message;
use crate::run::plan::Plan;

pub use host::{Node, enter, rotate_host};

/// How long a node has for its greeting and for each answer unless a person says otherwise.
pub const SILENCE: Duration = Duration::from_secs(30);

/// True when there is a terminal on which ssh can ask a person.
#[must_use]
pub fn has_terminal() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").is_ok()
}

/// One host's part of a run.
pub struct HostJob<'a> {
    /// The host's name.
    pub name: &'a str,
    /// How it is reached; this machine itself, without SSH, where it is `None`.
    pub host: Option<&'a manifest::Host>,
    /// What it should hold.
    pub files: Vec<DesiredFile>,
    /// The secrets that `files` come from, in any order.
    pub specs: Vec<&'a SecretSpec>,
    /// What sudo there asks for.
    pub become_password: Option<Secret>,
    /// What holds for the whole run.
    pub options: &'a Options,
}

/// What holds for every host of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// ssh's configuration file, instead of the person's own.
    pub ssh_config: Option<PathBuf>,
    /// For ssh's `-o`, after those of a host: of two that say different things, ssh takes the first.
    pub ssh_options: Vec<String>,
    /// Where something is not well after the change, the old files come back.
    pub rollback: bool,
    /// Of an interrupted run, the files in directories that are not there are given up.
    pub forget_list: bool,
    /// Nothing is changed, and nothing is written.
    pub dry_run: bool,
    /// How long a node has for its greeting and for each answer.
    pub contact_timeout: Duration,
    /// A terminal is there: ssh may ask a person.
    pub interactive: bool,
    /// Environment variables that hold values ([`deaddrop_vault::hidden_variables`]): ssh does not get them.
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

/// How far a host is, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostStep {
    /// ssh is on its way.
    Connecting,
    /// What stands there is compared with what should.
    Comparing,
    /// Files are put in place.
    Writing,
    /// Units and programs are told.
    Restarting,
    /// Units are watched, checks run.
    Settling,
}

/// How a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All is as declared now; in a dry run, it could be made so.
    Done,
    /// All was as declared already.
    Unchanged,
    /// It went wrong; [`HostEnd::changed_anything`] tells whether something was changed.
    Failed,
    /// The new files were in place, something was not well, and the old files are back.
    RolledBack,
    /// It could not be entered.
    Unreachable,
    /// It was not begun.
    Skipped,
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

/// How a host ended, and what is to be told of it.
#[derive(Debug)]
pub struct HostEnd {
    /// In a word.
    pub status: Status,
    /// Why, where it is not well.
    pub error: Option<Message>,
    /// Files changed, and the end is failed or unknown.
    pub changed_anything: bool,
    /// What had to happen, with its warnings; none when it did not come to that.
    pub plan: Option<Plan>,
    /// Units that were restarted or reloaded, in order.
    pub restarted: Vec<String>,
    /// How long the units were watched and found well.
    pub healthy_for: Option<Duration>,
    /// ssh would have asked a person, and there was none: with a terminal it may work.
    pub needs_an_answer: bool,
    /// How long it all took.
    pub seconds: f64,
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
