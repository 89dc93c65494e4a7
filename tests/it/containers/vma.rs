//! Proxmox's archives: made and read by a script that follows Proxmox's specification, and changed by deaddrop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::disk::{MIB, noise, poke};
use crate::kit::files::{fingerprint, holds, names};
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{From, Item, Manifest};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::tool;
use crate::kit::tree::Tree;

const LAYOUT: Layout = images::LEGACY_GPT;
const CONFIG: &str = "boot: order=virtio0\nvirtio0: local:0,size=1G\n#nixos\n";

fn script(arguments: &[&str]) {
    tool(Command::new("python3").arg("-c").arg(include_str!("vma.py")).args(arguments));
}

fn items() -> Vec<Item> {
    vec![
        Item::new("token", "/etc/secrets/token"),
        Item::new("key", "/var/lib/secrets/key").sized(9000),
        Item::new("item", "/root/item").from(From::Vault),
    ]
}

/// An archive `node.vma` of the disk with these devices besides: names and files.
fn archive(manifest: &Manifest, others: &[(&str, &Path)]) -> PathBuf {
    let raw = LAYOUT.committed(&manifest.scratch).path;
    let vma = manifest.scratch.join("node.vma");
    let mut words = vec!["make".to_owned(), vma.display().to_string(), CONFIG.to_owned()];
    words.extend(others.iter().map(|(name, path)| format!("{name}={}", path.display())));
    words.push(format!("drive-virtio0={}", raw.display()));
    script(&words.iter().map(String::as_str).collect::<Vec<_>>());
    fs::remove_file(raw).unwrap();
    vma
}

/// The devices and the configuration, read by the script, which must find no fault.
fn extracted(manifest: &Manifest, vma: &Path, name: &str) -> PathBuf {
    let to = manifest.scratch.join(name);
    script(&["extract", vma.to_str().unwrap(), to.to_str().unwrap()]);
    to
}

#[track_caller]
fn assert_good(manifest: &Manifest, raw: &Path) {
    let image = Image::new(raw, LAYOUT.root_offset);
    assert_fsck_clean(&image);
    manifest.assert_in(&image, &Tree::of(&image));
}

#[test]
fn an_archive_is_changed_and_all_but_the_disk_stays() {
    let manifest = Manifest::new(items());
    // Its last cluster is not whole, nor its last block.
    let firmware = manifest.scratch.write("firmware", noise(540_672 + 512));
    let vma = archive(&manifest, &[("drive-efidisk0", &firmware)]);
    let before = extracted(&manifest, &vma, "before");
    let tree = Tree::of(&Image::new(before.join("drive-virtio0.raw"), LAYOUT.root_offset));
    let header = fs::read(&vma).unwrap()[..12_288].to_vec();
    for packed in [false, true] {
        let name = if packed { "node.vma.zst" } else { "copy.vma" };
        let path = manifest.scratch.join(name);
        match packed {
            true => drop(tool(Command::new("zstd").args(["-q", "-1"]).arg(&vma).arg("-o").arg(&path))),
            false => drop(fs::copy(&vma, &path).unwrap()),
        }
        let shown = if packed { "zstd → vma → raw" } else { "vma → raw" };
        manifest.deaddrop_alone(&["inspect", name]).run().expect_code(0).expect_output(shown);
        manifest.deaddrop(&["verify", name]).run().expect_code(3);
        manifest.deaddrop(&["plan", name]).run().expect_code(0);
        let kind = if packed { "which is compressed" } else { "which is a VMA archive" };
        manifest.deaddrop(&["inject", name]).run().expect_code(0).expect_error(kind);
        let plain = manifest.scratch.join("plain");
        match packed {
            true => drop(tool(Command::new("zstd").args(["-q", "-d", "-f"]).arg(&path).arg("-o").arg(&plain))),
            false => drop(fs::copy(&path, &plain).unwrap()),
        }
        assert!(fs::read(&plain).unwrap().starts_with(&header), "the header changed");
        let after = extracted(&manifest, &plain, &format!("after-{packed}"));
        assert_eq!(names(&after), names(&before));
        for file in ["qemu-server.conf", "drive-efidisk0.raw"] {
            assert!(fs::read(after.join(file)).unwrap() == fs::read(before.join(file)).unwrap(), "{file} changed");
        }
        let disk = after.join("drive-virtio0.raw");
        assert_good(&manifest, &disk);
        let changed = Tree::of(&Image::new(&disk, LAYOUT.root_offset));
        let touched = [&manifest.paths()[..], &["/etc/secrets", "/var/lib/secrets"]].concat();
        tree.assert_only(&changed, &touched, &["/etc", "/var/lib", "/root"]);
        let first = fingerprint(&path);
        manifest.deaddrop(&["inject", name]).run().expect_code(0).expect_error("nothing to do");
        manifest.deaddrop(&["verify", name]).run().expect_code(0);
        assert!(fingerprint(&path) == first, "a second run changed it");
    }
}

