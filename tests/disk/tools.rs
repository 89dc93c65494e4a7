//! What the tests make images with. Everything goes into a directory that removes itself.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use deaddrop::image::disk::DiskImage;
use deaddrop::image::error::ImageError;
use deaddrop::image::output::{Committed, Destination};
use deaddrop::image::patch::Patch;
use deaddrop::image::progress::quiet;
use deaddrop::image::root::Look;

pub const MIB: u64 = 1 << 20;

/// Runs a tool that must succeed, with `input` on its standard input.
pub fn run(program: &str, arguments: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
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
    run("mkfs.ext4", &[&arguments[..], &[path.to_str().unwrap(), &blocks]].concat(), "");
}

/// A FAT inside `path`, from `start` on.
pub fn vfat(path: &Path, start: u64, size: u64, label: &str) {
    let (offset, blocks) = (format!("--offset={}", start / 512), (size / 1024).to_string());
    run("mkfs.vfat", &["-F", "32", "-n", label, &offset, path.to_str().unwrap(), &blocks], "");
}

/// A small disk with a GPT, an ESP and a root, as make-disk-image's `efi`: the root is partition 2, from 8 MiB on.
pub fn small_disk(path: &Path) {
    blank(path, 24 * MIB);
    let table = "label: gpt\n start=2048, size=14336, type=uefi, name=ESP\n start=16384, size=30720, type=linux\n";
    run("sfdisk", &["-q", path.to_str().unwrap()], table);
    ext4(path, 8 * MIB, 15 * MIB, "nixos");
}

/// `path` compressed, beside it.
pub fn zstd(path: &Path) -> PathBuf {
    let compressed = PathBuf::from(format!("{}.zst", path.display()));
    run("zstd", &["-q", "-f", path.to_str().unwrap(), "-o", compressed.to_str().unwrap()], "");
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
    Destination::File { path: path.to_owned(), force: false }
}

/// The change that the tests make: 4 KiB in the middle of the root.
pub const CHANGE: (u64, [u8; 4096]) = (5 * MIB, [0xA5; 4096]);

/// Opens `image`, puts the change into its root, and commits.
pub fn commit(image: &Path, destination: &Destination) -> Result<Committed, ImageError> {
    let (disk, output) = DiskImage::open_for(image, destination, &quiet)?;
    let root = disk.root(None, &|_| Ok(Look::Unknown))?;
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

/// What must not change when something is refused: inode, mode, owner, times, and content.
pub fn fingerprint(path: &Path) -> (u64, u32, u32, i64, i64, Vec<u8>) {
    let metadata = fs::metadata(path).unwrap();
    let content = fs::read(path).unwrap();
    (metadata.ino(), metadata.mode(), metadata.uid(), metadata.mtime(), metadata.mtime_nsec(), content)
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Writes into a file without changing its size.
pub fn poke(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}
