//! A root file system in a tar, compressed or not: read as a tree, changed entry by entry, written as a new file.
//!
//! POSIX.1-2017, "pax", "ustar Interchange Format" and "pax Interchange Format"; the GNU tar manual, "Tar Internals".
//!
//! - `header`, `records`, `sparse`, `member`: one entry.
//! - `disk`: a tar that holds one disk, and no root.
//! - `index`, `tree`: all of them, as a tree.
//! - `edit`, `write`: a change of the tree as a change of entries; all other bytes stay.
//! - `read_back`: the check of the result by another reader.

pub(crate) mod disk;
mod edit;
mod header;
mod index;
mod member;
mod read_back;
mod records;
mod refuse;
mod sparse;
mod tree;
mod write;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::sys;
use deaddrop_core::text;
use deaddrop_core::tree::{Applied, TreeChange};
use deaddrop_core::unfinished::{Unfinished, remove_left};

use self::edit::{Piece, Plan};
use self::header::Block;
pub use self::index::Archive;
use crate::container::{self, Compression, Container, FileReader, foreign};
use crate::device::FileDevice;
use crate::open::destination::{check_replacement, refuse_running_system};
use crate::open::disk::{Layer, elsewhere, parent};
use crate::open::input::{Access, Input};
use crate::open::spool;
use crate::output::copy::{CopyJob, copy_range};
use crate::output::frames;
use crate::output::notes::{copied, notes};
use crate::output::patch::Patch;
use crate::output::{Committed, Copied, Destination, Output};
use crate::progress::Watch;

/// An open tar with a root file system.
pub struct TarRoot<'w> {
    input: Input,
    /// Taken by the commit.
    output: Option<Output>,
    compression: Option<Compression>,
    /// The archive: the input's own file, or an unnamed one into which it was decoded.
    file: File,
    archive: Archive,
    watch: Watch<'w>,
}

/// The tar of one of several hosts, for the thread that changes it.
pub struct TarOfHost {
    input: Input,
    output: Option<Output>,
    compression: Option<Compression>,
    file: File,
    archive: Archive,
}

impl TarOfHost {
    /// The tar, with a receiver of progress.
    #[must_use]
    pub fn with(self, watch: Watch<'_>) -> TarRoot<'_> {
        let Self { input, output, compression, file, archive } = self;
        TarRoot { input, output, compression, file, archive, watch }
    }
}

/// True if the file at `path` begins as a tar, compressed or not, that is none of a disk, no OVA and no Vagrant box. What cannot be read is none.
#[must_use]
pub fn is_tar(path: &Path) -> bool {
    let Ok(input) = Input::open(path) else { return false };
    let mut start = vec![0; usize::try_from(input.size.min(container::START)).unwrap_or_default()];
    if input.file.read_exact_at(&mut start, 0).is_err() {
        return false;
    }
    if let Some(compression) = Compression::told_by(&start) {
        start = container::decoded_start(compression, &input.file, container::START);
    }
    tells(&start) && !disk::tells(&start) && !foreign::is_archive(&start)
}

/// True if `head` starts with the header of an entry.
fn tells(head: &[u8]) -> bool {
    let block = head.first_chunk().copied().map(Block);
    block.is_some_and(|block| !block.is_zero() && block.is_sealed() && !block.name().is_empty())
}

impl<'w> TarRoot<'w> {
    /// Opens a tar. Without a destination it is open for reading only.
    ///
    /// # Errors
    /// If it cannot be read, holds no root file system, or the destination is not possible.
    pub fn open(path: &Path, destination: Option<&Destination>, watch: Watch<'w>) -> Result<Self, StorageError> {
        destination.map_or(Ok(()), |destination| refuse_running_system(destination, path))?;
        let mut input = Input::open(path)?;
        let name = input.name();
        let output = destination.map(|destination| Output::prepare_for_tar(destination, &input)).transpose()?;
        let in_place = output.as_ref().is_some_and(Output::is_in_place);
        input.lock(if in_place { Access::Write } else { Access::Read })?;
        if in_place {
            // It is never changed in its own file.
            check_replacement(&input)?;
        }
        if let Some(output) = &output {
            // Whole files with values in them, of runs that were killed.
            let _ = remove_left(output.directory());
        }
        let opening = |e| StorageError::io(format!("opening {name}"), e);
        let mut head = Vec::new();
        let start = FileReader { file: &input.file, offset: 0 }.take(header::STEP).read_to_end(&mut head);
        start.map_err(|e| StorageError::io(format!("reading {name}"), e))?;
        let compression = Compression::told_by(&head);
        let (file, size) = match compression {
            None => (input.file.try_clone().map_err(opening)?, input.size),
            Some(compression) => decode(&input, compression, output.as_ref(), watch)?,
        };
        let device = FileDevice::new(file.try_clone().map_err(opening)?, size);
        let named = |error| with_name(&name, error);
        let archive = Archive::read(Arc::new(device)).map_err(named)?;
        refuse::no_root(&archive, &name)?;
        Ok(Self { input, output, compression, file, archive, watch })
    }

