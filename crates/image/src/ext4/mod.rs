//! ext2, ext3 and ext4: read by our reader, written on an overlay, checked before the result is committed.
//!
//! ```text
//! Ext4::open ─> replay (in memory) ─> Tree: survey
//!            ─> apply: resolve, writer, values, audit, read-back ─> dirty()
//! ```
//!
//! Nothing here writes to the device: [`Ext4::dirty`] returns the blocks that differ, and a commit writes them.
//! docs/ext4.md lists what is accepted and what is refused. Uses inodes and blocks; does not depend on manifests or
//! partitions.

mod change;
mod check;
mod commit;
pub mod format;
mod guard;
mod read;
mod recover;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::secret::{Secret, Wiped};
use deaddrop_core::sys;
use deaddrop_core::tree::whole::{Entry, WholeTree};
use deaddrop_core::tree::{Child, Label, Stat, Tree, TreeChange};

use self::change::apply;
use self::change::resolve::Resolved;
use self::check::claims::{self, Reading};
use self::check::{audit, read_back};
use self::format::features::{self, Compat};
use self::recover::{Obstacle, Recovery, orphans, torn};
use super::device::ReadAt;
use super::journal::replay::Pending;
use crate::device::cache::Cached;
use crate::device::overlay::{DirtyBlock, Overlay};
use crate::ext4::format::inode::Inode;
use crate::ext4::format::journal::Journal;
use crate::ext4::format::reader::Reader;
use crate::ext4::read::layout::Layout;
use crate::ext4::read::names::KnownNames;

pub use self::Remedy::CheckFileSystem as FSCK_HINT;
pub(crate) use crate::ext4::format::checksum::crc32c;
pub use crate::ext4::read::summary::{JournalState, Summary, probe};

/// Maximum memory for changed blocks, in bytes.
const OVERLAY_LIMIT: usize = 256 << 20;
/// The refusal of a file system that is not clean: after a crash, or with deaddrop's own mark, see [`super::undo`].
pub const UNCLEAN: &str = "the ext4 file system was not unmounted cleanly";
/// The root directory's inode. Kernel documentation, ext4, "Special inodes".
const ROOT: u32 = 2;

/// An open file system, with the changes made to it in memory.
pub struct Ext4 {
    /// The device that the changes will be committed to.
    base: Arc<dyn ReadAt>,
    /// A repaired superblock, if it was torn; then, after an unclean mount, the replayed journal and the cleared marks;
    /// then one layer per successful `apply`. Each is over the previous one.
    layers: Vec<Arc<Overlay>>,
    /// Reads through all layers.
    reader: Reader,
    /// Reads the file system before any change of ours: superblock repaired, journal replayed.
    old: Reader,
    /// The journal after its replay; `None` if it was clean.
    recovered: Option<Journal>,
    /// Set if orphans were released: the file system after that, and the number of layers for it. A change gets its own
    /// transaction, because it may use their blocks: see [`Ext4::transaction`].
    released: Option<(Reader, usize)>,
    /// Transactions and fast commits in the journal on the device.
    pending: Option<Pending>,
    /// Set if a change drops an old value, which may be in the journal's log.
    drops_values: bool,
    /// State left by a mount that deaddrop cannot handle.
    obstacle: Option<Obstacle>,
    /// The location of the file system's own structures, once they are known not to overlap.
    layout: OnceLock<Layout>,
    /// Reads the neighbours of a change that is expected.
    neighbours: Option<Reading>,
    /// The names of directories that `reader` has searched.
    names: KnownNames,
    /// Set once it is known that no other structure uses a block of the journal.
    journal_is_alone: OnceLock<()>,
}

/// A file, directory or link: its inode.
#[derive(Clone)]
pub struct Node(Inode);

