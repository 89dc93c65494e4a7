//! The results of all hosts at the end of a run.

use deaddrop_core::shown;

use super::decide::{Step, Why};
use super::{Run, TokenEnd, words};
use crate::rotate::{HostResult, HostStatus};
use crate::run::message::Message;
use crate::run::plan::Plan;

impl Run<'_, '_> {
    /// Nothing was changed, for these reasons.
    pub(super) fn refused(&mut self, why: &[(usize, Why)]) -> Vec<HostResult> {
        let job = self.job;
        let by_hand = words::by_hand(job, &self.members);
        for (host, why) in why {
            let Some(member) = self.members.get_mut(*host) else { continue };
            let (reason, hint) = words::why(job, member, *why);
            let hint = if *why == Why::NoCurl { by_hand.clone() } else { hint };
            let own = member.failure.take().filter(|_| *why == Why::Unreachable);
            let failure = own.unwrap_or_else(|| {
                let message = Message::nothing_changed(member.host.part.name).cause(reason);
                Box::new(HostResult::failed(message.hint(hint)))
            });
            member.failure = Some(failure);
        }
        self.results(Some("the token is not rotated"))
    }

    /// A server has not taken the new token, and has the old one again.
    pub(super) fn not_taken(&mut self, server: usize, code: u16) -> Vec<HostResult> {
        let job = self.job;
        if let Some(member) = self.members.get_mut(server) {
            let journal = member.journal(job);
            let answer = if code == 0 { "did not answer".to_owned() } else { format!("answered {code}") };
            let mut message = Message::nothing_changed(member.host.part.name).cause(format!(
                "its {} {answer} to the request for the new token, twice; it was asked for the old one again, which it \
                 has",
                job.cluster.name()
            ));
            if !journal.is_empty() {
                message = message.cause(format!("last lines of its log:\n{}", journal.join("\n")));
            }
            member.failure =
                Some(Box::new(HostResult::failed(message.hint(format!("journalctl -u {}", member.unit_name())))));
        }
        self.results(Some("the token is not rotated"))
    }

    /// It is not known whether the server has taken the new token.
    pub(super) fn unknown(&mut self, server: usize) -> Vec<HostResult> {
        if let Some(member) = self.members.get_mut(server) {
            let message = Message::new(format!(
                "{}: stopped in the middle: it is not known whether the cluster has taken the new token",
                member.host.part.name
            ));
            let message = message.hint("restart no server; run this again: it finds out, and does what is left");
            let failure = HostResult { changed_anything: true, ..HostResult::failed(message) };
            member.failure = Some(Box::new(failure));
        }
        self.results(Some("it is not known whether the cluster has taken the new token"))
    }

    /// A server does not get ready.
    pub(super) fn failed(&mut self, host: usize) -> Vec<HostResult> {
        let failure = self.failed_host(host);
        if let Some(member) = self.members.get_mut(host) {
            member.failure = Some(Box::new(failure));
        }
        self.results(Some("another server of the cluster is not ready"))
    }

    /// The result of a host that does not get ready, with the end of its journal.
    pub(super) fn failed_host(&mut self, host: usize) -> HostResult {
        let job = self.job;
        let Some(member) = self.members.get_mut(host) else { return HostResult::new(HostStatus::Failed) };
        let (name, unit) = (member.host.part.name, member.unit_name().to_owned());
        let journal = member.journal(job);
        let mut message = Message::new(format!("{name}: {unit} is not ready with the new token, which stays"));
        if !journal.is_empty() {
            message = message.cause(format!("last lines of its log:\n{}", journal.join("\n")));
        }
        let data = member.unit().map_or(String::new(), |unit| shown::text(&unit.data));
        if let Some(hint) = words::way_out(job.cluster, &data, &journal) {
            message = message.hint(hint);
        }
        let message = message.hint(format!(
            "journalctl -u {unit} on {name}; put no old file back: run it again, and it goes on from there"
        ));
        HostResult { changed_anything: true, ..HostResult::failed(message) }
    }

