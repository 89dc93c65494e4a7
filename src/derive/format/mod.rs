//! `format`: the format of a finished file. The check is as strict as the strictest usual reader, because a service
//! that cannot read its file does not start. An error has a place, and none of the text.

mod dotenv;
mod ini;
mod netrc;

use deaddrop_core::contain::contain;
use granit_parser::Parser;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Misfit;

/// Maximum nesting depth of a YAML file, of lists and of mappings.
const MAX_DEPTH: usize = 128;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "format")]
pub enum Format {
    /// Lines of `NAME=VALUE` that systemd (`EnvironmentFile`) and a shell read alike.
    Dotenv,
    /// One JSON value (RFC 8259).
    Json,
    /// YAML 1.2, one document or several.
    Yaml,
    /// `machine`, `login` and `password`, as curl, git and Nix read it.
    Netrc,
    /// `[section]` and `key = value`.
    Ini,
}

/// A syntax error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SyntaxFault {
    /// 1-based.
    line: usize,
    /// 1-based, in characters.
    column: usize,
    /// The message, without any of the text.
    what: &'static str,
    hint: &'static str,
}

impl Format {
    /// Its name in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dotenv => "dotenv",
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Netrc => "netrc",
            Self::Ini => "ini",
        }
    }

    /// Checks that `content` is in this format.
    ///
    /// # Errors
    /// The first syntax error.
    pub fn check(self, content: &[u8]) -> Result<(), Misfit> {
        let checked = match std::str::from_utf8(content) {
            Err(error) => {
                let good = content.get(..error.valid_up_to()).unwrap_or_default();
                Err(fault_at(&String::from_utf8_lossy(good), good.len(), "this is not UTF-8", ""))
            }
            Ok(text) => match self {
                Self::Dotenv => dotenv::check(text),
                Self::Json => json(text),
                Self::Yaml => yaml(text),
                Self::Netrc => netrc::check(text),
                Self::Ini => ini::check(text),
            },
        };
        checked.map_err(|fault| {
            let SyntaxFault { line, column, what, hint } = fault;
            let reason = format!("the file would be no {}: line {line}, column {column} of it: {what}", self.name());
            let hint = if hint.is_empty() {
                "a filter of a template quotes what it has to hold; see docs/templates.md"
            } else {
                hint
            };
            Misfit::new(reason, hint)
        })
    }
}

/// A syntax error at a byte of the text.
fn fault_at(text: &str, byte: usize, what: &'static str, hint: &'static str) -> SyntaxFault {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
    SyntaxFault {
        line: before.matches('\n').count().saturating_add(1),
        column: before[line_start..].chars().count().saturating_add(1),
        what,
        hint,
    }
}

fn json(text: &str) -> Result<(), SyntaxFault> {
    const HINT: &str = "the filter `json` writes a value with its quotes: \"key\": {{ secret('…') | json }}";
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            if error.is_eof() {
                return Err(fault_at(text, text.len(), "it ends too early", HINT));
            }
            // serde_json counts columns in bytes from 1, and 0 before the first one of a line.
            let start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
            let byte = start.saturating_add(error.column().saturating_sub(1));
            Err(fault_at(text, floor(text, byte), "here it stops being JSON", HINT))
        }
    }
}

