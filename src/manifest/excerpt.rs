//! The line of the manifest below an error message: cut to the width of a screen, safe for a terminal, and with `…`
//! in place of text that may be a value.

use deaddrop_core::shown;
use unicode_width::UnicodeWidthChar;

use super::problem::Mark;

/// Maximum width of a line, in terminal cells.
const MAX_CELLS: usize = 100;
/// Maximum width before the marked part when a line is cut, in terminal cells.
const MAX_BEFORE: usize = 40;
/// Number of bytes examined on each side of the mark. A line may have 16 MiB; a character has at most four bytes, so
/// this suffices for `MAX_CELLS`.
const WINDOW: usize = 4 * MAX_CELLS;

/// A line, safe for a terminal, and the position of its marked part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The line without its line end; `…` at an end marks a cut.
    pub text: String,
    /// Terminal cells of `text` before the marked part.
    pub start: usize,
    /// Terminal cells of the marked part; at least 1.
    pub width: usize,
}

/// Cuts the line of `mark` out of `text`. `veiled`: sorted, disjoint byte ranges, each replaced by one `…`.
pub(super) fn cut(text: &str, mark: Mark, veiled: &[(usize, usize)]) -> Excerpt {
    let (start, end) = mark.bytes();
    let start = floor(text, start);
    let first = floor(text, start.saturating_sub(WINDOW));
    let last = floor(text, start.saturating_add(WINDOW));
    let is_break = |character: char| character == '\n' || character == '\r';
    // OK to slice: all three are character boundaries in ascending order.
    let (line_start, more_before) = match text[first..start].rfind(is_break) {
        Some(at) => (first.saturating_add(at).saturating_add(1), false),
        None => (first, first > 0),
    };
    let (line_end, more_after) = match text[start..last].find(is_break) {
        Some(at) => (start.saturating_add(at), false),
        None => (last, last < text.len()),
    };
    let end = end.clamp(start, line_end);
    let mut cells = cells(text, line_start, line_end, veiled);
    while !more_after && cells.last().is_some_and(|cell| cell.character == ' ' && cell.at >= end) {
        cells.pop();
    }
    fit(&cells, start, end, more_before, more_after)
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        // OK: 0 is a character boundary, so the loop ends.
        at = at.saturating_sub(1);
    }
    at
}

/// A displayed character.
struct Cell {
    /// Its byte offset in the manifest.
    at: usize,
    character: char,
    width: usize,
}

/// The displayed characters of a line.
fn cells(text: &str, line_start: usize, line_end: usize, veiled: &[(usize, usize)]) -> Vec<Cell> {
    let mut ranges = veiled[veiled.partition_point(|range| range.1 <= line_start)..].iter().peekable();
    let mut cells: Vec<Cell> = Vec::new();
    let mut in_veil = false;
    for (offset, character) in text[line_start..line_end].char_indices() {
        let at = line_start.saturating_add(offset);
        while ranges.next_if(|range| range.1 <= at).is_some() {
            in_veil = false;
        }
        if ranges.peek().is_some_and(|range| range.0 <= at) {
            if !in_veil {
                cells.push(Cell { at, character: '…', width: 1 });
                in_veil = true;
            }
            continue;
        }
        // A tab counts as one cell, also for the marks below the line.
        let character = if character == '\t' { ' ' } else { shown::character(character) };
        cells.push(Cell { at, character, width: character.width().unwrap_or(0) });
    }
    cells
}

