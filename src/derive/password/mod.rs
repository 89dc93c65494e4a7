//! Password hashes: one line of crypt(3) text, for `users.users.NAME.hashedPasswordFile`.
//!
//! Hashes have libxcrypt's default cost and a random salt, so two runs never generate the same text. An existing hash
//! in a target is therefore kept if it [`verifies`]. That text is hostile input: its cost is checked before anything is
//! derived from it.
//!
//! | scheme        | written          | kept, if it verifies           | memory at most |
//! |---------------|------------------|--------------------------------|----------------|
//! | `yescrypt`    | `$y$j9T$`        | `j9T`, `jAT`, `jBT`            | 64 MiB         |
//! | `sha512crypt` | `$6$`, 5000 rounds | 5000 to 100,000 rounds       | negligible     |
//!
//! A hash that is cheaper than ours is replaced, and also one that exceeds the bounds.

mod scheme;

use deaddrop_core::secret::Secret;
use sha_crypt::ShaCrypt;
use yescrypt::password_hash::Error;
use yescrypt::{PasswordHasher, PasswordVerifier, Yescrypt};
use zeroize::Zeroizing;

use super::crypt_text::{self, CryptText};

pub use scheme::HashScheme;

/// Maximum length of a password, in bytes: `CRYPT_MAX_PASSPHRASE_SIZE` of libxcrypt's crypt.h is 512 including the NUL.
pub const MAX_PASSWORD: usize = 511;

/// Parameters that libxcrypt's `crypt_gensalt` writes for yescrypt's cost factors 1 to 7, in ascending order. True if
/// the cost is at least our own, factor 5. Memory is 1, 2, 4, 8, 16, 32, 64 MiB; time is proportional.
const YESCRYPT_COSTS: [(&str, bool); 7] =
    [("j75", false), ("j85", false), ("j7T", false), ("j8T", false), ("j9T", true), ("jAT", true), ("jBT", true)];

/// Rounds of `$6$` that [`verifies`] accepts: from the default, which we write, to about a tenth of a second.
const KEPT_ROUNDS: std::ops::RangeInclusive<u32> = 5_000..=100_000;

/// Rounds of `$6$` that [`verify_any`] computes: from libxcrypt's minimum to about a second.
const ANY_ROUNDS: std::ops::RangeInclusive<u32> = 1_000..=1_000_000;

/// A value that cannot be hashed. Printed after the secret's name.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The value is already a hash.
    #[error("the value already is a password hash ({0})")]
    AlreadyHash(&'static str),
    /// The value is empty.
    #[error("the password is empty, and its hash would let anybody in")]
    Empty,
    /// The value has a final newline, as most files and many copied values do.
    #[error("the password ends in a newline, which nobody can type at a login prompt")]
    EndsInNewline,
    /// The value contains a newline or carriage return.
    #[error("the password holds a line break, which nobody can type at a login prompt")]
    LineBreak,
    /// The value contains a NUL, where crypt(3) stops.
    #[error("the password holds a NUL byte, where crypt(3) ends")]
    Nul,
    /// The value exceeds [`MAX_PASSWORD`].
    #[error("the password is over {MAX_PASSWORD} bytes, the longest that crypt(3) takes")]
    TooLong,
    /// The system returns no random bytes.
    #[error("no random salt from the system")]
    Random(#[source] getrandom::Error),
    /// The hash function fails, which is impossible with our own parameters.
    #[error("internal error: the password cannot be hashed")]
    Internal,
}

impl HashError {
    /// The hint.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AlreadyHash(_) => Some("drop `hash:`; the value is written as it is"),
            Self::Empty => {
                Some("for no password at all, leave hashedPasswordFile out; `allow_empty` does not apply to `hash`")
            }
            Self::EndsInNewline => Some("take the newline out of the source"),
            Self::LineBreak | Self::Nul | Self::TooLong => Some("is this the right item and field?"),
            Self::Random(_) | Self::Internal => None,
        }
    }
}

/// Hashes a password: one line of crypt(3) text with its newline.
///
/// # Errors
/// Nobody could log in with this password, or it is already a hash.
pub fn hash(scheme: HashScheme, password: &Secret) -> Result<Secret, HashError> {
    check(password.expose())?;
    let text = match scheme {
        HashScheme::Yescrypt => {
            // 128 bits, as crypt_gensalt uses.
            let salt = salt::<16>()?;
            let hash = Yescrypt::default().hash_password_with_salt(password.expose(), &salt);
            Zeroizing::new(String::from(hash.map_err(|_| HashError::Internal)?))
        }
        HashScheme::Sha512crypt => {
            // 96 bits: the 16 characters of the format's salt.
            let salt = salt::<12>()?;
            let hash = ShaCrypt::SHA512.hash_password_with_salt(password.expose(), &salt);
            let text = Zeroizing::new(String::from(hash.map_err(|_| HashError::Internal)?));
            // The crate writes the default explicitly, crypt_gensalt omits it; both mean the same.
            Zeroizing::new(text.replacen("$rounds=5000$", "$", 1))
        }
    };
    let mut line = Vec::with_capacity(text.len().saturating_add(1));
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    Ok(Secret::new(line))
}

