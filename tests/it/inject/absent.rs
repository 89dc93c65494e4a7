//! `absent: true`: what was injected is removed again, and nothing of it is left.

use std::fs;

use serde_json::json;

use crate::kit::Scratch;
use crate::kit::files::{fingerprint, holds};
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{Item, Manifest};
use crate::kit::mount::{assert_fsck_clean, debugfs_write, raw_inodes};
use crate::kit::tree::{Change, Tree};

/// Three secrets: one of some bytes, one of several blocks, and one that stays.
fn three() -> Vec<Item> {
    vec![
        Item::new("token", "/etc/secrets/token"),
        Item::new("long", "/etc/secrets/long").sized(9000),
        Item::new("stays", "/etc/secrets/stays"),
    ]
}

/// Declares the first two as absent, one more that never was there, and one that is new.
fn declare_absent(scratch: &Scratch) {
    scratch.write(
        "secrets.yaml",
        "version: 1\nsources: { ci: { type: env, prefix: TEST_ } }\nsecrets:\n  \
         token: { path: /etc/secrets/token, absent: true }\n  \
         long: { path: /etc/secrets/long, absent: true, used_by: services.x.tokenFile }\n  \
         stays: { path: /etc/secrets/stays, from: ci:stays }\n  \
         never: { path: /srv/no/such/directory/never, absent: true }\n  \
         new: { path: /etc/secrets/new, from: ci:stays }\n",
    );
}

