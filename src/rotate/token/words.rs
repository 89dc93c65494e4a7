//! The words for the rotation of a cluster's token: its steps, and why it is refused.

use deaddrop_core::near;
use deaddrop_core::shown;

use super::TokenJob;
use super::decide::{Role, Runs, Seen, Step, Token, Why};
use super::member::Member;
use crate::derive::cluster_token::Cluster;

/// The steps of a run with their hosts, in their order: what it does, or with `by_hand` what a person does instead.
pub(super) fn steps(job: &TokenJob<'_>, members: &[Member<'_>], step: &Step) -> Vec<String> {
    let names = |wanted: &dyn Fn(&Seen) -> bool| -> String {
        let names = members.iter().filter(|member| wanted(&member.seen)).map(|member| member.host.part.name);
        let list = near::list(names);
        if list.is_empty() { "no host".to_owned() } else { list }
    };
    let name = |host: &usize| members.get(*host).map_or("", |member| member.host.part.name);
    let is_server = |seen: &Seen| matches!(seen.role, Role::Server(_));
    let is_reached = |seen: &Seen| seen.role != Role::Unreachable;
    let url = format!("PUT /v1-{}/token", job.cluster.name());
    let mut lines = Vec::new();
    let asked = match step {
        Step::Rotate { server, .. } => {
            lines.push(format!("(a) {} run with one token, and are ready", names(&is_server)));
            if let Some(kept) = &job.spec.keep_old {
                lines.push(format!("(b) keep the old token in {}: {}", shown::text(kept.as_str()), names(&is_server)));
            }
            Some(format!("(c) ask for the new token ({url}): {}", name(server)))
        }
        Step::Confirm { server, .. } => {
            Some(format!("(c) ask again for the token of an unfinished rotation ({url}): {}", name(server)))
        }
        _ => None,
    };
    let is_asked = asked.is_some();
    lines.extend(asked);
    let writes = |seen: &Seen| is_reached(seen) && (seen.differs || is_asked && matches!(step, Step::Confirm { .. }));
    let path = shown::text(job.spec.path.as_str());
    if members.iter().any(|member| writes(&member.seen)) {
        lines.push(format!("(d) write {path}, on all at once: {}", names(&writes)));
    }
    let has = match step {
        Step::Write(token) | Step::Restart(_, token) | Step::Await(_, token) => Some(*token),
        _ => None,
    };
    let is_known = |server: super::decide::Server| has.is_some_and(|token: Token| server.runs == Runs::With(token));
    let restarts = |seen: &Seen| match seen.role {
        Role::Server(server) => !seen.waits && !is_known(server),
        _ => false,
    };
    let is_first = |seen: &Seen| match seen.role {
        Role::Server(server) => !matches!(server.runs, Runs::With(_)),
        _ => false,
    };
    if members.iter().any(|member| restarts(&member.seen)) {
        let unit = members.iter().find(|member| restarts(&member.seen)).map_or("", |member| member.unit_name());
        let (first, rest) =
            (names(&|seen| restarts(seen) && is_first(seen)), names(&|seen| restarts(seen) && !is_first(seen)));
        let order = match (first.as_str(), rest.as_str()) {
            ("no host", _) => rest,
            (_, "no host") => first,
            _ => format!("{first}, then {rest}"),
        };
        lines.push(format!("(e) restart {unit}, one server after another, each ready before the next: {order}"));
    }
    let agents = |seen: &Seen| seen.role == Role::Agent && !seen.waits && (writes(seen) || seen.is_stale);
    if members.iter().any(|member| agents(&member.seen)) {
        let unit = members.iter().find(|member| agents(&member.seen)).map_or("", |member| member.unit_name());
        lines.push(format!("(f) restart {unit}: {}", names(&agents)));
    }
    lines
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
         snapshots need; (c) on {first}: `{program} token rotate`, which takes the old and the new token; (d) at once the \
         new token in {path} on all hosts; (e) restart {unit} on {servers}, one after another, each ready before the \
         next{agents}. After (c) put no old file back"
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
