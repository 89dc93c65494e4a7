//! What a unit or a program on a node said, made fit for a person and for a log: the last lines, less those that hold a value of the run.
//!
//! A line is left out, before it is cut, when it holds
//! - a whole value of the run, new or standing;
//! - at its own start or end, at least 4 bytes of a value's end or beginning; or nothing but such a piece;
//! - anywhere, 12 bytes in a row of a value's secret part (what a reference put in), or all of a shorter part or of a line of one.
//!
//! The same holds for a line's text in base64 and hex. A value of under 4 bytes is in any text: then nothing is shown.
//! Called with all that a node says and that is shown. Everything is worked out when there is something to show, and not before.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, TreeChange};
use deaddrop_core::{shown, text};
use memchr::memmem;

use super::apply::{NodeChange, Work};
use super::tree::NodeTree;

/// How many lines of what a program said are shown: the last ones.
const SHOWN_LINES: usize = 5;
/// How long a shown line may be, in characters.
const SHOWN_LENGTH: usize = 300;
/// A longer line is not looked through, and not shown, in bytes.
const LONGEST: usize = 16 << 10;
/// A shorter value is found in any text, and would hide all of them; a shorter piece says little.
const SHORTEST: usize = 4;
/// So many bytes in a row of a secret part are not shown, wherever they stand.
const WINDOW: usize = 12;

/// A file of the run, for what must not be shown of it.
#[derive(Debug, Clone)]
pub struct RunFile {
    /// The secret's name.
    pub secret: String,
    /// Where it is without symbolic links.
    pub path: String,
    /// What references put into its new content, and that content; none where all of it is secret.
    pub composed: Option<Composed>,
}

/// A content that is not all secret: a template's, or a public key.
#[derive(Debug, Clone)]
pub struct Composed {
    /// All of it.
    pub whole: Secret,
    /// What is secret of it.
    pub parts: Vec<Secret>,
}

/// All that must not be shown of a run on one node.
#[derive(Debug, Default)]
pub(super) struct Values {
    held: Vec<Held>,
    /// Why nothing is shown.
    nothing: Option<String>,
    /// Paths and units of the manifest: a node may say them.
    ours: HashSet<String>,
}

/// A value of the run.
#[derive(Debug)]
struct Held {
    /// What it belongs to, for people.
    whose: String,
    whole: Secret,
    composed: Option<Composed>,
}

impl Values {
    /// Before anything else is known: the password that sudo takes.
    pub(super) fn of_password(password: Option<&Secret>) -> Self {
        let held = password.map(|password| Held {
            whose: "`become_password`".to_owned(),
            whole: password.clone(),
            composed: None,
        });
        Self { held: held.into_iter().collect(), ..Self::default() }
    }

    /// What is written, and what stands on the node.
    pub(super) fn add_run(&mut self, tree: &NodeTree, work: &Work<'_>) {
        self.nothing = work.conceals.as_ref().map(|secret| format!("`output: hide` of `{secret}`"));
        self.ours.extend(work.units.iter().map(|unit| unit.name.clone()));
        self.ours.extend(work.changes.iter().map(|change| change.path().to_owned()));
        self.ours.extend(work.files.iter().map(|file| file.path.clone()));
        for file in &work.files {
            let whose = format!("a value of `{}`", file.secret);
            let Some(known) = tree.at(&file.path) else { continue };
            match &known.content {
                Some(content) => {
                    self.held.push(Held { whose, whole: content.clone(), composed: file.composed.clone() });
                }
                // It is there, it may be shown, and nobody here knows what it is.
                None if known.stat.kind == FileKind::File && known.stat.size > 0 => {
                    self.nothing
                        .get_or_insert_with(|| format!("what stands at {} was not read", shown::text(&file.path)));
                }
                None => {}
            }
        }
        if work.changes.iter().any(|change| matches!(change, NodeChange::MakeKey { .. })) {
            self.nothing.get_or_insert_with(|| {
                "it may hold a key that was made on the node, and is known there alone".to_owned()
            });
        }
        let by_path: HashMap<&str, &RunFile> = work.files.iter().map(|file| (file.path.as_str(), file)).collect();
        for change in work.changes {
            let NodeChange::Tree(TreeChange::WriteFile { path, content, .. }) = change else { continue };
            let file = by_path.get(path.as_str());
            let whose = file.map_or_else(|| shown::text(path), |file| format!("a value of `{}`", file.secret));
            let composed = file.and_then(|file| file.composed.clone());
            self.held.push(Held { whose, whole: content.clone(), composed });
        }
    }

