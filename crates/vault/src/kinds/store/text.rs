//! Parses a decrypted entry: the password in the first line, then `key: value` lines, free text, and for gopass YAML
//! after a line `---`.

use zeroize::Zeroizing;

use crate::DataFormat;
use crate::items::document::Document;
use crate::items::item::{Field, Value};

/// Maximum number of `key: value` lines that become fields.
const MOST: usize = 10_000;
/// Maximum length of a key, in bytes.
const LONGEST_KEY: usize = 200;

/// The format of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    /// pass, passage.
    Lines,
    /// gopass: lines, or YAML after `---`.
    Yaml,
}

/// The fields of an entry. `wanted` is the wanted field: malformed YAML is an error only if that field could be in it.
///
/// # Errors
/// A message and a hint.
pub(super) fn fields(
    content: &[u8],
    flavour: Flavour,
    wanted: Option<&str>,
) -> Result<Vec<Field>, (String, &'static str)> {
    if content.starts_with(b"GOPASS-SECRET-1.0") {
        let hint = "`gopass fsck --decrypt` writes it anew";
        return Err(("it is written in a format that gopass has given up (GOPASS-SECRET-1.0)".to_owned(), hint));
    }
    let (password, rest) = match content.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let (password, rest) = content.split_at(end);
            (password, rest.get(1..))
        }
        None => (content, None),
    };
    let mut fields = vec![built_in("password", password)];
    if let Some(notes) = rest {
        fields.push(built_in("notes", notes));
    }
    fields.push(built_in("content", content));
    let rest = rest.unwrap_or_default();
    let (lines, yaml) = match flavour {
        Flavour::Lines => (rest, None),
        Flavour::Yaml => split_yaml(rest),
    };
    let mut custom: Vec<Field> = Vec::new();
    for line in lines.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        if line.starts_with(b"otpauth://") {
            add_once(&mut fields, "totp", line);
        } else if let Some((key, value)) = pair(line).filter(|_| custom.len() < MOST) {
            take(&mut fields, &mut custom, key, value);
        }
    }
    if let Some(yaml) = yaml {
        match Document::parse(yaml, DataFormat::Yaml) {
            Ok(document) => document.values().for_each(|(key, value)| take(&mut fields, &mut custom, key, value)),
            Err(error) => {
                let known = |name| fields.iter().chain(&custom).any(|field| field.name == name);
                if wanted.is_some_and(|wanted| !known(wanted)) {
                    return Err((format!("its YAML, after `---`: {error}"), "`#notes` is all of it, as it stands"));
                }
            }
        }
    }
    fields.extend(custom);
    Ok(fields)
}

fn built_in(name: &str, bytes: &[u8]) -> Field {
    Field { name: name.to_owned(), is_custom: false, value: Value::Bytes(Zeroizing::new(bytes.to_vec())) }
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
        custom.push(Field::custom(key, Value::Bytes(Zeroizing::new(value.to_vec()))));
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
        if line.trim_ascii_end() == b"---" {
            return (rest.get(..at).unwrap_or_default(), rest.get(end..));
        }
        at = end;
    }
    (rest, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_text(content: &str, flavour: Flavour, wanted: &str) -> Result<Vec<(String, String)>, String> {
        let fields = fields(content.as_bytes(), flavour, Some(wanted)).map_err(|(what, _)| what)?;
        let text = |value| match value {
            Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => unreachable!("an entry has only bytes"),
        };
        Ok(fields.into_iter().map(|field| (field.name, text(field.value))).collect())
    }

    #[test]
    fn the_first_line_is_the_password_and_keys_are_fields() {
        for (content, flavour, want) in [
            ("", Flavour::Lines, vec![("password", ""), ("content", "")]),
            ("pw", Flavour::Lines, vec![("password", "pw"), ("content", "pw")]),
            ("pw\n", Flavour::Lines, vec![("password", "pw"), ("notes", ""), ("content", "pw\n")]),
            ("a: b\n", Flavour::Lines, vec![("password", "a: b"), ("notes", ""), ("content", "a: b\n")]),
            (
                "pw\nlogin: me\nURL:https://x/\nhttps://y/\n pin :\t 1: 2 \nfree text\notpauth://totp/x\nuser: you\n",
                Flavour::Lines,
                vec![
                    ("password", "pw"),
                    (
                        "notes",
                        "login: me\nURL:https://x/\nhttps://y/\n pin :\t 1: 2 \nfree text\notpauth://totp/x\nuser: \
                        you\n",
                    ),
                    (
                        "content",
                        "pw\nlogin: me\nURL:https://x/\nhttps://y/\n pin :\t 1: 2 \nfree text\notpauth://totp/x\n\
                        user: you\n",
                    ),
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
                "pw\nkey: line\n---\nuser: me\nnumber: 0x1F\nlist: [a]\ntext: |\n  a\n  b\n",
                Flavour::Yaml,
                vec![
                    ("password", "pw"),
                    ("notes", "key: line\n---\nuser: me\nnumber: 0x1F\nlist: [a]\ntext: |\n  a\n  b\n"),
                    ("content", "pw\nkey: line\n---\nuser: me\nnumber: 0x1F\nlist: [a]\ntext: |\n  a\n  b\n"),
                    ("username", "me"),
                    ("key", "line"),
                    ("user", "me"),
                    ("number", "0x1F"),
                    ("text", "a\nb\n"),
                ],
            ),
        ] {
            let want = want.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(error_text(content, flavour, "x"), Ok(want), "{content:?}");
        }
    }

    #[test]
    fn yaml_that_cannot_be_read_matters_only_to_who_needs_it() {
        let content = "pw\nkey: line\n---\na: [\n";
        assert_eq!(
            error_text(content, Flavour::Yaml, "a").unwrap_err(),
            "its YAML, after `---`: line 1, column 4: this is not YAML"
        );
        for field in ["password", "notes", "key"] {
            assert!(error_text(content, Flavour::Yaml, field).is_ok(), "{field}");
        }
        assert!(error_text(content, Flavour::Lines, "a").is_ok(), "pass has no YAML");
        assert!(
            error_text("GOPASS-SECRET-1.0\nPassword: x\n", Flavour::Yaml, "password").unwrap_err().contains("given up")
        );
    }
}
