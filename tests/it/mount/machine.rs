//! Images of file systems that the kernel makes, mounts that go by themselves, and the search for what a run left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kit::canary::Canary;
use crate::kit::disk::{MIB, sfdisk};
use crate::kit::files::holds;
use crate::kit::loops::has_loop_devices;
use crate::kit::mount::Mount;
use crate::kit::run::Deaddrop;
use crate::kit::tree::{Kind, Tree};
use crate::kit::{Scratch, sha256, shout, tool};

/// A file system, and how an image of it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    pub kind: &'static str,
    /// Of mkfs.
    pub options: &'static str,
    /// The smallest that its mkfs makes, in MiB.
    pub mib: u64,
}

pub const BTRFS: System = System { kind: "btrfs", options: "", mib: 128 };
pub const XFS: System = System { kind: "xfs", options: "", mib: 320 };
pub const EXT4: System = System { kind: "ext4", options: "", mib: 64 };

impl System {
    /// True where this machine can mount it; else it says what is skipped.
    pub fn is_here(self) -> bool {
        let known = || fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let loads = || Command::new("modprobe").arg(self.kind).output().is_ok_and(|output| output.status.success());
        let has_driver = || known().split_whitespace().any(|word| word == self.kind) || loads();
        let here = has_loop_devices() && has_driver();
        if !here {
            shout(&format!("SKIPPED: this test needs root, loop devices, and a kernel with {}", self.kind));
        }
        here
    }

    /// Mounts the file system at `offset` of a file. `options` are added, such as `ro`.
    pub fn mount(self, path: &Path, offset: u64, options: &str) -> Mount {
        // Two of one UUID may be mounted at a time.
        let usual = if self.kind == "xfs" { "nouuid" } else { "defaults" };
        let options = format!("loop,offset={offset},{usual},{options}");
        Mount::with(path, &["-t", self.kind, "-o", options.trim_end_matches(',')])
            .unwrap_or_else(|why| panic!("mounting {}: {why}", path.display()))
    }

    /// An empty file system in a new file.
    pub fn make(self, path: &Path, label: &str) {
        fs::File::create_new(path).expect("making a file").set_len(self.mib * MIB).expect("sizing a file");
        let mut mkfs = Command::new(format!("mkfs.{}", self.kind));
        tool(mkfs.arg("-q").args(["-L", label]).args(self.options.split_whitespace()).arg(path));
    }

    /// Panics unless the file system's own check finds nothing at `offset` of `path`.
    #[track_caller]
    pub fn assert_sound(self, scratch: &Scratch, path: &Path, offset: u64) {
        let alone = scratch.join("alone.img");
        copy_part(path, offset, &alone, 0, self.mib * MIB);
        let mut check = match self.kind {
            "btrfs" => Command::new("btrfs"),
            "xfs" => Command::new("xfs_repair"),
            _ => Command::new("e2fsck"),
        };
        match self.kind {
            "btrfs" => check.args(["check", "--check-data-csum", "--readonly"]),
            "xfs" => check.arg("-n"),
            _ => check.arg("-fn"),
        };
        let output = tool(check.arg(&alone));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // btrfs check ends with 0 after some errors.
        assert!(self.kind != "btrfs" || said.contains("no error found"), "{said}");
        fs::remove_file(alone).expect("removing a file of ours");
    }
}

/// Copies `size` bytes from one file's offset to another's, holes as holes. The second file is made if need be.
pub fn copy_part(from: &Path, start: u64, to: &Path, at: u64, size: u64) {
    let from = fs::File::open(from).expect("opening a file");
    let to = fs::OpenOptions::new().write(true).create(true).truncate(false).open(to).expect("opening a file");
    let mut chunk = vec![0; 1 << 20];
    let zeros = chunk.clone();
    let mut done = 0;
    while done < size {
        let length = usize::try_from(size - done).unwrap_or(usize::MAX).min(chunk.len());
        let piece = &mut chunk[..length];
        from.read_exact_at(piece, start + done).expect("reading a file");
        if piece != &zeros[..length] {
            to.write_all_at(piece, at + done).expect("writing a file");
        }
        done += u64::try_from(length).expect("a length");
    }
    let end = to.metadata().expect("a file").len().max(at + size);
    to.set_len(end).expect("sizing a file");
}

