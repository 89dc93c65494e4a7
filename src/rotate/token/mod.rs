//! The rotation of the token of a k3s or rke2 cluster, over all hosts that have it. docs/rotation.md describes it.
//!
//! `decide` is pure: from what all hosts say it names the next step. This file takes the steps one after another and
//! looks again after each, so that a run goes on from wherever an earlier one was cut off. `member` is one host.
//!
//! Called by `cli`, before the other secrets of the run.

mod decide;
mod member;
mod results;
mod words;

use std::thread;
use std::time::{Duration, Instant};

use deaddrop_core::secret::Secret;
use deaddrop_core::{near, shown, sys};

use self::decide::{DECLARED, Role, Step, Token, decide};
use self::member::{Member, Tokens};
use super::{HostResult, Options};
use crate::derive::cluster_token::{Cluster, ClusterToken};
use crate::manifest::{Manifest, SecretSpec};
use crate::run::desired::{Content, DesiredFile, Unfit};
use crate::run::message::Message;
use crate::run::part::{HostPart, Values};

/// Time for servers that are not ready, before anything is changed.
const BEFORE: Duration = Duration::from_secs(30);
/// Time for a server that is being started, after the request.
const STARTING: Duration = Duration::from_secs(90);
/// Interval between two looks at it.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a request is begun until its result counts as unknown.
const MOST_REQUESTS: usize = 3;

/// The token of one cluster, and its hosts.
pub struct TokenJob<'a> {
    /// The secret.
    pub spec: &'a SecretSpec,
    /// Its program.
    pub cluster: Cluster,
    /// The manifest.
    pub manifest: &'a Manifest,
    /// The values of the run.
    pub values: &'a Values,
    /// The settings of the run, without questions of ssh.
    pub options: &'a Options,
    /// The same with questions, if there is a person to answer.
    pub asking: Option<&'a Options>,
    /// Number of hosts that are looked at and written to at a time.
    pub parallel: usize,
    /// True once the person has stopped the run.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
    /// Shows a line about a step.
    pub tell: &'a (dyn Fn(&str) + Sync),
    /// The declared token; `None` if the value is none.
    pub declared: Option<ClusterToken>,
}

/// A host of the cluster.
pub struct TokenHost<'a> {
    /// All of its secrets in this run.
    pub part: &'a HostPart<'a>,
    /// The password for sudo there.
    pub become_password: Option<Secret>,
}

/// How it ended.
pub enum TokenEnd {
    /// No host has a unit of the cluster: the file is like any other.
    Ordinary,
    /// It came to its end: the results of all hosts, in their order. Some may not be reached.
    Done(Vec<HostResult>),
    /// It was refused, or ended before its end.
    Ended(Vec<HostResult>),
}

impl TokenJob<'_> {
    /// The token of the declared file, equal for all hosts; `None` if the file holds none.
    ///
    /// # Errors
    /// If hosts have different ones.
    pub fn declared(
        spec: &SecretSpec,
        manifest: &Manifest,
        values: &Values,
        parts: &[&HostPart<'_>],
    ) -> Result<Option<ClusterToken>, Message> {
        let mut found: Option<Option<ClusterToken>> = None;
        for part in parts {
            let only = HostPart { secrets: vec![spec], ..**part };
            let files = only.files(manifest, values).unwrap_or_default();
            let token = files.first().and_then(|file| match &file.content {
                Content::Exact(bytes) => ClusterToken::parse(bytes.expose()),
                _ => None,
            });
            if found.get_or_insert_with(|| token.clone()) != &token {
                let message = format!("{}: nothing was changed", shown::text(&spec.name));
                let why = "its hosts have different values, and a cluster has one token";
                return Err(Message::new(message).cause(why).hint("take `{host}` out of it"));
            }
        }
        Ok(found.flatten())
    }

    fn is_for_agents(&self) -> bool {
        self.declared.as_ref().is_some_and(ClusterToken::is_for_agents)
    }

    fn is_good(&self) -> bool {
        self.declared.is_some() && !self.is_for_agents()
    }

    fn say(&self, line: &str) {
        (self.tell)(&format!("{}: {line}", shown::text(&self.spec.name)));
    }
}

