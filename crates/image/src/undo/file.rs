//! The undo file: its format, and how it is created, found and removed.
//!
//! All integers are little-endian.
//!
//! ```text
//! header   magic (16 bytes), version (u32), block size (u32), UUID (16), start of the file system on the device (u64),
//!          size of the device (u64), number of records (u64), length of the device's path (u32), the path
//! record   block number (u64), number of states n (u32), the old block,
//!          n times: the SHA-256 of each 512 bytes of the block in a state that the run may have left it in
//! end      SHA-256 of everything before it
//! ```
//!
//! Digests are of 512 bytes, because a medium is assumed to write that much atomically: each sector of a block torn by
//! a power cut matches one of them. Old blocks need none: the digest at the end covers them.
//!
//! The file may contain old values. It has mode 0600 from its first byte, and is only accepted if it still has.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use deaddrop_core::bytes::{array, le32, le64, length};
use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::secret::Wiped;
use deaddrop_core::text;
use deaddrop_core::unfinished::{open_for_sync, sync_names};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use crate::open::holders;

const MAGIC: [u8; 16] = *b"deaddrop undo\n\0\0";
const VERSION: u32 = 1;
/// Size of the header before the path, in bytes.
const FIXED: usize = 68;
/// Maximum length of a device's path, in bytes (PATH_MAX).
const LONGEST_PATH: usize = 4096;
const DIGEST: usize = 32;
/// Size of an atomic write of the medium, in bytes.
const SECTOR: usize = 512;
/// Maximum number of states of a record: the new block; for the superblock's block also the one with the mark.
const MOST_STATES: u32 = 2;

/// The header of an undo file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Block size, in bytes.
    pub block_size: u32,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// Offset of the file system on the device, in bytes.
    pub start: u64,
    /// Size of the device, in bytes.
    pub device_size: u64,
    /// Number of records.
    pub blocks: u64,
    /// The path of the device.
    pub device: PathBuf,
}

impl Header {
    fn to_bytes(&self) -> Result<Vec<u8>, StorageError> {
        let path = self.device.as_os_str().as_bytes();
        let path_length = u32::try_from(path.len()).unwrap_or(u32::MAX);
        if path.len() > LONGEST_PATH {
            return Err(StorageError::refused("the device's path is too long", "name it by a shorter one"));
        }
        let mut bytes = Vec::with_capacity(FIXED + path.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.block_size.to_le_bytes());
        bytes.extend(self.uuid);
        bytes.extend(self.start.to_le_bytes());
        bytes.extend(self.device_size.to_le_bytes());
        bytes.extend(self.blocks.to_le_bytes());
        bytes.extend(path_length.to_le_bytes());
        bytes.extend(path);
        Ok(bytes)
    }

    /// Decodes a header and its length; `None` if it is not a valid header.
    fn parse(bytes: &[u8]) -> Option<(Self, u64)> {
        if !bytes.starts_with(&MAGIC) || le32(bytes, 16)? != VERSION {
            return None;
        }
        let path_length = usize::try_from(le32(bytes, 64)?).ok().filter(|length| *length <= LONGEST_PATH)?;
        let path = bytes.get(FIXED..FIXED.checked_add(path_length)?)?;
        let block_size = le32(bytes, 20)?;
        if !block_size.is_power_of_two() || !(1024..=65536).contains(&block_size) {
            return None;
        }
        let header = Self {
            block_size,
            uuid: array(bytes, 24)?,
            start: le64(bytes, 40)?,
            device_size: le64(bytes, 48)?,
            blocks: le64(bytes, 56)?,
            device: std::ffi::OsString::from_vec(path.to_vec()).into(),
        };
        Some((header, u64::try_from(FIXED.checked_add(path_length)?).ok()?))
    }
}

/// One block of an undo file.
pub(super) struct Record {
    /// The block's number in the file system.
    pub number: u64,
    /// Its old content.
    pub old: Wiped,
    /// For each state that the run may have left it in, the digests of its sectors.
    states: Vec<Vec<[u8; DIGEST]>>,
}

impl Record {
    /// A block with the content `old`, which will change to each of `states` one after another.
    pub(super) fn new(number: u64, old: Wiped, states: &[&[u8]]) -> Self {
        let digests = |state: &&[u8]| state.chunks(SECTOR).map(|sector| Sha256::digest(sector).into()).collect();
        Self { number, old, states: states.iter().map(digests).collect() }
    }

