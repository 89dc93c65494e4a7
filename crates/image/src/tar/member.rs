//! One entry of an archive, with the extended headers that precede it.

use std::io;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::text;

use super::header::{self, BLOCK, Block, Form, STEP};
use super::records::{self, Record};
use super::sparse::Map;
use crate::device::ReadAt;

/// Maximum size of the extended headers of an entry, in bytes.
const MOST_EXTENSION: u64 = 4 << 20;
/// Maximum length of a name, and of a link's target, in bytes: PATH_MAX.
const MOST_NAME: usize = 4096;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// Another name of an earlier entry.
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// No file: the name of the archive.
    Label,
}

/// An entry of an archive.
#[derive(Clone)]
pub(super) struct Member {
    /// Offset of its first block: of the first extended header, if it has one.
    pub(super) start: u64,
    /// Offset behind its header, where its data (or the rest of its map) begins.
    pub(super) rest: u64,
    /// Offset of its data.
    pub(super) data: u64,
    /// Bytes of data.
    pub(super) stored: u64,
    /// Offset behind it.
    pub(super) end: u64,
    /// Its header.
    pub(super) block: Block,
    /// The records of its pax headers.
    pub(super) records: Vec<Record>,
    pub(super) kind: Kind,
    /// As written.
    pub(super) name: Vec<u8>,
    /// The target of a link.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: i64,
    /// The holes of a sparse file.
    pub(super) map: Option<Map>,
}

impl Member {
    /// Size of a file with its holes, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.map.as_ref().map_or(self.stored, |map| map.size)
    }
}

/// An archive that is read block by block.
pub(super) struct Blocks<'a> {
    device: &'a dyn ReadAt,
    /// What was read last, and where.
    window: Vec<u8>,
    start: u64,
}

/// Bytes that are read at a time: a header, and those of small files behind it.
const WINDOW: u64 = 16 << 10;

impl<'a> Blocks<'a> {
    pub(super) fn new(device: &'a dyn ReadAt) -> Self {
        Self { device, window: Vec::new(), start: 0 }
    }

    /// The block at `at`; `None` at the end of the file.
    fn block(&mut self, at: u64) -> io::Result<Option<Block>> {
        let inside = |at: u64, start: u64| at.checked_sub(start).and_then(|at| usize::try_from(at).ok());
        let found = |window: &[u8], start| inside(at, start).and_then(|at| window.get(at..)?.first_chunk().copied());
        if let Some(block) = found(&self.window, self.start) {
            return Ok(Some(Block(block)));
        }
        let left = self.device.size().saturating_sub(at);
        if left < STEP {
            return Ok(None);
        }
        self.window.resize(usize::try_from(left.min(WINDOW)).unwrap_or(BLOCK), 0);
        self.start = at;
        self.device.read_exact_at(at, &mut self.window)?;
        Ok(found(&self.window, at).map(Block))
    }

    /// The entry at `at`; `None` where the archive ends.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or ends early; `Unsupported` for what programs do not agree about; `Io`.
    pub(super) fn member(&mut self, at: u64) -> Result<Option<Member>, StorageError> {
        let mut extensions = Extensions::default();
        let mut here = at;
        loop {
            let block = self.block(here).map_err(reading)?;
            let Some(block) = block.filter(|block| !block.is_zero()) else {
                return if here == at { Ok(None) } else { Err(damaged(here, "an extended header has no entry")) };
            };
            if !block.is_sealed() {
                return Err(damaged(here, "its checksum is wrong"));
            }
            let behind = here.checked_add(STEP).ok_or_else(|| damaged(here, "it is too far"))?;
            let is_extension = matches!(block.kind(), b'x' | b'X' | b'g' | b'L' | b'K');
            if !is_extension {
                return self.entry(at, behind, block, extensions).map(Some);
            }
            let bytes = self.extension(&block, here, behind, MOST_EXTENSION.saturating_sub(extensions.size))?;
            extensions.add(&block, &bytes, here)?;
            here = end_of(behind, length(&bytes)).ok_or_else(|| damaged(here, "it is too far"))?;
        }
    }

