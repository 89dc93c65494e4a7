//! Decrypts OpenPGP files encrypted with a passphrase, as `gpg --symmetric` and OpenPGP.js write them.
//!
//! The `pgp` crate decrypts. The number and cost of key derivations are checked first. The crate only sees these
//! packets: keys encrypted with a passphrase, the encrypted data, and inside it one literal, compressed or not. Format:
//! RFC 9580, 3.7.1 (S2K), 4.2 (packet headers), 5.3 (SKESK), 5.13 (SEIPD).

use std::io::BufRead;

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256, Block};
use deaddrop_core::contain::contain;
use deaddrop_core::limits::MIB;
use pgp::composed::{DecryptionOptions, Edata, Esk, Message, PlainSessionKey, decrypt_session_key_with_password};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::SymKeyEncryptedSessionKey;
use pgp::types::{Seipdv1ReadMode, StringToKey};
use zeroize::Zeroizing;

use super::kdf;
use super::password::Password;
use super::read::{self, ReadError};
use crate::KdfLimit;

/// Maximum length of an encrypted file, in bytes: several copies of it are in memory.
pub(crate) const MAX_ENCRYPTED: usize = 96 << 20;

/// Maximum length of the decrypted content, in bytes.
const MAX_PLAIN: usize = 160 << 20;

/// Maximum number of passphrases of a file: each costs a key derivation.
const MAX_KEYS: usize = 4;

/// Maximum memory of Argon2, as the exponent of 2 in KiB: 1 GiB. With the most passes it fills 32 GiB.
const MAX_ARGON2_MEMORY: u8 = 20;

/// The same if the limit is lifted: 2 GiB, which is the crate's own limit.
const MOST_ARGON2_MEMORY: u8 = 21;

/// Maximum passes and lanes of Argon2, which is the crate's own limit.
const MAX_ARGON2: u8 = 32;

/// Maximum nesting of compression. GnuPG and OpenPGP.js write at most one layer.
const MAX_LAYERS: usize = 2;

/// Hint for an unsupported file.
const HINT: &str = "encrypt it with a passphrase, as `gpg --symmetric` does";

/// A file that cannot be decrypted: the message, and a hint.
#[derive(Debug)]
pub(crate) struct OpenPgpError(pub String, pub String);

fn refuse<T>(what: impl Into<String>, hint: &str) -> Result<T, OpenPgpError> {
    Err(OpenPgpError(what.into(), hint.to_owned()))
}

fn damaged() -> OpenPgpError {
    OpenPgpError("the encrypted file is damaged".to_owned(), "export it again".to_owned())
}

/// True if a file that starts with `head` is encrypted by OpenPGP.
pub(crate) fn is_encrypted(head: &[u8]) -> bool {
    let text = head.trim_ascii_start();
    // Binary: the first packet is a key for a passphrase (tag 3) or a public key (tag 1), with a header in either
    // format.
    text.starts_with(b"-----BEGIN PGP MESSAGE") || matches!(head.first(), Some(0x84 | 0x8c | 0xc1 | 0xc3))
}

/// Decrypts `file` with a passphrase.
///
/// # Errors
/// It is not supported, exceeds a limit, is damaged, or the passphrase is wrong.
pub(crate) fn decrypt(file: Zeroizing<Vec<u8>>, passphrase: &mut Password) -> Result<Zeroizing<Vec<u8>>, OpenPgpError> {
    contain(|| open(file, passphrase)).unwrap_or_else(|| Err(damaged()))
}

fn open(file: Zeroizing<Vec<u8>>, passphrase: &mut Password) -> Result<Zeroizing<Vec<u8>>, OpenPgpError> {
    let packets = without_armour(file)?;
    let plain = decrypted(&packets, passphrase)?;
    drop(packets);
    unwrap(plain)
}

/// The decrypted packets of `packets`.
fn decrypted(packets: &[u8], passphrase: &mut Password) -> Result<Zeroizing<Vec<u8>>, OpenPgpError> {
    let data = find_data(packets)?;
    let message = Message::from_bytes(packets).map_err(|_| damaged())?;
    let Message::Encrypted { esk, edata, .. } = message else { return Err(damaged()) };
    let keys: Vec<&SymKeyEncryptedSessionKey> = esk
        .iter()
        .filter_map(|key| match key {
            Esk::SymKeyEncryptedSessionKey(key) => Some(key),
            Esk::PublicKeyEncryptedSessionKey(_) => None,
        })
        .collect();
    if keys.is_empty() {
        return refuse("it is encrypted to a person's key, and not with a passphrase", HINT);
    }
    for key in &keys {
        check_cost(key, passphrase.derivation.limit)?;
    }
    let key = session_key(&keys, &packets[data..], passphrase)?;
    read_data(edata, &key, packets.len())
}

