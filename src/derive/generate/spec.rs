//! Specs of generated keys, for `generate` in the manifest and `deaddrop generate`.

use deaddrop_core::keys;
use schemars::JsonSchema;
use serde::Deserialize;

/// Suffix of the file with the public part, after the path of the key.
pub const PUBLIC_SUFFIX: &str = ".pub";

/// A kind of key that can be generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "kind-of-key")]
pub enum KeyKind {
    /// The key by which a host shows itself to SSH clients.
    #[serde(rename = "ssh-host-ed25519")]
    SshHostEd25519,
    /// A key that logs in by SSH, such as a deploy key.
    #[serde(rename = "ssh-ed25519")]
    SshEd25519,
    /// A private key of WireGuard.
    #[serde(rename = "wireguard")]
    WireGuard,
    /// An identity of age.
    #[serde(rename = "age")]
    Age,
    /// Random characters.
    #[serde(rename = "token")]
    Token,
}

impl KeyKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::SshHostEd25519, Self::SshEd25519, Self::WireGuard, Self::Age, Self::Token];

    /// Its name in the manifest and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SshHostEd25519 => "ssh-host-ed25519",
            Self::SshEd25519 => "ssh-ed25519",
            Self::WireGuard => "wireguard",
            Self::Age => "age",
            Self::Token => "token",
        }
    }

    /// True if the public part is written to `PATH.pub` by convention.
    #[must_use]
    pub fn has_public_file(self) -> bool {
        matches!(self, Self::SshHostEd25519 | Self::SshEd25519)
    }
}

/// A checked `generate` of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateSpec {
    /// The kind of key with its options.
    pub kind: KeySpec,
    /// The comment of an SSH key; `None`: the names of the secret and the host. Other kinds have none.
    pub comment: Option<String>,
    /// True if each host shall have its own token, so that DD401 does not apply.
    pub per_host: bool,
}

/// A kind of key with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySpec {
    /// [`KeyKind::SshHostEd25519`].
    SshHostEd25519,
    /// [`KeyKind::SshEd25519`].
    SshEd25519,
    /// [`KeyKind::WireGuard`].
    WireGuard,
    /// [`KeyKind::Age`].
    Age,
    /// [`KeyKind::Token`].
    Token(TokenSpec),
}

impl KeySpec {
    /// The kind without options.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self {
            Self::SshHostEd25519 => KeyKind::SshHostEd25519,
            Self::SshEd25519 => KeyKind::SshEd25519,
            Self::WireGuard => KeyKind::WireGuard,
            Self::Age => KeyKind::Age,
            Self::Token(_) => KeyKind::Token,
        }
    }
}

impl GenerateSpec {
    /// Combines the options. `length` and `alphabet` are only valid for a token, `comment` only for an SSH key.
    ///
    /// # Errors
    /// The invalid option, and why.
    pub fn new(
        kind: KeyKind,
        length: Option<u64>,
        alphabet: Option<&str>,
        comment: Option<&str>,
    ) -> Result<Self, WrongKey> {
        let about = |part: KeyPart| WrongKey {
            part,
            message: format!("`{}` has no meaning for `{}`", part.name(), kind.name()),
            hint: match part {
                KeyPart::Comment => "only SSH keys (ssh-ed25519, ssh-host-ed25519) have a comment",
                KeyPart::Length | KeyPart::Alphabet => "only a token has a length and an alphabet",
            },
        };
        let kind_of_key = match kind {
            KeyKind::Token => KeySpec::Token(TokenSpec::new(length, alphabet)?),
            _ if length.is_some() => return Err(about(KeyPart::Length)),
            _ if alphabet.is_some() => return Err(about(KeyPart::Alphabet)),
            KeyKind::SshHostEd25519 => KeySpec::SshHostEd25519,
            KeyKind::SshEd25519 => KeySpec::SshEd25519,
            KeyKind::WireGuard => KeySpec::WireGuard,
            KeyKind::Age => KeySpec::Age,
        };
        match comment {
            Some(_) if !kind.has_public_file() => return Err(about(KeyPart::Comment)),
            Some(comment) => check_comment(comment)?,
            None => {}
        }
        Ok(Self { kind: kind_of_key, comment: comment.map(str::to_owned), per_host: false })
    }
}

/// Length and alphabet of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpec {
    length: usize,
    alphabet: Vec<u8>,
}

impl TokenSpec {
    /// Default length of a token, in characters.
    pub const DEFAULT_LENGTH: u64 = 40;
    /// Maximum length of a token, in characters.
    pub const LONGEST: u64 = 4096;
    /// Minimum number of random bits of a token; below, it can be guessed offline.
    const LEAST_BITS: f64 = 64.0;
    /// Letters and digits need no quotes in a shell, a URL, YAML or an environment file.
    const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

