//! The result of one host: its line for people, and its data for JSON.

use std::fmt::Write;
use std::time::Duration;

use deaddrop_core::warning::Warning;
use deaddrop_core::{near, text};
use unicode_width::UnicodeWidthStr;

use super::RunKind;
use crate::report::{plan as report, wrap};
use crate::rotate::{HostResult, HostStatus, InForce};
use crate::run::make::PublicPart;
use crate::run::message::Message;
use crate::run::plan::{Action, Plan};
use crate::run::style::{self, paint};

/// The result of one host: what remains of a [`HostResult`] after its plan, which contains values, is dropped.
pub struct HostReport {
    /// Its name, safe for a terminal.
    pub host: String,
    /// Its image, in a run on images.
    pub target: Option<String>,
    /// Its result; in a run that writes nothing, [`HostStatus::Done`] means that it differs.
    pub status: HostStatus,
    /// The reason of a failure or of skipping it.
    pub error: Option<Message>,
    /// Its files were changed, and its result is failed or unknown.
    pub changed_anything: bool,
    /// Secret, path, action.
    pub changes: Vec<(String, String, Action)>,
    /// Warnings about its files.
    pub warnings: Vec<Warning>,
    /// Its result in one line, if it did not fail.
    what: String,
    /// The output of `-v`: one line per file.
    pub files: String,
    /// Duration of the run on this host.
    pub seconds: f64,
    /// Units that were restarted.
    pub restarted: Vec<String>,
    /// Passwords that were applied.
    pub passwords: Vec<InForce>,
    /// The public parts of its generated keys, and of host keys that were changed.
    pub public_parts: Vec<PublicPart>,
    /// It is one of a cluster's hosts, which are done in one run.
    pub is_of_cluster: bool,
}

impl HostReport {
    /// Takes over how `host` ended. `columns` is the width of the terminal that its lines are for, if there is one.
    #[must_use]
    pub fn new(host: &str, end: HostResult, kind: RunKind, verbose: u8, columns: Option<usize>) -> Self {
        let what = what(&end, kind);
        let (mut changes, mut warnings, mut files) = (Vec::new(), Vec::new(), String::new());
        if let Some(plan) = end.plan {
            let columns = columns.map(|columns| columns.saturating_sub(INDENT_OF_FILES));
            files = match verbose {
                0 => String::new(),
                1 if kind == RunKind::Verify => report::differences(&plan, columns),
                1 => report::changed_lines(&plan, columns),
                _ => report::table(&plan, columns),
            };
            let change = |change: crate::run::plan::Change| (change.secret, change.path, change.action);
            changes = plan.changes.into_iter().map(change).collect();
            warnings = plan.warnings;
        }
        Self {
            host: text::shown_text(host).unwrap_or_default(),
            target: None,
            status: end.status,
            error: end.error,
            changed_anything: end.changed_anything,
            changes,
            warnings,
            what,
            files,
            seconds: end.seconds,
            restarted: end.restarted,
            passwords: end.passwords,
            public_parts: end.public_parts,
            is_of_cluster: end.is_of_cluster,
        }
    }

    /// The reason of a failure, without the host's name, which precedes it in the line.
    pub(super) fn reason(&self, error: &Message) -> String {
        let reason = error.reason();
        reason.strip_prefix(&format!("{}: ", self.host)).map_or(reason.clone(), str::to_owned)
    }