/// What `--json` says of the changes, and their sum, for the first run with them.
fn assert_told(json: &serde_json::Value) {
    let actions: Vec<(&str, &str)> = json["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|change| (change["secret"].as_str().expect("text"), change["action"].as_str().expect("text")))
        .collect();
    let want =
        [("token", "remove"), ("long", "remove"), ("stays", "unchanged"), ("never", "unchanged"), ("new", "create")];
    assert_eq!(actions, want);
    let summary = json!({ "create": 1, "replace": 0, "metadata": 0, "unchanged": 2, "remove": 2 });
    assert_eq!(json["summary"], summary);
}

/// Nothing of the first two is left, and nothing else is touched.
fn assert_gone(manifest: &Manifest, image: &Image, before: &Tree) {
    assert_fsck_clean(image);
    let after = Tree::of(image);
    let changes = before.changes(&after);
    for item in &manifest.items[..2] {
        assert_eq!(changes[item.path], Change::Removed);
        assert!(!holds(&image.path, &item.value[..40.min(item.value.len())]), "{} is still in the image", item.name);
    }
    let paths = ["/etc/secrets/token", "/etc/secrets/long", "/etc/secrets/new"];
    before.assert_only(&after, &paths, &["/etc/secrets"]);
    assert!(holds(&image.path, &manifest.items[2].value), "the one that stays is still there");
}

fn removed_in_place(layout: Layout) {
    let manifest = Manifest::new(three());
    let image = layout.committed(&manifest.scratch);
    let name = format!("{}.img", layout.name);
    manifest.deaddrop(&["inject", &name]).run().expect_code(0);
    let before = Tree::of(&image);
    let stays = before.at("/etc/secrets/stays").inode;
    let raw = raw_inodes(&image, [stays]);
    assert!(manifest.items.iter().all(|item| holds(&image.path, &item.value[..40.min(item.value.len())])));

    declare_absent(&manifest.scratch);
    let ours = fingerprint(&image.path);
    let plan = manifest.deaddrop(&["plan", &name, "--exit-code", "--json"]).run().expect_code(3);
    assert_told(&plan.json());
    plan.expect_error("- /etc/secrets/token").expect_error("3 changes: 1 to create, 2 to remove; 2 unchanged");
    let verify = manifest.deaddrop(&["verify", &name, "--json"]).run().expect_code(3);
    assert_told(&verify.json());
    verify.expect_error("- /etc/secrets/long").expect_error("still there");
    assert_eq!(fingerprint(&image.path), ours, "looking changed the image");

    let inject = manifest.deaddrop(&["inject", &name, "--json"]).run().expect_code(0);
    assert_told(&inject.json());
    inject.expect_error("- /etc/secrets/token").expect_error("1 secret written, 2 removed, 2 unchanged");
    assert_gone(&manifest, &image, &before);
    assert_eq!(raw_inodes(&image, [stays]), raw, "a file that nothing was asked of");

    let ours = fingerprint(&image.path);
    manifest.deaddrop(&["inject", &name]).run().expect_code(0).expect_error("nothing to do, 5 secrets as declared");
    manifest.deaddrop(&["verify", &name]).run().expect_code(0).expect_output("5 secrets as declared");
    manifest.deaddrop(&["plan", &name, "--exit-code"]).run().expect_code(0).expect_output("absent");
    assert_eq!(fingerprint(&image.path), ours, "a second run changed the image");
}

#[test]
fn what_must_not_be_there_is_removed_in_place_without_a_trace() {
    removed_in_place(images::RAW_EFI);
    removed_in_place(images::SD);
}

#[test]
fn a_new_output_lacks_it_and_the_input_still_has_it() {
    let manifest = Manifest::new(three());
    let image = images::NONE.committed(&manifest.scratch);
    manifest.deaddrop(&["inject", "none.img"]).run().expect_code(0);
    let (before, ours) = (Tree::of(&image), fingerprint(&image.path));
    declare_absent(&manifest.scratch);
    let run = manifest.deaddrop(&["inject", "none.img", "-o", "out.img", "--json"]).run().expect_code(0);
    assert_told(&run.json());
    assert_eq!(fingerprint(&image.path), ours, "the input changed");
    let out = Image::new(manifest.scratch.join("out.img"), image.root_offset);
    assert_gone(&manifest, &out, &before);
    manifest.deaddrop(&["verify", "out.img"]).run().expect_code(0);
    manifest.deaddrop(&["verify", "none.img"]).run().expect_code(3);
}

#[test]
fn removals_alone_need_no_source_and_make_nothing() {
    let manifest = Manifest::new(three());
    let image = images::LEGACY.committed(&manifest.scratch);
    manifest.deaddrop(&["inject", "legacy.img"]).run().expect_code(0);
    let before = Tree::of(&image);
    // The sources are gone; owners of the defaults are nobody's business.
    fs::remove_file(manifest.scratch.join("export.json")).expect("removing a file of ours");
    manifest.scratch.write(
        "secrets.yaml",
        "version: 1\nsources: { vault: { type: bitwarden, path: export.json } }\n\
         defaults: { owner: nobody-here, mode: \"0444\" }\nsecrets:\n  \
         a: { path: /etc/secrets/token, absent: true }\n  b: { path: /etc/secrets/stays, absent: true }\n",
    );
    manifest.deaddrop(&["check", "--values"]).run().expect_code(0);
    manifest.deaddrop(&["inject", "legacy.img"]).run().expect_code(0).expect_error("2 secrets removed, 0 unchanged");
    assert_fsck_clean(&image);
    before.assert_only(&Tree::of(&image), &["/etc/secrets/token", "/etc/secrets/stays"], &["/etc/secrets"]);
    assert!(!holds(&image.path, &manifest.items[0].value));
}

#[test]
fn a_hard_link_keeps_the_content_and_is_told() {
    let manifest = Manifest::new(three());
    let image = images::NONE.committed(&manifest.scratch);
    manifest.deaddrop(&["inject", "none.img"]).run().expect_code(0);
    let script = "ln /etc/secrets/token /root/other-name\nset_inode_field /etc/secrets/token links_count 2\n";
    debugfs_write(&image, script);
    assert_fsck_clean(&image);
    declare_absent(&manifest.scratch);
    let run = manifest.deaddrop(&["inject", "none.img", "--json"]).run().expect_code(0);
    let json = run.json();
    assert_eq!((&json["warnings"][0]["code"], &json["warnings"][0]["secret"]), (&json!("DD101"), &json!("token")));
    run.expect_error("1 more hard link, which keeps the old content");
    assert_fsck_clean(&image);
    let tree = Tree::of(&image);
    assert!(!tree.0.contains_key("/etc/secrets/token") && tree.at("/root/other-name").links == 1);
    assert!(holds(&image.path, &manifest.items[0].value), "the other name keeps the content");
}
