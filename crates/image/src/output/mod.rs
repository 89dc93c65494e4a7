//! The commit of a changed disk to a file: all of it, under its name at once, or nothing.
//!
//! In place, the image is replaced by a changed copy. The order of steps, and the window that each closes: the copy is
//! made without a name and with mode 0600 (nobody else can open it, and it is gone if we are), it is synced (a power cut
//! after the rename finds its content), then it takes over the name by one rename (there is always either the old image
//! or the new one), then the directory is synced. A new output is made the same way, but never takes over a name that
//! appeared meanwhile unless asked to. The medium is assumed to keep what fsync reported as done.

pub(crate) mod copy;
pub(crate) mod frames;
pub mod patch;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use deaddrop_core::error::{CommitError, StorageError};
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys::SignalsWait;
use deaddrop_core::text;
use deaddrop_core::unfinished::Unfinished;
use xattr::FileExt;

use super::ext4::Ext4;
use super::progress::Watch;
use super::undo::Rewrite;
use crate::journal::commit::{Medium, Transaction};
use crate::open::container::Container;
use crate::open::destination::{self, Place, judge_replacement};
use crate::open::disk::{Decoded, DiskImage, parent};
use crate::open::input::Input;
use crate::output::copy::Job;
use crate::output::patch::Patch;

pub use crate::open::destination::Destination;

/// Where changes are committed to. Found to be possible when the image was opened.
pub struct Output {
    place: Place,
    /// The directory that the file is made in.
    directory: PathBuf,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// False when there was nothing to do, and the image was not touched.
    pub written: bool,
    /// How the disk got there.
    pub copied: Copied,
    /// The mode that the image had, when it has become 0600.
    pub mode_was: Option<u32>,
    /// The owner (user, group) that the image had, when it could not be kept.
    pub owner_was: Option<(u32, u32)>,
    /// Other names (hard links) of the image, which keep the old content.
    pub other_links: u64,
    /// Extended attributes that could not be kept.
    pub lost_attributes: Vec<String>,
}

/// How the bytes got into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// Not at all.
    Nothing,
    /// Its blocks are shared with the image's.
    Shared,
    /// So many bytes were copied; the rest is holes.
    Bytes(u64),
    /// Decompressed straight into it.
    Decompressed,
    /// Compressed into it.
    Compressed,
}

impl Committed {
    pub(super) fn nothing() -> Self {
        Self {
            written: false,
            copied: Copied::Nothing,
            mode_was: None,
            owner_was: None,
            other_links: 0,
            lost_attributes: Vec::new(),
        }
    }
}

impl Output {
    /// Judges whether changes to `input` can go to `destination`.
    pub(super) fn prepare(destination: &Destination, input: &Input) -> Result<Self, StorageError> {
        let place = destination::judge(destination, input)?;
        let directory = match &place {
            Place::InPlace { .. } => parent(&input.real).to_owned(),
            Place::New { directory, .. } => directory.clone(),
        };
        Ok(Self { place, directory })
    }

