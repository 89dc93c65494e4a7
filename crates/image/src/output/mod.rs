//! The commit of a changed disk to a file: complete under its name, or not at all.
//!
//! In place, the image is replaced by a changed copy. The order of steps, and the window that each closes: the copy is
//! created without a name and with mode 0600 (no other user can open it, and it disappears with the process), it is
//! synced (a power cut after the rename finds its content), then one rename gives it the image's name (at every moment
//! there is either the old image or the new one), then the directory is synced. A new output is created the same way,
//! but never replaces an existing file unless requested. The medium is assumed to keep what fsync reported as written.

pub(crate) mod copy;
pub(crate) mod frames;
pub(crate) mod notes;
mod pack;
pub mod patch;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use deaddrop_core::error::{CommitError, Remedy, StorageError};
use deaddrop_core::secret::Wiped;
use deaddrop_core::sys::SignalsWait;
use deaddrop_core::text;
use deaddrop_core::unfinished::Unfinished;
use xattr::FileExt;

use super::ext4::Ext4;
use super::progress::Watch;
use super::undo::Rewrite;
use crate::container::{self, Container, Format};
use crate::journal::commit::{Medium, Transaction};
use crate::open::destination::{self, CheckedDestination, check_replacement};
use crate::open::disk::{Decoded, DiskImage, parent};
use crate::open::input::Input;
use crate::output::copy::CopyJob;
use crate::output::patch::Patch;

pub use crate::open::destination::Destination;

/// The destination of a commit, checked when the image was opened.
pub struct Output {
    place: CheckedDestination,
    /// The directory in which the file is created.
    directory: PathBuf,
    /// A deferred signal stops the writing of a new file.
    gives_up: bool,
}

/// The result of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// False if there was nothing to do, and the image was not touched.
    pub written: bool,
    /// How the disk got there.
    pub copied: Copied,
    /// The image's former mode, if it was changed to 0600.
    pub mode_was: Option<u32>,
    /// The image's owner (user, group), if it could not be kept.
    pub owner_was: Option<(u32, u32)>,
    /// Number of other names (hard links) of the image, which keep the old content.
    pub other_links: u64,
    /// Extended attributes that could not be kept.
    pub lost_attributes: Vec<String>,
}

/// How the bytes got into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// No bytes were written.
    Nothing,
    /// Its blocks are shared with the image's.
    Shared,
    /// This many bytes were copied; the rest is holes.
    Bytes(u64),
    /// Decompressed directly into it.
    Decompressed,
    /// Compressed into it.
    Compressed,
    /// Written into it in this format.
    Converted(Format),
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

/// Checks that changes to the image at `path` can go to `destination`; nothing is decoded.
///
/// # Errors
/// `Refused` with a hint; `Unsupported` for an output format; `Io`.
pub fn check(path: &Path, destination: &Destination) -> Result<(), StorageError> {
    let input = Input::open(path)?;
    let container = container::sniff(&input.file, input.size, &input.name())?;
    Output::prepare(destination, &input, container).map(drop)
}

impl Output {
    /// Checks that changes to `input` can go to `destination`.
    pub(super) fn prepare(
        destination: &Destination,
        input: &Input,
        container: Container,
    ) -> Result<Self, StorageError> {
        Ok(Self::at(destination::check(destination, input, container)?, input))
    }

    /// Checks that a changed tar with a root file system can go to `destination`.
    pub(super) fn prepare_for_tar(destination: &Destination, input: &Input) -> Result<Self, StorageError> {
        Ok(Self::at(destination::check_for_tar(destination, input)?, input))
    }

    fn at(place: CheckedDestination, input: &Input) -> Self {
        let directory = match &place {
            CheckedDestination::InPlace { .. } => parent(&input.real).to_owned(),
            CheckedDestination::New { directory, .. } => directory.clone(),
        };
        Self { place, directory, gives_up: false }
    }

    /// The same, given up when a signal is deferred.
    pub(super) fn gives_up(self) -> Self {
        Self { gives_up: true, ..self }
    }

    /// True if a deferred signal stops the writing.
    pub(super) fn is_given_up(&self) -> bool {
        self.gives_up
    }

