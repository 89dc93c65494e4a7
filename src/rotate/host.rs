//! One node: connect, survey, plan, apply, and the result.

use std::time::{Duration, Instant};

use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;

use super::{HostJob, HostResult, HostStatus, HostStep, Options, actions, host_keys, messages, passwords};
use crate::manifest::{self, Allow, SecretSpec};
use crate::place::node::{
    ApplyStep, Composed, Login, NodeError, NodePlace, NodeRun, Outcome, OutcomeKind, Recovery, RunFile,
};
use crate::place::{Place, Survey};
use crate::run::desired::{self, Content, DesiredFile};
use crate::run::make;
use crate::run::message::Message;
use crate::run::plan::{self, Action, Plan};
use crate::run::prepare::{Ask, Prepared, Unprepared, prepare};
use crate::run::remedy;

/// A node that `plan` and `verify` survey.
pub type Node<'w> = NodePlace<'w>;

/// Connects to a node; `host` is `None` for this machine.
///
/// # Errors
/// If the host has no address, if ssh cannot be run, or if sudo rejects the password.
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

/// Brings one host to its declared state: surveys, plans, applies, restarts the units, and rolls back if they fail.
/// `progress` is called for each step. No output of a node makes it panic, and it always ends.
pub fn rotate_host(job: HostJob<'_>, progress: &(dyn Fn(HostStep) + Sync)) -> HostResult {
    let start = Instant::now();
    let mut end = run(job, progress);
    end.seconds = start.elapsed().as_secs_f64();
    end
}

fn run(job: HostJob<'_>, progress: &(dyn Fn(HostStep) + Sync)) -> HostResult {
    progress(HostStep::Connecting);
    let on_contact = || progress(HostStep::Comparing);
    let HostJob { name, host, allowances, persist_root, files, specs, become_password, options } = job;
    let mut target = match enter(name, host, become_password, options, &on_contact) {
        Ok(target) => target,
        Err(error) => return HostResult::unchanged(name, &error),
    };
    target.persist_root = persist_root;
    let (Prepared { mut plan, mut public_parts, survey }, recovered) =
        match survey_and_plan(&mut target, name, &allowances.of_target(), files, options) {
            Ok(planned) => planned,
            Err(end) => return *end,
        };
    let mut warnings = target.warnings();
    warnings.extend(messages::warnings(&plan, &specs));
    warnings.extend(recovered.iter().flat_map(|recovery| recovered_warnings(recovery, &plan)));
    if options.dry_run && target.is_unfinished() {
        warnings.push(unfinished_warning());
    }
    allowances.filter(&mut warnings);
    plan.warnings.append(&mut warnings);
    if plan.is_empty() {
        target.close();
        return HostResult { public_parts, ..HostResult::success(HostStatus::Unchanged, plan) };
    }
    let mut node_run = NodeRun { keep: !options.rollback, files: files_of(&plan), ..NodeRun::default() };
    actions::collect(&changed(&plan, &specs), &mut node_run);
    passwords::collect(&plan, &mut node_run);
    if let Err(error) = host_keys::collect(&mut target, &plan, &survey, &mut node_run) {
        return HostResult { plan: Some(plan), ..HostResult::unchanged(name, &error) };
    }
    if options.dry_run {
        let is_trivial = node_run.units.is_empty() && node_run.passwords.is_empty();
        let checked = if is_trivial { Ok(()) } else { target.check_run(&node_run) };
        return match checked {
            Ok(()) => {
                target.close();
                let announced = announced_of(&plan, &node_run);
                HostResult { announced, ..HostResult::success(HostStatus::Done, plan) }
            }
            Err(error) => HostResult { plan: Some(plan), ..HostResult::unchanged(name, &error) },
        };
    }
    let changes = match make::node_changes(&plan) {
        Ok(changes) => changes,
        Err(error) => {
            return HostResult::failed(Message::nothing_changed(name).caused_by(&error));
        }
    };
    node_run.changes = &changes;
    let outcome = target.apply_all(&node_run, &|step| {
        progress(match step {
            ApplyStep::Writing => HostStep::Writing,
            ApplyStep::Restarting | ApplyStep::Restoring => HostStep::Restarting,
            ApplyStep::Settling => HostStep::Settling,
        });
    });
    let what = "was changed by another program before the old files were restored";
    let mut left: Vec<Warning> = outcome.changed_by_others.iter().map(|path| left_warning(path, what, &plan)).collect();
    left.extend(outcome.unremoved_directories.iter().map(|path| Warning {
        code: "DD503",
        secret: None,
        message: format!("{path}, an empty directory of the run, could not be removed"),
        hint: "is the directory append-only (`lsattr -d`)? remove it there".into(),
    }));
    allowances.filter(&mut left);
    plan.warnings.append(&mut left);
    public_parts.extend(host_keys::public_parts(&plan, &survey, &node_run.host_keys, &outcome.made));
    let is_done = matches!(outcome.kind, OutcomeKind::Done);
    let is_untold = is_done && node_run.sshd.as_ref().is_some_and(|sshd| sshd.unit == "none");
    plan.warnings.extend(is_untold.then(|| messages::sshd_not_told(&node_run)));
    let watched = node_run.units.iter().any(|unit| unit.watch && outcome.acted.contains(&unit.name));
    let result = HostResult::of(name, plan, outcome, watched.then_some(node_run.settle));
    let public_parts = if is_done { public_parts } else { Vec::new() };
    HostResult { public_parts, ..result }
}