    /// True when the image itself is changed.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        matches!(self.place, Place::InPlace { .. })
    }

    /// True when `image` can be changed by a transaction within its own file, with no copy of it.
    #[must_use]
    pub fn takes_transaction(&self, image: &DiskImage) -> bool {
        self.is_in_place() && image.container() == Container::Raw
    }

    /// Writes `transaction` into `image`'s own file, where the file system starts at `start` (bytes). `seconds` since
    /// 1970 are the time of the commit.
    ///
    /// # Errors
    /// `Io` or `Refused` when nothing was changed; `HalfDone` when the commit point was passed, and `recover` or the
    /// next run finishes it.
    pub fn commit_transaction(
        self,
        image: &DiskImage,
        transaction: Transaction,
        start: u64,
        seconds: u64,
    ) -> Result<Committed, StorageError> {
        let Place::InPlace { keep_mode, .. } = self.place else {
            return Err(StorageError::corrupt("a transaction is for an image in place"));
        };
        let mut done = Committed::nothing();
        if transaction.is_empty() {
            return Ok(done);
        }
        image.input.check_unchanged()?;
        let name = image.name();
        let input = &image.input;
        let mode = input.metadata.mode() & 0o777;
        // From here on: whoever sees us ended by a signal shall find the mode as it was, too.
        let signals = SignalsWait::new();
        if !keep_mode && !input.is_device() && mode != 0o600 {
            // Before the first byte of a value is in it.
            let own = Permissions::from_mode(0o600);
            let narrowed = input.file.set_permissions(own);
            narrowed.map_err(|e| StorageError::io(format!("making {name} readable by its owner only"), e))?;
            done.mode_was = Some(mode);
        }
        let mut medium = FileMedium::new(&input.file);
        match transaction.commit(&mut medium, start, seconds) {
            Ok(()) => {
                signals.committed();
                done.written = true;
                Ok(done)
            }
            Err(CommitError::Before(e)) if medium.take_back().is_ok() => {
                if done.mode_was.is_some() {
                    // Best effort: not one byte of it is new.
                    let _ = input.file.set_permissions(Permissions::from_mode(mode));
                }
                Err(StorageError::io(format!("writing {name}"), e))
            }
            // With a value in a free block it is nobody else's to read.
            Err(CommitError::Before(e)) => Err(StorageError::refused(
                format!(
                    "writing {name}: {e}; new values may be left in its free space{}",
                    if done.mode_was.is_some() { ", so its mode stays 0600" } else { "" }
                ),
                "the next run writes over them, and `deaddrop scrub IMAGE` zeroes them",
            )),
            Err(CommitError::After(e)) => {
                // It has to be said: no signal ends us before that.
                signals.committed();
                Err(StorageError::HalfDone {
                    what: format!("writing {name}, after the commit point: {e}"),
                    hint: "`deaddrop recover IMAGE`, or the next run, finishes it".into(),
                })
            }
        }
    }

    /// Writes `rewrite` over `image`, a block device, with an undo file. As [`Output::commit_transaction`] otherwise.
    ///
    /// # Errors
    /// `Refused` when there is no directory for the undo file; else see [`Rewrite::commit`].
    pub fn commit_rewrite(
        self,
        image: &DiskImage,
        rewrite: Rewrite,
        start: u64,
        seconds: u64,
    ) -> Result<Committed, StorageError> {
        let mut done = Committed::nothing();
        if rewrite.is_empty() {
            return Ok(done);
        }
        let Some(directory) = self.undo_directory() else {
            return Err(StorageError::refused(
                format!(
                    "{} is a block device, and the change cannot be one journal transaction: {}",
                    image.name(),
                    rewrite.why
                ),
                "name a directory for an undo file, which a run that is cut off can be taken back with: --undo DIR",
            ));
        };
        image.input.check_unchanged()?;
        let signals = SignalsWait::new();
        let mut medium = FileMedium::new(&image.input.file);
        let result = image.with_disk(&mut medium, |disk| rewrite.commit(disk, directory, start, seconds));
        match result {
            // A half-done change has to be said: no signal ends us before that.
            Ok(()) | Err(StorageError::HalfDone { .. }) => signals.committed(),
            // Best effort: new values in free blocks are nobody's, and the next run writes them again.
            Err(_) => drop(medium.take_back()),
        }
        done.written = result.map(|()| true)?;
        Ok(done)
    }

    /// Zeroes what no file owns in `image`'s own file; see [`Ext4::scrub`].
    ///
    /// # Errors
    /// When the image was changed by somebody else, or cannot be written.
    pub fn scrub(self, image: &DiskImage, ext4: &Ext4, start: u64, watch: Watch<'_>) -> Result<u64, StorageError> {
        image.input.check_unchanged()?;
        ext4.scrub(&mut FileMedium::new(&image.input.file), start, watch)
    }

    /// The directory of the undo file, if the image is a block device and one was named.
    pub(super) fn undo_directory(&self) -> Option<&Path> {
        match &self.place {
            Place::InPlace { undo, .. } => undo.as_deref(),
            Place::New { .. } => None,
        }
    }

    /// The directory that files are made in.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// True when a raw file is made, so that a compressed image can be decoded straight into it.
    pub(super) fn is_new_raw(&self) -> bool {
        matches!(self.place, Place::New { compress: false, .. })
    }

    /// Writes `image` with `patch` over it. With an empty patch an image in place is not touched at all, and another
    /// output is a faithful copy. `watch` is told how far copying or compressing has come. Who still holds the image's
    /// [`DiskImage::disk`] must not read it any more: it may be the file that the patch is written to.
    ///
    /// # Errors
    /// `Refused` when somebody else changed the image meanwhile, or made the output; `Io`, also when there is no space.
    /// The image is as it was then, and the output is not there (or as it was).
    pub fn commit(self, mut image: DiskImage, patch: &Patch<'_>, watch: Watch<'_>) -> Result<Committed, StorageError> {
        if self.is_in_place() {
            if patch.is_empty() {
                return Ok(Committed::nothing());
            }
            judge_replacement(&image.input)?;
        }
        image.input.check_unchanged()?;
        let (to_name, compress) = (self.name(&image), self.compresses(&image));
        let writing = |e: io::Error| StorageError::io(format!("writing {to_name}"), e);
        let (file, copied) = match image.decoded.take() {
            Some(Decoded::Output(file)) if !compress => (file, Copied::Decompressed),
            decoded => {
                image.decoded = decoded;
                let frames = image.frames.take();
                let file = Unfinished::create(&self.directory).map_err(writing)?;
                let job = Job {
                    from: image.raw_file(),
                    size: image.size(),
                    from_name: &image.name(),
                    to_name: &to_name,
                    watch,
                };
                let copied = if compress {
                    frames::write(&job, patch, frames, file.file())?;
                    Copied::Compressed
                } else {
                    job.copy(file.file())?.map_or(Copied::Shared, Copied::Bytes)
                };
                (file, copied)
            }
        };
        if !compress {
            patch.write_to(file.file()).map_err(writing)?;
        }
        // What was read may be half of one version and half of another, if somebody wrote to the image meanwhile.
        image.input.check_unchanged()?;
        let mut done = Committed { written: true, copied, ..Committed::nothing() };
        self.give_name(&image, file, &mut done)?;
        Ok(done)
    }

    /// Gives `file`, which is whole, the name of the output, or of the image that it replaces.
    pub(super) fn give_name(
        self,
        image: &DiskImage,
        file: Unfinished,
        done: &mut Committed,
    ) -> Result<(), StorageError> {
        let to_name = self.name(image);
        let writing = |e: io::Error| StorageError::io(format!("writing {to_name}"), e);
        let named = match self.place {
            Place::InPlace { keep_mode, .. } => {
                take_over(&image.input, &file, keep_mode, done).map_err(writing)?;
                file.replace(&image.input.real)
            }
            Place::New { path, force: true, .. } => file.replace(&path),
            Place::New { path, .. } => file.publish(&path),
        };
        named.map_err(|error| match error {
            CommitError::Before(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                StorageError::refused(format!("{to_name} was made by somebody else meanwhile"), "choose another name")
            }
            CommitError::Before(e) => writing(e),
            CommitError::After(e) => StorageError::HalfDone {
                what: format!("{to_name} is the new image, whole, but its directory could not be synced: {e}"),
                hint:
                    "is the disk in order? a power cut may bring back what stood there: run the same command again then"
                        .into(),
            },
        })
    }

    /// The name of what is written, for messages.
    pub(super) fn name(&self, image: &DiskImage) -> String {
        match &self.place {
            Place::InPlace { .. } => image.name(),
            Place::New { name, .. } => name.clone(),
        }
    }

    /// True when what is written instead of `image` is compressed.
    pub(super) fn compresses(&self, image: &DiskImage) -> bool {
        match &self.place {
            Place::InPlace { .. } => image.container() == Container::Zstd,
            Place::New { compress, .. } => *compress,
        }
    }

    /// True when the image's permissions are to stay.
    pub(super) fn keeps_mode(&self) -> bool {
        matches!(self.place, Place::InPlace { keep_mode: true, .. })
    }
}

