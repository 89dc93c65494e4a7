//! Checks by reading that a mounted file system has space for a change, and allows it.

use std::os::fd::OwnedFd;

use deaddrop_core::error::StorageError;
use deaddrop_core::sys;
use deaddrop_core::tree::directory::DirectoryTree;
use deaddrop_core::tree::{TreeChange, walk};
use nix::errno::Errno;
use nix::sys::statvfs;

/// Checks `changes` to the tree that is mounted at `top`.
///
/// # Errors
/// `Refused` if there are fewer free blocks or inodes than the changes need at least, or a file or its directory is
/// immutable or append-only.
pub(super) fn check(tree: &DirectoryTree, top: &OwnedFd, changes: &[TreeChange]) -> Result<(), StorageError> {
    let failed = |errno: Errno| StorageError::io("asking the file system for its room", errno.into());
    let summary = statvfs::fstatvfs(top).map_err(failed)?;
    let block = summary.fragment_size().max(1);
    let (mut blocks, mut inodes) = (0_u64, 0_u64);
    for change in changes {
        let new = match change {
            TreeChange::MakeDirectory { .. } => 1,
            TreeChange::WriteFile { content, .. } => u64::try_from(content.len()).unwrap_or(u64::MAX).div_ceil(block),
            TreeChange::SetMetadata { .. } | TreeChange::RemoveFile { .. } | TreeChange::RemoveDirectory { .. } => {
                continue;
            }
        };
        blocks = blocks.saturating_add(new);
        inodes = inodes.saturating_add(1);
    }
    if blocks > summary.blocks_free() {
        return Err(StorageError::refused(
            format!(
                "the files need {blocks} blocks of {block} bytes, and the file system has {} free",
                summary.blocks_free()
            ),
            "make the image larger (nixpkgs: additionalSpace = \"512M\") or remove files from it",
        ));
    }
    // A btrfs creates inodes on demand, and reports a total of zero.
    if summary.files() > 0 && inodes > summary.files_free() {
        return Err(StorageError::refused(
            format!("the files need {inodes} inodes, and the file system has {} free", summary.files_free()),
            "make the file system with more inodes or remove files from it",
        ));
    }
    changes.iter().try_for_each(|change| changeable(tree, change.path()))
}

/// Refuses a path if the existing file or its directory is immutable or append-only.
fn changeable(tree: &DirectoryTree, path: &str) -> Result<(), StorageError> {
    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
    for place in [above, path] {
        let Some(file) = tree.open_for_query(place)? else { continue };
        // A file system without such flags.
        let Ok(flags) = sys::file_flags(&file) else { continue };
        let flag = match flags {
            flags if flags & sys::IMMUTABLE != 0 => ("immutable", "chattr -i"),
            flags if flags & sys::APPEND_ONLY != 0 => ("append-only", "chattr -a"),
            _ => continue,
        };
        let shown = if place.is_empty() { "/".to_owned() } else { walk::shown(place) };
        return Err(StorageError::refused(format!("{shown} is {}", flag.0), format!("`{}` on it first", flag.1)));
    }
    Ok(())
}
