//! qcow2 images: made by qemu-img, changed by deaddrop, checked and turned back to raw by qemu-img.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::disk::run;
use crate::kit::files::{fingerprint, holds, names};
use crate::kit::images::{self, Image, Layout};
use crate::kit::loops::has_loop_devices;
use crate::kit::manifest::{From, Item, Manifest};
use crate::kit::mount::{Mount, assert_fsck_clean};
use crate::kit::tree::Tree;
use crate::kit::{program, sha256_of, tool};

const LAYOUT: Layout = images::LEGACY_GPT;

/// Options of qemu-img for images of every kind that is read.
const KINDS: [&[&str]; 8] = [
    &[],
    &["-o", "compat=0.10"],
    &["-o", "cluster_size=512"],
    &["-o", "cluster_size=2M"],
    &["-o", "refcount_bits=1,lazy_refcounts=on"],
    &["-c"],
    &["-c", "-o", "cluster_size=4096,compat=0.10"],
    &["-c", "-o", "compression_type=zstd,cluster_size=256K"],
];

fn items() -> Vec<Item> {
    vec![
        Item::new("token", "/etc/secrets/token"),
        Item::new("key", "/var/lib/secrets/key").sized(9000),
        Item::new("item", "/root/item").from(From::Vault),
    ]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// qemu-img makes `to` of the raw disk `raw`.
fn make(raw: &Path, to: &Path, options: &[&str]) {
    run("qemu-img", &[&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(raw), text(to)]].concat());
    // qemu-img reserves blocks that it does not write: whether one is a hole depends on what was read since.
    let bytes = fs::read(to).unwrap();
    fs::remove_file(to).unwrap();
    fs::write(to, bytes).unwrap();
}

/// What qemu-img says of an image in which it finds no fault, leaks and fragments included.
fn checked(path: &Path) -> serde_json::Value {
    let output = tool(Command::new(program("qemu-img")).args(["check", "--output=json", "-f", "qcow2", text(path)]));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["check-errors"], 0, "{said}");
    assert!(said.get("leaks").is_none() && said.get("corruptions").is_none(), "{said}");
    said
}

/// The disk that qemu-img finds in the image, which holds the secrets.
#[track_caller]
fn assert_good(manifest: &Manifest, path: &Path) -> Tree {
    checked(path);
    let raw = manifest.scratch.join("turned-back");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
    let image = Image::new(raw, LAYOUT.root_offset);
    assert_fsck_clean(&image);
    let tree = Tree::of(&image);
    manifest.assert_in(&image, &tree);
    fs::remove_file(image.path).unwrap();
    tree
}

/// The disk without secrets, and what is in it.
fn raw_disk(manifest: &Manifest) -> (PathBuf, Tree) {
    let raw = LAYOUT.committed(&manifest.scratch).path;
    let tree = Tree::of(&Image::new(&raw, LAYOUT.root_offset));
    (raw, tree)
}

