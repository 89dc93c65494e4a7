//! Wraps lines to the width of the terminal.

use std::os::fd::AsFd;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The width without a terminal.
const DEFAULT: usize = 100;
/// Minimum width: a narrower terminal breaks the lines itself.
const NARROWEST: usize = 40;

/// Columns of the terminal on standard error, or 100.
#[must_use]
pub fn width() -> usize {
    columns(std::io::stderr()).unwrap_or(DEFAULT)
}

/// Columns of the terminal that a stream writes to; `None` if it is none.
#[must_use]
pub fn columns(stream: impl AsFd) -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(stream)?;
    Some(usize::from(width.0).max(NARROWEST))
}

/// Breaks the lines that are wider than the terminal between words, and indents what follows. Colour codes (CSI
/// sequences) have no width. An excerpt of a file (`14 | text`) is left as it is: marks stand below it.
#[must_use]
pub fn fit(text: &str, columns: usize) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| fit_line(line, columns)).collect();
    lines.join("\n")
}

fn fit_line(line: &str, columns: usize) -> String {
    let plain = anstream::adapter::strip_str(line).to_string();
    if plain.width() <= columns || plain.contains(" | ") {
        return line.to_owned();
    }
    let indent = plain.chars().take_while(|character| *character == ' ').count().saturating_add(4);
    let mut out = String::new();
    // Columns of the current line, and the place of the last space in it: its index in `out`, and the columns after it.
    let (mut at, mut space) = (0_usize, None);
    let mut in_escape = false;
    for character in line.chars() {
        out.push(character);
        match (in_escape, character) {
            (false, '\u{1b}') => in_escape = true,
            (true, _) => in_escape = !character.is_ascii_alphabetic(),
            _ => {
                at = at.saturating_add(character.width().unwrap_or(0));
                if character == ' ' && at > indent {
                    space = Some((out.len(), at));
                }
            }
        }
        if at > columns
            && let Some((index, before)) = space.take()
        {
            let rest = out.split_off(index);
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(&rest);
            at = at.saturating_sub(before).saturating_add(indent);
        }
    }
    out
}

/// The end of a path that is wider than `columns`, after `…`.
#[must_use]
pub fn cut_path(path: &str, columns: usize) -> String {
    if path.width() <= columns {
        return path.to_owned();
    }
    let mut kept = 1_usize;
    let is_kept = |character: &char| {
        kept = kept.saturating_add(character.width().unwrap_or(0));
        kept <= columns
    };
    let end: Vec<char> = path.chars().rev().take_while(is_kept).collect();
    std::iter::once('…').chain(end.into_iter().rev()).collect()
}

/// Breaks a text between words into lines of at most `width` columns. A longer word gets its own line.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width().saturating_add(1).saturating_add(word.width()) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_is_broken_between_words_and_colours_take_no_room() {
        for (text, columns, want) in [
            ("short", 10, "short"),
            ("  one two three", 10, "  one two\n      three"),
            ("one two three four five", 13, "one two three\n    four five"),
            ("\u{1b}[1mone\u{1b}[0m two", 7, "\u{1b}[1mone\u{1b}[0m two"),
            ("one two\nthree four five", 8, "one two\nthree\n    four\n    five"),
            ("averyveryverylongword", 8, "averyveryverylongword"),
            ("a averyveryverylongword b", 8, "a averyveryverylongword\n    b"),
            ("  14 |     from: something long", 10, "  14 |     from: something long"),
        ] {
            assert_eq!(fit(text, columns), want, "{text}");
        }
    }

    #[test]
    fn a_path_keeps_its_end() {
        for (path, columns, want) in [
            ("/etc/a", 6, "/etc/a"),
            ("/etc/secrets/a", 6, "…ets/a"),
            ("/etc/漢字", 5, "…漢字"),
            ("/etc/漢字", 4, "…字"),
        ] {
            assert_eq!(cut_path(path, columns), want);
        }
    }

    #[test]
    fn lines_break_between_words() {
        for (text, width, want) in [
            ("one two three", 7, &["one two", "three"][..]),
            ("one two three", 6, &["one", "two", "three"]),
            ("a-long-word-first then", 5, &["a-long-word-first", "then"]),
            ("wide: 漢字 x", 10, &["wide: 漢字", "x"]),
            ("", 5, &[]),
        ] {
            assert_eq!(wrap(text, width), want, "{text}");
        }
    }
}
