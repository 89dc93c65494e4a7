//! SSH keys of type ed25519, as `ssh-keygen -t ed25519 -N ''` writes them.
//!
//! File: OpenSSH, PROTOCOL.key ("openssh-key-v1"). Public part: RFC 8709 (blob), sshd(8), "AUTHORIZED_KEYS FILE FORMAT"
//! (line). Key: RFC 8032, section 5.1.5.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use deaddrop_core::secret::Secret;
use sha2::{Digest, Sha512};
use zeroize::{Zeroize, Zeroizing};

const MAGIC: &[u8] = b"openssh-key-v1\0";
const TYPE: &[u8] = b"ssh-ed25519";
const RSA_TYPE: &[u8] = b"ssh-rsa";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
const END: &str = "-----END OPENSSH PRIVATE KEY-----\n";
/// Characters of base64 per line: the wrap of sshbuf_dtob64.
const LINE: usize = 70;
/// The private section is padded to a multiple of this: the block size of the cipher `none`.
const BLOCK: usize = 8;
/// Upper bound for the length of a key without its comment, in bytes, in every form.
const ROOM: usize = 1024;

/// The public part of an SSH key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPublicKey {
    point: [u8; 32],
    comment: String,
}

impl SshPublicKey {
    /// Type and key, as in known_hosts and authorized_keys: `ssh-ed25519 AAAA…`.
    #[must_use]
    pub fn without_comment(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(blob(&self.point)))
    }

    /// The key's wire form: type and point (RFC 8709, section 4).
    #[must_use]
    pub fn blob(&self) -> Vec<u8> {
        blob(&self.point)
    }

    /// The line of a `.pub` file, without its newline.
    #[must_use]
    pub fn line(&self) -> String {
        let key = self.without_comment();
        if self.comment.is_empty() { key } else { format!("{key} {}", self.comment) }
    }

    /// The comment; empty if there is none, or none that is safe to show.
    #[must_use]
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// True if `content` is one line of a `.pub` file with this key, with any comment.
    #[must_use]
    pub fn is_in(&self, content: &[u8]) -> bool {
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let rest = line.strip_prefix(self.without_comment().as_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b' ')) && !rest.contains(&b'\n'))
    }

    /// The age recipient of the key, as `ssh-to-age` prints it: the same point on the Montgomery curve. `None` if the
    /// bytes are not a point of the curve, for which no private key is known.
    #[must_use]
    pub fn age_recipient(&self) -> Option<String> {
        let point = CompressedEdwardsY(self.point).decompress()?;
        Some(super::age_recipient(&point.to_montgomery().to_bytes()))
    }

    /// Parses a line of a `.pub` file; `None` if it is not an ed25519 key.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ').skip(1);
        let read = STANDARD.decode(words.next()?).ok()?;
        let point = *read.last_chunk::<32>()?;
        let key = Self { point, comment: shown_comment(words.next().unwrap_or_default().as_bytes()) };
        (read == blob(&point) && line.starts_with(&key.without_comment())).then_some(key)
    }
}

/// The private file and the public part for a seed. `check` may be any number; it is stored twice, so that decryption
/// can detect a wrong passphrase.
pub(super) fn encode(seed: &[u8; 32], check: u32, comment: &str) -> (Secret, SshPublicKey) {
    let point = public_point(seed);
    let room = ROOM.saturating_add(comment.len().saturating_mul(2));
    let mut inner = Zeroizing::new(Vec::with_capacity(room));
    inner.extend_from_slice(&check.to_be_bytes());
    inner.extend_from_slice(&check.to_be_bytes());
    put_string(&mut inner, TYPE);
    put_string(&mut inner, &point);
    let mut both = Zeroizing::new([0; 64]);
    both[..32].copy_from_slice(seed);
    both[32..].copy_from_slice(&point);
    put_string(&mut inner, both.as_slice());
    put_string(&mut inner, comment.as_bytes());
    for filling in 1..=u8::MAX {
        if inner.len().is_multiple_of(BLOCK) {
            break;
        }
        inner.push(filling);
    }

    let mut outer = Zeroizing::new(Vec::with_capacity(room));
    outer.extend_from_slice(MAGIC);
    put_string(&mut outer, b"none");
    put_string(&mut outer, b"none");
    put_string(&mut outer, b"");
    outer.extend_from_slice(&1_u32.to_be_bytes());
    put_string(&mut outer, &blob(&point));
    put_string(&mut outer, &inner);

    let base64 = Zeroizing::new(STANDARD.encode(&*outer));
    let mut text = Zeroizing::new(Vec::with_capacity(room.saturating_mul(2)));
    text.extend_from_slice(BEGIN.as_bytes());
    for line in base64.as_bytes().chunks(LINE) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(END.as_bytes());
    (Secret::new(std::mem::take(&mut *text)), SshPublicKey { point, comment: comment.to_owned() })
}