/// Where the root's partition lies on a disk, in bytes.
pub const ROOT: u64 = 9 * MIB;

/// An image in the scratch directory.
pub struct Disk {
    pub system: System,
    pub path: PathBuf,
    pub offset: u64,
}

impl Disk {
    /// A disk with a GPT, a boot partition, and a root as partition 2 with what [`fill`] puts in it.
    pub fn new(scratch: &Scratch, system: System) -> Self {
        Self::filled(scratch, system, &|_| {})
    }

    /// The same, with more in it.
    pub fn filled(scratch: &Scratch, system: System, more: &dyn Fn(&Path)) -> Self {
        let alone = scratch.join("root.img");
        system.make(&alone, "nixos");
        {
            let mounted = system.mount(&alone, 0, "");
            fill(mounted.root());
            more(mounted.root());
        }
        let path = scratch.join("disk.img");
        fs::File::create_new(&path).unwrap().set_len(ROOT + (system.mib + 1) * MIB).unwrap();
        let (start, size) = (ROOT / 512, system.mib * MIB / 512);
        let table = format!("label: gpt\nstart=2048,size=16384,type=uefi\nstart={start},size={size},type=linux\n");
        sfdisk(&path, &table);
        copy_part(&alone, 0, &path, ROOT, system.mib * MIB);
        fs::remove_file(alone).unwrap();
        Self { system, path, offset: ROOT }
    }

    /// The same layout at another path.
    pub fn at(&self, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..*self }
    }

    /// A copy with its holes.
    pub fn copy(&self, to: &Path) -> Self {
        tool(Command::new("cp").arg("--sparse=auto").arg(&self.path).arg(to));
        self.at(to)
    }

    /// Its root, to be looked at; `options` are of mount.
    pub fn mounted(&self, options: &str) -> Mount {
        self.system.mount(&self.path, self.offset, &format!("ro,{options}"))
    }

    /// Everything in its root.
    pub fn tree(&self) -> Tree {
        Tree::of_directory(self.mounted("").root())
    }

    #[track_caller]
    pub fn assert_sound(&self, scratch: &Scratch) {
        self.system.assert_sound(scratch, &self.path, self.offset);
    }

    /// True when these bytes are anywhere in the image.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        holds(&self.path, bytes)
    }
}

/// A small root, with two old secrets: one that btrfs keeps in a leaf, one of many blocks.
pub fn fill(root: &Path) {
    for directory in ["etc/secrets", "nix/store/e", "var/lib", "root"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nadmin:x:1000:100::/home/admin:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nusers:x:100:\n").unwrap();
    fs::write(root.join("nix/store/e/file"), "not ours\n".repeat(5000)).unwrap();
    fs::hard_link(root.join("nix/store/e/file"), root.join("nix/store/e/other-name")).unwrap();
    std::os::unix::fs::symlink("../nix/store/e", root.join("etc/static")).unwrap();
    xattr::set(root.join("nix/store/e/file"), "user.note", b"kept").unwrap();
    for (name, value) in values("old") {
        if name != "new" {
            let file = root.join("etc/secrets").join(&name);
            fs::write(&file, value).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        }
    }
}

/// The secrets of the manifest, with values of this version.
pub fn values(version: &str) -> [(String, Vec<u8>); 3] {
    let value = |name: &str, times: usize| format!("{version} value of {name}, ").repeat(times).into_bytes();
    [("small", 3), ("large", 6000), ("new", 40)].map(|(name, times)| (name.to_owned(), value(name, times)))
}

/// The value of one secret, as a pattern that is found wherever a part of it is.
pub fn pattern(version: &str, name: &str) -> Vec<u8> {
    format!("{version} value of {name}, ").into_bytes()
}

/// A run with a manifest of [`values`] of this version. Each value is watched for.
pub fn deaddrop<'a>(scratch: &'a Scratch, version: &str, args: &[&str]) -> Deaddrop<'a> {
    declare(scratch, version);
    let run = Deaddrop::new(scratch).args(args);
    ["small", "large", "new"].iter().fold(run, |run, name| run.plant(&Canary::of(name, &pattern(version, name))))
}

