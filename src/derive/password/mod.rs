//! Password hashes: one line of crypt(3) text, as `users.users.NAME.hashedPasswordFile` wants it.
//!
//! Hashes are made with libxcrypt's default cost and a random salt, so two runs never make the same text. A hash that
//! stands in a target is therefore kept if it [`verifies`]. That text is hostile input: its cost is read and held
//! against bounds before anything is derived from it.
//!
//! | scheme        | written          | kept, when it verifies         | memory at most |
//! |---------------|------------------|--------------------------------|----------------|
//! | `yescrypt`    | `$y$j9T$`        | `j9T`, `jAT`, `jBT`            | 64 MiB         |
//! | `sha512crypt` | `$6$`, 5000 rounds | 5000 to 100,000 rounds       | none to speak of |
//!
//! A cheaper hash than ours is replaced, as is one that would take longer to verify than the bounds allow.

mod scheme;

use deaddrop_core::secret::Secret;
use sha_crypt::ShaCrypt;
use yescrypt::password_hash::Error;
use yescrypt::{PasswordHasher, PasswordVerifier, Yescrypt};
use zeroize::Zeroizing;

use super::crypt_text::{self, CryptText};

pub use scheme::HashScheme;

/// The longest password, in bytes: `CRYPT_MAX_PASSPHRASE_SIZE` of libxcrypt's crypt.h is 512 with its NUL.
pub const MAX_PASSWORD: usize = 511;

/// What libxcrypt's `crypt_gensalt` writes for yescrypt's cost factors 1 to 7, cheapest first, and whether it is at least
/// our own cost, which is factor 5. Memory is 1, 2, 4, 8, 16, 32, 64 MiB; time grows with it.
const YESCRYPT_COSTS: [(&str, bool); 7] =
    [("j75", false), ("j85", false), ("j7T", false), ("j8T", false), ("j9T", true), ("jAT", true), ("jBT", true)];

/// Rounds of `$6$` that [`verifies`] accepts: from the default, which we write, to what takes a tenth of a second.
const KEPT_ROUNDS: std::ops::RangeInclusive<u32> = 5_000..=100_000;

/// Rounds of `$6$` that [`verify_any`] will work through: from the least that libxcrypt has to a second or so.
const ANY_ROUNDS: std::ops::RangeInclusive<u32> = 1_000..=1_000_000;

/// Why a value cannot be hashed. Printed after the secret's name.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The value is a hash already.
    #[error("the value already is a password hash ({0})")]
    AlreadyHash(&'static str),
    /// An empty password would let anybody in.
    #[error("the password is empty, and its hash would let anybody in")]
    Empty,
    /// A newline at its end, which most files and many copied values have.
    #[error("the password ends in a newline, which nobody can type at a login prompt")]
    EndsInNewline,
    /// A newline or carriage return inside.
    #[error("the password holds a line break, which nobody can type at a login prompt")]
    LineBreak,
    /// crypt(3) reads up to the NUL.
    #[error("the password holds a NUL byte, where crypt(3) ends")]
    Nul,
    /// Over [`MAX_PASSWORD`].
    #[error("the password is over {MAX_PASSWORD} bytes, the longest that crypt(3) takes")]
    TooLong,
    /// The system gives no random bytes.
    #[error("no random salt from the system")]
    Random(#[source] getrandom::Error),
    /// The hash function refuses; with our own parameters it cannot.
    #[error("internal error: the password cannot be hashed")]
    Internal,
}

impl HashError {
    /// What to do about it.
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

/// Makes a hash of a password: one line of crypt(3) text with its newline.
///
/// # Errors
/// The value is no password that somebody could log in with, or is a hash already.
pub fn hash(scheme: HashScheme, password: &Secret) -> Result<Secret, HashError> {
    check(password.expose())?;
    let text = match scheme {
        HashScheme::Yescrypt => {
            // 128 bits, as crypt_gensalt takes.
            let salt = salt::<16>()?;
            let hash = Yescrypt::default().hash_password_with_salt(password.expose(), &salt);
            Zeroizing::new(String::from(hash.map_err(|_| HashError::Internal)?))
        }
        HashScheme::Sha512crypt => {
            // 96 bits: the 16 letters that the format has room for.
            let salt = salt::<12>()?;
            let hash = ShaCrypt::SHA512.hash_password_with_salt(password.expose(), &salt);
            let text = Zeroizing::new(String::from(hash.map_err(|_| HashError::Internal)?));
            // The crate spells the default out, crypt_gensalt does not; both mean the same.
            Zeroizing::new(text.replacen("$rounds=5000$", "$", 1))
        }
    };
    let mut line = Vec::with_capacity(text.len().saturating_add(1));
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    Ok(Secret::new(line))
}

/// The scheme of a password hash: `Some` if `bytes` are exactly one line of crypt(3) text (the final newline may be
/// missing) of a scheme that libxcrypt tells by a prefix. The old DES forms have none, and are not known.
#[must_use]
pub fn recognise(bytes: &[u8]) -> Option<&'static str> {
    crypt_text::parse(bytes).map(|text| text.scheme)
}

/// Schemes that NixOS accepts for a login password; with another one nobody gets in (nixpkgs, users-groups.nix, via
/// libxcrypt's schemes that are strong enough).
const NIXOS_SCHEMES: [&str; 5] = ["yescrypt", "gost-yescrypt", "scrypt", "bcrypt", "sha512crypt"];

/// True if `bytes` may be the content of a `hashedPasswordFile`.
#[must_use]
pub fn is_accepted_by_nixos(bytes: &[u8]) -> bool {
    recognise(bytes).is_some_and(|scheme| NIXOS_SCHEMES.contains(&scheme))
}

/// True if `text`, found in a target, may stay there as the hash of `password`: one line of `scheme`, of a cost within the
/// bounds above, that verifies. Takes at most 64 MiB and some tenths of a second.
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

/// What a text says about a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is a hash of it.
    Matches,
    /// It is not.
    Differs,
    /// It is of a scheme that is not verified here, out of bounds, or no crypt(3) text.
    Unknown,
}

/// Judges the password field of a shadow line (any scheme, no newline), within bounds of 64 MiB and about a second. What
/// locks an account (empty, or starting with `!` or `*`) differs from every password.
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

/// Derives a hash with the parameters and salt of `text`, whose cost has been judged, and compares in constant time.
fn derive(text: &CryptText<'_>, password: &Secret) -> Verdict {
    let password = password.expose();
    // crypt(3) would fail, or hash something else.
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
        // A salt that crypt(3) takes and the crate does not: empty, or of unusual letters.
        Err(_) => Verdict::Unknown,
    }
}

/// Refuses what cannot be a password to hash.
///
/// # Errors
/// Why nobody could log in with it, or that it is a hash already.
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
