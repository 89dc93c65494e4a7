//! Disks, loop devices and mounts that go by themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::loops::Loop;
use crate::kit::mount::unmount;
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, shout, tool};

/// Where the root lies on a [`disk`], in bytes.
pub const ROOT: u64 = 9 << 20;

/// Its size in bytes.
pub const ROOT_SIZE: u64 = 20 << 20;

/// A disk with a GPT, a boot partition, and a root as partition 2, made by mke2fs with these options.
pub fn disk(scratch: &Scratch, options: &str) -> PathBuf {
    disk_with_sectors(scratch, options, 512)
}

/// The same for a device with sectors of so many bytes.
pub fn disk_with_sectors(scratch: &Scratch, options: &str, sector: u64) -> PathBuf {
    let path = scratch.join("disk.img");
    fs::File::create_new(&path).unwrap().set_len(32 << 20).unwrap();
    let sectors = |bytes: u64| bytes / sector;
    let table = format!(
        "label: gpt\nstart={},size={},type=uefi\nstart={},size={},type=linux\n",
        sectors(1 << 20),
        sectors(8 << 20),
        sectors(ROOT),
        sectors(ROOT_SIZE)
    );
    let table = scratch.write("table", table);
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.args(["-q", "--no-reread", "--no-tell-kernel"]).stdin(fs::File::open(table).unwrap());
    if sector == 512 {
        tool(sfdisk.arg(&path));
    } else {
        // It asks the device how large its sectors are.
        tool(sfdisk.arg(&Loop::with(&path, &["--sector-size", &sector.to_string()]).0));
    }
    let tree = scratch.join("tree");
    for directory in ["etc/secrets", "nix/store/e"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    for (name, value) in values("old") {
        let file = tree.join("etc/secrets").join(name);
        fs::write(&file, value).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    }
    let extended = format!("offset={ROOT},nodiscard,root_owner=0:0");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-L", "nixos", "-E", &extended]).args(options.split_whitespace()).arg("-d").arg(&tree);
    tool(mke2fs.arg(&path).arg("20480k"));
    fs::remove_dir_all(tree).unwrap();
    path
}

/// The secrets of the manifest, with values of this version; some are longer than a block.
pub fn values(version: &str) -> Vec<(String, Vec<u8>)> {
    let value = |number: usize| format!("{version} value {number} ").repeat(1 + 300 * (number % 3)).into_bytes();
    (0..6).map(|number| (format!("secret-{number}"), value(number))).collect()
}

/// A run with a manifest of [`values`] of this version.
pub fn deaddrop<'a>(scratch: &'a Scratch, version: &str, args: &[&str]) -> Deaddrop<'a> {
    let mut manifest = String::from("version: 1\nsecrets:\n");
    fs::create_dir_all(scratch.join("values")).unwrap();
    for (name, value) in values(version) {
        fs::write(scratch.join("values").join(&name), value).unwrap();
        manifest += &format!("  {name}: {{ path: /etc/secrets/{name}, from: \"file:values/{name}\" }}\n");
    }
    scratch.write("secrets.yaml", manifest);
    Deaddrop::new(scratch).args(args)
}

/// A disk in memory that nobody would call removable (zram), of 32 MiB; another one for each test.
pub struct Zram(String);

impl Zram {
    /// `None`, and said, where the kernel has none.
    pub fn new() -> Option<Self> {
        let Ok(number) = fs::read_to_string("/sys/class/zram-control/hot_add") else {
            shout("SKIPPED: this test needs root and zram");
            return None;
        };
        let zram = Self(number.trim().to_owned());
        fs::write(format!("/sys/block/zram{}/disksize", zram.0), "32M").unwrap();
        Some(zram)
    }

    pub fn path(&self) -> String {
        format!("/dev/zram{}", self.0)
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        let _ = fs::write("/sys/class/zram-control/hot_remove", &self.0);
    }
}

/// A mount of a device or file.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(scratch: &Scratch, what: &str, options: &str) -> Self {
        let place = scratch.join("mounted here");
        fs::create_dir_all(&place).unwrap();
        let mut mount = Command::new("mount");
        if !options.is_empty() {
            mount.args(["-o", options]);
        }
        tool(mount.arg(what).arg(&place));
        Self(place)
    }

    pub fn place(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}
