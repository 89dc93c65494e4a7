//! Decrypts the password-protected JSON export.
//!
//! Format, from bitwarden/clients (`libs/importer/src/importers/bitwarden/`:
//! `bitwarden-password-protected-importer.ts`, `password-protected-kdf-config.ts`; `libs/common`: `enc-string.ts`):
//! `salt` is text, used as its UTF-8 bytes. `kdfType` 0 is PBKDF2-HMAC-SHA256 of the password with the salt; 1 is
//! Argon2id version 0x13 with the SHA-256 of the salt and `kdfMemory` in MiB. Both produce 32 bytes. HKDF-Expand with
//! SHA-256 derives two keys from them, with the infos `enc` and `mac`. An EncString of type 2 is `2.IV|CIPHERTEXT|MAC`
//! in base64: AES-256-CBC with PKCS#7, and HMAC-SHA256 over IV and ciphertext. `encKeyValidation_DO_NOT_EDIT` is a text
//! encrypted with the same keys, and serves to detect a wrong password.

use std::borrow::Cow;
use std::ops::Range;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use deaddrop_core::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::shape::Text;
use crate::KdfLimit;
use crate::input::kdf;
use crate::input::password::Password;

/// Maximum length, in bytes, of a file with JSON escapes, which needs a second buffer. Base64 needs no escapes, so no
/// real export has any.
const MAX_ESCAPED: usize = 64 << 20;

/// Minimum and maximum, as in Bitwarden's own importer. `kdf_limit: none` lifts the maximum.
const PBKDF2_ITERATIONS: (i64, i64) = (5_000, 2_000_000);
const ARGON2_ITERATIONS: (i64, i64) = (2, 10);
/// In MiB.
const ARGON2_MEMORY: (i64, i64) = (16, 1024);
const ARGON2_PARALLELISM: (i64, i64) = (1, 16);

/// An export that cannot be opened.
#[derive(Debug)]
pub(super) enum ProtectedError {
    /// The line and column where it is not JSON, or not such an export.
    Json(usize, usize),
    /// The message and a hint, without a value.
    Refused(String, String),
}

/// The whole file as JSON.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow)]
    salt: Cow<'a, str>,
    kdf_type: Text,
    kdf_iterations: Text,
    #[serde(default)]
    kdf_memory: Text,
    #[serde(default)]
    kdf_parallelism: Text,
    #[serde(rename = "encKeyValidation_DO_NOT_EDIT", borrow)]
    validation: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// The key derivation function and its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kdf {
    Pbkdf2 {
        iterations: u32,
    },
    /// Memory in MiB.
    Argon2id {
        iterations: u32,
        memory: u32,
        parallelism: u32,
    },
}

/// The keys for encryption and for authentication.
struct Keys {
    encryption: Zeroizing<[u8; 32]>,
    authentication: Zeroizing<[u8; 32]>,
}

/// Decrypts the export `file` in place, and returns the JSON inside it: a large export is in memory only once.
///
/// # Errors
/// The file is not such an export, exceeds a limit, or the password is wrong.
pub(super) fn open(
    mut file: Zeroizing<Vec<u8>>,
    password: &mut Password,
) -> Result<Zeroizing<Vec<u8>>, ProtectedError> {
    if file.len() > MAX_ESCAPED && file.contains(&b'\\') {
        let what = "this encrypted export holds escapes, and is over 64 MiB, the longest such that is read";
        return Err(ProtectedError::Refused(what.to_owned(), HINT.to_owned()));
    }
    let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&file);
    let envelope: Envelope<'_> =
        serde_json::from_slice(text).map_err(|error| ProtectedError::Json(error.line(), error.column().max(1)))?;
    // Before deriving a key: whoever wrote the file chose these numbers.
    let kdf = Kdf::new(&envelope, password.derivation.limit)?;
    let validation = EncString::parse(&envelope.validation)?;
    let parts = EncString::parse(&envelope.data)?;

    let mut check = Zeroizing::new(envelope.validation.as_bytes()[validation.ciphertext.clone()].to_vec());
    let length = decode_in_place(&mut check)?;
    let keys = loop {
        let derive = || kdf.derive(password.secret(), envelope.salt.as_bytes());
        let keys = password.derivation.run(&kdf.cost(), derive).map(|key| Keys::new(&key))?;
        if keys.match_mac(&validation, &check[..length]) {
            break keys;
        }
        if !password.was_wrong() {
            let hint = "it is the export's own password, given when it was made; not that of the account";
            return Err(ProtectedError::Refused("its password is wrong".to_owned(), hint.to_owned()));
        }
    };

    let ciphertext = match &envelope.data {
        Cow::Borrowed(data) => {
            let start = data.as_ptr().addr() - file.as_ptr().addr() + parts.ciphertext.start;
            start..start + parts.ciphertext.len()
        }
        Cow::Owned(data) => {
            let data = Zeroizing::new(data.as_bytes()[parts.ciphertext.clone()].to_vec());
            file = data;
            0..file.len()
        }
    };
    let start = ciphertext.start;
    let ciphertext = &mut file[ciphertext];
    let length = decode_in_place(ciphertext)?;
    let ciphertext = &mut ciphertext[..length];
    if !keys.match_mac(&parts, ciphertext) {
        return Err(damaged());
    }
    let decryptor = cbc::Decryptor::<aes::Aes256>::new((&*keys.encryption).into(), (&parts.iv).into());
    let plain = decryptor.decrypt_padded::<Pkcs7>(ciphertext).map_err(|_| damaged())?;
    let length = plain.len();
    // Move the content to the front; the rest of the file is zeroized.
    file.copy_within(start..start + length, 0);
    file[length..].zeroize();
    file.truncate(length);
    Ok(file)
}

