//! Runs over hosts (`rotate`, and `plan` and `verify` with `--all`): a line a host, a sum at the end, and JSON.

use std::fmt::Write;
use std::time::Duration;

use deaddrop_core::warning::Warning;
use deaddrop_core::{near, text};
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use super::{json, plan as report, wrap};
use crate::rotate::{HostEnd, Status};
use crate::run::message::Message;
use crate::run::plan::{Action, Plan};
use crate::run::style::{self, paint};

/// What a run over hosts is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// To change them.
    Rotate,
    /// `rotate --dry-run`.
    DryRun,
    /// `plan`.
    Plan,
    /// `verify`.
    Verify,
}

impl RunKind {
    /// The command, as `--json` names it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::Rotate | Self::DryRun => "rotate",
            Self::Plan => "plan",
            Self::Verify => "verify",
        }
    }

    /// True when nothing is written.
    #[must_use]
    pub fn is_dry(self) -> bool {
        self != Self::Rotate
    }
}

/// How one host ended: what is kept of a [`HostEnd`] when its plan, which holds values, is gone.
pub struct Row {
    /// Its name, fit for a terminal.
    pub host: String,
    /// How it ended; of a run that writes nothing, [`Status::Done`] means that it differs.
    pub status: Status,
    /// Why it failed or was skipped.
    pub error: Option<Message>,
    /// Its files were changed, and its end is failed or unknown.
    pub changed_anything: bool,
    /// Secret, path, action.
    pub changes: Vec<(String, String, Action)>,
    /// Of its files.
    pub warnings: Vec<Warning>,
    /// What it says in one line when it did not fail.
    what: String,
    /// What `-v` tells: a line a file.
    pub files: String,
    /// From its beginning to its end.
    pub seconds: f64,
    /// Units that were restarted.
    pub restarted: Vec<String>,
}

impl Row {
    /// Takes over how `host` ended.
    #[must_use]
    pub fn new(host: &str, end: HostEnd, kind: RunKind, verbose: u8) -> Self {
        let what = what(&end, kind);
        let (mut changes, mut warnings, mut files) = (Vec::new(), Vec::new(), String::new());
        if let Some(plan) = end.plan {
            files = match verbose {
                0 => String::new(),
                1 if kind == RunKind::Verify => report::differences(&plan),
                1 => report::changed_lines(&plan),
                _ => report::table(&plan),
            };
            let change = |change: crate::run::plan::Change| (change.secret, change.path, change.action);
            changes = plan.changes.into_iter().map(change).collect();
            warnings = plan.warnings;
        }
        Self {
            host: text::shown_text(host).unwrap_or_default(),
            status: end.status,
            error: end.error,
            changed_anything: end.changed_anything,
            changes,
            warnings,
            what,
            files,
            seconds: end.seconds,
            restarted: end.restarted,
        }
    }

    /// Why it failed, without its name, which stands beside it.
    fn reason(&self, error: &Message) -> String {
        let reason = error.reason();
        reason.strip_prefix(&format!("{}: ", self.host)).map_or(reason.clone(), str::to_owned)
    }

