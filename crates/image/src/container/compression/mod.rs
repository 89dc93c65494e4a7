//! The compressions around a disk or a container. Each is a file of its own with both directions; the rest of the stack
//! sees a [`Compression`] only.
//!
//! All of them are written as independent pieces of the disk, so that all cores can work and only changed pieces have
//! to be made again: see `crate::output::frames`.

mod bzip2;
mod gzip;
mod limits;
mod xz;
mod zstd;

use std::io::{self, BufRead, Read};

use deaddrop_core::secret::Wiped;

pub(crate) use self::limits::{Allowance, Limits};

/// A supported compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952: one or more members.
    Gzip,
    /// The .xz file format: one or more streams.
    Xz,
    /// One or more bzip2 streams.
    Bzip2,
    /// RFC 8878: one or more frames.
    Zstd,
}

/// One compression, in both directions.
pub(crate) trait Codec: Sync {
    /// Its name in `inspect` and in messages.
    fn name(&self) -> &'static str;

    /// The suffixes of its files, in lower case.
    fn suffixes(&self) -> &'static [&'static str];

    /// True if `head`, the start of a file, is the start of its data.
    fn tells(&self, head: &[u8]) -> bool;

    /// The command by which a person decompresses IMAGE.
    fn by_hand(&self) -> &'static str;

    /// How much may come out of it.
    fn limits(&self) -> &'static Limits;

    /// The content of `from`, which has one or more of its members, streams or frames. Memory is bounded, whatever the
    /// input declares.
    ///
    /// # Errors
    /// If there is no memory. The reader's errors: `UnexpectedEof` for a truncated input, those of the system, or
    /// damage in the decoder's own words.
    fn decoder<'a>(&self, from: Box<dyn BufRead + 'a>) -> io::Result<Box<dyn Read + 'a>>;

    /// If an error of the decoder is due to a feature of the input that is not supported: which (as what the image
    /// does), and a hint.
    fn unsupported(&self, _error: &io::Error) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Compresses pieces, for one thread.
    ///
    /// # Errors
    /// If there is no memory.
    fn encoder(&self) -> io::Result<Box<dyn Encode>>;

    /// Address space that an encoder takes, in bytes, besides the piece and its result.
    fn encoder_memory(&self) -> u64;

    /// True if compressing takes ten times as long as decompressing, and more.
    fn is_slow(&self) -> bool {
        false
    }

    /// What precedes the first piece.
    fn head(&self) -> &'static [u8] {
        &[]
    }

    /// What follows the last piece.
    fn tail(&self, _parts: &[Part]) -> Vec<u8> {
        Vec::new()
    }
}

/// Compresses pieces. The result depends only on the piece.
pub(crate) trait Encode {
    /// Makes `piece` the content of `to`.
    ///
    /// # Errors
    /// If there is no memory.
    fn encode(&mut self, piece: &[u8], to: &mut Packed) -> io::Result<()>;
}

/// A compressed piece.
#[derive(Default)]
pub(crate) struct Packed {
    /// Its bytes in the file.
    pub(crate) bytes: Wiped,
    /// Size without the padding at the end, where the format has one and lists it; else 0.
    pub(crate) unpadded: u64,
}

/// A compressed piece in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Number of its bytes in the file.
    pub(crate) length: u64,
    /// See [`Packed::unpadded`].
    pub(crate) unpadded: u64,
    /// Number of bytes of the disk in it.
    pub(crate) size: u64,
}

impl Compression {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Gzip, Self::Xz, Self::Bzip2, Self::Zstd];

    /// Its name in `inspect`: "gzip", "xz", "bzip2", "zstd".
    #[must_use]
    pub fn name(self) -> &'static str {
        self.codec().name()
    }

    /// The compression that the start of a file tells.
    pub(crate) fn told_by(head: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.codec().tells(head))
    }

    /// The compression of files with this suffix, which is in lower case.
    pub(crate) fn of_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.codec().suffixes().contains(&suffix))
    }

    /// The compression of a tar with this suffix, which says both, in lower case.
    pub(crate) fn of_short_tar(suffix: &str) -> Option<Self> {
        match suffix {
            "tgz" => Some(Self::Gzip),
            "txz" => Some(Self::Xz),
            "tbz" | "tbz2" => Some(Self::Bzip2),
            "tzst" => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(crate) fn codec(self) -> &'static dyn Codec {
        match self {
            Self::Gzip => &gzip::Gzip,
            Self::Xz => &xz::Xz,
            Self::Bzip2 => &bzip2::Bzip2,
            Self::Zstd => &zstd::Zstd,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Noise, zeros, and text of little content: all ways of a compressor.
    fn pieces() -> Vec<Vec<u8>> {
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        let noise: Vec<u8> = (0..100_001).map(next).collect();
        let text = b"the same again, ".repeat(70_000);
        vec![noise, vec![0; 3 << 20], text, vec![7]]
    }

    fn encoded(compression: Compression, pieces: &[Vec<u8>]) -> Vec<u8> {
        let codec = compression.codec();
        let mut encoder = codec.encoder().unwrap();
        let (mut file, mut parts, mut packed) = (codec.head().to_vec(), Vec::new(), Packed::default());
        for piece in pieces {
            encoder.encode(piece, &mut packed).unwrap();
            file.extend_from_slice(&packed.bytes);
            let length = packed.bytes.len().try_into().unwrap();
            parts.push(Part { length, unpadded: packed.unpadded, size: piece.len().try_into().unwrap() });
        }
        file.extend(codec.tail(&parts));
        file
    }

    fn decoded(compression: Compression, file: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        compression.codec().decoder(Box::new(Cursor::new(file)))?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn pieces_come_out_as_they_went_in_and_their_start_tells_the_compression() {
        for compression in Compression::ALL {
            let file = encoded(compression, &pieces());
            assert_eq!(Compression::told_by(&file), Some(compression));
            assert!(decoded(compression, &file).unwrap() == pieces().concat(), "{compression:?}");
        }
    }

    #[test]
    fn files_one_after_the_other_are_one_content() {
        for compression in Compression::ALL {
            let file = [encoded(compression, &pieces()[..1]), encoded(compression, &pieces()[1..])].concat();
            assert!(decoded(compression, &file).unwrap() == pieces().concat(), "{compression:?}");
        }
    }

    #[test]
    fn what_is_cut_off_anywhere_is_the_end_of_the_input() {
        for compression in Compression::ALL {
            let file = encoded(compression, &pieces()[..1]);
            for length in (1..200).chain(file.len() - 200..file.len()) {
                let error = decoded(compression, &file[..length]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{compression:?}, {length}: {error}");
            }
        }
    }

    #[test]
    fn a_changed_bit_is_an_error() {
        for compression in Compression::ALL {
            let file = encoded(compression, &pieces()[..1]);
            // Behind the headers, whose bits may be free (a time, a system's number).
            for place in [30, file.len() / 3, file.len() / 2, file.len() - 20] {
                let mut damaged = file.clone();
                damaged[place] ^= 0x10;
                assert!(decoded(compression, &damaged).is_err(), "{compression:?}, {place}");
            }
        }
    }
}