/// Reason: not in OpenSSH's format.
pub const NO_FORMAT: &str = "it is no private key in OpenSSH's format";
/// Reason: protected by a passphrase.
pub const PASSPHRASE: &str = "it is a key that a passphrase protects";
/// Reason: RSA, ECDSA, …
pub const OTHER_TYPE: &str = "it is an SSH key of another type";
/// Reason: damaged.
pub const DAMAGED: &str = "it is a damaged key of OpenSSH";

/// The public part of a private file with one ed25519 key and no passphrase.
///
/// # Errors
/// One of the reasons above.
pub(super) fn decode(file: &[u8]) -> Result<SshPublicKey, &'static str> {
    let outer = unwrap(file).ok_or(NO_FORMAT)?;
    let mut rest = outer.strip_prefix(MAGIC).ok_or(DAMAGED)?;
    let (cipher, kdf) = (string(&mut rest).ok_or(DAMAGED)?, string(&mut rest).ok_or(DAMAGED)?);
    if cipher != b"none" || kdf != b"none" {
        return Err(PASSPHRASE);
    }
    let _options = string(&mut rest).ok_or(DAMAGED)?;
    if number(&mut rest).ok_or(DAMAGED)? != 1 {
        return Err("it holds several keys");
    }
    let public = string(&mut rest).ok_or(DAMAGED)?;
    let mut inner = string(&mut rest).ok_or(DAMAGED)?;
    let (check, again) = (number(&mut inner).ok_or(DAMAGED)?, number(&mut inner).ok_or(DAMAGED)?);
    if check != again || !rest.is_empty() {
        return Err(DAMAGED);
    }
    if string(&mut inner).ok_or(DAMAGED)? != TYPE {
        return Err(OTHER_TYPE);
    }
    let point: [u8; 32] = string(&mut inner).and_then(|point| point.try_into().ok()).ok_or(DAMAGED)?;
    let both = string(&mut inner).ok_or(DAMAGED)?;
    let comment = string(&mut inner).ok_or(DAMAGED)?;
    let (seed, last) = both.split_first_chunk::<32>().ok_or(DAMAGED)?;
    let is_filled = inner.iter().zip(1..=u8::MAX).all(|(byte, filling)| *byte == filling) && inner.len() < BLOCK;
    if last != point || public != blob(&point) || !is_filled || public_point(seed) != point {
        return Err(DAMAGED);
    }
    Ok(SshPublicKey { point, comment: shown_comment(comment) })
}

/// The wire form of the public part of an RSA key without a passphrase, in OpenSSH's format; `None` for anything else.
/// The private part is not checked.
pub(super) fn rsa_blob(file: &[u8]) -> Option<Vec<u8>> {
    let outer = unwrap(file)?;
    let mut rest = outer.strip_prefix(MAGIC)?;
    let (cipher, kdf, _options) = (string(&mut rest)?, string(&mut rest)?, string(&mut rest)?);
    if cipher != b"none" || kdf != b"none" || number(&mut rest)? != 1 {
        return None;
    }
    let public = string(&mut rest)?;
    let mut parts = public;
    (string(&mut parts)? == RSA_TYPE).then(|| public.to_vec())
}

/// The wire form of an RSA key (RFC 4253, section 6.6) with these numbers, which are as in an `mpint`.
pub(super) fn rsa_blob_of(exponent: &[u8], modulus: &[u8]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(ROOM);
    [RSA_TYPE, exponent, modulus].iter().for_each(|part| put_string(&mut blob, part));
    blob
}

/// The comment if it is safe for a line, otherwise empty: it comes from a foreign file, and is written to other files.
fn shown_comment(comment: &[u8]) -> String {
    let text = std::str::from_utf8(comment).unwrap_or_default();
    let fits = text.len() <= 255 && deaddrop_core::text::shown_text(text).as_deref() == Some(text);
    if fits { text.to_owned() } else { String::new() }
}

/// The decoded content between the first and the last line.
fn unwrap(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let body = file.strip_prefix(BEGIN.trim_end().as_bytes())?;
    let end = body.windows(END.len().saturating_sub(1)).position(|window| window == END.trim_end().as_bytes())?;
    let base64: Zeroizing<Vec<u8>> =
        Zeroizing::new(body.get(..end)?.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    STANDARD.decode(&*base64).ok().map(Zeroizing::new)
}

/// RFC 8032, 5.1.5: the clamped lower half of the seed's SHA-512, times the base point.
fn public_point(seed: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha512::digest(seed);
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&hash[..32]);
    hash.as_mut_slice().zeroize();
    EdwardsPoint::mul_base_clamped(*scalar).compress().to_bytes()
}

/// RFC 8709, section 4: the type's name and the point, each as a string of RFC 4251.
fn blob(point: &[u8; 32]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(64);
    put_string(&mut blob, TYPE);
    put_string(&mut blob, point);
    blob
}

/// RFC 4251, section 5, `string`: a 32-bit big-endian length, and the bytes. All strings here are short.
fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(bytes);
}

fn number(from: &mut &[u8]) -> Option<u32> {
    let (number, rest) = from.split_first_chunk::<4>()?;
    *from = rest;
    Some(u32::from_be_bytes(*number))
}

fn string<'b>(from: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(number(from)?).ok()?;
    let (string, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(string)
}
