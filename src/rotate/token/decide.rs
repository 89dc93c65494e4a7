//! What is to be done next about the token of a cluster, from what its hosts say. Pure; called again after each step.
//!
//! A token is a number: the driver compares the tokens of all hosts. [`DECLARED`] is that of the manifest.

/// A token that is known in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Token(pub usize);

/// The token of the manifest.
pub(super) const DECLARED: Token = Token(0);

/// What a server answers when it is asked which token it runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// With this one.
    With(Token),
    /// With none of those that are known.
    WithAnother,
    /// It is too old to be asked, and to rotate.
    TooOld,
    /// It does not answer.
    Silent,
    /// There is no curl to ask it with.
    Unasked,
}

/// The state of a host's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It runs.
    Up,
    /// It is being started.
    Starting,
    /// Anything else; also if systemd starts it again and again.
    Down,
}

/// What a host is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// No session; it may be a server.
    Unreachable,
    /// No unit runs a server or an agent there.
    Stranger,
    /// An agent.
    Agent,
    /// A server.
    Server(Server),
}

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    /// The token that it runs with.
    pub runs: Runs,
    /// The token in its own copy.
    pub own: Option<Token>,
    /// Its apiserver is ready, as far as it runs.
    pub is_ready: bool,
    /// It has data, and needs no other server to start.
    pub has_data: bool,
}

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub role: Role,
    pub life: Life,
    /// The token in its file; `None` if there is none.
    pub file: Option<Token>,
    /// The token that is kept there from before the last rotation.
    pub kept: Option<Token>,
    /// The file is not as declared: its content, mode or owner.
    pub differs: bool,
    /// Its file was written in this run.
    pub written: bool,
    /// Its unit runs, and waits for the file.
    pub waits: bool,
    /// Its process is older than its file.
    pub is_stale: bool,
    /// It was waited for in this run.
    pub awaited: bool,
    /// Its unit was restarted in this run.
    pub restarted: bool,
    /// Something forbids a rotation: a reason that is found on the host itself.
    pub is_unfit: bool,
}

/// The next step. Hosts are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// No host has a unit of the cluster: the file is like any other.
    Ordinary,
    /// Nothing is changed, for these reasons.
    Refuse(Vec<(usize, Why)>),
    /// These servers are being started: wait for them, and look again.
    Wait(Vec<usize>),
    /// This server has got a request whose answer is not known: ask again.
    Confirm { server: usize, old: Token, new: Token },
    /// Keep the old token, ask this server for the declared one, and write it everywhere.
    Rotate { server: usize, old: Token },
    /// No server has a token yet: write the declared one, and restart nothing.
    Place,
    /// Write this token everywhere where it does not stand.
    Write(Token),
    /// Restart the server, which does not run with this token, and wait until it does.
    Restart(usize, Token),
    /// Wait until the server runs with this token; it reads it by itself.
    Await(usize, Token),
    /// Restart the agent.
    RestartAgent(usize),
    /// This server was restarted or waited for, and does not run with the token.
    Failed(usize),
    /// All is done.
    Done,
}

/// Why a cluster's token is not rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// No session.
    Unreachable,
    /// No unit of the cluster.
    NoUnit,
    /// A reason of the host's own.
    Unfit,
    /// A server that does not run.
    Down,
    /// A server that runs, and does not answer, or is not ready.
    NotReady,
    /// A server without the request.
    TooOld,
    /// A server without curl.
    NoCurl,
    /// A server with a token that is none of the known ones.
    UnknownToken,
    /// Servers run with several tokens, or have got requests for several, and nothing says which is the last.
    SeveralTokens,
    /// Servers do not take the token of the manifest.
    BadToken,
}

/// The cluster's token, according to its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    /// No server has one yet.
    New,
    /// This one is in its data.
    Has(Token),
    /// `server` runs with `old`, and has got a request for `new`; whether it was carried out is not known.
    Asked { server: usize, old: Token, new: Token },
    /// It cannot be known.
    Unclear,
}

/// The next step. `through` is the token of a request that was answered with success in this run; `is_good` is false if
/// no server takes the declared token.
pub(super) fn decide(hosts: &[Seen], through: Option<Token>, is_good: bool) -> Step {
    if hosts.iter().all(|host| matches!(host.role, Role::Stranger)) {
        return Step::Ordinary;
    }
    let has_server = servers(hosts).next().is_some();
    let is_partly_unknown = hosts.iter().any(|host| host.role == Role::Unreachable);
    match cluster(hosts, through) {
        // A cluster of which only agents are seen may have servers that are not.
        Cluster::New if is_partly_unknown => refuse(hosts, None, is_good),
        Cluster::New if !has_server => finish(hosts, DECLARED),
        // No server has a token yet: nothing is asked, and what waits for the file reads it.
        Cluster::New if !is_good => refuse(hosts, None, is_good),
        Cluster::New if hosts.iter().any(|host| host.differs) => Step::Place,
        Cluster::New => Step::Done,
        Cluster::Asked { server, old, new } => Step::Confirm { server, old, new },
        Cluster::Has(token) if token == DECLARED || !is_finished(hosts, token) => finish(hosts, token),
        Cluster::Has(token) => rotate(hosts, token, is_good),
        Cluster::Unclear => refuse(hosts, None, is_good),
    }
}

