//! Removes the content of replaced and removed files: it is overwritten while the files are still open, then their
//! space is given back to the file below as holes.
//!
//! ext4 and xfs overwrite a file in its blocks. btrfs never does: there only the holes help; they also cover old leaves
//! of its trees, which contain small files completely.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use deaddrop_core::tree::directory::transaction::Dropped;
use deaddrop_core::tree::walk;
use deaddrop_core::{sys, text};
use nix::errno::Errno;

use crate::mount::Mount;
use crate::table::probe::ContentKind;

/// Larger files are not deaddrop's secrets, and are not overwritten (their blocks still become holes).
const LIMIT: u64 = 64 << 20;

/// The result for the old files.
#[derive(Default)]
pub(super) struct OldContent {
    /// True if some of their content is in free blocks now.
    is_free: bool,
    /// Notes about content that remains, and where.
    pub(super) notes: Vec<String>,
}

/// Overwrites and closes `dropped`, files without names, on file systems that overwrite in place.
pub(super) fn overwrite(kind: ContentKind, dropped: Vec<Dropped>) -> OldContent {
    let mut old_content = OldContent::default();
    let mut shared = Vec::new();
    for Dropped { path, file } in dropped {
        match file.map_err(io::Error::from).and_then(|file| overwrite_one(&file, kind)) {
            Ok(Fate::Gone | Fate::OtherNames) => {}
            Ok(Fate::Shared) => shared.push(walk::shown(&path)),
            Ok(Fate::Freed) => old_content.is_free = true,
            Err(error) => {
                old_content.is_free = true;
                old_content.notes.push(format!("the old {} could not be overwritten: {error}", walk::shown(&path)));
            }
        }
    }
    if let [first, more @ ..] = shared.as_slice() {
        let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
        old_content.notes.push(format!(
            "the old {first}{more} lies in blocks that a snapshot or a copy shares (reflink), which keeps it"
        ));
    }
    old_content
}

/// Gives all free space back to what is below: a file, or (`device`) a block device. The result is a text: `Ok` for
/// `-v`, `Err` for a note to the user.
///
/// `mount` must be new: a btrfs does not give back the free space that it has reserved for its next writes.
pub(super) fn discard_free_space(mount: &Mount, old_content: &OldContent, device: bool) -> Result<String, String> {
    match mount.trim() {
        Ok(_) if old_content.is_free && device => {
            Err("on a block device the space of replaced values is discarded, and what \
             the device makes of that is its own"
                .to_owned())
        }
        Ok(bytes) => Ok(format!("{} of free space given back", text::size(bytes))),
        Err(errno) if old_content.is_free => Err(format!(
            "what the replaced files held stays in free space: it could not be given back ({})",
            reason(errno)
        )),
        Err(errno) => Ok(format!("free space could not be given back ({})", reason(errno))),
    }
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::EOPNOTSUPP => "what lies below takes no holes".to_owned(),
        errno => errno.desc().to_owned(),
    }
}

/// The result for an old file's content.
enum Fate {
    /// It is overwritten, or there was none.
    Gone,
    /// It is in free blocks now.
    Freed,
    /// The file still has another name.
    OtherNames,
    /// Another file shares its blocks.
    Shared,
}

/// Overwrites a file without a name in its blocks.
fn overwrite_one(file: &File, kind: ContentKind) -> io::Result<Fate> {
    let found = file.metadata()?;
    if found.nlink() > 0 {
        return Ok(Fate::OtherNames);
    }
    if found.size() == 0 {
        return Ok(Fate::Gone);
    }
    if is_shared(file) {
        return Ok(Fate::Shared);
    }
    if kind == ContentKind::Btrfs || found.size() > LIMIT {
        return Ok(Fate::Freed);
    }
    const CHUNK: usize = 1 << 20;
    let zeros = vec![0; usize::try_from(found.size()).unwrap_or(CHUNK).min(CHUNK)];
    let mut at = 0;
    while at < found.size() {
        let length = usize::try_from(found.size() - at).unwrap_or(CHUNK).min(zeros.len());
        file.write_all_at(&zeros[..length], at)?;
        at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    file.sync_data()?;
    Ok(Fate::Gone)
}

/// True if some of its blocks are shared with another file, as far as the file system reports it.
fn is_shared(file: &File) -> bool {
    // Documentation/filesystems/fiemap.rst, `struct fiemap_extent`: logical, physical, length u64, two reserved, flags
    // u32.
    const SHARED: u32 = 0x2000;
    const LAST: u32 = 0x1;
    /// Maximum number of requests, of some extents each. A file with more extents is not deaddrop's secret.
    const MOST: usize = 4096;
    let mut answer = [0; 32 + 32 * sys::EXTENT_SIZE];
    let mut start = 0;
    for _ in 0..MOST {
        let Ok(count) = sys::extents(file, start, &mut answer) else { return false };
        let mut end = start;
        for extent in answer[32..].chunks_exact(sys::EXTENT_SIZE).take(count) {
            let number = |at: usize| extent.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
            let flags =
                extent.get(40..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            if flags & SHARED != 0 {
                return true;
            }
            end = number(0).zip(number(16)).map_or(u64::MAX, |(logical, length)| logical.saturating_add(length));
            if flags & LAST != 0 {
                return false;
            }
        }
        if end == start || end == u64::MAX {
            return false;
        }
        start = end;
    }
    false
}