fn yaml(text: &str) -> Result<(), SyntaxFault> {
    const HINT: &str = "the filter `json` writes a value as YAML reads it: key: {{ secret('…') | json }}";
    let options = granit_parser::options! { block_nesting_limit: MAX_DEPTH, flow_nesting_limit: MAX_DEPTH };
    let mut parser = Parser::new_from_str_with_options(text, options);
    loop {
        match contain(|| parser.next()) {
            Some(Some(Ok(_))) => {}
            Some(None) => return Ok(()),
            Some(Some(Err(error))) => {
                let marker = error.marker();
                let (line, column) = (marker.line(), marker.col().saturating_add(1));
                return Err(SyntaxFault { line, column, what: "here it stops being YAML", hint: HINT });
            }
            None => return Err(SyntaxFault { line: 1, column: 1, what: "the YAML parser fails on it", hint: HINT }),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `line:column message`; empty if the file parses.
    fn complaint(format: Format, content: &[u8]) -> String {
        let Err(misfit) = format.check(content) else { return String::new() };
        let rest = misfit.reason.strip_prefix(&format!("the file would be no {}: line ", format.name())).unwrap();
        let (place, what) = rest.split_once(" of it: ").unwrap();
        format!("{} {what}", place.replace(", column ", ":"))
    }

    fn all(format: Format, table: &[(&str, &str)]) {
        for (content, want) in table {
            assert_eq!(complaint(format, content.as_bytes()), *want, "{content:?}");
        }
    }

    #[test]
    fn json_is_one_value() {
        all(
            Format::Json,
            &[
                ("{\"a\": [1, \"é\", null]}\n", ""),
                ("\"a\"", ""),
                ("", "1:1 it ends too early"),
                ("{\"a\": \"b\"\n", "2:1 it ends too early"),
                ("{\n  \"é\": \"x\"y\"\n}", "2:11 here it stops being JSON"),
                ("{\"a\": \"b\nc\"}", "1:8 here it stops being JSON"),
                ("{}\n{}", "2:1 here it stops being JSON"),
            ],
        );
        assert_eq!(complaint(Format::Json, b"\"a\n\xff\""), "2:1 this is not UTF-8");
        // Deep nesting must not recurse.
        let deep = "[".repeat(1_000_000);
        assert!(complaint(Format::Json, deep.as_bytes()).ends_with("it ends too early"));
    }

    #[test]
    fn yaml_is_any_number_of_documents() {
        all(
            Format::Yaml,
            &[
                ("a: b\nc: [1, 2]\n---\nd: |\n  e\n", ""),
                ("", ""),
                ("a: b: c\n", "1:5 here it stops being YAML"),
                ("a: \"b\nc\n", "1:4 here it stops being YAML"),
                ("a:\n  - b\n c: d\n", "3:2 here it stops being YAML"),
            ],
        );
        let deep = "[".repeat(100_000);
        assert!(complaint(Format::Yaml, deep.as_bytes()).ends_with("here it stops being YAML"));
    }

    #[test]
    fn dotenv_is_what_systemd_and_a_shell_read_alike() {
        all(
            Format::Dotenv,
            &[
                ("# a comment\n\nA=b\n_B1='c d'\nC=\"x \\\" \\\\ \\$ \\` y\"\nD=\n", ""),
                ("A=\"two\nlines\"\nB='two\nlines'\n", ""),
                ("A=b\\ c\n", ""),
                ("A=b", ""),
                ("A", "1:2 a name has no `=` after it"),
                ("1=b\n", "1:1 a name begins with a letter or `_`"),
                ("A B=c\n", "1:2 a name has no `=` after it"),
                ("A =b\n", "1:2 a name has no `=` after it"),
                ("A= b\n", "1:3 white space after the `=`"),
                ("export A=b\n", "1:7 a name has no `=` after it"),
                ("; comment\n", "1:1 a name begins with a letter or `_`"),
                ("# a \\\nA=b\n", "1:5 a comment ends with a backslash"),
                ("A=b c\n", "1:4 white space inside a value without quotes"),
                ("A=b#c\n", "1:4 a character that a shell takes for its own"),
                ("A=b$c\n", "1:4 a character that a shell takes for its own"),
                ("A=~/x\n", "1:3 a character that a shell takes for its own"),
                ("A=b\"c\"\n", "1:4 a quote inside a value"),
                ("A='b'c\n", "1:6 something stands after the closing quote"),
                ("A=\"a$b\"\n", "1:5 a shell would expand what begins here"),
                ("é=b\n", "1:1 a name begins with a letter or `_`"),
                ("A='b\n", "1:3 this quote is never closed"),
                ("A=\"b\\\"\n", "1:3 this quote is never closed"),
                ("A=b\r\n", "1:4 a carriage return"),
                ("A=b\\\n", "1:4 a backslash at the end of a line"),
                ("A='\0'\n", "1:4 a NUL byte"),
            ],
        );
    }

    #[test]
    fn netrc_is_machines_with_logins_and_passwords() {
        all(
            Format::Netrc,
            &[
                ("machine example.org login me password s3cret\n", ""),
                ("# c\nmachine a\n  login b\n  password c\n\nmachine d password e\ndefault login f password g\n", ""),
                ("machine a login b password \"c d\\\"\"\n", ""),
                ("machine a account x\nmacdef init\n put x\n\n", ""),
                ("", "1:1 there is no `machine` in it"),
                ("machine\n", "1:1 nothing stands after this word"),
                ("machine a login\n", "1:11 nothing stands after this word"),
                (
                    "machine a password b c\n",
                    "1:22 neither `machine`, `default`, `login`, `password`, `account` nor `macdef`",
                ),
                ("login a\n", "1:1 this stands before the first `machine`"),
                ("machine a password \"b\n", "1:20 this quote is never closed"),
                ("default login a\nmachine b\n", "2:1 after `default` no machine is found"),
            ],
        );
    }

    #[test]
    fn ini_is_sections_and_keys() {
        all(
            Format::Ini,
            &[
                ("[Interface]\nPrivateKey = a=b=\n; c\n# c\n\n[Peer]\nAllowedIPs=::/0\n", ""),
                ("access-tokens = github.com=x\n", ""),
                ("[a\n", "1:1 a section's name is never closed"),
                ("[]\n", "1:1 a section has no name"),
                ("[a] b\n", "1:5 something stands after a section's name"),
                ("= b\n", "1:1 there is no key before the `=`"),
                ("[a]\nb\n", "2:1 neither a section, a key with `=`, nor a comment"),
                ("a=b\0\n", "1:4 a NUL byte"),
            ],
        );
    }
}