    /// The last lines of what was said, fit for a terminal and without values; `elsewhere` is how a person can read them on the node.
    pub(super) fn lines(&self, said: &[u8], elsewhere: &str) -> Vec<String> {
        let all = said.split(|byte| matches!(byte, b'\n' | b'\r'));
        let mut lines: Vec<&[u8]> = all.filter(|line| fit(line).is_some()).collect();
        lines.drain(..lines.len().saturating_sub(SHOWN_LINES));
        if lines.is_empty() {
            return Vec::new();
        }
        let values: Vec<Value<'_>> = self.held.iter().map(Value::of).collect();
        if let Some(why) = self.why_nothing(&values) {
            return vec![format!("(what it said is not shown, for {why}{elsewhere})")];
        }
        let mut judge = Judge::new(&lines);
        values.iter().for_each(|value| judge.look(value));
        lines
            .iter()
            .zip(&judge.bad)
            .filter_map(|(line, bad)| match bad {
                _ if line.len() > LONGEST => Some("(a line of over 16 KiB is not shown)".to_owned()),
                true => Some("(a line that holds a value is not shown)".to_owned()),
                false => fit(line),
            })
            .collect()
    }

    /// A word that the node says in place of one that we know: a path, a unit's name, a state.
    pub(super) fn word(&self, word: &str) -> String {
        let shown = match self.ours.contains(word) {
            true => text::shown_text(word),
            false => self.lines(word.as_bytes(), "").pop(),
        };
        shown.unwrap_or_default()
    }

    fn why_nothing(&self, values: &[Value<'_>]) -> Option<String> {
        let is_short = |bytes: &[u8]| (1..SHORTEST).contains(&trimmed(bytes).len());
        let short = self.held.iter().zip(values).find(|(held, value)| {
            // A whole that is not all secret is as short as its parts.
            value.parts.iter().any(|part| is_short(part)) || held.composed.is_none() && is_short(held.whole.expose())
        });
        self.nothing.clone().or_else(|| short.map(|(held, _)| format!("{} is under 4 bytes", held.whose)))
    }
}

/// A line as it is shown, if there is anything to show.
fn fit(line: &[u8]) -> Option<String> {
    // Enough for all characters that are shown; what is behind them needs no decoding.
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

/// A value with what is secret of it.
struct Value<'v> {
    whole: &'v [u8],
    parts: Vec<&'v [u8]>,
    /// The template's own text.
    own: Vec<&'v [u8]>,
    /// `parts` is all of it, and so holds own text as well.
    is_guess: bool,
}

impl<'v> Value<'v> {
    fn of(held: &'v Held) -> Self {
        let whole = held.whole.expose();
        let Some(composed) = &held.composed else {
            return Self { whole, parts: vec![whole], own: Vec::new(), is_guess: false };
        };
        let own = own_text(composed);
        if whole == composed.whole.expose() {
            let parts = composed.parts.iter().map(Secret::expose).collect();
            return Self { whole, parts, own, is_guess: false };
        }
        // An older content: what stands where its template, as it is now, has values.
        match between(&own, whole) {
            Some(parts) => Self { whole, parts, own, is_guess: false },
            None => Self { whole, parts: vec![whole], own, is_guess: true },
        }
    }

