//! gzip: RFC 1952. Its section 2.2 lets a file have several members, whose contents follow each other: a piece of the
//! disk is a member, and every gunzip reads them like one.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, FlushCompress, Status};

use super::limits::MOST;
use super::{Allowance, Codec, Encode, Limits, Packed};

/// See [`Codec`].
pub(super) struct Gzip;

/// RFC 1952 section 2.3.1: ID1, ID2, and the only compression method, deflate.
const MAGIC: &[u8] = b"\x1f\x8b\x08";

/// gzip's and pigz's default.
const LEVEL: u32 = 6;

/// The window, as a power of two; RFC 1951 has no larger one.
const WINDOW_BITS: u8 = 15;

/// Deflate makes at most 1,032 zeros of a byte, but those repeat themselves.
static LIMITS: Limits = Limits {
    output: Allowance { free: 2 << 30, ratio: 1_000 },
    stored: Allowance { free: 512 << 20, ratio: 50 },
    most: MOST,
    looks_ahead: true,
};

impl Codec for Gzip {
    fn name(&self) -> &'static str {
        "gzip"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["gz"]
    }

    fn tells(&self, head: &[u8]) -> bool {
        head.starts_with(MAGIC)
    }

    fn by_hand(&self) -> &'static str {
        "gunzip -k"
    }

    fn limits(&self) -> &'static Limits {
        &LIMITS
    }

    fn decoder<'a>(&self, from: Box<dyn BufRead + 'a>) -> io::Result<Box<dyn Read + 'a>> {
        Ok(Box::new(MultiGzDecoder::new(from)))
    }

    fn encoder(&self) -> io::Result<Box<dyn Encode>> {
        Ok(Box::new(Encoder(Compress::new_gzip(flate2::Compression::new(LEVEL), WINDOW_BITS))))
    }

    fn encoder_memory(&self) -> u64 {
        1 << 20
    }
}

/// A member for each piece.
struct Encoder(Compress);

impl Encode for Encoder {
    fn encode(&mut self, piece: &[u8], to: &mut Packed) -> io::Result<()> {
        self.0.reset();
        to.bytes.clear();
        // What cannot be compressed takes five bytes more in 16 KiB, and 18 around all.
        to.bytes.reserve(piece.len().saturating_add(piece.len() / 1024).saturating_add(1024));
        loop {
            // OK to index: the compressor never takes more than there is.
            let rest = &piece[usize::try_from(self.0.total_in()).map_err(io::Error::other)?..];
            match self.0.compress_vec(rest, &mut to.bytes, FlushCompress::Finish)? {
                Status::StreamEnd => return Ok(()),
                Status::Ok | Status::BufError => to.bytes.reserve(piece.len() / 16 + 1024),
            }
        }
    }
}
