//! Keys that are made in the target: judged by the programs that they are for, kept on every later run, never
//! overwritten; their public parts; `deaddrop generate` and `deaddrop init`; and the example of docs/deploy-key.md,
//! run.

mod command;
mod deploy_key;
mod init;
mod kept;
mod keys;
mod public;
mod sshd;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::canary::Canary;
use crate::kit::images::{self, Image};
use crate::kit::mount::{debugfs, debugfs_write};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, fed};

/// One secret of each kind, and where the manifest of [`Setup::each_kind`] puts it.
const EACH_KIND: [(&str, &str); 5] = [
    ("host-key", "/etc/ssh/ssh_host_ed25519_key"),
    ("deploy-key", "/etc/secrets/deploy-key"),
    ("wg0", "/etc/secrets/wg0"),
    ("backup", "/etc/secrets/backup.age"),
    ("restic", "/etc/secrets/restic"),
];

const MANIFEST: &str = "\
version: 1
secrets:
  host-key:   { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519 }
  deploy-key: { path: /etc/secrets/deploy-key, generate: { kind: ssh-ed25519, comment: deploy of node1 }, mode: \
  \"0600\" }
  wg0:        { path: /etc/secrets/wg0, generate: wireguard, owner: 998, group: 995, mode: \"0440\" }
  backup:     { path: /etc/secrets/backup.age, generate: age }
  restic:     { path: /etc/secrets/restic, generate: { kind: token, length: 60, alphabet: abcdef0123456789 } }
hosts:
  node1: { ssh: root@192.168.1.11 }
";

/// A scratch directory with a manifest and an image to inject into.
struct Setup {
    scratch: Scratch,
    image: Image,
}

impl Setup {
    fn new(manifest: &str) -> Self {
        let scratch = Scratch::new();
        scratch.write("secrets.yaml", manifest);
        let image = images::RAW_EFI.committed(&scratch);
        Self { scratch, image }
    }

    /// One secret of each kind, declared for node1.
    fn each_kind() -> Self {
        Self::new(MANIFEST)
    }

    fn run(&self, command: &str, args: &[&str]) -> Finished {
        self.deaddrop(command, args).run()
    }

    /// A run on the image as node1. Whatever keys it holds now must not be in what is said.
    fn deaddrop(&self, command: &str, args: &[&str]) -> Deaddrop<'_> {
        let mut run = Deaddrop::new(&self.scratch).args([command, "raw-efi.img", "--host", "node1"]).args(args);
        for canary in self.canaries() {
            run = run.plant(&canary);
        }
        run
    }

    /// What to look for of the private keys in the image: parts that no public part holds.
    fn canaries(&self) -> Vec<Canary> {
        let of = |(name, path): &(&str, &str)| private_part(name, &self.content(path)?);
        EACH_KIND.iter().filter_map(of).collect()
    }

    /// The content of a file in the image; none when there is no such file.
    fn content(&self, path: &str) -> Option<Vec<u8>> {
        let parent = Path::new(path).parent().unwrap().display().to_string();
        let name = path.rsplit('/').next().unwrap();
        if !self.list(&parent).iter().any(|other| other == name) {
            return None;
        }
        let to = self.scratch.join("dumped");
        debugfs(&self.image, &[format!("dump \"{path}\" {}", to.display())]);
        let content = fs::read(&to).unwrap();
        fs::remove_file(to).unwrap();
        Some(content)
    }

    /// A file of the image, for a program that wants a key as a file.
    fn file(&self, path: &str) -> PathBuf {
        let content = self.content(path).unwrap_or_else(|| panic!("there is no {path}"));
        private_file(&self.scratch, "key", &content)
    }

    /// Names in a directory of the image; none when it is not there.
    fn list(&self, directory: &str) -> Vec<String> {
        let parent = Path::new(directory).parent();
        if let Some(parent) = parent.filter(|parent| *parent != Path::new("/")) {
            let name = directory.rsplit('/').next().unwrap();
            if !self.list(&parent.display().to_string()).iter().any(|other| other == name) {
                return Vec::new();
            }
        }
        let said = debugfs(&self.image, &[format!("ls -p \"{directory}\"")]).concat();
        // /INODE/MODE/UID/GID/NAME/SIZE/
        said.lines().filter_map(|line| line.split('/').nth(5)).map(str::to_owned).collect()
    }

    /// Puts other content in the place of a file of the image.
    fn put(&self, path: &str, content: &[u8]) {
        let from = self.scratch.write("content", content);
        let (directory, name) = path.rsplit_once('/').unwrap();
        let remove = if self.content(path).is_some() { format!("rm {path}\n") } else { String::new() };
        debugfs_write(&self.image, &format!("{remove}cd {directory}\nwrite {} {name}\n", from.display()));
    }

    fn remove(&self, path: &str) {
        debugfs_write(&self.image, &format!("rm {path}\n"));
    }
}

/// A part of a private key that must be nowhere else: not its header, and not what its public part holds.
fn private_part(name: &str, content: &[u8]) -> Option<Canary> {
    let text = std::str::from_utf8(content).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let part = match lines.as_slice() {
        // In OpenSSH's format the seed begins in the third line of base64 and ends in the fourth.
        ["-----BEGIN OPENSSH PRIVATE KEY-----", _, _, _, line, ..] => line.get(..32)?,
        [_, _, identity] if identity.starts_with("AGE-SECRET-KEY-") => identity.get(15..)?,
        [line] => line,
        _ => return None,
    };
    // What is shorter would be found anywhere.
    (part.len() >= 8).then(|| Canary::of(name, part.as_bytes()))
}

/// A file that only its owner can read, as programs want a key.
fn private_file(scratch: &Scratch, name: &str, content: &[u8]) -> PathBuf {
    let path = scratch.write(name, content);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// What a program prints that gets this on standard input; panics when it fails.
#[track_caller]
fn piped(command: &mut Command, input: &[u8]) -> String {
    String::from_utf8(fed(command, input).stdout).unwrap()
}

/// What `ssh-keygen -y` says of a private key: type and key, and its comment.
#[track_caller]
fn ssh_public(file: &Path) -> String {
    piped(Command::new("ssh-keygen").arg("-y").arg("-f").arg(file), b"").trim_end().to_owned()
}

/// What `wg pubkey` says of a private key.
#[track_caller]
fn wg_public(private: &[u8]) -> String {
    piped(Command::new("wg").arg("pubkey"), private).trim_end().to_owned()
}

/// What `age-keygen -y` says of an identity.
#[track_caller]
fn age_public(private: &[u8]) -> String {
    piped(Command::new("age-keygen").arg("-y"), private).trim_end().to_owned()
}
