//! Reads ZIP files: exports, and the attachments in them. Nothing is unpacked to the disk, and a name in an archive is
//! never used as a path.
//!
//! The sizes that an archive declares are checked before the `zip` crate parses it, because the crate allocates by
//! them. Format: PKWARE's APPNOTE.TXT 6.3.10, 4.3.16 (end of central directory record) and 4.3.15 (ZIP64 locator).

use std::cell::Cell;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

use deaddrop_core::contain::contain;
use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::read::{self, ReadError};

/// A seekable reader.
pub(crate) trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// Start of a ZIP file: its first local file header.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";

/// Maximum number of files in an archive. One item may have several attachments; 50,000 is plenty.
const MAX_FILES: u16 = 50_000;

/// Maximum length of the central directory, in bytes: names, and 46 bytes per file.
const MAX_DIRECTORY: u64 = 16 << 20;

/// Unpacked length, in bytes, up to which the compression ratio is not checked.
const FREE: u64 = 32 << 20;

/// Maximum compression ratio above [`FREE`]. JSON compresses to about a tenth, constant bytes to a thousandth.
const MAX_RATIO: u64 = 250;

/// An open archive.
pub(crate) struct Archive {
    zip: ZipArchive<Masked>,
}

/// A file whose first bytes read as zeros. The crate searches for its records in 1 KiB pieces on the stack, which are
/// not zeroized; the last KiB of a short archive holds values, so they are hidden during the search.
struct Masked {
    inner: BufReader<Box<dyn ReadSeek>>,
    at: u64,
    /// Number of bytes hidden, from the start of the file.
    hidden: Rc<Cell<u64>>,
}

impl Read for Masked {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let hidden = usize::try_from(self.hidden.get().saturating_sub(self.at)).unwrap_or(usize::MAX);
        let count = if hidden > 0 {
            let count = hidden.min(out.len());
            out[..count].fill(0);
            self.inner.seek_relative(i64::try_from(count).unwrap_or(0))?;
            count
        } else {
            self.inner.read(out)?
        };
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

impl Seek for Masked {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.inner.seek(to)?;
        Ok(self.at)
    }
}

impl Archive {
    /// Reads the central directory of `file`.
    ///
    /// # Errors
    /// A message, to be printed after the archive's name.
    pub(crate) fn open(mut file: Box<dyn ReadSeek>) -> Result<Self, String> {
        let hidden = Rc::new(Cell::new(check_claims(&mut file)?));
        let file = Masked { inner: BufReader::new(file), at: 0, hidden: Rc::clone(&hidden) };
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = contain(|| ZipArchive::with_config(config, file)).ok_or_else(damaged)?;
        let zip = zip.map_err(|error| message(&error))?;
        hidden.set(0);
        if zip.has_duplicate_names() {
            return Err("two files in this ZIP file have one name".to_owned());
        }
        Ok(Self { zip })
    }

    /// The index and name of every file in it.
    pub(crate) fn names(&self) -> impl Iterator<Item = (usize, String)> {
        (0..self.zip.len()).filter_map(|index| {
            // A file whose entry is malformed is omitted; an item that refers to it then reports it as missing.
            let entry = self.zip.by_index_data(index).ok()?;
            // Some programs write UTF-8 without setting the UTF-8 flag.
            let name = match std::str::from_utf8(entry.name_raw()) {
                Ok(name) => name.to_owned(),
                Err(_) => entry.name().ok()?.into_owned(),
            };
            (!name.ends_with('/')).then_some((index, name))
        })
    }

