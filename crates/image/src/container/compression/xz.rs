//! xz: "The .xz File Format", version 1.2.1 (tukaani.org/xz/xz-file-format.txt), whose sections are named here. Written
//! as one stream of independent blocks, one a piece, whose headers have their sizes: so other programs unpack them on
//! all cores as well. Integers are little-endian.

use std::io::{self, BufRead, Read};

use deaddrop_core::bytes::{le32, length};
use flate2::Crc;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{Action, CONCATENATED, Check, Error, Filters, LzmaOptions, Status, Stream};

use super::limits::MOST;
use super::{Allowance, Codec, Encode, Limits, Packed, Part};

/// See [`Codec`].
pub(super) struct Xz;

/// Section 2.1.1, "Stream Header": magic, flags (the check is CRC64, section 2.1.1.2), and the flags' CRC32.
const HEADER: &[u8; 12] = b"\xfd7zXZ\0\x00\x04\xe6\xd6\xb4\x46";
const MAGIC: &[u8] = b"\xfd7zXZ\0";
/// Section 2.1.2: CRC32, backward size, flags, magic.
const FOOTER: usize = 12;
/// Section 2.1.1.2: bytes of a CRC64.
const CHECK: u64 = 8;
/// The default preset of `xz`.
const PRESET: u32 = 6;

/// Memory of the decoder, in bytes: a dictionary of 128 MiB, and what else there is. `xz -9` has one of 64 MiB.
const DECODER_MEMORY: u64 = (128 << 20) + (4 << 20);

/// LZMA2 makes about 7,000 zeros a byte, and is slow at it: few may come out of it for nothing.
static LIMITS: Limits = Limits {
    output: Allowance { free: 512 << 20, ratio: 1_000 },
    stored: Allowance { free: 64 << 20, ratio: 50 },
    most: MOST,
    looks_ahead: true,
};

impl Codec for Xz {
    fn name(&self) -> &'static str {
        "xz"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["xz"]
    }

    fn tells(&self, head: &[u8]) -> bool {
        head.starts_with(MAGIC)
    }

    fn by_hand(&self) -> &'static str {
        "unxz -k"
    }

    fn limits(&self) -> &'static Limits {
        &LIMITS
    }

    fn decoder<'a>(&self, from: Box<dyn BufRead + 'a>) -> io::Result<Box<dyn Read + 'a>> {
        let stream = Stream::new_stream_decoder(DECODER_MEMORY, CONCATENATED)?;
        Ok(Box::new(XzDecoder::new_stream(from, stream)))
    }

    fn unsupported(&self, error: &io::Error) -> Option<(&'static str, &'static str)> {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::MemLimit) => {
                Some(("was compressed with a dictionary over 128 MiB", "decompress it first: unxz -k IMAGE"))
            }
            Some(Error::Options) => {
                Some(("uses a part of the xz format that this version does not know", "is `xz -t IMAGE` content?"))
            }
            _ => None,
        }
    }

    fn encoder(&self) -> io::Result<Box<dyn Encode>> {
        Ok(Box::new(Encoder))
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn encoder_memory(&self) -> u64 {
        // xz(1): "CompMem" of -6 is 94 MiB.
        96 << 20
    }

    fn head(&self) -> &'static [u8] {
        HEADER
    }

    /// Section 4, "Index", and section 2.1.2, "Stream Footer".
    fn tail(&self, parts: &[Part]) -> Vec<u8> {
        // The indicator, section 4.1.
        let mut tail = vec![0];
        put_integer(&mut tail, u64::try_from(parts.len()).unwrap_or(u64::MAX));
        for part in parts {
            put_integer(&mut tail, part.unpadded);
            put_integer(&mut tail, part.size);
        }
        pad(&mut tail);
        put_crc32(&mut tail, 0);
        let index = tail.len();
        // Section 2.1.2.2: the size of the index, in units of 4 bytes, less one.
        let backward = u32::try_from(index / 4).unwrap_or(u32::MAX).saturating_sub(1);
        let mut footer = backward.to_le_bytes().to_vec();
        // OK to index: both are constants.
        footer.extend_from_slice(&HEADER[6..8]);
        tail.extend_from_slice(&crc32(&footer).to_le_bytes());
        tail.extend_from_slice(&footer);
        tail.extend_from_slice(b"YZ");
        tail
    }
}

/// A block for each piece.
struct Encoder;

