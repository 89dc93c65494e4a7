//! Writes an image to a block device (or over a file that stands), with the changes of a host merged in, and reads it
//! back: in place of dd(1).
//!
//! The order, and what each step is for: the device's first and last MiB are zeroed and synced, so that no old table is
//! left; all of the image but its first and last MiB is written and synced; that is read back past the page cache and
//! compared; then the last MiB with the backup of the table; then the first MiB. Until that write the device has no
//! table, and nothing that looks like one that boots.
//!
//! A disk that can be read anywhere is written with the changes over it, each block once. One that comes out of a decoder
//! is written while it is decoded; its file system is then read from the device ([`Flash::write_stream`]), and changed
//! blocks are written again ([`Flash::finish`]).
//!
//! Zeros are only left out where the device was told to write them (BLKZEROOUT), or gives zeros back: what a discard
//! leaves is anything.

mod device;
mod feed;
mod gpt;
mod image;
mod stream;
mod write;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys::{self, SignalsWait};

use self::device::{ALIGNMENT, Buffer, Written, wide};
use self::feed::Source;
use self::gpt::Primary;
use self::image::Content;
use self::write::Body;
use crate::native::Blocks;
use crate::open::block_devices::{Number, System};
use crate::open::disk::DiskImage;
use crate::output::patch::Patch;
use crate::progress::Watch;
use crate::sidecars::map::BlockMap;

pub use self::device::Device;
pub use self::image::FlashImage;
pub use self::stream::Stream;

/// Bytes at the start and at the end of a device that are zeroed first.
const EDGE: u64 = 1 << 20;

/// How a device is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Read everything back, and compare it.
    pub read_back: bool,
    /// Move the backup of a GPT to the end of the device.
    pub fix_gpt: bool,
}

/// Powers a device off that nothing has open, or detaches a loop device. False if there is no way.
///
/// # Errors
/// If the kernel refuses it.
pub fn eject(path: &Path, number: &Number) -> io::Result<bool> {
    let system = System::running();
    if system.backing_file(number).is_some() {
        sys::detach_loop_device(&File::open(path)?)?;
        return Ok(true);
    }
    system.power_off(number)
}

/// The fixed parts of a run, for the writer.
struct Job<'a> {
    /// The name of the image.
    name: &'a str,
    map: Option<&'a BlockMap>,
    watch: Watch<'a>,
    /// Number of bytes to report: of the disk, or of the compressed image if that of the disk is not known.
    total: u64,
    of_disk: bool,
}

/// What was done.
#[derive(Debug)]
pub struct Report {
    /// Bytes of the disk.
    pub size: u64,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// A device that is being written. From the first change on until the end signals are deferred, and every error is
/// `HalfDone`: the device has no table.
pub struct Flash<'w> {
    device: Device,
    options: Options,
    watch: Watch<'w>,
    /// Present from the first change on.
    signals: Option<SignalsWait>,
    state: State,
    body: Option<Body>,
}

/// What is known of a device after the first change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its ends are being zeroed: there may be an old table.
    Begun,
    /// It has no table.
    NoTable,
    /// The table was written, and could be neither compared nor taken back.
    Unknown,
}

impl Drop for Flash<'_> {
    fn drop(&mut self) {
        // What is on the device must be reported: no signal ends the process before that.
        if let Some(signals) = self.signals.take() {
            signals.committed();
        }
    }
}

impl<'w> Flash<'w> {
    /// For a device that was checked ([`FlashImage::check`]). Nothing is written.
    #[must_use]
    pub fn new(device: Device, options: Options, watch: Watch<'w>) -> Self {
        Self { device, options, watch, signals: None, state: State::Begun, body: None }
    }

    /// Writes all of `image`, with `blocks` over it.
    ///
    /// # Errors
    /// `Io` before the first change; then `HalfDone`.
    pub fn write_disk(&mut self, image: &FlashImage, blocks: &Blocks) -> Result<Report, StorageError> {
        let Content::Disk { disk, .. } = &image.content else {
            return Err(StorageError::corrupt("this image is decoded while it is written"));
        };
        let patch = blocks.patch()?;
        self.begin()?;
        let written = self.write(image, Source::Disk(&**disk), &patch);
        let mut body = written.map_err(|error| self.half_done(error))?;
        let report = self.seal(image, &mut body, &patch);
        report.map_err(|error| self.half_done(error))
    }