impl Ext4 {
    /// Opens the file system on `device`. A dirty journal is replayed in memory: the tree is as the kernel would show
    /// it. If that is not possible the file system still opens, for [`Ext4::summary`]; see [`Ext4::check_writable`].
    ///
    /// # Errors
    /// If there is no such file system, if its superblock contradicts itself or the device's size, or if it cannot be
    /// read.
    pub fn open(device: Arc<dyn ReadAt>) -> Result<Self, StorageError> {
        // All readers below share one cache.
        let device: Arc<dyn ReadAt> = Arc::new(Cached::new(device));
        let mended = torn::repair_superblock(&device)?;
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
            pending: None,
            drops_values: false,
            obstacle: None,
            layout: OnceLock::new(),
            names: KnownNames::default(),
            neighbours: None,
            journal_is_alone: OnceLock::new(),
        };
        ext4.pending = recover::pending(&ext4.reader);
        if !recover::is_needed(&ext4.reader) {
            return Ok(ext4);
        }
        if features::check_written(&ext4.reader.superblock).is_err() {
            ext4.obstacle = Some(Obstacle::new("a mount left its journal or its orphans behind"));
            return Ok(ext4);
        }
        match recover::recover(&ext4.reader) {
            Ok(Recovery { replayed, released, marked, journal }) => {
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

    /// Says that a change will probably follow. A part of its checks, that of the inodes which may claim a block of the
    /// journal, begins in a thread, while the caller finds out what is to be changed.
    pub fn expect_change(&mut self) {
        // Best effort: the change starts a thread itself, and tells why it cannot.
        self.neighbours = Reading::start(&self.reader, true).ok();
    }

    /// The file system's data for `inspect`.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary::new(&self.reader.superblock, self.reader.journal().ok().flatten(), self.pending)
    }

    /// The block size, in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.reader.geometry.block_size
    }

    /// True if the journal was dirty and was replayed in memory; it is still dirty on the device.
    #[must_use]
    pub fn was_replayed(&self) -> bool {
        self.recovered.is_some()
    }

    /// Checks that changes can be made: every feature is supported by the writer, no error is recorded, and nothing is
    /// left of a mount.
    ///
    /// # Errors
    /// [`StorageError::Unsupported`] with the features' names as in `tune2fs -O`, [`StorageError::Refused`] with what
    /// to do first, or [`StorageError::Corrupt`].
    pub fn check_writable(&self) -> Result<(), StorageError> {
        self.check_state()?;
        self.layout()?;
        self.check_journal()
    }

    /// Checks that the writer supports every feature.
    ///
    /// # Errors
    /// [`StorageError::Unsupported`] with the features' names as in `tune2fs -O`.
    pub fn check_features(&self) -> Result<(), StorageError> {
        features::check_written(&self.reader.superblock)
    }

    /// Checks the state in the superblock and the journal.
    fn check_state(&self) -> Result<(), StorageError> {
        let superblock = &self.reader.superblock;
        features::check_written(superblock)?;
        if superblock.has_errors() {
            return Err(StorageError::refused("the ext4 file system has errors recorded", Remedy::CheckFileSystem));
        }
        if let Some(obstacle) = &self.obstacle {
            return Err(obstacle.clone().into());
        }
        if !superblock.is_clean() {
            return Err(StorageError::refused(UNCLEAN, Remedy::CheckFileSystem));
        }
        // The kernel reads the orphan file whether it is marked or not.
        if orphans::exist(&self.reader)? {
            return Err(StorageError::refused(orphans::REFUSAL, Remedy::CheckFileSystem));
        }
        if !superblock.features.compat.has(Compat::HAS_JOURNAL) && superblock.journal_inode != 0 {
            let what = "its superblock names a journal, and says that there is none (`has_journal`)";
            return Err(StorageError::refused(what, Remedy::RepairFileSystem));
        }
        match self.reader.journal() {
            Err(error) => {
                return Err(StorageError::refused(format!("its journal is damaged: {error}"), Remedy::CheckFileSystem));
            }
            // The kernel would drop it unread, e2fsck would replay it: deaddrop does not choose.
            Ok(Some(journal)) if journal.superblock.start != 0 => {
                let what = "its journal holds transactions, and its superblock says that none wait (`needs_recovery`)";
                return Err(StorageError::refused(what, Remedy::RepairFileSystem));
            }
            Ok(_) => {}
        }
        if superblock.free_blocks > superblock.blocks || superblock.free_inodes > superblock.inodes {
            return Err(StorageError::corrupt("ext4 superblock: more is free than there is (run `e2fsck -f`)"));
        }
        Ok(())
    }

