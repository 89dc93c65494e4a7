//! Parses a decrypted entry: the password in the first line, then `key: value` lines, free text, and YAML after a line
//! `---`. An entry that begins with `---` is YAML only. gopass reads them so (pkg/gopass/secrets/yaml.go); pass and
//! passage leave it to their users what follows the first line.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::DataFormat;
use crate::items::document::Document;
use crate::items::item::{Field, Value};

/// Maximum number of `key: value` lines that become fields.
const MOST: usize = 10_000;
/// Maximum length of a key, in bytes.
const LONGEST_KEY: usize = 200;
/// The line before the YAML.
const MARKER: &[u8] = b"---";

/// The fields of an entry. `wanted` is the wanted field: malformed YAML is an error only if that field could be in it.
///
/// # Errors
/// A message and a hint.
pub(super) fn fields(content: &[u8], wanted: Option<&str>) -> Result<Vec<Field>, (String, &'static str)> {
    if content.starts_with(b"GOPASS-SECRET-1.0") {
        let hint = "`gopass fsck --decrypt` writes it anew";
        return Err(("it is written in a format that gopass has given up (GOPASS-SECRET-1.0)".to_owned(), hint));
    }
    let (first, rest) = match content.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let (first, rest) = content.split_at(end);
            (first, rest.get(1..))
        }
        None => (content, None),
    };
    let has_password = first.trim_ascii() != MARKER;
    let (text, yaml) = match rest.unwrap_or_default() {
        rest if has_password => split_yaml(rest),
        rest => (&[][..], Some(rest)),
    };
    // Without a first line there are no lines of keys.
    let file = is_base64(text);
    let mut fields = Vec::new();
    if file && first.is_empty() {
        fields.push(decoded("password", text));
    } else if has_password {
        fields.push(built_in("password", first));
    }
    if let Some(notes) = rest {
        fields.push(built_in("notes", notes));
    }
    fields.push(if file { decoded("content", text) } else { built_in("content", content) });
    let mut custom: Vec<Field> = Vec::new();
    for line in lines(text) {
        if is_totp(line) {
            add_once(&mut fields, "totp", line);
        } else if let Some((key, value)) = pair(line).filter(|_| custom.len() < MOST) {
            take(&mut fields, &mut custom, key, value);
        }
    }
    if let Some(yaml) = yaml {
        take_yaml(yaml, wanted, &mut fields, &mut custom)?;
    }
    fields.extend(custom);
    Ok(fields)
}

/// Adds the fields of the YAML of an entry. A line `otpauth://…` in it is no YAML.
///
/// # Errors
/// As [`fields`].
fn take_yaml(
    yaml: &[u8],
    wanted: Option<&str>,
    fields: &mut Vec<Field>,
    custom: &mut Vec<Field>,
) -> Result<(), (String, &'static str)> {
    // Allocated at once: the buffer never moves, so no copy remains.
    let mut rest = Zeroizing::new(Vec::with_capacity(yaml.len()));
    for line in yaml.split_inclusive(|&byte| byte == b'\n') {
        match is_totp(line) {
            true => add_once(fields, "totp", line.trim_ascii_end()),
            false => rest.extend_from_slice(line),
        }
    }
    if rest.trim_ascii().is_empty() {
        return Ok(());
    }
    match Document::parse(&rest, DataFormat::Yaml) {
        Ok(document) => document.values().for_each(|(key, value)| {
            if key == "password" {
                add_once(fields, "password", value);
            }
            take(fields, custom, key, value);
        }),
        Err(error) => {
            let wanted = wanted.unwrap_or("password");
            if !fields.iter().chain(custom.iter()).any(|field| field.name == wanted) {
                return Err((format!("its YAML, after `---`: {error}"), "`#notes` is all of it, as it stands"));
            }
        }
    }
    Ok(())
}

/// True for a file that `gopass fscopy` or `gopass cat` has stored: key lines, and its bytes as Base64
/// (internal/action/binary.go).
fn is_base64(text: &[u8]) -> bool {
    lines(text).filter_map(pair).any(|(key, value)| {
        key.eq_ignore_ascii_case("content-transfer-encoding") && value.trim_ascii().eq_ignore_ascii_case(b"base64")
    })
}

