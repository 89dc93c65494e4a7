//! Where a changed image goes: whole, under its name at once, or not at all.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::output::patch::Patch;
use deaddrop_image::output::{Copied, Destination};
use deaddrop_image::progress::quiet;
use deaddrop_image::table::root::TreeKind;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::kit::disk::*;
use crate::kit::files::{fingerprint, mode, names};

/// A directory with `raw.img`, 0644, and `raw.img.zst` of it.
fn images() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw.img");
    small_disk(&raw);
    fs::set_permissions(&raw, Permissions::from_mode(0o644)).unwrap();
    zstd(&raw);
    directory
}

fn raw_of(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if bytes.starts_with(b"\x28\xb5\x2f\xfd") { unzstd(path) } else { bytes }
}

#[test]
fn every_way_from_image_to_output_gives_the_changed_disk_with_mode_0600() {
    let directory = images();
    let path = |name: &str| directory.path().join(name);
    let disk = fs::read(path("raw.img")).unwrap();
    for (from, to) in
        [("raw.img", "out.img"), ("raw.img", "out.img.zst"), ("raw.img.zst", "out.img"), ("raw.img.zst", "OUT.ZST")]
    {
        let before = fingerprint(&path(from));
        let done = commit(&path(from), &new_file(&path(to))).unwrap();
        assert!(done.written && done.mode_was.is_none());
        assert!(fingerprint(&path(from)) == before, "{from} is untouched");
        assert!(raw_of(&path(to)) == changed(&disk), "{from} to {to}");
        assert_eq!(mode(&path(to)), 0o600, "{from} to {to}");
        let is_zstd = fs::read(path(to)).unwrap().starts_with(b"\x28\xb5\x2f\xfd");
        assert_eq!(is_zstd, to.to_lowercase().ends_with(".zst"), "{from} to {to}");
        assert!(is_zstd || fs::metadata(path(to)).unwrap().blocks() * 512 < 12 * MIB, "{from} to {to} keeps holes");
        fs::remove_file(path(to)).unwrap();
        assert_eq!(names(directory.path()), ["raw.img", "raw.img.zst"], "nothing else is left");
    }
}