/// Cuts the cells to the maximum width around the marked bytes `start..end`.
fn fit(cells: &[Cell], start: usize, end: usize, more_before: bool, more_after: bool) -> Excerpt {
    let width = |cells: &[Cell]| cells.iter().map(|cell| cell.width).fold(0, usize::saturating_add);
    // A mark inside a veil has no cell; use the last cell that starts at or before it.
    let marked = cells.partition_point(|cell| cell.at <= start).saturating_sub(1);
    let marked = if start >= cells.last().map_or(0, |cell| cell.at.saturating_add(1)) && end == start {
        cells.len() // behind the last character
    } else {
        marked
    };
    let mut from = 0;
    if more_before || width(cells) > MAX_CELLS {
        while from < marked && width(&cells[from..marked]) > MAX_BEFORE {
            from = from.saturating_add(1);
        }
    }
    let mut to = from;
    let mut used: usize = 0;
    while let Some(cell) = cells.get(to).filter(|cell| used.saturating_add(cell.width) <= MAX_CELLS) {
        used = used.saturating_add(cell.width);
        to = to.saturating_add(1);
    }
    let marked_end = cells.partition_point(|cell| cell.at < end).clamp(marked, to.max(marked));
    let mut text = String::new();
    let cut_before = from > 0 || more_before;
    if cut_before {
        text.push('…');
    }
    text.extend(cells[from..to].iter().map(|cell| cell.character));
    if to < cells.len() || more_after {
        text.push('…');
    }
    Excerpt {
        text,
        start: width(&cells[from..marked.max(from)]).saturating_add(usize::from(cut_before)),
        width: width(&cells[marked..marked_end]).max(1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::as_conversions)]
    use super::*;

    /// The excerpt at the first occurrence of `marked` in `text`: the line, and the marks below it.
    fn shown(text: &str, marked: &str, veiled: &[(usize, usize)]) -> (String, String) {
        let start = text.find(marked).unwrap();
        let mark = Mark { start: start as u32, end: (start + marked.len()) as u32, line: 1, column: 1 };
        let excerpt = cut(text, mark, veiled);
        (excerpt.text, format!("{}{}", " ".repeat(excerpt.start), "^".repeat(excerpt.width)))
    }

    #[test]
    fn the_marks_stand_below_what_they_mean() {
        for (name, text, marked, want, marks) in [
            ("plain", "a\n  from: vualt:x\nb", "vualt", "  from: vualt:x", "        ^^^^^"),
            ("carriage return", "a\r\nfrom: x\r\n", "x", "from: x", "      ^"),
            ("lone carriage return", "a: 1\rfrom: x\r", "x", "from: x", "      ^"),
            ("tab", "a:\tb", "b", "a: b", "   ^"),
            ("wide letters", "鍵: b", "b", "鍵: b", "    ^"),
            ("wide letters marked", "a: 鍵", "鍵", "a: 鍵", "   ^^"),
            ("several lines marked", "a: b\n  c", "b\n  c", "a: b", "   ^"),
            ("escape sequence", "a: \u{1b}[2Jx", "x", "a: \u{fffd}[2Jx", "       ^"),
            ("right to left override", "a: \u{202e}x", "x", "a: \u{fffd}x", "    ^"),
            ("trailing spaces", "a: b   \n", "b", "a: b", "   ^"),
            ("nothing marked at the end", "a:\n", "", "a:", "^"),
        ] {
            assert_eq!(shown(text, marked, &[]), (want.to_owned(), marks.to_owned()), "{name}");
        }
        let behind = cut("abc", Mark { start: 3, end: 3, line: 1, column: 4 }, &[]);
        assert_eq!((behind.start, behind.width), (3, 1));
        let nothing = cut("", Mark { start: 0, end: 0, line: 1, column: 1 }, &[]);
        assert_eq!((nothing.text.as_str(), nothing.start, nothing.width), ("", 0, 1));
    }

    #[test]
    fn no_hidden_character_is_left() {
        for hidden in shown::all_hidden().filter(|hidden| !matches!(hidden, '\n' | '\r' | '\t')) {
            let text = format!("a: x{hidden}b");
            assert_eq!(shown(&text, "a", &[]).0, "a: x\u{fffd}b", "{hidden:?}");
            assert_eq!(deaddrop_core::shown::quoted(&text), "`a: x\u{fffd}b`", "{hidden:?}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("{}MARK{}", "a".repeat(500), "b".repeat(1 << 20));
        let (line, marks) = shown(&text, "MARK", &[]);
        assert_eq!(line, format!("…{}MARK{}…", "a".repeat(40), "b".repeat(56)));
        assert_eq!(marks, format!("{}^^^^", " ".repeat(41)));
        let text = format!("{}MARK", "鍵".repeat(500));
        let (line, marks) = shown(&text, "MARK", &[]);
        assert_eq!(line, format!("…{}MARK", "鍵".repeat(20)));
        assert_eq!(marks, format!("{}^^^^", " ".repeat(41)));
    }

    #[test]
    fn a_veiled_value_is_one_mark_whatever_its_length() {
        let text = "a: {value: hunter2, mode: x}\nb: |\n  hunter2\n  hunter3\n";
        let veiled = [(11, 18), (33, 55)];
        assert_eq!(shown(text, "mode", &veiled), ("a: {value: …, mode: x}".into(), "              ^^^^".into()));
        assert_eq!(shown(text, "hunter2", &veiled).0, "a: {value: …, mode: x}");
        assert_eq!(shown(text, "hunter3", &veiled).0, "…");
    }
}
