//! Filters the output of a unit or a program on a node: its last lines, safe for a terminal and without values of the
//! run.
//!
//! A line is hidden, before it is truncated, if it contains
//! - a whole value of the run, new or existing;
//! - at its own start or end, at least 4 bytes of a value's end or beginning; or only such a piece;
//! - anywhere, 12 consecutive bytes of a value's secret part (a reference's value), or all of a shorter part or of a
//!   line of one.
//!
//! The same applies to a line's text in base64 and hex. A value under 4 bytes occurs in any text: then nothing is
//! shown. Every text of a node that is shown passes through here. The work is done only if there is something to show.

mod filter;

use std::collections::{HashMap, HashSet};

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, TreeChange};
use deaddrop_core::{shown, text};
use memchr::memmem;

use super::apply::{NodeChange, NodeRun};
use super::tree::NodeTree;
use filter::LineFilter;

/// Maximum number of lines that are shown: the last ones.
const SHOWN_LINES: usize = 5;
/// Maximum length of a shown line, in characters.
const SHOWN_LENGTH: usize = 300;
/// A longer line is neither searched nor shown, in bytes.
const LONGEST: usize = 16 << 10;
/// Minimum length of a value or a piece that is searched for, in bytes: a shorter one occurs in any text.
const SHORTEST: usize = 4;
/// This many consecutive bytes of a secret part are not shown, at any position.
const WINDOW: usize = 12;

/// A file of the run, whose values are hidden.
#[derive(Debug, Clone)]
pub struct RunFile {
    /// The secret's name.
    pub secret: String,
    /// The physical path.
    pub path: String,
    /// The new content and its secret parts; `None` if all of it is secret.
    pub composed: Option<Composed>,
}

/// A content that is only partly secret: a template's, or a public key.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The whole content.
    pub whole: Secret,
    /// Its secret parts.
    pub parts: Vec<Secret>,
}

/// The values of a run on one node, which are hidden.
#[derive(Debug, Default)]
pub(super) struct HiddenValues {
    values: Vec<RunValue>,
    /// The reason why no output is shown at all.
    nothing: Option<String>,
    /// Paths and units of the manifest, which a node may name.
    ours: HashSet<String>,
}

/// A value of the run.
#[derive(Debug)]
struct RunValue {
    /// Its owner, for people.
    whose: String,
    whole: Secret,
    composed: Option<Composed>,
}

impl HiddenValues {
    /// The initial state: only the password for sudo is known.
    pub(super) fn of_password(password: Option<&Secret>) -> Self {
        let held = password.map(|password| RunValue {
            whose: "`become_password`".to_owned(),
            whole: password.clone(),
            composed: None,
        });
        Self { values: held.into_iter().collect(), ..Self::default() }
    }

    /// Adds a value.
    pub(super) fn add(&mut self, whose: &str, value: &Secret) {
        if !self.values.iter().any(|held| held.whole == *value) {
            self.values.push(RunValue { whose: whose.to_owned(), whole: value.clone(), composed: None });
        }
    }

    /// Adds the new and the existing values.
    pub(super) fn add_run(&mut self, tree: &NodeTree, run: &NodeRun<'_>) {
        self.nothing = run.conceals.as_ref().map(|secret| format!("`output: hide` of `{secret}`"));
        self.ours.extend(run.units.iter().map(|unit| unit.name.clone()));
        self.ours.extend(run.changes.iter().map(|change| change.path().to_owned()));
        self.ours.extend(run.files.iter().map(|file| file.path.clone()));
        for file in &run.files {
            let whose = format!("a value of `{}`", file.secret);
            let Some(known) = tree.at(&file.path) else { continue };
            match &known.content {
                Some(content) => {
                    self.values.push(RunValue { whose, whole: content.clone(), composed: file.composed.clone() });
                }
                // The file exists and its content is unknown here, so it might be shown.
                None if known.stat.kind == FileKind::File && known.stat.size > 0 => {
                    self.nothing
                        .get_or_insert_with(|| format!("what stands at {} was not read", shown::text(&file.path)));
                }
                None => {}
            }
        }
        for password in &run.passwords {
            // A field that is no hash is no secret, and would hide everything.
            let old = password.old.as_ref().filter(|old| old.expose().contains(&b'$'));
            for whole in [Some(&password.hash), old].into_iter().flatten() {
                let whose = format!("the password of {}", shown::text(&password.user));
                self.values.push(RunValue { whose, whole: whole.clone(), composed: None });
            }
        }
        if run.changes.iter().any(|change| matches!(change, NodeChange::MakeKey { .. })) {
            self.nothing.get_or_insert_with(|| {
                "it may hold a key that was made on the node, and is known there alone".to_owned()
            });
        }
        let by_path: HashMap<&str, &RunFile> = run.files.iter().map(|file| (file.path.as_str(), file)).collect();
        for change in run.changes {
            let NodeChange::Tree(TreeChange::WriteFile { path, content, .. }) = change else { continue };
            let file = by_path.get(path.as_str());
            let whose = file.map_or_else(|| shown::text(path), |file| format!("a value of `{}`", file.secret));
            let composed = file.and_then(|file| file.composed.clone());
            self.values.push(RunValue { whose, whole: content.clone(), composed });
        }
    }