/// The bytes of such a file as the field `name`: all lines without a key, decoded.
fn decoded(name: &str, text: &[u8]) -> Field {
    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    for line in lines(text).filter(|line| pair(line).is_none()) {
        base64.extend_from_slice(line.trim_ascii());
    }
    // No shorter than what comes out, so that the buffer never moves.
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64.len().saturating_add(4)));
    Field::built_in_value(
        name,
        match STANDARD.decode_vec(base64.as_slice(), &mut bytes) {
            Ok(()) => Value::Bytes(bytes),
            Err(_) => Value::Refused(
                "its Content-Transfer-Encoding says Base64, and it is not".to_owned(),
                "`#notes` is all of it, as it stands".to_owned(),
            ),
        },
    )
}

/// The lines of `text`, without their ends.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// True for the URL of a one-time password.
fn is_totp(line: &[u8]) -> bool {
    line.starts_with(b"otpauth://")
}

fn built_in(name: &str, bytes: &[u8]) -> Field {
    Field::built_in_value(name, Value::Bytes(Zeroizing::new(bytes.to_vec())))
}

fn add_once(fields: &mut Vec<Field>, name: &str, bytes: &[u8]) {
    if !fields.iter().any(|field| field.name == name) {
        fields.push(built_in(name, bytes));
    }
}

/// Adds a key and its value as a custom field, and as a built-in one if the key is the name of one.
fn take(fields: &mut Vec<Field>, custom: &mut Vec<Field>, key: &str, value: &[u8]) {
    match key.to_ascii_lowercase().as_str() {
        "login" | "user" | "username" => add_once(fields, "username", value),
        "url" | "uri" => add_once(fields, "uri", value),
        "otp" | "totp" => add_once(fields, "totp", value),
        _ => {}
    }
    // The first built-in field of a name is used, so a line cannot replace the entry's password.
    if !fields.iter().any(|field| field.name == key) {
        custom.push(Field::of_free_text(key, Value::Bytes(Zeroizing::new(value.to_vec()))));
    }
}

/// Parses `key: value`, trimming blanks around the key and before the value. `https://…` is not a pair.
fn pair(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (key, value) = line.split_at(colon);
    let value = value.get(1..)?;
    let key = std::str::from_utf8(key).ok()?.trim();
    if key.is_empty() || key.len() > LONGEST_KEY || value.starts_with(b"//") {
        return None;
    }
    let start = value.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    Some((key, value.get(start..)?))
}

