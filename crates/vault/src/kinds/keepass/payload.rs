//! Decrypts the payload to the compressed document, authenticating every block, in one buffer.

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit, StreamCipher};
use chacha20::ChaCha20;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use twofish::Twofish;
use zeroize::Zeroizing;

use super::header::{Bytes, Cipher, Header, Version};
use super::key::Key;

/// A file that is damaged: the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged(pub &'static str);

const CUT_OFF: Damaged = Damaged("the file is cut off");
const DAMAGED: Damaged = Damaged("the file is damaged");
const HEADER: Damaged = Damaged("its header is damaged");

/// Checks that need no key: in version 4, the header's hash.
///
/// # Errors
/// The header is damaged, or the file ends after it.
pub(super) fn check_header(file: &[u8], header: &Header) -> Result<(), Damaged> {
    if header.version != Version::Four {
        return Ok(());
    }
    let (head, rest) = file.split_at_checked(header.length).ok_or(CUT_OFF)?;
    let hash = rest.first_chunk::<32>().ok_or(CUT_OFF)?;
    if Sha256::digest(head).as_slice() == hash { Ok(()) } else { Err(HEADER) }
}

/// True if `transformed`, the derived key, is that of `file`. A version 3 that is damaged at its start has no key.
///
/// # Errors
/// The file is damaged.
pub(super) fn is_key(file: &[u8], header: &Header, transformed: &Key) -> Result<bool, Damaged> {
    let (head, rest) = file.split_at_checked(header.length).ok_or(CUT_OFF)?;
    match &header.version {
        Version::Four => {
            let mut bytes = Bytes(rest);
            let _hash = bytes.array::<32>().ok_or(CUT_OFF)?;
            let own = bytes.array::<32>().ok_or(CUT_OFF)?;
            let made = mac(&hmac_key(header, transformed), u64::MAX, &[head]).ok_or(HEADER)?;
            Ok(made.ct_eq(&own).into())
        }
        Version::Three { start, .. } => {
            let mut first = Zeroizing::new(*rest.first_chunk::<32>().ok_or(CUT_OFF)?);
            decrypt(first.as_mut_slice(), header, &master_key(header, transformed))?;
            Ok(first.as_slice().ct_eq(start).into())
        }
    }
}

/// The decrypted payload of `file`, compressed if its header says so. `transformed` is the derived key, which
/// [`is_key`] has found right.
///
/// # Errors
/// The file is damaged.
pub(super) fn open(
    file: Zeroizing<Vec<u8>>,
    header: &Header,
    transformed: &Key,
) -> Result<Zeroizing<Vec<u8>>, Damaged> {
    let master = master_key(header, transformed);
    match &header.version {
        Version::Four => {
            let mut buffer = file;
            let length = authenticated(&mut buffer, header.length, &hmac_key(header, transformed))?;
            buffer.truncate(length);
            let length = decrypt(&mut buffer, header, &master)?;
            let whole = buffer.get(..length).ok_or(DAMAGED)?;
            let length = unpadded(whole, header.cipher).ok_or(DAMAGED)?;
            buffer.truncate(length);
            Ok(buffer)
        }
        Version::Three { .. } => {
            let mut buffer = file;
            let length = buffer.len().checked_sub(header.length).ok_or(CUT_OFF)?;
            buffer.copy_within(header.length.., 0);
            buffer.truncate(length);
            decrypt(&mut buffer, header, &master)?;
            // After the start bytes, which `is_key` has compared. Padding follows the last block.
            let length = hashed(&mut buffer, 32)?;
            buffer.truncate(length);
            Ok(buffer)
        }
    }
}

/// The key of the payload.
fn master_key(header: &Header, transformed: &Key) -> Key {
    let mut hash = Sha256::new();
    [header.master_seed.as_slice(), transformed.as_slice()].iter().for_each(|part| hash.update(part));
    Zeroizing::new(hash.finalize().into())
}

/// Version 4: the key from which those of the MACs are made.
fn hmac_key(header: &Header, transformed: &Key) -> Zeroizing<[u8; 64]> {
    let mut hash = Sha512::new();
    [header.master_seed.as_slice(), transformed.as_slice(), &[1]].iter().for_each(|part| hash.update(part));
    Zeroizing::new(hash.finalize().into())
}

/// Version 4: the MAC of the block `index`; that of the header has the highest index.
fn mac(hmac_key: &[u8; 64], index: u64, parts: &[&[u8]]) -> Option<[u8; 32]> {
    let mut key = Sha512::new();
    key.update(index.to_le_bytes());
    key.update(hmac_key);
    let key = Zeroizing::new(<[u8; 64]>::from(key.finalize()));
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).ok()?;
    parts.iter().for_each(|part| mac.update(part));
    Some(mac.finalize().into_bytes().into())
}

