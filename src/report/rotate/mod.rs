//! The report of a run over hosts (`rotate`, `plan` and `verify` with `--all`, and commands on several images): one line
//! per host, a sum, and JSON.

mod counts;
mod host;

use deaddrop_core::near;
use deaddrop_core::warning::Warning;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use super::{json, plan as report, wrap};
use crate::rotate::{HostStatus, InForce};
use crate::run::style::{self, paint};

pub use counts::HostCounts;
pub use host::{HostReport, WIDEST_NAME};

/// The command of a run over hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// `rotate`.
    Rotate,
    /// `rotate --dry-run`.
    DryRun,
    /// `plan`.
    Plan,
    /// `verify`.
    Verify,
    /// `inject`.
    Inject,
}

impl RunKind {
    /// The command, as `--json` names it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::Rotate | Self::DryRun => "rotate",
            Self::Plan => "plan",
            Self::Verify => "verify",
            Self::Inject => "inject",
        }
    }

    /// True if the hosts' lines are what the command is asked for, and not a report of work.
    #[must_use]
    pub fn is_result(self) -> bool {
        matches!(self, Self::Plan | Self::Verify)
    }

    /// True if nothing is written.
    #[must_use]
    pub fn is_dry(self) -> bool {
        !matches!(self, Self::Rotate | Self::Inject)
    }
}

/// The name of a status in `--json`. `plan` and `verify` call a host that would be changed `differs`. `rotate
/// --dry-run` uses the same names as `rotate`, and sets `dry_run`.
fn status_name(status: HostStatus, kind: RunKind) -> &'static str {
    match (status, kind) {
        (HostStatus::Done, RunKind::Plan | RunKind::Verify) => "differs",
        (status, _) => status.name(),
    }
}

/// The object of `--json`. `found`: warnings about the manifest, its sources and values, which every host has that they
/// are about.
#[must_use]
pub fn object(rows: &[HostReport], found: &[Warning], kind: RunKind) -> Value {
    let hosts: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut host = json!({ "host": row.host, "status": status_name(row.status, kind) });
            if let Some(target) = &row.target {
                host["target"] = json!(target);
            }
            if let Some(error) = &row.error {
                host["error"] = json!(row.reason(error));
                if !error.hints().is_empty() {
                    host["hint"] = json!(error.hints().join("\n"));
                }
            }
            let changes = row.changes.iter();
            let changes = changes
                .map(|(secret, path, action)| json!({ "secret": secret, "path": path, "action": action.name() }));
            host["changes"] = changes.collect();
            let is_about_it = |warning: &&Warning| {
                let has = |secret| row.changes.iter().any(|(changed, ..)| changed == secret);
                warning.secret.as_ref().is_none_or(has)
            };
            let warnings: Vec<Warning> = row.warnings.iter().chain(found.iter().filter(is_about_it)).cloned().collect();
            host["warnings"] = json::warnings(&warnings);
            if row.target.is_none() {
                host["restarted"] = json!(row.restarted);
            }
            if !row.passwords.is_empty() {
                let in_force = |InForce { secret, user, by }: &InForce| {
                    json!({ "secret": secret, "user": user, "by": by, "in_force": true })
                };
                host["passwords"] = row.passwords.iter().map(in_force).collect();
            }
            // Milliseconds are exact enough.
            host["seconds"] = json!((row.seconds * 1000.0).round() / 1000.0);
            host
        })
        .collect();
    let mut object = json!({ "version": 1, "command": kind.command() });
    if kind == RunKind::DryRun {
        object["dry_run"] = json!(true);
    }
    object["hosts"] = json!(hosts);
    object["summary"] = HostCounts::of(rows).json(kind);
    object
}

/// The lines of the hosts that did not fail, in their order.
#[must_use]
pub fn lines(rows: &[HostReport], kind: RunKind) -> Vec<String> {
    let names = rows.iter().map(|row| row.host.width()).max().unwrap_or(0).min(WIDEST_NAME);
    let width = wrap::columns(std::io::stdout());
    rows.iter().filter(|row| row.error.is_none()).map(|row| row.line(names, kind, width)).collect()
}

