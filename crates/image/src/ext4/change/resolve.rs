//! Resolves changes against the existing tree: the parent of each path, what is replaced, and whether there is enough
//! space. The audit and the read-back check the result against this plan, never against what the writer reports.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, Label, TreeChange};

use crate::ext4::ROOT;
use crate::ext4::format::attributes::{Attribute, block_attributes, inline_attributes};
use crate::ext4::format::directory::Entry;
use crate::ext4::format::features::Incompat;
use crate::ext4::format::inode::{APPEND, IMMUTABLE, INLINE_DATA, Inode};
use crate::ext4::format::label;
use crate::ext4::format::reader::{Reader, usize_of};

/// Maximum size of a file whose blocks are zeroed when it is removed, in bytes. Larger files are not deaddrop's
/// secrets.
pub(in crate::ext4) const MOST_ZEROED: u64 = 64 << 20;
/// The hint for a full file system.
const LARGER: &str = "make the image larger (nixpkgs: additionalSpace = \"512M\") or remove files from it";

/// The directory of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ext4) enum Parent {
    /// An existing directory, by its inode.
    Existing(u32),
    /// A directory that an earlier change creates, by the index of that change in the plan.
    New(usize),
}

/// One change.
pub(in crate::ext4) struct ResolvedChange<'a> {
    /// Its absolute path.
    pub path: &'a str,
    /// The last component of the path.
    pub name: &'a [u8],
    /// The directory of the name.
    pub parent: Parent,
    /// Permission bits; 0 for a removal, as are the owner and the group.
    pub mode: u16,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// SELinux label of a new file or directory.
    pub label: Option<&'a Label>,
    /// The action.
    pub action: Action<'a>,
}

/// The action of a change.
pub(in crate::ext4) enum Action<'a> {
    /// Creates a directory.
    MakeDirectory,
    /// Creates a file.
    Create {
        /// Its bytes.
        content: &'a Secret,
    },
    /// Creates a file under a temporary name, then renames it over the existing file.
    Replace {
        /// Its bytes.
        content: &'a Secret,
        /// The temporary name, in the same directory.
        temporary: Vec<u8>,
        /// The file that loses its name.
        old: Inode,
    },
    /// Changes permissions and owner of an existing file.
    SetMetadata {
        /// The file.
        file: Inode,
    },
    /// Removes the name of an existing file.
    Remove {
        /// The file that loses its name.
        old: Inode,
    },
    /// Removes a directory that earlier changes have emptied.
    RemoveDirectory {
        /// The directory.
        old: Inode,
    },
}

impl ResolvedChange<'_> {
    /// The content of a new file.
    pub fn content(&self) -> Option<&Secret> {
        match &self.action {
            Action::Create { content } | Action::Replace { content, .. } => Some(content),
            Action::MakeDirectory
            | Action::SetMetadata { .. }
            | Action::Remove { .. }
            | Action::RemoveDirectory { .. } => None,
        }
    }
}

/// All changes of one run, in their order.
pub(in crate::ext4) struct Resolved<'a> {
    /// The changes.
    pub changes: Vec<ResolvedChange<'a>>,
    /// The time of everything that is written, in seconds since 1970.
    pub seconds: i64,
}

impl<'a> Resolved<'a> {
    /// Inodes that lose a name: replaced and removed files, and removed directories.
    pub fn old_inodes(&self) -> impl Iterator<Item = &Inode> {
        self.changes.iter().filter_map(|change| match &change.action {
            Action::Replace { old, .. } | Action::Remove { old } | Action::RemoveDirectory { old } => Some(old),
            Action::MakeDirectory | Action::Create { .. } | Action::SetMetadata { .. } => None,
        })
    }

    /// Resolves `changes`.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if there is not enough space or a directory is immutable,
    /// [`StorageError::Unsupported`] for a result that could not be read back, [`StorageError::Corrupt`] if the tree is
    /// damaged or does not match `changes`.
    pub fn new(reader: &Reader, changes: &'a [TreeChange], time: SystemTime) -> Result<Self, StorageError> {
        let mut planner = Planner {
            reader,
            directories: HashMap::new(),
            made: BTreeMap::new(),
            seen: HashSet::new(),
            touched: HashMap::new(),
            temporary: 0,
        };
        let mut planned = Vec::with_capacity(changes.len());
        for change in changes {
            if let TreeChange::RemoveDirectory { path } = change
                && !planner.will_be_empty(path)?
            {
                continue;
            }
            let next = planner.resolved(change, planned.len())?;
            planned.push(next);
        }
        let resolved = Self { changes: planned, seconds: seconds_for(reader, time) };
        resolved.check_room(reader)?;
        Ok(resolved)
    }

