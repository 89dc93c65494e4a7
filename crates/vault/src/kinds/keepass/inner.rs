//! The key stream of protected values, and the inner header of version 4.

use std::io::{self, Read};

use chacha20::ChaCha20;
use deaddrop_core::limits::MAX_VALUE;
use salsa20::Salsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use super::Stop;
use super::xml::NO_BINARY;

/// The fixed nonce of Salsa20.
const SALSA_NONCE: [u8; 8] = [0xe8, 0x30, 0x09, 0x4b, 0x97, 0x20, 0x5d, 0x2a];

/// Maximum length of a field of the inner header other than an attachment, in bytes.
const MAX_FIELD: usize = 1 << 10;

/// The key stream of protected values, from the start of the document.
pub(super) enum Inner {
    /// The values are not encrypted.
    None,
    Salsa(Box<Salsa20>),
    ChaCha(Box<ChaCha20>),
}

impl Inner {
    /// The stream `id` (`InnerRandomStreamID`) with the key `key`.
    ///
    /// # Errors
    /// The stream is unknown.
    pub(super) fn new(id: u32, key: &[u8]) -> Result<Self, Stop> {
        match id {
            0 => Ok(Self::None),
            2 => {
                let key: Zeroizing<[u8; 32]> = Zeroizing::new(Sha256::digest(key).into());
                let cipher = Salsa20::new_from_slices(key.as_slice(), &SALSA_NONCE);
                cipher.map(|cipher| Self::Salsa(Box::new(cipher))).map_err(|_| Stop::Damaged("its header is damaged"))
            }
            3 => {
                let key: Zeroizing<[u8; 64]> = Zeroizing::new(Sha512::digest(key).into());
                let (key, rest) = key.split_at(32);
                let cipher = ChaCha20::new_from_slices(key, rest.get(..12).unwrap_or_default());
                cipher.map(|cipher| Self::ChaCha(Box::new(cipher))).map_err(|_| Stop::Damaged("its header is damaged"))
            }
            _ => Err(Stop::Damaged("its values are encrypted in a way that is not known (Salsa20 and ChaCha20 are)")),
        }
    }

    /// Decrypts the next bytes of the stream.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        match self {
            Self::None => {}
            Self::Salsa(cipher) => cipher.apply_keystream(bytes),
            Self::ChaCha(cipher) => cipher.apply_keystream(bytes),
        }
    }
}

/// The result of reading an inner header.
pub(super) enum InnerHeader {
    /// The key stream; the header was read to its end.
    Stream(Inner),
    /// The wanted attachment.
    Attachment(Zeroizing<Vec<u8>>),
}

/// Reads an inner header: `u8` id, `u32` length, content. 1 is the key stream, 2 its key, 3 an attachment after a byte
/// of flags. With `wanted`, stops at the attachment of this index.
///
/// # Errors
/// The header is damaged, or there is no such attachment.
pub(super) fn header(document: &mut dyn Read, wanted: Option<usize>) -> Result<InnerHeader, Stop> {
    let (mut id, mut key) = (0, Zeroizing::default());
    let mut attachments = 0_usize;
    loop {
        let mut start = [0; 5];
        document.read_exact(&mut start).map_err(|error| failed(&error))?;
        let [kind, length @ ..] = start;
        let length = u64::from(u32::from_le_bytes(length));
        let limit = if kind == 3 { MAX_VALUE.saturating_add(1) } else { MAX_FIELD };
        let mut field = || {
            if usize::try_from(length).map_or(true, |length| length > limit) {
                return Err(Stop::Over("an attachment is over 16 MiB, the longest that is read".to_owned()));
            }
            let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or(0)]);
            document.read_exact(&mut bytes).map_err(|error| failed(&error))?;
            Ok(bytes)
        };
        match kind {
            0 if wanted.is_some() => return Err(Stop::Damaged(NO_BINARY)),
            1 => id = field()?.first_chunk().map(|id| u32::from_le_bytes(*id)).ok_or(DAMAGED)?,
            2 => key = field()?,
            3 if wanted == Some(attachments) => {
                let mut bytes = field()?;
                if bytes.is_empty() {
                    return Err(DAMAGED);
                }
                // Remove the flags.
                bytes.copy_within(1.., 0);
                let length = bytes.len().saturating_sub(1);
                bytes.truncate(length);
                return Ok(InnerHeader::Attachment(bytes));
            }
            _ => {
                let copied = io::copy(&mut document.take(length), &mut io::sink()).map_err(|error| failed(&error))?;
                if copied < length {
                    return Err(DAMAGED);
                }
                if kind == 0 {
                    return Inner::new(id, &key).map(InnerHeader::Stream);
                }
            }
        }
        if kind == 3 {
            attachments = attachments.saturating_add(1);
        }
    }
}

const DAMAGED: Stop = Stop::Damaged("the header inside is damaged");

/// The meaning of an error of the decompressor.
fn failed(error: &io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Stop::Damaged("the document inside is cut off"),
        _ => Stop::Damaged("the document inside is damaged: it cannot be decompressed"),
    }
}
