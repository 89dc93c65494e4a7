//! What a change of the tree changes in the archive: which entries go, which are written anew, and what is added.
//!
//! All other entries keep their bytes and their order. A new file stands where the last entry of its name stood, so that
//! its directory is before it; what had no entry comes last. All entries of a replaced name go: an earlier one may hold
//! an earlier value. But a file has other names if there are hard links to it: the first of those takes over its content,
//! and the others become links to that one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::SystemTime;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::tree::{FileKind, Label, TreeChange};

use super::header::STEP;
use super::index::{Archive, HardLink, Inode, at};
use super::member::{reading, unsupported};
use super::write::{self, Change, New, Rights};
use crate::device::ReadAt;

/// A piece of the new archive.
pub(super) enum Piece {
    /// Bytes of the old one.
    Old(Range<u64>),
    /// New bytes, which may be a value.
    New(Wiped),
}

/// What stands in the place of an entry.
struct Edit {
    /// Offset behind the entry.
    end: u64,
    pieces: Vec<Piece>,
}

/// The new archive, and what is to be found in it.
pub(super) struct Plan<'a> {
    pub(super) pieces: Vec<Piece>,
    pub(super) expected: Vec<Expected<'a>>,
}

/// What the archive must hold of a change.
pub(super) struct Expected<'a> {
    /// The path without a slash at its start.
    pub(super) path: &'a str,
    /// `None` if no entry may have the path.
    pub(super) rights: Option<Rights>,
    /// The content of a new file.
    pub(super) content: Option<&'a [u8]>,
}

/// Plans the new archive. `time` becomes the time of new files and directories.
///
/// # Errors
/// `Unsupported` for hard links that cannot be kept; `Corrupt` if a change does not fit the tree; `Io`.
pub(super) fn plan<'a>(
    archive: &Archive,
    changes: &'a [TreeChange],
    time: SystemTime,
) -> Result<Plan<'a>, StorageError> {
    let modified = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let made = (0_u32..).zip(&archive.inodes).filter_map(|(number, made)| Some((made.name, made.member?, number)));
    let linked = archive.links.iter().map(|link| (link.name, link.member, link.inode));
    let mut entries: Vec<(u32, u64, u32)> = made.chain(linked).collect();
    entries.sort_unstable();
    let mut links: BTreeMap<u32, Vec<&HardLink>> = BTreeMap::new();
    archive.links.iter().for_each(|link| links.entry(link.inode).or_default().push(link));
    let mut planner = Planner {
        archive,
        entries,
        links,
        modified,
        gone: BTreeSet::new(),
        rights: BTreeMap::new(),
        edits: BTreeMap::new(),
        added: Vec::new(),
    };
    let mut expected = Vec::new();
    for change in changes {
        expected.extend(planner.mark(change, changes)?);
    }
    planner.settle_links()?;
    planner.change_rights()?;
    for change in changes {
        planner.write(change)?;
    }
    Ok(Plan { pieces: planner.pieces()?, expected })
}

struct Planner<'a> {
    archive: &'a Archive,
    modified: u64,
    /// The names whose entries go.
    gone: BTreeSet<u32>,
    /// New rights of inodes.
    rights: BTreeMap<u32, Rights>,
    /// By the offset of the entry.
    edits: BTreeMap<u64, Edit>,
    added: Vec<Piece>,
    /// Every entry: its name, its offset, and what it made or led to. Sorted.
    entries: Vec<(u32, u64, u32)>,
    /// The hard links to each inode, in order.
    links: BTreeMap<u32, Vec<&'a HardLink>>,
}

