//! A change to a block device that cannot be one journal transaction: an undo file on another file system takes the
//! journal's place.
//!
//! The order of the steps, and the window that each closes:
//!
//! 1. The undo file, with the current content of the blocks in use, is written and synced, and so is its directory. A
//!    power cut before this is done leaves a torn file, and an unchanged device.
//! 2. New values are written to free blocks. The superblock gets "not cleanly unmounted". Flush: **from here on the
//!    device is half changed**, and says so: neither a boot's fsck nor deaddrop takes it for clean.
//! 3. All other blocks are written to their home blocks. Flush.
//! 4. The new superblock is written, clean. Flush. The device is wholly new.
//! 5. The undo file is overwritten, synced and removed, and its directory synced.
//!
//! [`restore`] rolls back, in an order that can be interrupted as well: the mark, the old blocks, the old superblock. A
//! free block that got a new value is not restored: nothing refers to it, the next run uses it again, and `scrub`
//! zeroes it.

mod file;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use deaddrop_core::error::{CommitError, Remedy, StorageError};
use deaddrop_core::secret::Wiped;
use deaddrop_core::text;

use self::file::{FoundUndo, Record, UndoFile};
use super::device::ReadAt;
use super::table::Partition;
use crate::ext4::format::superblock::{self, Superblock};
use crate::journal::commit::{Block, Medium, Transaction};

pub use self::file::Header;

/// A change to a file system, ready to be written to a device with an undo file.
pub struct Rewrite {
    /// The reason why it is no journal transaction.
    pub why: &'static str,
    /// Block size, in bytes.
    pub block_size: u32,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// Committed before: checkpoints a dirty journal and clears the marks of a mount, and changes nothing else.
    pub replay: Option<Transaction>,
    /// Free blocks with new content.
    pub new: Vec<Block>,
    /// Blocks that were in use, except the superblock's, and freed blocks that are zeroed.
    pub home_blocks: Vec<Block>,
    /// The block of the new superblock.
    pub superblock: Block,
    /// Offsets in the file system, in bytes, of blocks of the idle journal to be zeroed.
    pub stale: Vec<u64>,
}

/// A device that is open for a rewrite.
pub struct Disk<'a> {
    /// Its name in messages.
    pub name: &'a str,
    /// Its path, links resolved.
    pub path: &'a Path,
    /// Reads all of it.
    pub reader: &'a dyn ReadAt,
    /// Writes to it.
    pub medium: &'a mut dyn Medium,
}

impl Disk<'_> {
    fn read(&self, start: u64, number: u64, block_size: u32) -> Result<Wiped, StorageError> {
        let reading = |e| StorageError::io(format!("reading {}", self.name), e);
        let mut bytes = Wiped::zeros(usize::try_from(block_size).unwrap_or(0));
        let offset = offset(start, number, block_size).map_err(reading)?;
        self.reader.read_exact_at(offset, &mut bytes).map_err(reading)?;
        Ok(bytes)
    }

    fn write(&mut self, start: u64, number: u64, bytes: &[u8]) -> io::Result<()> {
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.medium.write_at(offset(start, number, size)?, bytes)
    }
}

