//! Where the result goes: in place or to OUT, packed or not, with which mode; and what stays as it was.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::kit::files::{fingerprint, mode, names};
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{From, Item, Manifest};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::tree::Tree;
use crate::kit::{Scratch, sha256_of, tool};

/// A few secrets without a hash, so that two runs make the same.
pub fn few() -> Vec<Item> {
    vec![
        Item::new("token", "/etc/secrets/token"),
        Item::new("key", "/var/lib/secrets/key").sized(9000),
        Item::new("item", "/root/item").from(From::Vault),
    ]
}

/// Panics unless there is nothing in the scratch directory but these, the manifest with its sources, and an empty
/// TMPDIR.
#[track_caller]
pub fn assert_only_files(scratch: &Scratch, files: &[&str]) {
    let ours =
        ["deaddrop", "export.json", "secrets.yaml", "strace.log", "tampering.log", "tmp", "values", "values.env"];
    let names = names(scratch.path());
    let mut others: Vec<&str> = names.iter().map(String::as_str).filter(|name| !ours.contains(name)).collect();
    others.sort_unstable();
    let mut want = files.to_vec();
    want.sort_unstable();
    assert_eq!(others, want);
    assert_eq!(fs::read_dir(scratch.join("tmp")).map_or(0, Iterator::count), 0, "TMPDIR is empty");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("setting a mode");
}

/// The image raw, packed or not: by zstd's own program.
pub fn unpacked(scratch: &Scratch, path: &Path, layout: Layout) -> Image {
    if !fs::read(path).expect("an image").starts_with(b"\x28\xb5\x2f\xfd") {
        return Image::new(path, layout.root_offset);
    }
    let raw = scratch.join("unpacked");
    tool(Command::new("zstd").args(["-dqf", "--sparse"]).arg(path).arg("-o").arg(&raw));
    Image::new(raw, layout.root_offset)
}

/// Panics unless the image at `path` holds the secrets, and e2fsck is content.
#[track_caller]
fn assert_good(manifest: &Manifest, path: &Path, layout: Layout) {
    let image = unpacked(&manifest.scratch, path, layout);
    assert_fsck_clean(&image);
    manifest.assert_in(&image, &Tree::of(&image));
    let _ = fs::remove_file(manifest.scratch.join("unpacked"));
}

#[test]
fn every_way_from_an_image_to_an_output() {
    let layout = images::LEGACY_GPT;
    for (from, to, packed) in [
        ("in.img", "out.img", false),
        ("in.img", "out.img.zst", true),
        ("in.img.zst", "out.img", false),
        ("in.img.zst", "OUT.ZST", true),
        ("in.img.zst", "out.raw", false),
        // The input is told by its content, not by its name.
        ("zstd-inside.img", "out", false),
    ] {
        let manifest = Manifest::new(few());
        let input = manifest.scratch.join(from);
        if from == "in.img" {
            fs::rename(layout.committed(&manifest.scratch).path, &input).expect("renaming an image");
        } else {
            fs::copy(layout.compressed(), &input).expect("copying an image");
        }
        set_mode(&input, 0o444);
        let before = fingerprint(&input);
        let done = manifest.deaddrop(&["inject", from, "-o", to]).run().expect_code(0);
        assert!(done.stderr().contains(&format!("{to}: 3 secrets written, 0 unchanged (")), "{}", done.stderr());
        assert_eq!(fingerprint(&input), before, "{from} to {to}: the input was touched");
        let out = manifest.scratch.join(to);
        assert_eq!(mode(&out), 0o600, "{from} to {to}");
        assert_eq!(fs::read(&out).expect("OUT").starts_with(b"\x28\xb5\x2f\xfd"), packed, "{from} to {to}");
        assert_good(&manifest, &out, layout);
        assert_only_files(&manifest.scratch, &[from, to]);
        manifest.deaddrop(&["verify", to]).run().expect_code(0);
        assert_only_files(&manifest.scratch, &[from, to]);

        // OUT exists now: refused, and then replaced when asked for, also when there is nothing to do.
        let first = fingerprint(&out);
        let refused = manifest.deaddrop(&["inject", from, "-o", to]).run().expect_code(1);
        assert!(refused.stderr().contains(&format!("{to} exists")) && refused.stderr().contains("--force"));
        assert_eq!(fingerprint(&out), first, "{from} to {to}: a refused OUT was touched");
        set_mode(&out, 0o644);
        manifest.deaddrop(&["inject", from, "-o", to, "--force"]).run().expect_code(0);
        assert_eq!(mode(&out), 0o600, "{from} to {to}, again");
        assert_good(&manifest, &out, layout);
        let copied = manifest.deaddrop(&["inject", to, "-o", "copy.img"]).run().expect_code(0);
        assert!(copied.stderr().contains("copy.img: a copy, 3 secrets already as declared"), "{}", copied.stderr());
        assert_good(&manifest, &manifest.scratch.join("copy.img"), layout);
        assert_only_files(&manifest.scratch, &[from, to, "copy.img"]);
    }
}

