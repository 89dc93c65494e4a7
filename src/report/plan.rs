//! A plan in people's words: a line a file, warnings under the line they are about, a sum at the end.

use std::fmt::Write;

use super::style::{self, paint};
use crate::desired::Content;
use crate::image::walk;
use crate::plan::{Action, Change, Plan, Warning};

/// The whole plan, as `deaddrop plan` shows it, without the closing sum.
#[must_use]
pub fn table(plan: &Plan) -> String {
    let rows: Vec<[String; 3]> = plan.changes.iter().map(row).collect();
    let directories = plan.directories.iter().map(|directory| {
        let what = format!("directory {:04o} root:root", directory.mode);
        [format!("{}/", walk::shown(&directory.path)), what, String::new()]
    });
    let mut lines: Vec<(char, &str, [String; 3])> = directories.map(|row| ('+', "", row)).collect();
    lines.extend(plan.changes.iter().zip(rows).map(|(change, row)| (sign(change.action), change.secret.as_str(), row)));
    let width = |column: usize| lines.iter().map(|(_, _, row)| row[column].chars().count()).max().unwrap_or(0);
    let (paths, whats) = (width(0), width(1));

    let mut text = String::new();
    for (sign, secret, [path, what, note]) in &lines {
        let line = format!("  {sign} {path:<paths$}   {what:<whats$}   {note}");
        let _ = writeln!(text, "{}", paint(sign_style(*sign), line.trim_end()));
        if !secret.is_empty() {
            for warning in plan.warnings.iter().filter(|warning| warning.secret == *secret) {
                let _ = writeln!(text, "{}", warning_lines(warning));
            }
        }
    }
    text.trim_end_matches('\n').to_owned()
}

/// One line a changed file, as `deaddrop inject` shows it.
#[must_use]
pub fn changed_lines(plan: &Plan) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        if change.action != Action::Unchanged {
            let line = format!("  {} {}", sign(change.action), change.path);
            let _ = writeln!(text, "{}", paint(sign_style(sign(change.action)), &line));
        }
        for warning in plan.warnings.iter().filter(|warning| warning.secret == change.secret) {
            let _ = writeln!(text, "{}", warning_lines(warning));
        }
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
    ];
    let changes: usize = counts.iter().map(|(count, _)| count).sum();
    let parts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let unchanged = plan.count(Action::Unchanged);
    format!("{changes} change{}: {}; {unchanged} unchanged", if changes == 1 { "" } else { "s" }, parts.join(", "))
}

/// A count of secrets: "1 secret", "5 secrets".
#[must_use]
pub fn secrets(count: usize) -> String {
    format!("{count} secret{}", if count == 1 { "" } else { "s" })
}

/// One warning: its code and what it is about, and below it what to do.
#[must_use]
pub fn warning_lines(warning: &Warning) -> String {
    let head = format!("! {}", warning.code);
    format!("  {}  {}\n           {}", paint(style::WARNING, &head), warning.message, paint(style::HINT, &warning.hint))
}

fn sign(action: Action) -> char {
    match action {
        Action::Create => '+',
        Action::Replace | Action::Metadata => '~',
        Action::Unchanged => ' ',
    }
}

fn sign_style(sign: char) -> anstyle::Style {
    match sign {
        '+' => style::CREATE,
        '~' => style::CHANGE,
        _ => style::QUIET,
    }
}

/// Path, what happens, which secret.
fn row(change: &Change) -> [String; 3] {
    let what = match (change.action, &change.standing) {
        (Action::Create, _) | (_, None) => format!("{:04o} {}", change.mode, change.owner),
        (Action::Unchanged, Some(_)) => "unchanged".into(),
        (action, Some(standing)) => {
            let mut parts = Vec::new();
            if action == Action::Replace {
                parts.push("content differs".into());
            }
            if standing.mode != change.mode {
                parts.push(format!("mode {:04o} → {:04o}", standing.mode, change.mode));
            }
            if (standing.uid, standing.gid) != (change.uid, change.gid) {
                parts.push(format!("owner {}:{} → {}", standing.uid, standing.gid, change.owner));
            }
            parts.join(", ")
        }
    };
    let note = match (change.action, &change.content) {
        (Action::Unchanged, _) => change.secret.clone(),
        (_, Content::Hash { scheme, .. }) => format!("{}, from {}, {}", change.secret, change.from, scheme.name()),
        (_, Content::Exact(_)) => format!("{}, from {}", change.secret, change.from),
    };
    [change.path.clone(), what, note]
}