    /// A token of `length` characters, chosen uniformly from `alphabet`.
    ///
    /// # Errors
    /// The length exceeds the limit; the alphabet has a duplicate or a character that is not printable ASCII; or the
    /// token could be guessed.
    fn new(length: Option<u64>, alphabet: Option<&str>) -> Result<Self, WrongKey> {
        let wrong = |part: KeyPart, message: String, hint: &'static str| Err(WrongKey { part, message, hint });
        let alphabet = alphabet.unwrap_or(Self::ALPHANUMERIC);
        if !alphabet.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = "`alphabet` holds something else than printable ASCII".to_owned();
            return wrong(KeyPart::Alphabet, message, "letters, digits and punctuation; no space");
        }
        let mut sorted = alphabet.as_bytes().to_vec();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("`alphabet` holds `{}` twice", char::from(twice[0]));
            return wrong(KeyPart::Alphabet, message, "each character once, so that each is as likely as the others");
        }
        let length = length.unwrap_or(Self::DEFAULT_LENGTH);
        if length > Self::LONGEST {
            let message = format!("`length` is over {}, the longest token", Self::LONGEST);
            return wrong(KeyPart::Length, message, "40 letters and digits are more than anybody can guess");
        }
        // Lossless: at most 94 distinct printable ASCII characters, and a length of at most 4096.
        let bits_each = u32::try_from(sorted.len()).map_or(0.0, f64::from).log2();
        let bits = u32::try_from(length).map_or(0.0, f64::from) * bits_each;
        // An empty alphabet gives minus infinity bits per character.
        if !bits.is_finite() || bits < Self::LEAST_BITS {
            let message = format!(
                "a token of {length} from an alphabet of {} could be guessed: it has under {} random bits",
                sorted.len(),
                Self::LEAST_BITS
            );
            return wrong(KeyPart::Length, message, "make it longer, or give it more characters to choose from");
        }
        Ok(Self { length: usize::try_from(length).unwrap_or(usize::MAX), alphabet: alphabet.as_bytes().to_vec() })
    }

    /// Length, in characters.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The characters: printable ASCII, each once, at least two.
    #[must_use]
    pub fn alphabet(&self) -> &[u8] {
        &self.alphabet
    }
}

/// An option of `generate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPart {
    /// `length`.
    Length,
    /// `alphabet`.
    Alphabet,
    /// `comment`.
    Comment,
}

impl KeyPart {
    /// Its key in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Alphabet => "alphabet",
            Self::Comment => "comment",
        }
    }
}

/// An invalid option of `generate`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WrongKey {
    /// The option.
    pub part: KeyPart,
    /// The message.
    pub message: String,
    /// The hint.
    pub hint: &'static str,
}

/// A comment is the end of a line of authorized_keys.
fn check_comment(comment: &str) -> Result<(), WrongKey> {
    keys::text(comment, "`comment`")
        .map_err(|refusal| refusal.message)
        .and_then(|()| {
            let bounded = comment.len() <= 255 && comment.trim() == comment;
            if bounded { Ok(()) } else { Err("`comment` is over 255 bytes, or begins or ends with a space".to_owned()) }
        })
        .map_err(|message| WrongKey { part: KeyPart::Comment, message, hint: "one line, such as `deploy@node1`" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_could_be_guessed_is_refused() {
        for (name, length, alphabet, want) in [
            ("the default", None, None, None),
            ("64 bits", Some(16), Some("0123456789abcdef"), None),
            (
                "60 bits",
                Some(15),
                Some("0123456789abcdef"),
                Some("a token of 15 from an alphabet of 16 could be guessed: it has under 64 random bits"),
            ),
            (
                "ten letters and digits",
                Some(10),
                None,
                Some("a token of 10 from an alphabet of 62 could be guessed: it has under 64 random bits"),
            ),
            (
                "one character",
                Some(4096),
                Some("x"),
                Some("a token of 4096 from an alphabet of 1 could be guessed: it has under 64 random bits"),
            ),
            (
                "none",
                Some(40),
                Some(""),
                Some("a token of 40 from an alphabet of 0 could be guessed: it has under 64 random bits"),
            ),
            (
                "no length",
                Some(0),
                None,
                Some("a token of 0 from an alphabet of 62 could be guessed: it has under 64 random bits"),
            ),
            ("the longest", Some(4096), None, None),
            ("over it", Some(4097), None, Some("`length` is over 4096, the longest token")),
            ("twice", None, Some("abca"), Some("`alphabet` holds `a` twice")),
            ("a space", None, Some("ab c"), Some("`alphabet` holds something else than printable ASCII")),
            ("a letter of two bytes", None, Some("abé"), Some("`alphabet` holds something else than printable ASCII")),
        ] {
            let made = GenerateSpec::new(KeyKind::Token, length, alphabet, None);
            assert_eq!(made.err().map(|wrong| wrong.message).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn what_has_no_meaning_for_a_kind_is_refused() {
        for kind in KeyKind::ALL {
            let is_token = kind == KeyKind::Token;
            assert_eq!(GenerateSpec::new(kind, Some(40), None, None).is_ok(), is_token, "{kind:?}");
            assert_eq!(GenerateSpec::new(kind, None, Some("0123456789"), None).is_ok(), is_token, "{kind:?}");
            assert_eq!(GenerateSpec::new(kind, None, None, Some("a@b")).is_ok(), kind.has_public_file(), "{kind:?}");
        }
        for comment in ["", " a", "a\nb", &"x".repeat(256)] {
            let wrong = GenerateSpec::new(KeyKind::SshEd25519, None, None, Some(comment)).unwrap_err();
            assert_eq!(wrong.part, KeyPart::Comment, "{comment:?}");
        }
    }
}