/// The image's own file.
pub(super) struct FileMedium<'a> {
    file: &'a File,
    /// What stood where it was written, the last at the end; `None` when nothing is to be taken back.
    before: Option<Vec<(u64, Wiped)>>,
    /// Bytes in `before`.
    remembered: usize,
}

/// Memory for what is taken back, in bytes: more than a run can write of values and of the blocks that name them. Beyond it
/// are only stale blocks of the log, which come last: zeroed or not, they mean nothing.
const REMEMBERED: usize = 128 << 20;

impl<'a> FileMedium<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, before: None, remembered: 0 }
    }

    /// Makes the file what it was when the change began: as much of it as can be.
    ///
    /// # Errors
    /// When not all of it is what it was: it cannot be written, or was not remembered.
    fn take_back(&mut self) -> io::Result<()> {
        let mut taken_back = Ok(());
        for (offset, bytes) in self.before.take().into_iter().flatten().rev() {
            // Where no byte can be written (a full disk, a limit, a bad sector), none was, more often than not.
            let restored = self.file.write_all_at(&bytes, offset);
            if restored.is_err() && !self.holds(offset, &bytes) {
                taken_back = restored;
            }
        }
        // Best effort: it mostly is because syncing failed that we are here.
        let _ = self.file.sync_data();
        if self.remembered > REMEMBERED { Err(io::ErrorKind::OutOfMemory.into()) } else { taken_back }
    }

    fn holds(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut now = Wiped::zeros(bytes.len());
        self.file.read_exact_at(&mut now, offset).is_ok() && **now == *bytes
    }
}