impl Encode for Encoder {
    fn encode(&mut self, piece: &[u8], to: &mut Packed) -> io::Result<()> {
        let mut filters = Filters::new();
        filters.lzma2(&LzmaOptions::new_preset(PRESET)?);
        let mut stream = Stream::new_stream_encoder(&filters, Check::Crc64)?;
        to.bytes.clear();
        to.bytes.reserve(piece.len().saturating_add(piece.len() / 1024).saturating_add(1024));
        loop {
            // OK to index: the encoder never takes more than there is.
            let rest = &piece[usize::try_from(stream.total_in()).map_err(io::Error::other)?..];
            if stream.process_vec(rest, &mut to.bytes, Action::Finish)? == Status::StreamEnd {
                break;
            }
            to.bytes.reserve(piece.len() / 16 + 1024);
        }
        let block = block_of_stream(&to.bytes, length(piece)).ok_or_else(|| io::Error::other("liblzma: no block"))?;
        to.bytes.splice(..block.data.0, block.header.iter().copied());
        // Cannot underflow: the block ends inside of the stream.
        to.bytes.truncate(block.header.len() + (block.data.1 - block.data.0));
        to.unpadded = block.unpadded;
        Ok(())
    }
}

/// The only block of a stream.
struct Block {
    /// Its header, with both sizes.
    header: Vec<u8>,
    /// Where its data starts in the stream, and where its check ends.
    data: (usize, usize),
    /// Section 4.3, "Unpadded Size".
    unpadded: u64,
}

/// The block of a stream that liblzma wrote, of `size` bytes of content: its header gets both sizes, which liblzma
/// leaves out because it does not know them before. `None` if it is not such a stream.
fn block_of_stream(stream: &[u8], size: u64) -> Option<Block> {
    let footer = stream.len().checked_sub(FOOTER)?;
    let backward = usize::try_from(le32(stream, footer.checked_add(4)?)?).ok()?;
    let index = footer.checked_sub(backward.checked_add(1)?.checked_mul(4)?)?;
    // The indicator, one record, and its first field.
    let mut record = stream.get(index..footer)?.strip_prefix(&[0, 1])?;
    let unpadded = take_integer(&mut record)?;
    let start = HEADER.len();
    // Section 3.1.1: the size of the header, in units of 4 bytes, less one.
    let old = usize::from(*stream.get(start)?).checked_add(1)?.checked_mul(4)?;
    // Section 3.1.2: one filter and no sizes, so that the filter's flags follow.
    let filter = stream.get(start.checked_add(1)?..start.checked_add(5)?)?.strip_prefix(&[0])?;
    let compressed = unpadded.checked_sub(u64::try_from(old).ok()?)?.checked_sub(CHECK)?;
    // The size is filled in below.
    let mut header = vec![0, 0xC0];
    put_integer(&mut header, compressed);
    put_integer(&mut header, size);
    header.extend_from_slice(filter);
    pad(&mut header);
    *header.first_mut()? = u8::try_from(header.len() / 4).ok()?;
    put_crc32(&mut header, 0);
    let unpadded = length(&header).checked_add(compressed)?.checked_add(CHECK)?;
    let data = (start.checked_add(old)?, index);
    (data.0 <= data.1).then_some(Block { header, data, unpadded })
}

/// Section 1.2, "Multibyte Integers".
fn put_integer(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

fn take_integer(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for number in 0..9 {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7F) << (7 * number);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Zeros up to a multiple of 4 bytes.
fn pad(to: &mut Vec<u8>) {
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Appends the CRC32 of what stands in `to` from `from` on.
fn put_crc32(to: &mut Vec<u8>, from: usize) {
    let crc = crc32(to.get(from..).unwrap_or_default());
    to.extend_from_slice(&crc.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_written_as_they_are_read() {
        for value in [0, 1, 127, 128, 300, 1 << 21, (1 << 62) - 1] {
            let mut bytes = Vec::new();
            put_integer(&mut bytes, value);
            assert_eq!(take_integer(&mut &bytes[..]), Some(value));
        }
        assert_eq!(take_integer(&mut &[0x80][..]), None);
    }

    #[test]
    fn a_dictionary_over_the_limit_is_refused_with_the_way_around_it() {
        // What `xz --lzma2=dict=256MiB` writes: section 5.3.1, the dictionary's size is 2 | (40 - 24) in half powers.
        let mut filters = Filters::new();
        filters.lzma2(LzmaOptions::new_preset(0).unwrap().dict_size(256 << 20));
        let mut stream = Stream::new_stream_encoder(&filters, Check::Crc64).unwrap();
        let mut file = Vec::with_capacity(4096);
        stream.process_vec(&[0; 1000], &mut file, Action::Finish).unwrap();
        let mut decoder = Xz.decoder(Box::new(&file[..])).unwrap();
        let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
        let (what, _) = Xz.unsupported(&error).unwrap();
        assert_eq!(what, "was compressed with a dictionary over 128 MiB");
    }
}