    /// Number of blocks of a file of `size` bytes: its content, and, without extents, the blocks of its map.
    pub fn blocks_for(reader: &Reader, size: usize) -> u64 {
        let block_size = usize_of(reader.geometry.block_size);
        let content = u64::try_from(size.div_ceil(block_size)).unwrap_or(u64::MAX);
        if reader.superblock.features.incompat.has(Incompat::EXTENT) {
            return content;
        }
        let per_block = u64::from(reader.geometry.block_size / 4);
        let single = content.saturating_sub(12);
        let double = single.saturating_sub(per_block);
        let triple = double.saturating_sub(per_block.saturating_mul(per_block));
        let doubles = double.min(per_block * per_block).div_ceil(per_block);
        content + u64::from(single > 0) + doubles + u64::from(double > 0) + triple.div_ceil(per_block)
    }

    /// Compares the needs of the changes with the free space.
    fn check_room(&self, reader: &Reader) -> Result<(), StorageError> {
        let mut blocks = reader.superblock.free_blocks;
        let mut inodes = reader.superblock.free_inodes;
        for change in &self.changes {
            let need = match (&change.action, change.content()) {
                (Action::SetMetadata { .. } | Action::Remove { .. } | Action::RemoveDirectory { .. }, _) => continue,
                (_, Some(content)) => Self::blocks_for(reader, content.len()),
                (_, None) => 1,
            };
            let need =
                need.saturating_add(u64::from(change.label.is_some_and(|label| !label::fits_inode(reader, label))));
            if need > blocks {
                return Err(no_space(change.path, need, blocks));
            }
            if inodes == 0 {
                return Err(no_inodes(change.path));
            }
            // Cannot underflow: compared above.
            blocks -= need;
            inodes -= 1;
        }
        Ok(())
    }
}

/// The refusal of a change that needs more blocks than are free.
pub(in crate::ext4) fn no_space(path: &str, need: u64, free: u64) -> StorageError {
    let blocks = if need == 1 { "block" } else { "blocks" };
    StorageError::refused(format!("{path} needs {need} {blocks}, and the file system has {free} free"), LARGER)
}

/// The refusal of a change that needs an inode when none is free.
pub(in crate::ext4) fn no_inodes(path: &str) -> StorageError {
    StorageError::refused(
        format!("{path} needs 1 inode, and the file system has 0 free"),
        "make the file system with more inodes (mke2fs -N) or remove files from it",
    )
}

/// A directory that was read for the plan.
struct Directory {
    inode: Inode,
    names: BTreeMap<Vec<u8>, Entry>,
}

struct Planner<'r, 'a> {
    reader: &'r Reader,
    /// Directories that were read, by inode.
    directories: HashMap<u32, Directory>,
    /// Directories that the plan creates: path to index in the plan.
    made: BTreeMap<&'a str, usize>,
    /// Paths that have a change.
    seen: HashSet<&'a str>,
    /// Changes so far to the names of existing directories, by inode.
    touched: HashMap<u32, TouchedNames<'a>>,
    /// Number of the next temporary name.
    temporary: u32,
}

/// Changes to the names of a directory.
#[derive(Default)]
struct TouchedNames<'a> {
    /// Names that are removed.
    gone: HashSet<&'a [u8]>,
    /// True if another name is created or changed.
    keeps: bool,
}