    /// Opens the file number `index`.
    ///
    /// # Errors
    /// A message, to be printed after the archive's name. Reading may fail later, at the latest at the end, where the
    /// checksum is verified.
    pub(crate) fn entry(&mut self, index: usize) -> Result<impl Read + '_, String> {
        let (packed, size) = {
            let entry = self.zip.by_index_data(index).map_err(|error| message(&error))?;
            if entry.encrypted() {
                return Err("it is encrypted inside the ZIP file, and no password manager writes such".to_owned());
            }
            if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
                return Err("a file in the ZIP file is packed with something else than deflate".to_owned());
            }
            (entry.compressed_size(), entry.size())
        };
        let most = packed.saturating_mul(MAX_RATIO).max(FREE);
        if size > most {
            return Err(bomb());
        }
        let entry = contain(|| self.zip.by_index(index)).ok_or_else(damaged)?.map_err(|error| message(&error))?;
        Ok(Bounded { inner: entry, left: most })
    }

    /// Reads an attachment, at most one byte more than the maximum length of a value; the caller refuses that.
    ///
    /// # Errors
    /// A message, to be printed after the archive's name.
    pub(crate) fn attachment(&mut self, index: usize) -> Result<Secret, String> {
        let size = self.zip.by_index_data(index).map_or(0, |entry| entry.size());
        if size > u64::try_from(MAX_VALUE).unwrap_or(u64::MAX) {
            return Ok(Secret::new(vec![0; MAX_VALUE + 1]));
        }
        let size = usize::try_from(size).unwrap_or(0);
        let entry = self.entry(index)?;
        let mut bytes: Zeroizing<Vec<u8>> =
            contain(|| read::to_end(entry, size, MAX_VALUE)).ok_or_else(damaged)?.map_err(|problem| match problem {
                ReadError::Io(error) => error.to_string(),
                problem => problem.to_string(),
            })?;
        Ok(Secret::new(std::mem::take(&mut *bytes)))
    }
}

impl Archive {
    /// Reads the attachment whose index in `archive` is `place`, as a field stored it.
    ///
    /// # Errors
    /// A message, to be printed after the archive's name.
    pub(crate) fn attachment_at(archive: Option<&mut Self>, place: &str) -> Result<Secret, String> {
        match (archive, place.parse()) {
            (Some(archive), Ok(index)) => archive.attachment(index),
            _ => Err("there is no such attachment".to_owned()),
        }
    }
}

/// A reader that fails at a limit. Errors get our messages.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = contain(|| self.inner.read(out)).unwrap_or_else(|| Err(io::Error::other(damaged())));
        let count = read.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(damaged()),
        })?;
        self.left = match self.left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)) {
            Some(left) => left,
            None => return Err(io::Error::other(bomb())),
        };
        Ok(count)
    }
}

/// Checks the end of central directory record: it must end the file, and declare no more than the limits. Returns the
/// offset of the central directory. The crate uses the last record in the file, and no earlier one if the last directly
/// follows the directory.
fn check_claims(file: &mut Box<dyn ReadSeek>) -> Result<u64, String> {
    /// Length of the record without its comment, in bytes (4.3.16).
    const RECORD: usize = 22;
    /// Length of the ZIP64 locator, which precedes the record, in bytes (4.3.15).
    const LOCATOR: usize = 20;
    const LONGEST_COMMENT: usize = 65_535;

    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    let wanted = u64::try_from(RECORD + LOCATOR + LONGEST_COMMENT).unwrap_or(u64::MAX).min(length);
    file.seek(SeekFrom::Start(length - wanted)).map_err(unreadable)?;
    let mut tail = Zeroizing::new(vec![0; usize::try_from(wanted).unwrap_or(0)]);
    file.read_exact(&mut tail).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;

    let cut = || "the ZIP file has no end: it is cut off, or still being written".to_owned();
    let at = tail.windows(4).rposition(|four| four == b"PK\x05\x06").ok_or_else(cut)?;
    let record = tail.get(at..at + RECORD).ok_or_else(cut)?;
    let short = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
    let long = |at: usize| u64::from(u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]));
    let (files, directory, start, comment) = (short(10), long(12), long(16), usize::from(short(20)));
    let position = length - u64::try_from(tail.len() - at).unwrap_or(length);
    if at + RECORD + comment != tail.len() {
        return Err(cut());
    }
    let before = at.checked_sub(LOCATOR).and_then(|start| tail.get(start..start + 4));
    if before == Some(b"PK\x06\x07") || files == u16::MAX {
        return Err("this is a ZIP64 file: over 4 GiB, or over 65,534 files, and such are not read".to_owned());
    }
    if files > MAX_FILES || directory > MAX_DIRECTORY {
        return Err(format!("the ZIP file has over {MAX_FILES} files, the most that are read"));
    }
    if start.checked_add(directory) != Some(position) {
        return Err(damaged());
    }
    Ok(start)
}

fn damaged() -> String {
    "the ZIP file is damaged".to_owned()
}

fn bomb() -> String {
    format!("a file in the ZIP file unpacks to over {MAX_RATIO} times its size: no export does")
}

/// A message for an error of the crate, whose own text may quote a name.
fn message(error: &ZipError) -> String {
    match error {
        ZipError::UnsupportedArchive(_) => "the ZIP file is of a kind that is not read".to_owned(),
        _ => damaged(),
    }
}

#[cfg(test)]
mod tests;
