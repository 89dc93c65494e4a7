//! One host of a cluster, during the rotation of its token: its session, what it says, and what is done there.

mod acts;

use std::time::Instant;

use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;

use super::decide::{DECLARED, Life, Role, Runs, Seen, Server, Token};
use super::{TokenHost, TokenJob};
use crate::derive::cluster_token::ClusterToken;
use crate::place::node::{ClusterFacts, ClusterQuestion, ClusterUnit, NodeError};
use crate::rotate::host::{self, Node};
use crate::rotate::{HostResult, HostStatus};
use crate::run::desired::{Content, DesiredFile};
use crate::run::message::Message;
use crate::run::plan::{Action, Plan};
use crate::run::prepare::Prepared;

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
            Ok((Prepared { plan, .. }, recovered)) => {
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
}

fn lost(name: &str) -> Box<HostResult> {
    let message = Message::new(format!("{name}: the session was lost")).hint("run it again: it goes on from there");
    Box::new(HostResult { error: Some(message), ..HostResult::new(HostStatus::Failed) })
}