#[test]
fn an_old_value_is_nowhere_in_the_new_archive() {
    let mut manifest = Manifest::new(items());
    let vma = archive(&manifest, &[]);
    manifest.deaddrop(&["inject", "node.vma"]).run().expect_code(0);
    let old = manifest.items[0].clone();
    assert!(holds(&vma, &old.value));
    manifest.replace(old.with_new_value());
    manifest.deaddrop(&["inject", "node.vma"]).run().expect_code(0);
    assert!(!holds(&vma, &old.value));
    assert_good(&manifest, &extracted(&manifest, &vma, "after").join("drive-virtio0.raw"));
}

#[test]
fn out_has_the_name_of_an_archive_or_format_makes_a_disk_of_it() {
    let manifest = Manifest::new(items());
    let vma = archive(&manifest, &[]);
    let before = fingerprint(&vma);
    for out in ["out.img", "out.qcow2", "out.raw.zst", "out.tar"] {
        manifest.deaddrop(&["inject", "node.vma", "-o", out]).run().expect_refusal(out, 2, &["--format"]);
    }
    manifest.deaddrop(&["inject", "node.vma", "-o", "out.vma.gz"]).run().expect_code(0);
    let unpacked = tool(Command::new("gzip").arg("-dc").arg(manifest.scratch.join("out.vma.gz"))).stdout;
    let unpacked = manifest.scratch.write("unpacked", unpacked);
    assert_good(&manifest, &extracted(&manifest, &unpacked, "after").join("drive-virtio0.raw"));
    manifest.deaddrop(&["inject", "node.vma", "-o", "out.img", "--format", "raw"]).run().expect_code(0);
    assert_good(&manifest, &manifest.scratch.join("out.img"));
    assert!(fingerprint(&vma) == before);
    let run = manifest.deaddrop(&["inject", "out.img", "-o", "out2.vma"]).run();
    run.expect_refusal("a disk as an archive", 2, &["names another container"]);
}

#[test]
fn of_several_disks_the_one_with_a_system_is_changed_and_two_are_refused_by_name() {
    let manifest = Manifest::new(items());
    let data = manifest.scratch.join("data");
    fs::File::create(&data).unwrap().set_len(3 * MIB).unwrap();
    poke(&data, MIB, &noise(70_000));
    let vma = archive(&manifest, &[("drive-scsi1", &data)]);
    manifest.deaddrop(&["inject", "node.vma"]).run().expect_code(0);
    let after = extracted(&manifest, &vma, "after");
    assert!(fs::read(after.join("drive-scsi1.raw")).unwrap() == fs::read(&data).unwrap());
    assert_good(&manifest, &after.join("drive-virtio0.raw"));
    let other = manifest.scratch.join("other");
    fs::copy(after.join("drive-virtio0.raw"), &other).unwrap();
    archive(&manifest, &[("drive-scsi1", &other)]);
    let run = manifest.deaddrop(&["inject", "node.vma"]).run();
    run.expect_refusal("two", 1, &["drive-scsi1, drive-virtio0", "vma extract"]);
}

/// Makes the checksum of the header, or of the extent at `at`, right again.
fn seal(bytes: &mut [u8], at: usize) {
    use md5::{Digest, Md5};
    let (place, length) = match at {
        0 => (32, usize::try_from(u32::from_be_bytes(bytes[56..60].try_into().unwrap())).unwrap()),
        _ => (24, 512),
    };
    let length = length.min(bytes.len());
    bytes[at + place..at + place + 16].fill(0);
    let sum = Md5::digest(&bytes[at..at + length]);
    bytes[at + place..at + place + 16].copy_from_slice(&sum);
}

