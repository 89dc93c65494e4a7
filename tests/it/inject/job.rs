//! The main job, whole: twenty secrets into every layout, in place, and everything else as it was.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::kit::files::{fingerprint, holds};
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{Manifest, new_directories, twenty};
use crate::kit::mount::{assert_fsck_clean, raw_inodes};
use crate::kit::tree::Tree;

/// What lies before the root's partition, and the last 33 sectors, where a GPT has its backup.
fn around(image: &Image) -> (Vec<u8>, Vec<u8>) {
    let mut file = File::open(&image.path).expect("the image");
    let (mut before, mut after) = (Vec::new(), Vec::new());
    (&file).take(image.root_offset).read_to_end(&mut before).expect("reading the image");
    file.seek(SeekFrom::End(-33 * 512)).expect("seeking");
    file.read_to_end(&mut after).expect("reading the image");
    (before, after)
}

/// The parent of a path.
fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// The whole of it: inject, look, inject again, change one value, inject again.
fn main_job(layout: Layout, make: impl FnOnce(&Manifest) -> Image) {
    let mut manifest = Manifest::new(twenty(layout));
    let image = make(&manifest);
    let name = image.path.file_name().and_then(|name| name.to_str()).expect("a name of ours").to_owned();
    let before = Tree::of(&image);
    let outside = around(&image);
    let raw_before = raw_inodes(&image, before.0.values().map(|node| node.inode));

    // Twenty files, and nothing else.
    let done = manifest.deaddrop(&["inject", &name, "--json"]).run().expect_code(0).expect_error("20 secrets written");
    assert!(done.json()["changes"].as_array().expect("a list").iter().all(|change| change["action"] == "create"));
    assert_fsck_clean(&image);
    let after = Tree::of(&image);
    manifest.assert_in(&image, &after);
    let directories = new_directories(layout);
    for (path, mode) in &directories {
        let node = after.at(path);
        assert_eq!((node.mode, node.uid, node.gid), (*mode, 0, 0), "{path}");
    }
    let mut touched = manifest.paths();
    touched.extend(directories.iter().map(|(path, _)| *path));
    let parents: BTreeSet<&str> = touched.iter().map(|path| parent(path)).collect();
    let parents: Vec<&str> = parents.into_iter().filter(|path| before.0.contains_key(*path)).collect();
    before.assert_only(&after, &touched, &parents);
    assert_eq!(before.changes(&after).len(), touched.len() + parents.len(), "all of them changed");
    for path in &parents {
        assert_eq!(before.at(path).accessed, after.at(path).accessed, "{path} was not read by anybody");
    }
    let untouched: Vec<u64> =
        before.0.iter().filter(|(path, _)| !parents.contains(&path.as_str())).map(|(_, node)| node.inode).collect();
    let raw_after = raw_inodes(&image, untouched.iter().copied());
    for number in untouched {
        assert_eq!(raw_before[&number], raw_after[&number], "the raw inode {number}");
    }
    assert!(around(&image) == outside, "something outside the root's partition changed");

    // As declared, and so nothing to do.
    let ours = fingerprint(&image.path);
    assert_eq!(ours.mode, 0o600);
    manifest.deaddrop(&["verify", &name]).run().expect_code(0).expect_output("20 secrets as declared");
    manifest.deaddrop(&["plan", &name, "--exit-code"]).run().expect_code(0).expect_output("Nothing to do");
    manifest.deaddrop(&["inject", &name]).run().expect_code(0).expect_error("nothing to do, 20 secrets as declared");
    assert_eq!(fingerprint(&image.path), ours, "a second run changed the image");

    // One other value: just that secret is named, and just that file replaced.
    let old = manifest.items.iter().find(|item| item.name == "block-and-one").expect("one of the twenty").clone();
    assert!(holds(&image.path, &old.value[..40]), "the search finds what is there");
    manifest.replace(old.with_new_value());
    for command in [&["verify"][..], &["plan", "--exit-code"]] {
        let said = manifest.deaddrop(&[command, &[&name, "--json"]].concat()).run().expect_code(3);
        let json = said.json();
        let differing: Vec<&serde_json::Value> = json["changes"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|change| change["action"] != "unchanged")
            .collect();
        assert_eq!(differing.len(), 1, "{json}");
        assert_eq!((&differing[0]["secret"], &differing[0]["action"]), (&"block-and-one".into(), &"replace".into()));
        let lines = said.stderr();
        let marked: Vec<&str> =
            lines.lines().filter(|line| line.starts_with("  ~ ") || line.starts_with("  + ")).collect();
        assert!(matches!(marked[..], [one] if one.contains("/var/lib/secrets/block-and-one")), "{lines}");
    }
    assert_eq!(fingerprint(&image.path), ours, "looking changed the image");
    manifest.deaddrop(&["inject", &name]).run().expect_code(0).expect_error("1 secret written, 19 unchanged");
    assert_fsck_clean(&image);
    let last = Tree::of(&image);
    manifest.assert_in(&image, &last);
    after.assert_only(&last, &[old.path], &[parent(old.path)]);
    assert_ne!(after.at(old.path).inode, last.at(old.path).inode, "a replaced file is a new one");
    assert!(!holds(&image.path, &old.value[..40]), "the old value is still in the image");
    manifest.deaddrop(&["verify", &name]).run().expect_code(0);
}

/// One test a layout, so that they run side by side.
macro_rules! main_job_on {
    ($($name:ident: $layout:expr;)*) => {
        mod committed {
            use super::*;
            $(#[test] fn $name() { main_job($layout, |manifest| $layout.committed(&manifest.scratch)); })*
        }
        mod fresh {
            use super::*;
            $(#[test] fn $name() { main_job($layout, |manifest| $layout.fresh(&manifest.scratch, 512)); })*
        }
    };
}

main_job_on! {
    raw_efi: images::RAW_EFI;
    legacy: images::LEGACY;
    legacy_gpt: images::LEGACY_GPT;
    hybrid: images::HYBRID;
    none: images::NONE;
    sd: images::SD;
}
