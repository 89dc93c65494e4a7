//! Finds characters in a value that are probably unintended, from a copy out of a web page, a chat or Windows. Warnings
//! name their kind; the value is never changed, because a password may contain anything.

use std::fmt;

/// Maximum length of a value that is searched, in bytes. A longer one is a whole file, not typed or pasted.
const LONGEST: usize = 64 << 10;

/// Maximum number of different characters that are named.
const MAX_KINDS: usize = 5;

/// An unintended characteristic of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unintended {
    /// One line with a final newline.
    FinalNewline,
    /// A carriage return, as in Windows line ends.
    CarriageReturn,
    /// Invisible characters, by name, each once.
    Invisible(Vec<String>),
    /// One line with a space or a tab at its start or end.
    OuterSpace,
}

/// The way in which a value is used, as far as its ends matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Every character counts.
    Exact,
    /// It comes from a file, or becomes all of a file of lines: it ends with a newline.
    Lines,
    /// The template cuts off white space at both ends.
    Trimmed,
}

/// The unintended characters of `value`; none if it is not UTF-8.
#[must_use]
pub fn find(value: &[u8], usage: Use) -> Vec<Unintended> {
    if value.len() > LONGEST {
        return Vec::new();
    }
    let Ok(text) = std::str::from_utf8(value) else { return Vec::new() };
    let text = if usage == Use::Trimmed { text.trim() } else { text };
    let mut found = Vec::new();
    let line = text.trim_end_matches(['\n', '\r']);
    let is_one_line = !line.contains('\n');
    if is_one_line && usage != Use::Lines && text.ends_with('\n') {
        found.push(Unintended::FinalNewline);
    }
    if text.contains('\r') {
        found.push(Unintended::CarriageReturn);
    }
    let mut unseen: Vec<(char, &str)> = Vec::new();
    for character in text.chars() {
        if let Some(name) = invisible(character)
            && !unseen.contains(&(character, name))
        {
            unseen.push((character, name));
            // A hostile value may contain many kinds; a few suffice.
            if unseen.len() == MAX_KINDS {
                break;
            }
        }
    }
    if !unseen.is_empty() {
        let named = |(character, name): (char, &str)| format!("U+{:04X} {name}", u32::from(character));
        found.push(Unintended::Invisible(unseen.into_iter().map(named).collect()));
    }
    if is_one_line && line.trim_matches([' ', '\t']).len() != line.len() {
        found.push(Unintended::OuterSpace);
    }
    found
}

impl Unintended {
    /// The code of its warning: docs/templates.md, "Unintended characters".
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::FinalNewline => "DD301",
            Self::CarriageReturn => "DD302",
            Self::Invisible(_) => "DD303",
            Self::OuterSpace => "DD304",
        }
    }
}

impl fmt::Display for Unintended {
    /// Formats the text after "the value of X".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FinalNewline => f.write_str("is one line and ends with a newline"),
            Self::CarriageReturn => f.write_str("holds carriage returns (CR), as text from Windows does"),
            Self::Invisible(names) => write!(f, "holds characters that cannot be seen: {}", names.join(", ")),
            Self::OuterSpace => f.write_str("begins or ends with a space or tab"),
        }
    }
}

/// The name of an invisible character other than space, tab and line ends. Names are those of the Unicode Character
/// Database (UnicodeData.txt, `Cf`, `Zs`, `Zl`, `Zp` and `Cc`; DerivedCoreProperties.txt,
/// `Default_Ignorable_Code_Point`), in lower case.
fn invisible(character: char) -> Option<&'static str> {
    Some(match u32::from(character) {
        0x09 | 0x0A | 0x0D => return None,
        0x00..=0x1F | 0x7F..=0x9F => "control character",
        0xA0 => "no-break space",
        0xAD => "soft hyphen",
        0x034F => "combining grapheme joiner",
        0x061C => "arabic letter mark",
        0x115F | 0x1160 | 0x3164 | 0xFFA0 => "hangul filler",
        0x17B4 | 0x17B5 => "khmer vowel inherent",
        0x180B..=0x180F => "mongolian selector or separator",
        0x1680 | 0x2000..=0x200A | 0x205F | 0x3000 => "space that is not the usual one",
        0x200B => "zero width space",
        0x200C => "zero width non-joiner",
        0x200D => "zero width joiner",
        0x200E => "left-to-right mark",
        0x200F => "right-to-left mark",
        0x2028 => "line separator",
        0x2029 => "paragraph separator",
        0x202A..=0x202E | 0x2066..=0x2069 => "bidirectional control",
        0x202F => "narrow no-break space",
        0x2060 => "word joiner",
        0x2061..=0x2065 => "invisible operator",
        0x206A..=0x206F => "deprecated format character",
        0xFE00..=0xFE0F | 0xE0100..=0xE01EF => "variation selector",
        0xFEFF => "zero width no-break space, or byte order mark",
        0xFFF9..=0xFFFB => "interlinear annotation",
        0xE0000..=0xE007F => "tag character",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(value: &[u8], usage: Use) -> Vec<&'static str> {
        find(value, usage).iter().map(Unintended::code).collect()
    }

    #[test]
    fn what_is_odd_is_found_and_what_is_usual_is_not() {
        for (name, value, want) in [
            ("usual", "hunter2 and spaces".as_bytes(), &[][..]),
            ("letters of the world", "pässwörd 密码 пароль 🔑".as_bytes(), &[]),
            ("empty", b"", &[]),
            ("a newline", b"hunter2\n", &["DD301"]),
            ("two", b"hunter2\n\n", &["DD301"]),
            ("nothing else", b"\n", &["DD301"]),
            ("a key of several lines", b"-----BEGIN X-----\nAAAA\n-----END X-----\n", &[]),
            ("windows", b"a\r\nb\r\n", &["DD302"]),
            ("one line of windows", b"a\r\n", &["DD301", "DD302"]),
            ("a lone carriage return", b"a\r", &["DD302"]),
            ("a zero width space", "hunter\u{200b}2".as_bytes(), &["DD303"]),
            ("a no-break space", "hunter\u{a0}2".as_bytes(), &["DD303"]),
            ("a byte order mark", "\u{feff}hunter2".as_bytes(), &["DD303"]),
            ("an escape", b"\x1b[0m", &["DD303"]),
            ("a space before", b" hunter2", &["DD304"]),
            ("a tab after", b"hunter2\t", &["DD304"]),
            ("a space before the newline", b"hunter2 \n", &["DD301", "DD304"]),
            ("indented lines", b"a:\n  b\n", &[]),
            ("not UTF-8", b"\xff\xfe\r\n", &[]),
        ] {
            assert_eq!(codes(value, Use::Exact), want, "{name}");
        }
        assert_eq!(codes(b"one line of a file\n", Use::Lines), [""; 0]);
        assert_eq!(codes(b"one line of a file\r\n", Use::Lines), ["DD302"]);
        assert_eq!(codes(b" one line \r\n", Use::Trimmed), [""; 0]);
        assert_eq!(codes("a\u{200b}\n".as_bytes(), Use::Trimmed), ["DD303"]);
    }

    #[test]
    fn characters_are_told_by_name_each_once_and_a_few_at_most() {
        let found = find("a\u{200b}b\u{200b}c\u{202e}d".as_bytes(), Use::Exact);
        let want = "holds characters that cannot be seen: U+200B zero width space, U+202E bidirectional control";
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
        let many: String = (0x2000..0x2010).filter_map(char::from_u32).collect();
        assert_eq!(find(many.as_bytes(), Use::Exact)[0].to_string().matches("U+").count(), 5);
    }
}