/// The scheme of `bytes`, if they are exactly one line of crypt(3) text (with or without its newline) of a scheme with
/// a prefix in libxcrypt. The old DES forms have no prefix, and are not recognised.
#[must_use]
pub fn recognise(bytes: &[u8]) -> Option<&'static str> {
    crypt_text::parse(bytes).map(|text| text.scheme)
}

/// Schemes that NixOS accepts for login passwords (nixpkgs, users-groups.nix: libxcrypt's strong schemes).
const NIXOS_SCHEMES: [&str; 5] = ["yescrypt", "gost-yescrypt", "scrypt", "bcrypt", "sha512crypt"];

/// True if `bytes` are valid content of a `hashedPasswordFile`.
#[must_use]
pub fn is_accepted_by_nixos(bytes: &[u8]) -> bool {
    recognise(bytes).is_some_and(|scheme| NIXOS_SCHEMES.contains(&scheme))
}

/// True if the existing `text` is kept as the hash of `password`: one line of `scheme`, with a cost within the bounds
/// above, that verifies. Takes at most 64 MiB and some tenths of a second.
#[must_use]
pub fn verifies(text: &[u8], scheme: HashScheme, password: &Secret) -> bool {
    let Some(text) = crypt_text::parse(text) else { return false };
    let fits = match scheme {
        HashScheme::Yescrypt => text.scheme == "yescrypt" && YESCRYPT_COSTS.contains(&(text.parameters, true)),
        HashScheme::Sha512crypt => {
            text.scheme == "sha512crypt" && rounds(&text).is_some_and(|rounds| KEPT_ROUNDS.contains(&rounds))
        }
    };
    fits && derive(&text, password) == Verdict::Matches
}

/// The result of comparing a hash with a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is a hash of the password.
    Matches,
    /// It is not.
    Differs,
    /// The scheme cannot be verified here, its cost exceeds the bounds, or the text is not crypt(3) text.
    Unknown,
}

/// Compares the password field of a shadow line (any scheme, no newline) with `password`, within 64 MiB and about a
/// second. A field that locks the account (empty, or starting with `!` or `*`) differs from every password.
#[must_use]
pub fn verify_any(field: &[u8], password: &Secret) -> Verdict {
    if matches!(field.first(), None | Some(b'!' | b'*')) {
        return Verdict::Differs;
    }
    let Some(text) = crypt_text::parse(field) else { return Verdict::Unknown };
    let bounded = match text.scheme {
        "yescrypt" => YESCRYPT_COSTS.iter().any(|(cost, _)| *cost == text.parameters),
        "sha512crypt" => rounds(&text).is_some_and(|rounds| ANY_ROUNDS.contains(&rounds)),
        _ => false,
    };
    if bounded { derive(&text, password) } else { Verdict::Unknown }
}

/// The rounds of a `$6$` text.
fn rounds(text: &CryptText<'_>) -> Option<u32> {
    if text.parameters.is_empty() { Some(sha_crypt::Params::RECOMMENDED_ROUNDS) } else { text.parameters.parse().ok() }
}

/// Derives a hash with the parameters and salt of `text`, whose cost has been checked, and compares in constant time.
fn derive(text: &CryptText<'_>, password: &Secret) -> Verdict {
    let password = password.expose();
    // crypt(3) would fail, or hash only a part.
    if password.len() > MAX_PASSWORD || password.contains(&0) {
        return Verdict::Differs;
    }
    let result = match text.scheme {
        "yescrypt" => Yescrypt::default().verify_password(password, text.text),
        "sha512crypt" => ShaCrypt::SHA512.verify_password(password, text.text),
        _ => return Verdict::Unknown,
    };
    match result {
        Ok(()) => Verdict::Matches,
        Err(Error::PasswordInvalid) => Verdict::Differs,
        // crypt(3) accepts this salt and the crate does not: it is empty, or has unusual characters.
        Err(_) => Verdict::Unknown,
    }
}

/// Checks that a value can be hashed as a password.
///
/// # Errors
/// Nobody could log in with it, or it is already a hash.
pub fn check(password: &[u8]) -> Result<(), HashError> {
    if let Some(scheme) = recognise(password) {
        return Err(HashError::AlreadyHash(scheme));
    }
    match password {
        [] => Err(HashError::Empty),
        _ if password.contains(&0) => Err(HashError::Nul),
        [inside @ .., b'\n'] if !inside.contains(&b'\n') => Err(HashError::EndsInNewline),
        _ if password.iter().any(|byte| matches!(byte, b'\n' | b'\r')) => Err(HashError::LineBreak),
        _ if password.len() > MAX_PASSWORD => Err(HashError::TooLong),
        _ => Ok(()),
    }
}

/// Random bytes from the system.
fn salt<const N: usize>() -> Result<[u8; N], HashError> {
    let mut salt = [0; N];
    getrandom::fill(&mut salt).map_err(HashError::Random)?;
    Ok(salt)
}

#[cfg(test)]
mod tests;