/// The packets of a file, armored or not.
fn without_armour(file: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, OpenPgpError> {
    if !file.trim_ascii_start().starts_with(b"-----") {
        return Ok(file);
    }
    let mut armour = pgp::armor::Dearmor::new(file.trim_ascii_start());
    armour.read_header().map_err(|_| damaged())?;
    // Four characters encode three bytes, and there are line ends, so this suffices.
    let size = file.len() / 4 * 3;
    read::to_end(armour, size, MAX_ENCRYPTED).map_err(|_| damaged())
}

/// Skips the packets before the encrypted data; returns the offset of its body.
fn find_data(packets: &[u8]) -> Result<usize, OpenPgpError> {
    let mut at = 0;
    for _ in 0..=MAX_KEYS {
        let header = PacketHeader::read(packets, at).ok_or_else(damaged)?;
        match header.tag {
            1 | 3 => at = header.end.ok_or_else(damaged)?,
            18 | 20 => return Ok(header.body),
            9 => {
                let what = "it is encrypted without protection against changes, as only old programs did";
                return refuse(what, HINT);
            }
            _ => return refuse("this is OpenPGP, but not an encrypted file", HINT),
        }
    }
    refuse(format!("it is encrypted to over {MAX_KEYS} keys or passphrases, the most that are tried"), HINT)
}

/// A packet header.
struct PacketHeader {
    tag: u8,
    body: usize,
    /// Offset of the next packet; `None` for an indeterminate or partial length.
    end: Option<usize>,
}

impl PacketHeader {
    fn read(packets: &[u8], at: usize) -> Option<Self> {
        let first = *packets.get(at)?;
        let byte = |offset: usize| packets.get(at.checked_add(offset)?).copied().map(usize::from);
        let number = |from: usize, count: usize| {
            (from..from + count).try_fold(0_usize, |sum, offset| Some(sum.checked_mul(256)? | byte(offset)?))
        };
        if first & 0x80 == 0 {
            return None;
        }
        let (tag, size, length) = if first & 0x40 == 0 {
            // Old format: the two lowest bits are the length type.
            let (size, length) = match first & 3 {
                0 => (1, Some(number(1, 1)?)),
                1 => (2, Some(number(1, 2)?)),
                2 => (4, Some(number(1, 4)?)),
                _ => (0, None),
            };
            ((first >> 2) & 0x0f, size, length)
        } else {
            let (size, length) = match byte(1)? {
                one @ ..=191 => (1, Some(one)),
                one @ 192..=223 => (2, Some((one - 192) * 256 + byte(2)? + 192)),
                224..=254 => (1, None),
                _ => (5, Some(number(2, 4)?)),
            };
            (first & 0x3f, size, length)
        };
        let body = at.checked_add(1 + size)?;
        let end = match length {
            Some(length) => Some(body.checked_add(length).filter(|end| *end <= packets.len())?),
            None => None,
        };
        Some(Self { tag, body, end })
    }
}

/// Checks the cost of a key derivation before it runs.
fn check_cost(key: &SymKeyEncryptedSessionKey, limit: KdfLimit) -> Result<(), OpenPgpError> {
    match key.s2k() {
        // Hashes at most 62 MiB: the count is one byte with a 4-bit exponent.
        Some(StringToKey::IteratedAndSalted { .. } | StringToKey::Salted { .. } | StringToKey::Simple { .. }) => Ok(()),
        Some(StringToKey::Argon2 { t, p, m_enc, .. }) => {
            let (most, gib, hint) = match limit.is_lifted() {
                true => (MOST_ARGON2_MEMORY, 2, HINT),
                false => (MAX_ARGON2_MEMORY, 1, kdf::LIFT),
            };
            if *m_enc > most {
                let what = format!(
                    "its key derivation asks for 2^{m_enc} KiB of memory (Argon2), and at most {gib} GiB is given"
                );
                return refuse(what, hint);
            }
            if *t > MAX_ARGON2 || *p > MAX_ARGON2 {
                let what = format!(
                    "its key derivation asks for {t} passes and {p} lanes (Argon2), and at most {MAX_ARGON2} of each \
                    are done"
                );
                return refuse(what, HINT);
            }
            // The crate aborts the process if its allocation fails, so try the same allocation first.
            let mut probe: Vec<u8> = Vec::new();
            if probe.try_reserve_exact(1024_usize << *m_enc).is_err() {
                let what = format!(
                    "there is no memory for its key derivation, which takes {} MiB",
                    (1_usize << *m_enc) / 1024
                );
                return refuse(what, "run it on a machine with more memory");
            }
            Ok(())
        }
        _ => refuse("its key derivation (S2K) is one that is not known", HINT),
    }
}

/// The session key of the encrypted data, whose body starts with `data`.
fn session_key(
    keys: &[&SymKeyEncryptedSessionKey],
    data: &[u8],
    passphrase: &mut Password,
) -> Result<PlainSessionKey, OpenPgpError> {
    loop {
        let secret = pgp::types::Password::from(passphrase.secret().expose());
        for key in keys {
            let derive = || decrypt_session_key_with_password(key, &secret);
            let Ok(session_key) = passphrase.derivation.run("the passphrase of OpenPGP", derive) else { continue };
            if quick_check(&session_key, data) != Some(false) {
                return Ok(session_key);
            }
        }
        if !passphrase.was_wrong() {
            return refuse("its password is wrong", "it is the passphrase of the export, given when it was made");
        }
    }
}

/// CFB mode (SEIPD version 1): bytes 15 and 16 of the plaintext are repeated as 17 and 18. True if they match with
/// `key`; `None` if `data` is another version. One wrong key in 65,536 matches.
fn quick_check(key: &PlainSessionKey, data: &[u8]) -> Option<bool> {
    let PlainSessionKey::V3_4 { sym_alg, key } = key else { return None };
    let [1, data @ ..] = data else { return None };
    let (first, second): (&[u8; 16], &[u8]) = data.split_first_chunk()?;
    let second: &[u8; 2] = second.first_chunk()?;
    let encrypt = |block: &[u8; 16]| -> Option<[u8; 16]> {
        let mut block = Block::from(*block);
        match sym_alg {
            SymmetricKeyAlgorithm::AES128 => Aes128::new_from_slice(key.as_ref()).ok()?.encrypt_block(&mut block),
            SymmetricKeyAlgorithm::AES192 => Aes192::new_from_slice(key.as_ref()).ok()?.encrypt_block(&mut block),
            SymmetricKeyAlgorithm::AES256 => Aes256::new_from_slice(key.as_ref()).ok()?.encrypt_block(&mut block),
            _ => return None,
        }
        Some(block.into())
    };
    let (zero, next) = (encrypt(&[0; 16])?, encrypt(first)?);
    Some((0..2).all(|at| first[14 + at] ^ zero[14 + at] == second[at] ^ next[at]))
}

/// The decrypted packets, read to the end, where the integrity check is.
fn read_data(mut edata: Edata<'_>, key: &PlainSessionKey, size: usize) -> Result<Zeroizing<Vec<u8>>, OpenPgpError> {
    let options = DecryptionOptions::new().enable_gnupg_aead().set_seipdv1_read_mode(Seipdv1ReadMode::Streaming);
    let changed = || {
        let what = "the encrypted file is damaged: its password is right, and its content is not";
        OpenPgpError(what.to_owned(), "export it again".to_owned())
    };
    edata.decrypt_with_options(key, options).map_err(|_| changed())?;
    read_all(edata, size, changed)
}

/// The content of decrypted packets: a literal, possibly compressed.
fn unwrap(mut plain: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, OpenPgpError> {
    for _ in 0..=MAX_LAYERS {
        let tag = PacketHeader::read(&plain, 0).map(|header| header.tag);
        if !matches!(tag, Some(8 | 11)) {
            return refuse("the encrypted file holds something else than a file", HINT);
        }
        let inner = match Message::from_bytes(&plain[..]).map_err(|_| damaged())? {
            Message::Compressed { reader, .. } => {
                let reader = reader.decompress().map_err(|_| damaged())?;
                read_all(reader, plain.len().saturating_mul(2), damaged)?
            }
            literal @ Message::Literal { .. } => return read_all(literal, plain.len(), damaged),
            Message::Signed { .. } | Message::Encrypted { .. } => return Err(damaged()),
        };
        plain = inner;
    }
    refuse("the encrypted file is compressed over and over", HINT)
}

/// Reads all of `reader`; `size` is the expected length in bytes.
fn read_all(
    reader: impl BufRead,
    size: usize,
    broken: impl Fn() -> OpenPgpError,
) -> Result<Zeroizing<Vec<u8>>, OpenPgpError> {
    read::to_end(reader, size, MAX_PLAIN).map_err(|problem| match problem {
        ReadError::Over(_) => {
            let what = format!("the encrypted file holds over {} MiB, the most that is read", MAX_PLAIN / MIB);
            OpenPgpError(what, "export without attachments".to_owned())
        }
        _ => broken(),
    })
}

#[cfg(test)]
mod tests;
