//! An open image: its container, the raw disk inside, and the disk's partitions.
//!
//! Every command opens images here: with [`DiskImage::open`] for reading, with [`DiskImage::open_for`] for a change.
//! Nothing is written to the image through this type; changes go through [`crate::output::Output::commit`].

mod for_all;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, io};

use deaddrop_core::error::StorageError;
use deaddrop_core::sys::SignalsWait;
use deaddrop_core::unfinished::{Unfinished, remove_left};

use super::destination::{check_replacement, refuse_running_system};
use super::input::{Access, Input};
use super::spool;
use crate::container::qcow2::Qcow2;
use crate::container::qemu;
use crate::container::vma::Vma;
use crate::container::{self, Compression, Container, Format, Reading};
use crate::device::{FileDevice, ReadAt, Section};
use crate::output::copy::CopyJob;
use crate::output::frames::{Kept, Recorder};
use crate::output::{Destination, FileMedium, Output};
use crate::progress::Watch;
use crate::table::root::{self, Backend, InspectPartition, Root};
use crate::table::{Partition, Table};
use crate::tar::disk::TarDisk;
use crate::undo::{self, Disk};

pub use self::for_all::OfHost;

/// An open disk image.
pub struct DiskImage {
    pub(crate) input: Input,
    container: Container,
    /// The layers, outermost first.
    layers: Vec<Layer>,
    /// A qcow2 image that is read where it is.
    pub(crate) qcow2: Option<Arc<Qcow2>>,
    /// The archive that the disk is from.
    pub(crate) vma: Option<Arc<Vma>>,
    /// The tar that the disk is from.
    pub(crate) tar: Option<Arc<TarDisk>>,
    /// How an image is made that qemu-img has read.
    pub(crate) shape: Option<qemu::Shape>,
    pub(crate) decoded: Option<Decoded>,
    /// The frames of a compressed image's disk, compressed again during decoding, if the output is to be compressed.
    pub(crate) frames: Option<Arc<Kept>>,
    disk: Arc<dyn ReadAt>,
    table: Table,
    rolled_back: bool,
}

/// One layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// "gzip", "qcow2", "raw", …
    pub kind: &'static str,
    /// Its bytes: those of the file, of what was decompressed, of the disk.
    pub size: u64,
}

/// How far an image is trusted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trust {
    /// Read the backing files that a qcow2 image names. A raw one must have a partition table or a file system.
    pub follow_backing: bool,
}

/// What files are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unpack {
    /// For what a compression is around.
    Compression,
    /// For the disk, which is in a format that is not read where it is.
    Format,
}

/// The files into which a compressed image is decoded.
struct Room {
    decoded: Decoded,
    /// The output's compression, and an unnamed file for its frames, if it is to be compressed.
    frames: Option<(Compression, File)>,
    /// Further files that become the disk of a compressed image, each the output of another host.
    copies: Vec<Unfinished>,
    /// The directory of all.
    place: PathBuf,
}

/// The location of the raw disk of a compressed image.
pub(crate) enum Decoded {
    /// In a scratch file.
    Scratch(File),
    /// In the output's own unfinished file, because the output is raw.
    Output(Unfinished),
}

impl Decoded {
    fn file(&self) -> &File {
        match self {
            Self::Scratch(file) => file,
            Self::Output(unfinished) => unfinished.file(),
        }
    }
}

impl DiskImage {
    /// Opens the image at `path` for reading: follows a symbolic link, detects the container by its magic, decodes it
    /// if it is compressed (into an unnamed file in the same directory, or in `$TMPDIR` or `/var/tmp`), and reads the
    /// partition table. `watch` reports the progress of decoding.
    ///
    /// # Errors
    /// `Refused` for an empty image or one that is neither a file nor a block device; `Unsupported` for other
    /// containers; `Corrupt` for damaged data or a damaged table; `Io`.
    pub fn open(path: &Path, watch: Watch<'_>) -> Result<Self, StorageError> {
        Self::open_trusting(path, Trust::default(), watch)
    }

    /// Like [`DiskImage::open`], for an image that is trusted more than others.
    ///
    /// # Errors
    /// As [`DiskImage::open`].
    pub fn open_trusting(path: &Path, trust: Trust, watch: Watch<'_>) -> Result<Self, StorageError> {
        let mut input = Input::open(path)?;
        let container = container::sniff(&input.file, input.size, &input.name())?;
        input.lock(Access::Read)?;
        let directory = parent(&input.real).to_owned();
        Self::read(input, container, trust, watch, &mut Vec::new(), &|input, _| {
            let scratch = Unfinished::scratch(&directory).map(|file| (file, directory.clone()));
            let (file, place) = scratch
                .or_else(|_| elsewhere())
                .map_err(|e| StorageError::io(format!("making room for the decompressed {}", input.name()), e))?;
            Ok(Room { decoded: Decoded::Scratch(file), frames: None, copies: Vec::new(), place })
        })
    }