    /// The content of an extended header, of at most `most` bytes.
    fn extension(&self, block: &Block, here: u64, behind: u64, most: u64) -> Result<Vec<u8>, StorageError> {
        let size = block.number(header::SIZE).and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| damaged(here, "an extended header has no size"))?;
        if size > most {
            let what = format!("an extended header of the tar has {}, at {here}", text::size(size));
            return Err(StorageError::unsupported(what, "deaddrop reads those of up to 4 MiB: is this a tar?"));
        }
        self.refuse_truncated(behind, size)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| damaged(here, "it is too large"))?];
        self.device.read_exact_at(behind, &mut bytes).map_err(reading)?;
        Ok(bytes)
    }

    fn refuse_truncated(&self, start: u64, size: u64) -> Result<(), StorageError> {
        let inside = start.checked_add(size).is_some_and(|end| end <= self.device.size());
        if inside { Ok(()) } else { Err(damaged(start, "it ends in the middle of an entry: it is truncated")) }
    }

    /// The entry whose header is `block`, and whose data starts at `rest`.
    fn entry(&self, start: u64, rest: u64, block: Block, extensions: Extensions) -> Result<Member, StorageError> {
        let here = rest.saturating_sub(STEP);
        let wrong = |what: &str| damaged(here, what);
        let Extensions { records, name: long_name, link: long_link, .. } = extensions;
        let get = |key: &str| records::get(&records, key);
        let is_pax_sparse = Map::is_in(&records);
        let name = get("path").map(<[u8]>::to_vec).or(long_name).unwrap_or_else(|| block.name());
        let name = get("GNU.sparse.name").map_or(name, <[u8]>::to_vec);
        let link = get("linkpath").map(<[u8]>::to_vec).or(long_link);
        let link = link.unwrap_or_else(|| block.text(header::LINK).to_vec());
        if [&name, &link].into_iter().any(|name| name.len() > MOST_NAME || name.contains(&0)) {
            return Err(wrong("a name is too long, or holds a NUL"));
        }
        let kind = kind(&block, &name).map_err(|why| unsupported(&name, &why))?;
        let number = |field, key| match get(key) {
            Some(value) => records::decimal(value),
            None => block.number(field).and_then(|number| u64::try_from(number).ok()),
        };
        let size = number(header::SIZE, "size").ok_or_else(|| wrong("it has no size"))?;
        let owner = |field, key| number(field, key).and_then(|id| u32::try_from(id).ok());
        let owner = owner(header::UID, "uid").zip(owner(header::GID, "gid"));
        let (uid, gid) = owner.ok_or_else(|| wrong("its owner is no number of 32 bits"))?;
        let mode = block.number(header::MODE).and_then(|mode| u32::try_from(mode).ok());
        let mode = mode.ok_or_else(|| wrong("it has no mode"))? & 0o7777;
        let modified = match get("mtime") {
            Some(value) => records::seconds(value),
            None => block.number(header::MTIME),
        };
        let modified = modified.ok_or_else(|| wrong("it has no time"))?;
        if size > 0 && !matches!(kind, Kind::File | Kind::Label) {
            // Some programs skip as many bytes, others none.
            return Err(unsupported(&name, "has a size, though it is no file: programs read what follows differently"));
        }
        let (mut data, mut map) = (rest, None);
        let device = self.device;
        let read_from = |start: u64| {
            move |at: u64| {
                let mut bytes = [0; BLOCK];
                device.read_exact_at(start.checked_add(at)?, &mut bytes).ok().map(|()| bytes)
            }
        };
        let bad_map = || wrong("its map of holes is wrong");
        if block.kind() == b'S' {
            let (read, blocks) = Map::of_gnu(&block, size, &read_from(rest)).ok_or_else(bad_map)?;
            map = Some(read);
            data = blocks.checked_mul(STEP).and_then(|size| rest.checked_add(size)).ok_or_else(bad_map)?;
        } else if is_pax_sparse {
            map =
                Some(Map::of_pax(&records, size, &read_from(rest)).filter(|_| kind == Kind::File).ok_or_else(bad_map)?);
        }
        self.refuse_truncated(data, size)?;
        let end = end_of(data, size).ok_or_else(|| wrong("it is too large"))?;
        Ok(Member {
            start,
            rest,
            data,
            stored: size,
            end,
            block,
            records,
            kind,
            name,
            link,
            mode,
            uid,
            gid,
            modified,
            map,
        })
    }
}

/// Where an entry ends whose `size` bytes of data start at `data`.
fn end_of(data: u64, size: u64) -> Option<u64> {
    data.checked_add(size.checked_next_multiple_of(STEP)?)
}

/// What the extended headers before an entry say.
#[derive(Default)]
struct Extensions {
    /// Their bytes, and a block for each.
    size: u64,
    records: Vec<Record>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    fn add(&mut self, block: &Block, bytes: &[u8], here: u64) -> Result<(), StorageError> {
        self.size = self.size.saturating_add(length(bytes)).saturating_add(STEP);
        let text = || bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match block.kind() {
            b'L' => self.name = Some(text()),
            b'K' => self.link = Some(text()),
            kind => {
                let records = records::parse(bytes).ok_or_else(|| damaged(here, "an extended header is damaged"))?;
                if kind == b'x' || kind == b'X' {
                    self.records.extend(records);
                } else if let Some((key, _)) = records.iter().find(|(key, _)| !is_harmless(key)) {
                    let key = text::shown(key).unwrap_or_default();
                    return Err(StorageError::unsupported(
                        format!("the tar sets {key} for all entries that follow, in a global header"),
                        "make it again without: tar --format=gnu, or --pax-option=delete",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// True for the key of a global record that changes no entry: `git archive` writes a comment.
fn is_harmless(key: &[u8]) -> bool {
    matches!(key, b"comment" | b"charset" | b"hdrcharset" | b"mtime" | b"atime" | b"ctime")
        || key.starts_with(b"GNU.volume.")
}

/// POSIX.1-2017, "pax", field `typeflag`; the GNU tar manual, "Basic Tar Format".
fn kind(block: &Block, name: &[u8]) -> Result<Kind, String> {
    Ok(match block.kind() {
        // Before POSIX, a directory was a file whose name ends so.
        b'0' | 0 if name.ends_with(b"/") && block.form() == Form::Old => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharacterDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'V' => Kind::Label,
        b'D' => return Err("is of an incremental backup".to_owned()),
        b'M' => return Err("is continued from another volume".to_owned()),
        other => return Err(format!("is of the unknown type {:?}", char::from(other))),
    })
}

pub(super) fn reading(error: io::Error) -> StorageError {
    StorageError::io("reading the tar", error)
}

fn damaged(at: u64, what: &str) -> StorageError {
    StorageError::corrupt(format!("the tar is damaged at {at}: {what}"))
}

/// The entry `name` is not supported.
pub(super) fn unsupported(name: &[u8], why: &str) -> StorageError {
    let name = text::shown(name).unwrap_or_default();
    let hint = "make it again: tar --numeric-owner -c …; or extract it, and inject into the directory";
    StorageError::unsupported(format!("the entry {name} of the tar {why}"), hint)
}