impl TokenHost<'_> {
    /// The declared file.
    fn file(&self, job: &TokenJob<'_>) -> Result<DesiredFile, Box<HostResult>> {
        let only = HostPart { secrets: vec![job.spec], ..*self.part };
        let files = only.files(job.manifest, job.values);
        let failed = |why: String| Box::new(HostResult::failed(Message::nothing_changed(self.part.name).cause(why)));
        let mut files =
            files.map_err(|unfit| failed(unfit.iter().map(Unfit::to_string).collect::<Vec<_>>().join("\n")))?;
        files.pop().ok_or_else(|| failed("it has no file".to_owned()))
    }

    /// The token in the file that another secret of this run declares at this path.
    fn other_token(&self, job: &TokenJob<'_>, path: &str) -> Option<ClusterToken> {
        let other = self.part.secrets.iter().find(|spec| spec.path.as_str() == path && spec.name != job.spec.name)?;
        let only = HostPart { secrets: vec![other], ..*self.part };
        match &only.files(job.manifest, job.values).ok()?.first()?.content {
            Content::Exact(bytes) => ClusterToken::parse(bytes.expose()),
            _ => None,
        }
    }
}

/// Rotates the token, or goes on with a rotation that was cut off, or only shows the steps in a dry run.
#[must_use]
pub fn rotate_token(job: &TokenJob<'_>, hosts: &[TokenHost<'_>]) -> TokenEnd {
    let mut run = Run::new(job, hosts);
    let mut is_new_look = true;
    // Each step but waiting is taken at most a few times for each host.
    loop {
        if is_new_look {
            run.look();
        }
        let seen: Vec<_> = run.members.iter().map(|member| member.seen).collect();
        let mut step = decide(&seen, run.through, job.is_good());
        if let (Some(server), Step::Rotate { .. } | Step::Confirm { .. }) = (run.asked, &step)
            && run.requests >= MOST_REQUESTS
        {
            return TokenEnd::Ended(run.unknown(server));
        }
        if sys::is_terminated() || (job.stopped)() && run.may_stop(&step) {
            return TokenEnd::Ended(run.stopped());
        }
        if job.options.dry_run {
            if let Step::Wait(slow) = &step {
                slow.iter().for_each(|host| run.members[*host].seen.awaited = true);
                is_new_look = false;
                continue;
            }
            return run.dry(&step);
        }
        is_new_look = !matches!(step, Step::RestartAgent(_));
        if let Step::Wait(slow) = &mut step {
            run.wait(slow);
            continue;
        }
        if let Some(end) = run.take(step) {
            return end;
        }
    }
}

/// A run, and what it has done so far.
struct Run<'j, 'a> {
    job: &'j TokenJob<'a>,
    members: Vec<Member<'j>>,
    tokens: Tokens,
    /// The token of a request that was answered with success.
    through: Option<Token>,
    /// The server that got a request whose result is not known.
    asked: Option<usize>,
    /// The server that got one.
    server: Option<usize>,
    /// Number of requests.
    requests: usize,
    waiting_since: Option<Instant>,
}