/// Hint for a file that Bitwarden did not write like this.
const HINT: &str =
    "export it again: in Bitwarden, Tools, Export vault, file format `.json (encrypted)`, \"Password protected\"";

fn damaged() -> ProtectedError {
    ProtectedError::Refused(
        "the encrypted export is damaged: its password is right, and its content is not".to_owned(),
        HINT.to_owned(),
    )
}

impl Kdf {
    /// The key derivation that an export declares, if it is within bounds.
    fn new(envelope: &Envelope<'_>, limit: KdfLimit) -> Result<Self, ProtectedError> {
        let number = |name: &str, value: &Text, (least, most): (i64, i64)| {
            let wrong = |found: String, hint: &str| {
                let what = format!("its key derivation has `{name}` {found}, and Bitwarden takes {least} to {most}");
                ProtectedError::Refused(what, format!("no Bitwarden program makes such a file; {hint}"))
            };
            let number = value.number().ok_or_else(|| wrong("that is no number".to_owned(), HINT))?;
            match u32::try_from(number) {
                Ok(small) if number >= least && (number <= most || limit.is_lifted()) => Ok(small),
                Ok(_) if number > most => Err(wrong(number.to_string(), kdf::LIFT)),
                _ => Err(wrong(number.to_string(), HINT)),
            }
        };
        let kdf = match envelope.kdf_type.number() {
            Some(0) => {
                Self::Pbkdf2 { iterations: number("kdfIterations", &envelope.kdf_iterations, PBKDF2_ITERATIONS)? }
            }
            Some(1) => Self::Argon2id {
                iterations: number("kdfIterations", &envelope.kdf_iterations, ARGON2_ITERATIONS)?,
                memory: number("kdfMemory", &envelope.kdf_memory, ARGON2_MEMORY)?,
                parallelism: number("kdfParallelism", &envelope.kdf_parallelism, ARGON2_PARALLELISM)?,
            },
            _ => {
                let what = "its key derivation (`kdfType`) is one that is not known: 0 is PBKDF2, 1 is Argon2id";
                return Err(ProtectedError::Refused(what.to_owned(), HINT.to_owned()));
            }
        };
        if let Self::Argon2id { iterations, memory, .. } = kdf {
            let refused = |(what, hint): kdf::Refusal| ProtectedError::Refused(what, hint.to_owned());
            limit.check_memory(u64::from(memory) << 20, iterations.into()).map_err(refused)?;
        }
        Ok(kdf)
    }

    /// What it costs, for the user.
    fn cost(self) -> String {
        match self {
            Self::Pbkdf2 { iterations } => format!("{iterations} iterations of PBKDF2"),
            Self::Argon2id { iterations, memory, .. } => format!("{iterations} passes of Argon2 over {memory} MiB"),
        }
    }

