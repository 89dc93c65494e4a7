//! The forms in which a value is searched for.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use deaddrop_core::secret::Wiped;

/// A shorter value is not searched for, in bytes: it would be found everywhere.
pub const SHORTEST: usize = 8;
/// Of a longer value only a part of this length is searched for, in bytes.
pub const LONGEST: usize = 1024;
/// That part begins at a multiple of this, in bytes, where a line of base64 begins: it is a multiple of the bytes of a
/// line of 76 characters (57) and of one of 64 (48).
const STEP: usize = 912;
/// Lengths of lines of base64: MIME's and that of `base64`, RFC 2045; PEM's, RFC 7468.
const COLUMNS: [usize; 2] = [76, 64];
/// A shorter line of a value is not searched for by itself, in bytes.
const SHORTEST_LINE: usize = 24;
/// Maximum number of lines of a value that are searched for by themselves.
const MOST_LINES: usize = 32;
/// The beginnings of lines that others have too: every SSH private key, and every SSH public key.
const COMMON: [&[u8]; 2] = [b"b3BlbnNzaC1rZXktdjE", b"AAAA"];

/// How a file holds a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// As it is, also as a JSON string, or one of its lines.
    Raw,
    /// In base64.
    Base64,
    /// In hexadecimal.
    Hex,
    /// As a password hash.
    Hash,
}

impl Form {
    /// Its name, in `--json` too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Base64 => "base64",
            Self::Hex => "hex",
            Self::Hash => "hash",
        }
    }
}

/// A value without the newlines at its end, which a file may lack.
#[must_use]
pub fn trimmed(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| !b"\r\n".contains(byte));
    // OK to index: a position in it.
    end.map_or(&[], |end| &value[..=end])
}

/// The texts to search for, each once; none for a value that is too short. `value` is [`trimmed`].
#[must_use]
pub fn of(value: &[u8]) -> Vec<(Form, Wiped)> {
    if value.len() < SHORTEST {
        return Vec::new();
    }
    let part = part(value);
    let mut forms = Forms(vec![(Form::Raw, Wiped::from(part.to_vec()))]);
    forms.json(part);
    for skipped in 0..3 {
        forms.base64(part, skipped);
    }
    forms.hex(part, b"0123456789abcdef");
    forms.hex(part, b"0123456789ABCDEF");
    forms.lines(value);
    forms.0
}

/// The part that is searched for: all of it, or one from its middle, since keys of a kind begin and end alike.
fn part(value: &[u8]) -> &[u8] {
    let Some(more) = value.len().checked_sub(LONGEST) else { return value };
    let start = more / 2 / STEP * STEP;
    value.get(start..start.saturating_add(LONGEST)).unwrap_or(value)
}

/// The texts so far.
struct Forms(Vec<(Form, Wiped)>);

impl Forms {
    fn add(&mut self, form: Form, text: Wiped) {
        if text.len() >= SHORTEST && self.0.iter().all(|(_, other)| *other != text) {
            self.0.push((form, text));
        }
    }

    /// As in a JSON string, and in most others: with `\"`, `\\` and `\n`.
    fn json(&mut self, value: &[u8]) {
        let Ok(text) = std::str::from_utf8(value) else { return };
        let Ok(quoted) = serde_json::to_vec(text) else { return };
        let quoted = Wiped::from(quoted);
        let inside = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_vec();
        self.add(Form::Raw, Wiped::from(inside));
    }

    /// Base64 of a text in which `skipped` bytes stand before the value in its group of three: the characters that
    /// depend on the value alone. RFC 4648, sections 4 and 5; a character has 6 bits.
    fn base64(&mut self, value: &[u8], skipped: usize) {
        let mut bytes = Wiped::zeros(skipped);
        bytes.reserve_exact(value.len());
        bytes.extend_from_slice(value);
        // Cannot overflow: a value has at most LONGEST bytes here.
        let inside = (8 * skipped).div_ceil(6)..8 * bytes.len() / 6;
        for alphabet in [STANDARD, URL_SAFE] {
            let mut text = Wiped::zeros(base64::encoded_len(bytes.len(), true).unwrap_or(0));
            // Cannot fail: it has the length that is needed.
            let _ = alphabet.encode_slice(bytes.as_slice(), &mut text);
            let text = Wiped::from(text.get(inside.clone()).unwrap_or_default().to_vec());
            for columns in COLUMNS.iter().filter(|columns| skipped == 0 && **columns < text.len()) {
                let mut wrapped = Wiped::default();
                wrapped.reserve_exact(text.len().saturating_add(text.len() / columns));
                for line in text.chunks(*columns) {
                    if !wrapped.is_empty() {
                        wrapped.push(b'\n');
                    }
                    wrapped.extend_from_slice(line);
                }
                self.add(Form::Base64, wrapped);
            }
            self.add(Form::Base64, text);
        }
    }

