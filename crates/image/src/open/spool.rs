//! Decodes a compressed image into a sparse, unnamed file, so that the rest of the program sees what is inside.
//!
//! Used by [`super::disk`]. The input is hostile: the decoder's memory is limited, the size that it declares is not
//! trusted, and the ratio of output to input is bounded (see [`Limits`]).

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys;
use deaddrop_core::text;

use super::novelty::novel_bytes;
use crate::container::compression::Limits;
use crate::container::{Compression, Format, foreign};
use crate::output::frames::Recorder;
use crate::progress::{Progress, Watch, Work};
use crate::table::probe;

/// Number of bytes decoded and written at a time.
const CHUNK: usize = 1 << 20;
/// Bytes after which several files are begun to be written to the disk.
const STEP: u64 = 32 << 20;
/// Runs of zeros become holes in units of this size.
const PIECE: usize = 64 << 10;
/// Number of bytes that must look like a disk image: they include everything by which tables and file systems are
/// detected.
const HEAD: usize = CHUNK;

/// So many bytes from each byte of input are no bomb, and the input is not looked at for that.
const DENSE: u64 = 20;

/// Takes the bytes of a disk at an offset; returns how many of them are not known to be zero.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<u64, StorageError>;

/// A compressed image to be decoded.
pub(crate) struct Job<'a> {
    pub(crate) compression: Compression,
    pub(crate) input: &'a File,
    /// Size of the input, in bytes.
    pub(crate) size: u64,
    /// The image's name, for messages.
    pub(crate) name: &'a str,
    /// The directory of the spool, for messages.
    pub(crate) place: &'a str,
    pub(crate) watch: Watch<'a>,
    /// Empty files that become the disk too.
    pub(crate) copies: &'a [&'a File],
    /// True if a tar is expected, which looks like no disk.
    pub(crate) is_tar: bool,
}

impl Job<'_> {
    /// Decodes into the empty file `spool`; returns the size of the disk in bytes. `recorder`, if there is one, gets
    /// the disk too.
    ///
    /// # Errors
    /// `Corrupt` if the data is damaged, truncated, or the output exceeds that of any disk image; `Unsupported` for a
    /// feature of the compression that is not supported, or if the output is no raw disk; `Io`, also if there is no
    /// space.
    pub(crate) fn decode(&self, spool: &File, recorder: Option<&mut Recorder>) -> Result<u64, StorageError> {
        self.decode_within(self.compression.codec().limits(), spool, recorder)
    }

    fn decode_within(
        &self,
        limits: &Limits,
        spool: &File,
        recorder: Option<&mut Recorder>,
    ) -> Result<u64, StorageError> {
        let writing = |e| StorageError::io(format!("writing the decompressed {} in {}", self.name, self.place), e);
        let size = self.decode_to(
            limits,
            &mut |offset, chunk| {
                let stored = write_sparse(spool, offset, chunk).map_err(writing)?;
                for copy in self.copies.iter().filter(|_| stored > 0) {
                    write_sparse(copy, offset, chunk).map_err(writing)?;
                }
                self.start_writing(spool, offset, length(chunk));
                Ok(stored)
            },
            recorder,
        )?;
        for file in std::iter::once(&spool).chain(self.copies) {
            file.set_len(size).map_err(writing)?;
        }
        Ok(size)
    }

    /// Decodes in order into `sink`, and returns the size of the disk in bytes; see [`Job::decode`].
    ///
    /// # Errors
    /// As [`Job::decode`]; those of `sink`.
    pub(crate) fn decode_in_order(&self, sink: Sink<'_>) -> Result<u64, StorageError> {
        self.decode_to(self.compression.codec().limits(), sink, None)
    }

    fn decode_to(
        &self,
        limits: &Limits,
        sink: Sink<'_>,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<u64, StorageError> {
        let name = self.name;
        let compressing = |e| StorageError::io(format!("compressing what {name} holds, in {}", self.place), e);
        let consumed = Rc::new(Cell::new(0));
        let counted = Counted { input: self.input, offset: Rc::clone(&consumed) };
        let counted = Box::new(BufReader::with_capacity(CHUNK, counted));
        let decoder = self.compression.codec().decoder(counted);
        let mut decoder = decoder.map_err(|e| StorageError::io(format!("decompressing {name}"), e))?;
        let mut meter = Meter { job: self, limits, size: 0, stored: 0, novel: None };
        // The image's content may be secret.
        let mut piece = recorder.as_mut().map_or_else(|| Wiped::zeros(CHUNK), |recorder| recorder.buffer());
        loop {
            // One piece of the disk, chunk by chunk.
            let (mut filled, before) = (0, meter.stored);
            while let Some(chunk) =
                piece.get_mut(filled..).map(|rest| part(rest, CHUNK)).filter(|chunk| !chunk.is_empty())
            {
                let count = fill(&mut decoder, chunk).map_err(|e| self.in_stream(e))?;
                let ends = count < chunk.len();
                // OK to index: `fill` never counts more than the buffer has.
                let chunk = &chunk[..count];
                if meter.size == 0 && !self.is_tar {
                    refuse_no_disk(&chunk[..count.min(HEAD)], name, self.compression)?;
                }
                let stored = sink(meter.size, chunk)?;
                filled = filled.saturating_add(count);
                let taken = consumed.get();
                meter.add(length(chunk), stored, taken)?;
                (self.watch)(Progress { work: Work::Decompress, done: taken, total: self.size });
                if ends {
                    break;
                }
            }
            let ends = filled < piece.len();
            if let Some(recorder) = recorder.as_mut().filter(|_| filled > 0) {
                piece.truncate(filled);
                recorder.take(std::mem::take(&mut piece), meter.stored == before).map_err(compressing)?;
            }
            if ends {
                break;
            }
            if let Some(recorder) = recorder.as_mut() {
                piece = recorder.buffer();
            }
        }
        Ok(meter.size)
    }

    /// With several files the disk is what takes longest: it begins early.
    fn start_writing(&self, spool: &File, offset: u64, count: u64) {
        let end = offset.saturating_add(count);
        let ends_a_step = end / STEP > offset / STEP;
        if !self.copies.is_empty() && ends_a_step {
            let start = (end / STEP - 1) * STEP;
            std::iter::once(&spool).chain(self.copies).for_each(|file| sys::begin_writing(file, start, STEP));
        }
    }

    /// Classifies a decoder error: truncated, not supported, an error of the system, or damaged.
    fn in_stream(&self, error: io::Error) -> StorageError {
        let (name, kind) = (self.name, self.compression.name());
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return StorageError::corrupt(format!("{name} ends in the middle of its {kind} data: it is truncated"));
        }
        if error.raw_os_error().is_some() {
            return StorageError::io(format!("reading {name}"), error);
        }
        match self.compression.codec().unsupported(&error) {
            Some((what, hint)) => StorageError::unsupported(format!("{name} {what}"), hint),
            None => StorageError::corrupt(format!("{name}: the {kind} data is damaged: {error}")),
        }
    }
}

