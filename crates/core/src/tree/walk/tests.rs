use std::collections::BTreeMap;

use super::*;
use crate::secret::Secret;
use crate::tree::Label;

/// A tree in memory: from a path to its kind and, for a link, its target.
struct Toy(BTreeMap<&'static str, (FileKind, &'static str)>, BTreeMap<&'static str, (u32, u32, u32)>);

impl Toy {
    /// Mode, user and group default to 0755 and root.
    fn stat(&self, kind: FileKind, path: &str) -> Stat {
        let (mode, uid, gid) = self.1.get(path).copied().unwrap_or((0o755, 0, 0));
        Stat { kind, mode, uid, gid, size: 0, links: 1, inode: 0, modified: 0 }
    }

    fn owned(owners: &[(&'static str, (u32, u32, u32))]) -> Self {
        Self(nixos().0, owners.iter().copied().collect())
    }
}

impl Tree for Toy {
    type Node = String;

    fn root(&self) -> Result<String, StorageError> {
        Ok(String::new())
    }

    fn root_stat(&self) -> Result<Stat, StorageError> {
        Ok(self.stat(FileKind::Directory, "/"))
    }

    fn acl_lets_write(&self, directory: &String) -> Result<bool, StorageError> {
        Ok(directory.ends_with("/lib"))
    }

    fn child(&self, directory: &String, name: &[u8]) -> Result<Option<(String, Stat)>, StorageError> {
        let path = format!("{directory}/{}", String::from_utf8_lossy(name));
        Ok(self.0.get(path.as_str()).map(|(kind, _)| {
            let stat = self.stat(*kind, &path);
            (path.clone(), stat)
        }))
    }

    fn read_link(&self, link: &String) -> Result<Vec<u8>, StorageError> {
        Ok(self.0[link.as_str()].1.as_bytes().to_vec())
    }

    fn read(&self, _: &String, _: u64) -> Result<Option<Secret>, StorageError> {
        Ok(None)
    }

    fn label(&self, _: &String) -> Result<Option<Label>, StorageError> {
        Ok(None)
    }

    fn children(&self, _: &String, _: usize) -> Result<Vec<crate::tree::Child<String>>, StorageError> {
        Ok(Vec::new())
    }
}

fn nixos() -> Toy {
    use FileKind::{Directory, File, Symlink};
    Toy(
        BTreeMap::from([
            ("/etc", (Directory, "")),
            ("/etc/static", (Symlink, "/nix/store/e/etc")),
            ("/etc/hosts", (Symlink, "/etc/static/hosts")),
            ("/etc/systemd", (Directory, "")),
            ("/etc/systemd/system", (Symlink, "../static/units")),
            ("/etc/up", (Symlink, "../../../../var")),
            ("/etc/dangling", (Symlink, "/home/nobody/x")),
            ("/etc/escape", (Symlink, "/\u{1b}[2J")),
            ("/etc/a", (Symlink, "b")),
            ("/etc/b", (Symlink, "a")),
            ("/etc/file", (File, "")),
            ("/etc/self", (Symlink, ".")),
            ("/nix", (Directory, "")),
            ("/nix/store", (Directory, "")),
            ("/nix/store/e", (Directory, "")),
            ("/nix/store/e/etc", (Directory, "")),
            ("/nix/store/e/etc/hosts", (File, "")),
            ("/nix/store/e/etc/units", (Directory, "")),
            ("/var", (Directory, "")),
            ("/var/run", (Symlink, "/run")),
            ("/run", (Directory, "")),
        ]),
        BTreeMap::new(),
    )
}

#[test]
fn a_link_that_others_could_have_laid_is_not_followed() {
    let user = (0o755, 1000, 100);
    for (name, path, owners, want) in [
        ("all is root's", "/var/run/x", vec![], None),
        ("the link is a user's", "/var/run/x", vec![("/var/run", (0o777, 1000, 100))], Some("it belongs to user 1000")),
        ("its directory is", "/var/run/x", vec![("/var", user)], Some("/var belongs to user 1000")),
        ("the top is, and so is everything", "/var/run/x", vec![("/", user), ("/var", user), ("/var/run", user)], None),
        (
            "the top is, and the link another's",
            "/var/run/x",
            vec![("/", user), ("/var/run", (0o755, 7, 7))],
            Some("it belongs to user 7"),
        ),
        ("everybody writes", "/var/run/x", vec![("/var", (0o757, 0, 0))], Some("every user may write to /var")),
        ("everybody writes, and it is sticky", "/var/run/x", vec![("/var", (0o1777, 0, 0))], None),
        ("a group writes", "/var/run/x", vec![("/var", (0o775, 0, 50))], Some("group 50 may write to /var")),
        ("root's group writes", "/var/run/x", vec![("/var", (0o775, 0, 0))], None),
        ("the store", "/etc/systemd/system/x", vec![("/nix/store", (0o1775, 0, 30000))], None),
        ("the top is open", "/var/run/x", vec![("/", (0o777, 0, 0))], Some("every user may write to /")),
        ("a file without a link on the way", "/nix/x", vec![("/nix", user)], None),
        ("a second link", "/etc/up/lib/x", vec![("/var/lib", user)], Some("it belongs to user 1000")),
        ("an ACL", "/var/lib/link/x", vec![("/var/lib", (0o775, 0, 0))], Some("an ACL lets others write to /var/lib")),
        ("an ACL whose mask has no write", "/var/lib/link/x", vec![("/var/lib", (0o755, 0, 0))], None),
    ] {
        let mut tree = Toy::owned(&owners);
        tree.0.insert(
            "/var/lib",
            if path.contains("/link/") { (FileKind::Directory, "") } else { (FileKind::Symlink, "/run") },
        );
        tree.0.insert("/var/lib/link", (FileKind::Symlink, "/run"));
        let why = match walk(&tree, path) {
            Ok(_) => None,
            Err(WalkError::Foreign { why, .. }) => Some(why),
            Err(other) => Some(other.to_string()),
        };
        assert_eq!(why.as_deref(), want, "{name}");
    }
}

#[test]
fn links_on_the_way_are_followed_inside_the_tree() {
    let tree = nixos();
    for (path, want) in [
        ("/var/run/x", "/run/x"),
        ("/etc/systemd/system/x.service", "/nix/store/e/etc/units/x.service"),
        ("/etc/up/x", "/var/x"),
        ("/etc/self/self/x", "/etc/x"),
        ("/etc/hosts", "/etc/hosts"),
        ("/etc/secrets/x", "/etc/secrets/x"),
    ] {
        assert_eq!(walk(&tree, path).unwrap().physical, want, "{path}");
    }
    assert_eq!(resolve(&tree, "/etc/hosts").unwrap().physical, "/nix/store/e/etc/hosts");
    assert_eq!(walk(&tree, "/etc/hosts").unwrap().found.unwrap().1.kind, FileKind::Symlink);
}

#[test]
fn missing_parents_are_listed_from_the_top() {
    let walked = walk(&nixos(), "/var/lib/secrets/x").unwrap();
    assert_eq!(walked.missing_parents, ["/var/lib", "/var/lib/secrets"]);
    assert!(walked.found.is_none());
}

#[test]
fn a_walk_that_cannot_end_says_why() {
    let tree = nixos();
    for (path, want) in [
        ("/etc/file/x", "/etc/file is a regular file, not a directory"),
        ("/etc/dangling/x", "a symbolic link on the way leads to nothing: /etc/dangling -> /home/nobody/x"),
        ("/etc/escape/x", "a symbolic link on the way leads to nothing: /etc/escape -> /\u{fffd}[2J"),
        ("/etc/a/x", "more than 40 symbolic links on the way, the last: /etc/b -> a, /etc/a -> b"),
    ] {
        assert_eq!(walk(&tree, path).unwrap_err().to_string(), want, "{path}");
    }
}