    fn hex(&mut self, value: &[u8], digits: &[u8; 16]) {
        let mut text = Wiped::default();
        text.reserve_exact(value.len().saturating_mul(2));
        for byte in value {
            for digit in [byte >> 4, byte & 15] {
                text.push(digits[usize::from(digit)]);
            }
        }
        self.add(Form::Hex, text);
    }

    /// The lines of a value of several lines, which a file may have indented, or without the others: those that are
    /// long and have no white space. Of PEM blocks only those of private keys: others may have the same certificates.
    fn lines(&mut self, value: &[u8]) {
        let mut is_public = false;
        let mut left = if value.contains(&b'\n') { MOST_LINES } else { 0 };
        for line in value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
            if line.starts_with(b"-----") {
                is_public = line.starts_with(b"-----BEGIN ") && memchr::memmem::find(line, b"PRIVATE").is_none();
                continue;
            }
            let is_common = COMMON.iter().any(|common| line.starts_with(common));
            let is_plain = line.iter().any(u8::is_ascii_whitespace) || line.len() < SHORTEST_LINE;
            if left > 0 && !is_public && !is_common && !is_plain {
                left -= 1;
                self.add(Form::Raw, Wiped::from(part(line).to_vec()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &[u8], form: Form) -> Vec<String> {
        let text = |(_, text): &(Form, Wiped)| String::from_utf8(text.to_vec()).unwrap();
        of(value).iter().filter(|(other, _)| *other == form).map(text).collect()
    }

    #[test]
    fn base64_is_found_wherever_in_a_longer_text_the_value_begins() {
        let value = b"\xfb\xef\xbe?hunter2+";
        for engine in [STANDARD, URL_SAFE] {
            for before in 0..7 {
                for after in 0..4 {
                    let longer = [&vec![b'x'; before][..], value, &vec![0xFF; after]].concat();
                    let longer = engine.encode(longer);
                    let found = texts(value, Form::Base64).iter().any(|text| longer.contains(text.as_str()));
                    assert!(found, "{before}, {after}");
                }
            }
        }
        assert!(texts(&[b'a'; 8], Form::Base64).iter().all(|text| text.len() >= SHORTEST));
    }

    #[test]
    fn base64_in_lines_is_found_also_of_a_part() {
        for size in [57, 58, 200, 1024, 1025, 2847, 2848, 5000] {
            let value: Vec<u8> = (0..size).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
            for columns in COLUMNS {
                let lines: Vec<String> = STANDARD
                    .encode(&value)
                    .as_bytes()
                    .chunks(columns)
                    .map(|line| String::from_utf8(line.to_vec()).unwrap())
                    .collect();
                let text = lines.join("\n");
                assert!(texts(&value, Form::Base64).iter().any(|form| text.contains(form.as_str())), "{size}");
            }
        }
    }

    #[test]
    fn hexadecimal_is_of_either_case() {
        assert_eq!(texts(b"\x00\xffabcdef", Form::Hex), ["00ff616263646566", "00FF616263646566"]);
    }

    #[test]
    fn a_short_value_has_no_form_and_a_long_one_a_part() {
        assert!(of(b"hunter2").is_empty());
        assert_eq!(texts(b"hunter2!", Form::Raw), ["hunter2!"]);
        assert_eq!(of(&[b'x'; 5000])[0].1.len(), LONGEST);
        assert_eq!((trimmed(b"a\n\r\n"), trimmed(b"\n"), trimmed(b"")), (&b"a"[..], &b""[..], &b""[..]));
    }

    #[test]
    fn quotes_are_found_as_strings_have_them() {
        assert_eq!(texts(b"say \"hello\"", Form::Raw), ["say \"hello\"", "say \\\"hello\\\""]);
    }

    #[test]
    fn of_several_lines_each_that_is_the_values_own_is_searched_for() {
        let age = b"# created: 2026-01-01T00:00:00Z\n# public key: age1qqqqqqqq\nAGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQ";
        assert_eq!(texts(age, Form::Raw)[2..], ["AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQ"]);
        let pem = b"-----BEGIN CERTIFICATE-----\nMIICcertificatecertificate\n-----END CERTIFICATE-----\n\
                    -----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAE\n\
                    zaC1lZDI1NTE5AAAAIprivateprivate\nshort\n-----END OPENSSH PRIVATE KEY-----";
        assert_eq!(texts(pem, Form::Raw)[2..], ["zaC1lZDI1NTE5AAAAIprivateprivate"]);
    }
}
