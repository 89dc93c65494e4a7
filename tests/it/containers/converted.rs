//! VMDK, VDI, VHD and VHDX, by way of qemu-img: made by it, changed by deaddrop, checked and turned back to raw by it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::kit::disk::{poke, run};
use crate::kit::files::{fingerprint, names};
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{From, Item, Manifest};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::tree::Tree;
use crate::kit::{program, sha256_of, tool};

const LAYOUT: Layout = images::LEGACY_GPT;

/// qemu's name of a format, ours, and qemu's options for it.
const KINDS: [(&str, &str, &str); 9] = [
    ("vmdk", "vmdk", "subformat=monolithicSparse"),
    ("vmdk", "vmdk", "subformat=monolithicSparse,adapter_type=lsilogic,hwversion=13"),
    ("vmdk", "vmdk", "subformat=streamOptimized"),
    ("vdi", "vdi", "static=off"),
    ("vdi", "vdi", "static=on"),
    ("vpc", "vhd", "subformat=dynamic"),
    ("vpc", "vhd", "subformat=fixed,force_size=on"),
    ("vhdx", "vhdx", "subformat=dynamic,block_size=2097152"),
    ("vhdx", "vhdx", "subformat=fixed"),
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

fn make(raw: &Path, format: &str, options: &str, to: &Path) {
    run("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", options, text(raw), text(to)]);
    // qemu-img reserves blocks that it does not write: whether one is a hole depends on what was read since.
    let bytes = fs::read(to).unwrap();
    fs::remove_file(to).unwrap();
    fs::write(to, bytes).unwrap();
}

/// The disk that qemu-img finds in the image, which holds the secrets and is sound.
#[track_caller]
fn assert_good(manifest: &Manifest, path: &Path, format: &str) -> Tree {
    // It has no check for VHD.
    if format != "vpc" && format != "raw" {
        run("qemu-img", &["check", "-q", "-f", format, text(path)]);
    }
    let raw = manifest.scratch.join("turned-back");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", text(path), text(&raw)]);
    let image = Image::new(raw, LAYOUT.root_offset);
    assert_fsck_clean(&image);
    let tree = Tree::of(&image);
    manifest.assert_in(&image, &tree);
    fs::remove_file(image.path).unwrap();
    tree
}

/// What makes an image the kind that it is, as its own fields say it; and what tells it from others.
fn kind(path: &Path, format: &str) -> (String, Vec<u8>) {
    let file = fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let at = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    match format {
        "vmdk" => {
            let descriptor = String::from_utf8(at(512, 10_240)).unwrap().trim_end_matches('\0').to_owned();
            let kept = ["createType", "ddb.adapterType", "ddb.virtualHWVersion", "RW "];
            let is_kept = |line: &&str| kept.iter().any(|word| line.starts_with(word));
            (descriptor.lines().filter(is_kept).collect::<Vec<_>>().join("\n"), Vec::new())
        }
        // The image's type; its UUID.
        "vdi" => (format!("{:?}", at(0x4c, 4)), at(0x188, 16)),
        // The type of disk, the application that made it, and the size; the unique id.
        "vpc" => {
            (format!("{:?} {:?} {:?}", at(size - 452, 4), at(size - 484, 4), at(size - 464, 8)), at(size - 444, 16))
        }
        _ => {
            let said =
                tool(Command::new(program("qemu-img")).args(["info", "-f", format, "--output=json", text(path)]));
            let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
            (format!("{} {}", said["virtual-size"], said["cluster-size"]), Vec::new())
        }
    }
}

