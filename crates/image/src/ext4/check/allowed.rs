//! The inodes and blocks that a plan may change, computed by our reader from the file system before and after and from
//! the plan. The audit compares every changed block with this set.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::FileKind;

use crate::ext4::change::apply::Lookup;
use crate::ext4::change::resolve::{Action, Parent, Resolved, ResolvedChange};
use crate::ext4::format::bytes::le32;
use crate::ext4::format::directory::Entry;
use crate::ext4::format::inode::{INDEX, Inode};
use crate::ext4::format::reader::Reader;

/// Names that are new or whose inode changes: name to entry afterwards.
type Names = BTreeMap<Vec<u8>, Entry>;

/// An existing directory whose names change.
pub(in crate::ext4) struct Changed {
    /// Before.
    pub before: Inode,
    /// Afterwards.
    pub after: Inode,
    /// Names that are new or refer to another inode.
    pub names: Names,
    /// Names that are removed.
    pub gone: BTreeSet<Vec<u8>>,
    /// Directories among the new names, minus those among the removed names.
    pub directories: i32,
    /// Number of blocks that it gained.
    pub gained: u64,
}

/// Everything that may change.
#[derive(Default)]
pub(in crate::ext4) struct Allowed {
    /// New inodes, with the index of their change in the plan.
    pub made: BTreeMap<u32, (Inode, usize)>,
    /// Names in each new directory.
    pub made_names: BTreeMap<u32, Names>,
    /// Inodes without any name afterwards.
    pub dropped: BTreeMap<u32, Inode>,
    /// Inodes that lost names but keep others: the number of lost names.
    pub unlinked: BTreeMap<u32, (Inode, u16)>,
    /// Inodes whose mode or owner changes, with the index of their change in the plan.
    pub metadata: BTreeMap<u32, usize>,
    /// Directories whose names change.
    pub directories: BTreeMap<u32, Changed>,
    /// Blocks allocated to new inodes and grown directories.
    pub taken: BTreeSet<u64>,
    /// Blocks freed by dropped inodes.
    pub freed: BTreeSet<u64>,
    /// The freed blocks that contained content: they must be zero, or unchanged.
    pub freed_content: BTreeSet<u64>,
    /// Blocks of changed directories: names and maps.
    pub directory_blocks: BTreeSet<u64>,
    /// Attribute blocks that other inodes still use: the number of lost references.
    pub shared_attributes: BTreeMap<u64, u32>,
}

impl Allowed {
    /// Computes what `plan` may change.
    ///
    /// # Errors
    /// If a change is missing, or its map is damaged or claims a block twice.
    pub fn new(before: &Reader, after: &Reader, resolved: &Resolved) -> Result<Self, StorageError> {
        let mut allowed = Self::default();
        let mut lookup = Lookup::new(after);
        let mut inodes = Vec::with_capacity(resolved.changes.len());
        let mut lost: BTreeMap<u32, u16> = BTreeMap::new();
        let mut old: BTreeMap<u32, Inode> = BTreeMap::new();
        for (place, change) in resolved.changes.iter().enumerate() {
            if let Action::Remove { old: removed } | Action::RemoveDirectory { old: removed } = &change.action {
                // Its name is searched for with the names of its directory.
                inodes.push(removed.number);
                *lost.entry(removed.number).or_default() += 1;
                old.insert(removed.number, removed.clone());
                continue;
            }
            let inode = lookup.find(change.path)?;
            inodes.push(inode.number);
            match &change.action {
                Action::SetMetadata { file } => {
                    if file.number != inode.number {
                        return Err(unexpected(change, "another inode has its name"));
                    }
                    allowed.metadata.insert(inode.number, place);
                    continue;
                }
                Action::Replace { old: replaced, .. } => {
                    *lost.entry(replaced.number).or_default() += 1;
                    old.insert(replaced.number, replaced.clone());
                }
                Action::MakeDirectory
                | Action::Create { .. }
                | Action::Remove { .. }
                | Action::RemoveDirectory { .. } => {}
            }
            if matches!(change.action, Action::MakeDirectory) {
                allowed.made_names.insert(inode.number, Names::new());
            }
            allowed.take_all(after.map(&inode)?.blocks())?;
            // An attribute block, for a label that does not fit into the inode.
            allowed.take_all(std::iter::once(inode.xattr_block).filter(|block| *block != 0))?;
            if allowed.made.insert(inode.number, (inode, place)).is_some() {
                return Err(unexpected(change, "it shares its inode with another new file"));
            }
        }
        for (number, inode) in old {
            let lost = lost.get(&number).copied().unwrap_or(0);
            // A directory has one name, and is removed with it.
            if lost < inode.links && inode.kind != FileKind::Directory {
                allowed.unlinked.insert(number, (inode, lost));
            } else {
                allowed.free_all(before, &inode)?;
                allowed.dropped.insert(number, inode);
            }
        }
        allowed.collect_names(before, after, resolved, &inodes)?;
        allowed.collect_directories(before, after)?;
        Ok(allowed)
    }

