//! `--sidecars`: judged by sha256sum and bmaptool.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::kit::disk::{poke, run};
use crate::kit::files::{fingerprint, mode};
use crate::kit::images::{self, Image};
use crate::kit::manifest::{Item, Manifest};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::tree::Tree;
use crate::kit::{program, sha256_of, tool};

fn manifest() -> Manifest {
    let manifest =
        Manifest::new(vec![Item::new("token", "/etc/secrets/token"), Item::new("key", "/root/key").sized(9000)]);
    let raw = images::RAW_EFI.committed(&manifest.scratch).path;
    fs::rename(raw, manifest.scratch.join("node.img")).unwrap();
    manifest
}

/// What bmaptool, which checks all digests, makes of the image on a medium that was full of something else.
fn flashed(manifest: &Manifest, image: &str) -> PathBuf {
    let map = manifest.scratch.join(format!("{image}.bmap"));
    let (written, medium) = (manifest.scratch.join("written"), manifest.scratch.join("medium"));
    let bmap = format!("--bmap={}", map.display());
    tool(Command::new(program("bmaptool")).args(["copy", &bmap]).arg(manifest.scratch.join(image)).arg(&written));
    // It empties a file before it writes to it; on a device, what it leaves out stays.
    let written = fs::read(written).unwrap();
    let size = usize::try_from(fs::metadata(manifest.scratch.join("node.img")).unwrap().len()).unwrap();
    let mut bytes = vec![0xA5; size];
    for line in fs::read_to_string(map).unwrap().lines().filter(|line| line.contains("<Range")) {
        let blocks = line.split(['>', '<']).nth(2).unwrap().trim();
        let (first, last) = blocks.split_once('-').unwrap_or((blocks, blocks));
        let number = |text: &str| text.parse::<usize>().unwrap() * 4096;
        let range = number(first)..(number(last) + 4096).min(size);
        bytes[range.clone()].copy_from_slice(&written[range]);
    }
    fs::write(&medium, bytes).unwrap();
    medium
}

#[track_caller]
fn assert_flashes(manifest: &Manifest, image: &str) {
    let medium = flashed(manifest, image);
    let image = Image::new(&medium, images::RAW_EFI.root_offset);
    assert_fsck_clean(&image);
    manifest.assert_in(&image, &Tree::of(&image));
    let verified = manifest.deaddrop(&["verify", "medium"]).run();
    verified.expect_code(0);
    let left = fs::read(&medium).unwrap().chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0xA5)).count();
    assert!(left > 10_000, "all but {left} blocks was written");
    fs::remove_file(medium).unwrap();
}

#[test]
fn an_output_gets_its_digest_its_block_map_and_its_line() {
    let manifest = manifest();
    let path = |name: &str| manifest.scratch.join(name);
    let other = format!("{}  other.img\n{} *out.img.old\n", "0".repeat(64), "1".repeat(64));
    fs::write(path("SHA256SUMS"), format!("{other}{}  out.img\n# the end", "2".repeat(64))).unwrap();
    let digest = |name: &str| sha256_of(&path(name));
    for out in ["out.img", "out.img.gz"] {
        manifest.deaddrop(&["inject", "node.img", "-o", out, "--sidecars"]).run().expect_code(0);
        tool(Command::new("sha256sum").arg("-c").arg(format!("{out}.sha256")).current_dir(manifest.scratch.path()));
        assert_eq!(mode(&path(&format!("{out}.bmap"))), 0o600);
        assert_flashes(&manifest, out);
    }
    let sums = fs::read_to_string(path("SHA256SUMS")).unwrap();
    let own = |name: &str| format!("{}  {name}\n", digest(name));
    assert_eq!(sums, format!("{other}{}# the end\n{}", own("out.img"), own("out.img.gz")));
    manifest
        .deaddrop(&["inject", "node.img", "--format", "qcow2", "-o", "out.disk", "--sidecars"])
        .run()
        .expect_code(0);
    assert!(path("out.disk.sha256").exists() && !path("out.disk.bmap").exists());
}

#[test]
fn zeros_that_a_file_needs_are_written() {
    let manifest = manifest();
    let path = |name: &str| manifest.scratch.join(name);
    // A megabyte of zeros with blocks of its own, as a database preallocates it, in a hole of the image.
    let zeros = manifest.scratch.write("zeros", vec![0; 1 << 20]);
    let image = Image::new(path("node.img"), images::RAW_EFI.root_offset);
    let script = manifest.scratch.write("script", format!("write {} root/zeros\n", zeros.display()));
    tool(Command::new("debugfs").args(["-w", "-f"]).arg(script).arg(image.for_e2fsprogs()));
    run("fallocate", &["--dig-holes", path("node.img").to_str().unwrap()]);
    let before = Tree::of(&image);
    assert!(before.0.contains_key("/root/zeros"));
    manifest.deaddrop(&["inject", "node.img", "-o", "out.img.gz", "--sidecars"]).run().expect_code(0);
    let after = Tree::of(&Image::new(flashed(&manifest, "out.img.gz"), images::RAW_EFI.root_offset));
    let touched = [&manifest.paths()[..], &["/etc/secrets"]].concat();
    before.assert_only(&after, &touched, &["/etc", "/root"]);
}

#[test]
fn in_place_they_are_written_once_and_those_that_do_not_fit_are_said() {
    let mut manifest = manifest();
    let path = |manifest: &Manifest, name: &str| manifest.scratch.join(name);
    let files = ["node.img.sha256", "node.img.bmap", "SHA256SUMS"];
    let first = manifest.deaddrop(&["inject", "node.img", "--sidecars"]).run().expect_code(0);
    let first = files.iter().fold(first, |run, file| run.expect_error(&format!("{file} written")));
    drop(first);
    let state = |manifest: &Manifest| files.map(|file| fingerprint(&path(manifest, file)));
    let before = state(&manifest);
    let second = manifest.deaddrop(&["inject", "node.img", "--sidecars"]).run().expect_code(0);
    assert!(!second.stderr().contains(" written"), "{}", second.stderr());
    assert_eq!(state(&manifest), before);
    let nothing = manifest.deaddrop(&["inject", "node.img"]).run().expect_code(0);
    assert!(!nothing.stderr().contains("does not fit"), "{}", nothing.stderr());
    let new = manifest.items[0].with_new_value();
    manifest.replace(new);
    let changed = manifest.deaddrop(&["inject", "node.img"]).run().expect_code(0);
    let said = |file: &str| format!("{file} does not fit the new node.img (--sidecars writes it)");
    files.iter().fold(changed, |run, file| run.expect_error(&said(file)));
    assert_eq!(state(&manifest), before, "only with --sidecars");
    manifest.deaddrop(&["inject", "node.img", "--sidecars"]).run().expect_code(0).expect_error("node.img.bmap written");
    assert_flashes(&manifest, "node.img");
    // A file that is no file is left alone; the image is whole.
    fs::remove_file(path(&manifest, "SHA256SUMS")).unwrap();
    fs::create_dir(path(&manifest, "SHA256SUMS")).unwrap();
    poke(&path(&manifest, "node.img.sha256"), 0, b"0");
    let failed = manifest.deaddrop(&["inject", "node.img", "--sidecars"]).run().expect_code(5);
    failed.expect_error("SHA256SUMS is no regular file");
    manifest.deaddrop(&["verify", "node.img"]).run().expect_code(0);
    fs::create_dir(path(&manifest, "root")).unwrap();
    manifest.deaddrop(&["inject", "root", "--sidecars"]).run().expect_code(2).expect_error("is for an image file");
}