    /// True if the image itself is changed.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        matches!(self.place, CheckedDestination::InPlace { .. })
    }

    /// True if `image` can be changed by a transaction in its own file, without a copy.
    #[must_use]
    pub fn takes_transaction(&self, image: &DiskImage) -> bool {
        self.is_in_place() && image.container().is_raw()
    }

    /// Writes `transaction` into `image`'s own file, in which the file system starts at `start` (bytes). `seconds`
    /// since 1970 are the time of the commit.
    ///
    /// # Errors
    /// `Io` or `Refused` if nothing was changed; `HalfDone` if the commit point was passed, and `recover` or the next
    /// run finishes it.
    pub fn commit_transaction(
        self,
        image: &DiskImage,
        transaction: Transaction,
        start: u64,
        seconds: u64,
    ) -> Result<Committed, StorageError> {
        let CheckedDestination::InPlace { keep_mode, .. } = self.place else {
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
        // From here on: a signal must also leave the mode unchanged.
        let signals = SignalsWait::new();
        if !keep_mode && !input.is_device() && mode != 0o600 {
            // Before the first byte of a value is written.
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
            Err(CommitError::Before(e)) if medium.roll_back().is_ok() => {
                if done.mode_was.is_some() {
                    // Best effort: the content is unchanged.
                    let _ = input.file.set_permissions(Permissions::from_mode(mode));
                }
                Err(StorageError::io(format!("writing {name}"), e))
            }
            // With a value in a free block it must stay private.
            Err(CommitError::Before(e)) => Err(StorageError::refused(
                format!(
                    "writing {name}: {e}; new values may be left in its free space{}",
                    if done.mode_was.is_some() { ", so its mode stays 0600" } else { "" }
                ),
                Remedy::Scrub,
            )),
            Err(CommitError::After(e)) => {
                // The result must be reported: no signal terminates the process before that.
                signals.committed();
                Err(StorageError::HalfDone {
                    what: format!("writing {name}, after the commit point: {e}"),
                    hint: Remedy::Recover { image: "IMAGE".into() }.into(),
                })
            }
        }
    }

    /// Writes `rewrite` over `image`, a block device, with an undo file. Otherwise like [`Output::commit_transaction`].
    ///
    /// # Errors
    /// `Refused` if there is no directory for the undo file; otherwise see [`Rewrite::commit`].
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
                Remedy::NameUndoDirectory,
            ));
        };
        image.input.check_unchanged()?;
        let signals = SignalsWait::new();
        let mut medium = FileMedium::new(&image.input.file);
        let result = image.with_disk(&mut medium, |disk| rewrite.commit(disk, directory, start, seconds));
        match result {
            // A half-done change must be reported: no signal terminates the process before that.
            Ok(()) | Err(StorageError::HalfDone { .. }) => signals.committed(),
            // Best effort: no file refers to new values in free blocks, and the next run writes them again.
            Err(_) => drop(medium.roll_back()),
        }
        done.written = result.map(|()| true)?;
        Ok(done)
    }

    /// Zeroes blocks that no file owns in `image`'s own file; see [`Ext4::scrub`].
    ///
    /// # Errors
    /// If another process changed the image, or it cannot be written.
    pub fn scrub(self, image: &DiskImage, ext4: &Ext4, start: u64, watch: Watch<'_>) -> Result<u64, StorageError> {
        image.input.check_unchanged()?;
        ext4.scrub(&mut FileMedium::new(&image.input.file), start, watch)
    }

    /// The directory of the undo file, if the image is a block device and one was given.
    pub(super) fn undo_directory(&self) -> Option<&Path> {
        match &self.place {
            CheckedDestination::InPlace { undo, .. } => undo.as_deref(),
            CheckedDestination::New { .. } => None,
        }
    }

    /// The directory in which files are created.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The container of the file that is written for an image in `container`, if that is not changed in its own file.
    pub(super) fn container(&self, container: Container) -> Container {
        match &self.place {
            CheckedDestination::InPlace { .. } => container,
            CheckedDestination::New { container, .. } => *container,
        }
    }

    /// Writes `image` with `patch` over it. With an empty patch an image in place is not touched at all, and another
    /// output is an exact copy. `watch` reports the progress of copying or compressing. The caller must not read the
    /// image's [`DiskImage::disk`] any more: it may be the file that the patch is written to.
    ///
    /// # Errors
    /// `Refused` if another process changed the image since it was opened, or created the output; `Io`, also if there
    /// is no space. Then the image is unchanged, and the output does not exist (or is unchanged).
    pub fn commit(self, mut image: DiskImage, patch: &Patch<'_>, watch: Watch<'_>) -> Result<Committed, StorageError> {
        if self.is_in_place() {
            if patch.is_empty() {
                return Ok(Committed::nothing());
            }
            check_replacement(&image.input)?;
        }
        image.input.check_unchanged()?;
        let (to_name, container) = (self.name(&image.input), self.container(image.container()));
        let writing = |e: io::Error| StorageError::io(format!("writing {to_name}"), e);
        let (file, copied) = match image.decoded.take() {
            Some(Decoded::Output(file)) if container.is_raw() => (file, Copied::Decompressed),
            decoded => {
                image.decoded = decoded;
                let frames = image.frames.take();
                let file = Unfinished::create(&self.directory).map_err(writing)?;
                let name = image.name();
                let job = CopyJob { gives_up: self.gives_up, ..image.copy_job(&name, &to_name, watch) };
                let copied = if container.is_raw() {
                    job.copy(file.file())?.map_or(Copied::Shared, Copied::Bytes)
                } else {
                    self.pack(container, &job, patch, &image, frames, file.file())?
                };
                (file, copied)
            }
        };
        if container.is_raw() {
            patch.write_to(file.file()).map_err(writing)?;
        }
        // If another process wrote to the image since it was opened, the copy may be a mix of two versions.
        image.input.check_unchanged()?;
        let mut done = Committed { written: true, copied, ..Committed::nothing() };
        self.rename_to_output(&image.input, file, &mut done)?;
        Ok(done)
    }

    /// Gives the complete `file` the name of the output, or of the image that it replaces.
    pub(super) fn rename_to_output(
        self,
        input: &Input,
        file: Unfinished,
        done: &mut Committed,
    ) -> Result<(), StorageError> {
        let to_name = self.name(input);
        let writing = |e: io::Error| StorageError::io(format!("writing {to_name}"), e);
        let named = match self.place {
            CheckedDestination::InPlace { keep_mode, .. } => {
                copy_metadata(input, &file, keep_mode, done).map_err(writing)?;
                file.replace(&input.real)
            }
            CheckedDestination::New { path, force: true, .. } => file.replace(&path),
            CheckedDestination::New { path, .. } => file.publish(&path),
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

    /// The name of the written file, for messages.
    pub(super) fn name(&self, input: &Input) -> String {
        match &self.place {
            CheckedDestination::InPlace { .. } => input.name(),
            CheckedDestination::New { name, .. } => name.clone(),
        }
    }

    /// True if the image keeps its permissions.
    pub(super) fn keeps_mode(&self) -> bool {
        matches!(self.place, CheckedDestination::InPlace { keep_mode: true, .. })
    }
}

/// The image's own file, as a medium with rollback.
pub(super) struct FileMedium<'a> {
    file: &'a File,
    /// The overwritten bytes, in order of the writes; `None` if nothing can be rolled back.
    before: Option<Vec<(u64, Wiped)>>,
    /// Bytes in `before`.
    remembered: usize,
}