    /// The last lines of the output, safe for a terminal and without values; `elsewhere` tells the user how to read
    /// them on the node.
    pub(super) fn lines(&self, output: &[u8], elsewhere: &str) -> Vec<String> {
        let all = output.split(|byte| matches!(byte, b'\n' | b'\r'));
        let mut lines: Vec<&[u8]> = all.filter(|line| shown_line(line).is_some()).collect();
        lines.drain(..lines.len().saturating_sub(SHOWN_LINES));
        if lines.is_empty() {
            return Vec::new();
        }
        let values: Vec<Value<'_>> = self.values.iter().map(Value::of).collect();
        if let Some(why) = self.why_nothing(&values) {
            return vec![format!("(what it said is not shown, for {why}{elsewhere})")];
        }
        let mut filter = LineFilter::new(&lines);
        values.iter().for_each(|value| filter.search(value));
        lines
            .iter()
            .zip(&filter.hidden)
            .filter_map(|(line, hidden)| match hidden {
                _ if line.len() > LONGEST => Some("(a line of over 16 KiB is not shown)".to_owned()),
                true => Some("(a line that holds a value is not shown)".to_owned()),
                false => shown_line(line),
            })
            .collect()
    }

    /// A word of the node in place of one of ours: a path, a unit's name, a state.
    pub(super) fn word(&self, word: &str) -> String {
        let shown = match self.ours.contains(word) {
            true => text::shown_text(word),
            false => self.lines(word.as_bytes(), "").pop(),
        };
        shown.unwrap_or_default()
    }

    fn why_nothing(&self, values: &[Value<'_>]) -> Option<String> {
        let is_short = |bytes: &[u8]| (1..SHORTEST).contains(&trimmed(bytes).len());
        let short = self.values.iter().zip(values).find(|(held, value)| {
            // The length of a partly secret value is that of its parts.
            value.parts.iter().any(|part| is_short(part)) || held.composed.is_none() && is_short(held.whole.expose())
        });
        self.nothing.clone().or_else(|| short.map(|(held, _)| format!("{} is under 4 bytes", held.whose)))
    }
}

/// A line as it is shown, if it is not empty.
fn shown_line(line: &[u8]) -> Option<String> {
    // Enough for all characters that are shown; the rest needs no decoding.
    let start = &line[..line.len().min(SHOWN_LENGTH.saturating_mul(4))];
    let start: String = String::from_utf8_lossy(start).chars().take(SHOWN_LENGTH).collect();
    text::shown_text(&start).filter(|line| !line.trim().is_empty())
}

/// Without spaces and control characters at its ends.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let is_ink = |byte: &u8| !matches!(byte, 0..=b' ' | 0x7F);
    let Some(first) = bytes.iter().position(is_ink) else { return &[] };
    let last = bytes.iter().rposition(is_ink).unwrap_or(first);
    &bytes[first..=last]
}

/// A value with its secret parts.
struct Value<'v> {
    whole: &'v [u8],
    parts: Vec<&'v [u8]>,
    /// The template's own text.
    own: Vec<&'v [u8]>,
    /// `parts` is the whole value, and so includes the template's own text.
    is_guess: bool,
}

impl<'v> Value<'v> {
    fn of(held: &'v RunValue) -> Self {
        let whole = held.whole.expose();
        let Some(composed) = &held.composed else {
            return Self { whole, parts: vec![whole], own: Vec::new(), is_guess: false };
        };
        let own = own_text(composed);
        if whole == composed.whole.expose() {
            let parts = composed.parts.iter().map(Secret::expose).collect();
            return Self { whole, parts, own, is_guess: false };
        }
        // An older content: its parts are between the pieces of the current template.
        match between(&own, whole) {
            Some(parts) => Self { whole, parts, own, is_guess: false },
            None => Self { whole, parts: vec![whole], own, is_guess: true },
        }
    }

    fn is_own_text(&self, bytes: &[u8]) -> bool {
        self.is_guess && self.own.iter().any(|own| memmem::find(own, bytes).is_some())
    }
}

/// The text before, between and after the parts.
fn own_text(composed: &Composed) -> Vec<&[u8]> {
    let whole = composed.whole.expose();
    let mut taken: Vec<(usize, usize)> = Vec::new();
    // A shorter part hides all output anyway: its position does not matter.
    for part in composed.parts.iter().map(Secret::expose).filter(|part| part.len() >= SHORTEST) {
        taken.extend(memmem::find_iter(whole, part).map(|at| (at, at.saturating_add(part.len()))));
    }
    taken.sort_unstable();
    let (mut own, mut at) = (Vec::new(), 0);
    for (start, end) in taken {
        // Adjacent or overlapping parts have no text between them, except at the start.
        if start > at || own.is_empty() {
            own.push(&whole[at.min(start)..start]);
        }
        at = at.max(end);
    }
    own.push(&whole[at..]);
    own
}

/// The parts in `text`, between the pieces of a template. `None` if it was not rendered from the template.
fn between<'t>(own: &[&[u8]], text: &'t [u8]) -> Option<Vec<&'t [u8]>> {
    let (first, rest) = own.split_first()?;
    let (last, inner) = rest.split_last()?;
    let text = text.strip_prefix(*first)?;
    let mut text = text.strip_suffix(*last)?;
    let mut parts = Vec::with_capacity(rest.len());
    for piece in inner {
        let at = memmem::find(text, piece)?;
        parts.push(&text[..at]);
        text = &text[at.saturating_add(piece.len())..];
    }
    parts.push(text);
    Some(parts)
}

#[cfg(test)]
mod tests;
