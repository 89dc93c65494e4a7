//! Searches a stream of bytes for many texts at once.
//!
//! Of each text some bytes are its anchor: 8, or 12 or 16 if all texts are as long. Every run of four bytes in it is
//! hashed into a set; an anchor of 8 bytes has five. In the stream every fifth run of four bytes is looked up: one of
//! them is in the anchor, wherever that stands. Only where the set has it are the texts compared. So nearly all of the
//! stream costs one look-up per five bytes (9 or 13 for longer anchors), whatever the number of texts, and no copy of a
//! text is needed but the text itself. (Aho-Corasick's automaton takes one step for each byte, which waits for the one
//! before it: docs/decisions.md.)

use deaddrop_core::secret::Wiped;
use deaddrop_core::sys;

use super::forms::{Form, SHORTEST};

/// Length of a run that is hashed, in bytes.
const RUN: usize = 4;
/// Lengths of anchors, in bytes.
const ANCHORS: [usize; 3] = [16, 12, SHORTEST];
/// The number of slots of the set for each run in it, so that few other runs are in the set by chance.
const SPARSE: usize = 64;
/// Binary logarithms of the least and the greatest number of slots.
const SLOTS: (u32, u32) = (16, 22);
/// Maximum number of anchors to choose from, for one text.
const CHOICE: usize = 64;

/// A text to find.
pub struct Pattern {
    /// At least [`SHORTEST`] bytes.
    pub text: Wiped,
    /// How it shows the value.
    pub form: Form,
    /// The value that it shows, for the caller.
    pub value: usize,
}

/// A run of an anchor.
#[derive(Clone, Copy)]
struct Anchored {
    /// Index of the pattern.
    pattern: usize,
    /// Offset of the run in its text, in bytes.
    at: usize,
}

/// The texts, and the set of their runs.
pub struct Finder {
    patterns: Vec<Pattern>,
    /// Length of the longest text, in bytes.
    longest: usize,
    /// The number of runs in an anchor: every so many bytes of the stream one is looked up.
    step: usize,
    /// One bit per slot.
    set: Vec<u64>,
    /// The runs of all anchors, by slot.
    runs: Vec<Anchored>,
    /// For each slot the index of its first run; one more at the end.
    starts: Vec<usize>,
    /// Bits of a hash that are not of the slot.
    shift: u32,
}

impl Finder {
    /// A finder of these texts.
    #[must_use]
    pub fn new(patterns: Vec<Pattern>) -> Self {
        sys::lock_all(patterns.iter().map(|pattern| pattern.text.as_slice()));
        let shortest = patterns.iter().map(|pattern| pattern.text.len()).min().unwrap_or(0);
        let anchor_length = ANCHORS.into_iter().find(|length| *length <= shortest).unwrap_or(SHORTEST);
        let step = anchor_length - RUN + 1;
        let wanted = patterns.len().saturating_mul(step).saturating_mul(SPARSE).max(1);
        let bits = wanted.ilog2().saturating_add(1).clamp(SLOTS.0, SLOTS.1);
        let slots = 1_usize << bits;
        let shift = u32::BITS - bits;
        let mut counts = vec![0_usize; slots];
        let mut runs: Vec<(usize, Anchored)> = Vec::with_capacity(patterns.len().saturating_mul(step));
        for (index, pattern) in patterns.iter().enumerate() {
            let anchor = choose_anchor(&pattern.text, anchor_length, |run| counts[slot(run, shift)]);
            for at in anchor..anchor.saturating_add(step) {
                let slot = slot(pattern.text.get(at..).unwrap_or_default(), shift);
                counts[slot] = counts[slot].saturating_add(1);
                runs.push((slot, Anchored { pattern: index, at }));
            }
        }
        runs.sort_by_key(|(slot, _)| *slot);
        let mut set = vec![0_u64; slots / 64];
        let mut starts = Vec::with_capacity(slots.saturating_add(1));
        let mut start = 0_usize;
        for (slot, count) in counts.iter().enumerate() {
            starts.push(start);
            start = start.saturating_add(*count);
            if *count > 0 {
                set[slot / 64] |= 1 << (slot % 64);
            }
        }
        starts.push(start);
        let longest = patterns.iter().map(|pattern| pattern.text.len()).max().unwrap_or(0);
        Self { patterns, longest, step, set, runs: runs.into_iter().map(|(_, run)| run).collect(), starts, shift }
    }

    /// True if there is nothing to find.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Calls `found` with every text that is in `bytes`, once or more.
    pub fn search<'f>(&'f self, bytes: &[u8], found: &mut impl FnMut(&'f Pattern)) {
        // A constant step is nearly twice as fast as a variable one.
        match self.step {
            13 => self.search_by::<13>(bytes, found),
            9 => self.search_by::<9>(bytes, found),
            _ => self.search_by::<5>(bytes, found),
        }
    }

