//! The tests' own machinery: the images are what their README says, the two readers of a tree agree, a leak is found,
//! and nothing is left behind.

use std::fs;

use crate::kit::canary::{Canary, search_files};
use crate::kit::images::{self, LAYOUTS};
use crate::kit::mount::{Mount, assert_fsck_clean, debugfs, debugfs_write, fsck, raw_inodes};
use crate::kit::run::Deaddrop;
use crate::kit::tree::{Change, Kind, Time, Tree};
use crate::kit::{Scratch, sha256_of, skipped_without_root};

#[test]
fn the_committed_images_are_clean_and_hold_a_store() {
    for layout in LAYOUTS {
        let scratch = Scratch::new();
        let image = layout.committed(&scratch);
        assert_fsck_clean(&image);
        let tree = Tree::of(&image);
        assert_eq!(tree.at("/nix/store").mode, 0o1775, "{}", layout.name);
        assert_eq!(tree.0.contains_key("/etc"), layout.activated, "{}", layout.name);
        assert_eq!(tree.0.contains_key("/var"), layout.activated, "{}", layout.name);
        if layout.activated {
            let shadow = tree.at("/etc/shadow");
            assert_eq!((shadow.mode, shadow.uid, shadow.gid), (0o640, 0, 318), "{}", layout.name);
        }
    }
}

#[test]
fn a_fresh_image_has_the_size_that_was_asked_for() {
    let scratch = Scratch::new();
    let image = images::NONE.fresh(&scratch, 512);
    assert_eq!(fs::metadata(&image.path).expect("the image").len(), 512 << 20);
    assert_fsck_clean(&image);
}

#[test]
fn odd_inodes_are_read_as_they_were_made() {
    let scratch = Scratch::new();
    let tree = Tree::by_debugfs(&images::RAW_EFI.committed(&scratch));
    let at = |name: &str| tree.at(&format!("/var/lib/oddities/{name}"));
    assert_eq!((at("foreign-owner").uid, at("foreign-owner").gid), (70000, 80000));
    assert_eq!(at("set-id").mode, 0o6755);
    assert_eq!(at("nanoseconds").modified, Time(1_700_000_000, 123_456_789));
    assert_eq!(at("null").kind, Kind::Character { major: 1, minor: 3 });
    assert_eq!(at("pipe").kind, Kind::Pipe);
    assert_eq!(at("dangling-absolute").kind, Kind::Link { target: "/persist/secrets".to_owned() });
    assert_eq!(at("attributes").attributes["user.small"], crate::kit::hex(b"small"));
    assert_eq!((at("linked").inode, at("linked").links), (tree.at("/var/lib/linked-too").inode, 2));
}

#[test]
fn the_kernel_and_debugfs_read_the_same_tree() {
    if skipped_without_root("a kernel mount") {
        return;
    }
    for layout in LAYOUTS {
        let scratch = Scratch::new();
        let image = layout.committed(&scratch);
        let before = sha256_of(&image.path);
        let by_kernel = Tree::of_mount(&Mount::read_only(&image));
        let differences = by_kernel.changes(&Tree::by_debugfs(&image));
        assert!(differences.is_empty(), "{}: {differences:?}", layout.name);
        assert_eq!(sha256_of(&image.path), before, "{}: reading wrote", layout.name);
    }
}

#[test]
fn a_change_is_named_by_path_and_field() {
    let scratch = Scratch::new();
    let image = images::NONE.committed(&scratch);
    let before = Tree::of(&image);
    let old = raw_inodes(&image, [before.at("/etc/NIXOS").inode, before.at("/etc/passwd").inode]);
    debugfs_write(
        &image,
        "set_inode_field /etc/NIXOS mode 0100600\nkill_file /etc/subgid\nrm /etc/subgid\nmkdir /new\n",
    );
    let after = Tree::of(&image);

    let changes = before.changes(&after);
    assert_eq!(changes["/etc/NIXOS"], Change::Fields(vec!["mode"]));
    assert_eq!(changes["/etc/subgid"], Change::Removed);
    assert_eq!(changes["/new"], Change::Added);
    assert!(before.changes(&before).is_empty());
    before.assert_only(&after, &["/etc/NIXOS", "/etc/subgid", "/new"], &["/"]);
    let result = std::panic::catch_unwind(|| before.assert_only(&after, &["/etc/NIXOS", "/new"], &["/"]));
    assert!(result.is_err(), "a removal that nobody asked for was passed over");

    let new = raw_inodes(&image, old.keys().copied());
    assert_ne!(new[&before.at("/etc/NIXOS").inode], old[&before.at("/etc/NIXOS").inode]);
    assert_eq!(new[&before.at("/etc/passwd").inode], old[&before.at("/etc/passwd").inode]);
}

#[test]
fn fsck_tells_of_a_wrong_count() {
    let scratch = Scratch::new();
    let image = images::LEGACY_GPT.committed(&scratch);
    debugfs_write(&image, "set_super_value free_blocks_count 7\n");
    assert!(fsck(&image).is_err(), "e2fsck's complaint was passed over");
}