    /// Opens a tar once for `count` hosts, and gives one for each, whose changes the others do not see. With `destinations`,
    /// one for each host, they are to be written, and all are checked before anything is decoded.
    ///
    /// # Errors
    /// As [`TarRoot::open`].
    pub fn open_for_all(
        path: &Path,
        count: usize,
        destinations: &[Destination],
        watch: Watch<'w>,
    ) -> Result<Vec<TarOfHost>, StorageError> {
        let input = Input::open(path)?;
        let prepare = |destination| Output::prepare_for_tar(destination, &input).map(Output::gives_up);
        let outputs = destinations.iter().map(prepare).collect::<Result<Vec<Output>, StorageError>>()?;
        let first = Self::open(path, None, watch)?;
        let mut outputs = outputs.into_iter();
        (0..count).map(|_| first.share(outputs.next())).collect()
    }

    /// The same tar once more, for changes that the other one does not see.
    fn share(&self, output: Option<Output>) -> Result<TarOfHost, StorageError> {
        let opening = |e| StorageError::io(format!("opening {}", self.name()), e);
        let clone = |file: &File| file.try_clone().map_err(opening);
        let device = FileDevice::new(clone(&self.file)?, self.archive.device.size());
        let archive = Archive::read(Arc::new(device)).map_err(|error| with_name(&self.name(), error))?;
        let (input, file) = (self.input.share().map_err(opening)?, clone(&self.file)?);
        Ok(TarOfHost { input, output, compression: self.compression, file, archive })
    }

    /// The archive as a tree.
    #[must_use]
    pub fn tree(&self) -> &Archive {
        &self.archive
    }

    /// Its name in messages: its path as given.
    #[must_use]
    pub fn name(&self) -> String {
        self.input.name()
    }

