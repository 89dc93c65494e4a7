//! The check of the new archive, by a reader that shares no code with the writer: the `tar` crate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use super::edit::Expected;

/// Checks that `file` is an archive that holds what is expected, each as the last entry of its name.
///
/// # Errors
/// If it is not.
pub(super) fn check(mut file: &File, expected: &[Expected<'_>]) -> Result<(), StorageError> {
    let reading = |e: io::Error| StorageError::io("reading back the new tar", e);
    file.rewind().map_err(reading)?;
    let by_path: BTreeMap<&[u8], &Expected<'_>> =
        expected.iter().map(|expected| (expected.path.as_bytes(), expected)).collect();
    let mut archive = ::tar::Archive::new(file);
    // What was found at each path: whether it is right.
    let mut found: BTreeMap<&[u8], bool> = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(reading)? {
        let mut entry = entry.map_err(reading)?;
        let name = entry.path_bytes().into_owned();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if let Some((path, expected)) = by_path.get_key_value(name) {
            let is_right = is_as_expected(&mut entry, expected).map_err(reading)?;
            found.insert(path, is_right);
        }
    }
    match by_path.iter().find(|(path, expected)| found.get(*path).copied() != expected.rights.map(|_| true)) {
        None => Ok(()),
        Some((_, expected)) => Err(StorageError::corrupt(format!(
            "the new tar does not hold /{} as it should, and was not kept",
            deaddrop_core::tree::walk::shown(expected.path)
        ))),
    }
}

fn is_as_expected<R: Read>(entry: &mut ::tar::Entry<'_, R>, expected: &Expected<'_>) -> io::Result<bool> {
    let Some(rights) = expected.rights else { return Ok(false) };
    let header = entry.header();
    if header.entry_type().is_hard_link() {
        // Its rights are those of another entry.
        return Ok(expected.content.is_none());
    }
    let owner = (header.uid()?, header.gid()?);
    let mode = header.mode()?;
    // The crate takes owners from pax records by itself.
    if mode != rights.mode || owner != (rights.uid.into(), rights.gid.into()) {
        return Ok(false);
    }
    let Some(want) = expected.content else { return Ok(true) };
    if !header.entry_type().is_file() || entry.size() != deaddrop_core::bytes::length(want) {
        return Ok(false);
    }
    let mut content = Wiped::zeros(want.len());
    entry.read_exact(&mut content)?;
    Ok(**content == *want)
}
