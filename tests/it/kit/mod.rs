//! What the tests share.
//!
//! - [`run`]: runs `deaddrop` (as somebody else, under `strace`), and judges what came out of it.
//! - [`canary`]: values to plant, and the search for them.
//! - [`manifest`]: a manifest of secrets from every source, with what each must be in an image.
//! - [`images`]: the committed images and fresh ones of another size, with what a test must know of each.
//! - [`disk`]: small disks for the library: made by sfdisk and mkfs, opened, changed, committed.
//! - [`ext4`]: file systems by mke2fs for the library's own writer, and what e2fsck and debugfs say of them.
//! - [`tree`]: every inode of an ext4 file system, read by the kernel or by `debugfs`, and what differs between two.
//! - [`mount`]: a kernel mount that always ends, and `e2fsck`.
//! - [`loops`]: loop devices that always go.
//! - [`files`]: what a file holds, and what a change of it would change.
//! - [`nixos`]: a directory that is the root of a NixOS, with one thing changed.
//! - [`decrypt`]: sops-nix and agenix in such a root.
//! - [`tmux`]: a terminal.
//! - [`node`]: running nodes, each an sshd in a root of its own.
//!
//! Nothing here prints bytes that the program wrote before they were searched for canaries: a failing test must not
//! leak what the program leaked. Whatever is made lies in a [`Scratch`], which goes when it is dropped.
//!
//! A test, whole:
//!
//! ```ignore
//! use crate::kit::{Scratch, canary::Canary, images, run::Deaddrop, tree::Tree};
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

pub mod canary;
pub mod decrypt;
pub mod disk;
pub mod ext4;
pub mod files;
pub mod images;
pub mod json_schema;
pub mod loops;
pub mod manifest;
pub mod mount;
pub mod nixos;
pub mod nixos_node;
pub mod node;
pub mod run;
pub mod tmux;
pub mod tree;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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

    /// The same for a file that only its owner may read: values in clear text, which a warning would be about
    /// otherwise.
    pub fn write_private(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("closing a file of ours");
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

/// True, and said in one loud line, where `what` cannot be done for want of root.
pub fn skipped_without_root(what: &str) -> bool {
    if !is_root() {
        shout(&format!("SKIPPED: {what} needs root"));
    }
    !is_root()
}

/// One loud line that cannot be missed.
pub fn shout(line: &str) {
    let _ = writeln!(io::stderr(), "\n*** {line} ***\n");
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

/// Where a program is. Debian keeps the tools of file systems where only root's PATH looks. And one that has to be
/// looked for in a PATH of its own is started by fork(2), which copies the tables of all our pages.
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

/// Runs another program that must succeed, with this standard input. What it prints may hold a value, and is not shown.
#[track_caller]
pub fn fed(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input).expect("writing to a program");
    let output = child.wait_with_output().expect("waiting for a program");
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// How long is waited for what must come, so that a test ends where it does not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds that must come; panics with `what` where it does not.
#[track_caller]
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes a program.
pub fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("writing a file of ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("making it a program");
}

/// The code block of a page below `<!-- test: MARK -->`, without its indentation.
pub fn block_below(page: &str, mark: &str) -> String {
    let mark = format!("<!-- test: {mark} -->\n");
    let (_, rest) = page.split_once(&mark).unwrap_or_else(|| panic!("the page has no {mark}"));
    let lines = rest.lines().skip_while(|line| line.is_empty());
    let block = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    let text: String = block.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    assert!(!text.trim().is_empty(), "{mark}: {text}");
    text
}

/// A new key for ssh at this path, and its public part beside it.
pub fn new_ssh_key(path: &Path) {
    tool(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path));
}

/// The CRC-32 of zlib, GPT and others, bit by bit: neither the seed nor the result is turned.
pub fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

/// The next number of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), which is
/// the same everywhere.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