    /// Every inode whose bytes may change.
    pub fn inodes(&self) -> BTreeSet<u32> {
        let made = self.made.keys().chain(self.dropped.keys()).chain(self.unlinked.keys());
        made.chain(self.metadata.keys()).chain(self.directories.keys()).copied().collect()
    }

    fn take_all(&mut self, blocks: impl Iterator<Item = u64>) -> Result<(), StorageError> {
        for block in blocks {
            if !self.taken.insert(block) {
                return Err(StorageError::Corrupt(format!("block {block} has two new owners")));
            }
        }
        Ok(())
    }

    /// The blocks that a dropped inode frees.
    fn free_all(&mut self, before: &Reader, inode: &Inode) -> Result<(), StorageError> {
        let map = before.map(inode)?;
        self.freed.extend(map.blocks());
        self.freed_content.extend(map.content());
        if inode.xattr_block != 0 {
            // `h_refcount`, 0x4, u32: the number of inodes that use the block.
            let uses = le32(&before.block(inode.xattr_block)?, 0x4);
            let lost = self.shared_attributes.entry(inode.xattr_block).or_default();
            *lost += 1;
            if *lost >= uses {
                self.freed.insert(inode.xattr_block);
                self.shared_attributes.remove(&inode.xattr_block);
            }
        }
        Ok(())
    }

    /// Assigns new and removed names to their directories.
    fn collect_names(
        &mut self,
        before: &Reader,
        after: &Reader,
        resolved: &Resolved,
        inodes: &[u32],
    ) -> Result<(), StorageError> {
        for (change, inode) in resolved.changes.iter().zip(inodes) {
            let is_directory = matches!(change.action, Action::MakeDirectory);
            if matches!(change.action, Action::SetMetadata { .. }) {
                continue;
            }
            if let Parent::Existing(number) = change.parent
                && self.dropped.contains_key(&number)
            {
                // Its names were removed with it.
                continue;
            }
            let entry = after.entry(*inode, if is_directory { FileKind::Directory } else { FileKind::File });
            let names = match change.parent {
                Parent::New(place) => inodes.get(place).and_then(|made| self.made_names.get_mut(made)),
                Parent::Existing(number) => {
                    let changed = match self.directories.entry(number) {
                        MapEntry::Occupied(known) => known.into_mut(),
                        MapEntry::Vacant(new) => new.insert(Changed {
                            before: before.inode(number)?,
                            after: after.inode(number)?,
                            names: Names::new(),
                            gone: BTreeSet::new(),
                            directories: 0,
                            gained: 0,
                        }),
                    };
                    if let Action::Remove { old } | Action::RemoveDirectory { old } = &change.action {
                        changed.gone.insert(change.name.to_vec());
                        changed.directories -= i32::from(old.kind == FileKind::Directory);
                        continue;
                    }
                    changed.directories += i32::from(is_directory);
                    Some(&mut changed.names)
                }
            };
            names.ok_or_else(|| unexpected(change, "its directory is not there"))?.insert(change.name.to_vec(), entry);
        }
        Ok(())
    }

    /// Finds the blocks of changed directories, and the number that they gained.
    fn collect_directories(&mut self, before: &Reader, after: &Reader) -> Result<(), StorageError> {
        let mut directories = std::mem::take(&mut self.directories);
        for (number, changed) in &mut directories {
            let wrong = |what: &str| Err(StorageError::Corrupt(format!("directory inode {number}: {what}")));
            if changed.after.kind != FileKind::Directory || changed.after.size < changed.before.size {
                return wrong("it shrank or became something else");
            }
            if (changed.before.flags ^ changed.after.flags) & !INDEX != 0
                || changed.after.flags & !changed.before.flags != 0
            {
                return wrong("its flags changed");
            }
            let (old, new) = (before.map(&changed.before)?, after.map(&changed.after)?);
            let blocks = changed.before.size / u64::from(before.geometry.block_size);
            if (0..blocks).any(|logical| old.find(logical) != new.find(logical)) {
                return wrong("its blocks moved");
            }
            let stood: BTreeSet<u64> = old.blocks().collect();
            let stands: BTreeSet<u64> = new.blocks().collect();
            if !stood.is_subset(&stands) {
                return wrong("it lost blocks");
            }
            for block in stands.difference(&stood) {
                changed.gained += 1;
                if !self.taken.insert(*block) {
                    return Err(StorageError::Corrupt(format!("block {block} has two new owners")));
                }
            }
            self.directory_blocks.extend(stood);
        }
        self.directories = directories;
        Ok(())
    }
}

fn unexpected(change: &ResolvedChange, what: &str) -> StorageError {
    StorageError::Corrupt(format!("{}: {what}", change.path))
}
