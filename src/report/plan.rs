//! A plan for people: one line per file, warnings below their file's line, a sum at the end.

use std::fmt::Write;

use deaddrop_core::tree::walk;
use deaddrop_core::warning::Warning;
use unicode_width::UnicodeWidthStr;

use super::wrap;
use crate::run::desired::{Content, Generated, KeyState};
use crate::run::plan::{Action, Change, NewDirectory, Plan};
use crate::run::style::{self, paint};

/// The whole plan, as for `deaddrop plan`, without the closing sum. `columns` is the width of the terminal, if it is
/// for one.
#[must_use]
pub fn table(plan: &Plan, columns: Option<usize>) -> String {
    let mut lines: Vec<Line<'_>> = plan.directories.iter().map(Line::directory).collect();
    lines.extend(plan.changes.iter().map(|change| Line::new(change, [what(change), note(change)])));
    render(&lines, plan, columns)
}

/// The differences, as for `deaddrop verify`.
#[must_use]
pub fn differences(plan: &Plan, columns: Option<usize>) -> String {
    fn line(change: &Change) -> Line<'_> {
        let what = match change.action {
            Action::Create => "missing".to_owned(),
            Action::Remove => "still there".to_owned(),
            _ => what(change),
        };
        Line::new(change, [what, note(change)])
    }
    render(&worth_a_line(plan).map(line).collect::<Vec<_>>(), plan, columns)
}

/// One line per changed file, as for `deaddrop inject`.
#[must_use]
pub fn changed_lines(plan: &Plan, columns: Option<usize>) -> String {
    fn line(change: &Change) -> Line<'_> {
        let what = if change.action == Action::Unchanged { "unchanged" } else { "" };
        Line::new(change, [what.to_owned(), String::new()])
    }
    render(&worth_a_line(plan).map(line).collect::<Vec<_>>(), plan, columns)
}

/// Changed files, and files with a warning: it is printed below their line.
fn worth_a_line(plan: &Plan) -> impl Iterator<Item = &Change> {
    let warned = |change: &Change| {
        owns_warnings(change) && plan.warnings.iter().any(|warning| is_about(warning, &change.secret))
    };
    plan.changes.iter().filter(move |change| change.action != Action::Unchanged || warned(change))
}

/// True for a warning about this secret.
fn is_about(warning: &Warning, secret: &str) -> bool {
    warning.secret.as_deref() == Some(secret)
}

/// Warnings of a secret are printed below the line of its file, and not below that of a file beside it too.
fn owns_warnings(change: &Change) -> bool {
    !change.is_beside
}

/// One line for people: a sign, a path, and two further columns.
struct Line<'a> {
    sign: char,
    /// The secret whose warnings are printed below it.
    secret: Option<&'a str>,
    cells: [String; 3],
}

impl<'a> Line<'a> {
    fn new(change: &'a Change, [what, note]: [String; 2]) -> Self {
        let secret = owns_warnings(change).then_some(change.secret.as_str());
        Self { sign: sign(change.action), secret, cells: [change.path.clone(), what, note] }
    }

    fn directory(directory: &NewDirectory) -> Self {
        let what = format!("directory {:04o} {}", directory.mode, directory.owner.shown);
        Self { sign: '+', secret: None, cells: [format!("{}/", walk::shown(&directory.path)), what, String::new()] }
    }
}

/// Minimum width of the column of paths.
const NARROWEST_PATH: usize = 16;

