//! Carries out a plan on an overlay: the writer makes all changes, with zeros as content; then the values are written
//! into their blocks, and the blocks of old files are zeroed. Does not check the result: see `check`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use super::writer::{Failure, IgnoredFields, Writer};
use crate::device::overlay::Overlay;
use crate::ext4::ROOT;
use crate::ext4::change::resolve::{Action, MOST_ZEROED, Parent, Resolved, no_inodes, no_space};
use crate::ext4::format::bytes::le32;
use crate::ext4::format::checksum::crc32c;
use crate::ext4::format::group::Bitmap;
use crate::ext4::format::inode::Inode;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::guard::{self, Steps};

/// One call of the writer. Contains no value.
enum Call {
    MakeDirectory {
        parent: Parent,
        name: Vec<u8>,
        mode: u16,
        uid: u32,
        gid: u32,
    },
    Create {
        parent: Parent,
        name: Vec<u8>,
        path: String,
        mode: u16,
        uid: u32,
        gid: u32,
        size: usize,
    },
    /// Sets the SELinux label of the file or directory at `path`.
    Label {
        path: String,
        label: Vec<u8>,
    },
    SetMetadata {
        inode: u32,
        mode: u16,
        uid: u32,
        gid: u32,
    },
    Replace {
        parent: Parent,
        temporary: Vec<u8>,
        name: Vec<u8>,
    },
    Remove {
        parent: Parent,
        name: Vec<u8>,
    },
    RemoveDirectory {
        parent: Parent,
        name: Vec<u8>,
        inode: u32,
    },
}

/// Carries out `plan` on `overlay`, which is over the device of `before`.
///
/// # Errors
/// [`StorageError::Refused`] if space or inodes run out, [`StorageError::Corrupt`] if the writer fails. The overlay
/// must not be used then.
pub(in crate::ext4) fn write(before: &Reader, overlay: &Arc<Overlay>, resolved: &Resolved) -> Result<(), StorageError> {
    run_writer(before, overlay, resolved)?;
    let after = Reader::open(overlay.clone())?;
    let mut lookup = Lookup::new(&after);
    for change in &resolved.changes {
        if let Some(content) = change.content() {
            let file = lookup.find(change.path)?;
            write_content(&after, overlay, &file, content.expose())?;
        }
    }
    resolved.old_inodes().try_for_each(|old| zero_old_content(before, &after, overlay, old))
}

/// Finds inodes by their absolute paths, and reads each directory once. No links are followed.
pub(in crate::ext4) struct Lookup<'r> {
    reader: &'r Reader,
    directories: BTreeMap<String, Inode>,
}

impl<'r> Lookup<'r> {
    /// An empty lookup. Results are cached: only for a file system that does not change during its lifetime.
    pub(in crate::ext4) fn new(reader: &'r Reader) -> Self {
        Self { reader, directories: BTreeMap::new() }
    }

    /// The inode at `path`.
    ///
    /// # Errors
    /// If it does not exist, or a directory of its path is damaged.
    pub(in crate::ext4) fn find(&mut self, path: &str) -> Result<Inode, StorageError> {
        let Some((above, name)) = path.rsplit_once('/').filter(|(_, name)| !name.is_empty()) else {
            return self.reader.inode(ROOT);
        };
        if !self.directories.contains_key(above) {
            let directory = self.find(above)?;
            self.directories.insert(above.to_owned(), directory);
        }
        // OK to index: inserted above.
        let entry = self.reader.find(&self.directories[above], name.as_bytes())?;
        let entry = entry.ok_or_else(|| StorageError::Corrupt(format!("{path} is not there")))?;
        self.reader.inode(entry.inode)
    }
}