#[test]
fn a_mount_ends_with_its_guard_even_after_a_panic() {
    if skipped_without_root("a kernel mount") {
        return;
    }
    let scratch = Scratch::new();
    let image = images::SD.committed(&scratch);
    let place = std::sync::Mutex::new(std::path::PathBuf::new());
    let result = std::panic::catch_unwind(|| {
        let mount = Mount::read_only(&image);
        assert!(mount.at("/nix/store").is_dir());
        *place.lock().expect("nobody else has it") = mount.root().to_owned();
        panic!("on purpose");
    });
    assert!(result.is_err());
    let place = place.into_inner().expect("nobody else has it");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the list of mounts");
    assert!(!mounts.contains(place.to_str().expect("UTF-8")), "still mounted");
    assert!(!place.exists(), "the mount's directory was left behind");
}

#[test]
fn a_read_write_mount_replays_and_the_image_stays_clean() {
    if skipped_without_root("a kernel mount") {
        return;
    }
    let scratch = Scratch::new();
    let image = images::HYBRID.committed(&scratch);
    let mount = Mount::read_write(&image);
    fs::write(mount.at("/root/written-by-the-kernel"), "content").expect("writing through the kernel");
    drop(mount);
    assert_fsck_clean(&image);
    assert_eq!(debugfs(&image, &["cat /root/written-by-the-kernel".to_owned()]), ["content"]);
}

#[test]
fn a_canary_is_found_in_every_dress() {
    let canary = Canary::of("token", b"planted-value-1234567");
    for (name, haystack) in [
        ("plain", "x planted-value-1234567 y".to_owned()),
        ("reversed", "7654321-eulav-detnalp".to_owned()),
        ("hexadecimal", format!("<{}>", crate::kit::hex(canary.bytes()))),
        // `printf '…' | base64`, with 0, 1 and 2 bytes before the value.
        ("base64 at 0", "cGxhbnRlZC12YWx1ZS0xMjM0NTY3".to_owned()),
        ("base64 at 1", "eHBsYW50ZWQtdmFsdWUtMTIzNDU2Nw==".to_owned()),
        ("base64 at 2", "eHhwbGFudGVkLXZhbHVlLTEyMzQ1Njc=".to_owned()),
    ] {
        let find = canary.found_in(haystack.as_bytes()).unwrap_or_else(|| panic!("{name}: not found"));
        assert!(find.contains("token") && !find.contains("planted"), "{name}: the find tells the value");
    }
    assert_eq!(canary.found_in(b"planted-value-1234568"), None);
}

#[test]
fn a_canary_is_found_in_contents_names_and_links() {
    let scratch = Scratch::new();
    let canary = Canary::new("password");
    let dir = scratch.join("searched");
    fs::create_dir_all(dir.join("below")).expect("making a directory");
    scratch.write("searched/below/content", [b"prefix ", canary.bytes()].concat());
    scratch.write(format!("searched/{}", canary.text()), "");
    std::os::unix::fs::symlink(canary.text(), dir.join("link")).expect("making a link");
    let finds = search_files(&dir, &[canary.clone(), Canary::new("another")]);
    assert_eq!(finds.len(), 3, "{finds:?}");
    assert!(finds.iter().all(|find| canary.found_in(find.as_bytes()).is_none()), "a find tells the value");
}

#[test]
fn a_leak_fails_the_run_and_is_not_shown() {
    for (name, traced, script) in [
        ("standard output", false, "echo $PLANTED"),
        ("standard error", false, "echo $PLANTED >&2"),
        ("a temporary file", false, "echo $PLANTED >$TMPDIR/left"),
        ("an argument of a child", true, "P=$PLANTED; export -n PLANTED; unset PLANTED; /bin/true $P"),
        ("the environment of a child", true, "/bin/true"),
    ] {
        let scratch = Scratch::new();
        let canary = Canary::new("password");
        let result = std::panic::catch_unwind(|| {
            let run = Deaddrop::new(&scratch).instead("/bin/bash").args(["-c", script]);
            let run = run.env("PLANTED", canary.text()).plant(&canary);
            if traced {
                run.traced("%process").run()
            } else {
                run.run()
            };
        });
        let why = result.err().unwrap_or_else(|| panic!("{name}: the leak was passed over"));
        let why = why.downcast_ref::<String>().expect("a message");
        assert!(why.starts_with("LEAK"), "{name}: another failure");
        assert_eq!(canary.found_in(why.as_bytes()), None, "{name}: the failure shows the value");
    }
}

#[test]
fn a_traced_run_of_nobody_shows_what_it_called() {
    let scratch = Scratch::new();
    let canary = Canary::new("password");
    let run = Deaddrop::new(&scratch).args(["--help"]).env("PLANTED", canary.text()).plant(&canary);
    let finished = run.unprivileged().traced("%file,mount,ioctl").run();
    let trace = finished.trace();
    assert!(!trace.calls("openat").is_empty(), "strace saw nothing");
    assert_eq!(trace.children(), Vec::<&str>::new());
    trace.assert_none(&["mount", "umount2"]);
}
