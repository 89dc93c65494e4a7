//! All entries of an archive: the names that it makes, and what each leads to when it is extracted.
//!
//! Entries are taken in order, as an extracting program does: a later entry of a name replaces an earlier one, and a hard
//! link is to what its target is at that moment. Where programs do not agree what comes out, the archive is refused.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::tree::FileKind;

use super::header::Form;
use super::member::{Blocks, Kind, Member, unsupported};
use super::records;
use crate::device::ReadAt;

/// Maximum number of entries, and of names with the directories above them.
const MOST: usize = 1_000_000;
/// No name, or no entry.
pub(super) const NONE: u32 = u32::MAX;
/// The number of the top directory, as a name and as an inode.
pub(super) const ROOT: u32 = 0;

/// An archive, read as a whole. Contents stay in the file.
pub struct Archive {
    pub(super) device: Arc<dyn ReadAt>,
    pub(super) names: Vec<Name>,
    pub(super) inodes: Vec<Inode>,
    /// Every hard link, in order.
    pub(super) links: Vec<HardLink>,
    /// The newest name of each hash.
    lookup: HashMap<u64, u32>,
    hasher: RandomState,
    /// Number of entries.
    pub(super) count: u64,
    /// Offset behind the last entry.
    pub(super) end: u64,
    pub(super) style: Style,
}

/// A name in a directory.
pub(super) struct Name {
    /// The directory.
    pub(super) parent: u32,
    pub(super) name: Box<[u8]>,
    /// What it leads to now.
    pub(super) inode: u32,
    /// The newest name in it, if it is a directory.
    pub(super) first_child: u32,
    /// The next older name in its directory.
    pub(super) next: u32,
    /// The next older name of the same hash.
    next_of_hash: u32,
}

/// A file, directory, or link, made by an entry; or a directory that no entry makes.
pub(super) struct Inode {
    /// Offset of its entry; `None` for a directory that is only above others.
    pub(super) member: Option<u64>,
    /// The name that its entry has.
    pub(super) name: u32,
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) modified: i64,
    /// Number of names.
    pub(super) links: u32,
}

/// A hard link.
pub(super) struct HardLink {
    pub(super) member: u64,
    pub(super) name: u32,
    /// Its target: the name, and what that was then.
    pub(super) to: u32,
    pub(super) inode: u32,
}

/// How the archive writes its entries, so that new ones are like them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) form: Form,
    /// Names begin with "./".
    pub(super) dotted: bool,
    /// The record with a SELinux label.
    pub(super) label_key: &'static str,
}

/// The records that programs write labels to: GNU tar with `--xattrs`, bsdtar and Go; GNU tar with `--selinux`.
pub(super) const LABEL_KEYS: [&str; 2] = ["SCHILY.xattr.security.selinux", "RHT.security.selinux"];

impl Archive {
    /// Reads the entries of the archive in `device`.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged; `Unsupported` for what programs do not agree about, or more entries than the limit;
    /// `Io`.
    pub fn read(device: Arc<dyn ReadAt>) -> Result<Self, StorageError> {
        let root = Inode::directory_above(ROOT);
        let top =
            Name { parent: ROOT, name: Box::new([]), inode: ROOT, first_child: NONE, next: NONE, next_of_hash: NONE };
        let mut archive = Self {
            device: Arc::clone(&device),
            names: vec![top],
            inodes: vec![root],
            links: Vec::new(),
            lookup: HashMap::new(),
            hasher: RandomState::new(),
            count: 0,
            end: 0,
            style: Style { form: Form::Old, dotted: false, label_key: LABEL_KEYS[0] },
        };
        let mut blocks = Blocks::new(&*device);
        let mut dotted = 0_u64;
        while let Some(member) = blocks.member(archive.end)? {
            archive.end = member.end;
            archive.count = archive.count.saturating_add(1);
            if archive.count > u64::try_from(MOST).unwrap_or(u64::MAX) {
                return Err(too_many());
            }
            dotted = dotted.saturating_add(u64::from(member.name.starts_with(b"./")));
            archive.learn(&member);
            archive.add(&member)?;
        }
        archive.style.dotted = dotted > archive.count / 2;
        Ok(archive)
    }

