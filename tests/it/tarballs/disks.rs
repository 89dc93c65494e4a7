//! A tar with one disk, as Google Compute Engine takes it: made and extracted by GNU tar, bsdtar and Python's tarfile.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::by_script;
use crate::kit::disk::{MIB, noise, poke};
use crate::kit::files::{fingerprint, holds, names};
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{From, Item, Manifest};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::tool;
use crate::kit::tree::Tree;

const LAYOUT: Layout = images::LEGACY_GPT;

const MAKERS: [(&str, &[&str]); 9] = [
    ("as for GCE", &["tar", "--format=oldgnu", "-S"]),
    ("plain", &["tar", "--format=gnu"]),
    ("plain ustar", &["tar", "--format=ustar", "--owner=0"]),
    ("gnu", &["tar", "--format=gnu", "-S", "-b1"]),
    ("pax 1.0", &["tar", "--format=pax", "-S"]),
    ("pax 0.1", &["tar", "--format=pax", "-S", "--sparse-version=0.1"]),
    ("pax 0.0", &["tar", "--format=pax", "-S", "--sparse-version=0.0"]),
    ("bsdtar", &["bsdtar", "--format=pax"]),
    ("bsdtar gnu", &["bsdtar", "--format=gnutar"]),
];

fn items() -> Vec<Item> {
    vec![
        Item::new("token", "/etc/secrets/token"),
        Item::new("key", "/var/lib/secrets/key").sized(9000),
        Item::new("item", "/root/item").from(From::Vault),
    ]
}

/// The tar `node.tar` of a `disk.raw`.
fn tar(manifest: &Manifest, maker: &[&str]) -> PathBuf {
    let raw = LAYOUT.committed(&manifest.scratch).path;
    let directory = manifest.scratch.join("disk");
    fs::create_dir_all(&directory).unwrap();
    fs::rename(raw, directory.join("disk.raw")).unwrap();
    let to = manifest.scratch.join("node.tar");
    tool(Command::new(maker[0]).args(&maker[1..]).arg("-cf").arg(&to).arg("disk.raw").current_dir(&directory));
    fs::remove_dir_all(directory).unwrap();
    to
}

/// The disk, extracted by GNU tar, which must find no fault.
fn extracted(manifest: &Manifest, tar: &Path) -> PathBuf {
    let to = manifest.scratch.join("extracted");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    for program in ["tar", "bsdtar"] {
        let done = tool(Command::new(program).arg("-xf").arg(tar).arg("-C").arg(&to));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.lines().all(|line| line.contains("unknown extended header")), "{said}");
    }
    to.join("disk.raw")
}

/// The type of the entry, its name, size, mode, owner and time, and whether it is sparse.
fn form(tar: &Path) -> String {
    let script = "import sys, tarfile\nfor m in tarfile.open(sys.argv[1]):\n    print(m.type, m.name, m.size, m.mode, m.uid, \
                  m.uname, m.mtime, m.sparse is not None, sorted(m.pax_headers)[:3])";
    by_script(script, &[tar.to_str().unwrap()])
}

#[track_caller]
fn assert_good(manifest: &Manifest, raw: &Path) {
    let image = Image::new(raw, LAYOUT.root_offset);
    assert_fsck_clean(&image);
    manifest.assert_in(&image, &Tree::of(&image));
}

#[test]
fn the_disk_in_a_tar_of_each_form_is_changed_and_the_form_stays() {
    for (name, maker) in MAKERS {
        let manifest = Manifest::new(items());
        let tar = tar(&manifest, maker);
        let before = (form(&tar), fs::metadata(&tar).unwrap().len());
        let tree = Tree::of(&Image::new(extracted(&manifest, &tar), LAYOUT.root_offset));
        manifest.deaddrop_alone(&["inspect", "node.tar"]).run().expect_code(0).expect_output("tar → raw");
        manifest.deaddrop(&["verify", "node.tar"]).run().expect_code(3);
        manifest.deaddrop(&["plan", "node.tar"]).run().expect_code(0);
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0).expect_error("which is a tar of a disk");
        assert_eq!(form(&tar), before.0, "{name}");
        let size = fs::metadata(&tar).unwrap().len();
        assert!(size < before.1 + MIB, "{name}: {} became {size}", before.1);
        let raw = extracted(&manifest, &tar);
        assert_good(&manifest, &raw);
        let touched = [&manifest.paths()[..], &["/etc/secrets", "/var/lib/secrets"]].concat();
        let changed = Tree::of(&Image::new(&raw, LAYOUT.root_offset));
        tree.assert_only(&changed, &touched, &["/etc", "/var/lib", "/root"]);
        let first = fingerprint(&tar);
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0).expect_error("nothing to do");
        assert!(fingerprint(&tar) == first, "{name}: a second run changed it");
    }
}