    fn is_own_text(&self, bytes: &[u8]) -> bool {
        self.is_guess && self.own.iter().any(|own| memmem::find(own, bytes).is_some())
    }
}

/// What stands before, between and behind the parts.
fn own_text(composed: &Composed) -> Vec<&[u8]> {
    let whole = composed.whole.expose();
    let mut taken: Vec<(usize, usize)> = Vec::new();
    // A shorter part lets nothing be shown: where it stands does not matter.
    for part in composed.parts.iter().map(Secret::expose).filter(|part| part.len() >= SHORTEST) {
        taken.extend(memmem::find_iter(whole, part).map(|at| (at, at.saturating_add(part.len()))));
    }
    taken.sort_unstable();
    let (mut own, mut at) = (Vec::new(), 0);
    for (start, end) in taken {
        // Parts that touch or overlap have nothing between them, but for the first one.
        if start > at || own.is_empty() {
            own.push(&whole[at.min(start)..start]);
        }
        at = at.max(end);
    }
    own.push(&whole[at..]);
    own
}

/// What stands in `text` where parts are: between these pieces of a template. `None` where it is no text of the template's.
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

/// A text that a line is, or holds in another form.
struct Form<'l> {
    line: usize,
    bytes: Cow<'l, [u8]>,
    /// Begins where the line begins.
    at_start: bool,
    /// Ends where the line ends.
    at_end: bool,
}

/// Which lines hold a value.
struct Judge<'l> {
    bad: Vec<bool>,
    forms: Vec<Form<'l>>,
    /// Which four bytes there are, by their hash: most of a long value is passed over by this alone.
    quads: Vec<bool>,
    /// Each piece of this length, with the lines that it is in, a bit a line.
    windows: HashMap<[u8; WINDOW], u8>,
}

impl<'l> Judge<'l> {
    /// At most [`SHOWN_LINES`] lines.
    fn new(lines: &[&'l [u8]]) -> Self {
        let mut forms = Vec::new();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.len() <= LONGEST) {
            let whole = |bytes| Form { line: number, bytes, at_start: true, at_end: true };
            forms.push(whole(Cow::Borrowed(*line)));
            let shown = shown::text(&String::from_utf8_lossy(line));
            for form in [Cow::Borrowed(trimmed(line)), Cow::Owned(shown.into_bytes())] {
                if *form != **line {
                    forms.push(whole(form));
                }
            }
            for encoding in [BASE64, HEX] {
                encoding.decode(number, line, &mut forms);
            }
        }
        let (mut quads, mut windows) = (vec![false; 1 << QUADS], HashMap::new());
        for form in &forms {
            form.bytes.windows(SHORTEST).for_each(|four| quads[quad(four)] = true);
            for window in form.bytes.windows(WINDOW).filter_map(<[u8]>::first_chunk) {
                *windows.entry(*window).or_default() |= 1 << form.line;
            }
        }
        Self { bad: vec![false; lines.len()], forms, quads, windows }
    }

    /// Finds the lines that hold something of a value.
    fn look(&mut self, value: &Value<'_>) {
        let whole = trimmed(value.whole);
        if self.may_hold(whole) {
            self.mark(|form| memmem::find(&form.bytes, whole).is_some());
        }
        // What a value that has nothing secret begins with is nothing secret either.
        let whole = Some(whole).filter(|_| !value.parts.is_empty());
        for end in whole.into_iter().chain(value.parts.iter().map(|part| trimmed(part))) {
            let tail = &end[end.len().saturating_sub(SHORTEST)..];
            if self.may_hold(end) || self.may_hold(tail) {
                self.mark(|form| form.is_cut_from(end));
            }
        }
        for part in &value.parts {
            self.mark(|form| form.is_a_piece_of(part, value));
            self.look_for_part(part, value);
            // As it would be shown, where that is something else.
            let shown = shown::lines(&String::from_utf8_lossy(part));
            if shown.as_bytes() != *part {
                self.look_for_part(shown.as_bytes(), value);
            }
        }
    }

    /// Twelve bytes in a row, and each line that has no twelve.
    fn look_for_part(&mut self, part: &[u8], value: &Value<'_>) {
        for window in part.windows(WINDOW).filter_map(<[u8]>::first_chunk::<WINDOW>) {
            if self.may_hold(window)
                && let Some(lines) = self.windows.get(window).copied()
                && !value.is_own_text(window)
            {
                self.bad.iter_mut().enumerate().for_each(|(line, bad)| *bad |= lines >> line & 1 == 1);
            }
        }
        for line in part.split(|byte| matches!(byte, b'\n' | b'\r')).map(trimmed) {
            if line.len() < WINDOW && self.may_hold(line) && !value.is_own_text(line) {
                self.mark(|form| memmem::find(&form.bytes, line).is_some());
            }
        }
    }