    /// Takes the style from the first entry of each kind.
    fn learn(&mut self, member: &Member) {
        if self.count == 1 {
            self.style.form = member.block.form();
        }
        if records::get(&member.records, LABEL_KEYS[1]).is_some() {
            self.style.label_key = LABEL_KEYS[1];
        }
    }

    fn add(&mut self, member: &Member) -> Result<(), StorageError> {
        if member.kind == Kind::Label {
            return Ok(());
        }
        let path = components(&member.name).map_err(|why| unsupported(&member.name, why))?;
        let inode = match member.kind {
            Kind::HardLink => self.target(member)?,
            _ => self.new_inode(member)?,
        };
        let name = self.make_path(&path, member)?;
        let is_directory = self.inodes[at(inode)].kind == FileKind::Directory;
        if name == ROOT && !is_directory {
            return Err(unsupported(&member.name, "is the top of the tree, and no directory"));
        }
        if !is_directory && self.names[at(name)].first_child != NONE {
            return Err(unsupported(&member.name, "is no directory, and others are below it"));
        }
        if member.kind == Kind::HardLink {
            let to = self.look(&member.link).filter(|to| *to != name);
            let to = to.ok_or_else(|| unsupported(&member.name, "is a hard link to itself"))?;
            self.links.push(HardLink { member: member.start, name, to, inode });
        } else {
            self.inodes[at(inode)].name = name;
        }
        let old = std::mem::replace(&mut self.names[at(name)].inode, inode);
        if old != NONE {
            let old = &mut self.inodes[at(old)];
            old.links = old.links.saturating_sub(1);
        }
        let inode = &mut self.inodes[at(inode)];
        inode.links = inode.links.saturating_add(1);
        Ok(())
    }

    /// What a hard link leads to.
    fn target(&self, member: &Member) -> Result<u32, StorageError> {
        let nothing = || unsupported(&member.name, "is a hard link to what is not before it");
        components(&member.link).map_err(|why| unsupported(&member.name, why))?;
        let inode = self.look(&member.link).map(|name| self.names[at(name)].inode).ok_or_else(nothing)?;
        match self.inodes[at(inode)].kind {
            FileKind::Directory => Err(unsupported(&member.name, "is a hard link to a directory")),
            _ => Ok(inode),
        }
    }

    fn new_inode(&mut self, member: &Member) -> Result<u32, StorageError> {
        let kind = match member.kind {
            Kind::File | Kind::HardLink | Kind::Label => FileKind::File,
            Kind::Symlink => FileKind::Symlink,
            Kind::CharacterDevice => FileKind::CharacterDevice,
            Kind::BlockDevice => FileKind::BlockDevice,
            Kind::Directory => FileKind::Directory,
            Kind::Fifo => FileKind::Fifo,
        };
        let size = if kind == FileKind::Symlink { length(&member.link) } else { member.size() };
        let Member { mode, uid, gid, modified, .. } = *member;
        let inode = Inode { member: Some(member.start), name: NONE, kind, mode, uid, gid, size, modified, links: 0 };
        self.push_inode(inode)
    }

    fn push_inode(&mut self, inode: Inode) -> Result<u32, StorageError> {
        let number = u32::try_from(self.inodes.len()).ok().filter(|_| self.inodes.len() < MOST);
        self.inodes.push(inode);
        number.ok_or_else(too_many)
    }

    /// The name at a path; it and the directories above it are made.
    fn make_path(&mut self, path: &[&[u8]], member: &Member) -> Result<u32, StorageError> {
        let mut here = ROOT;
        for (depth, name) in path.iter().enumerate() {
            if depth > 0 && self.names[at(here)].inode == NONE {
                let inode = self.push_inode(Inode::directory_above(here))?;
                self.names[at(here)].inode = inode;
            }
            let above = self.names[at(here)].inode;
            let kind = self.inodes.get(at(above)).map_or(FileKind::Directory, |inode| inode.kind);
            if kind != FileKind::Directory {
                // Whether a program follows a link there, and where it leads on its machine, is not known.
                let why = format!("lies below what is {}", kind.name());
                return Err(unsupported(&member.name, &why));
            }
            here = match self.find(here, name) {
                Some(found) => found,
                None => self.push_name(here, name)?,
            };
        }
        Ok(here)
    }