    /// Opens the image at `path` for a change that goes to `destination`. The destination is checked first, before
    /// anything is decoded: the changes are committed to the returned [`Output`].
    ///
    /// # Errors
    /// As for [`DiskImage::open`]; `Refused` if the destination is not possible.
    pub fn open_for(path: &Path, destination: &Destination, watch: Watch<'_>) -> Result<(Self, Output), StorageError> {
        Self::open_trusting_for(path, Trust::default(), destination, watch)
    }

    /// Like [`DiskImage::open_for`], for an image that is trusted more than others.
    ///
    /// # Errors
    /// As [`DiskImage::open_for`].
    pub fn open_trusting_for(
        path: &Path,
        trust: Trust,
        destination: &Destination,
        watch: Watch<'_>,
    ) -> Result<(Self, Output), StorageError> {
        refuse_running_system(destination, path)?;
        let mut input = Input::open(path)?;
        let container = container::sniff(&input.file, input.size, &input.name())?;
        let output = Output::prepare(destination, &input, container)?;
        input.lock(if output.is_in_place() { Access::Write } else { Access::Read })?;
        let directory = output.directory();
        // Whole images with values in them, of runs that were killed.
        let _ = remove_left(directory);
        if output.is_in_place() && !container.is_raw() {
            // It cannot be changed in its file: it is replaced.
            check_replacement(&input)?;
        }
        let mut image = Self::read(input, container, trust, watch, &mut Vec::new(), &|input, what| {
            let failed = |e| StorageError::io(format!("making room for the decompressed {}", input.name()), e);
            let scratch = || Unfinished::scratch(directory).map_err(failed);
            let (decoded, frames) = match (what, output.container(container)) {
                // What is unpacked is no disk, and neither the output nor a part of it.
                (Unpack::Compression, _) if container.format != Format::Raw => (Decoded::Scratch(scratch()?), None),
                (_, Container { format: Format::Raw, compression: None }) => {
                    (Decoded::Output(Unfinished::create(directory).map_err(failed)?), None)
                }
                // The pieces that a change touches are compressed twice. Of a small image these are so many that it takes
                // less time to compress all of it afterwards.
                (Unpack::Compression, Container { format: Format::Raw, compression: Some(compression) })
                    if compression.codec().is_slow() && input.size < LARGE =>
                {
                    (Decoded::Scratch(scratch()?), None)
                }
                (Unpack::Compression, Container { format: Format::Raw, compression: Some(compression) }) => {
                    (Decoded::Scratch(scratch()?), Some((compression, scratch()?)))
                }
                _ => (Decoded::Scratch(scratch()?), None),
            };
            Ok(Room { decoded, frames, copies: Vec::new(), place: directory.to_owned() })
        })?;
        if let Some(directory) = output.undo_directory() {
            // Before anything is read from it.
            let signals = SignalsWait::new();
            let mut medium = FileMedium::new(&image.input.file);
            let partitions = &image.table.partitions;
            let restored = image.with_disk(&mut medium, |disk| undo::restore(disk, partitions, directory));
            if matches!(restored, Err(StorageError::HalfDone { .. })) {
                // The error must be reported: no signal terminates the process before that.
                signals.committed();
            }
            image.rolled_back = restored?;
        }
        Ok((image, output))
    }

