//! Makes foreign text (from a manifest, an export, an image or a node) safe for a terminal. The only function and the
//! only character set for this purpose.
//!
//! Every module that puts such a text into a message uses it. The program's `report` module passes all of its output
//! through it once more.

use std::fmt::Write as _;

/// Characters that control a terminal, reorder text, or are invisible: `Cc`, `Cf`, `Zl`, `Zp` and
/// `Default_Ignorable_Code_Point` of Unicode 16.0 (UnicodeData.txt, DerivedCoreProperties.txt), sorted. The block of
/// tag characters (U+E0000 to U+E007F) is included completely.
const HIDDEN: [(u32, u32); 27] = [
    (0x0000, 0x001F),
    (0x007F, 0x009F),
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x0600, 0x0605),
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
];

/// True for a character that is not passed to a terminal.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    let code = u32::from(character);
    let range = HIDDEN.partition_point(|(_, last)| *last < code);
    HIDDEN.get(range).is_some_and(|(first, _)| *first <= code)
}

/// The character, or U+FFFD if it [`is_hidden`].
#[must_use]
pub fn character(character: char) -> char {
    if is_hidden(character) { char::REPLACEMENT_CHARACTER } else { character }
}

/// Text of one line.
#[must_use]
pub fn text(text: &str) -> String {
    text.chars().map(character).collect()
}

/// Text of several lines: line ends are kept.
#[must_use]
pub fn lines(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { character(c) }).collect()
}

/// Lines that may contain our own colours, which are kept. The final check of everything that is printed, in case a
/// text got here by another way.
#[must_use]
pub fn painted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = colour(rest).unwrap_or(0);
        if length > 0 {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        out.push(if first == '\n' { first } else { character(first) });
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// JSON text with every hidden character escaped, for JSON that is printed on a terminal; it parses to the same data.
#[must_use]
pub fn json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        // Outside strings there are only line ends and spaces; inside them, serde_json leaves no ASCII control
        // character except U+007F.
        if character == '\n' || !is_hidden(character) {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// The length of a colour sequence at the start of a text (ECMA-48, SGR).
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then(|| end.saturating_add("\u{1b}[m".len()))
}

/// A name or text in backquotes, safe for a terminal, truncated after 60 characters.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for (at, character) in text.chars().enumerate() {
        if at >= 60 {
            out.push('…');
            break;
        }
        // Writing to a String cannot fail.
        let _ = out.write_char(self::character(character));
    }
    out.push('`');
    out
}

/// Every character that is replaced, for tests of code that shows text.
#[doc(hidden)]
pub fn all_hidden() -> impl Iterator<Item = char> {
    HIDDEN.iter().flat_map(|(first, last)| *first..=*last).filter_map(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_holds_what_must_not_reach_a_terminal() {
        assert!(HIDDEN.iter().all(|(first, last)| first <= last));
        assert!(HIDDEN.windows(2).all(|pair| pair[0].1 < pair[1].0));
        let named = [
            (0x00, 0x1F),
            (0x7F, 0x9F),
            (0xAD, 0xAD),
            (0x61C, 0x61C),
            (0x180E, 0x180E),
            (0x200B, 0x200F),
            (0x2028, 0x202E),
            (0x2060, 0x206F),
            (0x3164, 0x3164),
            (0xFEFF, 0xFEFF),
            (0xFFF9, 0xFFFB),
            (0xE0000, 0xE007F),
        ];
        for code in named.into_iter().flat_map(|(first, last)| first..=last) {
            assert!(is_hidden(char::from_u32(code).unwrap()), "U+{code:04X}");
        }
        for shown in (' '..='~').chain("äß鍵🔑пароль\u{a0}\u{e000}\u{ac}\u{ae}\u{fffd}\u{10ffff}".chars()) {
            assert!(!is_hidden(shown), "{shown:?}");
        }
    }

    #[test]
    fn every_way_in_replaces_every_one_of_them() {
        for hidden in all_hidden() {
            let (from, want) = (format!("a{hidden}b"), "a\u{fffd}b");
            assert_eq!(text(&from), want, "{hidden:?}");
            assert_eq!(lines(&from), if hidden == '\n' { "a\nb" } else { want }, "{hidden:?}");
            assert_eq!(painted(&from), if hidden == '\n' { "a\nb" } else { want }, "{hidden:?}");
        }
    }

    #[test]
    fn colours_of_ours_stay_in_what_is_painted_and_nothing_else_does() {
        for (from, want) in [
            ("\u{1b}[1;31merror:\u{1b}[0m a\nb", "\u{1b}[1;31merror:\u{1b}[0m a\nb"),
            ("\u{1b}[m", "\u{1b}[m"),
            ("\u{1b}[2J", "\u{fffd}[2J"),
            ("\u{1b}[31", "\u{fffd}[31"),
            ("\u{1b}]0;x\u{7}", "\u{fffd}]0;x\u{fffd}"),
            ("\u{1b}", "\u{fffd}"),
        ] {
            assert_eq!(painted(from), want);
        }
    }

    #[test]
    fn json_shows_no_hidden_character_and_means_the_same() {
        let text: String = all_hidden().chain("\"ä🔑".chars()).collect();
        let shown = json(&serde_json::json!({ "a": text }).to_string());
        assert!(!shown.contains(is_hidden));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["a"].as_str(), Some(text.as_str()));
    }

    #[test]
    fn quoted_text_cannot_drive_a_terminal_and_is_cut() {
        assert_eq!(quoted("a\u{1b}[2Jb"), "`a\u{fffd}[2Jb`");
        assert_eq!(quoted(&"x".repeat(70)), format!("`{}…`", "x".repeat(60)));
    }
}
