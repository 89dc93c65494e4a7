//! The native back end: the root partition's file system of a disk image, on an overlay that is committed at the end.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use deaddrop_core::tree::{Applied, TreeChange};

use crate::container::Container;
use crate::device::overlay::DirtyBlock;
use crate::ext4::Ext4;
use crate::fsck::with_fsck_commands;
use crate::journal::commit::Transaction;
use crate::open::disk::{DiskImage, Trust};
use crate::output::notes::{copied, notes};
use crate::output::patch::Patch;
use crate::output::{Destination, Output};
use crate::progress::Watch;
use crate::table::Partition;
use crate::table::root::{Root, choose_root};

/// The note after a rollback from an undo file.
pub const ROLLED_BACK: &str = "an earlier run was cut off, and what it wrote was taken back";

/// The changed blocks of a disk; their bytes may be secret.
pub struct Blocks {
    partition: Partition,
    /// By their offset in the partition, in bytes.
    dirty: Vec<DirtyBlock>,
    /// Blocks that become zeros.
    stale: Vec<u64>,
    zeros: Vec<u8>,
}

impl Blocks {
    /// The bytes to write, by their offset on the disk.
    ///
    /// # Errors
    /// As [`Patch::new`].
    pub(crate) fn patch(&self) -> Result<Patch<'_>, StorageError> {
        let dirty = self.dirty.iter().map(|(offset, bytes)| (*offset, bytes.as_slice()));
        let stale = self.stale.iter().map(|offset| (*offset, self.zeros.as_slice()));
        Patch::new(&self.partition, dirty.chain(stale))
    }
}

/// An open image, its root chosen.
pub struct NativeImage<'w> {
    /// Taken by the commit; `None` afterwards.
    open: Option<(DiskImage, Option<Output>)>,
    name: String,
    root: Root,
    container: Container,
    /// True if it is a block device.
    device: bool,
    file_system: Ext4,
    watch: Watch<'w>,
}

impl<'w> NativeImage<'w> {
    /// Opens an image. Without a destination it is open for reading only.
    ///
    /// # Errors
    /// If the image, its table or its root cannot be read, or the destination is not possible.
    pub fn open(
        path: &Path,
        trust: Trust,
        root_partition: Option<&str>,
        destination: Option<&Destination>,
        watch: Watch<'w>,
    ) -> Result<Self, StorageError> {
        let (image, output) = match destination {
            None => (DiskImage::open_trusting(path, trust, watch)?, None),
            Some(destination) => {
                let (image, output) = DiskImage::open_trusting_for(path, trust, destination, watch)?;
                (image, Some(output))
            }
        };
        Self::with(image, output, root_partition, watch)
    }

    /// The same of an image that is open already; without an output for reading only.
    ///
    /// # Errors
    /// If its root cannot be read.
    pub fn with(
        image: DiskImage,
        output: Option<Output>,
        root_partition: Option<&str>,
        watch: Watch<'w>,
    ) -> Result<Self, StorageError> {
        let root = choose_root(&image, root_partition)?;
        let mut file_system = Ext4::open(Arc::new(image.partition(&root.partition)?))?;
        if output.is_some() {
            file_system.expect_change();
        }
        let container = image.container();
        let device = image.is_device();
        Ok(Self { name: image.name(), open: Some((image, output)), root, container, device, file_system, watch })
    }

    /// If the hint is to run e2fsck: adds the commands for this image and its partition.
    #[must_use]
    pub fn with_fsck_commands(&self, error: StorageError) -> StorageError {
        with_fsck_commands(error, &self.name, self.container, &self.root.partition, &self.file_system, self.device)
    }

    /// Makes the changes on the overlay. A half-changed device may look as declared without being so: its superblock
    /// is checked even without changes.
    fn change_in_memory(&mut self, changes: &[TreeChange], time: SystemTime, device: bool) -> Result<(), StorageError> {
        match changes.is_empty() {
            true if device => self.file_system.check_writable(),
            true => Ok(()),
            false => self.file_system.apply(changes, time),
        }
        .map_err(|error| self.with_fsck_commands(error))
    }

    /// Details for `-v`: the root partition, and the reason for it.
    #[must_use]
    pub fn details(&self) -> String {
        format!("{}: {}, {}", self.name, self.root.partition.title(), self.root.reason)
    }

    /// The note about an interrupted run that was rolled back when the image was opened.
    #[must_use]
    pub fn rolled_back(&self) -> Option<String> {
        let (image, _) = self.open.as_ref()?;
        image.was_rolled_back().then(|| format!("{}: {ROLLED_BACK}", self.name))
    }

    /// The root's file system, for the survey.
    #[must_use]
    pub fn tree(&self) -> &Ext4 {
        &self.file_system
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

    /// "node1.img, partition 2 (ext4, nixos)".
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}, {}", self.name, self.root.partition.title())
    }

    /// Makes the changes in memory, and checks them; nothing is written.
    ///
    /// # Errors
    /// As [`NativeImage::apply`] would.
    pub fn dry_run(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<(), StorageError> {
        self.change_in_memory(changes, time, self.device)
    }

    /// Makes the changes in memory, checks them, and returns the blocks of the disk that they change.
    ///
    /// # Errors
    /// As [`NativeImage::apply`]. Nothing is written.
    pub fn changed_blocks(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Blocks, StorageError> {
        self.change_in_memory(changes, time, false)?;
        self.blocks()
    }

    fn blocks(&self) -> Result<Blocks, StorageError> {
        Ok(Blocks {
            partition: self.root.partition.clone(),
            dirty: self.file_system.dirty()?,
            stale: self.file_system.stale_log()?,
            zeros: vec![0; usize::try_from(self.file_system.block_size()).unwrap_or(0)],
        })
    }

    /// Makes all changes and commits them, or none. `time` becomes the times of new files.
    ///
    /// # Errors
    /// The image is unchanged, except after [`StorageError::HalfDone`].
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
            // A replay alone does not justify replacing the image by a copy.
            return Ok(Applied::default());
        }
        let blocks = self.blocks()?;
        let patch = blocks.patch()?;
        let size = patch.size();
        let started = Instant::now();
        let committed = output.commit(image, &patch, self.watch)?;
        let time = text::duration(started.elapsed());
        details.push(format!("{} changed, {} ({time})", text::size(size), copied(committed.copied)));
        Ok(Applied { notes: notes(&self.name, &committed), details })
    }
}
