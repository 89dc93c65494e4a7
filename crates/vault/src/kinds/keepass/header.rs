//! The header of a KDBX file. Its limits are checked here, before a key is derived.
//!
//! Format: keepass.info, "KDBX File Format Specification" (version 4); for 3.1 KeePassXC's `Kdbx3Reader`. All integers
//! are little-endian.

use sha2::{Digest, Sha256};

use crate::KdfLimit;
use crate::input::kdf;

/// `sig1` and `sig2` of KeePass 2: bytes 0 to 3, 4 to 7.
const SIGNATURE: [u8; 8] = [0x03, 0xd9, 0xa2, 0x9a, 0x67, 0xfb, 0x4b, 0xb5];
/// `sig2` of KeePass 1 and of KeePass 2 before its first release.
const OLD: [[u8; 4]; 2] = [[0x65, 0xfb, 0x4b, 0xb5], [0x66, 0xfb, 0x4b, 0xb5]];

const AES256: [u8; 16] =
    [0x31, 0xc1, 0xf2, 0xe6, 0xbf, 0x71, 0x43, 0x50, 0xbe, 0x58, 0x05, 0x21, 0x6a, 0xfc, 0x5a, 0xff];
const TWOFISH: [u8; 16] =
    [0xad, 0x68, 0xf2, 0x9f, 0x57, 0x6f, 0x4b, 0xb9, 0xa3, 0x6a, 0xd4, 0x7a, 0xf9, 0x65, 0x34, 0x6c];
const CHACHA20: [u8; 16] =
    [0xd6, 0x03, 0x8a, 0x2b, 0x8b, 0x6f, 0x4c, 0xb5, 0xa5, 0x24, 0x33, 0x9a, 0x31, 0xdb, 0xb5, 0x9a];

const AES_KDF_3: [u8; 16] =
    [0xc9, 0xd9, 0xf3, 0x9a, 0x62, 0x8a, 0x44, 0x60, 0xbf, 0x74, 0x0d, 0x08, 0xc1, 0x8a, 0x4f, 0xea];
const AES_KDF_4: [u8; 16] =
    [0x7c, 0x02, 0xbb, 0x82, 0x79, 0xa7, 0x4a, 0xc0, 0x92, 0x7d, 0x11, 0x4a, 0x00, 0x64, 0x82, 0x38];
const ARGON2D: [u8; 16] =
    [0xef, 0x63, 0x6d, 0xdf, 0x8c, 0x29, 0x44, 0x4b, 0x91, 0xf7, 0xa9, 0xa4, 0x03, 0xe3, 0x0a, 0x0c];
const ARGON2ID: [u8; 16] =
    [0x9e, 0x29, 0x8b, 0x19, 0x56, 0xdb, 0x47, 0x73, 0xb2, 0x3d, 0xfc, 0x3e, 0xc6, 0xf0, 0xa1, 0xe6];

/// Maximum rounds of AES-KDF, about half a minute with the processor's AES instructions. KeePassXC chooses as many as
/// take the time that its user wants, a second without a choice: 10^7 to 10^8.
const MAX_ROUNDS: u64 = 1_000_000_000;
/// Maximum lanes of Argon2.
const MAX_LANES: u32 = 64;

/// The cipher of the payload, and how its key is derived.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub version: Version,
    pub cipher: Cipher,
    pub gzip: bool,
    pub master_seed: Vec<u8>,
    pub iv: Vec<u8>,
    pub kdf: Kdf,
    /// Length of the header, in bytes.
    pub length: usize,
}

/// The parts that differ between the versions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 3.0 and 3.1.
    Three {
        /// `InnerRandomStreamID`, the cipher of protected values, and its key.
        inner: (u32, Vec<u8>),
        /// `StreamStartBytes`: the first bytes of a correctly decrypted payload.
        start: Vec<u8>,
        /// SHA-256 of the header, which nothing else authenticates: compared with `Meta/HeaderHash` in the document.
        hash: [u8; 32],
    },
    /// 4.0 and 4.1.
    Four,
}

/// The cipher of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes,
    Twofish,
    ChaCha20,
}

/// The key derivation, within the limits above.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kdf {
    Aes { seed: Vec<u8>, rounds: u64 },
    Argon2 { id: bool, version: u32, salt: Vec<u8>, iterations: u32, kib: u32, lanes: u32 },
}

impl Kdf {
    /// What it costs, for the user.
    pub(super) fn cost(&self) -> String {
        match self {
            Self::Aes { rounds, .. } => format!("{rounds} rounds of AES-KDF"),
            Self::Argon2 { iterations, kib, .. } => format!("{iterations} passes of Argon2 over {} MiB", kib / 1024),
        }
    }
}

