//! One node, from ssh's first byte to its last word.

use std::time::{Duration, Instant};

use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;

use super::{HostEnd, HostJob, HostStep, Options, Status, actions, words};
use crate::manifest::{self, SecretSpec};
use crate::place::node::{Composed, End, Login, NodeError, NodePlace, Outcome, Phase, Recovery, RunFile, Work};
use crate::place::{Place, Wanted};
use crate::run::desired::{self, Content, DesiredFile};
use crate::run::make;
use crate::run::message::Message;
use crate::run::plan::{self, Action, Plan};
use crate::run::prepare::{Unprepared, prepare};

/// A node that `plan` and `verify` look at.
pub type Node<'w> = NodePlace<'w>;

/// Enters a node; `host` is `None` for this machine.
///
/// # Errors
/// The host has no address; ssh cannot be run; sudo does not take the password.
pub fn enter<'w>(
    name: &str,
    host: Option<&manifest::Host>,
    password: Option<Secret>,
    options: &Options,
    on_contact: &'w (dyn Fn() + Sync),
) -> Result<Node<'w>, NodeError> {
    let destination = match host.map(|host| &host.ssh) {
        None => None,
        Some(Some(destination)) => Some(destination.clone()),
        Some(None) => {
            return Err(NodeError::Refused {
                reason: "the manifest does not say how SSH reaches it".into(),
                hint: format!("add `ssh: root@ADDRESS` to {name} under `hosts`"),
            });
        }
    };
    let mut ssh_options = host.map_or(Vec::new(), |host| host.ssh_options.clone());
    ssh_options.extend(options.ssh_options.iter().cloned());
    let login = Login {
        name: name.to_owned(),
        destination,
        ssh_config: options.ssh_config.clone(),
        ssh_options,
        becomes: host.and_then(|host| host.becomes),
        password,
        interactive: options.interactive,
        silence: options.contact_timeout,
        hidden: options.hidden.clone(),
    };
    NodePlace::open(login, on_contact)
}

/// Brings one host to what is declared: looks, plans, applies, tells the units, and takes it back where they are not well with it.
/// `progress` is told of each step. Never panics on what a node says; always ends.
pub fn rotate_host(job: HostJob<'_>, progress: &(dyn Fn(HostStep) + Sync)) -> HostEnd {
    let start = Instant::now();
    let mut end = run(job, progress);
    end.seconds = start.elapsed().as_secs_f64();
    end
}

fn run(job: HostJob<'_>, progress: &(dyn Fn(HostStep) + Sync)) -> HostEnd {
    progress(HostStep::Connecting);
    let on_contact = || progress(HostStep::Comparing);
    let HostJob { name, host, files, specs, become_password, options } = job;
    let mut target = match enter(name, host, become_password, options, &on_contact) {
        Ok(target) => target,
        Err(error) => return HostEnd::unchanged(name, &error),
    };
    let (mut plan, recovered) = match look(&mut target, name, files, options) {
        Ok(looked) => looked,
        Err(end) => return *end,
    };
    plan.warnings.extend(target.warnings());
    plan.warnings.extend(words::warnings(&plan, &specs));
    if let Some(recovery) = &recovered {
        let warnings = recovered_warnings(recovery, &plan);
        plan.warnings.extend(warnings);
    }
    if options.dry_run && target.is_unfinished() {
        plan.warnings.push(unfinished_warning());
    }
    if plan.is_empty() {
        target.close();
        return HostEnd::well(Status::Unchanged, plan);
    }
    let mut work = Work { keep: !options.rollback, files: files_of(&plan), ..Work::default() };
    actions::collect(&changed(&plan, &specs), &mut work);
    if options.dry_run {
        let checked = if work.units.is_empty() { Ok(()) } else { target.check_units(&work.units) };
        return match checked {
            Ok(()) => {
                target.close();
                HostEnd::well(Status::Done, plan)
            }
            Err(error) => HostEnd { plan: Some(plan), ..HostEnd::unchanged(name, &error) },
        };
    }
    let changes = match make::node_changes(&plan) {
        Ok(changes) => changes,
        Err(error) => {
            return HostEnd::failed(Message::new(format!("{name}: nothing was changed")).caused_by(&error));
        }
    };
    work.changes = &changes;
    let outcome = target.apply_all(&work, &|phase| {
        progress(match phase {
            Phase::Writing => HostStep::Writing,
            Phase::Restarting | Phase::Restoring => HostStep::Restarting,
            Phase::Settling => HostStep::Settling,
        });
    });
    let what = "was changed by somebody else before the old files came back";
    let left: Vec<Warning> = outcome.left.iter().map(|path| left_warning(path, what, &plan)).collect();
    plan.warnings.extend(left);
    plan.warnings.extend(outcome.stays.iter().map(|path| Warning {
        code: "DD503",
        secret: None,
        message: format!("{path}, an empty directory of the run, could not be removed"),
        hint: "is the directory append-only (`lsattr -d`)? remove it there".into(),
    }));
    let watched = work.units.iter().any(|unit| unit.watch && outcome.acted.contains(&unit.name));
    HostEnd::of(name, plan, outcome, watched.then_some(work.settle))
}

