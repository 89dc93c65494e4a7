//! ext2, ext3 and ext4: read by our own reader, written on an overlay, checked before anybody commits the result.
//!
//! ```text
//! Ext4::open ─> replay (in memory) ─> Tree: survey ─> apply: plan, writer, values, audit, read-back ─> dirty()
//! ```
//!
//! Nothing here writes to the device: [`Ext4::dirty`] hands out the blocks that differ, and a commit writes them.
//! docs/ext4.md lists what is accepted and what is refused. Knows inodes and blocks; no manifests, no partitions.

mod apply;
mod audit;
mod bytes;
mod checksum;
mod content;
mod directory;
mod expect;
mod facts;
pub mod features;
mod fixed;
mod group;
mod guard;
mod in_place;
mod inode;
mod inodes;
mod journal;
mod label;
mod mapping;
mod mend;
mod neighbours;
mod orphans;
mod plan;
mod reader;
mod recover;
mod scrub;
pub mod superblock;
mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use self::features::Compat;
use self::fixed::Fixed;
use self::inode::Inode;
use self::journal::Journal;
use self::reader::Reader;
use self::recover::{Obstacle, Recovered};
use super::cache::Cached;
use super::device::ReadAt;
use super::error::ImageError;
use super::journal::replay::Waiting;
use super::overlay::{DirtyBlock, Overlay};
use super::tree::{Label, Stat, Tree, TreeChange};
use crate::secret::{Secret, Wiped};
use crate::sys;

pub(in crate::image) use self::checksum::crc32c;
pub use self::facts::{Facts, JournalState, probe};
pub use self::recover::HINT as FSCK_HINT;

/// What a person can do about damage that e2fsck does not mend without being asked.
pub const DAMAGE_HINT: &str = "run `e2fsck -f` on it first";

/// Memory for changed blocks, in bytes.
const OVERLAY_LIMIT: usize = 256 << 20;
/// The refusal of a file system that is not clean: after a crash, or with our own mark, see [`super::undo`].
pub const UNCLEAN: &str = "the ext4 file system was not unmounted cleanly";
/// The root directory's inode. Kernel documentation, ext4, "Special inodes".
const ROOT: u32 = 2;

/// An open file system, with the changes that were made to it in memory.
pub struct Ext4 {
    /// What the changes will be committed to.
    base: Arc<dyn ReadAt>,
    /// A mended superblock, if it was torn; then, if a mount left something, the replayed journal and the marks that are
    /// cleared; then one layer for each successful `apply`. Each lies on the one before.
    layers: Vec<Arc<Overlay>>,
    /// Reads through all layers.
    reader: Reader,
    /// Reads the file system as it was before any change of ours: its superblock mended, its journal replayed.
    old: Reader,
    /// The journal as it is after its replay; `None` when it was clean.
    recovered: Option<Journal>,
    /// Set when orphans were released: how the file system is after that, and how many layers that took. A change comes
    /// in a transaction of its own, since it may take their blocks: see [`Ext4::transaction`].
    released: Option<(Reader, usize)>,
    /// What waits in the journal, on the device.
    waiting: Option<Waiting>,
    /// Set when a change drops an old value, which may stand in the journal's log.
    drops_values: bool,
    /// What a mount left behind and we could not deal with.
    obstacle: Option<Obstacle>,
    /// Where the file system's own structures lie, once they are known not to get in each other's way.
    fixed: OnceLock<Fixed>,
    /// Set once it is known that nobody else claims a block of the journal.
    journal_is_alone: OnceLock<()>,
}

/// A file, directory or link: its inode.
#[derive(Clone)]
pub struct Node(Inode);

impl Ext4 {
    /// Opens the file system that fills `device`. A dirty journal is replayed in memory: the tree is as the kernel would
    /// show it. Where that is not possible the file system still opens, for [`Ext4::facts`]; see
    /// [`Ext4::check_writable`].
    ///
    /// # Errors
    /// When there is no such file system, when its superblock contradicts itself or the device's size, or when it cannot
    /// be read.
    pub fn open(device: Arc<dyn ReadAt>) -> Result<Self, ImageError> {
        // Whoever reads below, reads each block once.
        let device: Arc<dyn ReadAt> = Arc::new(Cached::new(device));
        let mended = mend::mend(&device)?;
        let reader = match &mended {
            Some(overlay) => Reader::open(overlay.clone())?,
            None => Reader::open(Arc::clone(&device))?,
        }
        .guard_journal();
        let mut ext4 = Self {
            base: device,
            layers: mended.into_iter().collect(),
            old: reader.clone(),
            reader,
            recovered: None,
            released: None,
            waiting: None,
            drops_values: false,
            obstacle: None,
            fixed: OnceLock::new(),
            journal_is_alone: OnceLock::new(),
        };
        ext4.waiting = recover::waiting(&ext4.reader);
        if !recover::is_needed(&ext4.reader) {
            return Ok(ext4);
        }
        if features::check_written(&ext4.reader.superblock).is_err() {
            ext4.obstacle = Some(Obstacle::new("a mount left its journal or its orphans behind"));
            return Ok(ext4);
        }
        match recover::recover(&ext4.reader) {
            Ok(Recovered { replayed, released, marked, journal }) => {
                ext4.push(replayed)?;
                ext4.old = ext4.reader.clone();
                let is_released = released.is_some();
                released.into_iter().try_for_each(|released| ext4.push(released))?;
                ext4.push(marked)?;
                ext4.recovered = journal;
                ext4.released = is_released.then(|| (ext4.reader.clone(), ext4.layers.len()));
            }
            Err(obstacle) => ext4.obstacle = Some(obstacle),
        }
        Ok(ext4)
    }