/// A header that is refused: the message, and a hint that may be empty.
pub(super) type Refusal = (String, &'static str);

fn refused<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err((what.into(), ""))
}

const CUT_OFF: &str = "the file is cut off in its header";
const DAMAGED: &str = "its header is damaged";

/// A cursor over bytes.
pub(super) struct Bytes<'b>(pub &'b [u8]);

impl<'b> Bytes<'b> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A `u32` length, and this many bytes.
    fn counted(&mut self) -> Option<&'b [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }
}

/// The fields of a header, undecoded.
#[derive(Default)]
struct Raw<'b> {
    cipher: Option<&'b [u8]>,
    compression: Option<&'b [u8]>,
    master_seed: Option<&'b [u8]>,
    transform_seed: Option<&'b [u8]>,
    transform_rounds: Option<&'b [u8]>,
    iv: Option<&'b [u8]>,
    inner_key: Option<&'b [u8]>,
    start: Option<&'b [u8]>,
    inner_id: Option<&'b [u8]>,
    kdf: Option<&'b [u8]>,
}

impl Header {
    /// Reads a file's header, and checks its limits. `limit`: that of the key derivation.
    ///
    /// # Errors
    /// It is not a KDBX file, is damaged, or exceeds a limit.
    pub(super) fn read(file: &[u8], limit: KdfLimit) -> Result<Self, Refusal> {
        let mut bytes = Bytes(file);
        let four = match file {
            [] => return refused("the file is empty"),
            [a, b, c, d, old @ ..]
                if [*a, *b, *c, *d] == SIGNATURE[..4] && OLD.iter().any(|own| old.starts_with(own)) =>
            {
                return Err((
                    "this is a database of KeePass 1 (.kdb)".to_owned(),
                    "import it with KeePassXC or KeePass 2, which write .kdbx",
                ));
            }
            _ if !file.starts_with(&SIGNATURE) => {
                return Err(("this is not a KeePass database".to_owned(), "a database is a .kdbx file"));
            }
            _ => {
                bytes.take(SIGNATURE.len());
                let (Some(_minor), Some(major)) = (bytes.array::<2>(), bytes.array::<2>()) else {
                    return refused(CUT_OFF);
                };
                match u16::from_le_bytes(major) {
                    3 => false,
                    4 => true,
                    other => return refused(format!("this is a KDBX file of version {other}; 3 and 4 are read")),
                }
            }
        };
        let mut raw = Raw::default();
        loop {
            let next = bytes.array::<1>().and_then(|[id]| {
                let field = match four {
                    true => bytes.counted(),
                    false => bytes.array::<2>().and_then(|length| bytes.take(u16::from_le_bytes(length).into())),
                };
                field.map(|field| (id, field))
            });
            let Some((id, field)) = next else { return refused(CUT_OFF) };
            match id {
                0 => break,
                2 => raw.cipher = Some(field),
                3 => raw.compression = Some(field),
                4 => raw.master_seed = Some(field),
                5 => raw.transform_seed = Some(field),
                6 => raw.transform_rounds = Some(field),
                7 => raw.iv = Some(field),
                8 => raw.inner_key = Some(field),
                9 => raw.start = Some(field),
                10 => raw.inner_id = Some(field),
                11 => raw.kdf = Some(field),
                _ => {}
            }
        }
        let length = file.len().saturating_sub(bytes.0.len());
        raw.check(four, limit, file.get(..length).unwrap_or_default())
    }
}

impl Raw<'_> {
    /// `whole`: the header's bytes.
    fn check(&self, four: bool, limit: KdfLimit, whole: &[u8]) -> Result<Header, Refusal> {
        let damaged = || (DAMAGED.to_owned(), "");
        let number = |field: Option<&[u8]>| field.and_then(|field| Bytes(field).u32());
        let (cipher, iv_length) = match self.cipher.ok_or_else(damaged)? {
            id if id == AES256 => (Cipher::Aes, 16),
            id if id == TWOFISH => (Cipher::Twofish, 16),
            id if id == CHACHA20 => (Cipher::ChaCha20, 12),
            _ => return refused("it is encrypted with a cipher that is not known (AES, Twofish and ChaCha20 are)"),
        };
        let gzip = match number(self.compression).ok_or_else(damaged)? {
            0 => false,
            1 => true,
            _ => return refused("it is compressed in a way that is not known"),
        };
        let master_seed = self.master_seed.filter(|seed| seed.len() == 32).ok_or_else(damaged)?.to_vec();
        let iv = self.iv.filter(|iv| iv.len() == iv_length).ok_or_else(damaged)?.to_vec();
        let (version, kdf) = match four {
            true => (Version::Four, variant_kdf(self.kdf.ok_or_else(damaged)?, limit)?),
            false => {
                let rounds = self.transform_rounds.and_then(|field| Bytes(field).array()).map(u64::from_le_bytes);
                let kdf = aes_kdf(self.transform_seed, rounds.ok_or_else(damaged)?, limit)?;
                let inner = (number(self.inner_id).ok_or_else(damaged)?, self.inner_key.ok_or_else(damaged)?.to_vec());
                let start = self.start.filter(|start| start.len() == 32).ok_or_else(damaged)?.to_vec();
                (Version::Three { inner, start, hash: Sha256::digest(whole).into() }, kdf)
            }
        };
        Ok(Header { version, cipher, gzip, master_seed, iv, kdf, length: whole.len() })
    }
}

