//! Modes of the directories that have to be made above a file.

/// Directories that a system has for everybody: 0755 when they have to be made. docs/manifest.md shows this table.
const SYSTEM_DIRECTORIES: &[&str] = &[
    "/etc",
    "/etc/nix",
    "/etc/ssh",
    "/home",
    "/media",
    "/mnt",
    "/nix",
    "/opt",
    "/srv",
    "/usr",
    "/usr/local",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
];

/// Decides the mode of a directory that has to be made.
///
/// `is_last` is true when a declared file lies directly in it; `asked` is the manifest's `directory_mode`; `shared`
/// is true when a file in it (or below it) belongs to another user than root or is readable by its group.
#[must_use]
pub fn mode(path: &str, is_last: bool, asked: Option<u32>, shared: bool) -> u32 {
    match (path, is_last, asked) {
        (_, true, Some(asked)) => asked,
        ("/root", ..) => 0o700,
        (path, ..) if SYSTEM_DIRECTORIES.contains(&path) => 0o755,
        (_, false, _) => 0o755,
        (_, true, None) if shared => 0o711,
        (_, true, None) => 0o700,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_as_open_as_its_files_need() {
        for (path, is_last, asked, shared, want) in [
            ("/etc/secrets", true, None, false, 0o700),
            ("/etc/secrets", true, None, true, 0o711),
            ("/etc/secrets", true, Some(0o750), true, 0o750),
            ("/etc/secrets", false, None, false, 0o755),
            ("/etc", true, None, false, 0o755),
            ("/etc/ssh", true, None, true, 0o755),
            ("/root", true, None, false, 0o700),
            ("/root", false, None, false, 0o700),
            ("/root/.ssh", true, None, false, 0o700),
        ] {
            assert_eq!(mode(path, is_last, asked, shared), want, "{path} {is_last} {asked:?} {shared}");
        }
    }

    #[test]
    fn the_manual_shows_the_same_table() {
        let manual = include_str!("../../docs/manifest.md");
        for path in SYSTEM_DIRECTORIES {
            assert!(manual.contains(&format!("`{path}`")), "docs/manifest.md lacks {path}");
        }
    }
}
