//! Finds the lines that contain a piece of a value, encoded or not.

use std::borrow::Cow;
use std::collections::HashMap;

use deaddrop_core::shown;
use memchr::memmem;

use super::{LONGEST, SHORTEST, Value, WINDOW, trimmed};

/// A text of a line: the line itself, or a decoded form of it.
struct Form<'l> {
    line: usize,
    bytes: Cow<'l, [u8]>,
    /// Starts at the start of the line.
    at_start: bool,
    /// Ends at the end of the line.
    at_end: bool,
}

/// Finds the lines that contain a value.
pub(super) struct LineFilter<'l> {
    /// For each line, true if it contains a piece of a value.
    pub hidden: Vec<bool>,
    forms: Vec<Form<'l>>,
    /// The hashes of all sequences of four bytes: they rule out most positions of a long value.
    quads: Vec<bool>,
    /// Each piece of this length, with the lines that contain it, one bit per line.
    windows: HashMap<[u8; WINDOW], u8>,
}

impl<'l> LineFilter<'l> {
    /// At most [`SHOWN_LINES`] lines.
    pub(super) fn new(lines: &[&'l [u8]]) -> Self {
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
        Self { hidden: vec![false; lines.len()], forms, quads, windows }
    }

    /// Marks the lines that contain a piece of a value.
    pub(super) fn search(&mut self, value: &Value<'_>) {
        let whole = trimmed(value.whole);
        if self.may_hold(whole) {
            self.mark(|form| memmem::find(&form.bytes, whole).is_some());
        }
        // The ends of a value without secret parts are not secret either.
        let whole = Some(whole).filter(|_| !value.parts.is_empty());
        for end in whole.into_iter().chain(value.parts.iter().map(|part| trimmed(part))) {
            let tail = &end[end.len().saturating_sub(SHORTEST)..];
            if self.may_hold(end) || self.may_hold(tail) {
                self.mark(|form| form.is_cut_from(end));
            }
        }
        for part in &value.parts {
            self.mark(|form| form.is_a_piece_of(part, value));
            self.search_part(part, value);
            // Also the form in which it would be shown, if that differs.
            let shown = shown::lines(&String::from_utf8_lossy(part));
            if shown.as_bytes() != *part {
                self.search_part(shown.as_bytes(), value);
            }
        }
    }

    /// Twelve consecutive bytes, and each line that is shorter.
    fn search_part(&mut self, part: &[u8], value: &Value<'_>) {
        for window in part.windows(WINDOW).filter_map(<[u8]>::first_chunk::<WINDOW>) {
            if self.may_hold(window)
                && let Some(lines) = self.windows.get(window).copied()
                && !value.is_own_text(window)
            {
                self.hidden.iter_mut().enumerate().for_each(|(line, hidden)| *hidden |= lines >> line & 1 == 1);
            }
        }
        for line in part.split(|byte| matches!(byte, b'\n' | b'\r')).map(trimmed) {
            if line.len() < WINDOW && self.may_hold(line) && !value.is_own_text(line) {
                self.mark(|form| memmem::find(&form.bytes, line).is_some());
            }
        }
    }

    /// False if no line contains its first bytes, or if it is too short.
    fn may_hold(&self, piece: &[u8]) -> bool {
        piece.get(..SHORTEST).is_some_and(|four| self.quads[quad(four)])
    }

    fn mark(&mut self, holds: impl Fn(&Form<'_>) -> bool) {
        for form in &self.forms {
            if !self.hidden[form.line] && holds(form) {
                self.hidden[form.line] = true;
            }
        }
    }
}

/// Bits of the hash of four bytes.
const QUADS: u32 = 16;

/// A hash of [`QUADS`] bits of the first four bytes.
fn quad(bytes: &[u8]) -> usize {
    let first = bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
    // OK to fall back: 16 bits fit into a `usize` everywhere.
    usize::try_from(first.wrapping_mul(0x9E37_79B1) >> (u32::BITS - QUADS)).unwrap_or(0)
}

impl Form<'_> {
    /// Starts with the end of a value, or ends with its start.
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

    /// Only a piece of a part. (A longer one has twelve consecutive bytes.)
    fn is_a_piece_of(&self, part: &[u8], value: &Value<'_>) -> bool {
        let bytes = trimmed(&self.bytes);
        self.at_start
            && self.at_end
            && (SHORTEST..WINDOW).contains(&bytes.len())
            && memmem::find(part, bytes).is_some()
            && !value.is_own_text(bytes)
    }
}

/// A text encoding of bytes.
struct Encoding {
    /// Bits per character.
    bits: u32,
    /// How many bits may precede the first whole byte of a run.
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
    /// Decodes each run of its characters, at each possible offset of a value.
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

    /// The whole bytes of a run, without the first `skip` bits.
    fn bytes(&self, run: &[u8], skip: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(run.len());
        let (mut held, mut bits, mut skip) = (0_u32, 0, skip);
        for digit in run.iter().filter_map(|byte| (self.digit)(*byte)) {
            held = held << self.bits | digit;
            bits += self.bits;
            if skip > 0 {
                // Always less than one character.
                bits -= skip;
                held &= (1 << bits) - 1;
                skip = 0;
            }
            if bits >= u8::BITS {
                bits -= u8::BITS;
                // OK to truncate: the byte is the lowest one then.
                bytes.push((held >> bits).to_le_bytes()[0]);
                held &= (1 << bits) - 1;
            }
        }
        bytes
    }
}