#[test]
fn archives_that_are_damaged_or_lie_are_refused_and_left_alone() {
    let manifest = Manifest::new(items());
    let vma = archive(&manifest, &[]);
    let whole = fs::read(&vma).unwrap();
    let first = usize::try_from(u32::from_be_bytes(whole[56..60].try_into().unwrap())).unwrap();
    let put = |bytes: &mut Vec<u8>, at: usize, new: &[u8]| bytes[at..at + new.len()].copy_from_slice(new);
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>), &'a str);
    let cases: &[Damage<'_>] = &[
        ("cut", &|bytes| bytes.truncate(bytes.len() - 100), "truncated"),
        ("cut at an extent", &|bytes| bytes.truncate(first), "are missing"),
        ("cut in its header", &|bytes| bytes.truncate(5000), "its header"),
        ("only a magic", &|bytes| bytes.truncate(4), "its header"),
        ("header", &|bytes| bytes[3000] ^= 1, "its header"),
        (
            "version",
            &|bytes| {
                put(bytes, 4, &[0, 0, 0, 2]);
                seal(bytes, 0);
            },
            "its header",
        ),
        ("a header of 4 GiB", &|bytes| put(bytes, 56, &[0xff, 0xff, 0xfe, 0]), "its header"),
        (
            "blobs behind the header",
            &|bytes| {
                put(bytes, 52, &[0x7f, 0, 0, 0]);
                seal(bytes, 0);
            },
            "its header",
        ),
        (
            "a name behind the blobs",
            &|bytes| {
                put(bytes, 4096 + 32, &[0, 0xff, 0, 0]);
                seal(bytes, 0);
            },
            "its header",
        ),
        (
            "a device of 100 TB",
            &|bytes| {
                put(bytes, 4096 + 40, &[0, 0, 0x5a, 0]);
                seal(bytes, 0);
            },
            "over 2 TiB",
        ),
        (
            "a larger device",
            &|bytes| {
                put(bytes, 4096 + 40, &[0, 0, 0, 1]);
                seal(bytes, 0);
            },
            "are missing",
        ),
        ("an extent", &|bytes| bytes[first + 60] ^= 1, "its extent"),
        (
            "another archive's extent",
            &|bytes| {
                bytes[first + 8] ^= 1;
                seal(bytes, first);
            },
            "its extent",
        ),
        (
            "blocks",
            &|bytes| {
                bytes[first + 7] ^= 1;
                seal(bytes, first);
            },
            "its extent",
        ),
        (
            "a device that is not there",
            &|bytes| {
                bytes[first + 43] = 9;
                seal(bytes, first);
            },
            "is of no device",
        ),
        (
            "twice",
            &|bytes| {
                put(bytes, first + 52, &[0, 0, 0, 0]);
                seal(bytes, first);
            },
            "is there twice",
        ),
        (
            "behind the end",
            &|bytes| {
                put(bytes, first + 52, &[0xff; 4]);
                seal(bytes, first);
            },
            "behind the end",
        ),
        ("more behind it", &|bytes| bytes.extend([7; 600]), "its extent"),
    ];
    for (name, damage, want) in cases {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        let path = manifest.scratch.write("bad.vma", &bytes);
        let before = fingerprint(&path);
        for arguments in [&["inject", "bad.vma"][..], &["inject", "bad.vma", "-o", "out.vma"], &["verify", "bad.vma"]] {
            manifest.deaddrop(arguments).limited().run().expect_refusal(name, 1, &[want]);
        }
        assert!(fingerprint(&path) == before && !manifest.scratch.join("out.vma").exists(), "{name}");
    }
}

#[test]
fn two_tib_of_zeros_end_in_time() {
    let manifest = Manifest::new(items());
    let whole = fs::read(archive(&manifest, &[])).unwrap();
    let first = usize::try_from(u32::from_be_bytes(whole[56..60].try_into().unwrap())).unwrap();
    let mut bytes = whole[..first].to_vec();
    bytes[4096 + 40..4096 + 48].copy_from_slice(&(2_u64 << 40).to_be_bytes());
    seal(&mut bytes, 0);
    let mut extent = whole[first..first + 512].to_vec();
    extent[6..8].fill(0);
    for number in (0..1_u32 << 25).step_by(59) {
        for index in 0..59_u32 {
            let at = 40 + usize::try_from(index).unwrap() * 8;
            let device = u8::from(number + index < 1 << 25);
            extent[at..at + 8].copy_from_slice(&(u64::from(device) << 32 | u64::from(number + index)).to_be_bytes());
        }
        let at = bytes.len();
        bytes.extend(&extent);
        seal(&mut bytes, at);
    }
    manifest.scratch.write("zeros.vma", &bytes);
    let run = manifest.deaddrop(&["inject", "zeros.vma"]).limited().run();
    run.expect_refusal("zeros", 1, &["nothing was changed"]);
}

#[test]
fn killed_at_any_writing_call_the_archive_is_the_old_one_or_the_new_one() {
    let manifest = Manifest::new(items());
    let vma = archive(&manifest, &[]);
    let whole = fs::read(&vma).unwrap();
    for call in ["pwrite64", "write", "ftruncate", "fsync", "linkat", "rename"] {
        for when in [1, 3] {
            fs::write(&vma, &whole).unwrap();
            manifest.deaddrop(&["inject", "node.vma"]).tampered(&format!("{call}:signal=KILL:when={when}")).run();
            let is_new = manifest.deaddrop(&["verify", "node.vma"]).run().code() == Some(0);
            assert!(is_new || fs::read(&vma).unwrap() == whole, "{call} {when}");
            manifest.deaddrop(&["inject", "node.vma"]).run().expect_code(0);
            let left = names(manifest.scratch.path()).into_iter().filter(|name| name.starts_with(".deaddrop"));
            assert_eq!(left.count(), 0, "{call} {when}");
        }
    }
}