impl<'a> Planner<'a> {
    /// Marks what goes, and what changes its rights. Returns what must be found in the end.
    fn mark<'c>(&mut self, change: &'c TreeChange, all: &[TreeChange]) -> Result<Option<Expected<'c>>, StorageError> {
        let name = self.archive.look_up(change.path());
        let path = change.path().trim_start_matches('/');
        let kind = name.map(|name| self.archive.inode_of(name).1.kind);
        let unfit = || Err(StorageError::corrupt(format!("{} is not what it was planned as", change.path())));
        match change {
            TreeChange::MakeDirectory { mode, uid, gid, .. } => {
                let rights = Rights { mode: *mode, uid: *uid, gid: *gid };
                let expected = Expected { path, rights: Some(rights), content: None };
                if name.is_some() { unfit() } else { Ok(Some(expected)) }
            }
            TreeChange::WriteFile { mode, uid, gid, content, .. } => {
                if kind.is_some_and(|kind| kind != FileKind::File) {
                    return unfit();
                }
                self.gone.extend(name);
                let rights = Rights { mode: *mode, uid: *uid, gid: *gid };
                Ok(Some(Expected { path, rights: Some(rights), content: Some(content.expose()) }))
            }
            TreeChange::SetMetadata { mode, uid, gid, .. } => {
                let Some(name) = name.filter(|_| kind == Some(FileKind::File)) else { return unfit() };
                let rights = Rights { mode: *mode, uid: *uid, gid: *gid };
                self.rights.insert(self.archive.inode_of(name).0, rights);
                Ok(Some(Expected { path, rights: Some(rights), content: None }))
            }
            TreeChange::RemoveFile { .. } => {
                let Some(name) = name.filter(|_| kind == Some(FileKind::File)) else { return unfit() };
                self.gone.insert(name);
                Ok(Some(Expected { path, rights: None, content: None }))
            }
            TreeChange::RemoveDirectory { path: directory } => {
                let below = format!("{directory}/");
                let makes = |change: &TreeChange| {
                    let is_new = matches!(change, TreeChange::MakeDirectory { .. } | TreeChange::WriteFile { .. });
                    is_new && change.path().starts_with(&below)
                };
                let Some(name) = name.filter(|_| kind == Some(FileKind::Directory)) else { return Ok(None) };
                let is_empty = self.archive.list(name).iter().all(|child| self.gone.contains(child));
                if is_empty && !all.iter().any(makes) {
                    self.gone.insert(name);
                    return Ok(Some(Expected { path, rights: None, content: None }));
                }
                Ok(None)
            }
        }
    }

    /// Drops the entries of names that go, and keeps what other names have of them.
    fn settle_links(&mut self) -> Result<(), StorageError> {
        let touched: BTreeSet<u32> =
            self.entries.iter().filter(|(name, ..)| self.gone.contains(name)).map(|(.., inode)| *inode).collect();
        for number in touched {
            let links = self.links.get(&number).cloned().unwrap_or_default();
            self.settle(number, &self.archive.inodes[at(number)], &links)?;
        }
        Ok(())
    }

    fn settle(&mut self, number: u32, inode: &Inode, links: &[&HardLink]) -> Result<(), StorageError> {
        let Some(start) = inode.member else { return Ok(()) };
        let owner = self.archive.member(start)?;
        let (going, staying): (Vec<&HardLink>, Vec<&HardLink>) =
            links.iter().partition(|link| self.gone.contains(&link.name));
        for link in going {
            let end = self.archive.member(link.member)?.end;
            self.edits.insert(link.member, Edit { end, pieces: Vec::new() });
        }
        let (keeper, since, others) = match (self.gone.contains(&inode.name), staying.split_first()) {
            (false, _) => (owner.name.clone(), start, &staying[..]),
            (true, heirs) => {
                self.edits.insert(start, Edit { end: owner.end, pieces: Vec::new() });
                let Some((heir, others)) = heirs else { return Ok(()) };
                let link = self.archive.member(heir.member)?;
                let change = Change { name: Some(&link.name), link: None, rights: self.rights.get(&number).copied() };
                let pieces =
                    vec![Piece::New(write::changed(&owner, &change).into()), Piece::Old(owner.rest..owner.end)];
                self.edits.insert(heir.member, Edit { end: link.end, pieces });
                (link.name, heir.member, others)
            }
        };
        // Where that name gets another file.
        let taken = self.archive.look(&keeper).and_then(|name| {
            let behind = self.entries_of(name).iter().filter(|(_, entry, _)| *entry > since);
            behind.clone().find(|(.., inode)| *inode != number).map(|(_, entry, _)| *entry)
        });
        for link in others.iter().filter(|link| self.gone.contains(&link.to)) {
            let member = self.archive.member(link.member)?;
            if taken.is_some_and(|taken| taken < link.member) {
                let why = "is a hard link to a file whose names are used twice, and it cannot be kept";
                return Err(unsupported(&member.name, why));
            }
            let change = Change { name: None, link: Some(&keeper), rights: self.rights.get(&number).copied() };
            let pieces = vec![Piece::New(write::changed(&member, &change).into()), Piece::Old(member.rest..member.end)];
            self.edits.insert(link.member, Edit { end: member.end, pieces });
        }
        Ok(())
    }

    /// The entries of a name.
    fn entries_of(&self, name: u32) -> &[(u32, u64, u32)] {
        let start = self.entries.partition_point(|(other, ..)| *other < name);
        let end = self.entries.partition_point(|(other, ..)| *other <= name);
        self.entries.get(start..end).unwrap_or_default()
    }

    /// Writes new rights into all entries of an inode.
    fn change_rights(&mut self) -> Result<(), StorageError> {
        for (number, rights) in self.rights.clone() {
            let entry = self.archive.inodes[at(number)].member;
            let links = self.links.get(&number).cloned().unwrap_or_default();
            for start in entry.into_iter().chain(links.iter().map(|link| link.member)) {
                if self.edits.contains_key(&start) {
                    // It goes, or it was written with its rights.
                    continue;
                }
                let member = self.archive.member(start)?;
                let header = write::changed(&member, &Change { rights: Some(rights), ..Change::default() });
                let pieces = vec![Piece::New(header.into()), Piece::Old(member.rest..member.end)];
                self.edits.insert(start, Edit { end: member.end, pieces });
            }
        }
        Ok(())
    }

    /// Drops a directory's entries, or writes a new file or directory.
    fn write(&mut self, change: &TreeChange) -> Result<(), StorageError> {
        let name = self.archive.look_up(change.path());
        match change {
            TreeChange::MakeDirectory { path, mode, uid, gid, label } => {
                let rights = Rights { mode: *mode, uid: *uid, gid: *gid };
                let pieces = self.entry(path, rights, None, label.as_ref());
                self.added.extend(pieces);
            }
            TreeChange::WriteFile { path, content, mode, uid, gid, label } => {
                let rights = Rights { mode: *mode, uid: *uid, gid: *gid };
                let pieces = self.entry(path, rights, Some(content.expose()), label.as_ref());
                let last = name.and_then(|name| self.entries_of(name).last()).map(|(_, start, _)| *start);
                match last.and_then(|start| self.edits.get_mut(&start)) {
                    Some(edit) => edit.pieces = pieces,
                    None => self.added.extend(pieces),
                }
            }
            TreeChange::SetMetadata { .. } | TreeChange::RemoveFile { .. } | TreeChange::RemoveDirectory { .. } => {}
        }
        Ok(())
    }

    /// A new entry.
    fn entry(&self, path: &str, rights: Rights, content: Option<&[u8]>, label: Option<&Label>) -> Vec<Piece> {
        let slash = if content.is_none() { "/" } else { "" };
        let name = self.archive.written(format!("{}{slash}", path.trim_start_matches('/')).as_bytes());
        let size = content.map(length);
        let new = New { name: &name, rights, size, modified: self.modified, label };
        let mut pieces = vec![Piece::New(write::new(self.archive.style, &new).into())];
        let content = content.unwrap_or_default();
        if !content.is_empty() {
            // Made as long as it becomes, so that no copy of it is left behind.
            let mut padded = Wiped::zeros(content.len().next_multiple_of(usize::try_from(STEP).unwrap_or(1)));
            padded[..content.len()].copy_from_slice(content);
            pieces.push(Piece::New(padded));
        }
        pieces
    }

    /// The whole new archive.
    fn pieces(self) -> Result<Vec<Piece>, StorageError> {
        let mut pieces = Vec::new();
        let mut here = 0;
        for (start, edit) in self.edits {
            if start < here {
                return Err(StorageError::corrupt("two changes to one entry of the tar"));
            }
            pieces.push(Piece::Old(here..start));
            pieces.extend(edit.pieces);
            here = edit.end;
        }
        pieces.push(Piece::Old(here..self.archive.end));
        pieces.extend(self.added);
        let size = pieces.iter().fold(0_u64, |sum, piece| sum.saturating_add(piece.size()));
        pieces.push(ending(&*self.archive.device, self.archive.end, size)?);
        pieces.retain(|piece| piece.size() > 0);
        Ok(pieces)
    }
}

