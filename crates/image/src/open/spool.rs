//! Decodes a zstd image into a sparse, unnamed file, so that the rest of the program sees a raw disk.
//!
//! Used by [`super::disk`]. The input is hostile: the decoder's window is limited, the size declared by a frame is not
//! trusted, and the ratio of output to input is bounded (see [`Limits`]).

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::text;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::DParameter;

use super::container;
use crate::output::frames::Recorder;
use crate::progress::{Progress, Watch, Work};
use crate::table::probe;

/// Maximum window of a frame, as a power of two: 128 MiB, which is what `zstd -d` accepts by default; every level of
/// `zstd` without `--long=28` or more stays below.
const WINDOW_LOG: u32 = 27;
/// Number of bytes decoded and written at a time.
const CHUNK: usize = 1 << 20;
/// Runs of zeros become holes in units of this size.
const PIECE: usize = 64 << 10;
/// Number of bytes that must look like a disk image: they include everything by which tables and file systems are
/// detected.
const HEAD: usize = CHUNK;

/// A limit of the output relative to the input. Up to `free` bytes are always allowed; beyond, each byte of input
/// allows `ratio` bytes of output.
struct Allowance {
    free: u64,
    ratio: u64,
}

impl Allowance {
    fn covers(&self, output: u64, input: u64) -> bool {
        output <= self.free || output <= input.saturating_mul(self.ratio)
    }
}

/// Limits of decoding. Real images with a system in them stay far below: NixOS closures of 1 GiB compress to about a
/// third, so a disk of 2 TiB with one is at 6,000:1 in total and 3:1 without zeros.
struct Limits {
    /// All output. A hole costs no space, but time.
    output: Allowance,
    /// Output that is not zero, and takes space.
    stored: Allowance,
    /// Absolute maximum, whatever the input.
    most: u64,
}

const LIMITS: Limits = Limits {
    output: Allowance { free: 16 << 30, ratio: 8_000 },
    stored: Allowance { free: 3 << 30, ratio: 300 },
    most: 2 << 40,
};

/// Decodes `input` (a zstd file of `input_size` bytes) into the empty file `spool`; returns the size of the disk in
/// bytes. `recorder`, if there is one, gets the disk too. `name` is the image's, `place` the directory of the spool,
/// for messages.
///
/// # Errors
/// `Corrupt` if the data is damaged, truncated, or the output exceeds that of any disk image; `Unsupported` for a
/// window over the limit, or if the output is no raw disk; `Io`, also if there is no space.
pub(crate) fn decode(
    input: &File,
    input_size: u64,
    spool: &File,
    recorder: Option<&mut Recorder>,
    name: &str,
    place: &str,
    watch: Watch<'_>,
) -> Result<u64, StorageError> {
    decode_within(&LIMITS, input, input_size, spool, recorder, name, place, watch)
}

#[expect(clippy::too_many_arguments, reason = "the limits, for the tests, and those of `decode`")]
fn decode_within(
    limits: &Limits,
    input: &File,
    input_size: u64,
    spool: &File,
    mut recorder: Option<&mut Recorder>,
    name: &str,
    place: &str,
    watch: Watch<'_>,
) -> Result<u64, StorageError> {
    let writing = |e| StorageError::io(format!("writing the decompressed {name} in {place}"), e);
    let compressing = |e| StorageError::io(format!("compressing what {name} holds, in {place}"), e);
    let consumed = Rc::new(Cell::new(0));
    let counted = Counted { input, offset: Rc::clone(&consumed) };
    let mut decoder = Decoder::new(BufReader::with_capacity(CHUNK, counted))
        .and_then(|mut decoder| decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map(|()| decoder))
        .map_err(|e| StorageError::io(format!("decompressing {name}"), e))?;
    // The image's content may be secret.
    let mut piece = recorder.as_mut().map_or_else(|| Wiped::zeros(CHUNK), |recorder| recorder.buffer());
    let (mut size, mut stored) = (0_u64, 0_u64);
    loop {
        // One piece of the disk, chunk by chunk.
        let (mut filled, before) = (0, stored);
        while let Some(chunk) = piece.get_mut(filled..).map(|rest| part(rest, CHUNK)).filter(|chunk| !chunk.is_empty())
        {
            let count = fill(&mut decoder, chunk).map_err(|e| in_stream(e, name))?;
            let ends = count < chunk.len();
            // OK to index: `fill` never counts more than the buffer has.
            let chunk = &chunk[..count];
            if size == 0 {
                refuse_no_disk(&chunk[..count.min(HEAD)], name)?;
            }
            stored = stored.saturating_add(write_sparse(spool, size, chunk).map_err(writing)?);
            size = size.saturating_add(length(chunk));
            filled = filled.saturating_add(count);
            let taken = consumed.get();
            if size > limits.most || !limits.output.covers(size, taken) || !limits.stored.covers(stored, taken) {
                return Err(StorageError::corrupt(format!(
                    "{name}: {} came out of {}, and it goes on: this is no disk image, or one made to harm \
                     (decompress it by hand with zstd -d if you trust it)",
                    text::size(size),
                    text::size(taken)
                )));
            }
            watch(Progress { work: Work::Decompress, done: taken, total: input_size });
            if ends {
                break;
            }
        }
        let ends = filled < piece.len();
        if let Some(recorder) = recorder.as_mut().filter(|_| filled > 0) {
            piece.truncate(filled);
            recorder.take(std::mem::take(&mut piece), stored == before).map_err(compressing)?;
        }
        if ends {
            break;
        }
        if let Some(recorder) = recorder.as_mut() {
            piece = recorder.buffer();
        }
    }
    spool.set_len(size).map_err(writing)?;
    Ok(size)
}