    /// What the file system says about itself, for `inspect`.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts::new(&self.reader.superblock, self.reader.journal().ok().flatten(), self.waiting)
    }

    /// Bytes a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.reader.geometry.block_size
    }

    /// True when the journal was dirty, and was replayed in memory: on the device it still is.
    #[must_use]
    pub fn was_replayed(&self) -> bool {
        self.recovered.is_some()
    }

    /// Says whether changes can be made: every feature is one that we write to, no error is recorded, and nothing is left
    /// of a mount.
    ///
    /// # Errors
    /// [`ImageError::Unsupported`] with the features' names as in `tune2fs -O`, [`ImageError::Refused`] with what to do
    /// first, or [`ImageError::Corrupt`].
    pub fn check_writable(&self) -> Result<(), ImageError> {
        self.check_state()?;
        self.fixed()?;
        self.check_journal()
    }

    /// Says whether every feature is one that we write to.
    ///
    /// # Errors
    /// [`ImageError::Unsupported`] with the features' names as in `tune2fs -O`.
    pub fn check_features(&self) -> Result<(), ImageError> {
        features::check_written(&self.reader.superblock)
    }

    /// What the superblock and the journal tell of it.
    fn check_state(&self) -> Result<(), ImageError> {
        let superblock = &self.reader.superblock;
        features::check_written(superblock)?;
        if superblock.has_errors() {
            return Err(ImageError::refused("the ext4 file system has errors recorded", recover::HINT));
        }
        if let Some(obstacle) = &self.obstacle {
            return Err(obstacle.clone().into());
        }
        if !superblock.is_clean() {
            return Err(ImageError::refused(UNCLEAN, recover::HINT));
        }
        // The kernel looks into the orphan file whether it is marked or not.
        if orphans::are_there(&self.reader)? {
            return Err(ImageError::refused(orphans::REFUSAL, recover::HINT));
        }
        if !superblock.features.compat.has(Compat::HAS_JOURNAL) && superblock.journal_inode != 0 {
            let what = "its superblock names a journal, and says that there is none (`has_journal`)";
            return Err(ImageError::refused(what, DAMAGE_HINT));
        }
        match self.reader.journal() {
            Err(error) => {
                return Err(ImageError::refused(format!("its journal is damaged: {error}"), recover::HINT));
            }
            // The kernel would drop it unread, e2fsck would replay it: it is not ours to choose.
            Ok(Some(journal)) if journal.superblock.start != 0 => {
                let what = "its journal holds transactions, and its superblock says that none wait (`needs_recovery`)";
                return Err(ImageError::refused(what, DAMAGE_HINT));
            }
            Ok(_) => {}
        }
        if superblock.free_blocks > superblock.blocks || superblock.free_inodes > superblock.inodes {
            return Err(ImageError::corrupt("ext4 superblock: more is free than there is (run `e2fsck -f`)"));
        }
        Ok(())
    }

    /// Where the file system's own structures lie. No change of ours moves one.
    ///
    /// # Errors
    /// [`ImageError::Refused`] when two of them share a block: a commit would damage the one by writing the other.
    fn fixed(&self) -> Result<&Fixed, ImageError> {
        if let Some(fixed) = self.fixed.get() {
            return Ok(fixed);
        }
        let fixed = Fixed::of(&self.reader)?;
        Ok(self.fixed.get_or_init(|| fixed))
    }

    /// Checks that no file uses a block of the journal, whose blocks a commit writes without asking anybody.
    ///
    /// # Errors
    /// [`ImageError::Refused`] when one does.
    fn check_journal(&self) -> Result<(), ImageError> {
        if self.journal_is_alone.get().is_none() {
            neighbours::check_journal(&self.reader)?;
            self.journal_is_alone.get_or_init(|| ());
        }
        Ok(())
    }

    /// Makes all `changes`, or none: they are written in memory, audited and read back by other code. New files and
    /// directories get `time` as all their times (whole seconds), changed directories as their time of modification.
    ///
    /// Every new file is written before an old one is dropped, so that no value lands in a block that was in use. The
    /// blocks of a replaced or removed file that no other name leads to are zeroed.
    ///
    /// # Errors
    /// As [`Ext4::check_writable`]; [`ImageError::Refused`] when there is no space, no inode, or a parent is immutable;
    /// [`ImageError::Corrupt`] when the file system is damaged or the check fails. Nothing was changed then.
    pub fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<(), ImageError> {
        if changes.is_empty() {
            return self.check_writable();
        }
        self.check_state()?;
        let fixed = self.fixed()?;
        let overlay = Arc::new(Overlay::new(self.top(), self.reader.geometry.block_size, OVERLAY_LIMIT));
        let plan = plan::Plan::new(&self.reader, changes, time)?;
        // While the writer works: where it writes to is mostly known.
        let neighbours = neighbours::start(&self.reader, &plan, self.journal_is_alone.get().is_none())?;
        if let Err(error) = apply::write(&self.reader, &overlay, &plan) {
            // What is wrong with the file system says more than what the writer made of it.
            neighbours.wait()?;
            return Err(error);
        }
        check(&self.reader, fixed, neighbours, &overlay, &plan)?;
        self.journal_is_alone.get_or_init(|| ());
        self.drops_values |= plan.losers().next().is_some();
        self.push(overlay)
    }

    /// The blocks that differ from the device that was opened, as (byte offset, bytes), in order: what a commit writes.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn dirty(&self) -> Result<Vec<DirtyBlock>, ImageError> {
        let failed = |error| ImageError::io("reading the image", error);
        let mut numbers = BTreeSet::new();
        for layer in &self.layers {
            numbers.extend(layer.written_numbers());
        }
        let mut dirty = Vec::new();
        for number in numbers {
            let offset = self.reader.block_offset(number)?;
            let now = self.reader.block(number)?;
            let mut before = Wiped::zeros(now.len());
            self.base.read_exact_at(offset, &mut before).map_err(failed)?;
            if before != now {
                dirty.push((offset, now));
            }
        }
        sys::lock_all(dirty.iter().map(|(_, bytes)| bytes.as_slice()));
        Ok(dirty)
    }

    /// The file system as it is with all changes, block for block.
    #[must_use]
    pub fn device(&self) -> Arc<dyn ReadAt> {
        self.top()
    }

    fn top(&self) -> Arc<dyn ReadAt> {
        match self.layers.last() {
            Some(layer) => layer.clone(),
            None => Arc::clone(&self.base),
        }
    }

    fn push(&mut self, overlay: Arc<Overlay>) -> Result<(), ImageError> {
        self.reader = Reader::open(overlay.clone())?.guard_journal();
        self.layers.push(overlay);
        Ok(())
    }
}

