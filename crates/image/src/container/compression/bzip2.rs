//! bzip2. A file may have several streams, whose contents follow each other; pbzip2 writes such files, and bzip2 reads
//! them. A piece of the disk is a stream. The format has no document but its program: bzip2 1.0.8, decompress.c and
//! bzip2.c.

use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use bzip2::{Action, Compress, Status};

use super::limits::MOST;
use super::{Allowance, Codec, Encode, Limits, Packed};

/// See [`Codec`].
pub(super) struct Bzip2;

/// `BZh`, and the size of a block in units of 100,000 bytes, as a digit (decompress.c, `BZ_X_MAGIC_1` and following).
const MAGIC: &[u8] = b"BZh";

/// A block has one million zeros in a few bytes, and is slow to unpack: few may come out of it for nothing.
static LIMITS: Limits = Limits {
    output: Allowance { free: 512 << 20, ratio: 1_000 },
    stored: Allowance { free: 64 << 20, ratio: 50 },
    most: MOST,
    looks_ahead: true,
};

impl Codec for Bzip2 {
    fn name(&self) -> &'static str {
        "bzip2"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["bz2"]
    }

    fn tells(&self, head: &[u8]) -> bool {
        head.starts_with(MAGIC) && head.get(3).is_none_or(|size| matches!(size, b'1'..=b'9'))
    }

    fn by_hand(&self) -> &'static str {
        "bunzip2 -k"
    }

    fn limits(&self) -> &'static Limits {
        &LIMITS
    }

    fn decoder<'a>(&self, from: Box<dyn BufRead + 'a>) -> io::Result<Box<dyn Read + 'a>> {
        Ok(Box::new(MultiBzDecoder::new(from)))
    }

    fn encoder(&self) -> io::Result<Box<dyn Encode>> {
        Ok(Box::new(Encoder))
    }

    fn encoder_memory(&self) -> u64 {
        // bzip2(1), "MEMORY MANAGEMENT": 400 kB and eight times the size of a block.
        8 << 20
    }
}

/// A stream for each piece.
struct Encoder;

impl Encode for Encoder {
    fn encode(&mut self, piece: &[u8], to: &mut Packed) -> io::Result<()> {
        // Blocks of 900,000 bytes, as bzip2(1) makes them; 0 is the library's default effort for repetitive input.
        let mut compress = Compress::new(bzip2::Compression::best(), 0);
        to.bytes.clear();
        to.bytes.reserve(piece.len().saturating_add(piece.len() / 64).saturating_add(1024));
        loop {
            // OK to index: the compressor never takes more than there is.
            let rest = &piece[usize::try_from(compress.total_in()).map_err(io::Error::other)?..];
            match compress.compress_vec(rest, &mut to.bytes, Action::Finish).map_err(io::Error::other)? {
                Status::StreamEnd => return Ok(()),
                _ => to.bytes.reserve(piece.len() / 16 + 1024),
            }
        }
    }
}