/// What came out so far, and the limits of it.
struct Meter<'a> {
    job: &'a Job<'a>,
    limits: &'a Limits,
    size: u64,
    /// Bytes that were not zero.
    stored: u64,
    /// What the input has besides repetition, once it was measured.
    novel: Option<u64>,
}

impl Meter<'_> {
    /// Counts `more` bytes of output, of which `stored` take space, after `taken` bytes of input.
    fn add(&mut self, more: u64, stored: u64, taken: u64) -> Result<(), StorageError> {
        self.size = self.size.saturating_add(more);
        self.stored = self.stored.saturating_add(stored);
        let limits = self.limits;
        let covered = match limits.looks_ahead {
            // Most images: nothing has to be measured.
            true if self.size <= limits.output.free.max(taken.saturating_mul(DENSE)) => true,
            true => limits.output.covers(self.size, self.novel()?),
            false => limits.output.covers(self.size, taken),
        };
        if self.size <= limits.most && covered && limits.stored.covers(self.stored, taken) {
            return Ok(());
        }
        Err(StorageError::corrupt(format!(
            "{}: {} came out of {}, and it goes on: this is no disk image, or one made to harm (decompress it by hand \
             with {} if you trust it)",
            self.job.name,
            text::size(self.size),
            text::size(taken),
            self.job.compression.codec().by_hand(),
        )))
    }

    fn novel(&mut self) -> Result<u64, StorageError> {
        if let Some(novel) = self.novel {
            return Ok(novel);
        }
        let reading = |e| StorageError::io(format!("reading {}", self.job.name), e);
        let novel = novel_bytes(self.job.input, self.job.size).map_err(reading)?;
        self.novel = Some(novel);
        Ok(novel)
    }
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
pub(crate) fn refuse_no_disk(head: &[u8], name: &str, outer: Compression) -> Result<(), StorageError> {
    let name = format!("{name} (decompressed)");
    if Format::told_by(head) != Format::Raw {
        return Ok(());
    }
    if let Some(inner) = Compression::told_by(head) {
        let hint = format!("unpack the outer layer first: {outer} IMAGE", outer = outer.codec().by_hand());
        return Err(StorageError::unsupported(format!("{name} is {}-compressed", inner.name()), hint));
    }
    foreign::refuse(head, &name)?;
    if looks_like_a_disk(head) {
        return Ok(());
    }
    Err(StorageError::unsupported(
        format!("{name} is no disk image: it has neither a partition table nor a file system"),
        "deaddrop takes raw, qcow2, VMDK, VDI, VHD and VHDX images, also as .gz, .xz, .bz2 and .zst",
    ))
}

