//! A root file system in a tar: made by GNU tar, bsdtar and Python's tarfile, changed by deaddrop, listed and extracted by
//! those programs. Every other entry must be what it was, byte for byte.

mod disks;
mod hostile;
mod links;
mod places;
mod roots;
mod stopped;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::manifest::{Item, Manifest};
use crate::kit::{Scratch, is_root, sha256_of, tool};

/// A root with a file of each kind that is of interest; returns its directory.
fn root(scratch: &Scratch) -> PathBuf {
    let root = scratch.join("root");
    for directory in ["etc/secrets", "nix/store", "usr/bin", "var/lib", "srv"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nsvc:x:998:995::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nsvc:x:995:\n").unwrap();
    fs::write(root.join("usr/bin/tool"), vec![7; 700]).unwrap();
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/tool2")).unwrap();
    symlink("/etc", root.join("var/lib/config")).unwrap();
    fs::write(root.join("srv/empty"), "").unwrap();
    let sparse = File::create(root.join("var/lib/sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 5000], 1 << 20).unwrap();
    // Over 100 bytes, and over 255: prefix, extended headers.
    let deep = root.join("srv").join("d".repeat(120)).join("e".repeat(140));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "deep").unwrap();
    root
}

/// A program that makes a tar: its name for messages, and the command in the root's directory but for the name of the
/// tar, which comes last.
struct Maker(&'static str, &'static [&'static str]);

const MAKERS: [Maker; 9] = [
    Maker("gnu", &["tar", "--numeric-owner", "--owner=0", "--group=0", "--format=gnu", "--sparse", "-c", ".", "-f"]),
    Maker("pax", &["tar", "--owner=0", "--group=0", "--format=pax", "--sparse", "-c", ".", "-f"]),
    Maker(
        "pax, sparse 0.1",
        &["tar", "--owner=0", "--group=0", "--format=pax", "-S", "--sparse-version=0.1", "-c", ".", "-f"],
    ),
    // As nixpkgs makes them.
    Maker("nixpkgs", &["sh", "-c", "exec tar --sort=name --owner=0 --group=0 --numeric-owner -c -f \"$0\" *"]),
    Maker("old gnu", &["tar", "--format=oldgnu", "--owner=0", "--group=0", "-b", "64", "-c", ".", "-f"]),
    Maker("bsdtar pax", &["sh", "-c", "exec bsdtar --uid=0 --gid=0 --format=pax -c -f \"$0\" ."]),
    Maker("bsdtar gnu", &["sh", "-c", "exec bsdtar --uid=0 --gid=0 --format=gnutar -c -f \"$0\" ."]),
    Maker("python gnu", &["python3", "make.py", "gnu"]),
    Maker("python pax", &["python3", "make.py", "pax"]),
];

impl Maker {
    /// Makes the tar `name` of a root.
    fn make(&self, scratch: &Scratch, root: &Path, name: &str) -> PathBuf {
        let to = scratch.join(name);
        if self.1[0] == "python3" {
            by_script(include_str!("make.py"), &[to.to_str().unwrap(), self.1[2], root.to_str().unwrap()]);
        } else {
            tool(Command::new(self.1[0]).args(&self.1[1..]).arg(&to).current_dir(root));
        }
        to
    }
}

/// The output of a script in Python.
fn by_script(script: &str, arguments: &[&str]) -> String {
    let output = tool(Command::new("python3").arg("-c").arg(script).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of `entries.py`.
fn entries(tar: &Path) -> Vec<String> {
    by_script(include_str!("entries.py"), &[tar.to_str().unwrap()]).lines().map(str::to_owned).collect()
}

/// The entries with other names than these.
fn without(entries: &[String], paths: &[&str]) -> Vec<String> {
    let is_other = |line: &&String| {
        let name = line.splitn(3, ' ').nth(2).unwrap_or_default();
        let name = name.trim_start_matches("./").trim_end_matches('/');
        !paths.iter().any(|path| path.trim_start_matches('/') == name)
    };
    entries.iter().filter(is_other).cloned().collect()
}

/// GNU tar finds no fault with it.
fn assert_lists(tar: &Path) {
    let listed = tool(Command::new("tar").arg("-tvf").arg(tar));
    assert!(listed.stderr.is_empty(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = tool(Command::new("bsdtar").arg("-tvf").arg(tar));
    assert!(listed.stderr.is_empty(), "{}", String::from_utf8_lossy(&listed.stderr));
}

/// Extracted by GNU tar into a new directory.
fn extracted(scratch: &Scratch, tar: &Path, name: &str) -> PathBuf {
    let to = scratch.join(name);
    fs::create_dir(&to).unwrap();
    let done = tool(Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(tar).arg("-C").arg(&to));
    assert!(done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    to
}

/// Every file below a directory that is no directory: mode, owner, size or content, number of names.
fn files(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            let content = match data.file_type() {
                kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                kind if kind.is_file() => sha256_of(&path),
                _ => String::new(),
            };
            if data.is_dir() {
                todo.push(path.clone());
            }
            let links = if data.is_dir() { 0 } else { data.nlink() };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, format!("{:o} {}:{} {links} {content}", data.mode(), data.uid(), data.gid()));
        }
    }
    files
}

/// Panics unless each item is in the extracted root as it was declared.
#[track_caller]
fn assert_in(items: &[Item], root: &Path) {
    for item in items {
        let path = root.join(item.path.trim_start_matches('/'));
        let data = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", item.path));
        assert!(data.is_file() && fs::read(&path).unwrap() == item.value, "{} has not its value", item.path);
        assert_eq!(data.mode() & 0o7777, item.mode, "{}", item.path);
        if is_root() {
            assert_eq!((data.uid(), data.gid()), (item.uid, item.gid), "{}", item.path);
        }
    }
}

fn items() -> Vec<Item> {
    vec![
        Item::new("token", "/etc/secrets/token"),
        Item::new("long", "/var/lib/app/state/long").sized(5000),
        Item::new("block", "/etc/secrets/block").sized(512),
        Item::new("theirs", "/etc/secrets/theirs")
            .keys("owner: svc, group: svc, mode: \"0440\"")
            .owned(0o440, 998, 995),
        Item::new("number", "/srv/number").keys("owner: 4000000000, group: 3000000, mode: \"0600\"").owned(
            0o600,
            4_000_000_000,
            3_000_000,
        ),
    ]
}

/// A manifest with these items, and a tar of [`root`] beside it.
fn prepared(items: Vec<Item>, maker: &Maker, name: &str) -> (Manifest, PathBuf) {
    let manifest = Manifest::new(items);
    let root = root(&manifest.scratch);
    let tar = maker.make(&manifest.scratch, &root, name);
    (manifest, tar)
}