/// The lines in columns, each with its warnings; then the warnings about no secret.
fn render(lines: &[Line<'_>], plan: &Plan, columns: Option<usize>) -> String {
    // A directory has no third column, which its second one would move.
    let in_columns = |column: usize| lines.iter().filter(move |line| column == 0 || !line.cells[2].is_empty());
    let width = |column: usize| in_columns(column).map(|line| line.cells[column].width()).max().unwrap_or(0);
    let rest = lines.iter().map(|line| line.cells[2].width()).max().unwrap_or(0).saturating_add(width(1));
    // In a narrow terminal the paths are cut, and nothing else: the sign and the gaps are 10 columns.
    let room =
        columns.map_or(usize::MAX, |columns| columns.saturating_sub(rest.saturating_add(10)).max(NARROWEST_PATH));
    let widths = [width(0).min(room), width(1)];
    let mut text = String::new();
    for Line { sign, secret, cells } in lines {
        let mut line = format!("  {sign} ");
        for (column, cell) in cells.iter().enumerate() {
            let cell = if column == 0 { &wrap::cut_path(cell, room) } else { cell };
            line.push_str(cell);
            // The last column is not padded.
            let rest = widths.get(column).map_or(0, |width| width.saturating_sub(cell.width()).saturating_add(3));
            line.extend(std::iter::repeat_n(' ', rest));
        }
        let _ = writeln!(text, "{}", paint(sign_style(*sign), line.trim_end()));
        for warning in plan.warnings.iter().filter(|warning| secret.is_some_and(|secret| is_about(warning, secret))) {
            let _ = writeln!(text, "{}", warning_lines(warning));
        }
    }
    for warning in plan.warnings.iter().filter(|warning| warning.secret.is_none()) {
        let _ = writeln!(text, "{}", warning_lines(warning));
    }
    text.trim_end_matches('\n').to_owned()
}

/// "4 changes: 2 to create, 1 to replace, 1 of mode or owner; 1 unchanged."
#[must_use]
pub fn sum(plan: &Plan) -> String {
    let counts = [
        (plan.count(Action::Create), "to create"),
        (plan.count(Action::Replace), "to replace"),
        (plan.count(Action::Metadata), "of mode or owner"),
        (plan.count(Action::Remove), "to remove"),
        (plan.applied_alone(), "of a password alone"),
    ];
    let changes: usize = counts.iter().map(|(count, _)| count).sum();
    let parts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let unchanged = plan.count(Action::Unchanged).saturating_sub(plan.applied_alone());
    format!("{changes} change{}: {}; {unchanged} unchanged", if changes == 1 { "" } else { "s" }, parts.join(", "))
}

/// The sum after the change: "2 secrets written, 1 removed, 3 unchanged".
#[must_use]
pub fn done(plan: &Plan) -> String {
    let actions = plan.secrets();
    let count = |wanted: Action| actions.iter().filter(|action| **action == wanted).count();
    let (removed, unchanged) = (count(Action::Remove), count(Action::Unchanged));
    // Cannot underflow: both are counted among the actions.
    let written = actions.len() - removed - unchanged;
    match (written, removed) {
        (_, 0) => format!("{} written, {unchanged} unchanged", secrets(written)),
        (0, _) => format!("{} removed, {unchanged} unchanged", secrets(removed)),
        _ => format!("{} written, {removed} removed, {unchanged} unchanged", secrets(written)),
    }
}

/// A count of secrets: "1 secret", "5 secrets".
#[must_use]
pub fn secrets(count: usize) -> String {
    format!("{count} secret{}", if count == 1 { "" } else { "s" })
}

/// One warning: its code and message, and below it the hint; in as many lines as the terminal needs.
#[must_use]
pub fn warning_lines(warning: &Warning) -> String {
    const INDENT: usize = 11;
    let head = format!("! {}", warning.code);
    let paragraph = |text: &str, paint: &dyn Fn(&str) -> String| {
        let lines = wrap::wrap(text, wrap::width().saturating_sub(INDENT));
        let lines: Vec<String> = lines.iter().map(|line| paint(line)).collect();
        lines.join(&format!("\n{:INDENT$}", ""))
    };
    let message = paragraph(&warning.message, &str::to_owned);
    let hint = paragraph(&warning.hint, &|line| paint(style::HINT, line));
    format!("  {}  {message}\n{:INDENT$}{hint}", paint(style::WARNING, &head), "")
}

fn sign(action: Action) -> char {
    match action {
        Action::Create => '+',
        Action::Replace | Action::Metadata => '~',
        Action::Remove => '-',
        Action::Unchanged => ' ',
    }
}

fn sign_style(sign: char) -> anstyle::Style {
    match sign {
        '+' => style::CREATE,
        '~' => style::CHANGE,
        '-' => style::REMOVE,
        _ => style::QUIET,
    }
}

/// The change of a file.
fn what(change: &Change) -> String {
    let (action, existing) = match (change.action, &change.existing) {
        (Action::Unchanged, None) => return "absent".into(),
        (Action::Create, _) | (_, None) => return format!("{:04o} {}", change.mode, change.owner),
        (Action::Unchanged, Some(_)) => return "unchanged".into(),
        (Action::Remove, Some(_)) => return "removed".into(),
        (action, Some(existing)) => (action, existing),
    };
    let mut parts = Vec::new();
    if action == Action::Replace {
        parts.push("content differs".into());
    }
    if existing.mode != change.mode {
        parts.push(format!("mode {:04o} → {:04o}", existing.mode, change.mode));
    }
    if (existing.uid, existing.gid) != (change.uid, change.gid) {
        parts.push(format!("owner {}:{} → {}", existing.uid, existing.gid, change.owner));
    }
    parts.join(", ")
}

/// The secret, the origin of its value, and its physical path if links lead there.
fn note(change: &Change) -> String {
    let mut note = match (change.action, &change.content) {
        (
            _,
            Content::Generated(Generated {
                key: KeyState::Missing { .. } | KeyState::Made(_) | KeyState::MadeThere(_),
                ..
            }),
        ) => {
            format!("{}, {}", change.secret, change.from)
        }
        (_, Content::Generated(_)) => format!("{}, {}, kept", change.secret, change.from),
        (_, Content::PublicPart(_)) => format!("{}, its public part", change.secret),
        (Action::Unchanged, _) | (_, Content::Absent | Content::Unread) => change.secret.clone(),
        (_, Content::Hash { scheme, .. }) => format!("{}, from {}, {}", change.secret, change.from, scheme.name()),
        (_, Content::Exact(_)) if change.is_beside => format!("{}, {}", change.secret, change.from),
        (_, Content::Exact(_)) => format!("{}, from {}", change.secret, change.from),
    };
    match &change.written_to {
        Some(written_to) => {
            let _ = write!(note, ", written to {}", walk::shown(written_to));
        }
        None if change.physical != change.path => {
            let _ = write!(note, ", at {}", walk::shown(&change.physical));
        }
        None => {}
    }
    note
}