/// Writes the manifest of [`values`].
pub fn declare(scratch: &Scratch, version: &str) {
    let mut manifest = String::from("version: 1\nsecrets:\n");
    let directory = format!("values-{version}");
    fs::create_dir_all(scratch.join(&directory)).unwrap();
    for (name, value) in values(version) {
        fs::write(scratch.join(&directory).join(&name), value).unwrap();
        let keys = if name == "new" { ", owner: admin, group: users, mode: \"0440\"" } else { "" };
        manifest += &format!("  {name}: {{ path: {}, from: \"file:{directory}/{name}\"{keys} }}\n", place(&name));
    }
    scratch.write("secrets.yaml", manifest);
}

/// Where a secret of [`values`] goes.
pub fn place(name: &str) -> String {
    if name == "new" { "/var/lib/new/new".to_owned() } else { format!("/etc/secrets/{name}") }
}

/// Every path that a run may touch, and those of which only times and links may differ.
pub const TOUCHED: &[&str] = &["/etc/secrets/small", "/etc/secrets/large", "/var/lib/new", "/var/lib/new/new"];
pub const PARENTS: &[&str] = &["/etc/secrets", "/var/lib"];

/// True when the tree holds every value of this version, exactly as declared; false when it holds none of it.
#[track_caller]
pub fn is_version(tree: &Tree, version: &str) -> bool {
    let found: Vec<bool> = values(version)
        .iter()
        .map(|(name, value)| {
            let Some(node) = tree.0.get(&place(name)) else { return false };
            let owner = if name == "new" { (0o440, 1000, 100) } else { (0o400, 0, 0) };
            let want = Kind::File { sha256: sha256(value.as_slice()).unwrap() };
            node.kind == want && (node.mode, node.uid, node.gid) == owner
        })
        .collect();
    let all = found.iter().all(|found| *found);
    // The old version has no file `new`.
    assert!(all || found.iter().all(|found| !found) || version == "old", "{version}: some are there: {found:?}");
    all
}

/// Panics unless nothing is left of runs in this scratch directory: no loop device over a file of it, no mount of one,
/// no process, and no file but these (and what every test has there).
#[track_caller]
pub fn assert_nothing_left(scratch: &Scratch, files: &[&str]) {
    // Somebody else (udev) may look at a device that is done with.
    let gone = (0..250).any(|_| {
        let gone = loop_devices(scratch).is_empty();
        if !gone {
            std::thread::sleep(Duration::from_millis(20));
        }
        gone
    });
    assert!(gone, "loop devices are left: {:?}", loop_devices(scratch));
    let here = scratch.path().to_str().unwrap();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
        assert!(!mounts.contains(here), "{} has a mount of {here}", process.path().display());
    }
    let usual = ["secrets.yaml", "tmp", "strace.log", "tampering.log", "deaddrop"];
    let expected: BTreeSet<&str> = files.iter().copied().chain(usual).collect();
    let strange: Vec<String> = fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !expected.contains(name.as_str()) && !name.starts_with("values-"))
        .collect();
    assert!(strange.is_empty(), "left in the directory: {strange:?}");
    let left: Vec<_> =
        fs::read_dir(scratch.join("tmp")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left in TMPDIR: {left:?}");
}

/// Loop devices over files of this directory, by sysfs.
pub fn loop_devices(scratch: &Scratch) -> Vec<String> {
    let here = scratch.path().to_str().unwrap();
    let mut found = Vec::new();
    for device in fs::read_dir("/sys/block").unwrap().flatten() {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if backing.contains(here) {
            found.push(format!("{}: {}", device.file_name().to_string_lossy(), backing.trim_end()));
        }
    }
    found
}
