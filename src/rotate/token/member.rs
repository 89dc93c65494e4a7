//! One host of a cluster, during the rotation of its token: its session, what it says, and what is done there.

use std::thread;
use std::time::{Duration, Instant};

use deaddrop_core::secret::Secret;
use deaddrop_core::sys;
use deaddrop_core::warning::Warning;

use super::decide::{DECLARED, Life, Role, Runs, Seen, Server, Token};
use super::{TokenHost, TokenJob};
use crate::derive::cluster_token::ClusterToken;
use crate::manifest::Owner;
use crate::place::Place;
use crate::place::node::{ClusterFacts, ClusterQuestion, ClusterUnit, NodeError, NodeRun, Outcome, OutcomeKind};
use crate::rotate::host::{self, Node};
use crate::rotate::{HostResult, HostStatus, actions, messages};
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
/// How often a file is written until that is given up.
const TRIES: usize = 3;

/// A host, and what is known of it and was done there in this run.
pub(super) struct Member<'a> {
    pub host: &'a TokenHost<'a>,
    node: Option<Node<'static>>,
    /// The declared file, as of the last look.
    plan: Option<Plan>,
    /// The file of the node's system.
    physical: String,
    pub facts: ClusterFacts,
    pub seen: Seen,
    /// The token in its file.
    pub file: Option<ClusterToken>,
    /// Reasons of its own that forbid a rotation.
    pub unfit: Vec<String>,
    /// Why there is no session, or no plan.
    pub failure: Option<Box<HostResult>>,
    /// Plans that were carried out.
    pub done: Vec<Plan>,
    pub restarted: Vec<String>,
    /// The result is not known, or not as it should be.
    pub changed_anything: bool,
    /// What stood in the file for the old token.
    kept_before: Option<Content>,
    tries: usize,
    /// ssh may ask on the terminal.
    asks: bool,
    /// The session was looked at.
    is_open: bool,
    is_lost: bool,
    /// Warnings about what an earlier run has left.
    warnings: Vec<Warning>,
    acted: bool,
    pub since: Instant,
}

/// The tokens that are known in this run, by their number.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Secret>);

impl Tokens {
    /// That of the manifest is the first.
    pub fn new(declared: Secret) -> Self {
        Self(vec![declared])
    }

    /// The number of a token, new or known.
    pub fn number(&mut self, token: &ClusterToken) -> Token {
        let known = self.0.iter().position(|known| known == token.secret());
        Token(known.unwrap_or_else(|| {
            self.0.push(token.secret().clone());
            self.0.len().saturating_sub(1)
        }))
    }

    pub fn secret(&self, token: Token) -> Secret {
        // OK to fall back: every number was given out above.
        self.0.get(token.0).cloned().unwrap_or_else(|| Secret::new(Vec::new()))
    }

    fn all(&self) -> &[Secret] {
        &self.0
    }
}

impl<'a> Member<'a> {
    pub fn new(host: &'a TokenHost<'a>) -> Self {
        Self {
            host,
            node: None,
            plan: None,
            physical: String::new(),
            facts: ClusterFacts::default(),
            seen: Seen {
                role: Role::Unreachable,
                life: Life::Down,
                file: None,
                kept: None,
                differs: false,
                written: false,
                waits: false,
                is_stale: false,
                awaited: false,
                restarted: false,
                is_unfit: false,
            },
            file: None,
            unfit: Vec::new(),
            failure: None,
            done: Vec::new(),
            restarted: Vec::new(),
            changed_anything: false,
            kept_before: None,
            tries: 0,
            asks: false,
            is_open: false,
            is_lost: false,
            warnings: Vec::new(),
            acted: false,
            since: Instant::now(),
        }
    }

    /// Begins a rotation.
    pub fn begin(&mut self) {
        let Seen { written, restarted, awaited, .. } = &mut self.seen;
        (*written, *restarted, *awaited, self.acted) = (false, false, false, false);
        self.tries = 0;
    }