fn aes_kdf(seed: Option<&[u8]>, rounds: u64, limit: KdfLimit) -> Result<Kdf, Refusal> {
    if rounds > MAX_ROUNDS && !limit.is_lifted() {
        let what =
            format!("its key is derived in {rounds} rounds of AES-KDF, over {MAX_ROUNDS}, the most that is taken");
        return Err((what, CHEAPER));
    }
    let seed = seed.filter(|seed| seed.len() == 32).ok_or_else(|| (DAMAGED.to_owned(), ""))?.to_vec();
    Ok(Kdf::Aes { seed, rounds })
}

const CHEAPER: &str = "choose less in the database's settings (Security, Encryption settings), and save it; \
    `kdf_limit: none` at this source lifts the limit";

/// The KDF of version 4, from its variant dictionary: `$UUID`; for AES-KDF `S`, `R`; for Argon2 `S`, `P` lanes, `M`
/// bytes, `I` iterations, `V` version.
fn variant_kdf(field: &[u8], limit: KdfLimit) -> Result<Kdf, Refusal> {
    let damaged = || (DAMAGED.to_owned(), "");
    let mut bytes = Bytes(field);
    let (mut uuid, mut salt) = (None, None);
    let (mut rounds, mut memory, mut iterations, mut lanes, mut version) = (None, None, None, None, None);
    // The dictionary's own version; its upper byte must be 1.
    if bytes.array::<2>().is_none_or(|[_, major]| major != 1) {
        return Err(damaged());
    }
    loop {
        let [kind] = bytes.array::<1>().ok_or_else(damaged)?;
        if kind == 0 {
            break;
        }
        let (name, value) = (bytes.counted().ok_or_else(damaged)?, bytes.counted().ok_or_else(damaged)?);
        let four = || Bytes(value).u32().filter(|_| value.len() == 4);
        let eight = || Bytes(value).array().map(u64::from_le_bytes).filter(|_| value.len() == 8);
        match name {
            b"$UUID" => uuid = Some(value),
            b"S" => salt = Some(value),
            b"R" => rounds = eight(),
            b"M" => memory = eight(),
            b"I" => iterations = eight(),
            b"P" => lanes = four(),
            b"V" => version = four(),
            // A secret key and associated data, which no program writes.
            b"K" | b"A" if !value.is_empty() => {
                return refused("its key is derived with a secret key, which is not supported");
            }
            _ => {}
        }
    }
    let id = match uuid.ok_or_else(damaged)? {
        id if id == AES_KDF_3 || id == AES_KDF_4 => return aes_kdf(salt, rounds.ok_or_else(damaged)?, limit),
        id if id == ARGON2D => false,
        id if id == ARGON2ID => true,
        _ => return refused("its key is derived in a way that is not known (AES-KDF, Argon2d and Argon2id are)"),
    };
    let (memory, iterations) = (memory.ok_or_else(damaged)?, iterations.ok_or_else(damaged)?);
    let (lanes, version) = (lanes.ok_or_else(damaged)?, version.ok_or_else(damaged)?);
    if lanes > MAX_LANES && !limit.is_lifted() {
        return Err((
            format!("its key is derived in {lanes} lanes of Argon2, over {MAX_LANES}, the most that is taken"),
            CHEAPER,
        ));
    }
    limit
        .check_memory(memory, iterations)
        .map_err(|(what, hint)| (what, if hint == kdf::LIFT { CHEAPER } else { hint }))?;
    let (iterations, kib) = match (u32::try_from(iterations), u32::try_from(memory / 1024)) {
        (Ok(iterations @ 1..), Ok(kib)) => (iterations, kib),
        _ => return Err(damaged()),
    };
    if lanes == 0 || kib < lanes.saturating_mul(8) || !matches!(version, 0x10 | 0x13) {
        return Err(damaged());
    }
    let salt = salt.filter(|salt| salt.len() >= 8).ok_or_else(damaged)?.to_vec();
    Ok(Kdf::Argon2 { id, version, salt, iterations, kib, lanes })
}
