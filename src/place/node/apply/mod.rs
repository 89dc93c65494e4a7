//! The change of a node: the messages to `apply.sh` and `units.sh`, and their replies.
//!
//! ```text
//! apply
//! run NUMBER                     the name of the run's own directories
//! mark NUMBER                    the file that identifies them
//! in INODE DIRECTORY             each existing directory in which a file changes
//! KIND MODE MASK …               an item per change, as in apply.sh: directories, then files, grouped by directory
//! unit ACTION WATCH NAME
//! program BASE64
//! check SECONDS BASE64
//! settle SECONDS
//! …                              passwords: see passwords.rs
//! keep                           no rollback
//! forward                        no old file ever comes back
//! .
//! VALUE …                        for each new file, in order: a line for printf, or lines of base64
//! go NONCE                       proves that nothing is missing
//!                                -> refused WHY          nothing was changed
//!                                   step NAME
//!                                   acted UNIT
//!                                   public ITEM TEXT     the public part of a key that was made there
//!                                   bad WHAT             then `output`, base64 and `,`
//!                                   left PATH            another program has changed it since
//!                                   stays PATH           an empty directory of the run that cannot be removed
//!                                   stuck PATH           it cannot be restored
//!                                   still WHAT           fails after the rollback too
//!                                   again WHAT           a program fails after the rollback too
//!                                   end done | kept | uncleared DIRECTORY | rolled-back | stuck
//!                                   .
//! ```

mod messages;
mod passwords;
mod report;
mod request;
mod value;

use std::time::Duration;

use deaddrop_core::tree::TreeChange;

use super::error::NodeError;
use super::host_keys::{HostKey, Sshd};
use super::output::RunFile;
use super::session::Session;
use super::tree::NodeTree;
use crate::derive::generate::Recipe;

pub(super) use messages::hidden_output_hint;
pub use passwords::NodePassword;
pub(super) use report::{read_output, units_reply};
pub(super) use request::unit_question;
pub(super) use value::printf_line;

/// Time limit of one step on the node: a program of `run_after` is killed after 900 s (`program_limit` of units.sh).
const PATIENCE: Duration = Duration::from_secs(930);
/// Maximum number of steps that a node reports, in addition to those of units and programs.
const STEPS: usize = 8;
/// Maximum size of a node's report of a change, in bytes.
const LONGEST_REPORT: usize = 1 << 20;

/// The action on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Restarted, or started.
    Restart,
    /// Restarted if it runs.
    TryRestart,
    /// Reloaded if it runs.
    Reload,
}

/// A unit that uses a changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// The action.
    pub action: Action,
    /// It is watched for [`NodeRun::settle`].
    pub watch: bool,
}

/// One change of a node.
#[derive(Debug, Clone)]
pub enum NodeChange {
    /// A change of its files.
    Tree(TreeChange),
    /// A new file with a key that the node generates itself.
    MakeKey {
        /// Absolute path.
        path: String,
        /// The kind of key.
        recipe: Recipe,
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
    },
}

impl NodeChange {
    /// The path that is changed.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Tree(change) => change.path(),
            Self::MakeKey { path, .. } => path,
        }
    }
}

/// Everything that one run does on a node.
#[derive(Default, Clone)]
pub struct NodeRun<'a> {
    /// Files and directories.
    pub changes: &'a [NodeChange],
    /// Units, in their order.
    pub units: Vec<Unit>,
    /// Programs with their arguments that run after the units.
    pub programs: Vec<Vec<String>>,
    /// Programs that must succeed after that, each with its time limit.
    pub checks: Vec<(Duration, Vec<String>)>,
    /// How long units are watched.
    pub settle: Duration,
    /// Keep the new files even if something fails.
    pub keep: bool,
    /// The command that makes the users of its NixOS, if it is to run: after the files, before the units.
    pub users_program: Option<Vec<String>>,
    /// Passwords, which must be in force after the units.
    pub passwords: Vec<NodePassword>,
    /// The host keys of sshd that change.
    pub host_keys: Vec<HostKey>,
    /// sshd, if it has such a key.
    pub sshd: Option<Sshd>,
    /// All files of the run, unchanged ones included: their values are not shown in the output of programs.
    pub files: Vec<RunFile>,
    /// No old file may come back, whatever happens, from before the first new one is in place. Only for one file.
    pub forward: bool,
    /// The session goes on afterwards ([`super::NodePlace::apply_and_stay`]).
    pub stays: bool,
    /// A changed secret with `output: hide`: no output of programs is shown.
    pub conceals: Option<String>,
}