/// The first `most` bytes of `buffer`, or all of it.
fn part(buffer: &mut [u8], most: usize) -> &mut [u8] {
    let count = buffer.len().min(most);
    // OK to index: it is at most the length.
    &mut buffer[..count]
}

/// Writes `data` at `offset`, except pieces of zeros. Returns the number of bytes written.
pub(crate) fn write_sparse(file: &File, offset: u64, data: &[u8]) -> io::Result<u64> {
    let mut written = 0_u64;
    let mut at = offset;
    for piece in data.chunks(PIECE) {
        if !is_zero(piece) {
            file.write_all_at(piece, at)?;
            written = written.saturating_add(length(piece));
        }
        at = at.checked_add(length(piece)).ok_or(io::ErrorKind::FileTooLarge)?;
    }
    Ok(written)
}

/// True if every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    // Comparing slices is a memcmp; a loop over bytes is not.
    bytes.chunks(PIECE).all(|piece| ZEROS.get(..piece.len()) == Some(piece))
}

/// Refuses a stream whose start is no raw disk, before all of it is decoded.
fn refuse_no_disk(head: &[u8], name: &str) -> Result<(), StorageError> {
    let name = format!("{name} (decompressed)");
    container::refuse_foreign(head, &name)?;
    let signed = head.get(510..512) == Some(&[0x55, 0xaa]);
    let gpt = [512, 4096].into_iter().any(|at| head.get(at..).is_some_and(|rest| rest.starts_with(b"EFI PART")));
    if signed || gpt || probe::probe(&head.to_vec()).is_ok_and(|found| found.is_some()) {
        return Ok(());
    }
    Err(StorageError::unsupported(
        format!("{name} is no disk image: it has neither a partition table nor a file system"),
        "deaddrop takes raw images, also as .zst",
    ))
}

/// Reads until `buf` is full or the input ends.
fn fill(from: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    // OK to index: `filled` never passes the length.
    while filled < buf.len() {
        match from.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Classifies a decoder error: truncated, too large a window, an error of the system, or damaged.
fn in_stream(error: io::Error, name: &str) -> StorageError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return StorageError::corrupt(format!("{name} ends in the middle of its zstd data: it is truncated"));
    }
    if error.raw_os_error().is_some() {
        return StorageError::io(format!("reading {name}"), error);
    }
    // zstd's own message, from `ZSTD_getErrorString` (frameParameter_windowTooLarge).
    let words = error.to_string();
    if words.contains("too much memory") {
        return StorageError::unsupported(
            format!("{name} was compressed with a window over 128 MiB"),
            "decompress it first: zstd -d --long=31 IMAGE",
        );
    }
    StorageError::corrupt(format!("{name}: the zstd data is damaged: {words}"))
}