    fn search_by<'f, const STEP: usize>(&'f self, bytes: &[u8], found: &mut impl FnMut(&'f Pattern)) {
        for (index, run) in bytes.windows(RUN).step_by(STEP).enumerate() {
            let slot = slot(run, self.shift);
            // OK to index: there is a bit for each slot.
            if self.set[slot / 64] >> (slot % 64) & 1 == 1 {
                self.compare(bytes, index * STEP, slot, found);
            }
        }
    }

    /// Compares all texts that have a run of this slot with the bytes around `at`.
    #[cold]
    fn compare<'f>(&'f self, bytes: &[u8], at: usize, slot: usize, found: &mut impl FnMut(&'f Pattern)) {
        // OK to index: there is one more start than slots, and none is after the last run.
        for run in &self.runs[self.starts[slot]..self.starts[slot.saturating_add(1)]] {
            let pattern = &self.patterns[run.pattern];
            let Some(start) = at.checked_sub(run.at) else { continue };
            if bytes.get(start..).is_some_and(|rest| rest.starts_with(&pattern.text)) {
                found(pattern);
            }
        }
    }
}

/// The offset of the anchor of a text, of this length: the one whose runs fewest others have, and with the most
/// different bytes. `count` tells how many others have a run.
fn choose_anchor(text: &[u8], length: usize, count: impl Fn(&[u8]) -> usize) -> usize {
    let last = text.len().saturating_sub(length);
    let cost = |at: &usize| {
        let anchor = text.get(*at..at.saturating_add(length)).unwrap_or_default();
        let equal = anchor.iter().enumerate().filter(|(index, byte)| anchor[..*index].contains(byte)).count();
        let others = anchor.windows(RUN).map(&count).max().unwrap_or(0);
        (others, equal)
    };
    (0..=last).step_by(last / CHOICE + 1).min_by_key(cost).unwrap_or(0)
}

/// The slot of the run at the start of `bytes`: Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4).
#[inline]
fn slot(bytes: &[u8], shift: u32) -> usize {
    let run = bytes.first_chunk().map_or(0, |run| u32::from_le_bytes(*run));
    // Never lossy on the platforms that this program supports.
    usize::try_from(run.wrapping_mul(0x9E37_79B1) >> shift).unwrap_or(0)
}

/// The content of one file, as its pieces arrive.
pub struct Stream {
    /// The offset after the last piece, in bytes.
    end: u64,
    /// The file's size, in bytes.
    size: u64,
    /// The last bytes before `end`: fewer than the longest text has.
    tail: Wiped,
}