    /// The host's line for people, and the lines below it. `names` is the width of the column of names. `width` is that
    /// of the terminal; `None` keeps lines unbroken, so that a log can be searched.
    #[must_use]
    pub fn line(&self, names: usize, kind: RunKind, width: Option<usize>) -> String {
        let pad = names.saturating_sub(self.host.width());
        let indent = names.saturating_add(7);
        let (sign, style) = match self.status {
            HostStatus::Done if kind.is_dry() => ("~", style::CHANGE),
            HostStatus::Done | HostStatus::Unchanged => ("✓", style::CREATE),
            HostStatus::Skipped => ("-", style::QUIET),
            _ => ("✗", style::ERROR),
        };
        let time = match self.status {
            HostStatus::Skipped => String::new(),
            _ => text::duration(Duration::try_from_secs_f64(self.seconds).unwrap_or_default()),
        };
        let reason = match (&self.error, &self.target) {
            (Some(error), _) => self.reason(error),
            (None, Some(target)) => format!("{target}: {}", self.what),
            (None, None) => self.what.clone(),
        };
        let mut lines: Vec<String> = Vec::new();
        for part in reason.lines() {
            match width {
                // The first line ends with the time.
                Some(width) => {
                    let taken = indent.saturating_add(time.width()).saturating_add(2);
                    lines.extend(wrap::wrap(part, width.saturating_sub(taken)));
                }
                None => lines.push(part.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let mut text =
            format!("  {}{:pad$}   {} {}", self.host, "", paint(style, sign), lines.next().unwrap_or_default());
        if !time.is_empty() {
            let plain = anstream::adapter::strip_str(&text).to_string();
            let times = width.map_or(TIMES, |width| width.min(TIMES));
            let gap = times.saturating_sub(plain.width().saturating_add(time.width())).max(2);
            let _ = write!(text, "{:gap$}{}", "", paint(style::QUIET, &time));
        }
        for line in lines {
            let _ = write!(text, "\n{:indent$}{line}", "");
        }
        for line in self.files.lines() {
            let _ = write!(text, "\n{:INDENT_OF_FILES$}{line}", "");
        }
        text
    }
}

/// Indentation of the lines of files below a host's line.
const INDENT_OF_FILES: usize = 6;

/// The column in which durations end, if the text before them is short enough.
const TIMES: usize = 80;

/// Maximum width of the column of names; a longer name moves its own line.
pub const WIDEST_NAME: usize = 32;

fn what(end: &HostResult, kind: RunKind) -> String {
    let plan = end.plan.as_ref();
    let all = plan.map_or(0, |plan| plan.changes.len());
    match (end.status, kind) {
        (HostStatus::Unchanged, RunKind::Verify) => format!("{} as declared", report::secrets(all)),
        (HostStatus::Unchanged, _) => "nothing to do".to_owned(),
        (HostStatus::Done, RunKind::Verify) => {
            let differing = plan.map_or(0, differing);
            let are = if differing == 1 { "is" } else { "are" };
            let after = if end.announced.is_empty() { String::new() } else { format!("; rotate {}", end.announced) };
            format!("{differing} of {} {are} not as declared{after}", report::secrets(all))
        }
        (HostStatus::Done, RunKind::DryRun | RunKind::Plan) => {
            let after = if end.announced.is_empty() { String::new() } else { format!("; {}", end.announced) };
            format!("{}{after}", plan.map_or_else(String::new, report::sum))
        }
        (HostStatus::Done, RunKind::Rotate) => {
            let mut text = format!("{} changed", plan.map_or(0, differing));
            if !end.restarted.is_empty() {
                let _ = write!(text, ", {} restarted", near::list(end.restarted.iter().map(String::as_str)));
            }
            for InForce { user, by, .. } in &end.passwords {
                let _ = write!(text, ", password of {user} in force (by {by})");
            }
            if let Some(time) = end.healthy_for {
                let _ = write!(text, ", healthy for {} s", time.as_secs());
            }
            text
        }
        (HostStatus::Done, RunKind::Inject) => match plan {
            Some(plan) if !plan.is_empty() => report::done(plan),
            _ => format!("{} as declared already", report::secrets(all)),
        },
        // Their error is shown instead.
        _ => String::new(),
    }
}

fn differing(plan: &Plan) -> usize {
    let files = plan.changes.iter().filter(|change| change.action != Action::Unchanged).count();
    files.saturating_add(plan.applied_alone())
}