    /// Reads the image in `container` and its table; `room` creates the files into which a compressed image is decoded, of
    /// which the copies are added to `all`.
    fn read(
        input: Input,
        container: Container,
        trust: Trust,
        watch: Watch<'_>,
        all: &mut Vec<Unfinished>,
        room: &dyn Fn(&Input, Unpack) -> Result<Room, StorageError>,
    ) -> Result<Self, StorageError> {
        let name = input.name();
        let reading = |e| StorageError::io(format!("reading {name}"), e);
        let clone = |file: &File| file.try_clone().map_err(|e| StorageError::io(format!("opening {name}"), e));
        let file = FileDevice::new(clone(&input.file)?, input.size);
        let (mut disk, mut decoded, frames): (Arc<dyn ReadAt>, _, _) = match container.compression {
            None => (Arc::new(file), None, None),
            Some(compression) => {
                let Room { decoded, frames, copies, place } = room(&input, Unpack::Compression)?;
                let place = place.display().to_string();
                let compressing = |e| StorageError::io(format!("compressing what {name} holds, in {place}"), e);
                let recorder = frames.map(|(compression, file)| Recorder::new(compression, file));
                let mut recorder = recorder.transpose().map_err(compressing)?;
                let (from, to) = (&input.file, decoded.file());
                let files: Vec<&File> = copies.iter().map(Unfinished::file).collect();
                let (size, is_tar) = (input.size, false);
                let job = spool::Job {
                    compression,
                    input: from,
                    size,
                    name: &name,
                    place: &place,
                    watch,
                    copies: &files,
                    is_tar,
                };
                let size = job.decode(to, recorder.as_mut())?;
                all.extend(copies);
                let frames = recorder.map(Recorder::finish).transpose().map_err(compressing)?.map(Arc::new);
                (Arc::new(FileDevice::new(clone(to)?, size)), Some(decoded), frames)
            }
        };
        let mut layers: Vec<Layer> =
            container.compression.into_iter().map(|kind| Layer { kind: kind.name(), size: input.size }).collect();
        if decoded.is_some() && container.format == Format::Raw && container::has_footer(&*disk).map_err(reading)? {
            return Err(StorageError::unsupported(
                format!("{name} (decompressed) is a fixed VHD image"),
                "decompress it first: a VHD image without a compression is read",
            ));
        }
        let mut shape = None;
        if container.format.is_by_qemu() {
            layers.push(Layer { kind: container.format.name(), size: disk.size() });
            shape = Some(qemu::Shape::read(container.format, &*disk, &name)?);
            let room = room(&input, Unpack::Format)?.decoded;
            let from = decoded.as_ref().map_or(&input.file, Decoded::file);
            let size = qemu::decode(container.format, from, disk.size(), room.file(), &name)?;
            disk = Arc::new(FileDevice::new(clone(room.file())?, size));
            decoded = Some(room);
        }
        let mut vma = None;
        if container.format == Format::Vma {
            layers.push(Layer { kind: container.format.name(), size: disk.size() });
            let archive = Vma::open(disk, &name)?;
            let room = room(&input, Unpack::Format)?.decoded;
            let size = archive.decode(room.file())?;
            disk = Arc::new(FileDevice::new(clone(room.file())?, size));
            decoded = Some(room);
            vma = Some(Arc::new(archive));
        }
        let mut tar = None;
        if container.format == Format::Tar {
            layers.push(Layer { kind: container.format.name(), size: disk.size() });
            let archive = TarDisk::open(disk, &name)?;
            let room = room(&input, Unpack::Format)?.decoded;
            let size = archive.decode(room.file())?;
            disk = Arc::new(FileDevice::new(clone(room.file())?, size));
            decoded = Some(room);
            tar = Some(Arc::new(archive));
        }
        let mut qcow2 = None;
        if container.format == Format::Qcow2 {
            layers.push(Layer { kind: Format::Qcow2.name(), size: disk.size() });
            let directory = parent(&input.real);
            let reading = Reading { follow_backing: trust.follow_backing, directory, depth: 0 };
            let file = clone(decoded.as_ref().map_or(&input.file, Decoded::file))?;
            let image = Arc::new(Qcow2::open(disk, &name, &reading)?.in_file(file));
            qcow2 = Some(Arc::clone(&image));
            disk = image;
        }
        layers.push(Layer { kind: Format::Raw.name(), size: disk.size() });
        let table = Table::read(&disk, &name)?;
        Ok(Self { input, container, layers, qcow2, vma, tar, shape, decoded, frames, disk, table, rolled_back: false })
    }

    /// The disk of the image `input`, which lies somewhere else: to be read.
    ///
    /// # Errors
    /// If its table cannot be read.
    pub(crate) fn of_disk(input: Input, container: Container, disk: Arc<dyn ReadAt>) -> Result<Self, StorageError> {
        let name = input.name();
        let mut layers: Vec<Layer> =
            container.compression.into_iter().map(|kind| Layer { kind: kind.name(), size: input.size }).collect();
        layers.push(Layer { kind: Format::Raw.name(), size: disk.size() });
        let table = Table::read(&disk, &name)?;
        Ok(Self {
            input,
            container,
            layers,
            qcow2: None,
            vma: None,
            tar: None,
            shape: None,
            decoded: None,
            frames: None,
            disk,
            table,
            rolled_back: false,
        })
    }

    /// The same image, its disk seen through `view`.
    pub(crate) fn seen_as(self, view: impl FnOnce(Arc<dyn ReadAt>) -> Arc<dyn ReadAt>) -> Self {
        Self { disk: view(Arc::clone(&self.disk)), ..self }
    }

    /// The image's name in messages: its path as given.
    #[must_use]
    pub fn name(&self) -> String {
        self.input.name()
    }

    /// The container.
    #[must_use]
    pub fn container(&self) -> Container {
        self.container
    }

