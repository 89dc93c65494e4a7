//! Checks that a value is of a kind. Each check refuses what the program that reads the file would refuse, and nothing
//! else.

use super::ssh::{self, Protection};
use super::{ValueKind, pem};
use crate::derive::{encoding, password};

/// A value that is not of a kind. Does not contain the value.
pub(super) struct WrongKind {
    pub reason: &'static str,
    /// The hint; may be empty.
    pub hint: &'static str,
}

impl From<&'static str> for WrongKind {
    fn from(reason: &'static str) -> Self {
        Self { reason, hint: "" }
    }
}

/// Checks that `value` is of the kind. `newline`: one will be appended to it.
pub(super) fn check(kind: ValueKind, value: &[u8], newline: bool) -> Result<(), WrongKind> {
    if kind == ValueKind::None {
        return Ok(());
    }
    let text = std::str::from_utf8(value).map_err(|_| "it is not text")?;
    match kind {
        ValueKind::None => Ok(()),
        ValueKind::CryptHash => crypt_hash(value),
        ValueKind::SshPrivateKey => match ssh::check(text, newline)? {
            Protection::None => Ok(()),
            Protection::Passphrase => Err(ssh::PASSPHRASE),
        },
        ValueKind::Pem => pem::blocks(text).map(drop),
        ValueKind::AgeIdentity => age_identity(text),
        ValueKind::WireguardKey => wireguard_key(text),
        ValueKind::K3sToken => k3s_token(text),
    }
}

fn crypt_hash(value: &[u8]) -> Result<(), WrongKind> {
    if password::is_accepted_by_nixos(value) {
        return Ok(());
    }
    Err(match password::recognise(value) {
        Some(_) => {
            WrongKind { reason: "its scheme is one that NixOS does not accept", hint: "mkpasswd -m yescrypt makes one" }
        }
        None => WrongKind {
            reason: "it is not one line of crypt(3) text",
            hint: "mkpasswd -m yescrypt makes one; or have the password hashed with `hash: yescrypt`",
        },
    })
}

/// Lines of identities, comments and empty lines (age-keygen(1); age's README on plugins and hybrid keys).
fn age_identity(text: &str) -> Result<(), WrongKind> {
    let mut lines =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    if lines.peek().is_none() {
        return Err("there is no identity in it".into());
    }
    for line in lines {
        if line.starts_with("age1") {
            return Err("it is a recipient, the public part".into());
        }
        let plugin = line.strip_prefix("AGE-PLUGIN-").or_else(|| line.strip_prefix("AGE-SECRET-KEY-PQ-1"));
        let holds = match plugin {
            // We cannot parse plugin identities, so only the Bech32 alphabet is checked.
            Some(rest) => rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && rest.len() > 6,
            None => line.parse::<age::x25519::Identity>().is_ok(),
        };
        if !holds {
            return Err("a line of it is neither an identity nor a comment".into());
        }
    }
    Ok(())
}

/// wg(8): "32 bytes of base64".
fn wireguard_key(text: &str) -> Result<(), WrongKind> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    // 44 characters, the last of them padding.
    let good = line.len() == 44 && line.ends_with('=');
    let bytes = encoding::base64(line.as_bytes()).ok().filter(|_| good);
    match bytes {
        Some(bytes) if bytes.len() == 32 => Ok(()),
        _ => Err("it is not 32 bytes as base64".into()),
    }
}

