//! A file that holds values in clear text, and that others can read (DD308) or git tracks (DD309).
//!
//! git's index is read here rather than by `git ls-files`: git refuses a repository of another user, as it is under
//! `sudo`; it may run a program that the repository's configuration names (`core.fsmonitor`); and it need not be
//! installed. Format: git's Documentation/gitformat-index.txt, versions 2 to 4. A split index is read only as far as
//! its own entries.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::read;
use crate::error::shown_path;
use crate::finding::Finding;

/// Maximum length of an index that is read, in bytes: about 800,000 files.
const MAX_INDEX: usize = 64 << 20;

/// Maximum length of a file `.git`, which names a directory, in bytes.
const MAX_LINK: usize = 4096;

/// Length of an index entry's fixed part before the object's name, in bytes: ten numbers of 32 bits.
const ENTRY_HEAD: usize = 40;

/// Lengths of an object's name, in bytes: SHA-1 and SHA-256. The index does not say which one it has.
const HASHES: [usize; 2] = [20, 32];

/// What is wrong with keeping values in clear text in the file at `path`. Nothing for a pipe or a missing file.
pub(super) fn findings(path: &Path) -> Vec<Finding> {
    let (Ok(data), Ok(real)) = (fs::metadata(path), fs::canonicalize(path)) else { return Vec::new() };
    if !data.is_file() {
        return Vec::new();
    }
    let shown = shown_path(path);
    let finding = |code, message, hint| Finding { code, reference: None, message, hint };
    let mut findings = Vec::new();
    if others_can_read(&data, &real) {
        let mode = data.permissions().mode() & 0o7777;
        let message = format!("{shown} holds values in clear text, and its mode {mode:04o} lets others read it");
        let hint = format!("`chmod 600 {shown}`; better still, export it with a password or encrypt it with age");
        findings.push(finding("DD308", message, hint));
    }
    if is_tracked(&real).unwrap_or(false) {
        let message = format!("{shown} holds values in clear text, and git tracks it");
        let hint = "take it out with `git rm --cached`, and name it in .gitignore; if it was ever committed, the history \
                    still has the values: change them";
        findings.push(finding("DD309", message, hint.to_owned()));
    }
    findings
}

/// True if the file's mode and those of all directories on the way let its group or others in. An access control list
/// shows in the bits of the group: they are its mask (acl(5)).
fn others_can_read(file: &Metadata, path: &Path) -> bool {
    let mode = |data: &Metadata| data.permissions().mode();
    let directories = || path.ancestors().skip(1).filter_map(|directory| fs::metadata(directory).ok());
    [(0o004, 0o001), (0o040, 0o011)]
        .iter()
        .any(|(read, enter)| mode(file) & read != 0 && directories().all(|data| mode(&data) & enter != 0))
}

/// True if the index of the repository that contains `path` has it. `None` if there is no repository, or its index
/// cannot be understood. `path` is canonical.
fn is_tracked(path: &Path) -> Option<bool> {
    let root = path.ancestors().skip(1).find(|directory| directory.join(".git").symlink_metadata().is_ok())?;
    let index = read::read(&git_directory(root)?.join("index"), MAX_INDEX).ok()?;
    let name = path.strip_prefix(root).ok()?.as_os_str().as_bytes();
    HASHES.iter().find_map(|hash| has_entry(&index, *hash, name))
}

/// The directory with the index of the work tree `root`: its `.git`, or the one that the file `.git` names (of a
/// submodule, or a further work tree).
fn git_directory(root: &Path) -> Option<PathBuf> {
    let git = root.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let link = read::read(&git, MAX_LINK).ok()?;
    let target = std::str::from_utf8(&link).ok()?.strip_prefix("gitdir:")?.trim();
    Some(root.join(target))
}

/// True if an index whose objects have names of `hash` bytes has an entry called `wanted`. `None` if it is not such an
/// index.
fn has_entry(index: &[u8], hash: usize, wanted: &[u8]) -> Option<bool> {
    let number = |at: usize| Some(u32::from_be_bytes(*index.get(at..)?.first_chunk()?));
    let version = number(4)?;
    if !index.starts_with(b"DIRC") || !(2..=4).contains(&version) {
        return None;
    }
    let (mut at, mut found) = (12_usize, false);
    let mut name: Vec<u8> = Vec::new();
    for _ in 0..number(8)? {
        let start = at;
        at = at.checked_add(ENTRY_HEAD)?.checked_add(hash)?;
        let flags = u16::from_be_bytes(*index.get(at..)?.first_chunk()?);
        let has_more_flags = version > 2 && flags & 0x4000 != 0;
        at = at.checked_add(if has_more_flags { 4 } else { 2 })?;
        if version == 4 {
            let (dropped, length) = varint(index.get(at..)?)?;
            at = at.checked_add(length)?;
            name.truncate(name.len().checked_sub(dropped)?);
        } else {
            name.clear();
        }
        let rest = index.get(at..)?;
        let part = rest.get(..rest.iter().position(|&byte| byte == 0)?)?;
        name.extend_from_slice(part);
        // A wrong `hash` ends here: these bits are the name's length, or all set for a long one.
        let length = usize::from(flags & 0x0fff);
        if name.is_empty() || length != name.len().min(0x0fff) {
            return None;
        }
        at = at.checked_add(part.len())?.checked_add(1)?;
        if version < 4 {
            at = start.checked_add(at.checked_sub(start)?.checked_next_multiple_of(8)?)?;
        }
        found |= name == wanted;
    }
    Some(found)
}