/// Maximum memory for rollback, in bytes: more than a run can write of values and of the blocks that refer to them.
/// Beyond it are only stale blocks of the log, which are written last: it does not matter whether they are zeroed.
const REMEMBERED: usize = 128 << 20;

impl<'a> FileMedium<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, before: None, remembered: 0 }
    }

    /// Restores the bytes from the start of the change, as far as possible.
    ///
    /// # Errors
    /// If not all of them were restored: the file cannot be written, or the limit was exceeded.
    fn roll_back(&mut self) -> io::Result<()> {
        let mut rolled_back = Ok(());
        for (offset, bytes) in self.before.take().into_iter().flatten().rev() {
            // If a byte range cannot be written (a full disk, a limit, a bad sector), it usually was not written before
            // either.
            let restored = self.file.write_all_at(&bytes, offset);
            if restored.is_err() && !self.holds(offset, &bytes) {
                rolled_back = restored;
            }
        }
        // Best effort: a failed sync is usually the reason for the rollback.
        let _ = self.file.sync_data();
        if self.remembered > REMEMBERED { Err(io::ErrorKind::OutOfMemory.into()) } else { rolled_back }
    }

    fn holds(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut now = Wiped::zeros(bytes.len());
        self.file.read_exact_at(&mut now, offset).is_ok() && **now == *bytes
    }
}

impl Medium for FileMedium<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(before) = &mut self.before {
            // Once over the limit it stays over it: what was not remembered cannot be rolled back.
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
        // The checkpointed blocks of a dirty journal are in force, and stay.
        self.before = Some(Vec::new());
    }

    fn pass_commit_point(&mut self) {
        self.before = None;
    }
}

/// Copies owner, extended attributes and, if requested, the mode from an image to the file that replaces it.
fn copy_metadata(image: &Input, file: &Unfinished, keep_mode: bool, done: &mut Committed) -> io::Result<()> {
    let was = &image.metadata;
    let now = file.file().metadata()?;
    let owner = (was.uid(), was.gid());
    if owner != (now.uid(), now.gid()) && fchown(file.file(), Some(owner.0), Some(owner.1)).is_err() {
        // Only root can change the owner, but every user can choose among their groups.
        let group_kept = fchown(file.file(), None, Some(owner.1)).is_ok();
        if !group_kept || owner.0 != now.uid() {
            done.owner_was = Some(owner);
        }
    }
    done.lost_attributes = copy_attributes(&image.file, file.file(), keep_mode);
    let mode = was.mode() & 0o777;
    if keep_mode {
        // Last, after everything else: until here no other user could open it.
        file.set_mode(mode)?;
    } else if mode != 0o600 {
        done.mode_was = Some(mode);
    }
    done.other_links = was.nlink().saturating_sub(1);
    Ok(())
}

/// Copies extended attributes; returns the names of those that could not be copied. Access lists are part of the mode,
/// and only copied with it: on a file with mode 0600, one could give access to others.
fn copy_attributes(from: &File, to: &File, access_lists: bool) -> Vec<String> {
    // A file system without attributes.
    let Ok(names) = from.list_xattr() else { return Vec::new() };
    let mut lost = Vec::new();
    for name in names {
        let shown = text::shown_text(&name.to_string_lossy()).unwrap_or_default();
        if shown.starts_with("system.posix_acl") && !access_lists {
            continue;
        }
        let copied = match from.get_xattr(&name) {
            Ok(Some(value)) => to.set_xattr(&name, &value).is_ok(),
            // Removed since.
            Ok(None) => true,
            Err(_) => false,
        };
        if !copied {
            lost.push(shown);
        }
    }
    lost
}