    /// Writes all of `image` but its head and its tail, while it is decoded. Returns the disk as it is on the device, to
    /// be read and changed.
    ///
    /// # Errors
    /// As [`Flash::write_disk`].
    pub fn write_stream(&mut self, image: &FlashImage) -> Result<DiskImage, StorageError> {
        let Content::Stream { stream, .. } = &image.content else {
            return Err(StorageError::corrupt("this image is not decoded while it is written"));
        };
        self.begin()?;
        let written = self.write(image, Source::Stream(stream), &Patch::default());
        let body = written.map_err(|error| self.half_done(error))?;
        let disk = self.disk_of(image, &body);
        self.body = Some(body);
        disk.map_err(|error| self.half_done(error))
    }

    /// Lays `blocks` over a disk that [`Flash::write_stream`] has written, and finishes the device.
    ///
    /// # Errors
    /// `HalfDone`.
    pub fn finish(&mut self, image: &FlashImage, blocks: &Blocks) -> Result<Report, StorageError> {
        let finished = self.amend_and_seal(image, blocks);
        finished.map_err(|error| self.half_done(error))
    }

    fn amend_and_seal(&mut self, image: &FlashImage, blocks: &Blocks) -> Result<Report, StorageError> {
        let Some(mut body) = self.body.take() else {
            return Err(StorageError::corrupt("nothing was written yet"));
        };
        write::stop_on_signal(&self.device)?;
        let patch = blocks.patch()?;
        write::amend(&mut self.device, &mut body, &patch)?;
        self.seal(image, &mut body, &patch)
    }

    /// An error after the first change, as the state of the device demands.
    #[must_use]
    pub fn half_done(&self, error: StorageError) -> StorageError {
        let name = self.device.name();
        let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        let hint = match error.hint().and_then(|hint| hint.text()).filter(|hint| !hint.is_empty()) {
            Some(hint) => format!("{hint}; then run the same command again"),
            None => "run the same command again: it begins anew, and finishes it".to_owned(),
        };
        let state = match self.state {
            State::Begun => format!("what {name} held may be there in part, with its old partition table"),
            State::NoTable => format!("{name} holds no partition table now, and nothing that boots"),
            State::Unknown => format!("{name} may hold the new partition table, and was not compared"),
        };
        let mode =
            self.device.mode_was().map_or(String::new(), |mode| format!("; its mode is 0600, it was {mode:04o}"));
        StorageError::HalfDone { what: format!("{error}{cause}; {state}{mode}"), hint: hint.into() }
    }

    /// Zeroes what makes a device look like one that holds something.
    fn begin(&mut self) -> Result<(), StorageError> {
        let signals = SignalsWait::new();
        if signals.is_pending() {
            // Dropped: the signal ends the process.
            return Err(StorageError::refused("stopped by a signal", ""));
        }
        self.device.narrow()?;
        self.signals = Some(signals);
        let zeroed = self.zero_edges();
        zeroed.map_err(|error| self.half_done(error))
    }

    fn zero_edges(&mut self) -> Result<(), StorageError> {
        let size = self.device.size();
        let first = usize::try_from(size.min(EDGE)).unwrap_or(0);
        let zeros = Buffer::new(first);
        self.device.write(0, zeros.bytes())?;
        let last = last_offset(size);
        let count = usize::try_from(size - last).unwrap_or(0);
        let zeros = Buffer::new(count);
        self.device.write(last, zeros.bytes())?;
        self.device.sync()?;
        self.state = State::NoTable;
        Ok(())
    }

    fn write(&mut self, image: &FlashImage, source: Source<'_>, patch: &Patch<'_>) -> Result<Body, StorageError> {
        write::write(&mut self.device, &job(image, self.watch), source, patch)
    }

    /// The written disk as an image.
    fn disk_of(&self, image: &FlashImage, body: &Body) -> Result<DiskImage, StorageError> {
        let Content::Stream { container, .. } = &image.content else {
            return Err(StorageError::corrupt("this image is not decoded while it is written"));
        };
        let input = image.input.share().map_err(|e| StorageError::io(format!("opening {}", image.name), e))?;
        DiskImage::of_disk(input, *container, Arc::new(self.written(body)?))
    }

    /// The disk as far as it is on the device, and the rest from memory.
    fn written(&self, body: &Body) -> Result<Written, StorageError> {
        let device = self.device.reader();
        let device = device.map_err(|e| StorageError::io(format!("reading {}", self.device.name()), e))?;
        let (head, tail) = (Wiped::from(body.head().to_vec()), Wiped::from(body.tail().to_vec()));
        Ok(Written { device, size: body.size, head, tail })
    }