impl<'a> Planner<'_, 'a> {
    fn resolved(&mut self, change: &'a TreeChange, place: usize) -> Result<ResolvedChange<'a>, StorageError> {
        let path = change.path();
        if !self.seen.insert(path) {
            return Err(StorageError::Corrupt(format!("{path}: two changes at once")));
        }
        let (above, name) = split(path)?;
        let parent = self.resolve(above)?;
        let existing = match parent {
            Parent::Existing(directory) => self.existing(directory, name)?,
            Parent::New(_) => None,
        };
        let wrong = |what: &str| Err(StorageError::Corrupt(format!("{path}: {what}")));
        let label = change.label();
        label.map_or(Ok(()), |label| label::check_room(self.reader, label, path))?;
        let (mode, uid, gid, action) = match change {
            TreeChange::MakeDirectory { mode, uid, gid, .. } => {
                if existing.is_some() {
                    return wrong("it exists already");
                }
                self.check_changeable(parent, path)?;
                self.made.insert(path, place);
                (mode, uid, gid, Action::MakeDirectory)
            }
            TreeChange::WriteFile { content, mode, uid, gid, .. } => {
                self.check_changeable(parent, path)?;
                let action = match (existing, parent) {
                    (Some(old), Parent::Existing(directory)) => {
                        self.check_droppable(&old, path)?;
                        Action::Replace { content, temporary: self.temporary_name(directory), old }
                    }
                    _ => Action::Create { content },
                };
                (mode, uid, gid, action)
            }
            TreeChange::SetMetadata { mode, uid, gid, .. } => {
                let Some(file) = existing else { return wrong("it does not exist") };
                if file.kind != FileKind::File {
                    return wrong(&format!("it is {}", file.kind.name()));
                }
                check_flags(&file, path)?;
                (mode, uid, gid, Action::SetMetadata { file })
            }
            TreeChange::RemoveFile { .. } => {
                let Some(old) = existing else { return wrong("it does not exist") };
                self.check_changeable(parent, path)?;
                self.check_droppable(&old, path)?;
                self.check_zeroable(&old, path)?;
                (&0, &0, &0, Action::Remove { old })
            }
            TreeChange::RemoveDirectory { .. } => {
                let Some(old) = existing else { return wrong("it does not exist") };
                self.check_changeable(parent, path)?;
                check_flags(&old, path)?;
                (&0, &0, &0, Action::RemoveDirectory { old })
            }
        };
        let mode = u16::try_from(*mode).ok().filter(|mode| *mode <= 0o7777);
        let Some(mode) = mode else { return wrong("its mode has bits that are no permissions") };
        // In chown(2) this value means "do not change".
        if *uid == u32::MAX || *gid == u32::MAX {
            return wrong("4294967295 is not a number of a user or group");
        }
        if let Parent::Existing(directory) = parent {
            let touched = self.touched.entry(directory).or_default();
            match action {
                Action::Remove { .. } | Action::RemoveDirectory { .. } => drop(touched.gone.insert(name)),
                _ => touched.keeps = true,
            }
        }
        Ok(ResolvedChange { path, name, parent, mode, uid: *uid, gid: *gid, label, action })
    }

    /// True if an existing directory at `path` is emptied by the changes before this one, and can be removed.
    fn will_be_empty(&mut self, path: &str) -> Result<bool, StorageError> {
        let (above, name) = split(path)?;
        let Parent::Existing(parent) = self.resolve(above)? else { return Ok(false) };
        let Some(old) = self.existing(parent, name)? else { return Ok(false) };
        // Inline data and attribute inodes are not supported by the removal.
        let odd = old.has(INLINE_DATA) || self.has_attribute_elsewhere(&old, path)?;
        if old.kind != FileKind::Directory || odd {
            return Ok(false);
        }
        self.directory(old.number, path)?;
        let touched = self.touched.get(&old.number);
        if touched.is_some_and(|touched| touched.keeps) {
            return Ok(false);
        }
        let gone = |name: &[u8]| touched.is_some_and(|touched| touched.gone.contains(name));
        // OK to index: read above.
        let names = &self.directories[&old.number].names;
        Ok(names.keys().all(|name| matches!(&name[..], b"." | b"..") || gone(name)))
    }

    /// The directory at `path`, one component at a time; no links are followed.
    fn resolve(&mut self, path: &str) -> Result<Parent, StorageError> {
        if let Some(place) = self.made.get(path) {
            return Ok(Parent::New(*place));
        }
        let mut number = ROOT;
        self.directory(number, "/")?;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            let entry = self.directory(number, path)?.names.get(component.as_bytes()).copied();
            number = entry
                .ok_or_else(|| StorageError::Corrupt(format!("{path}: no directory `{component}` on the way")))?
                .inode;
        }
        self.directory(number, path)?;
        Ok(Parent::Existing(number))
    }

    /// Reads directory `number`; each directory is read once.
    fn directory(&mut self, number: u32, path: &str) -> Result<&Directory, StorageError> {
        if !self.directories.contains_key(&number) {
            let inode = self.reader.inode(number)?;
            if inode.kind != FileKind::Directory {
                return Err(StorageError::Corrupt(format!("{path}: {} is on the way", inode.kind.name())));
            }
            if inode.has(INLINE_DATA) {
                return Err(StorageError::unsupported(
                    format!("ext4 feature `inline_data`: a directory on the way to {path} lies inside its inode"),
                    "deaddrop's read-back cannot see such directories; more files in the directory move it to a block",
                ));
            }
            let names = self.reader.entries(&inode)?;
            self.directories.insert(number, Directory { inode, names });
        }
        // OK to index: inserted above.
        Ok(&self.directories[&number])
    }

    fn existing(&mut self, directory: u32, name: &[u8]) -> Result<Option<Inode>, StorageError> {
        match self.directories.get(&directory).and_then(|directory| directory.names.get(name)) {
            Some(entry) => self.reader.inode(entry.inode).map(Some),
            None => Ok(None),
        }
    }

    /// Refuses a directory whose names must not change.
    fn check_changeable(&self, parent: Parent, path: &str) -> Result<(), StorageError> {
        match parent {
            Parent::Existing(number) => match self.directories.get(&number) {
                Some(directory) => check_flags(&directory.inode, split(path)?.0),
                None => Ok(()),
            },
            Parent::New(_) => Ok(()),
        }
    }

    /// Refuses a file that cannot be replaced completely.
    fn check_droppable(&self, old: &Inode, path: &str) -> Result<(), StorageError> {
        if old.kind != FileKind::File {
            return Err(StorageError::Corrupt(format!("{path}: it is {}", old.kind.name())));
        }
        check_flags(old, path)?;
        if self.has_attribute_elsewhere(old, path)? {
            return Err(StorageError::unsupported(
                format!("ext4 feature `ea_inode`: an attribute of {path} lies in an inode of its own"),
                "remove the attribute (setfattr -x) or the file first",
            ));
        }
        Ok(())
    }

    /// True if an attribute has its own inode, which would have to be removed too.
    fn has_attribute_elsewhere(&self, old: &Inode, path: &str) -> Result<bool, StorageError> {
        if !self.reader.superblock.features.incompat.has(Incompat::EA_INODE) {
            return Ok(false);
        }
        let mut outside = inline_attributes(old)?.iter().any(Attribute::has_own_inode);
        if old.xattr_block != 0 {
            let block = self.reader.block(old.xattr_block)?;
            let found = block_attributes(&block)
                .ok_or_else(|| StorageError::Corrupt(format!("{path}: its attributes are damaged")))?;
            outside |= found.iter().any(Attribute::has_own_inode);
        }
        Ok(outside)
    }

    /// Refuses to remove a file that is too large to be zeroed.
    fn check_zeroable(&self, old: &Inode, path: &str) -> Result<(), StorageError> {
        let blocks = self.reader.map(old)?.content_blocks();
        if blocks.saturating_mul(u64::from(self.reader.geometry.block_size)) <= MOST_ZEROED {
            return Ok(());
        }
        Err(StorageError::refused(
            format!("{path} is over {} MiB, the most that is zeroed when a file is removed", MOST_ZEROED >> 20),
            "it is no secret of deaddrop's: remove it by other means, or leave it out of the manifest",
        ))
    }

    /// A name that does not exist in `directory`. Depends only on the tree and the changes.
    fn temporary_name(&mut self, directory: u32) -> Vec<u8> {
        loop {
            let name = format!(".deaddrop-{}", self.temporary).into_bytes();
            self.temporary = self.temporary.wrapping_add(1);
            let taken = self.directories.get(&directory).is_some_and(|found| found.names.contains_key(&name));
            // Terminates: a directory has fewer names than there are numbers.
            if !taken {
                return name;
            }
        }
    }
}