#[test]
fn an_image_of_every_kind_is_changed_in_place_and_a_second_run_changes_nothing() {
    for options in KINDS {
        let manifest = Manifest::new(items());
        let (raw, before) = raw_disk(&manifest);
        let path = manifest.scratch.join("node.qcow2");
        make(&raw, &path, options);
        let packed = options.contains(&"-c");
        let clusters = checked(&path)["compressed-clusters"].as_u64().unwrap_or(0);
        manifest.deaddrop_alone(&["inspect", "node.qcow2"]).run().expect_code(0).expect_output("qcow2 → raw");
        manifest.deaddrop(&["verify", "node.qcow2"]).run().expect_code(3);
        manifest.deaddrop(&["plan", "node.qcow2"]).run().expect_code(0).expect_output("inject rewrites");
        manifest.deaddrop(&["inject", "node.qcow2"]).run().expect_code(0).expect_error("which is a qcow2 image");
        let after = assert_good(&manifest, &path);
        let touched = [&manifest.paths()[..], &["/etc/secrets", "/var/lib/secrets"]].concat();
        before.assert_only(&after, &touched, &["/etc", "/var/lib", "/root"]);
        let left = checked(&path)["compressed-clusters"].as_u64().unwrap_or(0);
        // Those that were changed are not compressed any more: as qemu itself does it.
        assert!(left <= clusters && (left > clusters / 2) == packed, "{options:?}: {left} of {clusters}");
        let first = (fingerprint(&path), sha256_of(&path));
        manifest.deaddrop(&["inject", "node.qcow2"]).run().expect_code(0).expect_error("nothing to do");
        manifest.deaddrop(&["verify", "node.qcow2"]).run().expect_code(0);
        assert_eq!((fingerprint(&path), sha256_of(&path)), first, "{options:?}: a second run changed it");

        // The same disk, as qemu-img compares it, and not larger than what it makes.
        manifest.deaddrop(&["inject", "node.qcow2", "-o", "copy.qcow2"]).run().expect_code(0);
        let (copy, theirs) = (manifest.scratch.join("copy.qcow2"), manifest.scratch.join("theirs.qcow2"));
        run("qemu-img", &["compare", "-s", "-f", "qcow2", "-F", "qcow2", text(&path), text(&copy)]);
        checked(&copy);
        if !packed {
            run("qemu-img", &[&["convert", "-O", "qcow2"], options, &[text(&path), text(&theirs)]].concat());
            let size = |path: &Path| fs::metadata(path).unwrap().len();
            assert!(size(&copy) <= size(&theirs), "{options:?}: {} over {}", size(&copy), size(&theirs));
        }
    }
}

#[test]
fn format_changes_the_container_and_whatever_compression_is_around() {
    let manifest = Manifest::new(items());
    let (raw, _) = raw_disk(&manifest);
    fs::rename(&raw, manifest.scratch.join("node.img")).unwrap();
    make(&manifest.scratch.join("node.img"), &manifest.scratch.join("node.qcow2"), &["-c"]);
    run("gzip", &["-k", text(&manifest.scratch.join("node.qcow2"))]);
    let (out, unpacked) = (manifest.scratch.join("out"), manifest.scratch.join("unpacked"));
    for from in ["node.img", "node.qcow2", "node.qcow2.gz"] {
        let before = fingerprint(&manifest.scratch.join(from));
        for (format, to) in [("qcow2", "out"), ("qcow2", "out.zst"), ("raw", "out"), ("raw", "out.zst")] {
            manifest.deaddrop(&["inject", from, "--format", format, "-o", to]).run().expect_code(0);
            if to == "out.zst" {
                run("zstd", &["-dq", "--rm", text(&manifest.scratch.join(to)), "-o", text(&out)]);
            }
            if format == "raw" {
                make(&out, &unpacked, &[]);
                fs::rename(&unpacked, &out).unwrap();
            }
            assert_good(&manifest, &out);
            fs::remove_file(&out).unwrap();
        }
        assert_eq!(fingerprint(&manifest.scratch.join(from)), before, "{from} was touched");
    }
    // `inspect` has every layer, outermost first.
    let size = |name: &str| fs::metadata(manifest.scratch.join(name)).unwrap().len();
    let layer = |kind: &str, size: u64| serde_json::json!({ "kind": kind, "size": size });
    let (raw, qcow2) = (layer("raw", size("node.img")), layer("qcow2", size("node.qcow2")));
    for (image, kind, layers) in [
        ("node.img", "raw", vec![raw.clone()]),
        ("node.qcow2", "qcow2", vec![qcow2.clone(), raw.clone()]),
        ("node.qcow2.gz", "gzip", vec![layer("gzip", size("node.qcow2.gz")), qcow2, raw]),
    ] {
        let said = manifest.deaddrop_alone(&["inspect", "--json", image]).run().expect_code(0).json();
        assert_eq!(said["layers"], serde_json::Value::from(layers), "{image}");
        let container = serde_json::json!({ "kind": kind, "file_size": size(image), "size": size("node.img") });
        assert_eq!(said["container"], container, "{image}");
    }
    // In place, in its compression; and a second run.
    manifest.deaddrop(&["inject", "node.qcow2.gz"]).run().expect_code(0).expect_error("which is compressed");
    let packed = manifest.scratch.join("node.qcow2.gz");
    run("gzip", &["-t", text(&packed)]);
    run("gzip", &["-df", text(&packed)]);
    assert_good(&manifest, &manifest.scratch.join("node.qcow2"));
    run("gzip", &[text(&manifest.scratch.join("node.qcow2"))]);
    manifest.deaddrop(&["inject", "node.qcow2.gz"]).run().expect_code(0).expect_error("nothing to do");
}

