//! Changes, resolved against the tree that stands: what each path's parent is, what is replaced, and whether there is
//! room. The audit and the read-back judge the result by this plan, and by nothing that the writer says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, Label, TreeChange};

use crate::ext4::ROOT;
use crate::ext4::format::attributes;
use crate::ext4::format::directory::Entry;
use crate::ext4::format::features::Incompat;
use crate::ext4::format::inode::{APPEND, IMMUTABLE, INLINE_DATA, Inode, attributes, inline_attributes};
use crate::ext4::format::reader::{Reader, usize_of};

/// The largest file whose blocks are zeroed when it goes, in bytes. Larger ones are no secrets of ours.
pub(in crate::ext4) const MOST_ZEROED: u64 = 64 << 20;
/// What to do about a full file system.
const LARGER: &str = "make the image larger (nixpkgs: additionalSpace = \"512M\") or remove files from it";

/// The directory that a change is made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ext4) enum Parent {
    /// One that stands, by its inode.
    Standing(u32),
    /// One that an earlier change makes, by its place in the plan.
    Made(usize),
}

/// One change.
pub(in crate::ext4) struct ResolvedChange<'a> {
    /// Its absolute path.
    pub path: &'a str,
    /// The path's last component.
    pub name: &'a [u8],
    /// The directory that holds the name.
    pub parent: Parent,
    /// Permission bits; 0 for a removal, like the two below.
    pub mode: u16,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// SELinux label of a file or directory that is made.
    pub label: Option<&'a Label>,
    /// What is to be done.
    pub action: Action<'a>,
}

/// What a change does.
pub(in crate::ext4) enum Action<'a> {
    /// Makes a directory.
    MakeDirectory,
    /// Makes a file.
    Create {
        /// Its bytes.
        content: &'a Secret,
    },
    /// Makes a file under a temporary name, then takes the name from the file that stands.
    Replace {
        /// Its bytes.
        content: &'a Secret,
        /// The temporary name, in the same directory.
        temporary: Vec<u8>,
        /// The file that loses its name.
        old: Inode,
    },
    /// Changes permissions and owner of a file that stands.
    SetMetadata {
        /// The file.
        file: Inode,
    },
    /// Takes the name from the file that stands.
    Remove {
        /// The file that loses its name.
        old: Inode,
    },
    /// Takes away a directory, whose names all earlier changes have taken away.
    RemoveDirectory {
        /// The directory.
        old: Inode,
    },
}

impl ResolvedChange<'_> {
    /// The bytes of a file that is written.
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
    /// Seconds since 1970 for every time that is written.
    pub seconds: i64,
}

impl<'a> Resolved<'a> {
    /// What loses a name each: files that are replaced or removed, and directories.
    pub fn losers(&self) -> impl Iterator<Item = &Inode> {
        self.changes.iter().filter_map(|change| match &change.action {
            Action::Replace { old, .. } | Action::Remove { old } | Action::RemoveDirectory { old } => Some(old),
            Action::MakeDirectory | Action::Create { .. } | Action::SetMetadata { .. } => None,
        })
    }

    /// Resolves `changes`.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when there is no room or a directory is immutable, [`StorageError::Unsupported`] for what we
    /// could not read back, [`StorageError::Corrupt`] when the tree is damaged or not what `changes` were made for.
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

    /// Blocks that a file of `size` bytes needs: its content, and, without extents, the blocks that map it.
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