    /// The layers of the image, outermost first; the last one is the raw disk.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Size of the disk, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// Size of the image's file (or device), in bytes.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        self.input.size
    }

    /// True if the image is a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.input.is_device()
    }

    /// True if an interrupted change was rolled back when the image was opened; see [`undo::restore`].
    #[must_use]
    pub fn was_rolled_back(&self) -> bool {
        self.rolled_back
    }

    /// Calls `work` with the disk, for writing through `medium`, which must be of the image's own file.
    pub(crate) fn with_disk<T>(&self, medium: &mut FileMedium<'_>, work: impl FnOnce(&mut Disk<'_>) -> T) -> T {
        work(&mut Disk { name: &self.name(), path: &self.input.real, reader: &*self.disk, medium })
    }

    /// The partition table, and the partitions in it.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The raw disk.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn ReadAt> {
        Arc::clone(&self.disk)
    }

    /// The raw bytes of one partition.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be used, with the reason in its `problem`.
    pub fn partition(&self, partition: &Partition) -> Result<Section, StorageError> {
        let outside = "it is not wholly in the image";
        match &partition.problem {
            None => Section::new(self.disk(), partition.start, partition.size).ok_or(outside),
            Some(problem) => Err(problem.as_str()),
        }
        .map_err(|why| StorageError::corrupt(format!("{}: {} cannot be used: {why}", self.name(), partition.title())))
    }

    /// Chooses the root partition for the native writer; see [`root::choose`].
    ///
    /// # Errors
    /// If there is none, more than one, or it cannot be used.
    pub fn root(&self, asked: Option<&str>, inspect: InspectPartition<'_>) -> Result<Root, StorageError> {
        self.root_for(Backend::Native, asked, inspect)
    }

    /// Like [`DiskImage::root`], for a root that `backend` writes.
    ///
    /// # Errors
    /// As [`DiskImage::root`].
    pub fn root_for(
        &self,
        backend: Backend,
        asked: Option<&str>,
        inspect: InspectPartition<'_>,
    ) -> Result<Root, StorageError> {
        root::choose(&self.table, asked, backend, inspect, &self.name())
    }

    /// The file with the raw disk; see `make_raw`.
    #[must_use]
    pub fn raw_file(&self) -> &File {
        self.decoded.as_ref().map_or(&self.input.file, Decoded::file)
    }

    /// The disk to be copied to `to_name`.
    pub(crate) fn copy_job<'a>(&'a self, from_name: &'a str, to_name: &'a str, watch: Watch<'a>) -> CopyJob<'a> {
        let file = if self.qcow2.is_some() { None } else { Some(self.raw_file()) };
        CopyJob { from: &*self.disk, file, size: self.size(), from_name, to_name, watch, gives_up: false }
    }

    /// Makes a raw disk of a qcow2 image, for what needs a file: for `output` if there is one, else in the image's
    /// directory, or as for a compressed image.
    ///
    /// # Errors
    /// `Io`, also if there is no space.
    pub(crate) fn make_raw(&mut self, output: Option<&Output>, watch: Watch<'_>) -> Result<(), StorageError> {
        if self.qcow2.is_none() {
            return Ok(());
        }
        let name = self.name();
        let failed = |e| StorageError::io(format!("making room for the raw disk of {name}"), e);
        let decoded = match output {
            Some(output) if output.container(self.container).is_raw() => {
                Decoded::Output(Unfinished::create(output.directory()).map_err(failed)?)
            }
            Some(output) => Decoded::Scratch(Unfinished::scratch(output.directory()).map_err(failed)?),
            None => {
                let beside = Unfinished::scratch(parent(&self.input.real));
                Decoded::Scratch(beside.or_else(|_| elsewhere().map(|(file, _)| file)).map_err(failed)?)
            }
        };
        self.copy_job(&name, "its raw disk", watch).copy(decoded.file())?;
        let file = decoded.file().try_clone().map_err(failed)?;
        self.disk = Arc::new(FileDevice::new(file, self.size()));
        self.qcow2 = None;
        self.decoded = Some(decoded);
        Ok(())
    }
}

/// Bytes of a compressed image from which on it is compressed again while it is decoded, however slow that is.
const LARGE: u64 = 512 << 20;

/// The directory of a path.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// An unnamed file for an image in a read-only directory. `/tmp` is not used: it is often in memory.
pub(crate) fn elsewhere() -> io::Result<(File, PathBuf)> {
    let asked = env::var_os("TMPDIR").filter(|directory| !directory.is_empty()).map(PathBuf::from);
    let place = asked.unwrap_or_else(|| PathBuf::from("/var/tmp"));
    let context = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", place.display()));
    Ok((Unfinished::scratch(&place).map_err(context)?, place))
}