fn servers(hosts: &[Seen]) -> impl Iterator<Item = (usize, &Seen, Server)> {
    hosts.iter().enumerate().filter_map(|(number, host)| match host.role {
        Role::Server(server) => Some((number, host, server)),
        _ => None,
    })
}

fn runs_with(server: Server) -> Option<Token> {
    match server.runs {
        Runs::With(token) => Some(token),
        _ => None,
    }
}

/// Which token the cluster's data is encrypted with.
fn cluster(hosts: &[Seen], through: Option<Token>) -> Cluster {
    if let Some(token) = through {
        return Cluster::Has(token);
    }
    let running: Vec<Token> = distinct(servers(hosts).filter_map(|(_, _, server)| runs_with(server)));
    // A server writes its own copy when it starts, and when it gets a request: then it runs with another token.
    let asked: Vec<(usize, Token, Token)> = servers(hosts)
        .filter_map(|(number, _, server)| Some((number, runs_with(server)?, server.own?)))
        .filter(|(_, old, own)| old != own)
        .collect();
    match distinct(asked.iter().map(|(.., new)| *new)).as_slice() {
        [] => {}
        // A server that has started with it proves that it is in the data.
        [new] if running.contains(new) => return Cluster::Has(*new),
        [new] => {
            let (server, old, _) = asked[0];
            return Cluster::Asked { server, old, new: *new };
        }
        _ => return Cluster::Unclear,
    }
    let stopped: Vec<Token> = distinct(
        servers(hosts).filter(|(_, _, server)| runs_with(*server).is_none()).filter_map(|(_, _, server)| server.own),
    );
    match running.as_slice() {
        [] => of_stopped(&stopped, hosts),
        [token] => match stopped.iter().find(|own| is_later(**own, *token, hosts)) {
            // It got the request, and does not run since.
            Some(own) => Cluster::Has(*own),
            None => Cluster::Has(*token),
        },
        several => of_several(hosts, several),
    }
}

/// True if a stopped server's own copy is later than the token that others run with.
fn is_later(own: Token, running: Token, hosts: &[Seen]) -> bool {
    own != running && running != DECLARED && (own == DECLARED || hosts.iter().any(|host| host.kept == Some(running)))
}

/// No server runs: one that has got a request has the new token in its own copy, the others have the old one.
fn of_stopped(own: &[Token], hosts: &[Seen]) -> Cluster {
    match own {
        [] => Cluster::New,
        [token] => Cluster::Has(*token),
        _ if own.contains(&DECLARED) => Cluster::Has(DECLARED),
        _ => {
            let mut later = own.iter().filter(|token| {
                own.iter().all(|other| other == *token || hosts.iter().any(|host| host.kept == Some(*other)))
            });
            match (later.next(), later.next()) {
                (Some(token), None) => Cluster::Has(*token),
                _ => Cluster::Unclear,
            }
        }
    }
}

/// Servers run with several tokens: some were restarted, and others have the new one in their file only.
fn of_several(hosts: &[Seen], running: &[Token]) -> Cluster {
    let by_server = |token: Token| {
        servers(hosts)
            .any(|(_, host, server)| host.file == Some(token) && runs_with(server).is_some_and(|runs| runs != token))
    };
    let by_agent = |token: Token| hosts.iter().any(|host| host.role == Role::Agent && host.file == Some(token));
    let by_kept = |token: Token| !hosts.iter().any(|host| host.kept == Some(token));
    let only = |says: &dyn Fn(Token) -> bool| {
        let mut found = running.iter().filter(|token| says(**token));
        found.next().filter(|_| found.next().is_none()).copied()
    };
    let found = only(&by_server).or_else(|| only(&by_agent)).or_else(|| only(&by_kept));
    found.map_or(Cluster::Unclear, Cluster::Has)
}

