//! Whether a directory holds a root file system, or is to become one.

use std::fs;
use std::path::Path;

use deaddrop_core::error::StorageError;
use deaddrop_core::shown;
use deaddrop_image::container::is_named_as_image;

/// One of these is in every root; the last is that of OSTree, which is refused by its name.
const ROOT: [&str; 3] = ["etc", "nix/store", "ostree/deploy"];

/// Maximum number of entries that are looked at, and of images that are named.
const MOST_ENTRIES: usize = 200;
const MOST_NAMED: usize = 3;

/// Checks that `path` holds /etc or /nix/store; with `new_root` a directory is enough that holds nothing but
/// directories.
///
/// # Errors
/// The refusal, which names the images in it.
pub fn check(path: &Path, new_root: bool) -> Result<(), StorageError> {
    if ROOT.iter().any(|place| path.join(place).symlink_metadata().is_ok()) || is_mounted_at_nix(path) {
        return Ok(());
    }
    let name = shown::text(&path.display().to_string());
    let entries = || fs::read_dir(path).into_iter().flatten().flatten().take(MOST_ENTRIES);
    if new_root {
        let file = entries().find(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()));
        return match file.map(|entry| shown::text(&entry.file_name().to_string_lossy())) {
            None => Ok(()),
            Some(file) => Err(StorageError::refused(
                format!("{name} is no new root: it holds {file}"),
                images_in(path).unwrap_or_else(|| "name an empty directory".to_owned()),
            )),
        };
    }
    Err(StorageError::refused(
        format!("{name} is no root: it has neither /etc nor /nix/store"),
        images_in(path).unwrap_or_else(|| {
            "name an image, or a directory with a root; `inject --new-root` makes one of an empty directory".to_owned()
        }),
    ))
}

/// True for what a system mounts at /nix: at the top is the store, whose names are 32 characters, `-` and a name.
fn is_mounted_at_nix(path: &Path) -> bool {
    let mut names = fs::read_dir(path.join("store")).into_iter().flatten().flatten().take(MOST_ENTRIES);
    names.any(|entry| entry.file_name().as_encoded_bytes().get(32) == Some(&b'-'))
}

/// "did you mean result/nixos.img?", with images in the directory, or in one below it.
fn images_in(path: &Path) -> Option<String> {
    let within = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MOST_ENTRIES);
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let is_image = |path: &Path| path.is_file() && is_named_as_image(path);
    let top = within(path);
    let below = top.iter().filter(|path| path.is_dir()).take(MOST_ENTRIES).flat_map(|directory| within(directory));
    let mut images: Vec<_> = top.iter().filter(|path| is_image(path)).cloned().collect();
    if images.is_empty() {
        images.extend(below.filter(|path| is_image(path)));
    }
    let named: Vec<String> =
        images.iter().take(MOST_NAMED).map(|image| shown::text(&image.display().to_string())).collect();
    (!named.is_empty()).then(|| format!("did you mean {}?", named.join(" or ")))
}
