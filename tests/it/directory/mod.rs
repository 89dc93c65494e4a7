//! A directory that holds a root as the target: what is written where, what is refused, and that a run is all or
//! nothing.

mod all_or_nothing;
mod allowed;
mod files;
mod homes;
mod other_host;
mod refused;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use crate::kit::Scratch;
use crate::kit::canary::Canary;
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::tree::Tree;

/// A root with users and a directory of the system's own etc, in a scratch directory.
struct Root {
    scratch: Scratch,
    value: Canary,
}

impl Root {
    fn new() -> Self {
        let root = Self { scratch: Scratch::new(), value: Canary::new("the secret") };
        for directory in ["etc", "nix/store/e/etc/systemd", "var", "root", "home"] {
            fs::create_dir_all(root.at(directory)).unwrap();
        }
        root.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nadmin:x:1000:100::/home/admin:/bin/sh\n");
        root.write("etc/group", "root:x:0:\nusers:x:100:admin\nkeys:x:96:\n");
        root.write("etc/shadow", "root:!:1::::::\nadmin:!:1::::::\n");
        fs::set_permissions(root.at("etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
        root.write("nix/store/e/etc/hosts", "127.0.0.1 localhost\n");
        symlink("/nix/store/e/etc", root.at("etc/static")).unwrap();
        symlink("/etc/static/hosts", root.at("etc/hosts")).unwrap();
        root
    }

    /// The place in this system of a path in the root, without its first `/`.
    fn at(&self, path: &str) -> PathBuf {
        self.scratch.join("root").join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.at(path), content).unwrap();
    }

    fn tree(&self) -> Tree {
        Tree::of_directory(&self.scratch.join("root"))
    }

    /// Writes the manifest: a line of keys for each secret, called `a`, `b`, …
    fn declare(&self, secrets: &[&str]) {
        let lines: String =
            ('a'..='z').zip(secrets).map(|(name, keys)| format!("  {name}: {{ {}{keys} }}\n", from(keys))).collect();
        self.scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{lines}"));
    }

    /// A run with the value in $A, and a search for it in all that is said.
    fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        Deaddrop::new(&self.scratch).args(args).env("A", self.value.text()).plant(&self.value)
    }

    fn inject(&self) -> Finished {
        self.deaddrop(&["inject", "root", "-vv"]).run()
    }

    /// Mode, owner and group of a path, `0400 0:0`.
    fn stat(&self, path: &str) -> String {
        let tree = self.tree();
        let node = tree.at(&format!("/{path}"));
        format!("{:04o} {}:{}", node.mode, node.uid, node.gid)
    }

    /// Names that deaddrop left behind for a moment, and did not take away.
    fn leftovers(&self) -> Vec<String> {
        self.tree().0.keys().filter(|path| path.contains(".deaddrop")).cloned().collect()
    }
}

/// What `keys` do not say: where the value comes from, if there is to be one.
fn from(keys: &str) -> &'static str {
    if keys.contains("absent: true") { "" } else { "from: env:A, " }
}