    /// Compares what the changes need with what is free.
    fn check_room(&self, reader: &Reader) -> Result<(), StorageError> {
        let mut blocks = reader.superblock.free_blocks;
        let mut inodes = reader.superblock.free_inodes;
        for change in &self.changes {
            let need = match (&change.action, change.content()) {
                (Action::SetMetadata { .. } | Action::Remove { .. } | Action::RemoveDirectory { .. }, _) => continue,
                (_, Some(content)) => Self::blocks_for(reader, content.len()),
                (_, None) => 1,
            };
            let need = need
                .saturating_add(u64::from(change.label.is_some_and(|label| !attributes::fits_inode(reader, label))));
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

/// The refusal of a change that needs more blocks than there are.
pub(in crate::ext4) fn no_space(path: &str, need: u64, free: u64) -> StorageError {
    let blocks = if need == 1 { "block" } else { "blocks" };
    StorageError::refused(format!("{path} needs {need} {blocks}, and the file system has {free} free"), LARGER)
}

/// The refusal of a change that needs an inode when there is none.
pub(in crate::ext4) fn no_inodes(path: &str) -> StorageError {
    StorageError::refused(
        format!("{path} needs 1 inode, and the file system has 0 free"),
        "make the file system with more inodes (mke2fs -N) or remove files from it",
    )
}

/// A directory as the planner sees it.
struct Directory {
    inode: Inode,
    names: BTreeMap<Vec<u8>, Entry>,
}

struct Planner<'r, 'a> {
    reader: &'r Reader,
    /// Directories that were read, by inode.
    directories: HashMap<u32, Directory>,
    /// Directories that the plan makes: path to place in the plan.
    made: BTreeMap<&'a str, usize>,
    /// Paths that have a change.
    seen: HashSet<&'a str>,
    /// What the changes so far do to the names of standing directories, by inode.
    touched: HashMap<u32, Touched<'a>>,
    /// Number of the next temporary name.
    temporary: u32,
}

/// What changes do to the names of a directory.
#[derive(Default)]
struct Touched<'a> {
    /// Names that are taken away.
    gone: HashSet<&'a [u8]>,
    /// Another name is made or changed.
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
        let standing = match parent {
            Parent::Standing(directory) => self.standing(directory, name)?,
            Parent::Made(_) => None,
        };
        let wrong = |what: &str| Err(StorageError::Corrupt(format!("{path}: {what}")));
        let label = change.label();
        label.map_or(Ok(()), |label| attributes::check_room(self.reader, label, path))?;
        let (mode, uid, gid, action) = match change {
            TreeChange::MakeDirectory { mode, uid, gid, .. } => {
                if standing.is_some() {
                    return wrong("it exists already");
                }
                self.check_changeable(parent, path)?;
                self.made.insert(path, place);
                (mode, uid, gid, Action::MakeDirectory)
            }
            TreeChange::WriteFile { content, mode, uid, gid, .. } => {
                self.check_changeable(parent, path)?;
                let action = match (standing, parent) {
                    (Some(old), Parent::Standing(directory)) => {
                        self.check_droppable(&old, path)?;
                        Action::Replace { content, temporary: self.temporary_name(directory), old }
                    }
                    _ => Action::Create { content },
                };
                (mode, uid, gid, action)
            }
            TreeChange::SetMetadata { mode, uid, gid, .. } => {
                let Some(file) = standing else { return wrong("it does not exist") };
                if file.kind != FileKind::File {
                    return wrong(&format!("it is {}", file.kind.name()));
                }
                check_flags(&file, path)?;
                (mode, uid, gid, Action::SetMetadata { file })
            }
            TreeChange::RemoveFile { .. } => {
                let Some(old) = standing else { return wrong("it does not exist") };
                self.check_changeable(parent, path)?;
                self.check_droppable(&old, path)?;
                self.check_zeroable(&old, path)?;
                (&0, &0, &0, Action::Remove { old })
            }
            TreeChange::RemoveDirectory { .. } => {
                let Some(old) = standing else { return wrong("it does not exist") };
                self.check_changeable(parent, path)?;
                check_flags(&old, path)?;
                (&0, &0, &0, Action::RemoveDirectory { old })
            }
        };
        let mode = u16::try_from(*mode).ok().filter(|mode| *mode <= 0o7777);
        let Some(mode) = mode else { return wrong("its mode has bits that are no permissions") };
        // The value that stands for "leave it" in chown(2).
        if *uid == u32::MAX || *gid == u32::MAX {
            return wrong("4294967295 is nobody's number");
        }
        if let Parent::Standing(directory) = parent {
            let touched = self.touched.entry(directory).or_default();
            match action {
                Action::Remove { .. } | Action::RemoveDirectory { .. } => drop(touched.gone.insert(name)),
                _ => touched.keeps = true,
            }
        }
        Ok(ResolvedChange { path, name, parent, mode, uid: *uid, gid: *gid, label, action })
    }

    /// True when a directory stands at `path` that the changes before this one empty, and that can be taken away.
    fn will_be_empty(&mut self, path: &str) -> Result<bool, StorageError> {
        let (above, name) = split(path)?;
        let Parent::Standing(parent) = self.resolve(above)? else { return Ok(false) };
        let Some(old) = self.standing(parent, name)? else { return Ok(false) };
        // What lies inside an inode, or in an inode of its own, is not ours to take apart.
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
            return Ok(Parent::Made(*place));
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
        Ok(Parent::Standing(number))
    }

    /// Reads directory `number`, once.
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

    fn standing(&mut self, directory: u32, name: &[u8]) -> Result<Option<Inode>, StorageError> {
        match self.directories.get(&directory).and_then(|directory| directory.names.get(name)) {
            Some(entry) => self.reader.inode(entry.inode).map(Some),
            None => Ok(None),
        }
    }

    /// Refuses a directory whose names must not change.
    fn check_changeable(&self, parent: Parent, path: &str) -> Result<(), StorageError> {
        match parent {
            Parent::Standing(number) => match self.directories.get(&number) {
                Some(directory) => check_flags(&directory.inode, split(path)?.0),
                None => Ok(()),
            },
            Parent::Made(_) => Ok(()),
        }
    }

    /// Refuses a file that cannot be replaced, or not without leaving something behind.
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

    /// True when an attribute lies in an inode of its own, which would have to go with it.
    fn has_attribute_elsewhere(&self, old: &Inode, path: &str) -> Result<bool, StorageError> {
        if !self.reader.superblock.features.incompat.has(Incompat::EA_INODE) {
            return Ok(false);
        }
        let mut outside = inline_attributes(old)?.iter().any(|attribute| attribute.value_inode != 0);
        if old.xattr_block != 0 {
            let block = self.reader.block(old.xattr_block)?;
            // Entries start behind a header of 32 bytes; values are placed from the block's start.
            let found = attributes(&block, 32)
                .ok_or_else(|| StorageError::Corrupt(format!("{path}: its attributes are damaged")))?;
            outside |= found.iter().any(|attribute| attribute.value_inode != 0);
        }
        Ok(outside)
    }

    /// Refuses to remove a file whose content would stay behind: it is larger than what is zeroed.
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

    /// A name that is free in `directory`. Depends on nothing but the tree and the changes.
    fn temporary_name(&mut self, directory: u32) -> Vec<u8> {
        loop {
            let name = format!(".deaddrop-{}", self.temporary).into_bytes();
            self.temporary = self.temporary.wrapping_add(1);
            let taken = self.directories.get(&directory).is_some_and(|found| found.names.contains_key(&name));
            // Ends: a directory has fewer names than there are numbers.
            if !taken {
                return name;
            }
        }
    }
}

/// Refuses what `chattr +i` or `+a` protects.
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

/// `time` as ext4 can store it: to 2446, or to 2038 in inodes of 128 bytes.
fn seconds_for(reader: &Reader, time: SystemTime) -> i64 {
    let most = if reader.superblock.inode_size > 128 { 0x3_7FFF_FFFF } else { i64::from(i32::MAX) };
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX).min(most)
}
