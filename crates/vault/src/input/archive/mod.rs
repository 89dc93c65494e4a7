//! Reading ZIP files: an export that is one, and the attachments in it. Nothing is ever unpacked to the disk, and a name in
//! an archive is never a path here.
//!
//! What an archive claims is checked before the `zip` crate sees it, since that reserves memory by these claims. Facts:
//! PKWARE's APPNOTE.TXT 6.3.10, 4.3.16 (end of central directory record) and 4.3.15 (ZIP64's locator).

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

/// Something to read at any place.
pub(crate) trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// How a ZIP file begins: with its first file's header.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";

/// The most files in an archive. An item of its own for each attachment is already a lot.
const MAX_FILES: u16 = 50_000;

/// The most bytes of the central directory: names, and 46 bytes a file.
const MAX_DIRECTORY: u64 = 16 << 20;

/// How much a file in it may unpack to, in bytes, however little it is packed.
const FREE: u64 = 32 << 20;

/// How many times its packed size a larger one may unpack to. JSON packs to a tenth, what is all the same to a
/// thousandth.
const MAX_RATIO: u64 = 250;

/// An archive.
pub(crate) struct Archive {
    zip: ZipArchive<Masked>,
}

/// A file whose first bytes read as zeros. The crate looks for its records in pieces of a KiB that stay on the stack, and a
/// short archive's last KiB holds values: they are hidden from it until that is done.
struct Masked {
    inner: BufReader<Box<dyn ReadSeek>>,
    at: u64,
    /// How many bytes from the beginning on are hidden.
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
    /// Reads the list of what is in `file`.
    ///
    /// # Errors
    /// What is wrong with it, to be put after its name.
    pub(crate) fn open(mut file: Box<dyn ReadSeek>) -> Result<Self, String> {
        let hidden = Rc::new(Cell::new(check_claims(&mut file)?));
        let file = Masked { inner: BufReader::new(file), at: 0, hidden: Rc::clone(&hidden) };
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = contain(|| ZipArchive::with_config(config, file)).ok_or_else(damaged)?;
        let zip = zip.map_err(|error| say(&error))?;
        hidden.set(0);
        if zip.has_duplicate_names() {
            return Err("two files in this ZIP file have one name".to_owned());
        }
        Ok(Self { zip })
    }

    /// The names of all files in it, with their numbers.
    pub(crate) fn names(&self) -> impl Iterator<Item = (usize, String)> {
        (0..self.zip.len()).filter_map(|index| {
            // One that cannot be told about has no name here: whoever wants it is told that it is not there.
            let entry = self.zip.by_index_data(index).ok()?;
            // Programs that leave out the mark for UTF-8 still write it.
            let name = match std::str::from_utf8(entry.name_raw()) {
                Ok(name) => name.to_owned(),
                Err(_) => entry.name().ok()?.into_owned(),
            };
            (!name.ends_with('/')).then_some((index, name))
        })
    }

    /// Opens a file in it.
    ///
    /// # Errors
    /// What is wrong with it. Reading may fail later, also at its end: only then its checksum is known.
    pub(crate) fn entry(&mut self, index: usize) -> Result<impl Read + '_, String> {
        let (packed, size) = {
            let entry = self.zip.by_index_data(index).map_err(|error| say(&error))?;
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
        let entry = contain(|| self.zip.by_index(index)).ok_or_else(damaged)?.map_err(|error| say(&error))?;
        Ok(Bounded { inner: entry, left: most })
    }

    /// Reads an attachment. One that is longer than a value may be is cut after its first byte too many.
    ///
    /// # Errors
    /// What is wrong with it.
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
    /// The attachment whose number in `archive` a field has kept as its place.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn attachment_at(archive: Option<&mut Self>, place: &str) -> Result<Secret, String> {
        match (archive, place.parse()) {
            (Some(archive), Ok(index)) => archive.attachment(index),
            _ => Err("there is no such attachment".to_owned()),
        }
    }
}

/// What is read of a file until it is too much. What goes wrong is said in our words.
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

/// Looks at the record at the end, and returns where the directory begins: it must end the file, and claim no more than is read here. The last one in the file is
/// the one that the crate takes; it takes no earlier one when this one lies directly behind the directory.
fn check_claims(file: &mut Box<dyn ReadSeek>) -> Result<u64, String> {
    /// Length of the record without its comment.
    const RECORD: usize = 22;
    /// Length of ZIP64's locator, which stands before the record.
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

/// A refusal of the crate's. Its own words may hold a name, so they are not shown.
fn say(error: &ZipError) -> String {
    match error {
        ZipError::UnsupportedArchive(_) => "the ZIP file is of a kind that is not read".to_owned(),
        _ => damaged(),
    }
}

#[cfg(test)]
mod tests;
