//! Keys that nobody has yet: made once for a target that does not hold one, and kept from then on. Each kind as the
//! program that it is for prints it, so that a key made here and one made by hand are not told apart.
//!
//! Who calls: [`crate::run::desired`] for a target, and `deaddrop generate` for the vault. Knows no paths and no targets.

mod age_identity;
mod spec;
pub mod ssh;
mod token;
pub mod wireguard;

use std::time::SystemTime;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

pub use spec::{GenerateSpec, KeyKind, KeyPart, KeySpec, PUBLIC_SUFFIX, TokenSpec, WrongKey};
pub use ssh::SshPublicKey;

/// The largest file that is looked at for a standing key, in bytes. Each kind is under 1 KiB but a token, which has at
/// most 4 KiB, and an age identity, which may have other lines beside it.
pub const READ_LIMIT: u64 = 16 << 10;

/// A key and its public part.
pub struct Key {
    /// What is written into the file.
    pub private: Secret,
    /// What others may know of it.
    pub public: Public,
}

/// What others may know of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Public {
    /// A key of SSH.
    Ssh(SshPublicKey),
    /// What `wg pubkey` prints, without its newline.
    WireGuard(String),
    /// What `age-keygen -y` prints, without its newline.
    Age(String),
    /// A token has no public part.
    Nothing,
}

/// How a target that makes keys by itself makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    /// Random characters.
    Token {
        /// How many, and which.
        token: TokenSpec,
        /// A newline follows.
        newline: bool,
    },
    /// A key of type ed25519, as ssh-keygen makes it.
    Ssh {
        /// Its comment.
        comment: String,
    },
    /// The public part of the SSH key that is made before it.
    PublicPart,
    /// A private key, as `wg genkey` prints it.
    WireGuard,
}

impl Recipe {
    /// For what `spec` asks for; `None` for an age identity, which no program makes that systems have. `comment` and `newline` as
    /// for [`make`] and the file around it.
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

/// What a file in a target is, looked at as a key of some kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// No bytes: nothing is lost when it is filled.
    Empty,
    /// A key of the kind: it is kept.
    Key(Public),
    /// A token that is not of the length and alphabet asked for: it may be in use, and is kept.
    OtherToken,
    /// Something else, and why it is no such key. It may be in use: it is never overwritten.
    Foreign(&'static str),
}

/// The system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes from the system")]
pub struct NoRandomness(#[source] getrandom::Error);

/// Makes a key. `comment` is that of an SSH key which has none of its own; `now` is when an age identity was made.
///
/// # Errors
/// The system gives no random bytes.
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

/// Looks at a file's content as a key of the kind that `spec` asks for. It is hostile input.
#[must_use]
pub fn recognise(spec: &GenerateSpec, content: &[u8]) -> Standing {
    if content.is_empty() {
        return Standing::Empty;
    }
    let public = match &spec.kind {
        KeySpec::SshHostEd25519 | KeySpec::SshEd25519 => ssh::decode(content).map(Public::Ssh),
        KeySpec::WireGuard => wireguard::decode(content).map(Public::WireGuard),
        KeySpec::Age => age_identity::decode(content).map(Public::Age),
        KeySpec::Token(token) if token::fits(token, content) => Ok(Public::Nothing),
        KeySpec::Token(_) => return Standing::OtherToken,
    };
    public.map_or_else(Standing::Foreign, Standing::Key)
}

/// Random bytes from the system.
fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut()).map_err(NoRandomness)?;
    Ok(bytes)
}

/// A 32-byte public key of Curve25519 as age writes a recipient: Bech32 with the prefix `age`.
/// Specification: C2SP, age.md, "The X25519 recipient type".
fn age_recipient(public: &[u8; 32]) -> String {
    let prefix = bech32::Hrp::parse_unchecked("age");
    // Cannot fail: 32 bytes are far below the longest that Bech32 has.
    bech32::encode_lower::<bech32::Bech32>(prefix, public).unwrap_or_default()
}

#[cfg(test)]
mod tests;