/// k3s's documentation, "k3s token": the short form is the password; the long form is `K10`, the hash of the cluster's
/// CA, `::`, and credentials or a bootstrap token.
fn k3s_token(text: &str) -> Result<(), WrongKind> {
    let token = text.strip_suffix('\n').unwrap_or(text);
    if token.is_empty() {
        return Err("it is empty".into());
    }
    if token.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return Err("there is white space in it".into());
    }
    match token.strip_prefix("K10").map(|rest| rest.split_once("::")) {
        None if token.contains("::") => Err("it has `::`, and does not begin with `K10`".into()),
        None => Ok(()),
        Some(None) if token.len() < 60 => Ok(()),
        Some(None) => Err("it begins with `K10`, and has no `::`".into()),
        Some(Some((hash, credentials))) => {
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                Err("between `K10` and `::` is no hash of a CA".into())
            } else if credentials.is_empty() || credentials.ends_with(':') {
                Err("there is nothing after its `::`".into())
            } else {
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason of a refusal; `None` if the value is accepted.
    fn refused(kind: ValueKind, value: &str) -> Option<&'static str> {
        check(kind, value.as_bytes(), false).err().map(|refused| refused.reason)
    }

    #[test]
    fn tokens_of_k3s_are_words_or_have_the_long_form() {
        let hash = "5ab31a8c1c8d4d4f5ab31a8c1c8d4d4f5ab31a8c1c8d4d4f5ab31a8c1c8d4d4f";
        for (token, want) in [
            ("correct-horse".to_owned(), None),
            ("correct-horse\n".to_owned(), None),
            (format!("K10{hash}::server:pass"), None),
            (format!("K10{hash}::abcdef.0123456789abcdef\n"), None),
            (String::new(), Some("it is empty")),
            ("two words".to_owned(), Some("there is white space in it")),
            ("a\n\n".to_owned(), Some("there is white space in it")),
            (format!("K10{hash}"), Some("it begins with `K10`, and has no `::`")),
            ("K10abc::server:x".to_owned(), Some("between `K10` and `::` is no hash of a CA")),
            (format!("K10{hash}::"), Some("there is nothing after its `::`")),
            (format!("K10{hash}::server:"), Some("there is nothing after its `::`")),
            (format!("{hash}::server:x"), Some("it has `::`, and does not begin with `K10`")),
        ] {
            assert_eq!(refused(ValueKind::K3sToken, &token), want, "{token}");
        }
    }

    #[test]
    fn keys_of_wireguard_are_32_bytes() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        for (text, fits) in [
            (key.to_owned(), true),
            (format!("{key}\n"), true),
            (format!("{key}\n\n"), false),
            (format!(" {key}"), false),
            (key[..43].to_owned(), false),
            (key.replace('=', "A"), false),
            (key.replace("mk=", "ml="), false),
            (String::new(), false),
        ] {
            assert_eq!(refused(ValueKind::WireguardKey, &text).is_none(), fits, "{text}");
        }
    }

    #[test]
    fn pem_is_blocks_that_end_as_they_began() {
        let block = "-----BEGIN A B-----\nAAAA\nAAA=\n-----END A B-----\n";
        for (text, want) in [
            (block.to_owned(), None),
            (format!("subject=x\n{block}\n{block}"), None),
            (block.replace('\n', "\r\n"), None),
            (block.trim_end().to_owned(), None),
            (block.replace('\n', " "), Some("it is on one line, and its line breaks are lost")),
            (block.replace('\n', "\\n"), Some("it is on one line, and its line breaks are lost")),
            (block.replace("END A B", "END A"), Some("a block ends as another one than it began")),
            (block.replace("-----END A B-----\n", ""), Some("a block begins and never ends")),
            (block.replace("-----BEGIN A B-----\n", ""), Some("a block ends that did not begin")),
            (block.replace("AAAA", "-----BEGIN A B-----"), Some("a block begins inside another one")),
            (block.replace("AAAA", "A*AA"), Some("a block is not base64")),
            (block.replace("AAAA\nAAA=\n", ""), Some("a block is empty")),
            ("hunter2".to_owned(), Some("it has no line `-----BEGIN …-----`")),
        ] {
            assert_eq!(refused(ValueKind::Pem, &text), want, "{text}");
        }
        assert_eq!(check(ValueKind::Pem, b"\xff", false).err().map(|refused| refused.reason), Some("it is not text"));
    }

    #[test]
    fn identities_of_age_are_told_from_recipients() {
        let identity =
            age::secrecy::ExposeSecret::expose_secret(&age::x25519::Identity::generate().to_string()).to_owned();
        for (text, want) in [
            (identity.clone(), None),
            (format!("# created: 2026\n# public key: age1…\n{identity}\n\n"), None),
            ("AGE-PLUGIN-YUBIKEY-1QQPSYQCZQVZLY\n".to_owned(), None),
            ("# nothing\n".to_owned(), Some("there is no identity in it")),
            (format!("{identity}x"), Some("a line of it is neither an identity nor a comment")),
            ("age1qqqqqqqq".to_owned(), Some("it is a recipient, the public part")),
        ] {
            assert_eq!(refused(ValueKind::AgeIdentity, &text), want);
        }
    }

    #[test]
    fn hashes_are_those_that_nixos_accepts() {
        let hash = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7";
        assert_eq!(refused(ValueKind::CryptHash, hash), None);
        assert_eq!(refused(ValueKind::CryptHash, &format!("{hash}\n")), None);
        assert_eq!(refused(ValueKind::CryptHash, "hunter2"), Some("it is not one line of crypt(3) text"));
        let md5 = "$1$abcdefgh$aaaaaaaaaaaaaaaaaaaaaa";
        assert_eq!(refused(ValueKind::CryptHash, md5), Some("its scheme is one that NixOS does not accept"));
    }
}