#[test]
fn in_place_replaces_the_file_behind_a_link_and_says_what_became_of_it() {
    let directory = images();
    for name in ["raw.img", "raw.img.zst"] {
        let path = directory.path().join(name);
        let disk = raw_of(&path);
        let link = directory.path().join("link");
        symlink(name, &link).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::hard_link(&path, directory.path().join("other-name")).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let done = commit(&link, &in_place()).unwrap();
        assert_eq!((done.mode_was, done.other_links, done.owner_was), (Some(0o644), 1, None));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(raw_of(&path) == changed(&disk), "{name}");
        assert!(raw_of(&directory.path().join("other-name")) == disk, "the other name keeps the old content");
        assert_eq!(mode(&path), 0o600);
        assert_ne!(fs::metadata(&path).unwrap().ino(), inode, "replaced, not written over");
        fs::remove_file(&link).unwrap();
        fs::remove_file(directory.path().join("other-name")).unwrap();
    }
    let raw = directory.path().join("raw.img");
    fs::set_permissions(&raw, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(
        commit(&raw, &Destination::InPlace { keep_mode: true, force: false, undo: None }).unwrap().mode_was,
        None
    );
    assert_eq!(mode(&raw), 0o640);
}

#[test]
fn nothing_to_do_does_not_touch_an_image_and_still_makes_an_output() {
    let directory = images();
    for name in ["raw.img", "raw.img.zst"] {
        let path = directory.path().join(name);
        let before = fingerprint(&path);
        let nothing = |destination: &Destination| {
            let (image, output) = DiskImage::open_for(&path, destination, &quiet).unwrap();
            let root = image.root(None, &|_| Ok(TreeKind::Unknown)).unwrap();
            output.commit(image, &Patch::new(&root.partition, []).unwrap(), &quiet).unwrap()
        };
        let done = nothing(&in_place());
        assert_eq!((done.written, done.copied, done.mode_was), (false, Copied::Nothing, None));
        assert!(fingerprint(&path) == before, "{name}");
        let out = directory.path().join("out.img");
        assert!(nothing(&new_file(&out)).written);
        assert!(raw_of(&out) == raw_of(&path));
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn an_output_that_cannot_be_is_refused_before_anything_is_decoded() {
    let directory = images();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    symlink("self", path("self")).unwrap();
    symlink("raw.img.zst", path("link-to-image")).unwrap();
    fs::hard_link(path("raw.img.zst"), path("same.zst")).unwrap();
    fs::write(path("exists.img"), "theirs").unwrap();
    fs::write(path("image.zst"), fs::read(path("raw.img.zst")).unwrap()).unwrap();
    // With its end cut off, the image would give another error if it were decoded first.
    let zst = fs::read(path("raw.img.zst")).unwrap();
    fs::write(path("raw.img.zst"), &zst[..zst.len() / 2]).unwrap();
    let before = names(directory.path());
    for (out, force, want) in [
        ("exists.img", false, "exists.img exists"),
        ("raw.img.zst", false, "raw.img.zst is the image itself"),
        ("raw.img.zst", true, "raw.img.zst is the image itself"),
        ("same.zst", true, "same.zst is the image itself"),
        ("link-to-image", true, "link-to-image is the image itself"),
        ("directory", true, "directory is a directory"),
        ("new-directory/", false, "new-directory/ is a directory"),
        ("fifo", true, "fifo is a FIFO"),
        ("dangling", true, "dangling is a symbolic link that leads nowhere"),
        ("self", true, "self is a symbolic link that leads nowhere"),
        ("missing/out.img", false, "missing/out.img cannot be made: there is no directory missing"),
        ("exists.img/out.img", false, "exists.img/out.img cannot be made: exists.img is no directory"),
        ("out.img.lz4", false, "out.img.lz4: .lz4 cannot be written"),
        ("out.qcow2", false, "out.qcow2: .qcow2 names another container, and the image is raw"),
        ("out.ISO", false, "out.ISO: .iso cannot be written"),
    ] {
        let destination = Destination::File { path: path(out), force, format: None, overlay: false };
        let error = commit(&path("raw.img.zst"), &destination).unwrap_err();
        let message = error.to_string().replace(&format!("{}/", directory.path().display()), "");
        assert_eq!(message, want);
        assert!(!deaddrop::run::remedy::hint(&error).is_empty(), "{want}");
    }
    for (out, want) in [("-", "an image cannot be written to standard output"), ("..", ".. is a directory")] {
        let error = commit(&path("raw.img"), &new_file(Path::new(out))).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
    assert_eq!(names(directory.path()), before);
    assert_eq!(fs::read(path("exists.img")).unwrap(), b"theirs");
}

#[test]
fn force_replaces_a_file_and_what_a_link_leads_to() {
    let directory = images();
    let path = |name: &str| directory.path().join(name);
    let disk = fs::read(path("raw.img")).unwrap();
    fs::write(path("old.img"), "old").unwrap();
    fs::set_permissions(path("old.img"), Permissions::from_mode(0o666)).unwrap();
    symlink("old.img", path("link.img")).unwrap();
    for (from, out) in [("raw.img", "old.img"), ("raw.img.zst", "link.img"), ("raw.img", "new.img")] {
        commit(&path(from), &Destination::File { path: path(out), force: true, format: None, overlay: false }).unwrap();
        assert!(fs::read(path(out)).unwrap() == changed(&disk), "{out}");
        assert_eq!(mode(&path(out)), 0o600, "{out}");
    }
    assert!(fs::symlink_metadata(path("link.img")).unwrap().is_symlink());
    assert_eq!(names(directory.path()), ["link.img", "new.img", "old.img", "raw.img", "raw.img.zst"]);
}

#[test]
fn what_happens_meanwhile_stops_the_commit() {
    let directory = images();
    let path = |name: &str| directory.path().join(name);
    for (name, from, meanwhile, want) in [
        ("output appears", "raw.img", "out", "was made by somebody else meanwhile"),
        ("output appears, decoded", "raw.img.zst", "out", "was made by somebody else meanwhile"),
        ("image is written to", "raw.img", "touch", "was changed by somebody else while it was worked on"),
        ("image is replaced", "raw.img.zst", "replace", "was changed by somebody else while it was worked on"),
    ] {
        let out = path("out.img");
        let (image, output) = DiskImage::open_for(&path(from), &new_file(&out), &quiet).unwrap();
        let root = image.root(None, &|_| Ok(TreeKind::Unknown)).unwrap();
        match meanwhile {
            "out" => fs::write(&out, "theirs").unwrap(),
            "touch" => {
                File::options().write(true).open(path(from)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap()
            }
            _ => {
                fs::copy(path(from), path("copy")).unwrap();
                fs::rename(path("copy"), path(from)).unwrap();
            }
        }
        let patch = Patch::new(&root.partition, [(CHANGE.0, &CHANGE.1[..])]).unwrap();
        let error = output.commit(image, &patch, &quiet).unwrap_err().to_string();
        assert!(error.ends_with(want), "{name}: {error}");
        if meanwhile == "out" {
            assert_eq!(fs::read(&out).unwrap(), b"theirs");
            fs::remove_file(&out).unwrap();
        }
        assert_eq!(names(directory.path()), ["raw.img", "raw.img.zst"], "{name}");
    }
}

#[test]
fn what_an_image_had_is_kept_when_it_is_replaced() {
    let directory = images();
    let raw = directory.path().join("raw.img");
    // Not every file system takes them; the one of the tests' directory mostly does.
    if xattr::set(&raw, "user.origin", b"hydra").is_err() {
        eprintln!("skipped: no extended attributes in {}", directory.path().display());
        return;
    }
    let owned = nix::unistd::geteuid().is_root();
    if owned {
        std::os::unix::fs::chown(&raw, Some(12345), Some(54321)).unwrap();
    }
    let done = commit(&raw, &in_place()).unwrap();
    assert_eq!((done.owner_was, done.lost_attributes.len()), (None, 0));
    assert_eq!(xattr::get(&raw, "user.origin").unwrap().as_deref(), Some(&b"hydra"[..]));
    let metadata = fs::metadata(&raw).unwrap();
    assert!(!owned || (metadata.uid(), metadata.gid()) == (12345, 54321));
}

#[test]
fn an_image_that_may_not_be_written_is_left_alone_and_o_is_offered() {
    let directory = images();
    for name in ["raw.img", "raw.img.zst"] {
        let path = directory.path().join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        let before = fingerprint(&path);
        let error = commit(&path, &in_place()).unwrap_err();
        assert!(error.to_string().ends_with("is read-only"), "{error}");
        assert!(deaddrop::run::remedy::hint(&error).contains("-o OUT"));
        assert!(fingerprint(&path) == before);
        let out = directory.path().join("out.img");
        commit(&path, &new_file(&out)).unwrap();
        assert_eq!(mode(&out), 0o600);
        fs::remove_file(&out).unwrap();
    }
}
