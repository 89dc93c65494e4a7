//! Tokens of k3s and rke2: their two forms, and what the two programs have in common.
//!
//! k3s-io/k3s: pkg/clientaccess/token.go (forms), pkg/util/token.go, pkg/cli/cmds (directories, ports).

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

/// Maximum length of a token's secret, in bytes: it goes through a line of the node's shell. k3s makes tokens of 32.
const MAX_SECRET: usize = 1024;

/// A program whose servers share a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// k3s.
    K3s,
    /// rke2, which wraps k3s.
    Rke2,
}

impl Cluster {
    /// Its name: of the program, of its directories, and in its URLs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
        }
    }

    /// Its units, of both roles: NixOS's, and those of its own installer.
    #[must_use]
    pub fn units(self) -> &'static [&'static str] {
        match self {
            Self::K3s => &["k3s.service", "k3s-agent.service"],
            Self::Rke2 => &["rke2-server.service", "rke2-agent.service"],
        }
    }
}

/// A token: `SECRET`, or `K10<hash of the CA>::server:SECRET`. Both are the same token, and equal.
#[derive(Debug, Clone)]
pub struct ClusterToken {
    secret: Secret,
    ca: Option<String>,
}

impl PartialEq for ClusterToken {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

impl ClusterToken {
    /// Reads a token's file, without white space at its ends, as k3s does. `None` if it is empty, longer than 1 KiB, or
    /// no word.
    #[must_use]
    pub fn parse(file: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(file.trim_ascii()).ok()?;
        let (ca, credentials) = match text.strip_prefix("K10").and_then(|rest| rest.split_once("::")) {
            Some((ca, credentials)) => (Some(ca), credentials),
            None => (None, text),
        };
        // `USER:SECRET`; the user is not part of it.
        let secret = credentials.split_once(':').map_or(credentials, |(_, secret)| secret);
        let is_word = |character: char| !character.is_whitespace() && !character.is_control();
        if secret.is_empty() || secret.len() > MAX_SECRET || !secret.chars().all(is_word) {
            return None;
        }
        let is_hash = |ca: &&str| ca.len() == 64 && ca.bytes().all(|byte| byte.is_ascii_hexdigit());
        let ca = ca.filter(is_hash).map(str::to_ascii_lowercase);
        Some(Self { secret: Secret::new(secret.as_bytes().to_vec()), ca })
    }

    /// What is compared and sent.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The SHA-256 of the cluster's CA that it names, in lower case.
    #[must_use]
    pub fn ca(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    /// True for `id.secret`, the form of kubeadm's bootstrap tokens: k3s takes it from agents only.
    #[must_use]
    pub fn is_for_agents(&self) -> bool {
        let is_part = |part: &[u8], length: usize| {
            part.len() == length && part.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        match self.secret.expose().split_at_checked(6) {
            Some((id, rest)) => {
                is_part(id, 6) && rest.split_first().is_some_and(|(dot, s)| *dot == b'.' && is_part(s, 16))
            }
            None => false,
        }
    }
}

/// A value as text in double quotes for curl's configuration (curl(1), `--config`), and for a string of JSON in one.
/// The value has no control characters.
#[must_use]
pub fn curl_escaped(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut escaped = Zeroizing::new(Vec::with_capacity(text.len().saturating_mul(2)));
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "5AB31a8c1c8d4d4f5ab31a8c1c8d4d4f5ab31a8c1c8d4d4f5ab31a8c1c8d4d4f";

    #[test]
    fn both_forms_are_one_token() {
        let parse = |text: &str| ClusterToken::parse(text.as_bytes());
        let bare = parse("s3cret").unwrap();
        for text in [format!("K10{CA}::server:s3cret"), " s3cret\n".to_owned(), "server:s3cret".to_owned()] {
            assert_eq!(parse(&text), Some(bare.clone()), "{text}");
        }
        let full = parse(&format!("K10{CA}::server:s3cret\n")).unwrap();
        assert_eq!((full.ca(), bare.ca()), (Some(CA.to_ascii_lowercase().as_str()), None));
        assert_ne!(parse("other"), Some(bare));
        for text in ["", "\n", "a b", "a\0b", "K10x::server:", &"x".repeat(MAX_SECRET + 1)] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert!(parse(&"x".repeat(MAX_SECRET)).is_some());
    }

    #[test]
    fn the_form_of_a_bootstrap_token_is_recognised() {
        for (text, is) in [
            ("abcdef.0123456789abcdef", true),
            ("K10x::abcdef.0123456789abcdef", true),
            ("abcdef.0123456789abcde", false),
            ("abcdeF.0123456789abcdef", false),
            ("abcdef-0123456789abcdef", false),
            ("abcdef.0123456789abcdef0", false),
            ("é.", false),
        ] {
            assert_eq!(ClusterToken::parse(text.as_bytes()).unwrap().is_for_agents(), is, "{text}");
        }
    }

    #[test]
    fn a_value_in_quotes_is_escaped_once() {
        assert_eq!(curl_escaped(br#"a"b\c d"#).as_slice(), br#"a\"b\\c d"#);
    }
}
