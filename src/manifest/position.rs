//! Maps a byte of a scalar's text to its place in the manifest, through YAML's quotes, escapes and indentation (YAML
//! 1.2.2, 5.7 "Escaped Characters", 7.3 "Flow Scalar Styles", 8.1.2 "Literal Style").

use std::iter::Peekable;
use std::str::CharIndices;

/// The offset in `raw`, a scalar as written, of the byte `at` of its `text`. The `raw` of a block starts with its first
/// character. `None` if it is unknown: the text is folded from several lines.
pub(super) fn in_source(raw: &str, text: &str, at: usize) -> Option<usize> {
    if raw == text {
        return Some(at);
    }
    let quote = raw.chars().next().filter(|first| matches!(first, '"' | '\''));
    // A block may start with a quote too.
    quote.and_then(|quote| quoted(raw, quote, text, at)).or_else(|| literal(raw, text, at))
}

/// A quoted scalar on one line.
fn quoted(raw: &str, quote: char, text: &str, at: usize) -> Option<usize> {
    let mut rest = raw.char_indices().peekable();
    rest.next();
    let mut found = None;
    let mut made: usize = 0;
    loop {
        let (byte, character) = rest.next()?;
        if made == at {
            found = Some(byte);
        }
        let means = match character {
            '\n' | '\r' => return None,
            '\\' if quote == '"' => unescaped(&mut rest)?,
            '\'' if quote == '\'' && rest.peek().is_some_and(|(_, next)| *next == '\'') => {
                rest.next();
                '\''
            }
            _ if character == quote => break,
            _ => character,
        };
        if !text.get(made..)?.starts_with(means) {
            return None;
        }
        made = made.saturating_add(means.len_utf8());
    }
    found.filter(|_| made == text.len() && rest.next().is_none())
}

/// The character for the escape sequence after a backslash in double quotes.
fn unescaped(rest: &mut Peekable<CharIndices<'_>>) -> Option<char> {
    let (_, letter) = rest.next()?;
    let digits = match letter {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        '0' => return Some('\0'),
        'a' => return Some('\u{7}'),
        'b' => return Some('\u{8}'),
        't' | '\t' => return Some('\t'),
        'n' => return Some('\n'),
        'v' => return Some('\u{b}'),
        'f' => return Some('\u{c}'),
        'r' => return Some('\r'),
        'e' => return Some('\u{1b}'),
        ' ' | '"' | '/' | '\\' => return Some(letter),
        'N' => return Some('\u{85}'),
        '_' => return Some('\u{a0}'),
        'L' => return Some('\u{2028}'),
        'P' => return Some('\u{2029}'),
        _ => return None,
    };
    let mut code: u32 = 0;
    for _ in 0..digits {
        let (_, digit) = rest.next()?;
        code = code.checked_mul(16)?.checked_add(digit.to_digit(16)?)?;
    }
    char::from_u32(code)
}

/// A block after `|`: its lines are those of the text with a constant indentation. `raw` lacks empty lines at the
/// start, and the indentation of the first line.
fn literal(raw: &str, text: &str, at: usize) -> Option<usize> {
    let before = text.get(..at)?;
    let empty = text.len().saturating_sub(text.trim_start_matches('\n').len());
    let number = before.matches('\n').count().checked_sub(empty)?;
    let column = at.checked_sub(before.rfind('\n').map_or(0, |newline| newline.saturating_add(1)))?;
    let line = text.get(empty..)?.split('\n').nth(number)?;
    let mut start: usize = 0;
    let mut lines = raw.split_inclusive('\n');
    for _ in 0..number {
        start = start.checked_add(lines.next()?.len())?;
    }
    let written = lines.next().unwrap_or_default().trim_end_matches(['\n', '\r']);
    if number == 0 {
        let missing = line.len().saturating_sub(line.trim_start_matches(' ').len());
        return (line.get(missing..)? == written.trim_start_matches(' ') && !written.starts_with(' '))
            .then(|| column.checked_sub(missing))?;
    }
    let indent = written.strip_suffix(line)?;
    let is_indent = indent.bytes().all(|byte| byte == b' ');
    is_indent.then(|| start.saturating_add(indent.len()).saturating_add(column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_behind_quotes_escapes_and_indentation() {
        for (raw, text, part) in [
            ("a:é@b", "a:é@b", "@"),
            ("'it''s @ é'", "it's @ é", "@"),
            (r#""\"\x41é\u00e9\n\t @""#, "\"Aéé\n\t @", "@"),
            ("a\n\n      b @\n", "a\n\n  b @\n", "@"),
            ("a @\n", "\n\n  a @", "@"),
            ("\"a\": 'x'\n    'b': @\n", "\"a\": 'x'\n'b': @\n", "@"),
            ("\"a\": @\n", "\"a\": @\n\n", "@"),
            ("a\r\n  @\r\n", "a\n@\n", "@"),
        ] {
            let at = in_source(raw, text, text.find(part).unwrap()).unwrap();
            assert_eq!(&raw[at..=at], part, "{raw:?}");
        }
        for (raw, text) in [("\"a\n  @\"", "a @"), ("a\n  @\n", "a @\n"), ("a\n @", "a @")] {
            assert_eq!(in_source(raw, text, text.find('@').unwrap()), None, "{raw:?}");
        }
    }
}