fn offset(start: u64, number: u64, block_size: u32) -> io::Result<u64> {
    let inside = number.checked_mul(u64::from(block_size));
    inside.and_then(|inside| start.checked_add(inside)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Rewrite {
    /// True if there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replay.is_none() && self.new.is_empty() && self.home_blocks.is_empty()
    }

    /// Size of all blocks to write, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        let blocks = self.new.len().saturating_add(self.home_blocks.len()).saturating_add(1);
        u64::try_from(blocks).unwrap_or(u64::MAX).saturating_mul(u64::from(self.block_size))
    }

    /// Writes it to `disk`, on which the file system starts at `start` (bytes), with an undo file in `directory`.
    /// `seconds` since 1970 are the time of the commit.
    ///
    /// # Errors
    /// `HalfDone` once the device is half changed: [`restore`] rolls it back. Any other error: no file on the device
    /// has changed, and no undo file is left.
    pub fn commit(
        mut self,
        disk: &mut Disk<'_>,
        directory: &Path,
        start: u64,
        seconds: u64,
    ) -> Result<(), StorageError> {
        let name = disk.name.to_owned();
        if let Some(replay) = self.replay.take() {
            replay.commit(disk.medium, start, seconds).map_err(|error| match error {
                CommitError::Before(e) => StorageError::io(format!("writing {name}"), e),
                CommitError::After(e) => StorageError::HalfDone {
                    what: format!("bringing home what the journal of {name} holds: {e}"),
                    hint: Remedy::Recover { image: name.clone() }.into(),
                },
            })?;
            // The replay stays, whether or not the change succeeds.
            disk.medium.pass_commit_point();
        }
        if self.is_empty() {
            return Ok(());
        }
        let mut undo = UndoFile::create(directory, &self.header(disk, start))?;
        let marked = match self.prepare(disk, start, &mut undo) {
            Ok(marked) => marked,
            Err(error) => {
                // The first error is the one to report; the next run finds a file that cannot be removed.
                let _ = undo.remove();
                return Err(error);
            }
        };
        self.overwrite(disk, start, &marked).map_err(|e| StorageError::HalfDone {
            what: format!("writing {name}, which is half changed now: {e}"),
            hint: Remedy::RollBack { device: name.clone(), undo: directory.display().to_string() }.into(),
        })?;
        undo.remove().map_err(|e| StorageError::HalfDone {
            what: format!("{name} is changed, but its undo file could not be removed: {e}"),
            hint: format!("it holds old values: shred -u {}", undo.path().display()).into(),
        })
    }

    fn header(&self, disk: &Disk<'_>, start: u64) -> Header {
        Header {
            block_size: self.block_size,
            uuid: self.uuid,
            start,
            device_size: disk.reader.size(),
            blocks: u64::try_from(self.home_blocks.len()).unwrap_or(u64::MAX).saturating_add(1),
            device: disk.path.to_owned(),
        }
    }

    /// Step 1, and the new values of step 2. Returns the superblock's block with the mark.
    fn prepare(&self, disk: &mut Disk<'_>, start: u64, undo: &mut UndoFile) -> Result<Wiped, StorageError> {
        for block in &self.home_blocks {
            let old = disk.read(start, block.number, self.block_size)?;
            undo.add(&Record::new(block.number, old, &[&block.bytes]))?;
        }
        let old = disk.read(start, self.superblock.number, self.block_size)?;
        let marked = marked(&old, self.superblock.number);
        // Last: `restore` recognises it by its position.
        undo.add(&Record::new(self.superblock.number, old, &[&marked, &self.superblock.bytes]))?;
        undo.seal()?;
        disk.medium.begin_change();
        for block in &self.new {
            let written = disk.write(start, block.number, &block.bytes);
            written.map_err(|e| StorageError::io(format!("writing {}", disk.name), e))?;
        }
        Ok(marked)
    }

    /// The mark of step 2, and steps 3 and 4.
    fn overwrite(&self, disk: &mut Disk<'_>, start: u64, marked: &[u8]) -> io::Result<()> {
        disk.medium.pass_commit_point();
        disk.write(start, self.superblock.number, marked)?;
        // Before any block in use is overwritten: a half-changed device must say so.
        disk.medium.flush()?;
        for block in &self.home_blocks {
            disk.write(start, block.number, &block.bytes)?;
        }
        let zeros = vec![0; marked.len()];
        for at in &self.stale {
            disk.medium.write_at(start.checked_add(*at).ok_or(io::ErrorKind::InvalidInput)?, &zeros)?;
        }
        // Before the superblock says "clean".
        disk.medium.flush()?;
        disk.write(start, self.superblock.number, &self.superblock.bytes)?;
        // Before the undo file is removed.
        disk.medium.flush()
    }
}

/// The superblock's block with "not cleanly unmounted".
fn marked(block: &[u8], number: u64) -> Wiped {
    let mut marked = Wiped::from(block.to_vec());
    if let Some(raw) = superblock::in_block(&mut marked, number) {
        *raw = superblock::marked_unclean(raw);
    }
    marked
}

