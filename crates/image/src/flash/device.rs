//! The device (or file) that an image is written to: past the page cache, so that an error names its place, and what is
//! read back comes from the device.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};

use crate::device::{FileDevice, ReadAt};
use crate::open::block_devices::{Number, System};
use crate::open::destination;
use crate::open::input::{Access, Input};
use crate::open::spool::is_zero;
use crate::table::Table;

/// Offsets and addresses of direct I/O are multiples of this, in bytes: the sector size of every device in use divides
/// it, and so does the block size that a file system asks for.
pub(super) const ALIGNMENT: usize = 4096;
/// The same as an offset.
pub(super) const BLOCK: u64 = 4096;
/// Without direct I/O: bytes after which they are flushed, so that an error has a place.
const FLUSH: u64 = 16 << 20;

/// Bytes that are read at a time where zeros have to be found.
const PROBE: usize = 1 << 20;

/// A buffer for direct I/O, zeroized on drop.
pub(super) struct Buffer {
    bytes: Wiped,
    start: usize,
    size: usize,
}

impl Buffer {
    /// `size` zero bytes.
    pub(super) fn new(size: usize) -> Self {
        let bytes = Wiped::zeros(size.saturating_add(ALIGNMENT));
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, size }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.start.saturating_add(self.size)).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start.saturating_add(self.size)).unwrap_or_default()
    }
}

/// What an image is written to: checked, and locked as long as this lives.
pub struct Device {
    input: Input,
    /// For direct I/O; `None` if the file system has none.
    direct: Option<File>,
    /// Bytes of which a direct transfer is a multiple.
    unit: u64,
    /// What was written since the last flush, not directly: where it begins, and its end.
    unflushed: Option<(u64, u64)>,
    /// A file's former mode, if it was not 0600.
    mode_was: Option<u32>,
}

impl Device {
    /// Opens the device at `path` to overwrite it with `image`: a block device that is not in use, or a file that stands.
    /// With `force` it may be a disk that is not removable, or a partition.
    ///
    /// # Errors
    /// `Refused` for the image itself, for a device that is in use, that the running system is on, that is read-only, or that takes `force`;
    /// `Io`.
    pub fn open(path: &Path, image: &Path, force: bool) -> Result<Self, StorageError> {
        let mut input = Input::open(path).map_err(|error| match error {
            StorageError::Io { what, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                StorageError::refused(
                    format!("{what}: {source}"),
                    "run it as root, or as a member of the device's group",
                )
            }
            other => other,
        })?;
        refuse_same(&input, image)?;
        destination::check_device_to_overwrite(&input, force)?;
        input.lock(Access::Write)?;
        let opening = |e| StorageError::io(format!("opening {}", path.display()), e);
        let unit = if input.is_device() { u64::from(sys::sector_size(&input.file).map_err(opening)?) } else { BLOCK };
        if unit == 0 || !BLOCK.is_multiple_of(unit) {
            return Err(StorageError::unsupported(
                format!("{} has sectors of {unit} bytes", path.display()),
                "write the image with inject -o, and that with dd",
            ));
        }
        let direct = open_direct(&input).map_err(opening)?;
        Ok(Self { input, direct, unit, unflushed: None, mode_was: None })
    }

    /// The path as given.
    #[must_use]
    pub fn name(&self) -> String {
        self.input.name()
    }

    /// The path with all symbolic links resolved.
    #[must_use]
    pub fn real(&self) -> &Path {
        &self.input.real
    }

