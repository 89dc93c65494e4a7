//! What is done on a host: the request, the files, restarts, and what follows them.

use std::thread;
use std::time::{Duration, Instant};

use deaddrop_core::secret::Secret;
use deaddrop_core::sys;
use deaddrop_core::warning::Warning;

use super::{Member, Tokens, lost};
use crate::manifest::Owner;
use crate::place::Place;
use crate::place::node::{NodeRun, Outcome, OutcomeKind};
use crate::rotate::token::TokenJob;
use crate::rotate::token::decide::{DECLARED, Life, Role, Runs, Token};
use crate::rotate::{HostResult, actions, host, messages};
use crate::run::desired::{Content, DesiredFile};
use crate::run::make;
use crate::run::message::Message;
use crate::run::plan::{Action, Plan};

/// Time limit of a restart, in which systemd waits for the server.
const START: Duration = Duration::from_secs(180);
/// Time for a host to be well after systemd says that it has started.
const READY: Duration = Duration::from_secs(60);
/// The same after systemd says that it has not: it is started again, every five seconds.
const STARTED_AGAIN: Duration = Duration::from_secs(30);
/// Interval between two questions to a server that is awaited.
const PAUSE: Duration = Duration::from_secs(1);

impl Member<'_> {
    /// Sends the request. The status of the answer, or `None` if the session was lost.
    pub fn request(&mut self, job: &TokenJob<'_>, old: &Secret, new: &Secret) -> Option<u16> {
        let unit = self.facts.unit.take()?;
        let code = self.with_node(|node| node.request_token(job.cluster, &unit, old, new));
        self.facts.unit = Some(unit);
        code.ok()
    }

    /// Writes the file for the old token.
    ///
    /// # Errors
    /// Why it cannot be written; nothing was changed then.
    pub fn keep(&mut self, job: &TokenJob<'_>, content: Content) -> Result<(), Box<HostResult>> {
        let Some(path) = job.spec.keep_old.clone() else { return Ok(()) };
        let file = self.host.file(job)?;
        let root = || Owner::Name("root".to_owned());
        let kept = DesiredFile {
            path,
            from: "the token before".to_owned(),
            parts: None,
            content,
            mode: 0o400,
            directory_mode: None,
            directory_owner: None,
            owner: root(),
            group: root(),
            findings: Vec::new(),
            ..file
        };
        self.prepare(job, kept)?;
        if self.kept_before.is_none() {
            let before = self.node.as_ref().and_then(|node| node.content_at(&self.physical));
            self.kept_before = Some(before.map_or(Content::Absent, Content::Exact));
        }
        let (is_planned, plan) = (self.plan.as_ref().is_some_and(|plan| !plan.is_empty()), self.plan.take());
        match plan {
            Some(plan) if is_planned => self.apply(plan, false),
            _ => Ok(()),
        }
    }

    /// Puts back what was kept before this run.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn keep_as_before(&mut self, job: &TokenJob<'_>) -> Result<(), Box<HostResult>> {
        let Some(before) = self.kept_before.take() else { return Ok(()) };
        self.keep(job, before)?;
        self.done.clear();
        Ok(())
    }

    /// Makes the session ready to write the declared file.
    pub fn prime(&mut self, job: &TokenJob<'_>) -> Result<(), Box<HostResult>> {
        let file = self.host.file(job)?;
        self.prepare(job, file)
    }

    /// Writes the token to its file, from where nothing takes it back.
    pub fn write(&mut self, job: &TokenJob<'_>, token: Token, tokens: &Tokens) {
        if self.seen.role == Role::Unreachable {
            return;
        }
        // Also of those that succeed: another program may change the file each time.
        self.tries = self.tries.saturating_add(1);
        if let Err(failure) = self.try_to_write(job, token, tokens) {
            self.failure = Some(failure);
            self.node = None;
        }
    }

    fn try_to_write(&mut self, job: &TokenJob<'_>, token: Token, tokens: &Tokens) -> Result<(), Box<HostResult>> {
        if token != DECLARED {
            let content = Content::Exact(tokens.secret(token));
            let file = DesiredFile { content, parts: None, findings: Vec::new(), ..self.host.file(job)? };
            self.prepare(job, file)?;
        } else if self.plan.is_none() {
            self.prime(job)?;
        }
        let Some(plan) = self.plan.take().filter(|plan| !plan.is_empty()) else { return Ok(()) };
        let is_new = plan.changes.iter().any(|change| matches!(change.action, Action::Create | Action::Replace));
        let physical = self.physical.clone();
        self.apply(plan, true)?;
        self.seen.differs = false;
        if is_new {
            self.seen.written = true;
        }
        // One that waits for the file reads it; and a new file with the old token was read before.
        if self.seen.waits || !is_new && !self.seen.is_stale {
            self.with_node(|node| node.mark_as_read(&physical))?;
        }
        Ok(())
    }

    fn apply(&mut self, plan: Plan, forward: bool) -> Result<(), Box<HostResult>> {
        let name = self.host.part.name;
        let changes = make::node_changes(&plan)
            .map_err(|error| Box::new(HostResult::failed(Message::nothing_changed(name).caused_by(&error))))?;
        let run =
            NodeRun { changes: &changes, keep: true, forward, files: host::files_of(&plan), ..NodeRun::default() };
        let Some(node) = self.node.as_mut() else { return Err(lost(name)) };
        let outcome = node.apply_and_stay(&run, &|_| ());
        match outcome.kind {
            OutcomeKind::Done => {
                self.done.push(plan);
                Ok(())
            }
            OutcomeKind::Refused(error) => Err(Box::new(HostResult::unchanged(name, &error))),
            OutcomeKind::RolledBack => Err(Box::new(HostResult::failed(messages::rolled_back(name, &outcome)))),
            _ => {
                self.changed_anything = true;
                Err(Box::new(failed_outcome(name, &outcome)))
            }
        }
    }

    /// Restarts the unit, and waits until the host is well. True if it is.
    pub fn restart(&mut self, job: &TokenJob<'_>, tokens: &Tokens, token: Token) -> bool {
        let unit = self.unit_name().to_owned();
        self.seen.restarted = true;
        self.changed_anything = true;
        let start = job.spec.on_change.health.as_ref().map_or(START, |health| health.timeout);
        let started = self.with_node(|node| node.restart_cluster_unit(&unit, start));
        self.restarted.push(unit);
        // A lost session says nothing: a unit may be the network.
        let (limit, ended): (_, fn(&Self) -> bool) = match started {
            Ok(false) => (STARTED_AGAIN, Self::has_ended),
            _ => (READY, |_| false),
        };
        match self.seen.role {
            Role::Agent => self.is_agent_well(job, limit, ended),
            _ => self.is_ready_within(job, tokens, token, limit, ended),
        }
    }

    /// Waits for a server that is being started, or waits for its file. True if it runs with this token and is ready.
    pub fn wait(&mut self, job: &TokenJob<'_>, tokens: &Tokens, token: Token, limit: Duration) -> bool {
        // One that has ended is restarted at once; one that waited for its file may join another server later.
        let ended: fn(&Self) -> bool = if self.seen.waits { |_| false } else { |own| own.seen.life == Life::Down };
        self.is_ready_within(job, tokens, token, limit, ended)
    }

    fn is_ready_within(
        &mut self,
        job: &TokenJob<'_>,
        tokens: &Tokens,
        token: Token,
        limit: Duration,
        ended: fn(&Self) -> bool,
    ) -> bool {
        let began = Instant::now();
        loop {
            self.connect(job);
            self.look(job);
            self.ask(job, tokens);
            match self.seen.role {
                Role::Server(server) if server.runs == Runs::With(token) && server.is_ready => return true,
                Role::Server(_) if ended(self) => return false,
                _ if began.elapsed() >= limit || sys::is_terminated() => return false,
                _ => thread::sleep(PAUSE),
            }
        }
    }

    /// An agent is well when its unit has been active for `settle` seconds.
    fn is_agent_well(&mut self, job: &TokenJob<'_>, limit: Duration, ended: fn(&Self) -> bool) -> bool {
        let began = Instant::now();
        let mut up_since: Option<Instant> = None;
        loop {
            self.connect(job);
            self.look(job);
            match self.seen.life {
                _ if self.seen.role == Role::Unreachable => up_since = None,
                // One that systemd could not restart is older than its file still.
                Life::Up if !self.seen.is_stale => {
                    let since = *up_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= job.spec.on_change.settle {
                        return true;
                    }
                }
                _ if ended(self) => return false,
                _ => up_since = None,
            }
            if began.elapsed() >= limit.saturating_add(job.spec.on_change.settle) || sys::is_terminated() {
                return false;
            }
            thread::sleep(PAUSE.min(job.spec.on_change.settle).max(Duration::from_millis(100)));
        }
    }

    /// systemd does not start it again.
    fn has_ended(&self) -> bool {
        self.unit().is_some_and(|unit| matches!(unit.active.as_str(), "failed" | "inactive"))
    }

    /// The last lines of its unit's journal, or nothing.
    pub fn journal(&mut self, job: &TokenJob<'_>) -> Vec<String> {
        let unit = self.unit_name().to_owned();
        if unit.is_empty() || job.spec.on_change.hides_output {
            return Vec::new();
        }
        self.with_node(|node| node.cluster_journal(&unit)).unwrap_or_default()
    }

    /// The other units, programs and the health check of the secret, once, after its own unit.
    ///
    /// # Errors
    /// What fails with the new token.
    pub fn act(&mut self, job: &TokenJob<'_>) -> Result<(), Box<HostResult>> {
        if self.acted || !(self.seen.written || self.seen.restarted) {
            return Ok(());
        }
        self.acted = true;
        let mut run = NodeRun { keep: true, ..NodeRun::default() };
        actions::collect(&[job.spec], &mut run);
        let own = self.unit_name().to_owned();
        run.units.retain(|unit| unit.name != own);
        if run.units.is_empty() && run.programs.is_empty() && run.checks.is_empty() {
            return Ok(());
        }
        let name = self.host.part.name;
        let Some(node) = self.node.as_mut() else { return Err(lost(name)) };
        let outcome = node.apply_and_stay(&run, &|_| ());
        self.restarted.extend(outcome.acted.iter().cloned());
        match outcome.kind {
            OutcomeKind::Done => Ok(()),
            _ => {
                self.changed_anything = true;
                self.node = None;
                Err(Box::new(failed_outcome(name, &outcome)))
            }
        }
    }

    /// Its warnings, and the end of its session.
    pub fn close(&mut self) -> Vec<Warning> {
        let mut warnings = std::mem::take(&mut self.warnings);
        if let Some(node) = self.node.take() {
            warnings.extend(node.warnings());
            node.close();
        }
        warnings
    }

    /// The plan of the declared file, if it was not carried out.
    pub fn take_plan(&mut self) -> Option<Plan> {
        self.plan.take()
    }
}

/// A step that failed after the request: the new file stays.
fn failed_outcome(name: &str, outcome: &Outcome) -> HostResult {
    let message = match &outcome.kind {
        OutcomeKind::Unknown(error) => messages::unknown(name, error),
        OutcomeKind::LeftoversRemain(directory) => messages::uncleared(name, directory),
        OutcomeKind::NotRestored(path) => messages::stuck(name, path, outcome),
        _ => {
            let what = outcome.fault.as_ref().map_or("something failed", |fault| fault.what.as_str());
            let message = Message::new(format!("{name}: {what}: a token does not go back, and the new one stays"));
            messages::with_output(message, outcome.fault.as_ref())
        }
    };
    HostResult { changed_anything: true, ..HostResult::failed(message) }
}