    /// Derives the key from a password.
    fn derive(self, password: &Secret, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, ProtectedError> {
        let mut key = Zeroizing::new([0; 32]);
        match self {
            Self::Pbkdf2 { iterations } => {
                // OK to unwrap: HMAC accepts a key of any length, and PBKDF2 rejects only an empty output.
                pbkdf2::pbkdf2::<Hmac<Sha256>>(password.expose(), salt, iterations, &mut *key).unwrap();
            }
            Self::Argon2id { iterations, memory, parallelism } => {
                let salt = Sha256::digest(salt);
                let params = Params::new(memory.saturating_mul(1024), iterations, parallelism, Some(32));
                // Bitwarden's bounds are within those of Argon2 (8 KiB of memory a lane, one iteration).
                let params = params.map_err(|_| {
                    let what = "its key derivation has numbers that Argon2 does not take";
                    ProtectedError::Refused(what.to_owned(), HINT.to_owned())
                })?;
                let mut blocks: Vec<Block> = Vec::new();
                let count = params.block_count();
                blocks.try_reserve_exact(count).map_err(|_| {
                    let what =
                        format!("there is no memory for its key derivation, which takes {memory} MiB (`kdfMemory`)");
                    ProtectedError::Refused(what, "run it on a machine with more memory".to_owned())
                })?;
                blocks.resize(count, Block::default());
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                let done = argon2.hash_password_into_with_memory(password.expose(), &salt, &mut *key, &mut blocks);
                // Fails only for a password over 4 GiB.
                done.map_err(|_| ProtectedError::Refused("its password cannot be used".to_owned(), String::new()))?;
            }
        }
        Ok(key)
    }
}

impl Keys {
    /// HKDF-Expand (RFC 5869, 2.3) to 32 bytes, the length of its hash: one HMAC.
    fn new(key: &[u8; 32]) -> Self {
        let expand = |info: &[u8]| {
            let mut mac = hmac(key);
            mac.update(info);
            mac.update(&[1]);
            Zeroizing::new(mac.finalize().into_bytes().into())
        };
        Self { encryption: expand(b"enc"), authentication: expand(b"mac") }
    }

    /// True if `ciphertext` is authentic. Constant-time.
    fn match_mac(&self, parts: &EncString, ciphertext: &[u8]) -> bool {
        let mut mac = hmac(&self.authentication);
        mac.update(&parts.iv);
        mac.update(ciphertext);
        mac.verify_slice(&parts.mac).is_ok()
    }
}

fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    // OK to unwrap: HMAC accepts a key of any length.
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap()
}

/// An EncString: the position of its base64 ciphertext in the file, its IV and its MAC.
struct EncString {
    iv: [u8; 16],
    ciphertext: Range<usize>,
    mac: [u8; 32],
}

impl EncString {
    fn parse(text: &str) -> Result<Self, ProtectedError> {
        let refuse = |what: &str| ProtectedError::Refused(what.to_owned(), HINT.to_owned());
        let broken = || refuse("the encrypted export is damaged: this is not how Bitwarden writes encrypted text");
        let (kind, rest) = text.split_once('.').ok_or_else(broken)?;
        if kind != "2" {
            return Err(refuse(
                "it is encrypted in a way that is not known: not with AES-256-CBC and HMAC-SHA256 (type 2)",
            ));
        }
        let (iv, rest) = rest.split_once('|').ok_or_else(broken)?;
        let (ciphertext, mac) = rest.split_once('|').ok_or_else(broken)?;
        let start = kind.len() + 1 + iv.len() + 1;
        Ok(Self {
            iv: decode_exactly(iv).ok_or_else(broken)?,
            ciphertext: start..start + ciphertext.len(),
            mac: decode_exactly(mac).ok_or_else(broken)?,
        })
    }
}

/// Decodes base64 of exactly `N` bytes.
fn decode_exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut buffer = [0; 48];
    let count = BASE64.decode_slice(text, &mut buffer).ok()?;
    buffer[..count].try_into().ok()
}

/// Decodes base64 in place, to the start of `text`. Returns the length in bytes.
fn decode_in_place(text: &mut [u8]) -> Result<usize, ProtectedError> {
    /// Four characters encode three bytes, so writing never overtakes reading.
    const PIECE: usize = 48 << 10;
    let mut piece = Zeroizing::new(vec![0; PIECE]);
    let (mut read, mut written) = (0, 0);
    while read < text.len() {
        let end = text.len().min(read + PIECE);
        let count = BASE64.decode_slice(&text[read..end], &mut piece).map_err(|_| damaged_text())?;
        // Only the last piece may end with padding.
        if count != (end - read) / 4 * 3 && end != text.len() {
            return Err(damaged_text());
        }
        text[written..written + count].copy_from_slice(&piece[..count]);
        (read, written) = (end, written + count);
    }
    Ok(written)
}

fn damaged_text() -> ProtectedError {
    ProtectedError::Refused(
        "the encrypted export is damaged: it holds something else than base64".to_owned(),
        HINT.to_owned(),
    )
}