impl Medium for FileMedium<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(before) = &mut self.before {
            // Once over the limit it stays over it: what is not remembered cannot be taken back.
            self.remembered = self.remembered.saturating_add(bytes.len());
            if self.remembered <= REMEMBERED {
                let mut old = Wiped::zeros(bytes.len());
                self.file.read_exact_at(&mut old, offset)?;
                before.push((offset, old));
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn begin_change(&mut self) {
        // What a dirty journal held is in force, and stays where it was brought.
        self.before = Some(Vec::new());
    }

    fn pass_commit_point(&mut self) {
        self.before = None;
    }
}

/// Gives the file that replaces an image what the image had: owner, extended attributes, and the mode if asked.
fn take_over(image: &Input, file: &Unfinished, keep_mode: bool, done: &mut Committed) -> io::Result<()> {
    let was = &image.metadata;
    let now = file.file().metadata()?;
    let owner = (was.uid(), was.gid());
    if owner != (now.uid(), now.gid()) && fchown(file.file(), Some(owner.0), Some(owner.1)).is_err() {
        // Only root gives files away, but everybody may choose among the groups they are in.
        let group_kept = fchown(file.file(), None, Some(owner.1)).is_ok();
        if !group_kept || owner.0 != now.uid() {
            done.owner_was = Some(owner);
        }
    }
    done.lost_attributes = copy_attributes(&image.file, file.file(), keep_mode);
    let mode = was.mode() & 0o777;
    if keep_mode {
        // Last, and only now that all else is done: until here nobody but us could open it.
        file.set_mode(mode)?;
    } else if mode != 0o600 {
        done.mode_was = Some(mode);
    }
    done.other_links = was.nlink().saturating_sub(1);
    Ok(())
}

/// Copies extended attributes; returns the names of those that could not be. Access lists are a part of the mode, and
/// go with it: on a file that is to be 0600, one could let others in.
fn copy_attributes(from: &File, to: &File, access_lists: bool) -> Vec<String> {
    // A file system without attributes has none to keep.
    let Ok(names) = from.list_xattr() else { return Vec::new() };
    let mut lost = Vec::new();
    for name in names {
        let shown = text::shown_text(&name.to_string_lossy()).unwrap_or_default();
        if shown.starts_with("system.posix_acl") && !access_lists {
            continue;
        }
        let copied = match from.get_xattr(&name) {
            Ok(Some(value)) => to.set_xattr(&name, &value).is_ok(),
            // Gone meanwhile.
            Ok(None) => true,
            Err(_) => false,
        };
        if !copied {
            lost.push(shown);
        }
    }
    lost
}