    fn push_name(&mut self, parent: u32, name: &[u8]) -> Result<u32, StorageError> {
        let number = u32::try_from(self.names.len()).ok().filter(|_| self.names.len() < MOST).ok_or_else(too_many)?;
        let hash = self.hasher.hash_one((parent, name));
        let next_of_hash = self.lookup.insert(hash, number).unwrap_or(NONE);
        let next = std::mem::replace(&mut self.names[at(parent)].first_child, number);
        self.names.push(Name { parent, name: name.into(), inode: NONE, first_child: NONE, next, next_of_hash });
        Ok(number)
    }

    /// The entry `name` of a directory.
    pub(super) fn find(&self, directory: u32, name: &[u8]) -> Option<u32> {
        let mut number = *self.lookup.get(&self.hasher.hash_one((directory, name)))?;
        loop {
            let found = self.names.get(at(number))?;
            if found.parent == directory && *found.name == *name {
                return Some(number);
            }
            number = found.next_of_hash;
        }
    }

    /// The name at a path as an entry writes it; links are not followed.
    pub(super) fn look(&self, path: &[u8]) -> Option<u32> {
        components(path).ok()?.iter().try_fold(ROOT, |directory, name| self.find(directory, name))
    }

    /// The name at an absolute path of the tree.
    pub(super) fn look_up(&self, path: &str) -> Option<u32> {
        self.look(path.trim_start_matches('/').as_bytes())
    }

    /// What a name leads to.
    pub(super) fn inode_of(&self, name: u32) -> (u32, &Inode) {
        // OK to index, as everywhere here: the numbers are our own, and every name has an inode once all are read.
        let inode = self.names[at(name)].inode;
        (inode, &self.inodes[at(inode)])
    }

    /// The names in a directory, oldest first.
    pub(super) fn list(&self, directory: u32) -> Vec<u32> {
        let first = self.names.get(at(directory)).map_or(NONE, |name| name.first_child);
        let numbers = std::iter::successors(Some(first), |number| self.names.get(at(*number)).map(|name| name.next));
        let mut children: Vec<u32> = numbers.take_while(|number| *number != NONE).collect();
        children.reverse();
        children
    }

    /// The path of a name, as the archive writes it.
    pub(super) fn written(&self, path: &[u8]) -> Vec<u8> {
        let dot: &[u8] = if self.style.dotted { b"./" } else { b"" };
        [dot, path].concat()
    }

    /// The entry at an offset, read again.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn member(&self, start: u64) -> Result<Member, StorageError> {
        let member = Blocks::new(&*self.device).member(start)?;
        member.ok_or_else(|| StorageError::corrupt("the tar was changed while it was read"))
    }

    /// Number of entries.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.count
    }

    /// The form of its headers: "pax", "gnu", "v7".
    #[must_use]
    pub fn form(&self) -> &'static str {
        match self.style.form {
            Form::Posix => "pax",
            Form::Gnu => "gnu",
            Form::Old => "v7",
        }
    }
}

impl Inode {
    /// A directory that no entry makes, as extracting programs make it.
    fn directory_above(name: u32) -> Self {
        let (uid, gid, size, modified) = (0, 0, 0, 0);
        Self { member: None, name, kind: FileKind::Directory, mode: 0o755, uid, gid, size, modified, links: 1 }
    }
}

/// A number as an index.
pub(super) fn at(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The components of a path as an entry writes it. What leads out of the tree is refused, as extracting programs do.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.starts_with(b"/") {
        return Err("has an absolute name");
    }
    let all: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if path.is_empty() {
        return Err("has no name");
    }
    if all.contains(&&b".."[..]) { Err("has `..` in its name") } else { Ok(all) }
}

fn too_many() -> StorageError {
    StorageError::unsupported(
        "the tar has over 1,000,000 entries, with the directories above them",
        "extract it, and inject into the directory",
    )
}