/// Reads a file by position, and counts the bytes.
struct Counted<'a> {
    input: &'a File,
    offset: Rc<Cell<u64>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let offset = self.offset.get();
        let count = self.input.read_at(buf, offset)?;
        self.offset.set(offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX)));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::as_conversions)]

    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::progress::quiet;

    /// A disk of `size` bytes that looks like one: an MBR signature, the rest filled with `fill`.
    fn disk(size: usize, fill: u8) -> Vec<u8> {
        let mut disk = vec![fill; size];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    fn decoded(limits: &Limits, compressed: &[u8]) -> Result<(Vec<u8>, u64), String> {
        let input = tempfile::tempfile().unwrap();
        input.write_all_at(compressed, 0).unwrap();
        let spool = tempfile::tempfile().unwrap();
        let size = decode_within(limits, &input, compressed.len() as u64, &spool, None, "x.zst", "/tmp", &quiet)
            .map_err(|e| e.to_string())?;
        let mut bytes = vec![0; size as usize];
        spool.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(spool.metadata().unwrap().len(), size);
        Ok((bytes, spool.metadata().unwrap().blocks() * 512))
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    #[test]
    fn several_frames_and_skippable_ones_are_one_disk() {
        let mut disk = disk(3 << 20, 0);
        disk[(2 << 20) + 5] = 7;
        let skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc";
        let (first, second) = disk.split_at(1 << 20);
        let stream = [&skippable[..], &zstd(first), &skippable[..], &zstd(second), &skippable[..]].concat();
        let (bytes, on_disk) = decoded(&LIMITS, &stream).unwrap();
        assert!(bytes == disk);
        assert!(on_disk <= 256 << 10, "zeros stay holes: {on_disk} bytes are stored");
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_said_so() {
        let disk: Vec<u8> =
            disk(1 << 20, 0).iter().enumerate().map(|(i, byte)| byte ^ ((i * 7919) >> 3) as u8).collect();
        let mut disk = disk;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let whole = zstd(&disk);
        for length in [5, 100, whole.len() / 2, whole.len() - 1] {
            let error = decoded(&LIMITS, &whole[..length]).unwrap_err();
            assert_eq!(error, "x.zst ends in the middle of its zstd data: it is truncated", "{length}");
        }
        let error = decoded(&LIMITS, &[&whole[..], b"garbage"].concat()).unwrap_err();
        assert!(error.starts_with("x.zst: the zstd data is damaged: "), "{error}");
        let mut wrong = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        wrong.include_checksum(true).unwrap();
        io::Write::write_all(&mut wrong, &disk).unwrap();
        let mut wrong = wrong.finish().unwrap();
        *wrong.last_mut().unwrap() ^= 1;
        let error = decoded(&LIMITS, &wrong).unwrap_err();
        assert!(error.starts_with("x.zst: the zstd data is damaged: "), "{error}");
    }

    #[test]
    fn what_comes_out_must_look_like_a_disk_before_the_rest_is_decoded() {
        let error = decoded(&LIMITS, &zstd(&vec![0; 8 << 20])).unwrap_err();
        assert!(error.contains("is no disk image: it has neither a partition table nor a file system"), "{error}");
        let mut qcow2 = vec![0; 1 << 20];
        qcow2[..4].copy_from_slice(b"QFI\xfb");
        assert_eq!(decoded(&LIMITS, &zstd(&qcow2)).unwrap_err(), "x.zst (decompressed) is a qcow2 image");
        assert!(decoded(&LIMITS, &zstd(b"")).is_err());
    }

    #[test]
    fn a_bomb_is_stopped_by_what_it_stores_and_by_what_it_holds() {
        let small = || Limits {
            output: Allowance { free: 4 << 20, ratio: 100 },
            stored: Allowance { free: 1 << 20, ratio: 10 },
            most: 64 << 20,
        };
        assert!(decoded(&small(), &zstd(&disk(4 << 20, 0))).is_ok(), "at the limit");
        for (name, bomb) in [("zeros", disk((4 << 20) + 1, 0)), ("stored", disk(3 << 20, b'A'))] {
            let error = decoded(&small(), &zstd(&bomb)).unwrap_err();
            assert!(error.contains("this is no disk image, or one made to harm"), "{name}: {error}");
        }
        let most = Limits { most: 1 << 20, ..small() };
        assert!(decoded(&most, &zstd(&disk(2 << 20, 0))).is_err());
    }

    #[test]
    fn a_window_over_the_limit_is_refused_with_the_way_around_it() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        io::Write::write_all(&mut encoder, &disk(1 << 20, 0)).unwrap();
        let error = decoded(&LIMITS, &encoder.finish().unwrap()).unwrap_err();
        assert_eq!(error, "x.zst was compressed with a window over 128 MiB");
    }
}