impl Piece {
    /// Number of bytes.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Old(range) => range.end.saturating_sub(range.start),
            Self::New(bytes) => length(bytes),
        }
    }
}

/// Blocking factors that are in use, in blocks: the usual one, and those of faster tapes. With any other, the padding
/// stays as long as it is.
const FACTORS: [u64; 8] = [20, 32, 64, 128, 256, 512, 1024, 2048];

/// What follows the last entry of the archive in `device`, which ends at `end`, `size` bytes after the start of the new
/// one. It stays as it is, but for the padding of a record: that
/// fills the last one again.
pub(super) fn ending(device: &dyn ReadAt, end: u64, size: u64) -> Result<Piece, StorageError> {
    let whole = device.size();
    let tail = end..whole;
    let length = tail.end.saturating_sub(tail.start);
    let fills = |record: &u64| whole.is_multiple_of(*record) && (END..record.saturating_add(END)).contains(&length);
    let Some(record) = FACTORS.iter().map(|blocks| blocks.saturating_mul(STEP)).find(fills) else {
        return Ok(Piece::Old(tail));
    };
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    device.read_exact_at(tail.start, &mut bytes).map_err(reading)?;
    if bytes.iter().any(|byte| *byte != 0) {
        return Ok(Piece::Old(tail));
    }
    let end = size.saturating_add(END).checked_next_multiple_of(record).unwrap_or(size);
    Ok(Piece::New(Wiped::zeros(usize::try_from(end.saturating_sub(size)).unwrap_or(0))))
}

/// The two blocks of zeros at the end of an archive.
const END: u64 = 2 * STEP;