/// The node's current step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyStep {
    /// Files are written.
    Writing,
    /// Units are restarted, programs run.
    Restarting,
    /// Units are watched, checks run.
    Settling,
    /// The old files are restored.
    Restoring,
}

/// The result of a change.
#[derive(Debug)]
pub struct Outcome {
    /// Its kind.
    pub kind: OutcomeKind,
    /// Units that were acted on, in order.
    pub acted: Vec<String>,
    /// The failure, if something failed.
    pub fault: Option<Fault>,
    /// The failures that remain after the old files were restored.
    pub remaining_faults: Vec<Fault>,
    /// Files that another program has changed since; they were not restored.
    pub changed_by_others: Vec<String>,
    /// Empty directories of the run that could not be removed.
    pub unremoved_directories: Vec<String>,
    /// Keys that the node has made.
    pub made: Vec<MadeKey>,
}

/// A key that a node has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeKey {
    /// The path of its file.
    pub path: String,
    /// Its public part, as the node's program prints it.
    pub public: String,
}

/// The kind of result.
#[derive(Debug)]
pub enum OutcomeKind {
    /// The new files are in place, and everything succeeded.
    Done,
    /// The new files are in place, and something failed.
    NewFilesKept,
    /// The new files are in place, and the run's leftovers in this directory could not be removed.
    LeftoversRemain(String),
    /// The old files are restored.
    RolledBack,
    /// This file could not be restored.
    NotRestored(String),
    /// Nothing was changed.
    Refused(NodeError),
    /// Unknown: the session was lost after the change could have started.
    Unknown(NodeError),
}

/// A failure after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// As a clause: "k3s.service failed after the restart".
    pub what: String,
    /// The last lines of its output.
    pub output: Vec<String>,
}

/// Sends a change and reads the result. `are_served` finds out whether sshd serves its new keys.
pub(super) fn apply(
    session: &mut Session,
    tree: &NodeTree,
    run: &NodeRun<'_>,
    on_step: &dyn Fn(ApplyStep),
    are_served: &dyn Fn(&[MadeKey]) -> bool,
) -> Outcome {
    let mut outcome = Outcome {
        kind: OutcomeKind::Done,
        acted: Vec::new(),
        fault: None,
        remaining_faults: Vec::new(),
        changed_by_others: Vec::new(),
        unremoved_directories: Vec::new(),
        made: Vec::new(),
    };
    session.values.add_run(tree, run);
    if let Err(error) = request::send(session, tree, run) {
        outcome.kind = OutcomeKind::Refused(error);
        return outcome;
    }
    let waits = run.checks.iter().fold(run.settle, |sum, (limit, _)| sum.saturating_add(*limit));
    // Twice per unit and program, for a rollback.
    let programs = run.programs.len().saturating_add(usize::from(run.users_program.is_some()));
    let steps = run.units.len().saturating_add(programs).saturating_mul(2).saturating_add(STEPS);
    session.limits().expect_change(LONGEST_REPORT, PATIENCE.saturating_add(waits), steps);
    match report::report(session, run, &mut outcome, on_step, are_served) {
        Ok(kind) => outcome.kind = kind,
        // The change may have started although no line says so: the last line may be lost.
        Err(error) => outcome.kind = OutcomeKind::Unknown(error),
    }
    outcome
}
