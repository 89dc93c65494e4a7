//! Runs the hosts in parallel, and lets ssh ask the user, one host at a time.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Request;
use super::token::Rotated;
use crate::manifest::Manifest;
use crate::report::Ui;
use crate::report::live::{HostsDisplay, TerminalTurn};
use crate::report::rotate::HostReport;
use crate::rotate::fleet::Fleet;
use crate::rotate::schedule::{Limits, Reason, Schedule};
use crate::rotate::{self, HostJob, HostResult, HostStatus, HostStep, Options, rotate_host};
use crate::run::desired::Unfit;
use crate::run::message::Message;
use crate::run::part::{HostPart, Values};
use crate::run::plan::Plan;

/// Which hosts run when, and what was done before.
pub(super) struct Order<'a> {
    pub limits: Limits,
    /// True once the run was stopped.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
    /// What was done about tokens.
    pub before: Rotated,
}

/// Runs all hosts. Returns their results, in the order of `parts`.
pub(super) fn drive(
    ui: &Ui,
    request: &Request<'_>,
    manifest: &Manifest,
    parts: &[HostPart<'_>],
    values: &Values,
    order: Order<'_>,
) -> Vec<HostReport> {
    let Order { limits, stopped, before } = order;
    deaddrop_core::sys::raise_open_files_limit();
    let hosts = HostsDisplay::new(ui, request.kind, parts.iter().map(|part| part.name).collect());
    let most = limits.parallel.min(parts.len());
    let threads = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
    // The user is there to answer ssh's questions.
    let attended = rotate::has_terminal();
    let silent = Options {
        rollback: request.rollback,
        forget_list: request.forget_list,
        dry_run: request.kind.is_dry(),
        ..request.ssh.options(manifest)
    };
    let runner = HostRunner {
        manifest,
        parts,
        values,
        some_only: !request.only.is_empty(),
        asking: Options { interactive: true, ..silent.clone() },
        silent,
        turn: TerminalTurn::default(),
        hosts: &hosts,
    };
    let one_at_a_time = most == 1;
    let ends = before.ends;
    let before = Mutex::new(before.results);
    let alone = |host: usize, progress: &(dyn Fn(HostStep) + Sync)| match attended {
        false => runner.run(host, &runner.silent, progress),
        true if one_at_a_time => runner.ask(host, stopped, progress).unwrap_or_else(|| {
            let error = Some(Message::new(Reason::Stopped.to_string()));
            HostResult { error, ..HostResult::new(HostStatus::Skipped) }
        }),
        true => {
            // First all hosts in parallel without questions; those that need an answer then wait for their turn at the
            // terminal.
            let end = runner.run(host, &runner.silent, progress);
            if end.needs_user { runner.ask(host, stopped, progress).unwrap_or(end) } else { end }
        }
    };
    let run = |host: usize, progress: &(dyn Fn(HostStep) + Sync)| {
        let first = before.lock().unwrap_or_else(PoisonError::into_inner).get_mut(host).and_then(Option::take);
        match first {
            Some(first) if ends || first.status.is_failure() || parts[host].secrets.is_empty() => first,
            Some(first) => alone(host, progress).after(first),
            None => alone(host, progress),
        }
    };
    Fleet { run: &run, watcher: &hosts, stopped }.drive(Schedule::new(parts.len(), limits), threads);
    hosts.finish()
}

/// Everything that is needed to run any of the hosts.
struct HostRunner<'a, 'u> {
    manifest: &'a Manifest,
    parts: &'a [HostPart<'a>],
    values: &'a Values,
    /// `--only` was given.
    some_only: bool,
    /// ssh asks nothing.
    silent: Options,
    /// ssh may ask.
    asking: Options,
    turn: TerminalTurn,
    hosts: &'a HostsDisplay<'u>,
}

impl HostRunner<'_, '_> {
    fn run(&self, host: usize, options: &Options, progress: &(dyn Fn(HostStep) + Sync)) -> HostResult {
        let part = &self.parts[host];
        if part.secrets.is_empty() && self.some_only {
            // --only names no secret of this host: no contact is needed.
            let plan = Plan::default();
            return HostResult { plan: Some(plan), ..HostResult::new(HostStatus::Unchanged) };
        }
        let failed = |why: String| {
            let message = Message::nothing_changed(part.name).cause(why);
            HostResult { error: Some(message), ..HostResult::new(HostStatus::Failed) }
        };
        let become_password = match part.become_password(self.values) {
            Ok(password) => password,
            Err(why) => return failed(why.to_owned()),
        };
        // Should not fail, for the same files were built before. If it does, the host must not count as unchanged with
        // no files.
        let files = match part.files(self.manifest, self.values) {
            Ok(files) => files,
            Err(unfit) => return failed(unfit.iter().map(Unfit::to_string).collect::<Vec<_>>().join("\n")),
        };
        let (specs, allowances) = (part.secrets.clone(), self.manifest.allowances(part.as_host));
        let persist_root = self.manifest.persist_root(part.as_host).map(|path| path.as_str().to_owned());
        let job = HostJob {
            name: part.name,
            host: part.host,
            allowances,
            persist_root,
            files,
            specs,
            become_password,
            options,
        };
        rotate_host(job, progress)
    }

    /// Runs a host that may use the terminal until it is connected. `None` if the run was stopped before its turn.
    fn ask(&self, host: usize, stopped: &dyn Fn() -> bool, progress: &(dyn Fn(HostStep) + Sync)) -> Option<HostResult> {
        let asks = AtomicBool::new(true);
        let is_connected = || {
            if asks.swap(false, Ordering::SeqCst) {
                self.hosts.resume();
                self.turn.give();
            }
        };
        self.turn.take();
        if stopped() {
            self.turn.give();
            return None;
        }
        self.hosts.pause();
        let end = self.run(host, &self.asking, &|step| {
            if step != HostStep::Connecting {
                is_connected();
            }
            progress(step);
        });
        is_connected();
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::{BecomePassword, Host as ManifestHost};
    use crate::report::rotate::RunKind;
    use deaddrop_core::privilege::Become;

    #[test]
    fn a_host_whose_files_or_password_are_not_there_fails_and_is_not_told_unchanged() {
        let text = "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n";
        let manifest = Manifest::parse(text, Path::new("m")).expect("a manifest");
        let host = ManifestHost {
            become_password: Some(BecomePassword::Ask),
            becomes: Some(Become::Sudo),
            ..Manifest::parse("version: 1\nhosts: { h: { ssh: h } }\n", Path::new("m")).expect("a manifest").hosts["h"]
                .clone()
        };
        let part = |host| HostPart { name: "here", host, as_host: None, secrets: manifest.secrets.iter().collect() };
        let parts = [part(None), part(Some(&host))];
        let values = Values::default();
        let ui = Ui { json: false, quiet: true, verbose: 0 };
        let hosts = HostsDisplay::new(&ui, RunKind::DryRun, vec!["here"; 2]);
        let options = || Options { dry_run: true, ..Options::default() };
        let runner = HostRunner {
            manifest: &manifest,
            parts: &parts,
            values: &values,
            some_only: false,
            silent: options(),
            asking: options(),
            turn: TerminalTurn::default(),
            hosts: &hosts,
        };
        for (number, why) in
            ["a: no value was read for env:A", "no value was read for its `become_password`"].iter().enumerate()
        {
            let end = runner.run(number, &runner.silent, &|_| panic!("it is not contacted"));
            assert_eq!(end.status, HostStatus::Failed);
            assert!(!end.changed_anything && end.error.expect("a reason").reason().ends_with(why));
        }
    }
}
