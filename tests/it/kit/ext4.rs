//! Images made by mke2fs, and what e2fsck and debugfs say of them.
#![allow(clippy::as_conversions)]

use std::fmt::Display;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, Stat, Tree, TreeChange};
use deaddrop_image::device::FileDevice;
use deaddrop_image::ext4::Ext4;
use tempfile::TempDir;

use super::mount::Mount;
use super::{shout, tool};

/// The time of every change in these tests: 2033, so that it differs from the clock's.
pub const TIME: u64 = 2_000_000_000;

pub fn time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(TIME)
}

/// An image in a directory of its own, which goes with it.
pub struct Image {
    pub directory: TempDir,
    pub path: PathBuf,
}

impl Image {
    /// Lets mke2fs fill an image of `size` (as mke2fs takes it) from `tree`.
    pub fn make(arguments: &str, size: &str, tree: Option<&Path>) -> Self {
        let image = Self::empty();
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-F", "-E", "hash_seed=2b6a8c1e-0000-4000-8000-000000000001"]);
        command.args(["-U", "2b6a8c1e-0000-4000-8000-000000000002"]).args(arguments.split_whitespace());
        if let Some(tree) = tree {
            command.arg("-d").arg(tree);
        }
        let output = command.arg(&image.path).arg(size).output().expect("mke2fs");
        assert!(output.status.success(), "mke2fs {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        image
    }

    /// A place for an image that does not exist yet.
    pub fn empty() -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("image");
        Self { directory, path }
    }

    pub fn open(&self) -> Result<Ext4, StorageError> {
        let file = File::open(&self.path).unwrap();
        let size = file.metadata().unwrap().len();
        Ext4::open(Arc::new(FileDevice::new(file, size)))
    }

    /// Applies the changes and writes the result into the image, as a commit would.
    pub fn apply(&self, changes: &[TreeChange]) -> Result<(), StorageError> {
        let mut ext4 = self.open()?;
        ext4.apply(changes, time())?;
        self.commit(&ext4);
        Ok(())
    }

    pub fn commit(&self, ext4: &Ext4) {
        let file = File::options().write(true).open(&self.path).unwrap();
        for (offset, bytes) in ext4.dirty().unwrap() {
            file.write_all_at(&bytes, offset).unwrap();
        }
    }