#[test]
fn in_place_an_image_becomes_0600_and_that_is_said() {
    let layout = images::LEGACY;
    for name in ["node1.img", "node1.img.zst"] {
        let manifest = Manifest::new(few());
        let path = manifest.scratch.join(name);
        if name == "node1.img" {
            fs::rename(layout.committed(&manifest.scratch).path, &path).expect("renaming an image");
        } else {
            fs::copy(layout.compressed(), &path).expect("copying an image");
        }
        symlink(name, manifest.scratch.join("link")).expect("making a link");
        set_mode(&path, 0o644);
        let done = manifest.deaddrop(&["inject", "link"]).run().expect_code(0);
        let said = done.stderr();
        assert!(said.contains("its mode is now 0600, it was 0644") && said.contains("--keep-mode"), "{said}");
        assert_eq!(mode(&path), 0o600);
        assert!(
            fs::symlink_metadata(manifest.scratch.join("link")).expect("the link").is_symlink(),
            "the link stays one"
        );
        assert_good(&manifest, &path, layout);
        assert_only_files(&manifest.scratch, &[name, "link"]);

        // With nothing to do, not even the mode is touched.
        set_mode(&path, 0o640);
        let before = fingerprint(&path);
        let sum = sha256_of(&path);
        let done = manifest.deaddrop(&["inject", name]).run().expect_code(0);
        assert!(done.stderr().contains(&format!("{name}: nothing to do, 3 secrets as declared")), "{}", done.stderr());
        assert_eq!((fingerprint(&path), sha256_of(&path)), (before, sum), "{name}");
        assert_only_files(&manifest.scratch, &[name, "link"]);
    }
}

#[test]
fn keep_mode_keeps_it_and_says_nothing() {
    let manifest = Manifest::new(few());
    let image = images::NONE.committed(&manifest.scratch);
    set_mode(&image.path, 0o640);
    let done = manifest.deaddrop(&["inject", "none.img", "--keep-mode"]).run().expect_code(0);
    assert!(!done.stderr().contains("0600"), "{}", done.stderr());
    assert_eq!(mode(&image.path), 0o640);
    assert_good(&manifest, &image.path, images::NONE);
}

#[test]
fn a_fixed_time_makes_two_runs_the_same_to_the_byte() {
    for (layout, out) in [(images::RAW_EFI, None), (images::SD, None), (images::NONE, Some("out.img.zst"))] {
        let manifest = Manifest::new(few());
        let mut sums = Vec::new();
        for _ in 0..2 {
            let image = layout.committed(&manifest.scratch);
            let name = format!("{}.img", layout.name);
            let mut args = vec!["inject", &name];
            args.extend(out.iter().flat_map(|out| ["-o", out]));
            manifest.deaddrop(&args).env("SOURCE_DATE_EPOCH", "1700000000").run().expect_code(0);
            let written = out.map_or(image.path.clone(), |out| manifest.scratch.join(out));
            sums.push(sha256_of(&written));
            if out.is_none() {
                let token = Tree::of(&image).at("/etc/secrets/token").clone();
                let times = [token.modified, token.changed, token.created, token.accessed];
                assert!(times.iter().all(|time| time.0 == 1_700_000_000 && time.1 == 0), "{times:?}");
            }
            fs::remove_file(&image.path).expect("removing an image");
            let _ = fs::remove_file(&written);
        }
        assert_eq!(sums[0], sums[1], "{}", layout.name);
    }
}