    /// The host's line for people, and the lines below it; `names` is the width of the column of names, and `width` that of the
    /// terminal, if there is one: a log is searched for whole lines.
    #[must_use]
    pub fn line(&self, names: usize, kind: RunKind, width: Option<usize>) -> String {
        let pad = names.saturating_sub(self.host.width());
        let indent = names.saturating_add(7);
        let (sign, style) = match self.status {
            Status::Done if kind.is_dry() => ("~", style::CHANGE),
            Status::Done | Status::Unchanged => ("✓", style::CREATE),
            Status::Skipped => ("-", style::QUIET),
            _ => ("✗", style::ERROR),
        };
        let reason = self.error.as_ref().map_or_else(|| self.what.clone(), |error| self.reason(error));
        let mut lines: Vec<String> = Vec::new();
        for part in reason.lines() {
            match width {
                Some(width) => lines.extend(wrap::wrap(part, width.saturating_sub(indent))),
                None => lines.push(part.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let mut text =
            format!("  {}{:pad$}   {} {}", self.host, "", paint(style, sign), lines.next().unwrap_or_default());
        if self.status != Status::Skipped {
            let time = text::duration(Duration::try_from_secs_f64(self.seconds).unwrap_or_default());
            let plain = anstream::adapter::strip_str(&text).to_string();
            let gap = TIMES.saturating_sub(plain.width().saturating_add(time.width())).max(2);
            let _ = write!(text, "{:gap$}{}", "", paint(style::QUIET, &time));
        }
        for line in lines {
            let _ = write!(text, "\n{:indent$}{line}", "");
        }
        for line in self.files.lines() {
            let _ = write!(text, "\n{:names$}     {line}", "");
        }
        text
    }
}

/// The column in which times end, if what stands before them is short enough.
const TIMES: usize = 80;

/// The widest column of names; a longer name pushes its own line.
pub const WIDEST_NAME: usize = 32;

fn what(end: &HostEnd, kind: RunKind) -> String {
    let plan = end.plan.as_ref();
    let all = plan.map_or(0, |plan| plan.changes.len());
    match (end.status, kind) {
        (Status::Unchanged, RunKind::Verify) => format!("{} as declared", report::secrets(all)),
        (Status::Unchanged, _) => "nothing to do".to_owned(),
        (Status::Done, RunKind::Verify) => {
            let differing = plan.map_or(0, differing);
            let are = if differing == 1 { "is" } else { "are" };
            format!("{differing} of {} {are} not as declared", report::secrets(all))
        }
        (Status::Done, RunKind::DryRun | RunKind::Plan) => plan.map_or_else(String::new, report::sum),
        (Status::Done, RunKind::Rotate) => {
            let mut text = format!("{} changed", plan.map_or(0, differing));
            if !end.restarted.is_empty() {
                let _ = write!(text, ", {} restarted", near::list(end.restarted.iter().map(String::as_str)));
            }
            if let Some(time) = end.healthy_for {
                let _ = write!(text, ", healthy for {} s", time.as_secs());
            }
            text
        }
        // Their error says it.
        _ => String::new(),
    }
}

fn differing(plan: &Plan) -> usize {
    plan.changes.iter().filter(|change| change.action != Action::Unchanged).count()
}

/// How many hosts ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// All of them.
    pub hosts: usize,
    /// Changed; of a run that writes nothing: that differ.
    pub done: usize,
    /// Nothing to do.
    pub unchanged: usize,
    /// Failed.
    pub failed: usize,
    /// Failed, and have their old files again.
    pub rolled_back: usize,
    /// Not reached.
    pub unreachable: usize,
    /// Not begun.
    pub skipped: usize,
    /// Whose files were changed, and whose end is failed or unknown.
    pub changed_and_failed: usize,
}

impl Sum {
    /// Of all rows.
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        let count = |status| rows.iter().filter(|row| row.status == status).count();
        Self {
            hosts: rows.len(),
            done: count(Status::Done),
            unchanged: count(Status::Unchanged),
            failed: count(Status::Failed),
            rolled_back: count(Status::RolledBack),
            unreachable: count(Status::Unreachable),
            skipped: count(Status::Skipped),
            changed_and_failed: rows.iter().filter(|row| row.changed_anything && row.status != Status::Done).count(),
        }
    }

    /// True when every host is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.done.saturating_add(self.unchanged) == self.hosts
    }

    /// The closing line: "2 of 3 hosts done, 1 failed and was rolled back".
    #[must_use]
    pub fn line(&self, kind: RunKind, elapsed: Duration) -> String {
        let good = self.done.saturating_add(self.unchanged);
        let plural = if self.hosts == 1 { "" } else { "s" };
        let mut parts = match kind {
            RunKind::Rotate if good == self.hosts && self.done > 0 && self.unchanged > 0 => {
                vec![format!(
                    "{good} of {} host{plural} done: {} changed, {} unchanged",
                    self.hosts, self.done, self.unchanged
                )]
            }
            RunKind::Rotate => vec![format!("{good} of {} host{plural} done", self.hosts)],
            RunKind::DryRun | RunKind::Plan => {
                vec![format!("{} of {} host{plural} to change", self.done, self.hosts)]
            }
            RunKind::Verify => vec![format!("{} of {} host{plural} as declared", self.unchanged, self.hosts)],
        };
        if kind == RunKind::Verify && self.done > 0 {
            parts.push(format!("{} not", self.done));
        }
        let was = |count: usize| if count == 1 { "was" } else { "were" };
        for (count, words) in [
            (self.failed, "failed".to_owned()),
            (self.rolled_back, format!("failed and {} rolled back", was(self.rolled_back))),
            (self.unreachable, "unreachable".to_owned()),
            (self.skipped, "not begun".to_owned()),
        ] {
            if count > 0 {
                parts.push(format!("{count} {words}"));
            }
        }
        let nothing = if kind == RunKind::DryRun || kind == RunKind::Plan { ". Nothing was written." } else { "" };
        format!("{} ({}){nothing}", parts.join(", "), text::duration(elapsed))
    }

