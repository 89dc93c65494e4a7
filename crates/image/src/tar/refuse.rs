//! Archives that hold no root file system, by their names, with what to do instead.

use deaddrop_core::error::StorageError;

use super::index::{Archive, ROOT, at};

/// One of these is in every root.
const ROOTS: [&str; 2] = ["/etc", "/nix/store"];

/// Refuses an archive that holds no root.
///
/// # Errors
/// `Unsupported`, by what it is.
pub(super) fn no_root(archive: &Archive, name: &str) -> Result<(), StorageError> {
    if ROOTS.iter().any(|path| archive.look_up(path).is_some()) {
        return Ok(());
    }
    let top = archive.list(ROOT);
    let has = |wanted: &str| top.iter().any(|child| *archive.names[at(*child)].name == *wanted.as_bytes());
    let (kind, hint) = if has("manifest.json") || has("oci-layout") {
        (
            "an archive of a container image with its layers",
            "export one file system of it: docker export, podman export",
        )
    } else if has("metadata.yaml") {
        ("LXC's metadata", "name the tar with the root beside it")
    } else {
        ("a tar without a root: it has neither /etc nor /nix/store", "unpack it with tar -xf, and name what is inside")
    };
    Err(StorageError::unsupported(format!("{name} is {kind}"), hint))
}