    /// Its size, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.input.size
    }

    /// True for a block device, false for a file.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.input.is_device()
    }

    /// Its logical sector size, in bytes; `None` for a file, which has none.
    #[must_use]
    pub fn sector_size(&self) -> Option<u64> {
        self.is_device().then_some(self.unit)
    }

    /// Its number; `None` for a file.
    #[must_use]
    pub fn number(&self) -> Option<Number> {
        self.is_device().then(|| Number::of(self.input.metadata.rdev()))
    }

    /// The table that is on it now; `None` if it cannot be read.
    #[must_use]
    pub fn table(&self) -> Option<Table> {
        let disk: Arc<dyn ReadAt> = Arc::new(FileDevice::new(self.reader().ok()?, self.size()));
        Table::read(&disk, &self.name()).ok()
    }

    /// The open file, and its metadata.
    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    /// Its content, through the page cache.
    pub(super) fn reader(&self) -> io::Result<File> {
        self.input.file.try_clone()
    }

    /// The former mode of a file that was made 0600.
    pub(super) fn mode_was(&self) -> Option<u32> {
        self.mode_was
    }

    /// Makes a file 0600, before the first byte of a value.
    pub(super) fn narrow(&mut self) -> Result<(), StorageError> {
        let mode = self.input.metadata.mode() & 0o777;
        if self.is_device() || mode == 0o600 {
            return Ok(());
        }
        let narrowed = self.input.file.set_permissions(Permissions::from_mode(0o600));
        narrowed.map_err(|e| StorageError::io(format!("making {} readable by its owner only", self.name()), e))?;
        self.mode_was = Some(mode);
        Ok(())
    }

    /// Writes `bytes`, from a [`Buffer`] and at a multiple of its alignment.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let (whole, rest) = self.split(bytes.len());
        if let (Some(direct), Some(bytes)) = (&self.direct, bytes.get(..whole)) {
            transfer(offset, whole, |at, done| direct.write_at(bytes.get(done..).unwrap_or_default(), at))
                .map_err(|(at, e)| self.failed("writing", at, e))?;
        }
        if let Some(bytes) = rest.and_then(|from| bytes.get(from..)) {
            let at = offset.saturating_add(wide(whole));
            self.input.file.write_all_at(bytes, at).map_err(|e| self.failed("writing", at, e))?;
            let (start, end) = (at, at.saturating_add(length(bytes)));
            let (start, end) = self.unflushed.map_or((start, end), |(first, last)| (first.min(start), last.max(end)));
            self.unflushed = Some((start, end));
            if end.saturating_sub(start) >= FLUSH || self.direct.is_some() {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Fills `bytes`, of a [`Buffer`] and at a multiple of its alignment, past the page cache.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let (whole, rest) = self.split(bytes.len());
        if let (Some(direct), Some(bytes)) = (&self.direct, bytes.get_mut(..whole)) {
            transfer(offset, whole, |at, done| direct.read_at(bytes.get_mut(done..).unwrap_or_default(), at))
                .map_err(|(at, e)| self.failed("reading back", at, e))?;
        }
        if let Some(bytes) = rest.and_then(|from| bytes.get_mut(from..)) {
            let at = offset.saturating_add(wide(whole));
            self.forget(at, length(bytes));
            self.input.file.read_exact_at(bytes, at).map_err(|e| self.failed("reading back", at, e))?;
        }
        Ok(())
    }

    /// How many of `size` bytes are transferred directly, and where those begin that are not, if there are any.
    fn split(&self, size: usize) -> (usize, Option<usize>) {
        let unit = usize::try_from(self.unit).unwrap_or(ALIGNMENT);
        let whole = if self.direct.is_some() { size - size % unit } else { 0 };
        (whole, (whole < size).then_some(whole))
    }

    /// Makes a range read as zeros, whatever the device had there: by a command, or by writing what is not zero.
    pub(super) fn zero(&mut self, offset: u64, size: u64) -> Result<(), StorageError> {
        if self.zero_by_command(offset, size) {
            return Ok(());
        }
        let mut buffer = Buffer::new(PROBE);
        let step = wide(PROBE);
        let end = offset.saturating_add(size);
        let mut at = offset;
        while at < end {
            let count = usize::try_from(step.min(end - at)).unwrap_or(0);
            let bytes = buffer.bytes_mut().get_mut(..count).unwrap_or_default();
            // A place that cannot be read may still be written.
            if self.read(at, bytes).is_err() || !is_zero(bytes) {
                bytes.fill(0);
                self.write(at, buffer.bytes().get(..count).unwrap_or_default())?;
            }
            at = at.saturating_add(step);
        }
        Ok(())
    }

    /// True if the kernel made the range zeros: by a command of the device, or as a hole of a file.
    fn zero_by_command(&self, offset: u64, size: u64) -> bool {
        if self.is_device() {
            return (offset | size).is_multiple_of(self.unit) && sys::zero_out(&self.input.file, offset, size).is_ok();
        }
        let (Ok(offset), Ok(size)) = (i64::try_from(offset), i64::try_from(size)) else { return false };
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(self.input.file.as_fd(), hole, offset, size).is_ok()
    }

    /// Flushes everything that was written, and the device's own cache.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        let place = match self.unflushed.take() {
            Some((start, end)) => format!(", which has bytes {start} to {end} to write"),
            None => String::new(),
        };
        self.input.file.sync_data().map_err(|e| StorageError::io(format!("flushing {}{place}", self.name()), e))
    }

    /// Drops what the page cache has of a range. Best effort.
    fn forget(&self, offset: u64, size: u64) {
        let (Ok(offset), Ok(size)) = (i64::try_from(offset), i64::try_from(size)) else { return };
        let _ = posix_fadvise(&self.input.file, offset, size, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    fn failed(&self, doing: &str, offset: u64, error: io::Error) -> StorageError {
        StorageError::io(format!("{doing} {} at byte {offset}", self.name()), error)
    }
}

/// Refuses an image that is on the device, or the device on it: the same file or disk, a partition of it, or a loop device
/// over one of these.
fn refuse_same(device: &Input, image: &Path) -> Result<(), StorageError> {
    // Opening it reports what is wrong with it.
    let Ok(image) = fs::metadata(image) else { return Ok(()) };
    let system = System::running();
    let (own, other) = (Ground::of(&device.metadata, &system), Ground::of(&image, &system));
    if own.disks.is_disjoint(&other.disks) && own.files.is_disjoint(&other.files) {
        return Ok(());
    }
    let what =
        if device.is_same(&image) { "is the image itself" } else { "and the image are on the same disk, or file" };
    Err(StorageError::refused(
        format!("{} {what}: writing the one would damage the other", device.name()),
        "name the device that it is to be written to",
    ))
}

/// What a file or device lies on: disks, and files, by device and inode.
#[derive(Default)]
struct Ground {
    disks: BTreeSet<Number>,
    files: BTreeSet<(u64, u64)>,
}

impl Ground {
    fn of(metadata: &Metadata, system: &System) -> Self {
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        if !metadata.file_type().is_block_device() {
            return Self { files: [identity(metadata)].into(), ..Self::default() };
        }
        let disks = system.disks_below(&Number::of(metadata.rdev()));
        let behind = disks.iter().filter_map(|disk| fs::metadata(system.backing_file(disk)?).ok());
        let files = behind.map(|metadata| identity(&metadata)).collect();
        Self { disks, files }
    }
}

/// The same file for direct I/O; `None` if its file system has none.
fn open_direct(input: &Input) -> io::Result<Option<File>> {
    let flags = OFlag::O_DIRECT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(&input.real) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        Err(e) => return Err(e),
    };
    if !input.is_same(&file.metadata()?) {
        return Err(io::Error::other("it was replaced meanwhile"));
    }
    // Some file systems only refuse the transfer.
    let mut buffer = Buffer::new(ALIGNMENT);
    match file.read_at(buffer.bytes_mut(), 0) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(None),
        _ => Ok(Some(file)),
    }
}