    /// False when no line holds the beginning of this, or when it is too short.
    fn may_hold(&self, piece: &[u8]) -> bool {
        piece.get(..SHORTEST).is_some_and(|four| self.quads[quad(four)])
    }

    fn mark(&mut self, holds: impl Fn(&Form<'_>) -> bool) {
        for form in &self.forms {
            if !self.bad[form.line] && holds(form) {
                self.bad[form.line] = true;
            }
        }
    }
}

/// So many bits tell four bytes from others.
const QUADS: u32 = 16;

/// A number of [`QUADS`] bits for the first four bytes.
fn quad(bytes: &[u8]) -> usize {
    let first = bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
    // OK to fall back: 16 bits are a `usize` everywhere.
    usize::try_from(first.wrapping_mul(0x9E37_79B1) >> (u32::BITS - QUADS)).unwrap_or(0)
}

impl Form<'_> {
    /// Begins with the end of a value, or ends with its beginning.
    fn is_cut_from(&self, value: &[u8]) -> bool {
        if value.len() < SHORTEST {
            return false;
        }
        let (head, tail) = (&value[..SHORTEST], &value[value.len() - SHORTEST..]);
        let ends_with_head = || memmem::find_iter(&self.bytes, head).any(|at| value.starts_with(&self.bytes[at..]));
        let starts_with_tail = || {
            let mut ends = memmem::find_iter(&self.bytes, tail).map(|at| at.saturating_add(SHORTEST));
            ends.any(|end| value.ends_with(&self.bytes[..end]))
        };
        self.at_end && ends_with_head() || self.at_start && starts_with_tail()
    }

    /// Nothing but a piece of a part. (A longer one holds twelve bytes in a row.)
    fn is_a_piece_of(&self, part: &[u8], value: &Value<'_>) -> bool {
        let bytes = trimmed(&self.bytes);
        self.at_start
            && self.at_end
            && (SHORTEST..WINDOW).contains(&bytes.len())
            && memmem::find(part, bytes).is_some()
            && !value.is_own_text(bytes)
    }
}

/// A way to write bytes as text.
struct Encoding {
    /// How many bits a character stands for.
    bits: u32,
    /// How many bits of a run may stand before its first whole byte.
    skips: &'static [u32],
    digit: fn(u8) -> Option<u32>,
}

/// RFC 4648, the standard and the URL-safe alphabet; padding ends a run.
const BASE64: Encoding = Encoding {
    bits: 6,
    skips: &[0, 2, 4, 6],
    digit: |byte| {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        }))
    },
};

const HEX: Encoding = Encoding { bits: 4, skips: &[0, 4], digit: |byte| char::from(byte).to_digit(16) };

impl Encoding {
    /// What each run of its characters means, wherever in it a value may begin.
    fn decode(&self, number: usize, line: &[u8], forms: &mut Vec<Form<'_>>) {
        let mut at = 0;
        while at < line.len() {
            let rest = &line[at..];
            let length = rest.iter().position(|byte| (self.digit)(*byte).is_none()).unwrap_or(rest.len());
            let run = &rest[..length];
            let after = &rest[length..];
            let at_start = trimmed(&line[..at]).is_empty();
            let at_end = after.iter().all(|byte| matches!(byte, b'=' | b' '));
            for skip in self.skips {
                let bytes = self.bytes(run, *skip);
                if bytes.len() >= SHORTEST {
                    forms.push(Form { line: number, bytes: Cow::Owned(bytes), at_start, at_end });
                }
            }
            at = at.saturating_add(length).saturating_add(1);
        }
    }

    /// The whole bytes of a run, less so many bits.
    fn bytes(&self, run: &[u8], skip: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(run.len());
        let (mut held, mut bits, mut skip) = (0_u32, 0, skip);
        for digit in run.iter().filter_map(|byte| (self.digit)(*byte)) {
            held = held << self.bits | digit;
            bits += self.bits;
            if skip > 0 {
                // Never more than one character.
                bits -= skip;
                held &= (1 << bits) - 1;
                skip = 0;
            }
            if bits >= u8::BITS {
                bits -= u8::BITS;
                // OK to cut: the byte is the lowest one then.
                bytes.push((held >> bits).to_le_bytes()[0]);
                held &= (1 << bits) - 1;
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