fn distinct(tokens: impl Iterator<Item = Token>) -> Vec<Token> {
    let mut all: Vec<Token> = tokens.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// True if no server is behind in a rotation to this token, which the cluster has.
fn is_finished(hosts: &[Seen], token: Token) -> bool {
    servers(hosts)
        .all(|(_, host, server)| host.waits || runs_with(server).or(server.own).is_none_or(|other| other == token))
}

/// The rotation from `old` to the declared token, if nothing forbids it.
fn rotate(hosts: &[Seen], old: Token, is_good: bool) -> Step {
    let may_come = |(_, host, server): &(usize, &Seen, Server)| {
        let is_well = server.runs == Runs::With(old) && server.is_ready;
        let is_slow = matches!(server.runs, Runs::With(_) | Runs::Silent) && host.life != Life::Down;
        is_slow && !is_well && !host.waits && !host.awaited
    };
    let slow: Vec<usize> = servers(hosts).filter(may_come).map(|(number, ..)| number).collect();
    if !slow.is_empty() {
        return Step::Wait(slow);
    }
    let asked = servers(hosts).find(|(_, _, server)| server.runs == Runs::With(old));
    match (refuse(hosts, Some(old), is_good), asked) {
        (Step::Refuse(why), Some((server, ..))) if why.is_empty() => Step::Rotate { server, old },
        (step, _) => step,
    }
}

/// All that forbids a rotation from `old`.
fn refuse(hosts: &[Seen], old: Option<Token>, is_good: bool) -> Step {
    let why = |host: &Seen| match host.role {
        Role::Unreachable => Some(Why::Unreachable),
        Role::Stranger => Some(Why::NoUnit),
        Role::Server(Server { runs: Runs::Unasked, .. }) => Some(Why::NoCurl),
        Role::Server(_) if !is_good => Some(Why::BadToken),
        _ if host.is_unfit => Some(Why::Unfit),
        Role::Agent => None,
        Role::Server(_) if host.waits => None,
        Role::Server(server) => match (server.runs, old) {
            (Runs::TooOld, _) => Some(Why::TooOld),
            (Runs::WithAnother, _) => Some(Why::UnknownToken),
            (Runs::Silent | Runs::Unasked, _) if host.life == Life::Down => Some(Why::Down),
            (Runs::Silent | Runs::Unasked, _) => Some(Why::NotReady),
            (Runs::With(_), None) => Some(Why::SeveralTokens),
            (Runs::With(token), Some(old)) if token != old => Some(Why::SeveralTokens),
            (Runs::With(_), Some(_)) => (!server.is_ready).then_some(Why::NotReady),
        },
    };
    let found = hosts.iter().enumerate().filter_map(|(number, host)| Some((number, why(host)?)));
    Step::Refuse(found.collect())
}

/// The request for `token` is through: the file, then the servers, then the agents. Nothing goes back from here.
fn finish(hosts: &[Seen], token: Token) -> Step {
    let stands = |host: &Seen| if token == DECLARED { !host.differs } else { host.file == Some(token) };
    if hosts.iter().any(|host| host.role != Role::Unreachable && !stands(host)) {
        return Step::Write(token);
    }
    // In a rotation the servers have restarted since the file was written. A file that is newer than the servers too was
    // written by somebody else, and holds the token that all of them run with.
    let is_rotated = servers(hosts).next().is_none() || servers(hosts).any(|(_, host, _)| !host.is_stale);
    let is_old = |host: &Seen| (host.is_stale && is_rotated || host.written) && !host.waits && !host.restarted;
    let agent = || hosts.iter().position(|host| host.role == Role::Agent && is_old(host));
    next_server(hosts, token).or_else(|| agent().map(Step::RestartAgent)).unwrap_or(Step::Done)
}

/// What is next on the servers, after the file stands everywhere.
fn next_server(hosts: &[Seen], token: Token) -> Option<Step> {
    let is_behind = |host: &Seen, server: Server| match server.runs {
        Runs::With(other) => other != token,
        Runs::WithAnother => true,
        _ => host.written || server.own.is_some_and(|own| own != token),
    };
    let touched = |host: &Seen| host.restarted || host.awaited;
    if !servers(hosts).any(|(_, host, server)| is_behind(host, server) || touched(host)) {
        return None;
    }
    let is_well = |server: Server| server.runs == Runs::With(token) && server.is_ready;
    // A server that does not run comes first: with one member less, the restart of another could stop the cluster.
    let turn =
        |(number, host, server): (usize, &Seen, Server)| match (runs_with(server), host.waits || !server.has_data) {
            (None, false) => (0, number),
            (Some(_), _) => (1, number),
            // It gets the data from another server, with the token that that one runs with.
            (None, true) => (2, number),
        };
    let (number, host, server) =
        servers(hosts).filter(|(_, _, server)| !is_well(*server)).min_by_key(|one| turn(*one))?;
    // It reads the new file by itself, or has read it.
    let reads_it = host.waits || host.life == Life::Starting || server.runs == Runs::With(token);
    Some(match (host.restarted, host.awaited) {
        (true, _) => Step::Failed(number),
        (false, true) if host.waits => Step::Failed(number),
        (false, false) if reads_it => Step::Await(number, token),
        (false, _) => Step::Restart(number, token),
    })
}

#[cfg(test)]
mod tests;
