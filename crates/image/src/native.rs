//! A disk image as a target: the root partition's file system, on an overlay that is committed at the end.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use deaddrop_core::tree::{Applied, TreeChange};

use crate::device::Section;
use crate::ext4::{DAMAGE_HINT, Ext4, FSCK_HINT, JournalState, UNCLEAN};
use crate::journal::commit::Transaction;
use crate::open::container::Container;
use crate::open::disk::DiskImage;
use crate::output::patch::Patch;
use crate::output::{Committed, Copied, Destination, Output};
use crate::progress::Watch;
use crate::table::Partition;
use crate::table::root::{Backend, Look, Root};

/// What is said when an undo file was used.
pub const TAKEN_BACK: &str = "an earlier run was cut off, and what it wrote was taken back";

/// An open image, its root chosen.
pub struct NativeImage<'w> {
    /// Taken by the commit; `None` after it.
    open: Option<(DiskImage, Option<Output>)>,
    name: String,
    root: Root,
    /// It is compressed.
    packed: bool,
    /// It is a block device.
    device: bool,
    file_system: Ext4,
    watch: Watch<'w>,
}

impl<'w> NativeImage<'w> {
    /// Opens an image. Without a destination it can only be looked at.
    ///
    /// # Errors
    /// When the image, its table or its root cannot be read, or the destination is not possible.
    pub fn open(
        path: &Path,
        root_partition: Option<&str>,
        destination: Option<&Destination>,
        watch: Watch<'w>,
    ) -> Result<Self, StorageError> {
        let (image, output) = match destination {
            None => (DiskImage::open(path, watch)?, None),
            Some(destination) => {
                let (image, output) = DiskImage::open_for(path, destination, watch)?;
                (image, Some(output))
            }
        };
        let root = choose_root(&image, root_partition)?;
        let file_system = Ext4::open(Arc::new(image.partition(&root.partition)?))?;
        let packed = image.container() != Container::Raw;
        let device = image.is_device();
        Ok(Self { name: image.name(), open: Some((image, output)), root, packed, device, file_system, watch })
    }

    /// Where the hint is to run e2fsck: the commands for this image and the partition in it.
    #[must_use]
    pub fn with_commands(&self, error: StorageError) -> StorageError {
        with_commands(error, &self.name, self.packed, &self.root.partition, &self.file_system, self.device)
    }

    /// Makes the changes on the overlay. `device`: the image is a device that is changed in place; one that is half changed may
    /// look as declared, and is not.
    fn change_in_memory(&mut self, changes: &[TreeChange], time: SystemTime, device: bool) -> Result<(), StorageError> {
        match changes.is_empty() {
            true if device => self.file_system.check_writable(),
            true => Ok(()),
            false => self.file_system.apply(changes, time),
        }
        .map_err(|error| self.with_commands(error))
    }

    /// What `-v` tells: which partition is the root, and why.
    #[must_use]
    pub fn details(&self) -> String {
        format!("{}: {}, {}", self.name, self.root.partition.title(), self.root.reason)
    }

    /// What an earlier run left and was dealt with when the image was opened.
    #[must_use]
    pub fn taken_back(&self) -> Option<String> {
        let (image, _) = self.open.as_ref()?;
        image.was_taken_back().then(|| format!("{}: {TAKEN_BACK}", self.name))
    }

    /// The root's file system, for the survey.
    #[must_use]
    pub fn tree(&self) -> &Ext4 {
        &self.file_system
    }

    /// The partition that is the root, and why.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// "node1.img, partition 2 (ext4, nixos)".
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}, {}", self.name, self.root.partition.title())
    }

    /// Makes the changes in memory, and checks them; nothing is written.
    ///
    /// # Errors
    /// As [`NativeImage::apply`] would.
    pub fn judge(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<(), StorageError> {
        self.change_in_memory(changes, time, self.device)
    }

    /// Makes all changes and commits them, or none. `time` becomes the times of new files.
    ///
    /// # Errors
    /// The image is as it was, but for [`StorageError::HalfDone`].
    pub fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, StorageError> {
        let Some((image, Some(output))) = self.open.take() else {
            return Err(StorageError::corrupt("the image was opened to be looked at"));
        };
        let mut details = Vec::new();
        let started = Instant::now();
        self.change_in_memory(changes, time, image.is_device() && output.is_in_place())?;
        if !changes.is_empty() {
            let time = text::duration(started.elapsed());
            details.push(format!("written in memory, checked, and read back by another reader ({time})"));
        }
        let start = self.root.partition.start;
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if output.takes_transaction(&image)
            && let Some(transaction) = self.file_system.transaction()?.filter(Transaction::fits)
        {
            let size = transaction.size();
            let started = Instant::now();
            let committed = output.commit_transaction(&image, transaction, start, seconds)?;
            if !committed.written {
                return Ok(Applied::default());
            }
            let (size, time) = (text::size(size), text::duration(started.elapsed()));
            details.push(format!("{size} changed, committed as one journal transaction ({time})"));
            return Ok(Applied { notes: notes(&self.name, &committed), details });
        }
        if output.takes_transaction(&image) && image.is_device() {
            let rewrite = self.file_system.rewrite()?;
            let (size, why) = (rewrite.size(), rewrite.why);
            if output.commit_rewrite(&image, rewrite, start, seconds)?.written {
                details.push(format!("{} written with an undo file, since {why}", text::size(size)));
            }
            return Ok(Applied { notes: Vec::new(), details });
        }
        if changes.is_empty() && output.is_in_place() {
            // A replay alone is not worth another file in the image's place.
            return Ok(Applied::default());
        }
        let dirty = self.file_system.dirty()?;
        let zeros = vec![0; usize::try_from(self.file_system.block_size()).unwrap_or(0)];
        let stale = self.file_system.stale_log()?;
        let runs = dirty.iter().map(|(offset, bytes)| (*offset, bytes.as_slice()));
        let runs = runs.chain(stale.into_iter().map(|offset| (offset, zeros.as_slice())));
        let patch = Patch::new(&self.root.partition, runs)?;
        let size = patch.size();
        let started = Instant::now();
        let committed = output.commit(image, &patch, self.watch)?;
        let time = text::duration(started.elapsed());
        details.push(format!("{} changed, {} ({time})", text::size(size), copied(committed.copied)));
        Ok(Applied { notes: notes(&self.name, &committed), details })
    }
}

