//! What can be named as an image and is none.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use deaddrop_core::error::StorageError;
use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::output::Destination;
use deaddrop_image::progress::quiet;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::kit::disk::*;
use crate::kit::files::{fingerprint, mode, names};
use crate::kit::loops::{Loop, has_loop_devices};

fn refused(path: &Path) -> StorageError {
    DiskImage::open(path, &quiet).err().unwrap_or_else(|| panic!("{} was opened", path.display()))
}

/// The error and its cause, without the directory's name.
fn words(error: &StorageError, directory: &Path) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}").replace(&format!("{}/", directory.display()), "")
}

#[test]
fn what_is_no_image_is_refused_by_its_kind_and_nothing_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    fs::write(path("empty"), "").unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    symlink("loop", path("loop")).unwrap();
    symlink("fifo", path("to-fifo")).unwrap();
    symlink("/dev/null", path("null")).unwrap();
    fs::write(path("short"), [0; 100]).unwrap();
    for (name, want) in [
        ("directory", "directory is a directory, not a disk image"),
        ("fifo", "fifo is a FIFO, not a disk image"),
        ("to-fifo", "to-fifo is a FIFO, not a disk image"),
        ("socket", "socket is a socket, not a disk image"),
        ("null", "null is a character device, not a disk image"),
        ("empty", "empty is empty"),
        ("missing", "missing: there is no such file"),
        ("dangling", "dangling is a symbolic link to nowhere, which is not there"),
        ("loop", "opening loop, a symbolic link to loop: Too many levels of symbolic links (os error 40)"),
        ("short", "short is no disk image: it has 100 bytes"),
    ] {
        assert_eq!(words(&refused(&path(name)), directory.path()), want);
    }
}

#[test]
fn the_container_is_told_by_its_magic_and_not_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw.img");
    small_disk(&raw);
    let compressed = zstd(&raw);
    let (raw_as_zst, zst_as_raw) = (directory.path().join("a.zst"), directory.path().join("b.img"));
    fs::rename(&compressed, &zst_as_raw).unwrap();
    symlink("raw.img", &raw_as_zst).unwrap();
    let raw_as_zst = DiskImage::open(&raw_as_zst, &quiet).unwrap();
    let zst_as_raw = DiskImage::open(&zst_as_raw, &quiet).unwrap();
    assert_eq!((raw_as_zst.container().name(), zst_as_raw.container().name()), ("raw", "zstd"));
    assert_eq!(raw_as_zst.table(), zst_as_raw.table());
    assert_eq!((zst_as_raw.size(), raw_as_zst.file_size()), (24 * MIB, 24 * MIB));
    assert_eq!(names(directory.path()), ["a.zst", "b.img", "raw.img"], "a spool has no name");
}

#[test]
fn zstd_of_several_frames_is_one_image_and_damaged_zstd_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw.img");
    small_disk(&raw);
    let disk = fs::read(&raw).unwrap();
    let (first, second) = disk.split_at(10 << 20);
    let mut frames = Vec::new();
    for (name, part) in [("first", first), ("second", second)] {
        let part_path = directory.path().join(name);
        fs::write(&part_path, part).unwrap();
        frames.extend(fs::read(zstd(&part_path)).unwrap());
    }
    let path = directory.path().join("frames.zst");
    fs::write(&path, &frames).unwrap();
    assert_eq!(DiskImage::open(&path, &quiet).unwrap().size(), 24 * MIB);
    for length in [4, 7, 100, frames.len() - 1] {
        fs::write(&path, &frames[..length]).unwrap();
        let before = fingerprint(&path);
        let error = words(&commit(&path, &in_place()).unwrap_err(), directory.path());
        assert_eq!(error, "frames.zst ends in the middle of its zstd data: it is truncated", "{length}");
        assert!(fingerprint(&path) == before);
    }
    let middle = frames.len() / 2;
    frames[middle..middle + 64].fill(0xff);
    fs::write(&path, &frames).unwrap();
    let error = words(&refused(&path), directory.path());
    assert!(error.starts_with("frames.zst: the zstd data is damaged: "), "{error}");
}

#[test]
fn a_block_device_is_an_image_that_no_other_file_can_replace() {
    if !has_loop_devices() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw.img");
    small_disk(&raw);
    let device = Loop::new(&raw);
    let path = Path::new(&device.0);
    let image = DiskImage::open(path, &quiet).unwrap();
    assert_eq!((image.size(), image.is_device(), image.table().partitions.len()), (24 * MIB, true, 2));
    drop(image);
    let error = commit(path, &in_place()).unwrap_err();
    let why = "is a block device, which no other file can replace (what is compressed is replaced, not changed)";
    assert!(error.to_string().ends_with(why), "{error}");
    let out = directory.path().join("out.img");
    commit(path, &new_file(&out)).unwrap();
    assert!(fs::read(&out).unwrap() == changed(&fs::read(&raw).unwrap()));
    assert_eq!(mode(&out), 0o600);
    let onto = commit(&raw, &Destination::File { path: path.to_owned(), force: true, format: None, overlay: false })
        .unwrap_err();
    assert!(onto.to_string().ends_with("is a block device"), "{onto}");
}
