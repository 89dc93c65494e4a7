//! Names of files, as candidates. Directories are opened, and files are not.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap_complete::engine::CompletionCandidate;
use deaddrop_image::container::is_named_as_image;

/// Maximum number of entries of a directory that are looked at.
const MOST_ENTRIES: usize = 10_000;

/// True for a block device. Follows links, as in /dev/disk.
pub fn is_block_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// True for an image by its name, and for a block device.
pub fn is_image(path: &Path) -> bool {
    is_named_as_image(path) || is_block_device(path)
}

/// True for a manifest by its name.
pub fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| ["yaml", "yml", "json"].iter().any(|manifest| suffix == *manifest))
}

/// The paths that begin with `typed`: the wanted ones, and directories with a slash at the end. Sorted. Hidden ones
/// only if `typed` begins one.
pub fn paths(typed: &str, is_wanted: fn(&Path) -> bool) -> Vec<CompletionCandidate> {
    let (directory, start) = typed.rfind('/').map_or(("", typed), |slash| typed.split_at(slash.saturating_add(1)));
    let Some(place) = expanded(if directory.is_empty() { "./" } else { directory }) else { return Vec::new() };
    let mut names: Vec<(String, bool)> = fs::read_dir(place)
        .into_iter()
        .flatten()
        .take(MOST_ENTRIES)
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry)))
        .filter(|(name, _)| name.starts_with(start) && (!name.starts_with('.') || start.starts_with('.')))
        // A word that begins so is no path.
        .filter(|(name, _)| !directory.is_empty() || !name.starts_with(['-', '~', '@']))
        .filter_map(|(name, entry)| {
            let path = entry.path();
            let is_directory = path.is_dir();
            (is_directory || is_wanted(&path)).then_some((name, is_directory))
        })
        .collect();
    names.sort();
    let path = |(name, is_directory)| format!("{directory}{name}{}", if is_directory { "/" } else { "" });
    names.into_iter().map(|name| CompletionCandidate::new(path(name))).collect()
}

/// The path that the typed one means; `None` for a home directory that is not known.
pub fn expanded(path: &str) -> Option<PathBuf> {
    match path.strip_prefix('~') {
        Some(rest) => Some(Path::new(&std::env::var_os("HOME")?).join(rest.strip_prefix('/')?)),
        None => Some(PathBuf::from(path)),
    }
}