/// Rolls back an interrupted [`Rewrite::commit`] on `disk`, if `directory` has the undo file of one of its
/// `partitions`. True if something was rolled back.
///
/// An incomplete undo file was never used (the device would have the mark), and is removed.
///
/// # Errors
/// `Refused` if the undo file is another device's, not ours, or in use, or if a block is neither the old one nor one
/// that the run wrote: then another program has written to it. Nothing was changed. `HalfDone` if the rollback stopped
/// in the middle, and can be tried again.
pub fn restore(disk: &mut Disk<'_>, partitions: &[Partition], directory: &Path) -> Result<bool, StorageError> {
    let mut restored = false;
    let mut seen = Vec::new();
    let superblocks: Vec<(u64, Superblock)> =
        partitions.iter().filter_map(|partition| Some((partition.start, superblock_of(disk, partition)?))).collect();
    for (_, superblock) in &superblocks {
        if seen.contains(&superblock.uuid) {
            continue;
        }
        seen.push(superblock.uuid);
        let ours = superblocks.iter().filter(|(_, other)| other.uuid == superblock.uuid);
        match UndoFile::open(directory, &superblock.uuid)? {
            None => {}
            Some(FoundUndo::Torn(undo)) => {
                let path = undo.path().display().to_string();
                if ours.clone().any(|(_, superblock)| !superblock.is_clean()) {
                    return Err(StorageError::refused(
                        format!("{path} is damaged, and {} may be half changed", disk.name),
                        "is there a copy of the undo file? else run `e2fsck -f` on the device and remove the file",
                    ));
                }
                undo.remove().map_err(|e| StorageError::io(format!("removing {path}"), e))?;
            }
            Some(FoundUndo::Whole(undo)) => {
                let starts: Vec<u64> = ours.map(|(start, _)| *start).collect();
                restored |= restore_from(disk, undo, &starts)?;
            }
        }
    }
    Ok(restored)
}

/// The superblock at a partition's start. Only fields that cannot be torn are used: magic, UUID and state are in its
/// first 512 bytes.
fn superblock_of(disk: &Disk<'_>, partition: &Partition) -> Option<Superblock> {
    let mut raw = [0; superblock::SIZE];
    let inside = partition.size >= superblock::OFFSET + 1024 && partition.problem.is_none();
    let at = partition.start.checked_add(superblock::OFFSET).filter(|_| inside)?;
    disk.reader.read_exact_at(at, &mut raw).ok()?;
    Superblock::parse(&raw)
}

fn restore_from(disk: &mut Disk<'_>, mut undo: UndoFile, starts: &[u64]) -> Result<bool, StorageError> {
    let path = undo.path().display().to_string();
    let header = undo.header().clone();
    let device = text::shown_text(&header.device.to_string_lossy()).unwrap_or_default();
    if header.device_size != disk.reader.size() || !starts.contains(&header.start) {
        return Err(StorageError::refused(
            format!("{path} holds the old blocks of another device, which was {device}"),
            Remedy::UndoFileOfOtherDevice,
        ));
    }
    let (start, size) = (header.start, header.block_size);
    let mut differs = Vec::new();
    let mut last = None;
    while let Some((at, record)) = undo.next_record()? {
        let now = disk.read(start, record.number, size)?;
        if !record.explains(&now) {
            return Err(StorageError::refused(
                format!(
                    "block {} of the file system is neither what it was before the interrupted run nor what that run \
                     wrote: somebody (e2fsck, a boot) has written to {} since",
                    record.number, disk.name
                ),
                format!("look at it with `e2fsck -fn`; then remove {path}, which holds old values: shred -u"),
            ));
        }
        if record.old != now {
            differs.push(at);
        }
        last = Some(record);
    }
    let failed = |e| StorageError::io(format!("removing {path}"), e);
    let Some(superblock) = last.filter(|_| !differs.is_empty()) else {
        if header.device != disk.path {
            // It cannot be distinguished from its own clone, whose undo file this may be.
            return Err(StorageError::refused(
                format!("{path} was made for {device}, and nothing of it is to be taken back here"),
                format!("if {} is that device under another name, remove the file: shred -u {path}", disk.name),
            ));
        }
        undo.remove().map_err(failed)?;
        return Ok(false);
    };
    write_back(disk, &mut undo, &superblock, &differs).map_err(|e| StorageError::HalfDone {
        what: format!("taking back the interrupted change of {}: {e}", disk.name),
        hint: "the same command tries again".into(),
    })?;
    undo.remove().map_err(|e| StorageError::HalfDone {
        what: format!("{} is as it was before the interrupted run, but {path} could not be removed: {e}", disk.name),
        hint: "the same command tries again".into(),
    })?;
    Ok(true)
}

/// Writes the old blocks, the records at `differs`, over those of the interrupted run.
fn write_back(disk: &mut Disk<'_>, undo: &mut UndoFile, superblock: &Record, differs: &[u64]) -> io::Result<()> {
    let start = undo.header().start;
    disk.write(start, superblock.number, &marked(&superblock.old, superblock.number))?;
    // The mark first, and removed last: the same order as in the commit.
    disk.medium.flush()?;
    for at in differs {
        let record = undo.record_at(*at)?;
        if record.number != superblock.number {
            disk.write(start, record.number, &record.old)?;
        }
    }
    disk.medium.flush()?;
    disk.write(start, superblock.number, &superblock.old)?;
    disk.medium.flush()
}