#[test]
fn compressed_and_in_other_formats_by_the_suffix_and_format() {
    let manifest = Manifest::new(items());
    let tar = tar(&manifest, MAKERS[0].1);
    let packed = tool(Command::new("gzip").arg("-c").arg(&tar)).stdout;
    let image = manifest.scratch.write("gce.raw.tar.gz", packed);
    let before = fingerprint(&image);
    manifest.deaddrop_alone(&["inspect", "gce.raw.tar.gz"]).run().expect_code(0).expect_output("gzip → tar → raw");
    for (out, program) in [("out.raw.tar.gz", "gzip"), ("out.tgz", "gzip"), ("out.tar.zst", "zstd"), ("out.tar", "cat")]
    {
        manifest.deaddrop(&["inject", "gce.raw.tar.gz", "-o", out]).run().expect_code(0);
        let path = manifest.scratch.join(out);
        let plain = match program {
            "cat" => path,
            _ => manifest.scratch.write("plain.tar", tool(Command::new(program).arg("-dc").arg(&path)).stdout),
        };
        assert_good(&manifest, &extracted(&manifest, &plain));
    }
    manifest.deaddrop(&["inject", "gce.raw.tar.gz", "-o", "out.img", "--format", "raw"]).run().expect_code(0);
    assert_good(&manifest, &manifest.scratch.join("out.img"));
    for out in ["out2.img", "out2.qcow2", "out2.gz.img"] {
        let run = manifest.deaddrop(&["inject", "gce.raw.tar.gz", "-o", out]).run();
        run.expect_refusal(out, 2, &["--format"]);
    }
    assert!(fingerprint(&image) == before);
    manifest.deaddrop(&["inject", "gce.raw.tar.gz"]).run().expect_code(0).expect_error("which is compressed");
    tool(Command::new("gzip").arg("-t").stdin(File::open(&image).unwrap()));
}

#[test]
fn an_old_value_is_nowhere_and_a_map_of_many_parts_is_read() {
    let mut manifest = Manifest::new(items());
    for (name, maker) in [MAKERS[0], MAKERS[4], MAKERS[5]] {
        let path = tar(&manifest, maker);
        // A disk with hundreds of holes: several blocks of a map.
        let raw = extracted(&manifest, &path);
        let size = fs::metadata(&raw).unwrap().len();
        File::options().write(true).open(&raw).unwrap().set_len(size + 64 * MIB).unwrap();
        (0..500).for_each(|at| poke(&raw, size + at * 100_000, &noise(5000)));
        fs::copy(&raw, manifest.scratch.join("disk.raw")).unwrap();
        let again = Command::new(maker[0])
            .args(&maker[1..])
            .arg("-cf")
            .arg(&path)
            .arg("disk.raw")
            .current_dir(manifest.scratch.path())
            .output();
        assert!(again.unwrap().status.success());
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0);
        let old = manifest.items[0].clone();
        assert!(holds(&path, &old.value), "{name}");
        manifest.replace(old.with_new_value());
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0);
        assert!(!holds(&path, &old.value), "{name}");
        let now = extracted(&manifest, &path);
        assert_good(&manifest, &now);
        let (was, is) = (fs::read(manifest.scratch.join("disk.raw")).unwrap(), fs::read(now).unwrap());
        let end = usize::try_from(size).unwrap();
        assert!(was[end..] == is[end..], "{name}");
    }
}

#[test]
fn more_than_a_disk_and_a_disk_that_is_cut_off_are_refused() {
    let manifest = Manifest::new(items());
    let path = tar(&manifest, MAKERS[1].1);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    manifest.deaddrop(&["inject", "node.tar"]).limited().run().expect_refusal("cut", 1, &["truncated"]);
    fs::write(&path, &whole).unwrap();
    manifest.scratch.write("more", "more");
    tool(Command::new("tar").args(["-rf", "node.tar", "more"]).current_dir(manifest.scratch.path()));
    manifest.deaddrop(&["inject", "node.tar"]).run().expect_refusal("more", 1, &["a tar of a disk and of more"]);
    assert!(!names(manifest.scratch.path()).iter().any(|name| name.starts_with(".deaddrop")));
}
