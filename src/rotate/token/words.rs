//! The words for the rotation of a cluster's token: its steps, and why it is refused.

use deaddrop_core::near;
use deaddrop_core::shown;

use super::TokenJob;
use super::decide::{Role, Runs, Seen, Server, Step, Why};
use super::member::Member;
use crate::derive::cluster_token::Cluster;

/// The steps of a run with their hosts, in their order.
pub(super) fn steps(job: &TokenJob<'_>, members: &[Member<'_>], step: &Step) -> Vec<String> {
    let names = |wanted: &dyn Fn(&Seen) -> bool| {
        let names: Vec<&str> =
            members.iter().filter(|member| wanted(&member.seen)).map(|member| member.host.part.name).collect();
        (!names.is_empty()).then(|| near::list(names.into_iter()))
    };
    let unit = |wanted: &dyn Fn(&Seen) -> bool| {
        members.iter().find(|member| wanted(&member.seen)).map_or("", |member| member.unit_name())
    };
    let name = |host: &usize| members.get(*host).map_or("", |member| member.host.part.name);
    let url = format!("PUT /v1-{}/token", job.cluster.name());
    let servers = names(&is_server).unwrap_or_default();
    let mut lines = Vec::new();
    match step {
        Step::Rotate { server, .. } => {
            lines.push(format!("(a) {servers} run with one token, and are ready"));
            if let Some(kept) = &job.spec.keep_old {
                lines.push(format!("(b) keep the old token in {}: {servers}", shown::text(kept.as_str())));
            }
            lines.push(format!("(c) ask for the new token ({url}): {}", name(server)));
        }
        Step::Confirm { server, .. } => {
            lines.push(format!("(c) ask again for the token of an unfinished rotation ({url}): {}", name(server)));
        }
        _ => {}
    }
    if let Some(hosts) = names(&|seen| writes(step, seen)) {
        lines.push(format!("(d) write {}, on all at once: {hosts}", shown::text(job.spec.path.as_str())));
    }
    let restarted = |seen: &Seen| is_server(seen) && restarts(step, seen);
    let runs = |seen: &Seen| matches!(seen.role, Role::Server(Server { runs: Runs::With(_), .. }));
    let order = [names(&|seen| restarted(seen) && !runs(seen)), names(&|seen| restarted(seen) && runs(seen))];
    let order: Vec<String> = order.into_iter().flatten().collect();
    if !order.is_empty() {
        let (unit, order) = (unit(&restarted), order.join(", then "));
        lines.push(format!("(e) restart {unit}, one server after another, each ready before the next: {order}"));
    }
    let agents = |seen: &Seen| seen.role == Role::Agent && restarts(step, seen);
    if let Some(hosts) = names(&agents) {
        lines.push(format!("(f) restart {}: {hosts}", unit(&agents)));
    }
    lines
}

fn is_server(seen: &Seen) -> bool {
    matches!(seen.role, Role::Server(_))
}

/// True if a run that begins with this step writes the file of this host.
fn writes(step: &Step, seen: &Seen) -> bool {
    match step {
        Step::Confirm { .. } => seen.role != Role::Unreachable,
        Step::Write(token) => seen.role != Role::Unreachable && seen.file != Some(*token),
        _ => seen.role != Role::Unreachable && seen.differs,
    }
}

/// True if a run that begins with this step restarts the unit of this host.
pub(super) fn restarts(step: &Step, seen: &Seen) -> bool {
    let token = match step {
        Step::Rotate { .. } | Step::Confirm { .. } => None,
        Step::Write(token) | Step::Restart(_, token) | Step::Await(_, token) => Some(*token),
        Step::RestartAgent(_) => return seen.role == Role::Agent && seen.is_stale && !seen.waits,
        _ => return false,
    };
    match seen.role {
        Role::Server(server) => !seen.waits && token.is_none_or(|token| server.runs != Runs::With(token)),
        Role::Agent => !seen.waits && (writes(step, seen) || seen.is_stale),
        Role::Unreachable | Role::Stranger => false,
    }
}