    /// Reads the body back, and writes the tail and the head, in this order.
    fn seal(&mut self, image: &FlashImage, body: &mut Body, patch: &Patch<'_>) -> Result<Report, StorageError> {
        let job = job(image, self.watch);
        self.device.sync()?;
        if self.options.read_back {
            write::read_back(&self.device, &job, body, patch)?;
        }
        // If another process wrote to the image since it was opened, this may be a mix of two versions.
        image.input.check_unchanged()?;
        let mut notes = Vec::new();
        let moved = if self.options.fix_gpt { self.moved(&image.name, body, &mut notes)? } else { None };
        if !body.tail().is_empty() {
            self.put(body.tail_offset, body.tail())?;
        }
        if let Some((offset, end)) = moved {
            self.put(offset, end.bytes())?;
        }
        write::stop_on_signal(&self.device)?;
        if let Err(error) = self.put(0, body.head()) {
            // It may hold a half, or something else: then there must be no table.
            let zeros = Buffer::new(body.head().len());
            let zeroed = self.device.write(0, zeros.bytes());
            if zeroed.and_then(|()| self.device.sync()).is_err() {
                self.state = State::Unknown;
            }
            return Err(error);
        }
        if self.device.is_device() {
            // A device without partitions, such as a loop device, has no table that is read.
            let _ = sys::reread_table(&self.device.input().file);
        }
        if let Some(mode) = self.device.mode_was() {
            notes.push(format!(
                "{}: its mode is 0600 now (it was {mode:04o}), since it holds secrets",
                self.device.name()
            ));
        }
        if let Some(signals) = self.signals.take() {
            signals.committed();
        }
        Ok(Report { size: body.size, notes })
    }

    /// Moves the backup of the GPT to the end of the device: changes the head, and returns the end with its offset.
    /// `None` if it is there already, or there is none.
    fn moved(
        &self,
        name: &str,
        body: &mut Body,
        notes: &mut Vec<String>,
    ) -> Result<Option<(u64, Buffer)>, StorageError> {
        let size = self.device.size();
        let Some(primary) = Primary::find(body.head()) else { return Ok(None) };
        let (tail_offset, tail) = (body.tail_offset, body.tail().to_vec());
        let sector = primary.sector_size();
        let is_there = primary.end() == Some(size / sector * sector);
        let flaw = primary.backup_flaw(&self.written(body)?);
        if is_there && flaw.is_none() {
            notes.push(format!("the backup GPT is at the end of {} already", self.device.name()));
            return Ok(None);
        }
        let moved = primary.moved(name, body.head_mut(), flaw, size)?;
        let block = wide(ALIGNMENT);
        let start = moved.offset / block * block;
        let end = moved.offset.saturating_add(wide(moved.backup.len())).next_multiple_of(block).min(size);
        if start < wide(body.head().len()) {
            return Err(StorageError::corrupt(format!("{name}: the device has no room for its GPT")));
        }
        let count = usize::try_from(end - start).unwrap_or(0);
        let mut buffer = Buffer::new(count);
        let overlay = [(tail_offset, tail.as_slice()), (moved.offset, moved.backup.as_slice())];
        for (offset, bytes) in overlay {
            let skip = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
            let at = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            if let (Some(bytes), Some(room)) = (bytes.get(skip..), buffer.bytes_mut().get_mut(at..)) {
                room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            }
        }
        notes.push(moved.note);
        Ok(Some((start, buffer)))
    }

    /// Writes, flushes and, if asked for, reads back.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.device.write(offset, bytes)?;
        self.device.sync()?;
        if self.options.read_back {
            let mut found = Buffer::new(bytes.len());
            let found = found.bytes_mut();
            self.device.read(offset, found)?;
            if found != bytes {
                return Err(write::differs(&self.device, offset, bytes.len()));
            }
        }
        Ok(())
    }
}

/// Where the last MiB of a device begins, in bytes.
fn last_offset(size: u64) -> u64 {
    size.saturating_sub(EDGE) / wide(ALIGNMENT) * wide(ALIGNMENT)
}

fn job<'a>(image: &'a FlashImage, watch: Watch<'a>) -> Job<'a> {
    let (total, of_disk) = match (&image.content, image.likely_size()) {
        (_, Some(size)) => (size, true),
        (Content::Stream { stream, .. }, None) => (stream.packed_size(), false),
        (Content::Disk { disk, .. }, None) => (disk.size(), true),
    };
    Job { name: &image.name, map: image.map.as_deref(), watch, total, of_disk }
}