/// What must hold before the blocks of `overlay` may be committed: nothing changed but what was asked for (our reader),
/// and everything asked for is there (the independent reader).
fn check(
    before: &Reader,
    fixed: &Fixed,
    neighbours: neighbours::Started,
    overlay: &Arc<Overlay>,
    plan: &plan::Plan,
) -> Result<(), ImageError> {
    let failed = |error: ImageError| match error {
        ImageError::Corrupt(detail) => {
            ImageError::Corrupt(format!("internal check failed, nothing was written: {detail}"))
        }
        other => other,
    };
    // The independent reader works meanwhile.
    let read_back = view::read_back(overlay, plan).map_err(failed);
    let audited = audit::audit(before, overlay, plan).map_err(failed);
    neighbours.wait()?.check(before, fixed, &audited?)?;
    read_back?.wait().map_err(failed)
}

impl Tree for Ext4 {
    type Node = Node;

    fn root(&self) -> Result<Node, ImageError> {
        features::check_readable(&self.reader.superblock)?;
        // What lies under a journal that was not replayed is not what the kernel would show.
        if let Some(obstacle) = &self.obstacle {
            // What e2fsck does not mend is said first.
            self.check_features()?;
            return Err(obstacle.clone().into());
        }
        let root = self.reader.inode(ROOT)?;
        if root.stat().kind == super::tree::Kind::Directory {
            Ok(Node(root))
        } else {
            Err(ImageError::corrupt("ext4: the root is not a directory"))
        }
    }

    fn root_stat(&self) -> Result<Stat, ImageError> {
        Ok(self.root()?.0.stat())
    }

    fn acl_lets_write(&self, directory: &Node) -> Result<bool, ImageError> {
        self.reader.acl_lets_write(&directory.0)
    }

    fn child(&self, directory: &Node, name: &[u8]) -> Result<Option<(Node, Stat)>, ImageError> {
        let Some(entry) = self.reader.find(&directory.0, name)? else { return Ok(None) };
        let inode = self.reader.inode(entry.inode)?;
        let stat = inode.stat();
        Ok(Some((Node(inode), stat)))
    }

    fn read_link(&self, link: &Node) -> Result<Vec<u8>, ImageError> {
        self.reader.read_target(&link.0)
    }

    fn read(&self, file: &Node, limit: u64) -> Result<Option<Secret>, ImageError> {
        self.reader.read_file(&file.0, limit)
    }

    fn label(&self, node: &Node) -> Result<Option<Label>, ImageError> {
        self.reader.label(&node.0)
    }

    fn some_children(&self, directory: &Node, limit: usize) -> Result<Vec<(Node, Stat)>, ImageError> {
        let mut children = Vec::new();
        for number in self.reader.some_inodes(&directory.0, limit)? {
            match self.reader.inode(number) {
                Ok(inode) => {
                    let stat = inode.stat();
                    children.push((Node(inode), stat));
                }
                Err(ImageError::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }
}