    /// Runs debugfs commands and returns what it prints.
    pub fn debugfs(&self, commands: &[String]) -> String {
        let script = self.directory.path().join("script");
        fs::write(&script, commands.join("\n") + "\n").unwrap();
        let output = Command::new("debugfs").arg("-f").arg(&script).arg(&self.path).output().expect("debugfs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes with debugfs: commands, a line each.
    pub fn debugfs_write(&self, commands: &str) {
        let script = self.directory.path().join("script");
        fs::write(&script, format!("{commands}\n")).unwrap();
        tool(Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&self.path));
    }

    /// Leaves a transaction in the journal that gives a block this content; `open` is debugfs' command that opens the
    /// journal.
    pub fn leave_transaction(&self, open: &str, block: impl Display, content: &[u8]) {
        let file = self.directory.path().join("block");
        fs::write(&file, content).unwrap();
        self.debugfs_write(&format!("{open}\njw -b {block} {}\njc", file.display()));
    }

    /// Lets the kernel mount it, with these options (`loop` among them); `None`, and said, where this machine cannot.
    pub fn mounted(&self, options: &str, what: &str) -> Option<Mount> {
        let mount = Mount::with(&self.path, &["-o", options]);
        mount.inspect_err(|_| shout(&format!("no loop mount here: {what}"))).ok()
    }

    /// e2fsck's exit code and its complaints: all lines but the banner, the passes and the summary.
    pub fn fsck(&self) -> (i32, Vec<String>) {
        let output = Command::new("e2fsck").args(["-fn"]).arg(&self.path).output().expect("e2fsck");
        (output.status.code().unwrap_or(-1), complaints(&output))
    }

    /// Asserts that e2fsck finds nothing at all.
    pub fn assert_clean(&self, what: &str) {
        assert_eq!(self.fsck(), (0, vec![]), "{what}: e2fsck");
    }

    /// A file's bytes, by debugfs.
    pub fn dump(&self, path: &str) -> Vec<u8> {
        let out = self.directory.path().join("dump");
        let _ = fs::remove_file(&out);
        self.debugfs(&[format!("dump \"{path}\" {}", out.display())]);
        fs::read(&out).unwrap_or_else(|_| panic!("debugfs cannot dump {path}"))
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Overwrites bytes of the image.
    pub fn patch(&self, offset: u64, bytes: &[u8]) {
        File::options().write(true).open(&self.path).unwrap().write_all_at(bytes, offset).unwrap();
    }
}

fn complaints(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let ordinary = |line: &str| {
        line.trim().is_empty()
            || line.starts_with("Pass ")
            || line.starts_with("e2fsck 1.")
            || line.contains(" files (")
            || line.contains(": clean,")
            || line.starts_with("Warning!  ")
    };
    text.lines().filter(|line| !ordinary(line)).map(str::to_owned).collect()
}

/// A tree for `mke2fs -d`: a few system files, links of both lengths, hard links, an old secret, and a large directory.
pub fn tree(large: usize) -> TempDir {
    let directory = TempDir::new().unwrap();
    let at = |path: &str| directory.path().join(path);
    for path in ["etc/secrets", "etc/ssh", "var/lib", "nix/store", "big", "root"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    for number in 0..40 {
        fs::write(at(&format!("etc/file-{number}")), format!("content of {number}\n").repeat(number)).unwrap();
        fs::write(at(&format!("etc/secrets/standing-{number}")), b"stays").unwrap();
        fs::write(at(&format!("root-{number}")), b"x").unwrap();
    }
    fs::write(at("etc/secrets/old-small"), b"OLD-VALUE-SMALL").unwrap();
    fs::write(at("etc/secrets/old-large"), b"OLD-VALUE-LARGE ".repeat(8000)).unwrap();
    fs::write(at("etc/secrets/old-linked"), b"shared content").unwrap();
    fs::hard_link(at("etc/secrets/old-linked"), at("var/lib/other-name")).unwrap();
    fs::write(at("etc/secrets/mode"), b"keeps its content").unwrap();
    fs::write(at("etc/secrets/gone-small"), b"OLD-VALUE-GONE").unwrap();
    fs::write(at("etc/secrets/gone-large"), b"OLD-VALUE-GONE-LARGE ".repeat(30_000)).unwrap();
    fs::write(at("etc/secrets/gone-linked"), b"still wanted elsewhere").unwrap();
    fs::hard_link(at("etc/secrets/gone-linked"), at("var/lib/stays")).unwrap();
    fs::write(at("etc/secrets/gone-twice"), b"OLD-VALUE-OF-TWO-NAMES").unwrap();
    fs::hard_link(at("etc/secrets/gone-twice"), at("var/lib/gone-too")).unwrap();
    for number in 0..20 {
        // Enough names that no directory on a way fits into its inode (`inline_data`).
        fs::write(at(&format!("var/filler-{number}")), b"").unwrap();
        fs::write(at(&format!("var/lib/filler-{number}")), b"").unwrap();
    }
    symlink("static/x", at("etc/short")).unwrap();
    symlink(format!("/nix/store/{}", "l".repeat(150)), at("etc/long")).unwrap();
    for number in 0..large {
        fs::write(at(&format!("big/a-rather-long-name-for-a-file-{number:05}")), b"").unwrap();
    }
    directory
}

pub fn write(path: &str, content: &[u8], mode: u32, uid: u32, gid: u32) -> TreeChange {
    TreeChange::WriteFile { path: path.into(), content: Secret::new(content.to_vec()), mode, uid, gid, label: None }
}

pub fn directory(path: &str) -> TreeChange {
    TreeChange::MakeDirectory { path: path.into(), mode: 0o711, uid: 0, gid: 70_000, label: None }
}

pub fn remove(path: &str) -> TreeChange {
    TreeChange::RemoveFile { path: path.into() }
}

/// Twenty new files (of all sizes that matter) in old and new directories, three replacements, two changes of mode, and
/// five names that go, with three files.
pub fn changes(block_size: usize) -> Vec<TreeChange> {
    let mut changes = vec![directory("/etc/new"), directory("/etc/new/deep")];
    let sizes = [0, 1, 59, 60, 61, 200, 1000, block_size - 1, block_size, block_size + 1, 20 * block_size + 7];
    for (number, size) in sizes.into_iter().enumerate() {
        changes.push(write(&format!("/etc/new/deep/size-{size}"), &pattern(size, number), 0o400, 0, 0));
    }
    for number in 0..6 {
        changes.push(write(&format!("/etc/secrets/new-{number}"), &pattern(50, number), 0o440, 1000, 131_072 + 7));
    }
    changes.push(write("/top", b"in the root directory", 0o400, 0, 0));
    changes.push(write("/big/one-more-name-in-the-large-directory", b"big", 0o400, 0, 0));
    changes.push(write("/var/lib/x", b"y", 0o600, 4_000_000_000, 0));
    changes.push(write("/etc/secrets/old-small", b"NEW-SMALL", 0o400, 0, 0));
    changes.push(write("/etc/secrets/old-large", &pattern(3 * block_size, 9), 0o400, 0, 0));
    changes.push(write("/etc/secrets/old-linked", b"no longer shared", 0o400, 0, 0));
    for path in ["/etc/secrets/mode", "/etc/file-3"] {
        changes.push(TreeChange::SetMetadata { path: path.into(), mode: 0o640, uid: 65_536 + 1, gid: 2 });
    }
    // In the midst of the others: the order is the file system's business.
    let gone = ["gone-small", "gone-large", "gone-linked", "gone-twice"].map(|name| format!("/etc/secrets/{name}"));
    changes.splice(3..3, gone.iter().map(|path| remove(path)));
    changes.push(remove("/var/lib/gone-too"));
    changes
}

/// `size` bytes that differ from file to file and from block to block.
pub fn pattern(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(97)) as u8).collect()
}

/// The node at a path that has no links on the way, and what it is.
pub fn find(ext4: &Ext4, path: &str) -> Option<(<Ext4 as Tree>::Node, Stat)> {
    let mut node = ext4.root().unwrap();
    let mut stat = None;
    for component in path.split('/').filter(|component| !component.is_empty()) {
        let (next, found) = ext4.child(&node, component.as_bytes()).unwrap()?;
        node = next;
        stat = Some(found);
    }
    stat.map(|stat| (node, stat))
}

/// Asserts that our reader and debugfs see what was asked for.
pub fn assert_applied(image: &Image, changes: &[TreeChange], what: &str) {
    let ext4 = image.open().unwrap();
    let stats = image.debugfs(&changes.iter().map(|change| format!("stat \"{}\"", change.path())).collect::<Vec<_>>());
    let mut stats = stats.split("debugfs: stat ").skip(1);
    for change in changes {
        let path = change.path();
        if matches!(change, TreeChange::RemoveFile { .. } | TreeChange::RemoveDirectory { .. }) {
            assert!(find(&ext4, path).is_none(), "{what}: {path} is still there");
            let shown = stats.next().unwrap();
            assert!(!shown.contains("Inode:"), "{what}: debugfs sees {path}: {shown}");
            continue;
        }
        let (node, stat) = find(&ext4, path).unwrap_or_else(|| panic!("{what}: {path} is not there"));
        let (mode, uid, gid) = match change {
            TreeChange::MakeDirectory { mode, uid, gid, .. }
            | TreeChange::WriteFile { mode, uid, gid, .. }
            | TreeChange::SetMetadata { mode, uid, gid, .. } => (*mode, *uid, *gid),
            TreeChange::RemoveFile { .. } | TreeChange::RemoveDirectory { .. } => unreachable!(),
        };
        assert_eq!((stat.mode, stat.uid, stat.gid), (mode, uid, gid), "{what}: {path}");
        let shown = stats.next().unwrap();
        assert!(shown.contains(&format!("Mode:  {mode:04o}")), "{what}: {path}: {shown}");
        let owner: Vec<&str> =
            shown.lines().find(|line| line.starts_with("User:")).unwrap().split_whitespace().collect();
        // debugfs shows them as signed numbers.
        let signed = |id: u32| (id as i32).to_string();
        assert_eq!((owner[1], owner[3]), (signed(uid).as_str(), signed(gid).as_str()), "{what}: {path}");
        match change {
            TreeChange::WriteFile { content, .. } => {
                assert_eq!(stat.kind, FileKind::File, "{what}: {path}");
                let read = ext4.read(&node, 1 << 24).unwrap().unwrap();
                assert!(read == *content, "{what}: {path}: our reader sees other content");
                assert!(image.dump(path) == content.expose(), "{what}: {path}: debugfs sees other content");
                assert!(!shown.contains("Flags: 0x10000000"), "{what}: {path} lies inside its inode");
                for times in shown.lines().filter(|line| line.contains("time: 0x")) {
                    let want = format!("{TIME:#010x}");
                    assert!(times.contains(&want), "{what}: {path}: {times}");
                }
            }
            TreeChange::MakeDirectory { .. } => assert_eq!(stat.kind, FileKind::Directory, "{what}: {path}"),
            _ => {}
        }
    }
}

/// What debugfs says of every inode, by number, as far as it is in use.
pub fn all_inodes(image: &Image) -> Vec<String> {
    let count = image.open().unwrap().summary().inodes;
    let shown = image.debugfs(&(1..=count).map(|number| format!("stat <{number}>")).collect::<Vec<_>>());
    shown.split("debugfs: stat ").skip(1).map(str::to_owned).collect()
}