/// Surveys and plans. Finishes or rolls back an interrupted run first.
pub(super) fn survey_and_plan(
    target: &mut Node<'_>,
    name: &str,
    allow: &Allow,
    files: Vec<DesiredFile>,
    options: &Options,
) -> Result<(Prepared, Option<Recovery>), Box<HostResult>> {
    let unchanged = |error: NodeError| Box::new(HostResult::unchanged(name, &error));
    let mut recovered = None;
    let survey = |ask: Ask<'_>| {
        let wanted = match ask {
            Ask::Survey(wanted) => wanted,
            Ask::Examine(wanted, survey, need) => return target.examine(wanted, *survey, need).map_err(unchanged),
        };
        let mut survey = target.survey_paths(wanted).map_err(unchanged)?;
        if target.is_unfinished() && !options.dry_run {
            recovered = target.recover(options.forget_list).map_err(|error| match &error {
                NodeError::Refused { .. } => unchanged(error),
                // Some or all old files may be restored.
                _ => Box::new(HostResult {
                    changed_anything: true,
                    ..HostResult::failed(messages::unknown(name, &error))
                }),
            })?;
            survey = target.survey_paths(wanted).map_err(unchanged)?;
        }
        survey.map_err(|error| {
            let message = Message::nothing_changed(name).caused_by(&error);
            Box::new(HostResult::failed(message.hint(remedy::hint(&error))))
        })
    };
    match prepare(files, Some(name), allow, None, desired::wanted_on_node, survey) {
        Ok(prepared) => Ok((prepared, recovered)),
        Err(Unprepared::Survey(end)) => Err(end),
        Err(Unprepared::Hash(error)) => {
            Err(Box::new(HostResult::failed(Message::nothing_changed(name).caused_by(&error))))
        }
        Err(Unprepared::NoRandomness(error)) => {
            Err(Box::new(HostResult::failed(Message::nothing_changed(name).caused_by(&error))))
        }
        Err(Unprepared::Refused(refused)) => Err(Box::new(HostResult::failed(messages::refused(name, &refused)))),
    }
}

/// All files of a plan, each with its secret parts.
pub(super) fn files_of(plan: &Plan) -> Vec<RunFile> {
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

/// What `rotate` would do on a node after the files of this plan, which was made from `survey`; empty for nothing.
///
/// # Errors
/// If the session ends.
pub fn announced(
    target: &mut Node<'_>,
    plan: &Plan,
    survey: &Survey,
    specs: &[&SecretSpec],
) -> Result<String, NodeError> {
    let mut run = NodeRun::default();
    actions::collect(&changed(plan, specs), &mut run);
    passwords::collect(plan, &mut run);
    host_keys::collect(target, plan, survey, &mut run)?;
    Ok(announced_of(plan, &run))
}

fn announced_of(plan: &Plan, run: &NodeRun<'_>) -> String {
    let first = host_keys::announced(run).into_iter().chain(passwords::announced(plan)).collect();
    actions::announced(first, run)
}

/// The secrets whose files change, or whose password is applied, in the manifest's order.
fn changed<'a>(plan: &Plan, specs: &[&'a SecretSpec]) -> Vec<&'a SecretSpec> {
    let is_applied = |change: &plan::Change| plan.passwords.iter().any(|password| password.secret == change.secret);
    let changes = plan.changes.iter().filter(|change| change.action != Action::Unchanged || is_applied(change));
    changes.filter_map(|change| specs.iter().find(|spec| spec.name == change.secret).copied()).collect()
}