/// The number at the start of `bytes`, and its length in bytes: groups of seven bits, the highest first, each but the
/// last one with the top bit, and less one.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (index, byte) in bytes.iter().enumerate() {
        value = value.checked_mul(128)?.checked_add(usize::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            return Some((value, index.checked_add(1)?));
        }
        value = value.checked_add(1)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Place;

    fn codes(path: &Path) -> Vec<&'static str> {
        findings(path).iter().map(|finding| finding.code).collect()
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_others_can_read_is_told_unless_a_directory_keeps_them_out() {
        let place = Place::new();
        let file = place.write("a/export.json", "planted");
        for (outer, inner, mode, want) in [
            (0o755, 0o755, 0o600, false),
            (0o755, 0o755, 0o604, true),
            (0o755, 0o755, 0o640, true),
            (0o755, 0o711, 0o644, true),
            (0o755, 0o710, 0o604, false),
            (0o755, 0o710, 0o640, true),
            (0o755, 0o700, 0o644, false),
            (0o700, 0o755, 0o644, false),
        ] {
            set_mode(place.path(), outer);
            set_mode(&place.path().join("a"), inner);
            set_mode(&file, mode);
            let found = findings(&file);
            assert_eq!(found.len(), usize::from(want), "{outer:o} {inner:o} {mode:o}");
            for finding in found {
                assert_eq!(finding.code, "DD308");
                assert!(finding.message.contains(&format!("its mode {mode:04o} lets")), "{}", finding.message);
            }
        }
    }

    #[test]
    fn a_file_that_git_tracks_is_told_for_every_version_of_the_index() {
        let place = Place::new();
        let git = |args: &[&str]| {
            let own = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"];
            place.run("git", &[&own[..], args].concat());
        };
        for hash in ["sha1", "sha256"] {
            git(&["init", "--quiet", "--object-format", hash, hash]);
            let (tracked, other) = (format!("{hash}/a/vault.json"), format!("{hash}/a/vault.jso"));
            for name in [format!("{hash}/a/vault"), tracked.clone(), other.clone(), format!("{hash}/b.json")] {
                place.write(&name, "planted");
            }
            git(&["-C", hash, "add", "a/vault", "a/vault.json", "b.json"]);
            place.write(&format!("{hash}/later"), "planted");
            for version in ["2", "3", "4"] {
                // Version 3 is written only with an entry that needs it.
                if version == "3" {
                    git(&["-C", hash, "add", "--intent-to-add", "later"]);
                }
                git(&["-C", hash, "update-index", "--index-version", version]);
                assert_eq!(codes(&place.path().join(&tracked)), ["DD309"], "{hash} {version}");
                assert!(codes(&place.path().join(&other)).is_empty(), "{hash} {version}");
            }
            git(&["-C", hash, "commit", "--quiet", "-m", "x"]);
            git(&["-C", hash, "worktree", "add", "--quiet", &format!("../{hash}-other")]);
            assert_eq!(codes(&place.path().join(format!("{hash}-other/a/vault.json"))), ["DD309"], "{hash}");
            git(&["-C", hash, "rm", "--quiet", "--cached", "a/vault.json"]);
            assert!(codes(&place.path().join(&tracked)).is_empty(), "{hash}");
        }
    }

    #[test]
    fn an_index_that_is_cut_off_or_no_index_ends_without_a_finding() {
        let place = Place::new();
        place.run("git", &["init", "--quiet", "."]);
        let file = place.write("a.json", "planted");
        place.run("git", &["add", "a.json"]);
        let index = place.path().join(".git/index");
        let whole = fs::read(&index).unwrap();
        // The entry is 62 bytes and a name, behind a header of 12.
        for length in 0..12 + 62 + 7 {
            fs::write(&index, &whole[..length]).unwrap();
            assert!(codes(&file).is_empty(), "{length}");
        }
        fs::write(&index, [b"DIRC\0\0\0\x05", &whole[8..]].concat()).unwrap();
        assert!(codes(&file).is_empty());
        fs::write(&index, &whole).unwrap();
        assert_eq!(codes(&file), ["DD309"]);
        assert!(codes(Path::new("/dev/null")).is_empty() && codes(Path::new("/nowhere/x")).is_empty());
    }
}
