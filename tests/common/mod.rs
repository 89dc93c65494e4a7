//! What the whole-program tests share. Each `tests/*.rs` is a crate of its own and says `mod common;`.
//!
//! - [`images`]: the committed images and fresh ones of another size, with what a test must know of each.
//! - [`tree`]: every inode of an ext4 file system, read by the kernel or by `debugfs`, and what differs between two.
//! - [`node`]: running nodes, each an sshd in a root of its own.
//! - [`mount`]: a kernel mount that always ends, and `e2fsck`.
//! - [`run`]: runs `deaddrop` (as somebody else, under `strace`), and judges what came out of it.
//! - [`canary`]: values to plant, and the search for them.
//!
//! Nothing here prints bytes that the program wrote before they were searched for canaries: a failing test must not leak
//! what the program leaked. Whatever is made lies in a [`Scratch`], which goes when it is dropped.
//!
//! A test, whole:
//!
//! ```ignore
//! mod common;
//! use common::{Scratch, canary::Canary, images, run::Deaddrop, tree::Tree};
//!
//! #[test]
//! fn a_secret_arrives_and_nothing_else_changes() {
//!     let scratch = Scratch::new();
//!     let value = Canary::new("admin");
//!     let image = images::RAW_EFI.committed(&scratch);
//!     let before = Tree::of(&image);
//!     Deaddrop::new(&scratch)
//!         .args(["inject", "node1.img", "-m", "secrets.yaml"])
//!         .env("HOMELAB_ADMIN", value.text())
//!         .plant(&value)
//!         .run()
//!         .expect_code(0);
//!     let changes = before.changes(&Tree::of(&image));
//!     assert_eq!(changes.keys().collect::<Vec<_>>(), ["/etc", "/etc/secrets", "/etc/secrets/admin"]);
//! }
//! ```
// Every test crate uses some of this; what one leaves out is no dead code.
#![allow(dead_code)]

pub mod canary;
pub mod images;
pub mod mount;
pub mod node;
pub mod run;
pub mod tree;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// A directory of this test alone, below TMPDIR, that is removed on drop. Others may pass through it (0755), since some
/// runs are of another user.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes one; panics when TMPDIR cannot be written.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("deaddrop-test.").tempdir().expect("making a scratch directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opening the scratch directory");
        Self(dir)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` in it. Nothing is made.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file with this content in it; gives its path.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        path
    }

    /// Gives the directory and all in it to a user and a group of this number. Needs root.
    pub fn give_to(&self, id: u32) {
        fn give(path: &Path, id: u32) {
            std::os::unix::fs::lchown(path, Some(id), Some(id))
                .unwrap_or_else(|error| panic!("giving {} to {id}: {error}", path.display()));
            if path.is_dir() && !path.is_symlink() {
                for entry in fs::read_dir(path).expect("listing a directory of ours") {
                    give(&entry.expect("reading a directory of ours").path(), id);
                }
            }
        }
        give(self.path(), id);
    }
}

/// True when this process is root, which kernel mounts and `setpriv` need.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// SHA-256 in lower-case hexadecimal of all that a reader gives. A hole reads as zeros.
pub fn sha256(mut reader: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of a file, to say that it is byte for byte what it was.
pub fn sha256_of(path: &Path) -> String {
    File::open(path).and_then(sha256).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a program is. Debian keeps the tools of file systems where only root's PATH looks. And one that has to be looked for
/// in a PATH of its own is started by fork(2), which copies the tables of all our pages.
pub fn program(name: impl AsRef<Path>) -> PathBuf {
    let name = name.as_ref();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|place| place.join(name)).find(|program| program.exists()).unwrap_or_else(|| name.into())
}

/// Runs another program (mke2fs, sfdisk, …) to its end; panics with what it said when it is missing or fails. Not for
/// `deaddrop` itself: its output may hold what it must not, see [`run`].
pub fn tool(command: &mut Command) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    if !path.split(':').any(|place| place == "/usr/sbin") {
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
    let output = command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
