//! zstd: RFC 8878. Read and written by the reference library.

use std::io::{self, BufRead, Read};

use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::{DParameter, compress_bound};

use super::limits::MOST;
use super::{Allowance, Codec, Encode, Limits, Packed};

/// See [`Codec`].
pub(super) struct Zstd;

/// RFC 8878 section 3.1.1: the number 0xFD2FB528, little-endian.
const MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

/// Maximum window of a frame, as a power of two: 128 MiB, which is what `zstd -d` accepts by default; every level of
/// `zstd` without `--long=28` or more stays below.
const WINDOW_LOG: u32 = 27;

/// zstd's default level, which nixpkgs also uses for its images.
const LEVEL: i32 = 3;

static LIMITS: Limits = Limits {
    output: Allowance { free: 16 << 30, ratio: 8_000 },
    stored: Allowance { free: 3 << 30, ratio: 300 },
    most: MOST,
    looks_ahead: false,
};

impl Codec for Zstd {
    fn name(&self) -> &'static str {
        "zstd"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["zst", "zstd"]
    }

    fn tells(&self, head: &[u8]) -> bool {
        // RFC 8878 section 3.1.2: the numbers 0x184D2A50 to 0x184D2A5F are frames to skip. Files of pzstd and of
        // seekable writers start with one.
        head.starts_with(MAGIC) || matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
    }

    fn by_hand(&self) -> &'static str {
        "zstd -d"
    }

    fn limits(&self) -> &'static Limits {
        &LIMITS
    }

    fn decoder<'a>(&self, from: Box<dyn BufRead + 'a>) -> io::Result<Box<dyn Read + 'a>> {
        let mut decoder = Decoder::with_buffer(from)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Box::new(decoder))
    }

    fn unsupported(&self, error: &io::Error) -> Option<(&'static str, &'static str)> {
        // zstd's own message, from `ZSTD_getErrorString` (frameParameter_windowTooLarge).
        let too_large = error.to_string().contains("too much memory");
        let hint = "decompress it first: zstd -d --long=31 IMAGE";
        too_large.then_some(("was compressed with a window over 128 MiB", hint))
    }

    fn encoder(&self) -> io::Result<Box<dyn Encode>> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        Ok(Box::new(Encoder(compressor)))
    }

    fn encoder_memory(&self) -> u64 {
        32 << 20
    }
}

/// A frame for each piece, with its size and a checksum.
struct Encoder(Compressor<'static>);

impl Encode for Encoder {
    fn encode(&mut self, piece: &[u8], to: &mut Packed) -> io::Result<()> {
        to.bytes.clear();
        to.bytes.reserve(compress_bound(piece.len()));
        self.0.compress_to_buffer(piece, &mut *to.bytes).map(drop)
    }
}
