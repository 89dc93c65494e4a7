//! The result of `scan` for people.

use std::collections::BTreeSet;

use deaddrop_core::text;
use unicode_width::UnicodeWidthStr;

use super::wrap;
use crate::run::scan::Scanned;
use crate::run::style::{self, paint};

/// One line per finding below the title, and a line that sums up. `columns` is the width of the terminal, if it is for
/// one.
#[must_use]
pub fn text(name: &str, title: &str, scanned: &Scanned, columns: Option<usize>) -> String {
    let mut text = String::new();
    if !scanned.findings.is_empty() {
        text = format!("{title}\n\n{}\n", findings(scanned, columns));
    }
    text.push_str(&format!("{name}: {}; {}", verdict(scanned), searched(scanned)));
    if scanned.total > 0 {
        let hint = "whoever can read such a file has the value: take it out of what writes the file, and change it";
        text.push_str(&format!("\n{} {hint}", paint(style::HINT, "hint:")));
    }
    text
}

fn findings(scanned: &Scanned, columns: Option<usize>) -> String {
    let width = |texts: &mut dyn Iterator<Item = &str>| texts.map(UnicodeWidthStr::width).max().unwrap_or(0);
    let secret_width = width(&mut scanned.findings.iter().map(|finding| finding.secret.as_str()));
    let path_width = width(&mut scanned.findings.iter().map(|finding| finding.path.as_str()));
    // Two signs before the path, three spaces before each further column, and the longest form.
    let others = secret_width.saturating_add(4 + 3 + 3 + "base64".len());
    let path_width = columns.map_or(path_width, |columns| path_width.min(columns.saturating_sub(others).max(20)));
    let mut lines = String::new();
    for finding in &scanned.findings {
        let path = wrap::cut_path(&finding.path, path_width);
        let pad = |text: &str, width: usize| " ".repeat(width.saturating_sub(text.width()));
        let (path_pad, secret_pad) = (pad(&path, path_width), pad(&finding.secret, secret_width));
        let sign = paint(style::WARNING, "!");
        let form = finding.form.name();
        lines.push_str(&format!("  {sign} {path}{path_pad}   {}{secret_pad}   {form}\n", finding.secret));
    }
    lines
}

/// "2 findings in 1 file"; "no value is in a file that others can read".
fn verdict(scanned: &Scanned) -> String {
    if scanned.total == 0 {
        return "no value in a file that others can read".to_owned();
    }
    let files: BTreeSet<&str> = scanned.findings.iter().map(|finding| finding.path.as_str()).collect();
    let listed = scanned.findings.len();
    let findings = counted(scanned.total, "finding");
    let more = if listed < scanned.total { format!(", of which {listed} are listed") } else { String::new() };
    if more.is_empty() {
        format!("{findings} in {}", counted(files.len(), "file"))
    } else {
        format!("{findings}{more}")
    }
}

/// "12 values searched for in 3,000 files".
fn searched(scanned: &Scanned) -> String {
    let values = counted(scanned.values.saturating_sub(scanned.skipped), "value");
    let files = usize::try_from(scanned.files).unwrap_or(usize::MAX);
    let mut text = format!("{values} searched for in {} ({})", counted(files, "file"), text::size(scanned.bytes));
    if scanned.skipped > 0 {
        text.push_str(&format!(", {} under 8 bytes not", scanned.skipped));
    }
    if scanned.unread.count > 0 {
        text.push_str(&format!(", {} not searched", counted(scanned.unread.count, "file")));
    }
    if scanned.unchecked > 0 {
        let hashes = counted(scanned.unchecked, "comparison");
        text.push_str(&format!(", {hashes} with password hashes not made"));
    }
    text
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