/// Each warning once, with its hosts.
#[must_use]
pub fn warnings(rows: &[HostReport]) -> Vec<String> {
    let mut found: Vec<(&Warning, Vec<&str>)> = Vec::new();
    for row in rows {
        for warning in &row.warnings {
            let same = |other: &Warning| {
                (other.code, &other.secret, &other.message) == (warning.code, &warning.secret, &warning.message)
            };
            match found.iter_mut().find(|(other, _)| same(other)) {
                Some((_, hosts)) => hosts.push(&row.host),
                None => found.push((warning, vec![&row.host])),
            }
        }
    }
    let shown = |(warning, hosts): (&Warning, Vec<&str>)| {
        let on = near::list(hosts.into_iter());
        let about = warning.secret.as_ref().map_or(String::new(), |secret| format!("{secret}: "));
        report::warning_lines(&Warning { message: format!("{about}{} (on {on})", warning.message), ..warning.clone() })
    };
    found.into_iter().map(shown).collect()
}

/// The hints for the hosts that failed, each once, and the command to run again for the remaining hosts.
#[must_use]
pub fn hints(rows: &[HostReport], kind: RunKind) -> Vec<String> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        for hint in row.error.iter().flat_map(|error| error.hints()) {
            match found.iter_mut().find(|(other, _)| other == hint) {
                Some((_, hosts)) => hosts.push(&row.host),
                None => found.push((hint, vec![&row.host])),
            }
        }
    }
    let mut hints: Vec<String> =
        found.into_iter().map(|(hint, hosts)| format!("{hint} ({})", near::list(hosts.into_iter()))).collect();
    let left: Vec<String> = rows.iter().filter(|row| !is_good(row)).map(|row| quoted(&row.host)).collect();
    // The hosts of a cluster are not done without each other.
    let is_alone = !rows.iter().any(|row| !is_good(row) && row.is_of_cluster);
    if kind == RunKind::Rotate && is_alone && left.len() < rows.len() && (1..=MOST_AGAIN).contains(&left.len()) {
        hints.push(format!("again for what is left: deaddrop rotate {}", left.join(" ")));
    }
    if kind == RunKind::Inject && left.len() < rows.len() && (1..=MOST_AGAIN).contains(&left.len()) {
        hints.push(format!("again for what is left: the same command with --host {}", left.join(" --host ")));
    }
    hints.into_iter().map(|hint| format!("{} {hint}", paint(style::HINT, "hint:"))).collect()
}

/// Maximum number of hosts in the command to run again.
const MOST_AGAIN: usize = 16;

fn is_good(row: &HostReport) -> bool {
    matches!(row.status, HostStatus::Done | HostStatus::Unchanged)
}