/// True if the start of a raw disk has a partition table or a file system.
pub(crate) fn looks_like_a_disk(head: &[u8]) -> bool {
    let signed = head.get(510..512) == Some(&[0x55, 0xaa]);
    let gpt = [512, 4096].into_iter().any(|at| head.get(at..).is_some_and(|rest| rest.starts_with(b"EFI PART")));
    signed || gpt || probe::probe(&head.to_vec()).is_ok_and(|found| found.is_some())
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
    use crate::container::compression::Allowance;
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
        let job = Job {
            compression: Compression::told_by(compressed).expect("its start"),
            input: &input,
            size: compressed.len() as u64,
            name: "x.zst",
            place: "/tmp",
            watch: &quiet,
            copies: &[],
            is_tar: false,
        };
        let size = job.decode_within(limits, &spool, None).map_err(|e| e.to_string())?;
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
        let (bytes, on_disk) = decoded(Compression::Zstd.codec().limits(), &stream).unwrap();
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
            let error = decoded(Compression::Zstd.codec().limits(), &whole[..length]).unwrap_err();
            assert_eq!(error, "x.zst ends in the middle of its zstd data: it is truncated", "{length}");
        }
        let error = decoded(Compression::Zstd.codec().limits(), &[&whole[..], b"garbage"].concat()).unwrap_err();
        assert!(error.starts_with("x.zst: the zstd data is damaged: "), "{error}");
        let mut wrong = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        wrong.include_checksum(true).unwrap();
        io::Write::write_all(&mut wrong, &disk).unwrap();
        let mut wrong = wrong.finish().unwrap();
        *wrong.last_mut().unwrap() ^= 1;
        let error = decoded(Compression::Zstd.codec().limits(), &wrong).unwrap_err();
        assert!(error.starts_with("x.zst: the zstd data is damaged: "), "{error}");
    }

    #[test]
    fn what_comes_out_must_look_like_a_disk_before_the_rest_is_decoded() {
        let error = decoded(Compression::Zstd.codec().limits(), &zstd(&vec![0; 8 << 20])).unwrap_err();
        assert!(error.contains("is no disk image: it has neither a partition table nor a file system"), "{error}");
        let mut qed = vec![0; 1 << 20];
        qed[..4].copy_from_slice(b"QED\0");
        assert_eq!(
            decoded(Compression::Zstd.codec().limits(), &zstd(&qed)).unwrap_err(),
            "x.zst (decompressed) is a QED image"
        );
        assert!(decoded(Compression::Zstd.codec().limits(), &zstd(b"")).is_err());
    }

    #[test]
    fn a_bomb_is_stopped_by_what_it_stores_and_by_what_it_holds() {
        let small = || Limits {
            output: Allowance { free: 4 << 20, ratio: 100 },
            stored: Allowance { free: 1 << 20, ratio: 10 },
            most: 64 << 20,
            looks_ahead: false,
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
        let error = decoded(Compression::Zstd.codec().limits(), &encoder.finish().unwrap()).unwrap_err();
        assert_eq!(error, "x.zst was compressed with a window over 128 MiB");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_disk_may_begin_with_zeros_if_there_is_a_system_behind_them() {
        let limits = || Limits {
            output: Allowance { free: 4 << 20, ratio: 1_000 },
            stored: Allowance { free: 1 << 20, ratio: 50 },
            most: 64 << 20,
            looks_ahead: true,
        };
        let mut system = disk(20 << 20, 0);
        for (index, byte) in system[19 << 20..].iter_mut().enumerate() {
            *byte = ((index * index * 7919) >> 5) as u8 ^ (index >> 11) as u8;
        }
        assert!(decoded(&limits(), &gzip(&system)).is_ok());
        // The same zeros without it; and behind an image that is much smaller.
        for bomb in [gzip(&disk(20 << 20, 0)), [gzip(&disk(1 << 20, 0)), gzip(&vec![0; 20 << 20])].concat()] {
            let error = decoded(&limits(), &bomb).map(drop).unwrap_err();
            assert!(error.contains("by hand with gunzip -k"), "{error}");
        }
    }
}