    /// The unit, if it has one.
    pub fn unit(&self) -> Option<&ClusterUnit> {
        self.facts.unit.as_ref()
    }

    pub fn unit_name(&self) -> &str {
        self.unit().map_or("", |unit| unit.name.as_str())
    }

    /// Opens a session if there is none. On the thread that stays: an ssh ends with the thread that has started it.
    pub fn connect(&mut self, job: &TokenJob<'_>) {
        if self.node.is_some() || self.tries >= TRIES {
            return;
        }
        let TokenHost { part, become_password, .. } = self.host;
        let options = job.asking.filter(|_| self.asks).unwrap_or(job.options);
        match host::enter(part.name, part.host, become_password.clone(), options, &|| ()) {
            Ok(node) => self.node = Some(node),
            Err(error) => self.failure = Some(Box::new(HostResult::unchanged(part.name, &error))),
        }
    }

    /// True if ssh could not ask its question, and may from now on.
    pub fn is_to_ask(&mut self, job: &TokenJob<'_>) -> bool {
        let needs = self.failure.as_ref().is_some_and(|failure| failure.needs_user);
        let is_new = needs && !self.asks && job.asking.is_some();
        self.asks |= is_new;
        is_new
    }

    /// Surveys and plans the file, and looks at the unit, in an open session.
    pub fn look(&mut self, job: &TokenJob<'_>) {
        self.seen.role = Role::Unreachable;
        if self.tries >= TRIES && self.seen.differs {
            let message = Message::new(format!("{}: its file is not as it was written", self.host.part.name));
            let failure = HostResult::failed(message.hint("is another program changing it?"));
            self.failure.get_or_insert_with(|| Box::new(failure));
            self.node = None;
        }
        let was_looked_at = std::mem::replace(&mut self.is_open, false);
        if self.node.is_some() {
            self.failure = self.try_to_look(job).err();
            self.is_open = self.failure.is_none();
            self.is_lost = was_looked_at && !self.is_open;
        }
    }