    /// The location of the file system's own structures. No change of ours moves one.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if two of them share a block: a commit would damage one by writing the other.
    fn layout(&self) -> Result<&Layout, StorageError> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let layout = Layout::of(&self.reader)?;
        Ok(self.layout.get_or_init(|| layout))
    }

    /// Checks that no file uses a block of the journal, whose blocks a commit writes directly.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if a file does.
    fn check_journal(&self) -> Result<(), StorageError> {
        if self.journal_is_alone.get().is_none() {
            claims::check_journal(&self.reader)?;
            self.journal_is_alone.get_or_init(|| ());
        }
        Ok(())
    }

    /// Makes all `changes`, or none: they are written in memory, audited and read back by other code. New files and
    /// directories get `time` as all their times (whole seconds), changed directories as their time of modification.
    ///
    /// Every new file is written before an old one is dropped, so that no value gets a block that was in use. The
    /// blocks of a replaced or removed file without another name are zeroed.
    ///
    /// # Errors
    /// As [`Ext4::check_writable`]; [`StorageError::Refused`] if there is no space, no inode, or a parent is immutable;
    /// [`StorageError::Corrupt`] if the file system is damaged or the check fails. Nothing was changed then.
    pub fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<(), StorageError> {
        if changes.is_empty() {
            return self.check_writable();
        }
        self.check_state()?;
        let started = self.neighbours.take();
        let layout = self.layout()?;
        let overlay = Arc::new(Overlay::new(self.top(), self.reader.geometry.block_size, OVERLAY_LIMIT));
        let resolved = Resolved::new(&self.reader, changes, time)?;
        // In parallel with the writer: most of the affected groups are already known.
        let with_journal = self.journal_is_alone.get().is_none();
        let mut claims = started.map_or_else(|| Reading::start(&self.reader, with_journal), Ok)?;
        claims.read(&self.reader, &resolved)?;
        if let Err(error) = apply::write(&self.reader, &overlay, &resolved) {
            // Damage of the file system is a better explanation than an error of the writer.
            claims.wait()?;
            return Err(error);
        }
        check(&self.reader, layout, claims, &overlay, &resolved)?;
        self.journal_is_alone.get_or_init(|| ());
        self.drops_values |= resolved.old_inodes().next().is_some();
        self.push(overlay)
    }

    /// The blocks that differ from the opened device, as (byte offset, bytes), in order: what a commit writes.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn dirty(&self) -> Result<Vec<DirtyBlock>, StorageError> {
        let failed = |error| StorageError::io("reading the image", error);
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

    /// The file system with all changes, as a device.
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

    fn push(&mut self, overlay: Arc<Overlay>) -> Result<(), StorageError> {
        self.reader = Reader::open(overlay.clone())?.guard_journal();
        self.names = KnownNames::default();
        self.neighbours = None;
        self.layers.push(overlay);
        Ok(())
    }
}

/// The conditions for committing the blocks of `overlay`: nothing changed except what was planned (our reader), and
/// every planned file is there (the independent reader).
fn check(
    before: &Reader,
    layout: &Layout,
    claims: Reading,
    overlay: &Arc<Overlay>,
    resolved: &Resolved,
) -> Result<(), StorageError> {
    let failed = |error: StorageError| match error {
        StorageError::Corrupt(detail) => {
            StorageError::Corrupt(format!("internal check failed, nothing was written: {detail}"))
        }
        other => other,
    };
    // The independent reader runs in parallel.
    let read_back = read_back::read_back(overlay, resolved).map_err(failed);
    let audited = audit::audit(before, overlay, resolved).map_err(failed);
    claims.wait()?.check(before, layout, &audited?)?;
    read_back?.wait().map_err(failed)
}