    /// True if each sector of `now` is the old one, or one that the run wrote.
    pub(super) fn explains(&self, now: &[u8]) -> bool {
        now.len() == self.old.len()
            && now.chunks(SECTOR).zip(self.old.chunks(SECTOR)).enumerate().all(|(index, (now, old))| {
                let digest: [u8; DIGEST] = Sha256::digest(now).into();
                now == old || self.states.iter().any(|state| state.get(index) == Some(&digest))
            })
    }

    fn to_bytes(&self) -> Wiped {
        let digests: usize = self.states.iter().map(|state| state.len().saturating_mul(DIGEST)).sum();
        // Allocated once: a growing buffer leaves copies behind.
        let mut bytes = Wiped::from(Vec::with_capacity(12 + self.old.len() + digests));
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(u32::try_from(self.states.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&self.old);
        bytes.extend(self.states.iter().flatten().flatten());
        bytes
    }
}

/// The state of an existing undo file.
pub(super) enum FoundUndo {
    /// Complete.
    Whole(UndoFile),
    /// Its end was never written, or it was partly overwritten already.
    Torn(UndoFile),
}

/// An undo file, locked against other runs as long as this lives.
pub(super) struct UndoFile {
    path: PathBuf,
    directory: PathBuf,
    file: File,
    header: Header,
    /// Offset of the next record.
    at: u64,
    /// Number of records read.
    read: u64,
    /// Digest of everything written.
    digest: Sha256,
}

impl UndoFile {
    /// Creates the file, with its header.
    ///
    /// # Errors
    /// `Refused` if there is one already; `Io`, with nothing left behind.
    pub(super) fn create(directory: &Path, header: &Header) -> Result<Self, StorageError> {
        let path = path_of(directory, &header.uuid);
        let making = |e: io::Error| match e.kind() {
            io::ErrorKind::AlreadyExists => in_use(&path),
            _ => StorageError::io(format!("making the undo file {}", path.display()), e),
        };
        let bytes = header.to_bytes()?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(making)?;
        lock(&file, &path)?;
        // Between those two calls, another run could take it for a torn one, and remove it.
        if file.metadata().map_err(making)?.nlink() == 0 {
            return Err(in_use(&path));
        }
        let mut undo = Self {
            path: path.clone(),
            directory: directory.to_owned(),
            file,
            header: header.clone(),
            at: 0,
            read: 0,
            digest: Sha256::new(),
        };
        if let Err(error) = undo.append(&bytes) {
            // Best effort: the first error is the one to report.
            let _ = undo.remove();
            return Err(error);
        }
        Ok(undo)
    }

    /// Adds a block.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), StorageError> {
        self.append(&record.to_bytes())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let written = self.file.write_all_at(bytes, self.at);
        written.map_err(|e| StorageError::io(format!("writing the undo file {}", self.path.display()), e))?;
        self.digest.update(bytes);
        self.at = self.at.saturating_add(length(bytes));
        Ok(())
    }

    /// Writes the end of the file, and returns when it is durable under its name.
    pub(super) fn seal(&mut self) -> Result<(), StorageError> {
        let digest = self.digest.clone().finalize();
        self.append(&digest)?;
        let synced = self.file.sync_all().and_then(|()| self.sync_name());
        synced.map_err(|e| StorageError::io(format!("making the undo file {} durable", self.path.display()), e))
    }