    /// "node1.tar.xz, a tar of a root".
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}, a tar of a root", self.name())
    }

    /// The layers, outermost first.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        let tar = Layer { kind: "tar", size: self.archive.device.size() };
        let outer = self.compression.map(|kind| Layer { kind: kind.name(), size: self.input.size });
        outer.into_iter().chain([tar]).collect()
    }

    /// What it is, if a change in place rewrites the whole file: always.
    #[must_use]
    pub fn packed_as(&self) -> Option<&'static str> {
        Some(if self.compression.is_some() { "compressed" } else { "a tar" })
    }

    /// Plans the changes; nothing is written.
    ///
    /// # Errors
    /// As [`TarRoot::apply`], but for those of writing.
    pub fn dry_run(&self, changes: &[TreeChange], time: SystemTime) -> Result<(), StorageError> {
        edit::plan(&self.archive, changes, time).map(drop).map_err(|error| with_name(&self.name(), error))
    }

    /// Makes all changes and commits them, or none. `time` becomes the time of new entries.
    ///
    /// # Errors
    /// The tar is unchanged, except after [`StorageError::HalfDone`].
    pub fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, StorageError> {
        let Some(output) = self.output.take() else {
            return Err(StorageError::corrupt("the tar was opened to be looked at"));
        };
        if changes.is_empty() && output.is_in_place() {
            return Ok(Applied::default());
        }
        let plan = edit::plan(&self.archive, changes, time).map_err(|error| with_name(&self.name(), error))?;
        let started = Instant::now();
        self.input.check_unchanged()?;
        let to_name = output.name(&self.input);
        let compression = output.container(self.container()).compression;
        let writing = |e: io::Error| StorageError::io(format!("writing {to_name}"), e);
        let file = Unfinished::create(output.directory()).map_err(writing)?;
        let scratch = compression.map(|_| Unfinished::scratch(output.directory())).transpose().map_err(writing)?;
        let raw = scratch.as_ref().unwrap_or(file.file());
        write_pieces(&self.file, &plan, raw).map_err(writing)?;
        read_back::check(raw, &plan.expected)?;
        let mut copied_as = Copied::Bytes(plan.pieces.iter().fold(0, |sum, piece| piece.size().saturating_add(sum)));
        if let Some(raw) = &scratch {
            let size = raw.metadata().map_err(writing)?.len();
            let device = FileDevice::new(raw.try_clone().map_err(writing)?, size);
            let from_name = "the changed tar";
            let watch = self.watch;
            let gives_up = output.is_given_up();
            let job = CopyJob { from: &device, file: Some(raw), size, from_name, to_name: &to_name, watch, gives_up };
            if let Some(compression) = compression {
                frames::write(compression, &job, &Patch::default(), None, file.file())?;
            }
            copied_as = Copied::Compressed;
        }
        // If another process wrote to the tar since it was opened, the copy may be a mix of two versions.
        self.input.check_unchanged()?;
        let mut done = Committed { written: true, copied: copied_as, ..Committed::nothing() };
        output.rename_to_output(&self.input, file, &mut done)?;
        let time = text::duration(started.elapsed());
        let details =
            vec![format!("written as a new tar, and read back by another reader; {} ({time})", copied(done.copied))];
        Ok(Applied { notes: notes(&self.name(), &done), details })
    }

    fn container(&self) -> Container {
        Container { compression: self.compression, ..Container::RAW }
    }
}

/// Decodes a compressed tar into an unnamed file: beside the output, or the tar, or where there is room. Returns its
/// size too.
fn decode(
    input: &Input,
    compression: Compression,
    output: Option<&Output>,
    watch: Watch<'_>,
) -> Result<(File, u64), StorageError> {
    let name = input.name();
    let directory = output.map_or_else(|| parent(&input.real), Output::directory);
    let scratch = Unfinished::scratch(directory).map(|file| (file, directory.to_owned()));
    let scratch = if output.is_some() { scratch } else { scratch.or_else(|_| elsewhere()) };
    let failed = |e| StorageError::io(format!("making room for the decompressed {name}"), e);
    let (file, place) = scratch.map_err(failed)?;
    let place = place.display().to_string();
    let (size, is_tar) = (input.size, true);
    let job =
        spool::Job { compression, input: &input.file, size, name: &name, place: &place, watch, copies: &[], is_tar };
    let size = job.decode(&file, None)?;
    Ok((file, size))
}

/// Writes the new archive to the empty file `to`; `from` is the old one.
fn write_pieces(from: &File, plan: &Plan<'_>, mut to: &File) -> io::Result<()> {
    let mut at = 0_u64;
    for piece in &plan.pieces {
        match piece {
            Piece::New(bytes) => to.write_all(bytes)?,
            Piece::Old(range) => {
                let mut here = range.start;
                while let Some(run) = sys::next_data(from, here..range.end)? {
                    to.seek(SeekFrom::Start(at.saturating_add(run.start.saturating_sub(range.start))))?;
                    copy_range(from, run.start, run.end.saturating_sub(run.start), to)?;
                    here = run.end;
                }
            }
        }
        at = at.saturating_add(piece.size());
        to.seek(SeekFrom::Start(at))?;
    }
    to.set_len(at)
}

/// The error with the tar's name before it.
fn with_name(name: &str, error: StorageError) -> StorageError {
    match error {
        StorageError::Corrupt(what) => StorageError::Corrupt(format!("{name}: {what}")),
        StorageError::Unsupported { what, hint } => StorageError::Unsupported { what: format!("{name}: {what}"), hint },
        other => other,
    }
}