/// DD502, before anything is done about it.
fn unfinished_warning() -> Warning {
    Warning {
        code: "DD502",
        secret: None,
        message: "an interrupted run has left its list on the node, and its files are unfinished".into(),
        hint: "the next run without --dry-run finishes it or rolls it back first".into(),
    }
}

/// DD503: a file that another program has changed since.
fn left_warning(path: &str, what: &str, plan: &Plan) -> Warning {
    Warning {
        code: "DD503",
        secret: plan.changes.iter().find(|change| change.physical == path).map(|change| change.secret.clone()),
        message: format!("{path} {what}: it was left unchanged"),
        hint: "somebody has written it since: compare it with what it should be".into(),
    }
}

/// DD502 after recovery; DD503 for each file of the interrupted run that another program has changed since.
pub(super) fn recovered_warnings(recovery: &Recovery, plan: &Plan) -> Vec<Warning> {
    let (what, hint) = match recovery.rolled_back {
        true => (
            "an interrupted run was rolled back first: its files are as before it, except those of this run",
            "rotate its values again, except those of this run",
        ),
        false => (
            "an interrupted run was finished first: its new files stay",
            "it only had to clean up: there is nothing to do",
        ),
    };
    let mut warnings = vec![Warning { code: "DD502", secret: None, message: what.into(), hint: hint.into() }];
    let what = "was neither the old nor the new file of the interrupted run";
    warnings.extend(recovery.changed_by_others.iter().map(|path| left_warning(path, what, plan)));
    warnings.extend(recovery.abandoned.iter().map(|path| Warning {
        code: "DD503",
        secret: None,
        message: format!("{path} was given up: its directory is not there"),
        hint: "old values may be left in `.deaddrop-…` beside it: look at it where it is".into(),
    }));
    warnings
}

impl HostResult {
    fn success(status: HostStatus, plan: Plan) -> Self {
        Self { plan: Some(plan), ..Self::new(status) }
    }

    pub(super) fn failed(message: Message) -> Self {
        Self { error: Some(message), ..Self::new(HostStatus::Failed) }
    }

    pub(super) fn unchanged(name: &str, error: &NodeError) -> Self {
        let status = if error.is_unreachable() { HostStatus::Unreachable } else { HostStatus::Failed };
        let needs_user = error.needs_user();
        Self { error: Some(messages::unchanged(name, error)), needs_user, ..Self::new(status) }
    }

    fn of(name: &str, plan: Plan, outcome: Outcome, settled: Option<Duration>) -> Self {
        let (status, changed_anything, error) = match &outcome.kind {
            OutcomeKind::Done => (HostStatus::Done, false, None),
            OutcomeKind::NewFilesKept => (HostStatus::Failed, true, Some(messages::kept(name, &outcome))),
            OutcomeKind::LeftoversRemain(directory) => {
                (HostStatus::Failed, true, Some(messages::uncleared(name, directory)))
            }
            OutcomeKind::RolledBack => (HostStatus::RolledBack, false, Some(messages::rolled_back(name, &outcome))),
            OutcomeKind::NotRestored(path) => (HostStatus::Failed, true, Some(messages::stuck(name, path, &outcome))),
            OutcomeKind::Refused(error) => (HostStatus::Failed, false, Some(messages::unchanged(name, error))),
            OutcomeKind::Unknown(error) => (HostStatus::Failed, true, Some(messages::unknown(name, error))),
        };
        let is_done = status == HostStatus::Done;
        Self {
            error,
            changed_anything,
            passwords: if is_done { passwords::in_force(&plan) } else { Vec::new() },
            plan: Some(plan),
            healthy_for: settled.filter(|_| is_done),
            restarted: outcome.acted,
            ..Self::new(status)
        }
    }
}