    /// The undo file of the file system with this UUID; `None` if there is none.
    ///
    /// # Errors
    /// `Refused` if the existing file is writable by another user, or is in use; `Io`.
    pub(super) fn open(directory: &Path, uuid: &[u8; 16]) -> Result<Option<FoundUndo>, StorageError> {
        let path = path_of(directory, uuid);
        let name = path.display();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StorageError::io(format!("opening the undo file {name}"), e)),
        };
        let reading = |e| StorageError::io(format!("reading the undo file {name}"), e);
        let metadata = file.metadata().map_err(reading)?;
        // Its content is written to the device: another user's file must not be used.
        let ours = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0 && metadata.nlink() == 1;
        if !metadata.is_file() || !ours {
            return Err(StorageError::refused(
                format!("{name} is not a file that only you can read and write, as an undo file is"),
                Remedy::ForeignUndoFile,
            ));
        }
        lock(&file, &path)?;
        let parsed = parse(&file, metadata.len()).map_err(reading)?;
        let whole = parsed.is_some();
        let (header, at) = parsed.unwrap_or_else(|| (Header::of_torn(*uuid), 0));
        let undo = Self { path, directory: directory.to_owned(), file, header, at, read: 0, digest: Sha256::new() };
        Ok(Some(if whole { FoundUndo::Whole(undo) } else { FoundUndo::Torn(undo) }))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The next record, and its offset; `None` after the last.
    pub(super) fn next_record(&mut self) -> Result<Option<(u64, Record)>, StorageError> {
        if self.read == self.header.blocks {
            return Ok(None);
        }
        let at = self.at;
        let failed = |e| StorageError::io(format!("reading the undo file {}", self.path.display()), e);
        let record = self.record_at(at).map_err(failed)?;
        self.at = at.saturating_add(length(&record.to_bytes()));
        self.read = self.read.saturating_add(1);
        Ok(Some((at, record)))
    }

    /// The record at byte `at`.
    pub(super) fn record_at(&self, at: u64) -> io::Result<Record> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let block_size = usize::try_from(self.header.block_size).map_err(|_| broken())?;
        let mut head = [0; 12];
        self.file.read_exact_at(&mut head, at)?;
        let number = le64(&head, 0).ok_or_else(broken)?;
        let states = le32(&head, 8).filter(|states| (1..=MOST_STATES).contains(states)).ok_or_else(broken)?;
        let mut at = at.checked_add(12).ok_or_else(broken)?;
        let mut old = Wiped::zeros(block_size);
        self.file.read_exact_at(&mut old, at)?;
        at = at.checked_add(u64::from(self.header.block_size)).ok_or_else(broken)?;
        let mut digests = vec![0; block_size / SECTOR * DIGEST];
        let mut read = Vec::new();
        for _ in 0..states {
            self.file.read_exact_at(&mut digests, at)?;
            at = at.checked_add(length(&digests)).ok_or_else(broken)?;
            // None is skipped: each chunk has the length of a digest.
            read.push(digests.chunks_exact(DIGEST).filter_map(|digest| digest.try_into().ok()).collect());
        }
        Ok(Record { number, old, states: read })
    }

    /// Overwrites the file, removes it, and returns when that is durable.
    pub(super) fn remove(&self) -> io::Result<()> {
        let zeros = [0; 1 << 16];
        let (mut at, end) = (0, self.file.metadata()?.len());
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
            // OK to index: `count` is at most the length.
            self.file.write_all_at(&zeros[..count], at)?;
            at = at.saturating_add(length(&zeros[..count]));
        }
        self.file.sync_all()?;
        fs::remove_file(&self.path)?;
        self.sync_name()
    }

    fn sync_name(&self) -> io::Result<()> {
        sync_names(open_for_sync(&self.directory)?.as_ref(), &self.file)
    }
}

impl Header {
    /// The header for a torn file.
    fn of_torn(uuid: [u8; 16]) -> Self {
        Self { block_size: 0, uuid, start: 0, device_size: 0, blocks: 0, device: PathBuf::new() }
    }
}

/// The header of a complete undo file, and the offset of its records; `None` for a torn file.
fn parse(file: &File, size: u64) -> io::Result<Option<(Header, u64)>> {
    let Some(end) = size.checked_sub(u64::try_from(DIGEST).unwrap_or(u64::MAX)) else { return Ok(None) };
    let mut digest = Sha256::new();
    let mut buffer = Wiped::zeros(1 << 16);
    let mut header = None;
    let mut at = 0;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        // OK to index: `count` is at most the length.
        let part = &mut buffer[..count];
        file.read_exact_at(part, at)?;
        if at == 0 {
            // The header is shorter than the buffer.
            header = Header::parse(part);
        }
        digest.update(&*part);
        at = at.saturating_add(length(part));
    }
    let mut stored = [0; DIGEST];
    file.read_exact_at(&mut stored, end)?;
    let computed: [u8; DIGEST] = digest.finalize().into();
    Ok(header.filter(|_| computed == stored))
}

/// The name depends only on the UUID, so that the next run finds it.
fn path_of(directory: &Path, uuid: &[u8; 16]) -> PathBuf {
    let uuid = text::uuid(uuid).unwrap_or_else(|| "no-uuid".into());
    directory.join(format!("deaddrop-{uuid}.undo"))
}

fn lock(file: &File, path: &Path) -> Result<(), StorageError> {
    match holders::try_lock(file, true) {
        Ok(true) => Ok(()),
        Ok(false) => Err(in_use(path)),
        Err(e) => Err(StorageError::io(format!("locking {}", path.display()), e)),
    }
}

fn in_use(path: &Path) -> StorageError {
    StorageError::refused(format!("the undo file {} is in use by another run", path.display()), Remedy::UndoFileInUse)
}
