//! A disk image whose root the kernel mounts: the back end for what we do not write ourselves.
//!
//! ```text
//! look: the image, read-only ─> survey
//! apply: the file to be worked on ─> mount ─> changes ─> sync ─> old values ─> unmount
//!        ─> another mount ─> free space given back ─> unmount
//!        ─> another mount, read-only, of another loop device ─> read back ─> its name
//! ```
//!
//! The tree is walked and changed as a directory is, relative to the mount's own top. With an output of its own nothing
//! that fails, and no signal, leaves anything; in place the kernel writes as it goes, and signals wait.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::sys::{self, SignalsWait};
use deaddrop_core::text;
use deaddrop_core::tree::directory::DirectoryTree;
use deaddrop_core::tree::directory::transaction::{Finished, Transaction, read_back, unlabelled_note};
use deaddrop_core::tree::{Applied, TreeChange};

use super::{room, scrub};
use crate::ext4::Ext4;
use crate::mount::btrfs::{self, Subvolume};
use crate::mount::disk_file::DiskFile;
use crate::mount::{Access, Mount, MountError, Request, judge};
use crate::native::{copied, notes, with_commands};
use crate::open::container::Container;
use crate::open::disk::DiskImage;
use crate::output::patch::Patch;
use crate::output::{Destination, Output};
use crate::progress::{Progress, Watch, Work};
use crate::table::probe::ContentKind;
use crate::table::root::{Backend, Look, Reason, Root};

/// Steps of a change that are told: mount, change, sync, old values, unmount, free space, mount again, read back.
const STEPS: u64 = 8;

/// An open image, its root chosen and mounted to be looked at.
pub struct MountedImage<'w> {
    name: String,
    root: Root,
    /// The one that was asked for.
    asked: Option<String>,
    /// For btrfs: the one that is mounted.
    subvolume: Option<Subvolume>,
    stage: Stage,
    /// Until it is changed.
    view: Option<View>,
    /// What opening it had to do.
    notes: Vec<String>,
    watch: Watch<'w>,
}

/// How far the image is.
enum Stage {
    /// It can only be looked at.
    Looking(Box<DiskImage>),
    /// It can be changed.
    Ready(Box<(DiskImage, Output)>),
    /// There is a file that the kernel may write to, or did: a log had to be replayed.
    Working(Box<DiskFile>),
    /// The change is made.
    Done,
}

/// A mounted tree. The tree goes first: what is open cannot be unmounted.
struct View {
    tree: DirectoryTree,
    mount: Mount,
}

impl View {
    fn open(request: &Request<'_>, access: Access) -> Result<Self, MountError> {
        let mount = request.mount(access)?;
        Ok(Self { tree: DirectoryTree::at(mount.top()?), mount })
    }

    /// Unmounts it; a note when its loop device is not free afterwards.
    fn close(self) -> Option<String> {
        drop(self.tree);
        let free = self.mount.unmount();
        (!free)
            .then(|| "a loop device is still held by another program (udev?), and is free when that is done".to_owned())
    }
}

