//! Generates keys: once, for a target that has none, and kept from then on. Each kind has the format of the program
//! that uses it, so that a generated key is the same as one made by that program.
//!
//! Called by [`crate::run::desired`] for a target, and by `deaddrop generate` for the vault. Uses no paths and no
//! targets.

mod age_identity;
pub mod private;
mod spec;
pub mod ssh;
mod token;
pub mod wireguard;

use std::time::SystemTime;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

pub use spec::{GenerateSpec, KeyKind, KeyPart, KeySpec, PUBLIC_SUFFIX, TokenSpec, WrongKey};
pub use ssh::SshPublicKey;

/// Maximum length of a file that is checked for an existing key, in bytes. Every kind is below 1 KiB, except a token
/// (at most 4 KiB) and an age identity (which may have other lines).
pub const READ_LIMIT: u64 = 16 << 10;

/// A key and its public part.
pub struct Key {
    /// The content of the file.
    pub private: Secret,
    /// Its public part.
    pub public: Public,
}

/// The public part of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Public {
    /// A key of SSH.
    Ssh(SshPublicKey),
    /// An RSA key of SSH, which is never made: `ssh-rsa AAAA…`.
    Rsa(String),
    /// The output of `wg pubkey`, without its newline.
    WireGuard(String),
    /// The output of `age-keygen -y`, without its newline.
    Age(String),
    /// A token has no public part.
    Nothing,
}

/// Instructions for a target that generates a key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    /// Random characters.
    Token {
        /// Length and alphabet.
        token: TokenSpec,
        /// True to append a newline.
        newline: bool,
    },
    /// An ed25519 key of ssh-keygen.
    Ssh {
        /// The comment.
        comment: String,
    },
    /// The public part of the SSH key generated before it.
    PublicPart,
    /// A private key in the form of `wg genkey`.
    WireGuard,
}

impl Recipe {
    /// The recipe for `spec`. `None` for an age identity, because systems have no program for it. `comment` as for
    /// [`make`]; `newline` as declared for the file.
    #[must_use]
    pub fn of(spec: &GenerateSpec, comment: &str, newline: bool) -> Option<Self> {
        Some(match &spec.kind {
            KeySpec::SshHostEd25519 | KeySpec::SshEd25519 => {
                Self::Ssh { comment: spec.comment.as_deref().unwrap_or(comment).to_owned() }
            }
            KeySpec::WireGuard => Self::WireGuard,
            KeySpec::Token(token) => Self::Token { token: token.clone(), newline },
            KeySpec::Age => return None,
        })
    }
}

/// The content of an existing file, compared with the wanted kind of key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExistingKey {
    /// An empty file, which may be overwritten.
    Empty,
    /// A key of this kind, which is kept.
    Key(Public),
    /// A token of another length or alphabet. It may be in use, and is kept.
    OtherToken,
    /// Anything else, with the reason. It may be in use, and is never overwritten.
    Foreign(&'static str),
}

/// The system returns no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes from the system")]
pub struct NoRandomness(#[source] getrandom::Error);

/// Generates a key. `comment` is used for an SSH key without its own; `now` is the creation time of an age identity.
///
/// # Errors
/// The system returns no random bytes.
pub fn make(spec: &GenerateSpec, comment: &str, now: SystemTime) -> Result<Key, NoRandomness> {
    let (private, public) = match &spec.kind {
        KeySpec::SshHostEd25519 | KeySpec::SshEd25519 => {
            let comment = spec.comment.as_deref().unwrap_or(comment);
            let check = u32::from_ne_bytes(*random::<4>()?);
            let (private, public) = ssh::encode(&*random()?, check, comment);
            (private, Public::Ssh(public))
        }
        KeySpec::WireGuard => {
            let (private, public) = wireguard::encode(random()?);
            (private, Public::WireGuard(public))
        }
        KeySpec::Age => {
            let (private, public) = age_identity::make(now);
            (private, Public::Age(public))
        }
        KeySpec::Token(token) => (token::make(token)?, Public::Nothing),
    };
    Ok(Key { private, public })
}

/// Classifies the content of an existing file for `spec`. The content is hostile input.
#[must_use]
pub fn recognise(spec: &GenerateSpec, content: &[u8]) -> ExistingKey {
    if content.is_empty() {
        return ExistingKey::Empty;
    }
    let public = match &spec.kind {
        KeySpec::SshHostEd25519 | KeySpec::SshEd25519 => ssh::decode(content).map(Public::Ssh),
        KeySpec::WireGuard => wireguard::decode(content).map(Public::WireGuard),
        KeySpec::Age => age_identity::decode(content).map(Public::Age),
        KeySpec::Token(token) if token::fits(token, content) => Ok(Public::Nothing),
        KeySpec::Token(_) => return ExistingKey::OtherToken,
    };
    public.map_or_else(ExistingKey::Foreign, ExistingKey::Key)
}

/// Random bytes from the system.
fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut()).map_err(NoRandomness)?;
    Ok(bytes)
}

/// The age recipient of a 32-byte public key of Curve25519: Bech32 with the prefix `age` (C2SP, age.md, "The X25519
/// recipient type").
fn age_recipient(public: &[u8; 32]) -> String {
    let prefix = bech32::Hrp::parse_unchecked("age");
    // Cannot fail: 32 bytes are far below Bech32's maximum length.
    bech32::encode_lower::<bech32::Bech32>(prefix, public).unwrap_or_default()
}

#[cfg(test)]
mod tests;