    fn json(&self, kind: RunKind) -> Value {
        let done = status_name(Status::Done, kind);
        json!({
            done: self.done,
            Status::Unchanged.name(): self.unchanged,
            Status::Failed.name(): self.failed,
            Status::RolledBack.name(): self.rolled_back,
            Status::Unreachable.name(): self.unreachable,
            Status::Skipped.name(): self.skipped,
        })
    }
}

/// A status in `--json`. `plan` and `verify` say of a host that would be changed that it differs; `rotate` has no other words
/// when it only looks: `dry_run` tells.
fn status_name(status: Status, kind: RunKind) -> &'static str {
    match (status, kind) {
        (Status::Done, RunKind::Plan | RunKind::Verify) => "differs",
        (status, _) => status.name(),
    }
}

/// The object of `--json`.
#[must_use]
pub fn object(rows: &[Row], kind: RunKind) -> Value {
    let hosts: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut host = json!({ "host": row.host, "status": status_name(row.status, kind) });
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
            host["warnings"] = json::warnings(&row.warnings);
            host["restarted"] = json!(row.restarted);
            // Thousandths: a clock that is read by people and graphs.
            host["seconds"] = json!((row.seconds * 1000.0).round() / 1000.0);
            host
        })
        .collect();
    let mut object = json!({ "version": 1, "command": kind.command() });
    if kind == RunKind::DryRun {
        object["dry_run"] = json!(true);
    }
    object["hosts"] = json!(hosts);
    object["summary"] = Sum::of(rows).json(kind);
    object
}

/// Each warning once, and the hosts that it is about.
#[must_use]
pub fn warnings(rows: &[Row]) -> Vec<String> {
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

/// What to do about the hosts that failed, each advice once, and how to run again for those that are not done alone.
#[must_use]
pub fn hints(rows: &[Row], kind: RunKind) -> Vec<String> {
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
    if kind == RunKind::Rotate && left.len() < rows.len() && (1..=MOST_AGAIN).contains(&left.len()) {
        hints.push(format!("again for what is left: deaddrop rotate {}", left.join(" ")));
    }
    hints.into_iter().map(|hint| format!("{} {hint}", paint(style::HINT, "hint:"))).collect()
}

/// The most hosts that a command to run again names.
const MOST_AGAIN: usize = 16;

fn is_good(row: &Row) -> bool {
    matches!(row.status, Status::Done | Status::Unchanged)
}

/// As a shell takes it for one word.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.chars().all(plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(host: &str, status: Status, error: Option<Message>) -> Row {
        Row::new(host, HostEnd { error, seconds: 3.07, ..HostEnd::new(status) }, RunKind::Rotate, 0)
    }

    fn rows() -> Vec<Row> {
        let gone = || Message::new("ssh: no route to host").hint("is it on?");
        vec![
            row("node1", Status::Unchanged, None),
            row("node2", Status::Unreachable, Some(gone())),
            row("node 3", Status::RolledBack, Some(Message::new("node 3: k3s.service failed"))),
            row("node4", Status::Unreachable, Some(gone())),
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
        let text = plain(&row("n", Status::Failed, Some(Message::new(long))).line(6, RunKind::Rotate, Some(100)));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("  n        ✗ word") && lines[0].ends_with("  3.0 s"), "{text}");
        assert!(lines.len() > 1 && lines[1].starts_with("             word"), "{text}");
        let told = plain(&row("n", Status::Failed, Some(Message::new("it failed").cause("a  log"))).line(
            1,
            RunKind::Rotate,
            None,
        ));
        assert_eq!(told.lines().nth(1), Some("        a  log"));
    }

    #[test]
    fn a_reason_does_not_say_the_name_again() {
        assert!(plain(&rows()[2].line(6, RunKind::Rotate, Some(100))).starts_with("  node 3   ✗ k3s.service failed  "));
    }

    #[test]
    fn the_sum_counts_each_way_to_end() {
        let sum = Sum::of(&rows());
        assert!(!sum.is_good());
        let line = sum.line(RunKind::Rotate, Duration::from_millis(4100));
        assert_eq!(line, "1 of 4 hosts done, 1 failed and was rolled back, 2 unreachable (4.1 s)");
        let good = Sum { hosts: 3, done: 2, unchanged: 1, ..Sum::default() };
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
        let object = object(&rows(), RunKind::Rotate);
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
        let rows = [row("a", Status::Done, None)];
        for (kind, status) in [(RunKind::DryRun, "done"), (RunKind::Plan, "differs"), (RunKind::Verify, "differs")] {
            let object = object(&rows, kind);
            assert_eq!(object["hosts"][0]["status"], status);
            assert_eq!(object["summary"][status], 1);
            assert_eq!(object["dry_run"] == true, kind == RunKind::DryRun);
        }
    }
}
