//! The read-back of changed files, and the files that did not get their SELinux label.

use std::collections::BTreeMap;

use super::DirectoryTree;
use super::operations::open_directory;
use crate::error::StorageError;
use crate::tree::{FileKind, Tree, TreeChange, walk};

/// Paths that did not get their SELinux label, with the reason.
pub type Unlabelled = BTreeMap<String, String>;

/// Opens every changed file again by its path and compares content (in constant time), kind, mode, owner and label,
/// except the labels of `unlabelled`.
///
/// # Errors
/// `Refused` for the first path that differs from its change; if a path cannot be read.
pub fn read_back(tree: &DirectoryTree, changes: &[TreeChange], unlabelled: &Unlabelled) -> Result<(), StorageError> {
    for change in changes {
        let path = change.path();
        let differs = || {
            let what = format!("{} does not read back as it was written", walk::shown(path));
            StorageError::refused(what, "is the disk in order, and does nobody else work in this directory?")
        };
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let found = tree.child(&open_directory(tree, above)?, name.as_bytes())?;
        let (kind, mode, uid, gid) = match change {
            TreeChange::MakeDirectory { mode, uid, gid, .. } => (FileKind::Directory, mode, uid, gid),
            TreeChange::WriteFile { mode, uid, gid, .. } | TreeChange::SetMetadata { mode, uid, gid, .. } => {
                (FileKind::File, mode, uid, gid)
            }
            TreeChange::RemoveFile { .. } if found.is_none() => continue,
            TreeChange::RemoveFile { .. } => return Err(differs()),
            // It is removed after the last possible rollback.
            TreeChange::RemoveDirectory { .. } => continue,
        };
        let (node, stat) = found.ok_or_else(differs)?;
        if (stat.kind, stat.mode, stat.uid, stat.gid) != (kind, *mode, *uid, *gid) {
            return Err(differs());
        }
        if let Some(label) = change.label()
            && !unlabelled.contains_key(path)
            && tree.label(&node)?.as_ref() != Some(label)
        {
            return Err(differs());
        }
        if let TreeChange::WriteFile { content, .. } = change
            && tree.read(&node, stat.size)?.as_ref() != Some(content)
        {
            return Err(differs());
        }
    }
    Ok(())
}

/// The note about files without a label.
pub fn unlabelled_note(unlabelled: &Unlabelled) -> Option<String> {
    let (path, why) = unlabelled.first_key_value()?;
    let others = match unlabelled.len() {
        1 => String::new(),
        count => format!(" and {} more", count.saturating_sub(1)),
    };
    Some(format!(
        "{}{others} could not be given a SELinux label ({why}): a relabel at boot is needed, make /.autorelabel there",
        walk::shown(path)
    ))
}