/// Runs the writer on its guarded thread.
fn run_writer(before: &Reader, overlay: &Arc<Overlay>, resolved: &Resolved) -> Result<(), StorageError> {
    let steps = steps_of(resolved);
    let budget = Steps::new(device_calls(before, resolved));
    let (disk, inside) = (Arc::clone(overlay), Arc::clone(&budget));
    let seconds = resolved.seconds;
    let seed = generation_seed(before, resolved);
    let ignored = if before.has_group_checksums() { None } else { Some(descriptor_table(before)?) };
    let changes = resolved.changes.len();
    let longest = Duration::from_secs(5) + Duration::from_millis(20) * u32::try_from(changes).unwrap_or(u32::MAX);
    let outcome = guard::run("the ext4 writer", &budget, longest, move || {
        let writer = Writer::open(disk, inside, ignored, seconds, seed).map_err(|failure| (None, failure))?;
        carry_out(&writer, &steps, changes)
    })?;
    let Err((place, failure)) = outcome else { return Ok(()) };
    let path = place.and_then(|place| resolved.changes.get(place)).map_or("the file system", |change| change.path);
    if overlay.is_full() {
        return Err(StorageError::refused(
            "the changes need more memory than deaddrop takes for them",
            "write fewer or smaller files in one run",
        ));
    }
    let free = Reader::open(overlay.clone()).map_or(0, |after| after.superblock.free_blocks);
    Err(match failure {
        Failure::NoSpace => {
            let need = place
                .and_then(|place| resolved.changes.get(place))
                .and_then(|change| change.content())
                .map_or(1, |content| Resolved::blocks_for(before, content.len()));
            if need > 1 && need <= free {
                StorageError::refused(
                    format!("{path} needs {need} blocks in one piece, and the file system has no such piece"),
                    "make the image larger (nixpkgs: additionalSpace = \"512M\") or remove files from it",
                )
            } else {
                no_space(path, need.max(1), free)
            }
        }
        Failure::NoInodes => no_inodes(path),
        Failure::Other(what) => StorageError::Corrupt(format!("{path}: the ext4 writer gave up: {what}")),
    })
}

/// The writer's calls in order: everything new first, then replacements and removals, which free old blocks. Each with
/// the index of its change in the plan.
fn steps_of(resolved: &Resolved) -> Vec<(usize, Call)> {
    let mut steps = Vec::new();
    for (place, change) in resolved.changes.iter().enumerate() {
        let (parent, mode, uid, gid) = (change.parent, change.mode, change.uid, change.gid);
        let name = change.name.to_vec();
        let mut path = change.path.to_owned();
        steps.push((
            place,
            match &change.action {
                Action::MakeDirectory => Call::MakeDirectory { parent, name, mode, uid, gid },
                Action::Create { content } => {
                    Call::Create { parent, name, path: path.clone(), mode, uid, gid, size: content.len() }
                }
                Action::Replace { content, temporary, .. } => {
                    // Cannot fail: the path is absolute, and the temporary name is ASCII.
                    let above = change.path.rsplit_once('/').map_or("", |(above, _)| above);
                    path = format!("{above}/{}", String::from_utf8_lossy(temporary));
                    let (name, path) = (temporary.clone(), path.clone());
                    Call::Create { parent, name, path, mode, uid, gid, size: content.len() }
                }
                Action::SetMetadata { file } => Call::SetMetadata { inode: file.number, mode, uid, gid },
                Action::Remove { .. } | Action::RemoveDirectory { .. } => continue,
            },
        ));
        if let Some(label) = change.label {
            steps.push((place, Call::Label { path, label: label.value().to_vec() }));
        }
    }
    for (place, change) in resolved.changes.iter().enumerate() {
        let (parent, name) = (change.parent, change.name.to_vec());
        match &change.action {
            Action::Replace { temporary, .. } => {
                steps.push((place, Call::Replace { parent, temporary: temporary.clone(), name }));
            }
            Action::Remove { .. } => steps.push((place, Call::Remove { parent, name })),
            Action::RemoveDirectory { old } => {
                steps.push((place, Call::RemoveDirectory { parent, name, inode: old.number }));
            }
            Action::MakeDirectory | Action::Create { .. } | Action::SetMetadata { .. } => {}
        }
    }
    steps
}

