//! `.gitignore` beside a first manifest: the vault's file, other exports, and images that hold secrets.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use deaddrop_core::limits::MIB;

/// The comment above the lines that are added.
const TITLE: &str = "# vaults and their exports, and images with secrets in them (deaddrop)";
/// Databases and exports by their own endings, and images by theirs.
const PATTERNS: [&str; 9] =
    ["*.kdbx", "*.1pux", "*.img", "*.img.zst", "*.img.xz", "*.img.gz", "*.img.bz2", "*.qcow2", "*.raw"];

/// The `.gitignore` beside `output`, if that is in the work tree of a git repository. `output` may not exist yet.
pub(super) fn file_beside(output: &Path) -> Option<PathBuf> {
    let directory = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let whole = directory.canonicalize().ok()?;
    whole.ancestors().any(|above| above.join(".git").exists()).then(|| directory.join(".gitignore"))
}

/// Adds the lines that the file lacks, and returns their number. `vault`: the vault's file, as the manifest names it.
///
/// # Errors
/// If the file cannot be read or written.
pub(super) fn add(file: &Path, vault: Option<&str>) -> io::Result<usize> {
    let there = match fs::metadata(file) {
        Ok(there) if !there.is_file() => return Err(io::Error::other("it is no regular file")),
        Ok(there) if u64::try_from(MIB).is_ok_and(|most| there.len() > most) => {
            return Err(io::Error::other("it is over 1 MiB"));
        }
        Ok(_) => String::from_utf8_lossy(&fs::read(file)?).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let vault = vault.and_then(pattern);
    let is_there = |line: &str| there.lines().any(|other| other.trim_end() == line);
    let wanted = vault.as_deref().into_iter().chain(PATTERNS);
    let missing: Vec<&str> = wanted.filter(|line| !is_there(line)).collect();
    if missing.is_empty() {
        return Ok(0);
    }
    let end = if there.is_empty() || there.ends_with('\n') { "" } else { "\n" };
    let text = format!("{end}{TITLE}\n{}\n", missing.join("\n"));
    OpenOptions::new().append(true).create(true).open(file)?.write_all(text.as_bytes())?;
    Ok(missing.len())
}

/// The pattern for a path beside the file: `/vault.json`. `None` for a path elsewhere.
fn pattern(path: &str) -> Option<String> {
    let is_beside = !path.starts_with('/') && !path.split('/').any(|part| part == "..") && path != "-";
    let path = path.trim_start_matches("./");
    if !is_beside || path.is_empty() || path.ends_with(' ') {
        return None;
    }
    // gitignore(5): a backslash takes the meaning of these away.
    let escaped = path.chars().flat_map(|character| {
        let escape = matches!(character, '*' | '?' | '[' | '\\').then_some('\\');
        escape.into_iter().chain([character])
    });
    Some(format!("/{}", escaped.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_beside_the_file_is_named_from_its_directory() {
        for (path, want) in [
            ("vault.json", Some("/vault.json")),
            ("./exports/a b.json", Some("/exports/a b.json")),
            ("a*[b].json", Some("/a\\*\\[b].json")),
            ("/srv/vault.json", None),
            ("../vault.json", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(pattern(path).as_deref(), want, "{path}");
        }
    }
}