/// Refuses an inode with the flags of `chattr +i` or `+a`.
fn check_flags(inode: &Inode, path: &str) -> Result<(), StorageError> {
    let (flag, letter) = if inode.has(IMMUTABLE) {
        ("immutable", 'i')
    } else if inode.has(APPEND) {
        ("append-only", 'a')
    } else {
        return Ok(());
    };
    Err(StorageError::refused(format!("{path} is {flag}"), format!("remove the flag first: chattr -{letter} {path}")))
}

/// Parent and last component of an absolute path.
fn split(path: &str) -> Result<(&str, &[u8]), StorageError> {
    let wrong = || StorageError::Corrupt(format!("{path}: not an absolute, clean path"));
    let (above, name) = path.rsplit_once('/').ok_or_else(wrong)?;
    let clean = path.starts_with('/')
        && path.split('/').skip(1).all(|component| !matches!(component, "" | "." | "..") && component.len() <= 255);
    if !clean || path.contains('\0') {
        return Err(wrong());
    }
    Ok((if above.is_empty() { "/" } else { above }, name.as_bytes()))
}

/// `time` within the range of ext4: until 2446, or 2038 in inodes of 128 bytes.
fn seconds_for(reader: &Reader, time: SystemTime) -> i64 {
    let most = if reader.superblock.inode_size > 128 { 0x3_7FFF_FFFF } else { i64::from(i32::MAX) };
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX).min(most)
}
