//! Disks, loop devices and mounts that go by themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::run::Deaddrop;
use crate::common::{Scratch, is_root, tool};

/// Where the root lies on a [`disk`], in bytes.
pub const ROOT: u64 = 9 << 20;

/// A disk with a GPT, a boot partition, and a root as partition 2, made by mke2fs with these options.
pub fn disk(scratch: &Scratch, options: &str) -> PathBuf {
    let path = scratch.join("disk.img");
    fs::File::create_new(&path).unwrap().set_len(32 << 20).unwrap();
    let table =
        scratch.write("table", "label: gpt\nstart=2048,size=16384,type=uefi\nstart=18432,size=40960,type=linux\n");
    tool(Command::new("sfdisk").arg("-q").arg(&path).stdin(fs::File::open(table).unwrap()));
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

/// True where loop devices can be used; else it says what is skipped.
pub fn has_loop_devices() -> bool {
    let has = is_root() && Path::new("/dev/loop-control").exists();
    if !has {
        eprintln!("SKIPPED: this test needs root and loop devices");
    }
    has
}

/// A loop device over a file, or over another device, with a node for each partition.
pub struct Loop(pub String);

impl Loop {
    pub fn new(file: impl AsRef<Path>) -> Self {
        Self::with(file, &[])
    }

    /// With further arguments of losetup.
    pub fn with(file: impl AsRef<Path>, arguments: &[&str]) -> Self {
        let output = tool(Command::new("losetup").args(["--find", "--show"]).args(arguments).arg(file.as_ref()));
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// Adds the partitions' nodes, whether or not the kernel reads tables by itself. The path of partition 2.
    pub fn second_partition(&self) -> String {
        // Fails where they are there already.
        let _ = Command::new("partx").args(["-a", &self.0]).output();
        let path = format!("{}p2", self.0);
        assert!(Path::new(&path).exists(), "{path} did not appear");
        path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("partx").args(["-d", &self.0]).output();
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
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
        let _ = Command::new("umount").arg(&self.0).output();
    }
}