    /// True if the session was lost between two looks: a new one may be opened at once.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.is_lost)
    }

    fn try_to_look(&mut self, job: &TokenJob<'_>) -> Result<(), Box<HostResult>> {
        self.prepare(job, self.host.file(job)?)?;
        let question = ClusterQuestion {
            cluster: job.cluster,
            path: job.spec.path.as_str(),
            kept: job.spec.keep_old.as_ref().map(|path| path.as_str()),
            units: &job.spec.on_change.restart,
        };
        self.facts = self.with_node(|node| node.look_at_cluster(&question))?;
        let file = self.node.as_ref().map(|node| node.token_at(&self.physical));
        let (stands, token) = file.unwrap_or_default();
        self.file = token;
        self.seen.differs =
            self.plan.as_ref().is_some_and(|plan| plan.changes.iter().any(|c| c.action != Action::Unchanged));
        let Some(unit) = self.facts.unit.as_ref() else {
            self.seen.role = Role::Stranger;
            return Ok(());
        };
        self.seen.life = match (unit.active.as_str(), unit.sub.as_str()) {
            ("active" | "reloading", _) => Life::Up,
            // It has ended, and systemd starts it again.
            ("activating", sub) if sub.starts_with("auto-restart") => Life::Down,
            ("activating" | "deactivating", _) => Life::Starting,
            _ => Life::Down,
        };
        self.seen.is_stale = unit.is_stale;
        let server = Server { runs: Runs::Silent, own: None, is_ready: false, has_data: unit.has_data };
        self.seen.role = if unit.is_server { Role::Server(server) } else { Role::Agent };
        // A server that runs with a token, although its file is missing, does not wait: it is asked later.
        self.seen.waits |= !stands && self.seen.life != Life::Down;
        Ok(())
    }

    /// Plans a file. The session is ready for its change then.
    fn prepare(&mut self, job: &TokenJob<'_>, file: DesiredFile) -> Result<(), Box<HostResult>> {
        let part = self.host.part;
        let allow = job.manifest.allowances(part.as_host).of_target();
        let Some(node) = self.node.as_mut() else { return Err(lost(part.name)) };
        let planned = host::survey_and_plan(node, part.name, &allow, vec![file], job.options);
        match planned {
            Ok((plan, recovered)) => {
                self.warnings.extend(recovered.iter().flat_map(|recovery| host::recovered_warnings(recovery, &plan)));
                self.physical = plan.changes.first().map(|change| change.physical.clone()).unwrap_or_default();
                self.plan = Some(plan);
                Ok(())
            }
            Err(end) => {
                self.node = None;
                Err(end)
            }
        }
    }

    /// Runs a step in the session, which is closed if that fails.
    fn with_node<T>(
        &mut self,
        step: impl FnOnce(&mut Node<'static>) -> Result<T, NodeError>,
    ) -> Result<T, Box<HostResult>> {
        let name = self.host.part.name;
        let Some(node) = self.node.as_mut() else { return Err(lost(name)) };
        step(node).map_err(|error| {
            self.node = None;
            Box::new(HostResult::unchanged(name, &error))
        })
    }

    /// Asks a server which of the tokens it runs with, and whether it is ready.
    pub fn ask(&mut self, job: &TokenJob<'_>, tokens: &Tokens) {
        let numbered = |token: Option<&ClusterToken>| {
            token.and_then(|token| tokens.all().iter().position(|known| known == token.secret())).map(Token)
        };
        let is_server = matches!(self.seen.role, Role::Server(_));
        self.seen.file = numbered(self.file.as_ref());
        self.seen.kept = numbered(self.facts.kept.as_ref());
        if !is_server {
            return;
        }
        let Some(unit) = self.facts.unit.take() else { return };
        let own = numbered(unit.own.as_ref());
        let asked = self.ask_server(job, &unit, tokens, own);
        let has_data = unit.has_data;
        self.facts.unit = Some(unit);
        match asked {
            Ok((runs, is_ready)) => {
                if matches!(runs, Runs::With(_)) && !self.seen.written {
                    self.seen.waits = false;
                }
                self.seen.role = Role::Server(Server { runs, own, is_ready, has_data });
            }
            Err(failure) => {
                self.seen.role = Role::Unreachable;
                self.failure = Some(failure);
            }
        }
    }

    fn ask_server(
        &mut self,
        job: &TokenJob<'_>,
        unit: &ClusterUnit,
        tokens: &Tokens,
        own: Option<Token>,
    ) -> Result<(Runs, bool), Box<HostResult>> {
        if !unit.has_curl {
            // All that it can have is the declared one, if it has read its file since.
            let is_declared = own == Some(DECLARED) && self.seen.file == Some(DECLARED) && !unit.is_stale;
            let runs = if is_declared && self.seen.life == Life::Up { Runs::With(DECLARED) } else { Runs::Unasked };
            return Ok((runs, true));
        }
        if unit.url.is_empty() || self.seen.life == Life::Down {
            return Ok((Runs::Silent, false));
        }
        let codes = self.with_node(|node| node.ask_for_tokens(job.cluster, unit, tokens.all()))?;
        let runs = match codes.iter().position(|code| matches!(code, 400 | 405)) {
            Some(number) => Runs::With(Token(number)),
            None if codes.iter().any(|code| matches!(code, 403 | 404)) => Runs::TooOld,
            None if codes.iter().all(|code| *code == 401) => Runs::WithAnother,
            None => Runs::Silent,
        };
        let is_ready = matches!(runs, Runs::With(_))
            && self.seen.life == Life::Up
            && self.with_node(|node| node.is_server_ready(job.cluster, unit))?;
        Ok((runs, is_ready))
    }

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

fn lost(name: &str) -> Box<HostResult> {
    let message = Message::new(format!("{name}: the session was lost")).hint("run it again: it goes on from there");
    Box::new(HostResult { error: Some(message), ..HostResult::new(HostStatus::Failed) })
}
