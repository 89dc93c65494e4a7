//! Wraps lines to the width of the terminal.

use unicode_width::UnicodeWidthStr;

/// The width without a terminal.
const DEFAULT: usize = 100;
/// Minimum width: a narrower terminal breaks the lines itself.
const NARROWEST: usize = 40;

/// Columns of the terminal on standard error, or 100.
#[must_use]
pub fn width() -> usize {
    let columns = terminal_size::terminal_size_of(std::io::stderr()).map(|(width, _)| usize::from(width.0));
    columns.unwrap_or(DEFAULT).max(NARROWEST)
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
