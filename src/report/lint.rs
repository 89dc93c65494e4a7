//! The result of `lint` for people, and its object.

use deaddrop_core::tree::walk::shown;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use super::wrap;
use crate::nixos::closure::Closure;
use crate::run::lint::{Found, Giver, Linted, Wanted};
use crate::run::style::{self, paint};

/// The object of `--json`.
#[must_use]
pub fn object(target: &str, linted: &Linted) -> Value {
    let warning = |found: &Found| {
        json!({
            "code": found.code,
            "level": if found.refuse { "refuse" } else { "warn" },
            "secret": found.secret,
            "path": found.path,
            "message": format!("{}: {}", found.message, found.hint),
        })
    };
    let refused = linted.refused();
    json!({
        "version": 1,
        "command": "lint",
        "target": target,
        "changes": [],
        "warnings": linted.findings.iter().map(warning).collect::<Vec<_>>(),
        "summary": { "refuse": refused, "warn": linted.findings.len().saturating_sub(refused) },
    })
}

/// The whole result: the system, what it reads, the findings, and a line that sums up. `columns` is the width of the
/// terminal, if it is for one.
#[must_use]
pub fn text(name: &str, title: &str, system: Option<&Closure>, linted: &Linted, columns: Option<usize>) -> String {
    let mut text = String::new();
    if let Some(system) = system {
        text = format!("{title}; {}\n\n", system_name(system));
    }
    text.push_str(&table(&linted.wanted, columns));
    for line in &linted.keys {
        text.push_str(&format!("  {line}\n"));
    }
    if !linted.wanted.is_empty() || !linted.keys.is_empty() {
        text.push('\n');
    }
    for found in &linted.findings {
        text.push_str(&lines(found));
    }
    if !linted.findings.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!("{name}: {}", verdict(name, system, linted)));
    text
}

/// "nixos-system-node1-25.11, generation 1".
fn system_name(system: &Closure) -> String {
    let generation = system.generation.map_or(String::new(), |number| format!(", generation {number}"));
    format!("{}{generation}", shown(&system.name))
}

fn verdict(name: &str, system: Option<&Closure>, linted: &Linted) -> String {
    let refused = linted.refused();
    let warned = linted.findings.len().saturating_sub(refused);
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (system, refused, warned) {
        (None, 0, 0) => "no NixOS in it, so nothing of it was checked".to_owned(),
        (Some(_), 0, 0) if linted.has_manifest => "nothing to object to".to_owned(),
        (Some(_), 0, 0) if linted.wanted.is_empty() && linted.keys.is_empty() => {
            "it reads no file that its store does not hold".to_owned()
        }
        (Some(_), 0, 0) => {
            let is_given = |wanted: &&Wanted| matches!(wanted.giver, Giver::Target | Giver::Made);
            let given = linted.wanted.iter().filter(is_given).count();
            let read = match linted.wanted.len() {
                0 => String::new(),
                count => format!("{}, {given} of them given; ", counted(count, "path")),
            };
            format!("{read}a first manifest for it: deaddrop init --image {name}")
        }
        (_, _, _) => format!("{}, {}", counted(refused, "refusal"), counted(warned, "warning")),
    }
}

/// A line for each path that the system reads.
fn table(wanted: &[Wanted], columns: Option<usize>) -> String {
    let width = |texts: &mut dyn Iterator<Item = String>| texts.map(|text| text.width()).max().unwrap_or(0);
    let by = |wanted: &Wanted| match wanted.by.as_slice() {
        [one] => shown(one),
        [one, others @ ..] => format!("{} and {} more", shown(one), others.len()),
        [] => String::new(),
    };
    let by_width = width(&mut wanted.iter().map(by));
    let giver_width = width(&mut wanted.iter().map(|wanted| giver(&wanted.giver)));
    let path_width = width(&mut wanted.iter().map(|wanted| shown(&wanted.path)));
    // A sign before the path, three spaces before each further column.
    let others = by_width.saturating_add(giver_width).saturating_add(4 + 3 + 3);
    let path_width = columns.map_or(path_width, |columns| path_width.min(columns.saturating_sub(others).max(20)));
    let mut lines = String::new();
    for wanted in wanted {
        let path = wrap::cut_path(&shown(&wanted.path), path_width);
        let pad = |text: &str, width: usize| " ".repeat(width.saturating_sub(text.width()));
        let (path_pad, by) = (pad(&path, path_width), by(wanted));
        let by_pad = pad(&by, by_width);
        let line = format!("{path}{path_pad}   {by}{by_pad}   {}", giver(&wanted.giver));
        let line = match wanted.giver {
            Giver::Nothing => format!("{} {line}", paint(style::WARNING, "!")),
            Giver::Secret(_) => format!("{} {line}", paint(style::CREATE, "+")),
            Giver::NotNeeded => paint(style::QUIET, &format!("  {line}")),
            Giver::Target | Giver::Made | Giver::Unknown => format!("  {line}"),
        };
        lines.push_str(&format!("  {line}\n"));
    }
    lines
}

fn giver(giver: &Giver) -> String {
    match giver {
        Giver::Secret(name) => format!("secret {name}"),
        Giver::Target => "stands there".to_owned(),
        Giver::Made => "decrypted at boot".to_owned(),
        Giver::NotNeeded => "nothing, and may be missing".to_owned(),
        Giver::Nothing => "nothing".to_owned(),
        Giver::Unknown => "on another file system".to_owned(),
    }
}

/// A finding: level and code, the secret and the effect, and below it what to do.
fn lines(found: &Found) -> String {
    const INDENT: usize = 11;
    let code = found.code.unwrap_or("path");
    let (sign, style) = if found.refuse { ('✗', style::ERROR) } else { ('!', style::WARNING) };
    let paragraph = |text: &str, paint: &dyn Fn(&str) -> String| {
        let lines = wrap::wrap(text, wrap::width().saturating_sub(INDENT));
        let lines: Vec<String> = lines.iter().map(|line| paint(line)).collect();
        lines.join(&format!("\n{:INDENT$}", ""))
    };
    let secret = found.secret.as_ref().map_or(String::new(), |secret| format!("{secret}: "));
    let message = paragraph(&format!("{secret}{}", found.message), &str::to_owned);
    let hint = paragraph(&found.hint, &|line| paint(style::HINT, line));
    format!("  {:<8} {message}\n{:INDENT$}{hint}\n", paint(style, &format!("{sign} {code}")), "")
}