/// The text before a line `---`, and the YAML after it.
fn split_yaml(rest: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut at = 0_usize;
    for line in rest.split_inclusive(|&byte| byte == b'\n') {
        let end = at.saturating_add(line.len());
        if line.trim_ascii_end() == MARKER {
            return (rest.get(..at).unwrap_or_default(), rest.get(end..));
        }
        at = end;
    }
    (rest, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(content: &str, wanted: Option<&str>) -> Result<Vec<(String, String)>, String> {
        let fields = fields(content.as_bytes(), wanted).map_err(|(what, _)| what)?;
        let text = |value| match value {
            Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Value::Refused(what, _) => format!("refused: {what}"),
            _ => unreachable!("an entry has only bytes"),
        };
        Ok(fields.into_iter().map(|field| (field.name, text(field.value))).collect())
    }

    #[test]
    fn the_first_line_is_the_password_and_keys_are_fields() {
        let lines = "login: me\nURL:https://x/\nhttps://y/\n pin :\t 1: 2 \nfree text\notpauth://totp/x\nuser: you\n";
        let yaml = "key: line\n---\nuser: me\nnumber: 0x1F\nlist: [a]\ntext: |\n  a\n  b\nquoted: \"a: b\"\n";
        let (with_lines, with_yaml) = (format!("pw\n{lines}"), format!("pw\n{yaml}"));
        for (content, want) in [
            ("", vec![("password", ""), ("content", "")]),
            ("pw", vec![("password", "pw"), ("content", "pw")]),
            ("pw\n", vec![("password", "pw"), ("notes", ""), ("content", "pw\n")]),
            ("a: b\n", vec![("password", "a: b"), ("notes", ""), ("content", "a: b\n")]),
            (
                &with_lines,
                vec![
                    ("password", "pw"),
                    ("notes", lines),
                    ("content", &with_lines),
                    ("username", "me"),
                    ("uri", "https://x/"),
                    ("totp", "otpauth://totp/x"),
                    ("login", "me"),
                    ("URL", "https://x/"),
                    ("pin", "1: 2 "),
                    ("user", "you"),
                ],
            ),
            (
                &with_yaml,
                vec![
                    ("password", "pw"),
                    ("notes", yaml),
                    ("content", &with_yaml),
                    ("username", "me"),
                    ("key", "line"),
                    ("user", "me"),
                    ("number", "0x1F"),
                    ("text", "a\nb\n"),
                    ("quoted", "a: b"),
                ],
            ),
        ] {
            let want = want.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(text_of(content, Some("x")), Ok(want), "{content:?}");
        }
    }

    #[test]
    fn an_entry_that_begins_with_the_marker_has_no_password_but_the_key() {
        let value = |content: &str, wanted: &str| {
            let fields = text_of(content, Some(wanted)).unwrap();
            fields.into_iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
        };
        for (content, password) in [
            ("---\nusername: joe\npassword: made-up-pw\n", Some("made-up-pw")),
            ("---  \r\npassword: \"made: up\"\n", Some("made: up")),
            ("---\nusername: joe\n", None),
            ("---\n", None),
            ("---", None),
            ("----\nusername: joe\n", Some("----")),
            ("\n---\npassword: second\n", Some("")),
            ("first\n---\npassword: second\n", Some("first")),
        ] {
            assert_eq!(value(content, "password").as_deref(), password, "{content:?}");
        }
        assert_eq!(value("---\nusername: joe\n", "username").as_deref(), Some("joe"));
        assert!(text_of("---\na: [\n", None).unwrap_err().starts_with("its YAML"), "it could be there");
    }

    #[test]
    fn the_url_of_a_one_time_password_is_found_after_the_marker() {
        let url = "otpauth://totp/x?secret=JBSWY3DPEHPK3PXP";
        for content in [
            format!("made-up-pw\n---\n{url}\n"),
            format!("made-up-pw\n---\nkey: value\n{url}\r\nother: value\n"),
            format!("made-up-pw\n---\ntotp: {url}\n"),
            format!("---\n{url}"),
        ] {
            let fields = text_of(&content, Some("totp")).unwrap();
            assert!(fields.contains(&("totp".to_owned(), url.to_owned())), "{content:?}");
        }
    }

    #[test]
    fn yaml_that_cannot_be_read_matters_only_to_who_needs_it() {
        let content = "pw\nkey: line\n---\na: [\n";
        assert_eq!(
            text_of(content, Some("a")).unwrap_err(),
            "its YAML, after `---`: line 1, column 4: this is not YAML"
        );
        for field in [None, Some("password"), Some("notes"), Some("key")] {
            assert!(text_of(content, field).is_ok(), "{field:?}");
        }
        assert!(text_of("GOPASS-SECRET-1.0\nPassword: x\n", None).unwrap_err().contains("given up"));
    }

    #[test]
    fn a_file_that_gopass_has_stored_as_base64_is_decoded() {
        let header = "Content-Disposition: attachment; filename=\"key.bin\"\nContent-Transfer-Encoding: Base64\n";
        let value = |content: &str, wanted: &str| {
            let fields = text_of(content, Some(wanted)).unwrap();
            fields.into_iter().find(|(name, _)| name == wanted).map(|(_, value)| value).unwrap()
        };
        for (content, password, whole) in [
            (format!("\n{header}cGxhbnRlZAph"), "planted\na", "planted\na"),
            (format!("\n{}cGxh\r\nbnRlZA==\n", header.to_lowercase()), "planted", "planted"),
            (format!("pw\n{header}cGxhbnRlZA==\n"), "pw", "planted"),
            (format!("\n{header}"), "", ""),
        ] {
            assert_eq!(value(&content, "password"), password, "{content}");
            assert_eq!(value(&content, "content"), whole, "{content}");
        }
        let bad = format!("\n{header}no Base64!\n");
        assert!(value(&bad, "password").starts_with("refused: its Content-Transfer-Encoding says Base64"));
        assert_eq!(
            value("pw\nContent-Transfer-Encoding: 8bit\nx\n", "content"),
            "pw\nContent-Transfer-Encoding: 8bit\nx\n"
        );
    }
}