#[test]
fn a_suffix_that_names_another_container_is_exit_2_and_names_format() {
    let manifest = Manifest::new(items());
    let (raw, _) = raw_disk(&manifest);
    fs::rename(&raw, manifest.scratch.join("node.img")).unwrap();
    make(&manifest.scratch.join("node.img"), &manifest.scratch.join("node.qcow2"), &[]);
    let before = names(manifest.scratch.path());
    for (from, to) in [
        ("node.img", "out.qcow2"),
        ("node.img", "out.QCOW2.gz"),
        ("node.img", "out.vmdk"),
        ("node.img", "out.vdi.zst"),
        ("node.img", "out.vhd"),
        ("node.img", "out.vhdx"),
        ("node.img", "out.vma.zst"),
        ("node.img", "out.tar"),
        ("node.qcow2", "out.img"),
        ("node.qcow2", "out.raw"),
        ("node.qcow2", "out.img.xz"),
        ("node.qcow2", "out.raw.bz2"),
        ("node.qcow2", "out.vmdk"),
    ] {
        let run = manifest.deaddrop(&["inject", from, "-o", to]).run();
        run.expect_refusal(to, 2, &["names another container", "--format"]);
    }
    assert_eq!(names(manifest.scratch.path()).iter().filter(|name| *name != "tmp").collect::<Vec<_>>(), {
        before.iter().filter(|name| *name != "tmp").collect::<Vec<_>>()
    });
    // Any other name says nothing, and --format is believed.
    manifest.deaddrop(&["inject", "node.qcow2", "-o", "out.disk"]).run().expect_code(0);
    assert_good(&manifest, &manifest.scratch.join("out.disk"));
    manifest.deaddrop(&["inject", "node.img", "--format", "qcow2", "-o", "out.img"]).run().expect_code(0);
    assert_good(&manifest, &manifest.scratch.join("out.img"));
    let alone = manifest.deaddrop(&["inject", "node.img", "--format", "qcow2"]).run();
    alone.expect_code(2);
}

#[test]
fn features_that_are_not_written_are_refused_by_name() {
    let manifest = Manifest::new(items());
    let (raw, _) = raw_disk(&manifest);
    let path = manifest.scratch.join("node.qcow2");
    let refused = |options: &[&str], want: &str, change: &dyn Fn()| {
        let _ = fs::remove_file(&path);
        make(&raw, &path, options);
        change();
        let before = sha256_of(&path);
        for arguments in
            [&["inject", "node.qcow2"][..], &["inject", "node.qcow2", "-o", "out"], &["plan", "node.qcow2"]]
        {
            manifest.deaddrop(arguments).run().expect_code(1).expect_error(want).expect_error("hint: ");
        }
        assert_eq!(sha256_of(&path), before, "{want}");
    };
    let nothing = || ();
    refused(&["-o", "extended_l2=on,cluster_size=128K"], "with subclusters (extended L2 entries)", &nothing);
    let data = format!("data_file={}", text(&manifest.scratch.join("data")));
    refused(&["-o", &data], "whose data is in another file", &nothing);
    refused(&[], "with 1 internal snapshot", &|| run("qemu-img", &["snapshot", "-c", "one", text(&path)]));
    let secret =
        ["--object", "secret,id=s,data=hunter2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"];
    refused(&secret, "encrypted qcow2 image (LUKS)", &nothing);
    // Byte 79: the low bits of `incompatible_features`.
    let bit = |bit: u8| crate::kit::disk::poke(&path, 79, &[bit]);
    refused(&[], "marked as dirty", &|| bit(1));
    refused(&[], "marked as corrupt", &|| bit(2));
    refused(&[], "features that deaddrop does not know", &|| bit(32));
}

