//! `expect`: conditions on a value. A value that does not fulfil them is refused and never shown; the message only
//! names the condition. Checked after `encoding`, and before `hash` and `newline`.

mod kinds;
mod pem;
mod ssh;

use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Misfit;

/// Maximum length of `regex`, in bytes.
pub const MAX_PATTERN: usize = 4096;
/// Maximum size of a compiled `regex`, and of its automaton, in bytes each.
const MAX_REGEX: usize = 4 << 20;

/// A kind of value with its own form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "expected-kind")]
pub enum ValueKind {
    /// One line of crypt(3) text of a scheme that NixOS accepts, as `mkpasswd` prints it.
    CryptHash,
    /// A private key that ssh(1) and sshd(8) read without a passphrase.
    SshPrivateKey,
    /// One or more PEM blocks: certificates, keys.
    Pem,
    /// A file of age identities, as age-keygen(1) writes it.
    AgeIdentity,
    /// 32 bytes as base64, as `wg genkey` and `wg genpsk` print them.
    WireguardKey,
    /// A token of k3s: a word, or the long form that begins with `K10`.
    K3sToken,
    /// No kind: an SSH private key is neither checked, nor given its last newline.
    None,
}

impl ValueKind {
    /// Its name in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CryptHash => "crypt-hash",
            Self::SshPrivateKey => "ssh-private-key",
            Self::Pem => "pem",
            Self::AgeIdentity => "age-identity",
            Self::WireguardKey => "wireguard-key",
            Self::K3sToken => "k3s-token",
            Self::None => "none",
        }
    }
}

/// A regular expression for a whole value.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a regular expression in the syntax of the crate `regex`, with ASCII character classes.
    ///
    /// # Errors
    /// A message of one sentence.
    pub fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN {
            return Err(format!("a `regex` has at most {MAX_PATTERN} bytes"));
        }
        // Compile it alone first: `a)|(b` would be valid between our parentheses.
        compile(pattern)?;
        compile(&format!(r"\A(?:{pattern})\z")).map(Self)
    }

    fn matches(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).nest_limit(50);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "this `regex` becomes too large".to_owned(),
        // The error text shows the pattern with a mark below it, and the message in its last line.
        error => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            format!("this `regex` cannot be read: {}", reason.strip_prefix("error: ").unwrap_or(reason))
        }
    })
}

const WHICH: &str = "is this the right item and field?";

/// True if the text begins as a private key that SSH uses, and not WireGuard, TLS or age.
#[must_use]
pub fn begins_as_an_ssh_key(value: &[u8]) -> bool {
    ssh::begins_as_a_key(value)
}

/// Checks a value that is taken for an SSH private key without `expect`. `newline`: one will be appended to it. `why`
/// says what makes it one: "a file of this name". Returns the hint about its passphrase, if it has one.
///
/// # Errors
/// Why ssh would not read it.
pub fn check_ssh_key(value: &[u8], newline: bool, why: &str) -> Result<Option<&'static str>, Misfit> {
    let checked = std::str::from_utf8(value).map_err(|_| "it is not text".into());
    match checked.and_then(|text| ssh::check(text, newline)) {
        Ok(ssh::Protection::None) => Ok(None),
        Ok(ssh::Protection::Passphrase) => Ok(Some(ssh::WITHOUT_PASSPHRASE)),
        Err(refused) => {
            let reason = format!("the value is no SSH private key, as {why} is: {}", refused.reason);
            let hint = if refused.hint.is_empty() { WHICH.to_owned() } else { format!("{};", refused.hint) };
            Err(Misfit::new(reason, format!("{hint} `expect: none` writes it without this check")))
        }
    }
}

/// Conditions on a value, all of which must hold.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// The whole value matches it.
    pub regex: Option<Pattern>,
    /// Minimum length, in characters; in bytes if the value is not UTF-8.
    pub min_length: Option<usize>,
    /// The kind of the value.
    pub kind: Option<ValueKind>,
}

impl Expect {
    /// Checks a value. `newline`: one will be appended to it.
    ///
    /// # Errors
    /// The first condition that does not hold.
    pub fn check(&self, value: &[u8], newline: bool) -> Result<(), Misfit> {
        if let Some(kind) = self.kind {
            kinds::check(kind, value, newline).map_err(|refused| {
                let hint = if refused.hint.is_empty() { WHICH } else { refused.hint };
                Misfit::new(format!("the value is no {}, which `expect` wants: {}", kind.name(), refused.reason), hint)
            })?;
        }
        if let Some(least) = self.min_length {
            let length = std::str::from_utf8(value).map_or(value.len(), |text| text.chars().count());
            if length < least {
                return Err(Misfit::new(
                    format!("the value is shorter than `expect` wants (`min_length: {least}`)"),
                    WHICH,
                ));
            }
        }
        if let Some(regex) = &self.regex
            && !regex.matches(value)
        {
            let hint = match value.strip_suffix(b"\n") {
                Some(line) if regex.matches(line) => "it would match without the newline at its end",
                _ => WHICH,
            };
            return Err(Misfit::new("the value does not match the `regex` that `expect` has", hint));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str) -> Expect {
        Expect { regex: Some(Pattern::new(pattern).unwrap()), ..Expect::default() }
    }

    #[test]
    fn a_regex_is_matched_against_the_whole_value() {
        for (pattern, value, fits) in [
            ("[a-z]+", "abc", true),
            ("[a-z]+", "abc1", false),
            ("[a-z]+", "1abc", false),
            ("[a-z]+", "abc\n", false),
            ("a|ab", "ab", true),
            ("", "", true),
            ("", "x", false),
            (r"\w{3}", "é1", false),
            ("(?s).*", "a\nb", true),
            (".*", "a\nb", false),
            ("(?i)ABC", "abc", true),
            ("é", "é", true),
        ] {
            assert_eq!(regex(pattern).check(value.as_bytes(), false).is_ok(), fits, "{pattern:?} {value:?}");
        }
        assert!(regex(r"(?-u:\xff)").check(b"\xff", false).is_ok());
        let misfit = regex("[a-z]+").check(b"hunter\n", false).unwrap_err();
        assert_eq!(misfit.hint, "it would match without the newline at its end");
    }

    #[test]
    fn a_regex_that_cannot_be_read_or_is_too_large_is_told() {
        for (pattern, want) in [
            ("(", "this `regex` cannot be read: unclosed group"),
            ("a)|(b", "this `regex` cannot be read: unopened group"),
            (
                "(?<=a)b",
                "this `regex` cannot be read: look-around, including look-ahead and look-behind, is not supported",
            ),
            ("(?:a{1000}){1000}", "this `regex` becomes too large"),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap_err(), want, "{pattern}");
        }
        for (length, fits) in [(MAX_PATTERN, true), (MAX_PATTERN + 1, false)] {
            assert_eq!(Pattern::new(&"a".repeat(length)).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn the_least_length_is_counted_in_characters_of_text_and_in_bytes_of_others() {
        for (value, fits) in
            [(b"123".as_slice(), false), (b"1234", true), ("äöü".as_bytes(), false), (b"\xff\xff\xff\xff", true)]
        {
            let expect = Expect { min_length: Some(4), ..Expect::default() };
            assert_eq!(expect.check(value, false).is_ok(), fits, "{value:?}");
        }
    }
}
