//! `scan`: which values are found, in which files, and what is said of them: never the value.

mod forms;
mod places;
mod said;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::canary::Canary;
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, tool};

/// A root in a scratch directory, two values, and their manifest: `admin`, of which the root gets a hash, and `token`.
struct Root {
    scratch: Scratch,
    admin: Canary,
    token: Canary,
}

impl Root {
    fn new() -> Self {
        let root = Self { scratch: Scratch::new(), admin: Canary::new("admin"), token: Canary::new("token") };
        for directory in ["etc/secrets", "nix/store/p/share", "var/lib"] {
            fs::create_dir_all(root.at(directory)).unwrap();
            root.set_mode(directory, 0o755);
        }
        root.declare(&[
            "admin: { path: /etc/secrets/admin, from: env:ADMIN, hash: yescrypt, OWNER }",
            "token: { path: /etc/secrets/token, from: env:TOKEN, OWNER }",
        ]);
        root
    }

    /// Writes the manifest: a line for each secret, in which OWNER is who runs the test.
    fn declare(&self, secrets: &[&str]) {
        let owner = format!("owner: {}, group: {}", nix::unistd::geteuid(), nix::unistd::getegid());
        let lines: String = secrets.iter().map(|line| format!("  {}\n", line.replace("OWNER", &owner))).collect();
        self.scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{lines}"));
    }

    /// The place in this system of a path in the root.
    fn at(&self, path: &str) -> PathBuf {
        self.scratch.join("root").join(path.trim_start_matches('/'))
    }

    fn set_mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Writes a file, and the directories above it.
    fn put(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
        self.set_mode(path, mode);
    }

    /// The root as an ext4 image without a table.
    fn image(&self, size: &str, options: &str) -> PathBuf {
        let path = self.scratch.join("node1.img");
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "nixos"]).args(options.split_whitespace());
        tool(mke2fs.arg("-d").arg(self.scratch.join("root")).arg(&path).arg(size));
        path
    }

    /// A run with the values in the environment, and a search for them in all that is said.
    fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        let run = Deaddrop::new(&self.scratch).args(args).env("ADMIN", self.admin.text());
        run.env("TOKEN", self.token.text()).plant(&self.admin).plant(&self.token)
    }

    /// The findings in a target, as "SECRET PATH FORM"; and the exit code is checked.
    #[track_caller]
    fn findings_in(&self, target: impl AsRef<Path>, more: &[&str]) -> Vec<String> {
        let target = target.as_ref().to_str().unwrap();
        let run = self.deaddrop(&[&["scan", target, "--json"], more].concat()).run();
        findings(run)
    }

    #[track_caller]
    fn findings(&self) -> Vec<String> {
        self.findings_in("root", &[])
    }
}

#[track_caller]
fn findings(run: Finished) -> Vec<String> {
    let found = run.code();
    assert!(matches!(found, Some(0 | 3)), "{found:?}: {}", run.stderr());
    let object = run.json();
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings: Vec<String> = object["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| ["secret", "path", "form"].map(|key| text(finding, key)).join(" "))
        .collect();
    assert_eq!(found, Some(if findings.is_empty() { 0 } else { 3 }));
    assert_eq!(object["summary"]["findings"], findings.len());
    findings
}