/// Version 4: checks the MAC of each block. Moves the blocks' content to the start; returns its length.
fn authenticated(buffer: &mut [u8], header: usize, hmac_key: &[u8; 64]) -> Result<usize, Damaged> {
    // After the header's hash and MAC.
    let mut at = header.saturating_add(64);
    let mut end = 0_usize;
    for index in 0_u64.. {
        let mut bytes = Bytes(buffer.get(at..).unwrap_or_default());
        let own = bytes.array::<32>().ok_or(CUT_OFF)?;
        let size = bytes.array::<4>().ok_or(CUT_OFF)?;
        let length = usize::try_from(u32::from_le_bytes(size)).unwrap_or(usize::MAX);
        let block = bytes.take(length).ok_or(CUT_OFF)?;
        let made = mac(hmac_key, index, &[&index.to_le_bytes(), &size, block]).ok_or(DAMAGED)?;
        if !bool::from(made.ct_eq(&own)) {
            return Err(DAMAGED);
        }
        if length == 0 {
            break;
        }
        let start = at.saturating_add(36);
        at = start.saturating_add(length);
        buffer.copy_within(start..at, end);
        end = end.saturating_add(length);
    }
    Ok(end)
}

/// Version 3: checks the blocks from `at` on; before each are its index, SHA-256 and length. The last one is empty, and
/// its hash is zeros. Moves the blocks' content to the start; returns its length.
fn hashed(buffer: &mut [u8], mut at: usize) -> Result<usize, Damaged> {
    let mut end = 0_usize;
    for index in 0_u32.. {
        let mut bytes = Bytes(buffer.get(at..).unwrap_or_default());
        let number = bytes.u32().ok_or(CUT_OFF)?;
        let hash = bytes.array::<32>().ok_or(CUT_OFF)?;
        let length = usize::try_from(bytes.u32().ok_or(CUT_OFF)?).unwrap_or(usize::MAX);
        let block = bytes.take(length).ok_or(CUT_OFF)?;
        let made = if length == 0 { [0; 32] } else { Sha256::digest(block).into() };
        if number != index || made != hash {
            return Err(DAMAGED);
        }
        if length == 0 {
            break;
        }
        let start = at.saturating_add(40);
        at = start.saturating_add(length);
        buffer.copy_within(start..at, end);
        end = end.saturating_add(length);
    }
    Ok(end)
}

/// Decrypts in place; returns the length, less an incomplete cipher block at the end.
fn decrypt(buffer: &mut [u8], header: &Header, key: &Key) -> Result<usize, Damaged> {
    fn cbc<C: BlockCipherDecrypt + KeyInit>(buffer: &mut [u8], key: &Key, iv: &[u8]) -> Result<usize, Damaged>
    where
        cbc::Decryptor<C>: KeyIvInit + BlockModeDecrypt,
    {
        let whole = buffer.len().saturating_sub(buffer.len() % 16);
        let blocks = buffer.get_mut(..whole).ok_or(DAMAGED)?;
        let cipher = cbc::Decryptor::<C>::new_from_slices(key.as_slice(), iv).map_err(|_| HEADER)?;
        cipher.decrypt_padded::<NoPadding>(blocks).map_err(|_| DAMAGED)?;
        Ok(whole)
    }
    match header.cipher {
        Cipher::Aes => cbc::<Aes256>(buffer, key, &header.iv),
        Cipher::Twofish => cbc::<Twofish>(buffer, key, &header.iv),
        Cipher::ChaCha20 => {
            let mut cipher = ChaCha20::new_from_slices(key.as_slice(), &header.iv).map_err(|_| HEADER)?;
            cipher.try_apply_keystream(buffer).map_err(|_| DAMAGED)?;
            Ok(buffer.len())
        }
    }
}

/// The length without PKCS#7 padding, which a stream cipher does not have; `None` if the padding is damaged.
fn unpadded(bytes: &[u8], cipher: Cipher) -> Option<usize> {
    if cipher == Cipher::ChaCha20 {
        return Some(bytes.len());
    }
    let count = usize::from(*bytes.last()?);
    let start = bytes.len().checked_sub(count)?;
    let right = (1..=16).contains(&count) && bytes.get(start..)?.iter().all(|byte| usize::from(*byte) == count);
    right.then_some(start)
}
