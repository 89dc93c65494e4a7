//! The filters: each writes a value so that one kind of reader gets it back byte for byte, or refuses a value that the
//! reader cannot represent. tests/it/derive/quoting.rs checks them with the real readers.
//!
//! Every result is written to a buffer of its maximum size, so that it never moves and leaves no copy.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A value that a filter refuses. Does not contain the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QuoteError {
    /// The text after "the filter `x`: ".
    pub reason: &'static str,
    /// The hint.
    pub hint: &'static str,
}

const NUL: QuoteError = QuoteError {
    reason: "the value holds a NUL byte, which none of its readers can take",
    hint: "is this the right item and field?",
};

/// `b64encode`: base64 of RFC 4648, on one line, with padding. Accepts any bytes.
pub(super) fn b64encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    STANDARD.encode_string(bytes, &mut out);
    out
}

/// `json`: a JSON string with its quotes, which is also valid YAML. Characters that YAML 1.1 or 1.2 do not accept
/// verbatim (DEL, C1 controls, the two separators, BOM, noncharacters) are escaped too (YAML 1.2.2, 5.1 "Character
/// Set").
pub(super) fn json(text: &str) -> String {
    // An escaped byte becomes 6; longer characters become fewer per byte.
    let mut out = String::with_capacity(text.len().saturating_mul(6).saturating_add(2));
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str("\\u");
                for shift in [12, 8, 4, 0] {
                    // OK: four bits are one hexadecimal digit.
                    out.push(char::from_digit((u32::from(character) >> shift) & 0xF, 16).unwrap_or('0'));
                }
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// `shell_quote`: one word for a POSIX shell (POSIX.1-2024, 2.2.2 "Single-Quotes").
pub(super) fn shell_quote(text: &str) -> Result<String, QuoteError> {
    if text.contains('\0') {
        return Err(NUL);
    }
    let mut out = String::with_capacity(text.len().saturating_mul(4).saturating_add(2));
    out.push('\'');
    for character in text.chars() {
        match character {
            '\'' => out.push_str("'\\''"),
            _ => out.push(character),
        }
    }
    out.push('\'');
    Ok(out)
}

/// `systemd_quote`: a value of `EnvironmentFile` (systemd.exec(5)): in double quotes, with a backslash before each `"`,
/// `\`, `$` and backquote. A POSIX shell reads it in the same way. U+FEFF and noncharacters are invalid there.
pub(super) fn systemd_quote(text: &str) -> Result<String, QuoteError> {
    if text.contains('\0') {
        return Err(NUL);
    }
    let invalid = |c: char| c == '\u{feff}' || matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xFFFE == 0xFFFE;
    if text.contains(invalid) {
        return Err(QuoteError {
            reason: "the value holds a byte order mark or a noncharacter, which systemd does not take",
            hint: "remove it from the item",
        });
    }
    let mut out = String::with_capacity(text.len().saturating_mul(2).saturating_add(2));
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
    Ok(out)
}

/// `dotenv_quote`: a value of a `.env` file for python-dotenv (1.x). In single quotes if possible, which a shell,
/// systemd and most other readers read in the same way; otherwise in double quotes with escapes. python-dotenv expands
/// `${NAME}` in both, and has no escape for it.
pub(super) fn dotenv_quote(text: &str) -> Result<String, QuoteError> {
    if text.contains('\0') {
        return Err(NUL);
    }
    if text.split_once("${").is_some_and(|(_, rest)| rest.contains('}')) {
        return Err(QuoteError {
            reason: "the value holds `${…}`, which readers of .env files expand whatever its quotes",
            hint: "systemd_quote and shell_quote can write it",
        });
    }
    let mut out = String::with_capacity(text.len().saturating_mul(2).saturating_add(2));
    // Line ends are read as `\n`, so a carriage return must be an escape.
    if !text.contains(['\'', '\\', '\r']) {
        out.push('\'');
        out.push_str(text);
        out.push('\'');
        return Ok(out);
    }
    out.push('"');
    for character in text.chars() {
        match character {
            '\r' => out.push_str("\\r"),
            '"' | '\\' => out.extend(['\\', character]),
            _ => out.push(character),
        }
    }
    out.push('"');
    Ok(out)
}

/// `indent(width, first)`: `width` spaces before each non-empty line, before the first one only if `first`.
pub(super) fn indent(text: &str, width: usize, first: bool) -> String {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count().saturating_add(1);
    let mut out = String::with_capacity(text.len().saturating_add(lines.saturating_mul(width)));
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if (number > 0 || first) && !line.trim_end_matches(['\r', '\n']).is_empty() {
            out.extend(std::iter::repeat_n(' ', width));
        }
        out.push_str(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_writes_what_its_reader_wants() {
        assert_eq!(b64encode(b"\xff\x00a"), "/wBh");
        assert_eq!(b64encode(b""), "");
        assert_eq!(json("a\"b\\c\nd\u{7f}\u{2028}é🔑\0/"), r#""a\"b\\c\nd\u007f\u2028é🔑\u0000/""#);
        assert_eq!(shell_quote("it's $x").unwrap(), r"'it'\''s $x'");
        assert_eq!(systemd_quote("a\"b\\c$d`e'f\ng").unwrap(), "\"a\\\"b\\\\c\\$d\\`e'f\ng\"");
        assert_eq!(dotenv_quote("a\"b$c\nd").unwrap(), "'a\"b$c\nd'");
        assert_eq!(dotenv_quote("it's \"\\ \r").unwrap(), "\"it's \\\"\\\\ \\r\"");
        assert_eq!(dotenv_quote("$ {x} ${").unwrap(), "'$ {x} ${'");
    }

    #[test]
    fn what_a_reader_cannot_have_is_refused() {
        for filter in [shell_quote, systemd_quote, dotenv_quote] {
            assert_eq!(filter("a\0b"), Err(NUL));
        }
        for text in ["\u{feff}a", "a\u{fdd0}", "a\u{1ffff}"] {
            assert!(systemd_quote(text).unwrap_err().reason.contains("byte order mark"), "{text:?}");
        }
        assert!(dotenv_quote("a${b}c").unwrap_err().reason.contains("expand"));
    }

    #[test]
    fn lines_are_indented_and_their_ends_stay() {
        for (text, width, first, want) in [
            ("a\nb\n\nc\n", 2, false, "a\n  b\n\n  c\n"),
            ("a\nb", 2, true, "  a\n  b"),
            ("a\n", 4, false, "a\n"),
            ("", 4, true, ""),
        ] {
            assert_eq!(indent(text, width, first), want, "{text:?}");
        }
    }
}
