//! An image that was copied while a system ran from it: its journal holds what is not yet in its place.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::kit::files::fingerprint;
use crate::kit::images::{self, Image, Layout};
use crate::kit::loops::Loop;
use crate::kit::manifest::{Manifest, twenty};
use crate::kit::mount::{Mount, assert_fsck_clean, fsck};
use crate::kit::tree::Tree;
use crate::kit::{skipped_without_root, tool};

/// `dirty.img`: a copy of `layout` that was made while the kernel had it mounted and after it had written `pending`,
/// some of it in files that stood before. With `orphan`, a deleted file was still open.
fn dirty(manifest: &Manifest, layout: Layout, orphan: bool) -> Image {
    let image = layout.committed(&manifest.scratch);
    let mount = Mount::read_write(&image);
    let write = |path: PathBuf, content: &[u8]| fs::write(path, content).expect("writing through the kernel");
    fs::create_dir_all(mount.at("/srv/pending")).expect("making a directory through the kernel");
    for number in 0..40 {
        write(
            mount.at(&format!("/srv/pending/{number}")),
            format!("pending {number}\n").repeat(number * 30).as_bytes(),
        );
    }
    fs::remove_dir_all(mount.at("/boot")).expect("removing through the kernel");
    let path = mount.at("/srv/deleted-while-open");
    let mut deleted = File::create(&path).expect("making a file through the kernel");
    if orphan {
        deleted.write_all(&[7; 200_000]).expect("writing through the kernel");
        deleted.sync_all().expect("syncing");
    }
    fs::remove_file(path).expect("removing a file through the kernel");
    if !orphan {
        deleted = File::create(mount.at("/srv/standing")).expect("making a file through the kernel");
    }
    // Into the journal, not into its place: what the kernel logs it brings home later.
    tool(Command::new("sync").arg("-f").arg(mount.root()));
    let copy = manifest.scratch.join("dirty.img");
    tool(Command::new("cp").arg("--sparse=always").arg(&image.path).arg(&copy));
    drop(deleted);
    drop(mount);
    fs::remove_file(&image.path).expect("removing an image");
    Image::new(copy, layout.root_offset)
}

/// What the kernel makes of a copy of the image: mounted, its journal replayed, unmounted.
fn replayed(manifest: &Manifest, image: &Image) -> Tree {
    let copy = Image::new(manifest.scratch.join("replayed.img"), image.root_offset);
    tool(Command::new("cp").arg("--sparse=always").arg(&image.path).arg(&copy.path));
    drop(Mount::read_write(&copy));
    let tree = Tree::of(&copy);
    fs::remove_file(&copy.path).expect("removing a copy");
    tree
}

#[test]
fn what_a_journal_holds_and_the_secrets_are_both_there_afterwards() {
    if skipped_without_root("a mount that leaves a journal to be replayed") {
        return;
    }
    for layout in [images::RAW_EFI, images::LEGACY, images::SD] {
        for out in [None, Some("out.img")] {
            let manifest = Manifest::new(twenty(layout));
            let image = dirty(&manifest, layout, false);
            assert!(fsck(&image).is_err(), "{}: the copy is clean, and proves nothing", layout.name);
            let want = replayed(&manifest, &image);
            let before = fingerprint(&image.path);
            let inspected = manifest.deaddrop_alone(&["inspect", "dirty.img", "--json"]).run().expect_code(0).json();
            assert_eq!(inspected["ext4"]["journal"]["state"], "needs-recovery", "{}", layout.name);
            manifest.deaddrop(&["plan", "dirty.img"]).run().expect_code(0);
            manifest.deaddrop(&["verify", "dirty.img"]).run().expect_code(3);
            assert_eq!(fingerprint(&image.path), before, "{}: looking wrote", layout.name);

            let mut args = vec!["inject", "dirty.img"];
            args.extend(out.iter().flat_map(|out| ["-o", out]));
            manifest.deaddrop(&args).run().expect_code(0);
            let result = Image::new(manifest.scratch.join(out.unwrap_or("dirty.img")), image.root_offset);
            if out.is_some() {
                assert_eq!(fingerprint(&image.path), before, "{}: the input was touched", layout.name);
            }
            assert_fsck_clean(&result);
            // By a system that boots from it.
            drop(Mount::read_write(&result));
            let after = Tree::of(&result);
            manifest.assert_in(&result, &after);
            for path in ["/srv/pending/39", "/srv/pending/0", "/srv/standing", "/nix/store"] {
                assert_eq!(after.at(path), want.at(path), "{}: {path}", layout.name);
            }
            assert!(!after.0.contains_key("/boot"), "{}: a removed directory is back", layout.name);
            let mut touched = manifest.paths();
            touched.extend([
                "/etc/secrets",
                "/var/lib/secrets",
                "/srv/far",
                "/srv/far/down",
                "/root/.ssh",
                "/etc",
                "/etc/ssh",
            ]);
            touched.extend(["/var", "/var/lib", "/root"].iter().filter(|path| !want.0.contains_key(**path)));
            want.assert_only(&after, &touched, &["/", "/srv", "/nix", "/root", "/var/lib"]);
        }
    }
}

/// Runs losetup with these words, which name the image in quotes.
fn losetup(manifest: &Manifest, words: &str) -> Loop {
    let words = words.split(' ').map(|word| word.trim_matches('\''));
    let said = tool(Command::new("losetup").args(words).current_dir(manifest.scratch.path()));
    Loop(String::from_utf8(said.stdout).expect("a device's name").trim().to_owned())
}

#[test]
fn a_file_that_was_deleted_while_open_is_dealt_with_or_refused_with_the_way_out() {
    if skipped_without_root("a mount that leaves a journal to be replayed") {
        return;
    }
    for layout in [images::HYBRID, images::NONE] {
        let manifest = Manifest::new(twenty(layout));
        let image = dirty(&manifest, layout, true);
        let before = fingerprint(&image.path);
        let done = manifest.deaddrop(&["inject", "dirty.img"]).run();
        if done.shell_code() == 1 {
            let said = done.stderr();
            assert!(said.contains("nothing was changed") && said.contains("e2fsck -p"), "{}: {said}", layout.name);
            assert_eq!(fingerprint(&image.path), before, "{}", layout.name);
            // The way out that was named.
            let device = match said.split_once("`losetup ").and_then(|(_, rest)| rest.split_once('`')) {
                Some((words, _)) => Some(losetup(&manifest, words)),
                None => {
                    assert!(said.contains("`e2fsck -p -f 'dirty.img'`"), "{said}");
                    None
                }
            };
            let place = device.as_ref().map_or("dirty.img", |device| &device.0);
            let mut e2fsck = Command::new("e2fsck");
            let repaired = e2fsck.args(["-p", "-f", place]).current_dir(manifest.scratch.path()).output();
            let repaired = repaired.expect("running e2fsck");
            assert!(matches!(repaired.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&repaired.stdout));
            drop(device);
            manifest.deaddrop(&["inject", "dirty.img"]).run().expect_code(0);
        } else {
            done.expect_code(0);
        }
        assert_fsck_clean(&image);
        drop(Mount::read_write(&image));
        manifest.assert_in(&image, &Tree::of(&image));
    }
}
