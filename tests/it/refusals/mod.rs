//! Wrong and hostile input, from outside: manifests, sources, images. Each is an error that says what, where, why and
//! what to do, within bounds of time and memory, and leaves everything as it was.

mod hostile;
mod images;
mod manifests;
mod roots;
mod sources;
mod vaults;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::disk::sfdisk;
use crate::kit::{Scratch, tool};

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// Makes an ext4 of `size` bytes that holds a NixOS store and /etc; further options go to mke2fs.
fn small_root(scratch: &Scratch, name: &str, size: u64, label: &str, options: &[&str]) -> PathBuf {
    let tree = scratch.join("tree");
    for directory in ["etc", "nix/store/e/etc"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    let path = scratch.join(name);
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "1024", "-L", label, "-E", "root_owner=0:0", "-d"]).arg(&tree);
    tool(mke2fs.args(options).arg(&path).arg(format!("{}k", size / 1024)));
    fs::remove_dir_all(tree).unwrap();
    path
}

/// Makes a disk of `size` bytes with a partition table in sfdisk's words, and puts file systems into it.
fn disk(path: &Path, size: u64, table: &str, contents: &[(u64, &Path)]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    sfdisk(path, table);
    for (offset, content) in contents {
        file.write_all_at(&fs::read(content).unwrap(), *offset).unwrap();
    }
}