impl Tree for Ext4 {
    type Node = Node;

    fn root(&self) -> Result<Node, StorageError> {
        features::check_readable(&self.reader.superblock)?;
        // The tree below a journal that was not replayed is not the one that the kernel would show.
        if let Some(obstacle) = &self.obstacle {
            // First the findings that e2fsck does not repair.
            self.check_features()?;
            return Err(obstacle.clone().into());
        }
        let root = self.reader.inode(ROOT)?;
        if root.stat().kind == deaddrop_core::tree::FileKind::Directory {
            Ok(Node(root))
        } else {
            Err(StorageError::corrupt("ext4: the root is not a directory"))
        }
    }

    fn root_stat(&self) -> Result<Stat, StorageError> {
        Ok(self.root()?.0.stat())
    }

    fn acl_lets_write(&self, directory: &Node) -> Result<bool, StorageError> {
        self.reader.acl_lets_write(&directory.0)
    }

    fn child(&self, directory: &Node, name: &[u8]) -> Result<Option<(Node, Stat)>, StorageError> {
        let Some(entry) = self.names.find(&self.reader, &directory.0, name)? else { return Ok(None) };
        let inode = self.reader.inode(entry.inode)?;
        let stat = inode.stat();
        Ok(Some((Node(inode), stat)))
    }

    fn read_link(&self, link: &Node) -> Result<Vec<u8>, StorageError> {
        self.reader.read_target(&link.0)
    }

    fn read(&self, file: &Node, limit: u64) -> Result<Option<Secret>, StorageError> {
        self.reader.read_file(&file.0, limit)
    }

    fn label(&self, node: &Node) -> Result<Option<Label>, StorageError> {
        self.reader.label(&node.0)
    }

    fn children(&self, directory: &Node, limit: usize) -> Result<Vec<Child<Node>>, StorageError> {
        let mut children = Vec::new();
        for (name, number) in self.reader.some_entries(&directory.0, limit)? {
            match self.reader.inode(number) {
                Ok(inode) => {
                    let stat = inode.stat();
                    children.push(Child { name, node: Node(inode), stat });
                }
                Err(StorageError::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }

    fn names(&self, directory: &Node, limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
        let entries = self.reader.some_entries(&directory.0, limit)?;
        Ok(entries.into_iter().map(|(name, _)| name).collect())
    }
}

impl WholeTree for Ext4 {
    fn entries(&self, directory: &Node) -> Result<Vec<Entry>, StorageError> {
        let entries = self.reader.some_entries(&directory.0, usize::MAX)?;
        let entry = |(name, number)| Entry { name, inode: u64::from(number) };
        let mut entries: Vec<Entry> = entries.into_iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.inode);
        Ok(entries)
    }

    fn open_entry(&self, _: &Node, entry: &Entry) -> Result<Option<(Node, Stat)>, StorageError> {
        let number = u32::try_from(entry.inode).map_err(|_| StorageError::corrupt("ext4: no such inode"))?;
        let inode = self.reader.inode(number)?;
        let stat = inode.stat();
        Ok(Some((Node(inode), stat)))
    }

    fn device(&self, _: &Node) -> Result<u64, StorageError> {
        Ok(0)
    }

    fn read_pieces(
        &self,
        file: &Node,
        buffer: &mut [u8],
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StorageError> {
        self.reader.read_pieces(&file.0, buffer, visit)
    }

    fn capacity(&self) -> Option<u64> {
        let superblock = &self.reader.superblock;
        Some(superblock.blocks.saturating_mul(u64::from(self.reader.geometry.block_size)))
    }
}