    /// SIGINT or SIGTERM.
    pub(super) fn stopped(&mut self) -> Vec<HostResult> {
        self.results(Some("the run was stopped"))
    }

    /// What a dry run says.
    pub(super) fn dry(&mut self, step: &Step) -> TokenEnd {
        let job = self.job;
        match step {
            Step::Ordinary => {
                self.members.iter_mut().for_each(|member| drop(member.close()));
                return TokenEnd::Ordinary;
            }
            Step::Refuse(why) => return TokenEnd::Ended(self.refused(why)),
            _ => {}
        }
        let lines = words::steps(job, &self.members, step);
        if !lines.is_empty() {
            let what =
                if matches!(step, Step::Rotate { .. }) { "would be rotated" } else { "would be brought to its end" };
            job.say(&format!("the token {what}, in this order:"));
            lines.iter().for_each(|line| (job.tell)(&format!("  {line}")));
        }
        let ends = |member: &mut super::Member<'_>| {
            let warnings = member.close();
            if let Some(failure) = member.failure.take() {
                return *failure;
            }
            let mut plan = member.take_plan();
            if let Some(plan) = &mut plan {
                plan.warnings.extend(warnings);
            }
            let announced = match words::restarts(step, &member.seen) {
                true => format!("would restart {}", member.unit_name()),
                false => String::new(),
            };
            let changes = member.seen.differs || !announced.is_empty();
            let status = if changes { HostStatus::Done } else { HostStatus::Unchanged };
            let seconds = member.since.elapsed().as_secs_f64();
            HostResult { plan, announced, seconds, is_of_cluster: true, ..HostResult::new(status) }
        };
        TokenEnd::Done(self.members.iter_mut().map(ends).collect())
    }

    /// The results; `ended` says why the run did not come to its end.
    pub(super) fn results(&mut self, ended: Option<&str>) -> Vec<HostResult> {
        let secret = shown::text(&self.job.spec.name);
        // A request has changed the cluster, though no file may be.
        let asked = self.server.filter(|_| self.through.is_some());
        self.members
            .iter_mut()
            .enumerate()
            .map(|(number, member)| {
                let warnings = member.close();
                let name = member.host.part.name;
                let was_written = !member.done.is_empty();
                let plan = joined(std::mem::take(&mut member.done), member.take_plan(), warnings);
                let is_touched = was_written || !member.restarted.is_empty() || asked == Some(number);
                let restarted = std::mem::take(&mut member.restarted);
                let seconds = member.since.elapsed().as_secs_f64();
                let end = match (member.failure.take(), ended) {
                    (Some(failure), _) => HostResult {
                        changed_anything: failure.changed_anything || member.changed_anything || is_touched,
                        ..*failure
                    },
                    (None, Some(why)) if is_touched => {
                        let message =
                            Message::new(format!("{name}: the rotation of `{secret}` is not at its end: {why}"));
                        let hint = "put no old file back: run it again, and it goes on from there";
                        HostResult { changed_anything: true, ..HostResult::failed(message.hint(hint)) }
                    }
                    (None, Some(why)) => {
                        let message = Message::new(format!("not begun: {why}"));
                        HostResult { error: Some(message), ..HostResult::new(HostStatus::Skipped) }
                    }
                    (None, None) if is_touched => HostResult::new(HostStatus::Done),
                    (None, None) => HostResult::new(HostStatus::Unchanged),
                };
                HostResult { plan: plan.or(end.plan), restarted, seconds, is_of_cluster: true, ..end }
            })
            .collect()
    }
}

/// One plan of those that were carried out, or the one that had nothing to do.
fn joined(done: Vec<Plan>, last: Option<Plan>, warnings: Vec<deaddrop_core::warning::Warning>) -> Option<Plan> {
    let mut all = done.into_iter();
    let mut plan = match all.next() {
        Some(plan) => plan,
        None => last.filter(Plan::is_empty)?,
    };
    for other in all {
        plan.changes.extend(other.changes);
        plan.directories.extend(other.directories);
    }
    plan.warnings.extend(warnings);
    Some(plan)
}
