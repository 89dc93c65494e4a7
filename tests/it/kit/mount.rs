//! Judges other than us: a kernel mount that always ends, `e2fsck`, raw inodes by `debugfs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::images::Image;
use super::{is_root, program, tool};

/// A kernel mount, of an image's root file system for one. Unmounted, and its loop device freed, when dropped, also by
/// a panic. Needs root and loop devices.
pub struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    /// Mounts it read-only without replaying its journal, on a read-only loop device: not one byte of the image
    /// changes.
    pub fn read_only(image: &Image) -> Self {
        Self::try_read_only(image).unwrap_or_else(|why| panic!("mounting {}: {why}", image.path.display()))
    }

    /// The same; `Err` says why this machine cannot.
    pub fn try_read_only(image: &Image) -> Result<Self, String> {
        Self::of_root(image, "ro,noload,nodev,nosuid,noexec")
    }

    /// Mounts it as a running system does: the journal is replayed, the superblock written.
    pub fn read_write(image: &Image) -> Self {
        Self::of_root(image, "rw,nodev,nosuid,noexec")
            .unwrap_or_else(|why| panic!("mounting {}: {why}", image.path.display()))
    }

    fn of_root(image: &Image, options: &str) -> Result<Self, String> {
        // mount(8) takes a free loop device and lets the kernel free it at the last unmount.
        Self::with(&image.path, &["-t", "ext4", "-o", &format!("{options},loop,offset={}", image.root_offset)])
    }

    /// Mounts a file or a device with these arguments of mount(8); `Err` says why this machine cannot.
    pub fn with(what: &Path, arguments: &[&str]) -> Result<Self, String> {
        if !is_root() {
            return Err("only root may mount".to_owned());
        }
        let dir = tempfile::Builder::new().prefix("deaddrop-mount.").tempdir().map_err(|error| error.to_string())?;
        let output = Command::new("mount").args(arguments).arg(what).arg(dir.path()).output();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(Self { dir })
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The place in this mount of a path of the image. Links on the way are not confined to it: for paths that a test
    /// knows.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Never remove what may still be mounted.
        if !unmount(self.root()) {
            self.dir.disable_cleanup(true);
            let said = format!("{} stays mounted", self.root().display());
            assert!(std::thread::panicking(), "{said}");
            eprintln!("{said}");
        }
    }
}

/// Unmounts what is mounted at a place. False when it could not, and still is.
pub fn unmount(place: &Path) -> bool {
    let unmount = |how: &[&str]| {
        let status = Command::new("umount").args(how).arg(place).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    // Another thread that starts a program holds our open files for a moment, in the child that is to become it.
    let patiently = (0..100).any(|_| {
        let done = unmount(&[]);
        if !done {
            std::thread::sleep(Duration::from_millis(20));
        }
        done
    });
    // Busy: detach it, so that at least nothing stays where others look.
    patiently || unmount(&["--lazy"])
}

/// Panics unless `e2fsck -fn` finds nothing at all to say about the root's file system.
pub fn assert_fsck_clean(image: &Image) {
    if let Err(said) = fsck(image) {
        panic!("e2fsck is not content with {}:\n{said}", image.path.display());
    }
}

/// What `e2fsck -fn` said, if it was anything but the names of its passes and the summary.
pub fn fsck(image: &Image) -> Result<(), String> {
    let output = Command::new(program("e2fsck"))
        .args(["-fn", &image.for_e2fsprogs()])
        .env("LC_ALL", "C")
        .output()
        .expect("running e2fsck (Debian package e2fsprogs)");
    let said = String::from_utf8_lossy(&output.stdout);
    let summary = |line: &str| line.contains(" files (") && line.ends_with(" blocks");
    let content = |line: &str| line.is_empty() || line.starts_with("Pass ") || summary(line);
    if output.status.success() && said.lines().all(content) {
        Ok(())
    } else {
        Err(format!("{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// The inodes of these numbers as they lie on the disk, as `debugfs` dumps them: equal only when every byte is, flags,
/// extents, generation, checksum and all times included.
pub fn raw_inodes(image: &Image, numbers: impl IntoIterator<Item = u64>) -> BTreeMap<u64, String> {
    let numbers: Vec<u64> = numbers.into_iter().collect();
    let commands: Vec<String> = numbers.iter().map(|number| format!("inode_dump <{number}>")).collect();
    numbers.into_iter().zip(debugfs(image, &commands)).collect()
}

/// Runs `debugfs` commands on the root's file system, read-only; gives what each printed. Panics when one is refused.
pub fn debugfs(image: &Image, commands: &[String]) -> Vec<String> {
    let mut script = tempfile::NamedTempFile::new().expect("making a temporary file");
    std::io::Write::write_all(&mut script, (commands.join("\n") + "\n").as_bytes()).expect("writing a script");
    let output = tool(Command::new("debugfs").arg("-f").arg(script.path()).arg(image.for_e2fsprogs()));
    let errors = refusals(&output);
    assert!(errors.is_empty(), "debugfs {}: {errors}", image.path.display());
    // Each command is repeated on a line of its own before what it prints.
    let said = String::from_utf8_lossy(&output.stdout);
    let mut rest: &str = &said;
    let mut answers = Vec::with_capacity(commands.len());
    for (index, command) in commands.iter().enumerate() {
        rest = rest.strip_prefix(&format!("debugfs: {command}\n")).expect("debugfs repeats each command");
        let next = commands.get(index + 1).map(|next| format!("debugfs: {next}\n"));
        let end = next.and_then(|next| rest.find(&next)).unwrap_or(rest.len());
        answers.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    answers
}

/// Changes the root's file system by `debugfs` commands, a line each, behind everybody's back. Panics when one is
/// refused.
#[track_caller]
pub fn debugfs_write(image: &Image, commands: &str) {
    let mut script = tempfile::NamedTempFile::new().expect("making a temporary file");
    std::io::Write::write_all(&mut script, commands.as_bytes()).expect("writing a script");
    let output = tool(Command::new("debugfs").args(["-w", "-f"]).arg(script.path()).arg(image.for_e2fsprogs()));
    let said = refusals(&output);
    assert!(said.is_empty(), "debugfs {}: {said}", image.path.display());
}

/// What `debugfs` says of failures. It ends with 0 whatever happens: all of that is on standard error, below its
/// version.
fn refusals(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().filter(|line| !line.starts_with("debugfs ")).collect::<Vec<_>>().join("\n")
}