impl<'w> MountedImage<'w> {
    /// Opens an image for the kernel to mount. Without a destination it can only be looked at. `subvolume` is a btrfs'
    /// subvolume by path or number, instead of the default one.
    ///
    /// # Errors
    /// When we are not root; when the image, its table or its root cannot be read, or the kernel does not mount it; when
    /// the destination is not possible.
    pub fn open(
        path: &Path,
        root_partition: Option<&str>,
        subvolume: Option<&str>,
        destination: Option<&Destination>,
        watch: Watch<'w>,
    ) -> Result<Self, StorageError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StorageError::refused(
                "--backend mount lets the kernel mount the image, which only root may do",
                "run it with sudo; or leave out --backend: an ext4 is written without root",
            ));
        }
        let (image, output) = match destination {
            None => (DiskImage::open(path, watch)?, None),
            Some(destination) => {
                let (image, output) = DiskImage::open_for(path, destination, watch)?;
                (image, Some(output))
            }
        };
        let name = image.name();
        let looks = |root: &Root| {
            let section = image.partition(&root.partition)?;
            judge(&section, root.kind, output.is_some()).map_err(|error| match Ext4::open(Arc::new(section)) {
                Ok(ext4) => {
                    let packed = image.container() != Container::Raw;
                    with_commands(error, &name, packed, &root.partition, &ext4, image.is_device())
                }
                Err(_) => error,
            })
        };
        let root = image.root_for(Backend::Mount, root_partition, &|partition| {
            let Some(probe) = &partition.file_system else { return Ok(Look::Unknown) };
            let candidate =
                Root { partition: partition.clone(), kind: probe.kind, reason: Reason::Store, doubtful: false };
            looks(&candidate)?;
            Ok(look(&image, &candidate, subvolume))
        })?;
        looks(&root)?;
        if root.kind != ContentKind::Btrfs && subvolume.is_some() {
            return Err(StorageError::refused(
                format!("{name}: --subvolume is for btrfs, and the root is {}", root.partition.title()),
                "leave it out",
            ));
        }
        // Every new file is open without a name until all of them are whole.
        sys::raise_open_files_limit();
        let stage = match output {
            None => Stage::Looking(Box::new(image)),
            Some(output) => Stage::Ready(Box::new((image, output))),
        };
        let asked = subvolume.map(str::to_owned);
        let mut target = Self { name, root, asked, subvolume: None, stage, view: None, notes: Vec::new(), watch };
        target.look()?;
        Ok(target)
    }

    /// What `-v` tells: which partition is the root, and why; which subvolume; how it is mounted.
    #[must_use]
    pub fn details(&self) -> String {
        let subvolume = self.subvolume.as_ref().map_or(String::new(), |subvolume| {
            let which = if self.asked.is_some() { "" } else { "the default, " };
            format!("; {which}{}", subvolume.title())
        });
        let direct = self.view.as_ref().is_some_and(|view| view.mount.is_direct());
        let direct = if direct { ", direct I/O" } else { "" };
        format!(
            "{}: {}, {}{subvolume}; mounted by the kernel, where nobody else sees it{direct}",
            self.name,
            self.root.partition.title(),
            self.root.reason
        )
    }

    /// What a person should know about how it was opened.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Mounts the root to be looked at. A log that waits to be replayed is replayed where the image is to be changed, and
    /// else looked past.
    fn look(&mut self) -> Result<(), StorageError> {
        let mut access = Access::Look;
        let view = loop {
            match View::open(&self.request(self.disk()?), access) {
                Ok(view) => break view,
                Err(MountError::Image(error)) => return Err(error),
                Err(MountError::Unreplayed) if access == Access::LookUnreplayed => {
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
                        "{}: the log of {} was not replayed, since nothing is written here: what it holds is not seen",
                        self.name,
                        self.root.partition.title()
                    ));
                    access = Access::LookUnreplayed;
                }
            }
        };
        if self.root.kind == ContentKind::Btrfs {
            let subvolume = btrfs::subvolume(&view.mount.open_top()?)?;
            if !matches!(self.stage, Stage::Looking(_)) {
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
            "name one that can be written (--subvolume NAME), or make this one so: `btrfs property set DIRECTORY ro false`",
        ))
    }

    /// Lets the kernel replay the log, in the file to be worked on.
    fn replay(&mut self) -> Result<(), StorageError> {
        let Stage::Ready(ready) = std::mem::replace(&mut self.stage, Stage::Done) else {
            return Err(StorageError::corrupt("there is no file to be worked on"));
        };
        let (image, output) = *ready;
        let mut work = output.disk_file(image, self.watch)?;
        // Nothing is lost if it is stopped after this, but all of it shall be on the disk.
        let signals = work.is_the_image().then(SignalsWait::new);
        work.begin(false)?;
        match self.request(work.file()).mount(Access::Change) {
            // Only whether its loop device is free yet.
            Ok(mount) => drop(mount.unmount()),
            Err(MountError::Image(error)) => return Err(error),
            Err(MountError::Unreplayed) => return Err(StorageError::corrupt("its log cannot be replayed")),
        }
        drop(signals);
        let place = if work.is_the_image() { "" } else { ", in the copy" };
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

    /// The file with the disk in it, as it is now.
    fn disk(&self) -> Result<&std::fs::File, StorageError> {
        match &self.stage {
            Stage::Looking(image) => Ok(image.raw_file()),
            Stage::Ready(ready) => Ok(ready.0.raw_file()),
            Stage::Working(work) => Ok(work.file()),
            Stage::Done => Err(StorageError::corrupt("the image is closed")),
        }
    }

    fn tell(&self, done: u64) {
        (self.watch)(Progress { work: Work::Kernel, done, total: STEPS });
    }

    /// Makes the changes in the file to be worked on, and reads them back.
    ///
    /// # Errors
    /// `HalfDone` for an image in place that is not as it was; else it is.
    fn change(&self, work: &DiskFile, changes: &[TreeChange], time: SystemTime) -> Result<Applied, StorageError> {
        let mut applied = Applied::default();
        let started = Instant::now();
        let view = plain(View::open(&self.request(work.file()), Access::Change))?;
        self.tell(1);
        let mut transaction = Transaction::new(&view.tree);
        let made = transaction.run(changes, time).and_then(|()| {
            self.tell(2);
            // Before an old value is overwritten: a power cut must not find the old name with zeros below it.
            view.mount.sync()
        });
        if let Err(error) = made {
            if !work.is_the_image() {
                // It is thrown away as it is.
                return Err(error);
            }
            let error = transaction.take_back(error);
            return Err(match view.mount.sync() {
                Ok(()) => error,
                Err(_) => half_done(error),
            });
        }
        self.tell(3);
        let Finished { dropped, stuck, unlabelled } = transaction.finish_with_old();
        if let (false, [first, ..]) = (work.is_the_image(), stuck.as_slice()) {
            return Err(StorageError::refused(first.as_str(), "try again: what was made is thrown away"));
        }
        applied.notes.extend(stuck);
        applied.notes.extend(unlabelled_note(&unlabelled));
        let half_done = |error| if work.is_the_image() { half_done(error) } else { error };
        let drops = !dropped.is_empty();
        let mut forgotten = scrub::overwrite(self.root.kind, dropped);
        applied.notes.append(&mut forgotten.notes);
        view.mount.sync().map_err(half_done)?;
        if drops && let Some(subvolume) = &self.subvolume {
            applied.notes.extend(kept_by_snapshots(&view.mount, subvolume));
        }
        self.tell(4);
        applied.notes.extend(view.close());
        self.tell(5);
        if drops {
            let view = plain(View::open(&self.request(work.file()), Access::Change)).map_err(half_done)?;
            match scrub::give_back(&view.mount, &forgotten, work.is_device()) {
                Ok(detail) => applied.details.push(detail),
                Err(note) => applied.notes.push(note),
            }
            view.mount.sync().map_err(half_done)?;
            applied.notes.extend(view.close());
        }
        if drops && self.root.kind.is_ext() {
            applied.notes.extend(self.forget_log(work));
        }
        self.tell(6);
        let written = text::duration(started.elapsed());
        let started = Instant::now();
        let view = plain(View::open(&self.request(work.file()), Access::Look)).map_err(half_done)?;
        self.tell(7);
        read_back(&view.tree, changes, &unlabelled).map_err(half_done)?;
        applied.notes.extend(view.close());
        self.tell(STEPS);
        let read = text::duration(started.elapsed());
        applied.details.insert(0, format!("written by the kernel ({written}), read back by a fresh mount ({read})"));
        Ok(applied)
    }

    /// Zeroes the idle log of an ext4, which may hold what an old file held; a note where that cannot be.
    fn forget_log(&self, work: &DiskFile) -> Option<String> {
        let partition = &self.root.partition;
        let zeroed = work
            .partition(partition)
            .and_then(|section| Ext4::open(Arc::new(section)))
            .and_then(|ext4| work.scrub_log(&ext4, partition.start));
        zeroed.err().map(|error| format!("the idle journal was not zeroed, and may hold old values: {error}"))
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

    /// The partition that is the root, and why.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// "node1.img, partition 2 (btrfs, nixos)", and the subvolume.
    #[must_use]
    pub fn title(&self) -> String {
        let subvolume = self.subvolume.as_ref().map_or(String::new(), |found| format!(", {}", found.title()));
        format!("{}, {}{subvolume}", self.name, self.root.partition.title())
    }

    /// Whether the changes could be made, as far as reading tells; what a person should know of that.
    ///
    /// # Errors
    /// As [`MountedImage::apply`] would.
    pub fn judge(&self, changes: &[TreeChange]) -> Result<Vec<String>, StorageError> {
        let (Stage::Looking(image), Some(view)) = (&self.stage, &self.view) else {
            return Err(StorageError::corrupt("the image was opened to be changed"));
        };
        judge(&image.partition(&self.root.partition)?, self.root.kind, true)?;
        if let Some(subvolume) = &self.subvolume {
            self.refuse_read_only(subvolume)?;
        }
        room::judge(&view.tree, &view.mount.top()?, changes)?;
        Ok(vec![
            "Judged as far as can be told by reading: features, errors, free space, immutable files; the rest the kernel says \
             when it writes."
                .to_owned(),
        ])
    }

    /// Makes all changes, or none. `time` becomes the times of new files.
    ///
    /// # Errors
    /// The image is as it was, but for [`StorageError::HalfDone`].
    pub fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, StorageError> {
        let mut applied = Applied::default();
        applied.notes.extend(self.view.take().and_then(View::close));
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
            Stage::Working(work) if changes.is_empty() && work.is_the_image() => return Ok(applied),
            Stage::Working(work) => *work,
            Stage::Looking(_) | Stage::Done => {
                return Err(StorageError::corrupt("the image was opened to be looked at"));
            }
        };
        // From here on: whoever sees us ended by a signal shall find an image in place as it was.
        let signals = work.is_the_image().then(SignalsWait::new);
        if !changes.is_empty() {
            work.begin(true)?;
            match self.change(&work, changes, time) {
                Ok(done) => {
                    applied.notes.extend(done.notes);
                    applied.details.extend(done.details);
                }
                Err(error) => {
                    match (&error, signals) {
                        // It has to be said: no signal ends us before that.
                        (StorageError::HalfDone { .. }, Some(signals)) => signals.committed(),
                        (StorageError::HalfDone { .. }, None) => {}
                        (_, signals) => {
                            work.take_back();
                            drop(signals);
                        }
                    }
                    return Err(error);
                }
            }
        }
        let in_place = work.is_the_image();
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

/// The snapshots that may keep what was replaced, in words.
fn kept_by_snapshots(mount: &Mount, own: &Subvolume) -> Option<String> {
    const SHOWN: usize = 4;
    let found = match mount.open_top().and_then(|top| btrfs::snapshots(&top, own)) {
        Ok(found) if found.is_empty() => return None,
        Ok(found) => found,
        Err(error) => return Some(format!("whether snapshots keep the old values is not known: {error}")),
    };
    let more = found.len().saturating_sub(SHOWN);
    let mut names = found.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        names = format!("{names} and {more} more");
    }
    Some(format!("snapshots keep what was in them, old values as well: {names}; delete them if they hold any"))
}

/// A mount that does not only look is never refused for its log.
fn plain<T>(result: Result<T, MountError>) -> Result<T, StorageError> {
    result.map_err(|error| match error {
        MountError::Image(error) => error,
        MountError::Unreplayed => StorageError::corrupt("the kernel left a log to be replayed"),
    })
}

/// An image in place that is changed, and not known to be whole.
fn half_done(error: StorageError) -> StorageError {
    match error {
        StorageError::HalfDone { .. } => error,
        error => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
            StorageError::HalfDone {
                what: format!("{error}{cause}; the image may hold new files and old ones"),
                hint: "run the same command again: it goes on from what stands there".into(),
            }
        }
    }
}

/// What the kernel shows of a file system. What cannot be mounted is not known.
fn look(image: &DiskImage, root: &Root, subvolume: Option<&str>) -> Look {
    let subvolume = subvolume.filter(|_| root.kind == ContentKind::Btrfs);
    let request = Request { disk: image.raw_file(), root, subvolume, name: &image.name() };
    let view = View::open(&request, Access::Look).or_else(|_| View::open(&request, Access::LookUnreplayed));
    let Ok(view) = view else { return Look::Unknown };
    let look = Look::of(&view.tree);
    view.close();
    look
}
