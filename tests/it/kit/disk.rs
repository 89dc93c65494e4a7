//! What the tests make images with. Everything goes into a directory that removes itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use deaddrop_core::error::StorageError;
use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::output::patch::Patch;
use deaddrop_image::output::{Committed, Destination};
use deaddrop_image::progress::quiet;
use deaddrop_image::table::root::TreeKind;

use super::{fed, program, tool};

pub const MIB: u64 = 1 << 20;

/// Runs a tool that must succeed.
pub fn run(name: &str, arguments: &[&str]) {
    tool(Command::new(program(name)).args(arguments));
}

/// Writes a partition table in sfdisk's words.
pub fn sfdisk(path: &Path, table: &str) {
    fed(Command::new(program("sfdisk")).arg("-q").arg(path), table.as_bytes());
}

/// Bytes that no compressor makes fewer, the same every time (Knuth's multiplier).
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..size).map(next).collect()
}

/// A sparse file of `size` bytes.
pub fn blank(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// An ext4 of `size` bytes inside `path`, from `start` on.
pub fn ext4(path: &Path, start: u64, size: u64, label: &str) {
    let (offset, blocks) = (format!("offset={start},nodiscard"), format!("{}k", size / 1024));
    let label: &[&str] = if label.is_empty() { &[] } else { &["-L", label] };
    let arguments =
        [&["-q", "-F", "-t", "ext4", "-O", "metadata_csum,64bit", "-b", "4096", "-E", &offset], label].concat();
    run("mkfs.ext4", &[&arguments[..], &[path.to_str().unwrap(), &blocks]].concat());
}

/// A FAT inside `path`, from `start` on.
pub fn vfat(path: &Path, start: u64, size: u64, label: &str) {
    let (offset, blocks) = (format!("--offset={}", start / 512), (size / 1024).to_string());
    run("mkfs.vfat", &["-F", "32", "-n", label, &offset, path.to_str().unwrap(), &blocks]);
}

/// A small disk with a GPT, an ESP and a root, as make-disk-image's `efi`: the root is partition 2, from 8 MiB on.
pub fn small_disk(path: &Path) {
    blank(path, 24 * MIB);
    let table = "label: gpt\n start=2048, size=14336, type=uefi, name=ESP\n start=16384, size=30720, type=linux\n";
    sfdisk(path, table);
    ext4(path, 8 * MIB, 15 * MIB, "nixos");
}

/// `path` compressed, beside it.
pub fn zstd(path: &Path) -> PathBuf {
    let compressed = PathBuf::from(format!("{}.zst", path.display()));
    run("zstd", &["-q", "-f", path.to_str().unwrap(), "-o", compressed.to_str().unwrap()]);
    compressed
}

pub fn unzstd(path: &Path) -> Vec<u8> {
    let output = Command::new("zstd").args(["-dcq"]).arg(path).output().unwrap();
    assert!(output.status.success(), "zstd -t {}", path.display());
    output.stdout
}

pub fn in_place() -> Destination {
    Destination::InPlace { keep_mode: false, force: false, undo: None }
}

pub fn new_file(path: &Path) -> Destination {
    Destination::File { path: path.to_owned(), force: false, format: None, overlay: false }
}

/// The change that the tests make: 4 KiB in the middle of the root.
pub const CHANGE: (u64, [u8; 4096]) = (5 * MIB, [0xA5; 4096]);

/// Opens `image`, puts the change into its root, and commits.
pub fn commit(image: &Path, destination: &Destination) -> Result<Committed, StorageError> {
    let (disk, output) = DiskImage::open_for(image, destination, &quiet)?;
    let root = disk.root(None, &|_| Ok(TreeKind::Unknown))?;
    let patch = Patch::new(&root.partition, [(CHANGE.0, &CHANGE.1[..])])?;
    output.commit(disk, &patch, &quiet)
}

/// `raw` as it should be after the change.
pub fn changed(raw: &[u8]) -> Vec<u8> {
    let mut want = raw.to_vec();
    let at = usize::try_from(8 * MIB + CHANGE.0).unwrap();
    want[at..at + 4096].copy_from_slice(&CHANGE.1);
    want
}

/// Writes into a file without changing its size.
pub fn poke(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}
