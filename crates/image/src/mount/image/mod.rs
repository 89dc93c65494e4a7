//! A disk image whose root file system is mounted by the kernel: the back end for file systems that the native writer
//! does not support.
//!
//! ```text
//! open: the image, read-only ─> survey
//! apply: the file to be changed ─> mount ─> changes ─> sync ─> old values ─> unmount
//!        ─> another mount ─> free space given back ─> unmount
//!        ─> another mount, read-only, of another loop device ─> read back ─> its name
//! ```
//!
//! The tree is walked and changed as a directory is, relative to the mount's own top. With a new output, no failure and
//! no signal leaves anything behind; in place the kernel writes immediately, and signals are deferred.

mod change;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::sys::{self, SignalsWait};
use deaddrop_core::tree::directory::DirectoryTree;
use deaddrop_core::tree::{Applied, TreeChange};

use super::free_space;
use crate::container::Container;
use crate::ext4::Ext4;
use crate::fsck::with_fsck_commands;
use crate::mount::btrfs::{self, Subvolume};
use crate::mount::disk_file::DiskFile;
use crate::mount::{Mount, MountError, MountMode, Request, check_superblock};
use crate::open::disk::{DiskImage, Trust};
use crate::output::notes::{copied, notes};
use crate::output::patch::Patch;
use crate::output::{Destination, Output};
use crate::progress::Watch;
use crate::table::probe::ContentKind;
use crate::table::root::{Backend, Reason, Root, TreeKind};

/// An open image, its root chosen and mounted for the survey.
pub struct MountedImage<'w> {
    name: String,
    root: Root,
    container: Container,
    /// The requested subvolume.
    asked: Option<String>,
    /// For btrfs: the mounted subvolume.
    subvolume: Option<Subvolume>,
    stage: Stage,
    /// The mount for the survey; `None` once the image is changed.
    view: Option<MountedTree>,
    /// Notes about what opening it changed.
    notes: Vec<String>,
    watch: Watch<'w>,
}

/// The stage of the image.
enum Stage {
    /// Open for reading only.
    Reading(Box<DiskImage>),
    /// Open for a change.
    Ready(Box<(DiskImage, Output)>),
    /// A file that the kernel may write to, or wrote to: a log had to be replayed.
    Working(Box<DiskFile>),
    /// The change is committed.
    Done,
}

/// A mounted tree. Fields are dropped in order, the tree first: a mount with open files cannot be unmounted.
struct MountedTree {
    tree: DirectoryTree,
    mount: Mount,
}

impl MountedTree {
    fn open(request: &Request<'_>, access: MountMode) -> Result<Self, MountError> {
        let mount = request.mount(access)?;
        Ok(Self { tree: DirectoryTree::at(mount.top()?), mount })
    }

    /// Unmounts it; returns a note if its loop device is not free afterwards.
    fn close(self) -> Option<String> {
        drop(self.tree);
        let free = self.mount.unmount();
        (!free)
            .then(|| "a loop device is still held by another program (udev?), and is free when that is done".to_owned())
    }
}