/// Makes the calls. The error names the change that failed, by its index in the plan.
fn carry_out(writer: &Writer, steps: &[(usize, Call)], changes: usize) -> Result<(), (Option<usize>, Failure)> {
    // Inodes of new directories, by the index of their change in the plan.
    let mut made = vec![None; changes];
    let mut touched = std::collections::BTreeSet::new();
    for (place, step) in steps {
        let place = *place;
        let failed = |failure| (Some(place), failure);
        let find = |parent: &Parent| match parent {
            Parent::Existing(inode) => Ok(*inode),
            Parent::New(place) => made
                .get(*place)
                .copied()
                .flatten()
                .ok_or_else(|| failed(Failure::Other("a directory was not made before what is in it".into()))),
        };
        match step {
            Call::MakeDirectory { parent, name, mode, uid, gid } => {
                let parent = find(parent)?;
                let inode = writer.make_directory(parent, name, *mode).map_err(failed)?;
                writer.set_metadata(inode, *mode, *uid, *gid).map_err(failed)?;
                touched.insert(parent);
                if let Some(made) = made.get_mut(place) {
                    *made = Some(inode);
                }
            }
            Call::Create { parent, name, path, mode, uid, gid, size } => {
                let parent = find(parent)?;
                let inode = writer.create(parent, name, path, *mode, *size).map_err(failed)?;
                // The writer creates it with its mode, owned by root.
                if (*uid, *gid) != (0, 0) {
                    writer.set_metadata(inode, *mode, *uid, *gid).map_err(failed)?;
                }
                touched.insert(parent);
            }
            Call::Label { path, label } => writer.label(path, label).map_err(failed)?,
            Call::SetMetadata { inode, mode, uid, gid } => {
                writer.set_metadata(*inode, *mode, *uid, *gid).map_err(failed)?;
            }
            Call::Replace { parent, temporary, name } => {
                writer.replace(find(parent)?, temporary, name).map_err(failed)?;
            }
            Call::Remove { parent, name } => {
                let parent = find(parent)?;
                writer.remove(parent, name).map_err(failed)?;
                touched.insert(parent);
            }
            Call::RemoveDirectory { parent, name, inode } => {
                let parent = find(parent)?;
                writer.remove_directory(parent, name).map_err(failed)?;
                touched.insert(parent);
                touched.remove(inode);
            }
        }
    }
    touched.into_iter().try_for_each(|inode| writer.touch(inode).map_err(|failure| (None, failure)))
}

/// The location of the group descriptors.
fn descriptor_table(before: &Reader) -> Result<IgnoredFields, StorageError> {
    // One contiguous table: `meta_bg` is refused.
    let start = before.block_offset(before.descriptor_place(0)?.0)?;
    Ok(IgnoredFields { start, size: usize::from(before.superblock.descriptor_size), count: before.geometry.groups })
}

/// Maximum number of device calls of the writer: several times the needs of a sound file system.
fn device_calls(before: &Reader, resolved: &Resolved) -> u64 {
    let blocks: u64 = resolved
        .changes
        .iter()
        .map(|change| change.content().map_or(1, |content| Resolved::blocks_for(before, content.len())))
        .sum();
    let changes = u64::try_from(resolved.changes.len()).unwrap_or(u64::MAX);
    // Each call into the crate reads its directory and searches for free space, in the worst case in every group.
    let each = 2_000_u64.saturating_add(u64::from(before.geometry.groups).saturating_mul(8));
    50_000_u64.saturating_add(changes.saturating_mul(each)).saturating_add(blocks.saturating_mul(50))
}

/// The seed for generations of new inodes: depends only on the image and on the run.
fn generation_seed(before: &Reader, resolved: &Resolved) -> u32 {
    let seed = crc32c(!0, &before.superblock.uuid);
    let seed = crc32c(seed, &resolved.seconds.to_le_bytes());
    // Free inodes (0x10): a later run in the same second starts from another count.
    crc32c(seed, &le32(&before.superblock.raw, 0x10).to_le_bytes())
}

/// Writes `content` into the blocks of `file`, which contains as many zeros.
fn write_content(after: &Reader, overlay: &Overlay, file: &Inode, content: &[u8]) -> Result<(), StorageError> {
    let map = after.map(file)?;
    for (logical, part) in (0_u64..).zip(content.chunks(usize_of(after.geometry.block_size))) {
        let block = map
            .find(logical)
            .ok_or_else(|| StorageError::Corrupt(format!("ext4: inode {} has a hole", file.number)))?;
        overlay
            .write_at(after.block_offset(block)?, part)
            .map_err(|error| StorageError::io("writing in memory", error))?;
    }
    Ok(())
}

/// Zeroes the blocks of the content of `old`, if they are free now.
fn zero_old_content(before: &Reader, after: &Reader, overlay: &Overlay, old: &Inode) -> Result<(), StorageError> {
    let map = before.map(old)?;
    if map.content_blocks().saturating_mul(u64::from(before.geometry.block_size)) > MOST_ZEROED {
        return Ok(());
    }
    let zeros = Wiped::zeros(usize_of(before.geometry.block_size));
    let mut known: Option<(u32, Bitmap)> = None;
    for block in map.content() {
        let number = after.group_of_block(block)?;
        let bitmap = match known.take() {
            Some((group, bitmap)) if group == number => bitmap,
            _ => after.block_bitmap(&after.group(number)?)?,
        };
        let bit = u32::try_from(block - after.first_block_of(number)).unwrap_or(u32::MAX);
        let used = bitmap.get(bit);
        known = Some((number, bitmap));
        if !used {
            overlay
                .write_at(after.block_offset(block)?, &zeros)
                .map_err(|error| StorageError::io("writing in memory", error))?;
        }
    }
    Ok(())
}
