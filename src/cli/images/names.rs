//! The files of hosts: a path with `{host}` in it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::run::message::{Failure, Message};

const MARK: &str = "{host}";

/// True if the path holds `{host}`.
#[must_use]
pub fn has_mark(pattern: &Path) -> bool {
    pattern.as_os_str().as_bytes().windows(MARK.len()).any(|part| part == MARK.as_bytes())
}

/// The path of a host: `pattern` with its name in place of each `{host}`.
///
/// # Errors
/// Exit 2 for a `{host}` without a host, and for a name that would be more or less than one name of a file.
pub fn of_host(pattern: &Path, host: Option<&str>) -> Result<PathBuf, Failure> {
    if !has_mark(pattern) {
        return Ok(pattern.to_owned());
    }
    let Some(host) = host else {
        let message = Message::new(format!("{}: {{host}} stands for a host, and none is named", pattern.display()));
        return Err(Failure::usage(message.hint("add --host NAME, or --all-hosts")));
    };
    if host.contains(['/', '\0']) || matches!(host, "." | "..") {
        let message = format!("{}: the name of the host `{host}` cannot be a part of a file's name", pattern.display());
        return Err(Failure::usage(Message::new(message).hint("rename it in the manifest, or leave {host} out")));
    }
    let mut name: Vec<u8> = Vec::new();
    let mut rest = pattern.as_os_str().as_bytes();
    while let Some(at) = rest.windows(MARK.len()).position(|part| part == MARK.as_bytes()) {
        name.extend_from_slice(&rest[..at]);
        name.extend_from_slice(host.as_bytes());
        rest = &rest[at + MARK.len()..];
    }
    name.extend_from_slice(rest);
    Ok(PathBuf::from(OsString::from_vec(name)))
}

/// The paths of several hosts, which are to be files of their own. `option` is what has to hold `{host}`.
///
/// # Errors
/// Exit 2 as [`of_host`], without `{host}`, and for two hosts with one file.
pub fn of_hosts(pattern: &Path, hosts: &[&str], option: &str) -> Result<Vec<PathBuf>, Failure> {
    if !has_mark(pattern) && hosts.len() > 1 {
        let message = format!("{}: {} hosts would have one file", pattern.display(), hosts.len());
        let hint = format!("{option} needs {{host}} in its name, such as 'out/{{host}}.img'");
        return Err(Failure::usage(Message::new(message).hint(hint)));
    }
    let paths = hosts.iter().map(|host| of_host(pattern, Some(host))).collect::<Result<Vec<_>, _>>()?;
    let mut seen: Vec<(PathBuf, &str)> = Vec::with_capacity(paths.len());
    for (path, host) in paths.iter().zip(hosts) {
        let file = real(path);
        if let Some((_, other)) = seen.iter().find(|(seen, _)| *seen == file) {
            let message = format!("{}: {other} and {host} would have this one file", file.display());
            return Err(Failure::usage(Message::new(message).hint("is one of them a link to the other?")));
        }
        seen.push((file, host));
    }
    Ok(paths)
}

/// The file that a path leads to, also if only its directory exists.
fn real(path: &Path) -> PathBuf {
    let of_directory = || {
        let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        Some(directory.canonicalize().ok()?.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(of_directory).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_becomes_the_name() {
        for (pattern, want) in [("out/{host}.img", "out/n1.img"), ("{host}/{host}", "n1/n1"), ("a.img", "a.img")] {
            assert_eq!(of_host(Path::new(pattern), Some("n1")).unwrap(), Path::new(want));
        }
        // A name with the mark in it is not looked into again.
        assert_eq!(of_host(Path::new("{host}"), Some("{host}")).unwrap(), Path::new("{host}"));
        assert!(of_host(Path::new("{host}"), None).is_err());
    }

    #[test]
    fn a_name_that_is_no_single_file_name_is_refused_where_it_makes_one() {
        for name in ["a/b", ".", "..", "../x", "/"] {
            assert!(of_host(Path::new("out/{host}"), Some(name)).is_err(), "{name}");
            assert!(of_host(Path::new("out.img"), Some(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn two_hosts_never_have_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let pattern = directory.path().join("{host}.img");
        assert!(of_hosts(&directory.path().join("x.img"), &["a", "b"], "-o").is_err());
        assert!(of_hosts(&pattern, &["a", "b"], "-o").is_ok());
        std::fs::write(directory.path().join("a.img"), "").unwrap();
        std::os::unix::fs::symlink("a.img", directory.path().join("b.img")).unwrap();
        assert!(of_hosts(&pattern, &["a", "b"], "-o").is_err());
    }
}