impl<'w> MountedImage<'w> {
    /// Opens an image for the kernel to mount. Without a destination it is open for reading only. `subvolume` is a
    /// btrfs subvolume by path or number, instead of the default one.
    ///
    /// # Errors
    /// If the process is not root; if the image, its table or its root cannot be read, or the kernel does not mount it;
    /// if the destination is not possible.
    pub fn open(
        path: &Path,
        trust: Trust,
        root_partition: Option<&str>,
        subvolume: Option<&str>,
        destination: Option<&Destination>,
        watch: Watch<'w>,
    ) -> Result<Self, StorageError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StorageError::refused(
                "the kernel mounts the image, which only root may do",
                Remedy::RunAsRoot,
            ));
        }
        let (mut image, output) = match destination {
            None => (DiskImage::open_trusting(path, trust, watch)?, None),
            Some(destination) => {
                let (image, output) = DiskImage::open_trusting_for(path, trust, destination, watch)?;
                (image, Some(output))
            }
        };
        image.make_raw(output.as_ref(), watch)?;
        let name = image.name();
        let container = image.container();
        let check_root = |root: &Root| {
            let section = image.partition(&root.partition)?;
            check_superblock(&section, root.kind, output.is_some()).map_err(|error| {
                match Ext4::open(Arc::new(section)) {
                    Ok(ext4) => with_fsck_commands(error, &name, container, &root.partition, &ext4, image.is_device()),
                    Err(_) => error,
                }
            })
        };
        let root = image.root_for(Backend::Mount, root_partition, &|partition| {
            let Some(probe) = &partition.file_system else { return Ok(TreeKind::Unknown) };
            let candidate =
                Root { partition: partition.clone(), kind: probe.kind, reason: Reason::Store, doubtful: false };
            check_root(&candidate)?;
            Ok(tree_kind(&image, &candidate, subvolume))
        })?;
        check_root(&root)?;
        if root.kind != ContentKind::Btrfs && subvolume.is_some() {
            return Err(StorageError::refused(
                format!("{name}: --subvolume is for btrfs, and the root is {}", root.partition.title()),
                "leave it out",
            ));
        }
        // Every new file stays open without a name until all of them are complete.
        sys::raise_open_files_limit();
        let stage = match output {
            None => Stage::Reading(Box::new(image)),
            Some(output) => Stage::Ready(Box::new((image, output))),
        };
        let asked = subvolume.map(str::to_owned);
        let mut target =
            Self { name, root, container, asked, subvolume: None, stage, view: None, notes: Vec::new(), watch };
        target.mount_for_survey()?;
        Ok(target)
    }

    /// Details for `-v`: the root partition, and the reason for it; the subvolume; the kind of mount.
    #[must_use]
    pub fn details(&self) -> String {
        let subvolume = self.subvolume.as_ref().map_or(String::new(), |subvolume| {
            let which = if self.asked.is_some() { "" } else { "the default, " };
            format!("; {which}{}", subvolume.title())
        });
        let direct = self.view.as_ref().is_some_and(|view| view.mount.is_direct());
        let direct = if direct { ", direct I/O" } else { "" };
        format!(
            "{}: {}, {}{subvolume}; mounted by the kernel, invisible to other processes{direct}",
            self.name,
            self.root.partition.title(),
            self.root.reason
        )
    }

    /// Notes for the user about how the image was opened.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Mounts the root for the survey. A log is replayed if the image is to be changed, and otherwise ignored.
    fn mount_for_survey(&mut self) -> Result<(), StorageError> {
        let mut access = MountMode::Read;
        let view = loop {
            match MountedTree::open(&self.request(self.disk()?), access) {
                Ok(view) => break view,
                Err(MountError::Image(error)) => return Err(error),
                Err(MountError::Unreplayed) if access == MountMode::ReadUnreplayed => {
                    return Err(StorageError::refused(
                        format!(
                            "{}: {} has a log that the kernel does not look past",
                            self.name,
                            self.root.partition.title()
                        ),
                        "mount it once, or run the file system's own check on it",
                    ));
                }
                Err(MountError::Unreplayed) if matches!(self.stage, Stage::Ready(_)) => self.replay()?,
                Err(MountError::Unreplayed) => {
                    self.notes.push(format!(
                        "{}: the log of {} was not replayed, since nothing is written here: its content is not shown",
                        self.name,
                        self.root.partition.title()
                    ));
                    access = MountMode::ReadUnreplayed;
                }
            }
        };
        if self.root.kind == ContentKind::Btrfs {
            let subvolume = btrfs::subvolume(&view.mount.open_top()?)?;
            if !matches!(self.stage, Stage::Reading(_)) {
                self.refuse_read_only(&subvolume)?;
            }
            self.subvolume = Some(subvolume);
        }
        self.view = Some(view);
        Ok(())
    }

    fn refuse_read_only(&self, subvolume: &Subvolume) -> Result<(), StorageError> {
        if !subvolume.read_only {
            return Ok(());
        }
        let what = if subvolume.is_snapshot { "a read-only snapshot" } else { "read-only" };
        let default = if self.asked.is_some() { "" } else { "the default, " };
        Err(StorageError::refused(
            format!("{}: {default}{} is {what}", self.name, subvolume.title()),
            Remedy::NameWritableSubvolume,
        ))
    }

    /// Makes the kernel replay the log, in the file to be changed.
    fn replay(&mut self) -> Result<(), StorageError> {
        let Stage::Ready(ready) = std::mem::replace(&mut self.stage, Stage::Done) else {
            return Err(StorageError::corrupt("there is no file to be worked on"));
        };
        let (image, output) = *ready;
        let mut work = output.disk_file(image, self.watch)?;
        // A signal after this loses nothing, but the replay must be complete on the disk.
        let signals = work.is_in_place_file().then(SignalsWait::new);
        work.begin(false)?;
        match self.request(work.file()).mount(MountMode::Change) {
            // The result only says whether the loop device is free yet.
            Ok(mount) => drop(mount.unmount()),
            Err(MountError::Image(error)) => return Err(error),
            Err(MountError::Unreplayed) => return Err(StorageError::corrupt("its log cannot be replayed")),
        }
        drop(signals);
        let place = if work.is_in_place_file() { "" } else { ", in the copy" };
        self.notes.push(format!(
            "{}: the kernel replayed the log of {}{place}",
            self.name,
            self.root.partition.title()
        ));
        self.stage = Stage::Working(Box::new(work));
        Ok(())
    }

    fn request<'a>(&'a self, disk: &'a std::fs::File) -> Request<'a> {
        Request { disk, root: &self.root, subvolume: self.asked.as_deref(), name: &self.name }
    }

    /// The current file with the disk.
    fn disk(&self) -> Result<&std::fs::File, StorageError> {
        match &self.stage {
            Stage::Reading(image) => Ok(image.raw_file()),
            Stage::Ready(ready) => Ok(ready.0.raw_file()),
            Stage::Working(work) => Ok(work.file()),
            Stage::Done => Err(StorageError::corrupt("the image is closed")),
        }
    }

    /// The mounted tree, for the survey.
    ///
    /// # Errors
    /// After [`MountedImage::apply`].
    pub fn tree(&self) -> Result<&DirectoryTree, StorageError> {
        match &self.view {
            Some(view) => Ok(&view.tree),
            None => Err(StorageError::corrupt("the image is closed")),
        }
    }

    /// The root partition, and the reason for it.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What it is, if a change in place rewrites the whole file; see [`Container::packed_as`].
    #[must_use]
    pub fn packed_as(&self) -> Option<&'static str> {
        self.container.packed_as()
    }

    /// "node1.img, partition 2 (btrfs, nixos)", and the subvolume.
    #[must_use]
    pub fn title(&self) -> String {
        let subvolume = self.subvolume.as_ref().map_or(String::new(), |found| format!(", {}", found.title()));
        format!("{}, {}{subvolume}", self.name, self.root.partition.title())
    }

    /// Checks that the changes could be made, as far as reading shows; returns notes for the user.
    ///
    /// # Errors
    /// As [`MountedImage::apply`] would.
    pub fn dry_run(&self, changes: &[TreeChange]) -> Result<Vec<String>, StorageError> {
        let (Stage::Reading(image), Some(view)) = (&self.stage, &self.view) else {
            return Err(StorageError::corrupt("the image was opened to be changed"));
        };
        check_superblock(&image.partition(&self.root.partition)?, self.root.kind, true)?;
        if let Some(subvolume) = &self.subvolume {
            self.refuse_read_only(subvolume)?;
        }
        free_space::check(&view.tree, &view.mount.top()?, changes)?;
        Ok(vec![
            "Judged as far as can be told by reading: features, errors, free space, immutable files; the rest the \
             kernel says when it writes."
                .to_owned(),
        ])
    }

    /// Makes all changes, or none. `time` becomes the times of new files.
    ///
    /// # Errors
    /// The image is unchanged, except after [`StorageError::HalfDone`].
    pub fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, StorageError> {
        let mut applied = Applied::default();
        applied.notes.extend(self.view.take().and_then(MountedTree::close));
        let mut work = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Ready(ready) if changes.is_empty() => {
                let (image, output) = *ready;
                if !output.is_in_place() {
                    let committed = output.commit(image, &Patch::default(), self.watch)?;
                    applied.details.push(copied(committed.copied));
                }
                return Ok(applied);
            }
            Stage::Ready(ready) => ready.1.disk_file(ready.0, self.watch)?,
            Stage::Working(work) if changes.is_empty() && work.is_in_place_file() => return Ok(applied),
            Stage::Working(work) => *work,
            Stage::Reading(_) | Stage::Done => {
                return Err(StorageError::corrupt("the image was opened to be looked at"));
            }
        };
        // From here on: a signal must leave an image in place unchanged.
        let signals = work.is_in_place_file().then(SignalsWait::new);
        if !changes.is_empty() {
            work.begin(true)?;
            match self.change(&work, changes, time) {
                Ok(done) => {
                    applied.notes.extend(done.notes);
                    applied.details.extend(done.details);
                }
                Err(error) => {
                    match (&error, signals) {
                        // The error must be reported: no signal terminates the process before that.
                        (StorageError::HalfDone { .. }, Some(signals)) => signals.committed(),
                        (StorageError::HalfDone { .. }, None) => {}
                        (_, signals) => {
                            work.restore_mode();
                            drop(signals);
                        }
                    }
                    return Err(error);
                }
            }
        }
        let in_place = work.is_in_place_file();
        let finished = work.finish(self.watch).map_err(|error| if in_place { half_done(error) } else { error });
        if let Some(signals) = signals {
            signals.committed();
        }
        let committed = finished?;
        if !in_place {
            applied.details.push(copied(committed.copied));
        }
        applied.notes.extend(notes(&self.name, &committed));
        Ok(applied)
    }
}

/// The error for an image in place that is changed and possibly incomplete.
fn half_done(error: StorageError) -> StorageError {
    match error {
        StorageError::HalfDone { .. } => error,
        error => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
            StorageError::HalfDone {
                what: format!("{error}{cause}; the image may contain new files and old ones"),
                hint: "run the same command again: it goes on from what stands there".into(),
            }
        }
    }
}

/// What the kernel shows of a file system; unknown if it cannot be mounted.
fn tree_kind(image: &DiskImage, root: &Root, subvolume: Option<&str>) -> TreeKind {
    let subvolume = subvolume.filter(|_| root.kind == ContentKind::Btrfs);
    let request = Request { disk: image.raw_file(), root, subvolume, name: &image.name() };
    let view = MountedTree::open(&request, MountMode::Read)
        .or_else(|_| MountedTree::open(&request, MountMode::ReadUnreplayed));
    let Ok(view) = view else { return TreeKind::Unknown };
    let kind = TreeKind::of(&view.tree);
    view.close();
    kind
}