impl<'j, 'a> Run<'j, 'a> {
    fn new(job: &'j TokenJob<'a>, hosts: &'j [TokenHost<'j>]) -> Self {
        let declared = job.declared.as_ref().map_or_else(|| Secret::new(Vec::new()), |token| token.secret().clone());
        Self {
            job,
            members: hosts.iter().map(Member::new).collect(),
            tokens: Tokens::new(declared),
            through: None,
            asked: None,
            server: None,
            requests: 0,
            waiting_since: None,
        }
    }

    /// Does the same on all hosts, several at a time.
    fn each(&mut self, step: impl Fn(&mut Member<'j>) + Sync) {
        for some in self.members.chunks_mut(self.job.parallel.max(1)) {
            thread::scope(|scope| {
                for member in some {
                    scope.spawn(|| step(member));
                }
            });
        }
    }

    /// Looks at all hosts, and asks the servers.
    fn look(&mut self) {
        let job = self.job;
        self.members.iter_mut().for_each(|member| member.connect(job));
        self.each(|member| member.look(job));
        let mut lost: Vec<&mut Member<'_>> =
            self.members.iter_mut().filter_map(|member| member.take_lost().then_some(member)).collect();
        lost.iter_mut().for_each(|member| member.connect(job));
        lost.iter_mut().for_each(|member| member.look(job));
        // ssh asks for one host after another.
        for member in self.members.iter_mut().filter_map(|member| member.is_to_ask(job).then_some(member)) {
            member.connect(job);
            member.look(job);
        }
        for member in &self.members {
            let own = member.unit().and_then(|unit| unit.own.as_ref());
            for token in [member.file.as_ref(), own, member.facts.kept.as_ref()].into_iter().flatten() {
                self.tokens.number(token);
            }
        }
        let tokens = std::mem::take(&mut self.tokens);
        self.each(|member| member.ask(job, &tokens));
        self.tokens = tokens;
        self.judge();
    }

    /// Finds what forbids a rotation on the hosts themselves.
    fn judge(&mut self) {
        let job = self.job;
        let first_ca = self.members.iter().find_map(|member| {
            let own = member.unit()?.own.as_ref()?;
            Some((member.host.part.name, own.ca()?.to_owned()))
        });
        let pinned = job.declared.as_ref().and_then(ClusterToken::ca).map(str::to_owned);
        for member in &mut self.members {
            let mut unfit = Vec::new();
            let path = shown::text(job.spec.path.as_str());
            if let Some(unit) = member.unit() {
                if !unit.reads_ours {
                    let from = match unit.reads.as_str() {
                        "" => String::new(),
                        other => format!(", but from {}", shown::text(other)),
                    };
                    unfit.push(format!(
                        "{} does not take its token from {path}{from}: it would keep the old one",
                        unit.name
                    ));
                }
                let ours = [job.declared.as_ref(), member.file.as_ref(), unit.own.as_ref()];
                let is_ours = unit.agent.as_ref().is_some_and(|agent| ours.contains(&Some(agent)));
                if unit.is_server && (unit.agent_reads_ours || is_ours) {
                    unfit.push(format!(
                        "the agent token of {} is that of the servers: it could not start twice",
                        unit.name
                    ));
                } else if let Some(file) = &unit.agent_file
                    && let Some(new) = member.host.other_token(job, file)
                    && unit.agent.as_ref() != Some(&new)
                {
                    let file = shown::text(file);
                    unfit.push(format!(
                        "the agent token of {}, {file}, changes in the same run: it could not start twice",
                        unit.name
                    ));
                }
                if let (Some(own), Some((name, first))) = (unit.own.as_ref().and_then(ClusterToken::ca), &first_ca) {
                    if own != first {
                        unfit.push(format!(
                            "its own `server/token` names another CA than that of {name}: two clusters?"
                        ));
                    }
                    if pinned.as_ref().is_some_and(|pinned| pinned != own) {
                        unfit.push("the new token names another CA than that of the cluster".to_owned());
                    }
                }
            }
            member.seen.is_unfit = !unfit.is_empty();
            member.unfit = unfit;
        }
    }

    /// True if the run can end before this step.
    fn may_stop(&self, step: &Step) -> bool {
        !matches!(step, Step::Place | Step::Write(_) | Step::Confirm { .. } | Step::Done | Step::Failed(_))
    }

    /// Waits a moment for servers that are being started.
    fn wait(&mut self, slow: &[usize]) {
        let since = *self.waiting_since.get_or_insert_with(|| {
            let names = slow.iter().filter_map(|host| Some(self.members.get(*host)?.host.part.name));
            self.job.say(&format!("waiting for {}", near::list(names)));
            Instant::now()
        });
        if since.elapsed() < BEFORE {
            thread::sleep(PAUSE);
            return;
        }
        for host in slow {
            if let Some(member) = self.members.get_mut(*host) {
                member.seen.awaited = true;
            }
        }
    }

    /// Takes a step. Returns the end, if it is one.
    fn take(&mut self, step: Step) -> Option<TokenEnd> {
        let job = self.job;
        let ended = |results| Some(TokenEnd::Ended(results));
        match step {
            Step::Ordinary => {
                self.members.iter_mut().for_each(|member| drop(member.close()));
                Some(TokenEnd::Ordinary)
            }
            Step::Refuse(why) => ended(match self.asked {
                Some(server) => self.unknown(server),
                None => self.refused(&why),
            }),
            Step::Wait(_) => None,
            Step::Confirm { server, old, new } => {
                job.say(&format!("(c) {}: asking again for the token of an unfinished rotation", self.name(server)));
                match self.request(server, old, new) {
                    Asked::Through => self.through = Some(new),
                    Asked::TakenBack(code) => return ended(self.not_taken(server, code)),
                    // The next look says what has come of it.
                    Asked::Unknown => thread::sleep(PAUSE),
                }
                None
            }
            Step::Rotate { server, old } => self.rotate(server, old).and_then(ended),
            Step::Place => {
                self.write(DECLARED);
                Some(TokenEnd::Done(self.results(None)))
            }
            Step::Write(token) => {
                self.write(token);
                None
            }
            Step::Restart(host, token) => {
                job.say(&format!("(e) {}: restarting {}", self.name(host), self.members[host].unit_name()));
                let tokens = &self.tokens;
                let member = &mut self.members[host];
                let is_well = member.restart(job, tokens, token);
                self.after(host, is_well, token)
            }
            Step::Await(host, token) => {
                job.say(&format!("(e) {}: waiting until it is ready", self.name(host)));
                let tokens = &self.tokens;
                let member = &mut self.members[host];
                let is_well = member.wait(job, tokens, token, STARTING);
                member.seen.awaited = true;
                // One that is not ready is restarted next, or fails.
                if is_well { self.after(host, true, token) } else { None }
            }
            Step::RestartAgent(host) => {
                job.say(&format!("(f) {}: restarting {}", self.name(host), self.members[host].unit_name()));
                let tokens = &self.tokens;
                let member = &mut self.members[host];
                let is_well = member.restart(job, tokens, DECLARED);
                let acted = if is_well { member.act(job) } else { Ok(()) };
                match (is_well, acted) {
                    (true, Ok(())) => {}
                    (true, Err(failure)) => member.failure = Some(failure),
                    (false, _) if sys::is_terminated() => {}
                    (false, _) => {
                        let failure = self.failed_host(host);
                        self.members[host].failure = Some(Box::new(failure));
                    }
                }
                None
            }
            Step::Failed(host) => ended(self.failed(host)),
            Step::Done => {
                self.each(|member| {
                    if let Err(failure) = member.act(job) {
                        member.failure = Some(failure);
                    }
                });
                Some(TokenEnd::Done(self.results(None)))
            }
        }
    }

    fn name(&self, host: usize) -> &'j str {
        self.members.get(host).map_or("", |member| member.host.part.name)
    }

    /// After a server was restarted or waited for.
    fn after(&mut self, host: usize, is_well: bool, token: Token) -> Option<TokenEnd> {
        if !is_well {
            // After SIGTERM nothing is known of it.
            return Some(TokenEnd::Ended(if sys::is_terminated() { self.stopped() } else { self.failed(host) }));
        }
        if token == DECLARED
            && let Err(failure) = self.members[host].act(self.job)
        {
            self.members[host].failure = Some(failure);
            return Some(TokenEnd::Ended(self.results(Some("another server of the cluster failed"))));
        }
        None
    }

    /// Steps (b) to (d). Returns the results if it does not come to an end.
    fn rotate(&mut self, server: usize, old: Token) -> Option<Vec<HostResult>> {
        let job = self.job;
        let secret = self.tokens.secret(old);
        // What was done to bring an earlier rotation to its end does not count in this one.
        self.members.iter_mut().for_each(Member::begin);
        if job.spec.keep_old.is_some() {
            job.say("(b) keeping the old token on the servers");
            let is_server = |member: &Member<'_>| matches!(member.seen.role, Role::Server(_));
            self.each(|member| {
                if is_server(member) {
                    let kept = member.keep(job, Content::Exact(secret.clone())).and_then(|()| member.prime(job));
                    member.failure = kept.err();
                }
            });
            if self.members.iter().any(|member| member.failure.is_some()) {
                self.keep_as_before();
                return Some(self.results(Some("the old token could not be kept on all servers")));
            }
        }
        job.say(&format!("(c) {}: asking for the new token", self.name(server)));
        match self.request(server, old, DECLARED) {
            Asked::Through => {
                self.through = Some(DECLARED);
                self.write(DECLARED);
                None
            }
            Asked::TakenBack(code) => {
                self.keep_as_before();
                Some(self.not_taken(server, code))
            }
            // The next look says what has come of it.
            Asked::Unknown => None,
        }
    }

    /// Step (c): asks, and asks again; then asks for the old token.
    fn request(&mut self, server: usize, old: Token, new: Token) -> Asked {
        let (job, old, new) = (self.job, self.tokens.secret(old), self.tokens.secret(new));
        (self.asked, self.server) = (Some(server), Some(server));
        self.requests = self.requests.saturating_add(1);
        let Some(member) = self.members.get_mut(server) else { return Asked::Unknown };
        let mut last = 0;
        for _ in 0..2 {
            match member.request(job, &old, &new) {
                Some(200) => {
                    self.asked = None;
                    return Asked::Through;
                }
                Some(code) => last = code,
                None => return Asked::Unknown,
            }
            thread::sleep(Duration::from_secs(1));
        }
        match member.request(job, &old, &old) {
            Some(200) => {
                self.asked = None;
                Asked::TakenBack(last)
            }
            _ => Asked::Unknown,
        }
    }

    /// Step (d).
    fn write(&mut self, token: Token) {
        let job = self.job;
        job.say(&format!("(d) writing {} on all hosts", shown::text(job.spec.path.as_str())));
        let tokens = &self.tokens;
        // All at the same time, whatever the limit: the sessions are open.
        thread::scope(|scope| {
            for member in &mut self.members {
                scope.spawn(|| member.write(job, token, tokens));
            }
        });
    }

    fn keep_as_before(&mut self) {
        let job = self.job;
        self.each(|member| {
            if let Err(failure) = member.keep_as_before(job) {
                member.changed_anything = true;
                member.failure.get_or_insert(failure);
            }
        });
    }
}

/// What came of a request.
enum Asked {
    /// The cluster has the new token.
    Through,
    /// It has the old one, and nothing of the request is left; the status of the last answer.
    TakenBack(u16),
    /// It is not known.
    Unknown,
}