/// Quoted as one word for a shell.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.chars().all(plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rotate::HostResult;
    use crate::run::message::Message;

    fn row(host: &str, status: HostStatus, error: Option<Message>) -> HostReport {
        HostReport::new(host, HostResult { error, seconds: 3.07, ..HostResult::new(status) }, RunKind::Rotate, 0, None)
    }

    fn rows() -> Vec<HostReport> {
        let gone = || Message::new("ssh: no route to host").hint("is it on?");
        vec![
            row("node1", HostStatus::Unchanged, None),
            row("node2", HostStatus::Unreachable, Some(gone())),
            row("node 3", HostStatus::RolledBack, Some(Message::new("node 3: k3s.service failed"))),
            row("node4", HostStatus::Unreachable, Some(gone())),
        ]
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_host_has_one_line_with_its_time_and_a_long_reason_goes_on_below() {
        assert_eq!(
            plain(&rows()[0].line(6, RunKind::Rotate, Some(100))).trim_end(),
            format!("  node1    ✓ nothing to do{:49}3.0 s", "")
        );
        let long = "word ".repeat(40);
        let text = plain(&row("n", HostStatus::Failed, Some(Message::new(long))).line(6, RunKind::Rotate, Some(100)));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("  n        ✗ word") && lines[0].ends_with("  3.0 s"), "{text}");
        assert!(lines.len() > 1 && lines[1].starts_with("             word"), "{text}");
        let text = plain(&row("n", HostStatus::Failed, Some(Message::new("it failed").cause("a  log"))).line(
            1,
            RunKind::Rotate,
            None,
        ));
        assert_eq!(text.lines().nth(1), Some("        a  log"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let long = "k3s.service failed after the restart, and a unit of its name was not there either: ".repeat(3);
        for width in [60, 80, 110] {
            for names in [6, WIDEST_NAME] {
                let row = row("node1", HostStatus::RolledBack, Some(Message::new(long.clone()).cause("its log")));
                let text = plain(&row.line(names, RunKind::Rotate, Some(width)));
                assert!(text.lines().all(|line| line.width() <= width), "{width}, {names}: {text}");
                assert!(text.lines().next().is_some_and(|line| line.ends_with("  3.0 s")), "{text}");
            }
        }
    }

    #[test]
    fn a_reason_does_not_say_the_name_again() {
        let line = plain(&rows()[2].line(6, RunKind::Rotate, Some(100)));
        assert!(line.starts_with("  node 3   ✗ k3s.service failed  "), "{line}");
    }

    #[test]
    fn the_sum_counts_each_way_to_end() {
        let sum = HostCounts::of(&rows());
        assert!(!sum.is_good());
        let line = sum.line(RunKind::Rotate, Duration::from_millis(4100));
        assert_eq!(line, "1 of 4 hosts done, 1 failed and was rolled back, 2 unreachable (4.1 s)");
        let good = HostCounts { hosts: 3, done: 2, unchanged: 1, ..HostCounts::default() };
        assert!(good.is_good());
        assert_eq!(good.line(RunKind::Rotate, Duration::ZERO), "3 of 3 hosts done: 2 changed, 1 unchanged (0 ms)");
        assert_eq!(good.line(RunKind::Verify, Duration::ZERO), "1 of 3 hosts as declared, 2 not (0 ms)");
        assert_eq!(good.line(RunKind::DryRun, Duration::ZERO), "2 of 3 hosts to change (0 ms). Nothing was written.");
    }

    #[test]
    fn an_advice_stands_once_with_its_hosts_and_the_rest_can_be_run_again() {
        let hints: Vec<String> = hints(&rows(), RunKind::Rotate).iter().map(|hint| plain(hint)).collect();
        let want =
            ["hint: is it on? (node2, node4)", "hint: again for what is left: deaddrop rotate node2 'node 3' node4"];
        assert_eq!(hints, want);
    }

    #[test]
    fn json_has_one_object_a_host() {
        let object = object(&rows(), &[], RunKind::Rotate);
        assert_eq!((&object["version"], &object["command"]), (&json!(1), &json!("rotate")));
        let failed = json!({
            "host": "node2", "status": "unreachable", "error": "ssh: no route to host", "hint": "is it on?",
            "changes": [], "warnings": [], "restarted": [], "seconds": 3.07,
        });
        assert_eq!(object["hosts"][1], failed);
        let summary = json!({
            "done": 0, "unchanged": 1, "failed": 0, "rolled-back": 1, "unreachable": 2, "skipped": 0,
        });
        assert_eq!(object["summary"], summary);
    }

    #[test]
    fn a_host_that_would_be_changed_differs_or_is_done_in_a_dry_run() {
        let rows = [row("a", HostStatus::Done, None)];
        for (kind, status) in [(RunKind::DryRun, "done"), (RunKind::Plan, "differs"), (RunKind::Verify, "differs")] {
            let object = object(&rows, &[], kind);
            assert_eq!(object["hosts"][0]["status"], status);
            assert_eq!(object["summary"][status], 1);
            assert_eq!(object["dry_run"] == true, kind == RunKind::DryRun);
        }
    }
}