#[test]
fn a_backing_file_is_read_only_if_asked_for_and_only_if_it_is_a_disk() {
    let manifest = Manifest::new(items());
    let (raw, _) = raw_disk(&manifest);
    fs::create_dir(manifest.scratch.join("base")).unwrap();
    let base = manifest.scratch.join("base/base.qcow2");
    make(&raw, &base, &["-c"]);
    let base_before = (fingerprint(&base), sha256_of(&base));
    let (middle, top) = (manifest.scratch.join("base/middle.qcow2"), manifest.scratch.join("top.qcow2"));
    let create = |path: &Path, backing: &str, format: &str| {
        let _ = fs::remove_file(path);
        run("qemu-img", &["create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, text(path), "67M"]);
    };
    create(&middle, "base.qcow2", "qcow2");
    create(&top, "base/middle.qcow2", "qcow2");
    let refused = manifest.deaddrop(&["inject", "top.qcow2"]).run().expect_code(1);
    refused.expect_error("its backing file, `base/middle.qcow2`").expect_error("--follow-backing");
    manifest.deaddrop(&["inject", "top.qcow2", "--follow-backing"]).run().expect_code(0);
    // By itself now: all is in it.
    assert_good(&manifest, &top);
    manifest.deaddrop(&["verify", "top.qcow2"]).run().expect_code(0);
    assert_eq!((fingerprint(&base), sha256_of(&base)), base_before);

    let nothing = manifest.scratch.write("text", "root:$6$not-a-disk\n".repeat(200));
    for (backing, format) in [
        ("/etc/shadow", "raw"),
        ("/dev/null", "raw"),
        ("text", "raw"),
        ("text", "qcow2"),
        ("text", "vmdk"),
        ("missing", "raw"),
        ("nbd://localhost/disk", "raw"),
        ("json:{\"driver\":\"file\",\"filename\":\"text\"}", "raw"),
        ("top.qcow2", "qcow2"),
    ] {
        create(&top, backing, format);
        let before = fingerprint(&top);
        let run = manifest.deaddrop(&["inject", "top.qcow2", "--follow-backing"]).limited().run().expect_code(1);
        assert!(!run.stderr().contains("$6$"), "{backing}: what is in it was shown");
        assert_eq!(fingerprint(&top), before, "{backing}");
    }
    drop(nothing);
}

#[test]
fn where_the_file_system_shares_blocks_only_what_changes_is_written() {
    if !has_loop_devices() {
        return;
    }
    let manifest = Manifest::new(items());
    let (raw, _) = raw_disk(&manifest);
    let disk = manifest.scratch.join("xfs");
    File::create(&disk).unwrap().set_len(400 << 20).unwrap();
    run("mkfs.xfs", &["-q", text(&disk)]);
    let mount = Mount::with(&disk, &["-o", "loop"]).expect("mounting what mkfs.xfs made");
    let path = mount.at("/node.qcow2");
    make(&raw, &path, &[]);
    let old = File::open(&path).unwrap();
    let traced = manifest.deaddrop(&["inject", text(&path)]).traced("ioctl").run().expect_code(0);
    let shared = traced.trace().calls("ioctl");
    assert!(shared.iter().any(|call| call.contains("FICLONERANGE") && call.ends_with("= 0")), "{shared:?}");
    assert!(old.metadata().unwrap().ino() != fs::metadata(&path).unwrap().ino(), "it is a new file");
    drop(old);
    assert_good(&manifest, &path);
}

#[test]
fn old_values_are_not_in_the_new_file() {
    let mut manifest = Manifest::new(items());
    let (raw, _) = raw_disk(&manifest);
    for options in [&[][..], &["-c"]] {
        let path = manifest.scratch.join("node.qcow2");
        let _ = fs::remove_file(&path);
        make(&raw, &path, options);
        manifest.deaddrop(&["inject", "node.qcow2"]).run().expect_code(0);
        let old = manifest.items[0].clone();
        assert!(holds(&path, &old.value));
        manifest.replace(old.with_new_value());
        manifest.deaddrop(&["inject", "node.qcow2"]).run().expect_code(0);
        assert!(!holds(&path, &old.value), "{options:?}");
        assert_good(&manifest, &path);
    }
}