#[test]
fn an_image_of_every_kind_is_changed_in_place_stays_of_its_kind_and_a_second_run_changes_nothing() {
    for (format, ours, options) in KINDS {
        let manifest = Manifest::new(items());
        let raw = LAYOUT.committed(&manifest.scratch).path;
        let before = Tree::of(&Image::new(&raw, LAYOUT.root_offset));
        let path = manifest.scratch.join("node.disk");
        make(&raw, format, options, &path);
        let made = kind(&path, format);
        manifest.deaddrop_alone(&["inspect", "node.disk"]).run().expect_code(0).expect_output(&format!("{ours} → raw"));
        manifest.deaddrop(&["verify", "node.disk"]).run().expect_code(3);
        manifest.deaddrop(&["plan", "node.disk"]).run().expect_code(0).expect_output("inject rewrites");
        manifest
            .deaddrop(&["inject", "node.disk"])
            .run()
            .expect_code(0)
            .expect_error("rewrites node.disk, which is a V");
        let after = assert_good(&manifest, &path, format);
        let touched = [&manifest.paths()[..], &["/etc/secrets", "/var/lib/secrets"]].concat();
        before.assert_only(&after, &touched, &["/etc", "/var/lib", "/root"]);
        assert_eq!(kind(&path, format), made, "{options}");
        let first = (fingerprint(&path), sha256_of(&path));
        manifest.deaddrop(&["inject", "node.disk"]).run().expect_code(0).expect_error("nothing to do");
        assert_eq!((fingerprint(&path), sha256_of(&path)), first, "{options}: a second run changed it");
        // A copy is of the same kind, and another image.
        manifest.deaddrop(&["inject", "node.disk", "-o", "copy.disk"]).limited().run().expect_code(0);
        let copy = manifest.scratch.join("copy.disk");
        run("qemu-img", &["compare", "-f", format, "-F", format, text(&path), text(&copy)]);
        let copied = kind(&copy, format);
        assert_eq!(copied.0.replace("copy.disk", "node.disk"), made.0, "{options}");
        assert!(copied.1.is_empty() || copied.1 != made.1, "{options}");
    }
}

#[test]
fn a_vhd_of_a_size_that_qemu_does_not_make_by_geometry_keeps_its_size() {
    let manifest = Manifest::new(items());
    let raw = images::LEGACY.committed(&manifest.scratch).path;
    // Room behind the partition.
    let larger = fs::metadata(&raw).unwrap().len() + (20 << 20);
    fs::File::options().write(true).open(&raw).unwrap().set_len(larger).unwrap();
    let path = manifest.scratch.join("node.vhd");
    make(&raw, "vpc", "subformat=dynamic", &path);
    // Another program's geometry, in the footer and its copy: fewer sectors in a track, so a smaller disk.
    let (size, sectors) = (fs::metadata(&path).unwrap().len(), fs::read(&path).unwrap()[59]);
    for footer in [0, size - 512] {
        poke(&path, footer + 59, &[sectors - 1]);
        let bytes = fs::read(&path).unwrap();
        let at = usize::try_from(footer).unwrap();
        let sum = |place: &usize| !(64..68).contains(place);
        let sum = !(0..512).filter(sum).fold(0_u32, |sum, place| sum + u32::from(bytes[at + place]));
        poke(&path, footer + 64, &sum.to_be_bytes());
    }
    let size = |path: &Path| {
        let said = tool(Command::new(program("qemu-img")).args(["info", "-f", "vpc", "--output=json", text(path)]));
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        said["virtual-size"].as_u64().unwrap()
    };
    let before = size(&path);
    let (disk, other) = (manifest.scratch.join("disk"), manifest.scratch.join("other.vhd"));
    run("qemu-img", &["convert", "-f", "vpc", "-O", "raw", text(&path), text(&disk)]);
    make(&disk, "vpc", "subformat=dynamic", &other);
    assert_ne!(size(&other), before, "qemu-img makes this size");
    manifest.deaddrop(&["inject", "node.vhd"]).run().expect_code(0);
    assert_eq!(size(&path), before);
    manifest.deaddrop(&["verify", "node.vhd"]).run().expect_code(0);
}