impl Stream {
    /// A file of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { end: 0, size, tail: Wiped::default() }
    }

    /// Searches the next piece, at this offset. What was left out before it is zeros.
    pub fn piece<'f>(&mut self, finder: &'f Finder, offset: u64, bytes: &[u8], found: &mut impl FnMut(&'f Pattern)) {
        self.zeros(finder, offset, found);
        self.next(finder, bytes, found);
    }

    /// Searches what is left: the zeros at the end.
    pub fn end<'f>(&mut self, finder: &'f Finder, found: &mut impl FnMut(&'f Pattern)) {
        self.zeros(finder, self.size, found);
    }

    /// Zeros up to `offset`; as many as matter.
    fn zeros<'f>(&mut self, finder: &'f Finder, offset: u64, found: &mut impl FnMut(&'f Pattern)) {
        let Some(gap) = offset.checked_sub(self.end).filter(|gap| *gap > 0) else { return };
        let count = usize::try_from(gap).unwrap_or(usize::MAX).min(finder.longest);
        self.next(finder, &vec![0; count], found);
        self.end = offset;
    }

    fn next<'f>(&mut self, finder: &'f Finder, bytes: &[u8], found: &mut impl FnMut(&'f Pattern)) {
        let keep = finder.longest.saturating_sub(1);
        if !self.tail.is_empty() {
            self.tail.reserve_exact(keep);
            let before = self.tail.len();
            self.tail.extend_from_slice(bytes.get(..keep).unwrap_or(bytes));
            finder.search(&self.tail, found);
            self.tail.truncate(before);
        }
        finder.search(bytes, found);
        self.end = self.end.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.end >= self.size {
            self.tail.clear();
            return;
        }
        if self.tail.capacity() == 0 {
            self.tail.reserve_exact(keep.saturating_mul(2));
        }
        let more = bytes.get(bytes.len().saturating_sub(keep)..).unwrap_or(bytes);
        let surplus = self.tail.len().saturating_add(more.len()).saturating_sub(keep).min(self.tail.len());
        self.tail.drain(..surplus);
        self.tail.extend_from_slice(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finder(texts: &[&[u8]]) -> Finder {
        let pattern =
            |(value, text): (usize, &&[u8])| Pattern { text: Wiped::from(text.to_vec()), form: Form::Raw, value };
        Finder::new(texts.iter().enumerate().map(pattern).collect())
    }

    /// The texts that are found in a file that arrives in these pieces.
    fn found(finder: &Finder, size: u64, pieces: &[(u64, &[u8])]) -> Vec<usize> {
        let mut values = Vec::new();
        let mut stream = Stream::new(size);
        for (offset, bytes) in pieces {
            stream.piece(finder, *offset, bytes, &mut |pattern| values.push(pattern.value));
        }
        stream.end(finder, &mut |pattern| values.push(pattern.value));
        values.sort_unstable();
        values.dedup();
        values
    }

    const TEXTS: [&[u8]; 5] =
        [b"hunter2!", b"hunter2!hunter2?", b"aaaaaaaaaaaaaaaa", b"-----BEGIN KEY-----x", b"-----BEGIN KEY-----y"];

    /// Texts of which the shortest have 8, 12 and 16 bytes.
    fn finders() -> [Finder; 3] {
        let finders = [finder(&TEXTS), finder(&[&TEXTS[..], &[b"hunter2hunt!"]].concat()[1..]), finder(&TEXTS[1..])];
        assert_eq!(finders.each_ref().map(|finder| finder.step), [5, 9, 13]);
        finders
    }

    #[test]
    fn each_text_is_found_at_each_place() {
        for (first, finder) in finders().iter().enumerate().map(|(number, finder)| (number.min(1), finder)) {
            each_is_found(finder, &TEXTS[first..]);
        }
    }

    fn each_is_found(finder: &Finder, texts: &[&[u8]]) {
        for (value, text) in texts.iter().enumerate() {
            for before in 0..20 {
                for after in 0..6 {
                    let bytes = [&vec![b'.'; before][..], text, &vec![b'.'; after]].concat();
                    let size = u64::try_from(bytes.len()).unwrap();
                    assert!(found(finder, size, &[(0, &bytes)]).contains(&value), "{value}: {before}, {after}");
                }
            }
            let cut = &text[..text.len() - 1];
            assert!(!found(finder, 100, &[(0, cut), (50, b"!")]).contains(&value), "{value}");
        }
        assert!(found(finder, 0, &[]).is_empty());
    }

    #[test]
    fn each_text_is_found_across_each_border_of_pieces() {
        for (first, finder) in finders().iter().enumerate().map(|(number, finder)| (number.min(1), finder)) {
            each_is_found_across_borders(finder, &TEXTS[first..]);
        }
    }

    fn each_is_found_across_borders(finder: &Finder, texts: &[&[u8]]) {
        for (value, text) in texts.iter().enumerate() {
            let bytes = [b"before ", *text, b" after"].concat();
            let size = u64::try_from(bytes.len()).unwrap();
            for first in 0..bytes.len() {
                for length in [1, 2, 3, 7, 100] {
                    let mut pieces = vec![(0, &bytes[..first])];
                    let mut at = u64::try_from(first).unwrap();
                    for piece in bytes[first..].chunks(length) {
                        pieces.push((at, piece));
                        at += u64::try_from(piece.len()).unwrap();
                    }
                    pieces.retain(|(_, piece)| !piece.is_empty());
                    assert!(found(finder, size, &pieces).contains(&value), "{value}: {first}, {length}");
                }
            }
        }
    }

    #[test]
    fn a_hole_is_zeros_and_no_shorter_than_it_is() {
        let text: &[u8] = b"\0\0abcdefgh\0\0\0";
        let finder = finder(&[text, b"abcdabcd"]);
        assert_eq!(found(&finder, 1 << 40, &[(1 << 20, b"abcdefgh")]), [0]);
        assert_eq!(found(&finder, 20, &[(2, b"abcdefgh"), (13, b"x")]), [0]);
        assert_eq!(found(&finder, 20, &[(2, b"abcdefgh"), (12, b"x")]), [0_usize; 0]);
        assert_eq!(found(&finder, 20, &[(1, b"abcdefgh")]), [0_usize; 0]);
        assert_eq!(found(&finder, 100, &[(0, b"abcd"), (50, b"abcd")]), [0_usize; 0]);
        assert_eq!(found(&finder, 8, &[(0, b"abcd"), (4, b"abcd")]), [1]);
    }

    #[test]
    fn many_texts_that_begin_alike_are_told_apart() {
        let texts: Vec<Vec<u8>> = (0..3000).map(|number| format!("PASSWORD={number:08}\n").into_bytes()).collect();
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let finder = finder(&texts);
        assert_eq!(found(&finder, 100, &[(0, b"xPASSWORD=00001234\nPASSWORD=00009999\n")]), [1234]);
    }
}