/// The steps as a person takes them, where deaddrop cannot.
pub(super) fn by_hand(job: &TokenJob<'_>, members: &[Member<'_>]) -> String {
    let names = |server: bool| {
        let wanted = move |member: &&Member<'_>| match member.seen.role {
            Role::Server(_) => server,
            Role::Agent => !server,
            _ => false,
        };
        near::list(members.iter().filter(wanted).map(|member| member.host.part.name))
    };
    let (servers, agents, program) = (names(true), names(false), job.cluster.name());
    let first = members.iter().find(|member| matches!(member.seen.role, Role::Server(_)));
    let (first, unit) = first.map_or(("", ""), |member| (member.host.part.name, member.unit_name()));
    let path = shown::text(job.spec.path.as_str());
    let agents = match agents.as_str() {
        "" => String::new(),
        _ => format!("; (f) restart the agents {agents}"),
    };
    format!(
        "install curl on the servers; or by hand: (a) see that {servers} are ready; (b) keep the old token, which \
         snapshots need; (c) on {first}: `{program} token rotate`, which takes the old and the new token; (d) at once \
         the new token in {path} on all hosts; (e) restart {unit} on {servers}, one after another, each ready before \
         the next{agents}. After (c) put no old file back"
    )
}

/// Why nothing is changed, and what to do about it.
pub(super) fn why(job: &TokenJob<'_>, member: &Member<'_>, why: Why) -> (String, String) {
    let program = job.cluster.name();
    let unit = member.unit();
    let name = member.unit_name();
    let (reason, hint) = match why {
        Why::Unreachable => ("it cannot be reached, and may be a server".to_owned(), ""),
        Why::NoUnit => (
            format!("no unit there runs a server or an agent of {program}"),
            "take it out of the secret's `hosts`, if it is no node of this cluster",
        ),
        Why::Unfit => (member.unfit.join("\n"), "nothing is asked of the cluster before this is in order"),
        Why::Down => {
            let state = unit.map_or("unknown", |unit| unit.active.as_str());
            let output = shown::text(state);
            (
                format!("{name} is {output}, and the token is rotated only while every server runs"),
                "start it; or take it out of the cluster and out of the secret's `hosts`",
            )
        }
        Why::NotReady => (
            format!("its server does not answer at {}, or is not ready", unit.map_or("", |unit| unit.url.as_str())),
            "look at its journal; run it again when the server is ready",
        ),
        Why::TooOld => (
            format!("its {program} cannot rotate its token: it is older than 1.25.15, 1.26.10, 1.27.7 and 1.28.2"),
            "a newer version can",
        ),
        Why::NoCurl => ("there is no curl, with which its server is asked".to_owned(), ""),
        Why::UnknownToken => (
            "its server runs with a token that is neither the manifest's nor in a file of the cluster".to_owned(),
            "put the token with which the cluster runs into the manifest first",
        ),
        Why::SeveralTokens => (
            "the servers run with several tokens, and nothing says which is the last".to_owned(),
            "restart those with the older one, with the newer one in their file; then run it again",
        ),
        Why::BadToken => match job.is_for_agents() {
            true => (
                "the new token has the form `id.secret`, which no version takes as the token of servers".to_owned(),
                "choose another: `deaddrop generate token` makes one",
            ),
            false => (
                "the new token is empty or no word, and servers start with no such token".to_owned(),
                "is this the right item and field?",
            ),
        },
    };
    (reason, hint.to_owned())
}

/// The trap of a start with the old token after the rotation, if the journal tells of it.
pub(super) fn way_out(cluster: Cluster, data: &str, journal: &[String]) -> Option<String> {
    let tells = journal.iter().any(|line| line.contains("newer than datastore"));
    tells.then(|| {
        format!(
            "it has started with the old token after the rotation: remove {data}/server/cred/passwd and \
             {data}/server/token there, which {} makes again from its data, and run this again",
            cluster.name()
        )
    })
}