#[test]
fn format_makes_each_of_each_and_whatever_compression_is_around() {
    let manifest = Manifest::new(items());
    let raw = LAYOUT.committed(&manifest.scratch).path;
    fs::rename(raw, manifest.scratch.join("node.img")).unwrap();
    make(&manifest.scratch.join("node.img"), "qcow2", "compat=1.1", &manifest.scratch.join("node.qcow2"));
    make(&manifest.scratch.join("node.img"), "vmdk", "subformat=streamOptimized", &manifest.scratch.join("node.vmdk"));
    run("gzip", &["-k", text(&manifest.scratch.join("node.vmdk"))]);
    for from in ["node.img", "node.qcow2", "node.vmdk", "node.vmdk.gz"] {
        for (asked, format) in
            [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhd", "vpc"), ("vhdx", "vhdx")]
        {
            let before = fingerprint(&manifest.scratch.join(from));
            manifest.deaddrop(&["inject", from, "--format", asked, "-o", "out"]).run().expect_code(0);
            assert_good(&manifest, &manifest.scratch.join("out"), format);
            fs::remove_file(manifest.scratch.join("out")).unwrap();
            assert_eq!(fingerprint(&manifest.scratch.join(from)), before, "{from} was touched");
        }
    }
    // qemu's name of it; and a compression around.
    manifest.deaddrop(&["inject", "node.img", "--format", "vpc", "-o", "out.vhd.zst"]).run().expect_code(0);
    run("zstd", &["-dq", text(&manifest.scratch.join("out.vhd.zst"))]);
    assert_good(&manifest, &manifest.scratch.join("out.vhd"), "vpc");
    manifest.deaddrop(&["inject", "out.vhd.zst", "-o", "copy.vhd.gz"]).run().expect_code(0);
    for (from, to) in [("node.vmdk", "out.vdi"), ("node.img", "out.vmdk"), ("out.vhd", "out.img.xz")] {
        let run = manifest.deaddrop(&["inject", from, "-o", to]).run();
        run.expect_refusal(to, 2, &["names another container", "--format"]);
    }
}

#[test]
fn without_qemu_img_it_is_named() {
    let manifest = Manifest::new(items());
    let raw = LAYOUT.committed(&manifest.scratch).path;
    make(&raw, "vdi", "static=off", &manifest.scratch.join("node.vdi"));
    let before = names(manifest.scratch.path());
    let run = manifest.deaddrop(&["inject", "node.vdi"]).env("PATH", "/nonexistent").run();
    run.expect_refusal("no qemu-img", 1, &["node.vdi needs the program qemu-img", "qemu-utils"]);
    let from = raw.file_name().unwrap().to_str().unwrap();
    let run = manifest.deaddrop(&["inject", from, "--format", "vhdx", "-o", "out"]).env("PATH", "/nonexistent").run();
    run.expect_refusal("no qemu-img", 1, &["out needs the program qemu-img"]);
    let after: Vec<_> = names(manifest.scratch.path()).into_iter().filter(|name| name != "tmp").collect();
    assert_eq!(after, before);
}

#[test]
fn what_names_another_file_is_refused_and_not_opened() {
    let manifest = Manifest::new(items());
    let raw = LAYOUT.committed(&manifest.scratch).path;
    let refused = |name: &str, want: &str| {
        let before = sha256_of(&manifest.scratch.join(name));
        let run = manifest.deaddrop(&["inject", name]).traced("openat").run().expect_code(1).expect_error(want);
        let opened = run
            .trace()
            .calls("openat")
            .into_iter()
            .find(|call| ["-flat.vmdk", "/etc/shadow"].iter().any(|other| call.contains(other)));
        assert!(opened.is_none(), "{name}: {opened:?}");
        assert_eq!(sha256_of(&manifest.scratch.join(name)), before, "{name}");
    };
    make(&raw, "vmdk", "subformat=monolithicFlat", &manifest.scratch.join("flat.vmdk"));
    refused("flat.vmdk", "a VMDK descriptor, which names other files");
    run(
        "qemu-img",
        &[
            "convert",
            "-O",
            "vmdk",
            "-o",
            "subformat=twoGbMaxExtentSparse",
            text(&raw),
            text(&manifest.scratch.join("split.vmdk")),
        ],
    );
    refused("split.vmdk", "a VMDK descriptor, which names other files");
    refused("split-s001.vmdk", "of several files, of which this is one");

    let sparse = |change: &dyn Fn(&mut Vec<u8>)| {
        let path = manifest.scratch.join("node.vmdk");
        make(&raw, "vmdk", "subformat=monolithicSparse", &path);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    };
    let descriptor = |change: &dyn Fn(&str) -> String| {
        sparse(&|bytes| {
            let old = String::from_utf8(bytes[512..10_752].to_vec()).unwrap();
            let mut new = change(old.trim_end_matches('\0')).into_bytes();
            new.resize(10_240, 0);
            bytes[512..10_752].copy_from_slice(&new);
        });
    };
    // qemu would open what the embedded descriptor names.
    sparse(&|bytes| bytes[12..20].fill(0));
    refused("node.vmdk", "of several files, of which this is one");
    descriptor(&|text| text.replace("SPARSE \"node.vmdk\"", "FLAT \"/etc/shadow\" 0"));
    refused("node.vmdk", "whose data is in other files");
    descriptor(&|text| format!("{text}RW 10 FLAT \"/etc/shadow\" 0\n"));
    refused("node.vmdk", "whose data is in other files");
    descriptor(&|text| text.replace("monolithicSparse", "monolithicFlat"));
    refused("node.vmdk", "whose data is in other files");
    descriptor(&|text| format!("{text}parentFileNameHint=\"/etc/shadow\"\n"));
    refused("node.vmdk", "only what differs from another file");
    descriptor(&|text| text.replace("parentCID=ffffffff", "parentCID=12345678"));
    refused("node.vmdk", "only what differs from another file");

    for (format, options, at, bytes) in [
        ("vdi", "static=off", 0x4c, &[4][..]),
        ("vdi", "static=off", 0x1b8, &[1]),
        ("vpc", "subformat=dynamic", 60, &[0, 0, 0, 4]),
    ] {
        let path = manifest.scratch.join("difference");
        make(&raw, format, options, &path);
        poke(&path, at, bytes);
        refused("difference", "only what differs from another file");
    }
}

#[test]
fn headers_and_maps_made_to_harm_are_refused_within_the_limits() {
    let manifest = Manifest::new(items());
    let raw = LAYOUT.committed(&manifest.scratch).path;
    let is_refused = |what: &str, path: &Path| {
        let before = (sha256_of(path), fs::metadata(path).unwrap().len());
        let name = path.file_name().unwrap().to_str().unwrap();
        for arguments in [&["inject", name][..], &["inject", name, "--format", "raw", "-o", "out"]] {
            eprintln!("{what}: {arguments:?}");
            let said = manifest.deaddrop(arguments).limited().run().expect_code(1).stderr();
            assert!(said.starts_with("error: ") && !said.contains("panicked"), "{what}: {said}");
        }
        assert_eq!((sha256_of(path), fs::metadata(path).unwrap().len()), before, "{what}");
        assert!(!manifest.scratch.join("out").exists());
    };
    for (format, options, edits) in [
        // Fields by the names of the specifications that the parsers cite.
        ("vmdk", "subformat=monolithicSparse", &[("capacity", 12, 8), ("grainSize", 20, 8), ("gdOffset", 56, 8)][..]),
        ("vmdk", "subformat=streamOptimized", &[("capacity", 12, 8), ("numGTEsPerGT", 44, 4)]),
        ("vdi", "static=off", &[("disk_size", 0x170, 8), ("blocks_in_image", 0x180, 4), ("offset_bmap", 0x154, 4)]),
        ("vpc", "subformat=dynamic", &[("data offset", 16, 8), ("disk type", 60, 4)]),
        ("vhdx", "subformat=dynamic", &[("regions", 192 << 10, 16), ("metadata", (192 << 10) + 32, 8)]),
    ] {
        for (what, at, length) in edits {
            let path = manifest.scratch.join("bad");
            make(&raw, format, options, &path);
            poke(&path, *at, &vec![0xff; *length]);
            is_refused(&format!("{format}: {what}"), &path);
        }
        let path = manifest.scratch.join("bad");
        make(&raw, format, options, &path);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..600]).unwrap();
        is_refused(&format!("{format}, cut off"), &path);
    }
    // A disk of 100 GiB, all of whose blocks are the same one of letters; and of zeros.
    for letter in [b'A', 0] {
        let path = manifest.scratch.join("bomb.vdi");
        make(&raw, "vdi", "static=off", &path);
        let mut bytes = fs::read(&path).unwrap();
        let (map, data) = (0x200, 1 << 20);
        let blocks = 100_u32 << 10;
        bytes[0x170..0x178].copy_from_slice(&(u64::from(blocks) << 20).to_le_bytes());
        bytes[0x180..0x184].copy_from_slice(&blocks.to_le_bytes());
        let start = u32::from_le_bytes(bytes[0x158..0x15c].try_into().unwrap());
        let start = usize::try_from(start).unwrap();
        // The map is larger now: the data comes behind it.
        let new_start = (map + 4 * usize::try_from(blocks).unwrap()).next_multiple_of(data);
        let mut block = bytes[start..start + data].to_vec();
        bytes.truncate(map);
        bytes[0x158..0x15c].copy_from_slice(&u32::try_from(new_start).unwrap().to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes().repeat(usize::try_from(blocks - 1).unwrap()));
        bytes.resize(new_start, 0);
        bytes.append(&mut block);
        bytes.extend(vec![letter; data]);
        bytes[0x184..0x188].copy_from_slice(&2_u32.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        is_refused("100 GiB", &path);
    }
}