/// Surveys and plans. What an interrupted run has left is dealt with first.
fn look(
    target: &mut Node<'_>,
    name: &str,
    files: Vec<DesiredFile>,
    options: &Options,
) -> Result<(Plan, Option<Recovery>), Box<HostEnd>> {
    let unchanged = |error: NodeError| Box::new(HostEnd::unchanged(name, &error));
    let mut recovered = None;
    let survey = |wanted: &[Wanted]| {
        let mut survey = target.look(wanted).map_err(unchanged)?;
        if target.is_unfinished() && !options.dry_run {
            recovered = target.recover(options.forget_list).map_err(|error| match &error {
                NodeError::Refused { .. } => unchanged(error),
                // Old files may be back, or some of them.
                _ => Box::new(HostEnd { changed_anything: true, ..HostEnd::failed(words::unknown(name, &error)) }),
            })?;
            survey = target.look(wanted).map_err(unchanged)?;
        }
        survey.map_err(|error| {
            let message = Message::new(format!("{name}: nothing was changed")).caused_by(&error);
            Box::new(HostEnd::failed(message.hint(error.hint().unwrap_or_default())))
        })
    };
    match prepare(files, Some(name), desired::wanted_on_node, survey) {
        Ok(prepared) => Ok((prepared.plan, recovered)),
        Err(Unprepared::Survey(end)) => Err(end),
        Err(Unprepared::NoRandomness(error)) => {
            Err(Box::new(HostEnd::failed(Message::new(format!("{name}: nothing was changed")).caused_by(&error))))
        }
        Err(Unprepared::Refused(refused)) => Err(Box::new(HostEnd::failed(words::refused(name, &refused)))),
    }
}

/// All files of a plan, and what is secret of each.
fn files_of(plan: &Plan) -> Vec<RunFile> {
    let file = |change: &plan::Change| {
        let whole = match &change.content {
            Content::Exact(whole) | Content::PublicPart(Some(whole)) => Some(whole),
            _ => None,
        };
        let composed = whole.zip(change.parts.as_ref());
        RunFile {
            secret: change.secret.clone(),
            path: change.physical.clone(),
            composed: composed.map(|(whole, parts)| Composed { whole: whole.clone(), parts: parts.clone() }),
        }
    };
    plan.changes.iter().map(file).collect()
}

/// The secrets whose files change, in the manifest's order.
fn changed<'a>(plan: &Plan, specs: &[&'a SecretSpec]) -> Vec<&'a SecretSpec> {
    let changes = plan.changes.iter().filter(|change| change.action != Action::Unchanged);
    changes.filter_map(|change| specs.iter().find(|spec| spec.name == change.secret).copied()).collect()
}

/// DD502, before anything is done about it.
fn unfinished_warning() -> Warning {
    Warning {
        code: "DD502",
        secret: None,
        message: "an interrupted run has left its list on the node, and its files as they were then".into(),
        hint: "the next run without --dry-run takes it back before it does anything else".into(),
    }
}

/// DD503: a file that is somebody else's by now.
fn left_warning(path: &str, what: &str, plan: &Plan) -> Warning {
    Warning {
        code: "DD503",
        secret: plan.changes.iter().find(|change| change.physical == path).map(|change| change.secret.clone()),
        message: format!("{path} {what}: it was left as it is"),
        hint: "somebody has written it since: compare it with what it should be".into(),
    }
}

/// DD502, once it is dealt with; DD503 for each file that it was about and that is by now somebody else's.
fn recovered_warnings(recovery: &Recovery, plan: &Plan) -> Vec<Warning> {
    let (what, hint) = match recovery.taken_back {
        true => (
            "an interrupted run was rolled back first: its files are as before it, but for what this run has changed",
            "values that it was to bring, and that this run did not, have to be rotated again",
        ),
        false => (
            "an interrupted run was finished first: its new files stay",
            "it had only to clear up: there is nothing to do",
        ),
    };
    let mut warnings = vec![Warning { code: "DD502", secret: None, message: what.into(), hint: hint.into() }];
    let what = "was neither the old nor the new file of the interrupted run";
    warnings.extend(recovery.left.iter().map(|path| left_warning(path, what, plan)));
    warnings.extend(recovery.given_up.iter().map(|path| Warning {
        code: "DD503",
        secret: None,
        message: format!("{path} was given up: its directory is not there"),
        hint: "old values may be left in `.deaddrop-…` beside it: look at it where it is".into(),
    }));
    warnings
}

impl HostEnd {
    fn well(status: Status, plan: Plan) -> Self {
        Self { plan: Some(plan), ..Self::new(status) }
    }

    fn failed(message: Message) -> Self {
        Self { error: Some(message), ..Self::new(Status::Failed) }
    }

    fn unchanged(name: &str, error: &NodeError) -> Self {
        let status = if error.is_unreachable() { Status::Unreachable } else { Status::Failed };
        let needs_an_answer = error.needs_a_person();
        Self { error: Some(words::unchanged(name, error)), needs_an_answer, ..Self::new(status) }
    }

    fn of(name: &str, plan: Plan, outcome: Outcome, settled: Option<Duration>) -> Self {
        let (status, changed_anything, error) = match &outcome.end {
            End::Done => (Status::Done, false, None),
            End::Kept => (Status::Failed, true, Some(words::kept(name, &outcome))),
            End::Uncleared(directory) => (Status::Failed, true, Some(words::uncleared(name, directory))),
            End::RolledBack => (Status::RolledBack, false, Some(words::rolled_back(name, &outcome))),
            End::Stuck(path) => (Status::Failed, true, Some(words::stuck(name, path, &outcome))),
            End::Refused(error) => (Status::Failed, false, Some(words::unchanged(name, error))),
            End::Unknown(error) => (Status::Failed, true, Some(words::unknown(name, error))),
        };
        Self {
            error,
            changed_anything,
            plan: Some(plan),
            healthy_for: settled.filter(|_| status == Status::Done),
            restarted: outcome.acted,
            ..Self::new(status)
        }
    }
}