/// Calls `work` with the offset and the number of bytes that are done, until all are. The error has the offset of the
/// first byte that is not.
fn transfer(
    offset: u64,
    size: usize,
    mut work: impl FnMut(u64, usize) -> io::Result<usize>,
) -> Result<(), (u64, io::Error)> {
    let mut done = 0;
    while done < size {
        let at = offset.saturating_add(wide(done));
        match work(at, done) {
            Ok(0) => return Err((at, io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => done = done.saturating_add(count),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((at, e)),
        }
    }
    Ok(())
}

pub(super) fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// The written image on a device, with the parts that are not there yet in memory: what a file system is read from.
pub(super) struct Written {
    pub(super) device: File,
    pub(super) size: u64,
    /// The first bytes of the disk.
    pub(super) head: Wiped,
    /// Its last bytes.
    pub(super) tail: Wiped,
}

impl ReadAt for Written {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(length(buf)).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let tail = self.size.saturating_sub(length(&self.tail));
        let mut at = offset;
        while at < end {
            let done = usize::try_from(at - offset).unwrap_or(usize::MAX);
            let (part, stop) = match at {
                _ if at < length(&self.head) => (Some((&self.head, at)), length(&self.head)),
                _ if at < tail => (None, tail),
                _ => (Some((&self.tail, at - tail)), self.size),
            };
            let count = usize::try_from(end.min(stop) - at).unwrap_or(0);
            let to = buf.get_mut(done..done.saturating_add(count)).ok_or(io::ErrorKind::UnexpectedEof)?;
            match part {
                None => self.device.read_exact_at(to, at)?,
                Some((bytes, from)) => {
                    let from = usize::try_from(from).unwrap_or(usize::MAX);
                    let from = bytes.get(from..from.saturating_add(count)).ok_or(io::ErrorKind::UnexpectedEof)?;
                    to.copy_from_slice(from);
                }
            }
            at = end.min(stop);
        }
        Ok(())
    }
}