/// Where the hint is to run e2fsck: the commands for the image `name` and the partition in it. `e2fsck IMAGE?offset=N` needs
/// no root, and is enough where no journal is to be replayed: e2fsck 1.47 loses the offset after that. (Without -f it leaves
/// names in the orphan file.)
pub fn with_commands(
    error: StorageError,
    name: &str,
    packed: bool,
    partition: &Partition,
    file_system: &Ext4,
    device: bool,
) -> StorageError {
    let (what, command) = match error {
        StorageError::Refused { what, hint } if hint == FSCK_HINT => (what, "e2fsck -p -f"),
        StorageError::Refused { what, hint } if hint == DAMAGE_HINT => (what, "e2fsck -f"),
        other => return other,
    };
    let (first, image) = match name.strip_suffix(".zst") {
        Some(raw) if packed => ("decompress it (zstd -d), then", raw),
        _ => ("first", name),
    };
    let (start, size) = (partition.start, partition.size);
    let replays =
        file_system.was_replayed() || matches!(file_system.summary().journal, JournalState::NeedsRecovery { .. });
    let hint = match (start, replays) {
        (0, _) => format!("{first} run `{command} '{image}'`"),
        (_, false) => format!("{first} run `{command} '{image}?offset={start}'`"),
        (_, true) => format!(
            "{first} run, as root, `losetup -f --show -o {start} --sizelimit {size} '{image}'`, `{command}` on the device that \
             it names, and `losetup -d` on that"
        ),
    };
    with_undo(StorageError::refused(what, hint), name, device)
}

/// A device that says "not cleanly unmounted" may be one that a run with an undo file left half changed.
fn with_undo(error: StorageError, name: &str, device: bool) -> StorageError {
    match error {
        StorageError::Refused { what, hint } if device && what == UNCLEAN => {
            let undo = format!("was a run with --undo cut off? then `deaddrop recover '{name}' --undo DIR`; else");
            StorageError::refused(what, format!("{undo} {}", hint.strip_prefix("first ").unwrap_or(&hint)))
        }
        other => other,
    }
}

/// Chooses the root partition, looking into ext4 file systems for /nix/store where that decides.
///
/// # Errors
/// When there is none, more than one, or it cannot be used.
pub fn choose_root(image: &DiskImage, asked: Option<&str>) -> Result<Root, StorageError> {
    choose_root_for(image, Backend::Native, asked)
}

/// The same for what `backend` writes; nothing is mounted for it.
///
/// # Errors
/// As [`choose_root`].
pub fn choose_root_for(image: &DiskImage, backend: Backend, asked: Option<&str>) -> Result<Root, StorageError> {
    image.root_for(backend, asked, &|partition| match partition.file_system.as_ref().is_some_and(|fs| fs.kind.is_ext())
    {
        true => look(image.partition(partition)?),
        false => Ok(Look::Unknown),
    })
}

/// What an ext4 looks like. Where it is no root, a feature that nobody writes to is what has to be said of it.
fn look(section: Section) -> Result<Look, StorageError> {
    // Damage is told, and better, by whoever opens it for good.
    let Ok(file_system) = Ext4::open(Arc::new(section)) else { return Ok(Look::Unknown) };
    match Look::of(&file_system) {
        Look::Other => file_system.check_features().map(|()| Look::Other),
        look => Ok(look),
    }
}

/// What a person should know about the file that was written.
pub(crate) fn notes(name: &str, committed: &Committed) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(mode) = committed.mode_was {
        notes.push(format!("{name} holds secrets: its mode is now 0600, it was {mode:04o} (--keep-mode leaves it)"));
    }
    if let Some((user, group)) = committed.owner_was {
        notes.push(format!("{name} belonged to {user}:{group}, and now to you: only root can give it back"));
    }
    if committed.other_links > 0 {
        let (count, verb) =
            (committed.other_links, if committed.other_links == 1 { "link, which keeps" } else { "links, which keep" });
        notes.push(format!("{name} had {count} more hard {verb} the old image"));
    }
    if !committed.lost_attributes.is_empty() {
        notes.push(format!("{name} lost these attributes: {}", committed.lost_attributes.join(", ")));
    }
    notes
}

/// How a new file came about, for `-v`.
pub(crate) fn copied(copied: Copied) -> String {
    match copied {
        Copied::Nothing => "nothing written".to_owned(),
        Copied::Shared => "the rest shared with the image".to_owned(),
        Copied::Bytes(bytes) => format!("{} copied, the rest are holes", text::size(bytes)),
        Copied::Decompressed => "the rest decompressed".to_owned(),
        Copied::Compressed => "all of it compressed".to_owned(),
    }
}
