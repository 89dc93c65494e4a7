//! The main job: secrets arrive exactly, everything else is as before, and the file system's own check is content.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::machine::{BTRFS, Disk, EXT4, PARENTS, System, TOUCHED, XFS, assert_nothing_left, deaddrop, is_version};
use crate::kit::files::fingerprint;
use crate::kit::loops::Loop;
use crate::kit::{Scratch, tool};

const ALL: [System; 3] = [BTRFS, XFS, EXT4];

#[test]
fn secrets_arrive_in_a_new_image_and_nothing_else_changes() {
    for system in ALL.into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, system);
        let before = disk.tree();
        let input = fingerprint(&disk.path);
        let args = ["-v", "inject", "disk.img", "--backend", "mount", "-o", "out.img"];
        let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
        let said = done.stderr();
        assert!(said.contains(&format!("partition 2 ({}, nixos), chosen by its label", system.kind)), "{said}");
        assert!(said.contains("read back by a fresh mount"), "{said}");
        assert!(said.contains("out.img: 3 secrets written, 0 unchanged"), "{said}");
        assert_eq!(fingerprint(&disk.path), input, "{}: the input was touched", system.kind);
        let out = disk.at(scratch.join("out.img"));
        assert_eq!(fs::metadata(&out.path).unwrap().permissions().mode() & 0o7777, 0o600);
        let after = out.tree();
        assert!(is_version(&after, "new"), "{}", system.kind);
        before.assert_only(&after, TOUCHED, PARENTS);
        out.assert_sound(&scratch);
        assert_nothing_left(&scratch, &["disk.img", "out.img"]);
        // The boot partition and both tables are byte for byte what they were.
        let (old, new) = (fs::read(&disk.path).unwrap(), fs::read(&out.path).unwrap());
        let root = usize::try_from(disk.offset).unwrap();
        let end = root + usize::try_from(system.mib << 20).unwrap();
        assert!(old[..root] == new[..root] && old[end..] == new[end..] && old.len() == new.len(), "{}", system.kind);
        deaddrop(&scratch, "new", &["verify", "out.img", "--backend", "mount"]).run().expect_code(0);
        deaddrop(&scratch, "new", &["verify", "disk.img", "--backend", "mount"]).run().expect_code(3);
    }
}

#[test]
fn an_image_in_place_becomes_0600_and_a_second_run_changes_not_a_byte() {
    for system in ALL.into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, system);
        let before = disk.tree();
        let args = ["inject", "disk.img", "--backend", "mount", "--in-place"];
        let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
        assert!(done.stderr().contains("its mode is now 0600, it was 0644"), "{}", done.stderr());
        assert_eq!(fs::metadata(&disk.path).unwrap().permissions().mode() & 0o7777, 0o600);
        let after = disk.tree();
        assert!(is_version(&after, "new"), "{}", system.kind);
        before.assert_only(&after, TOUCHED, PARENTS);
        disk.assert_sound(&scratch);
        let once = fingerprint(&disk.path);
        let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
        assert!(done.stderr().contains("nothing to do"), "{}", done.stderr());
        assert_eq!(fingerprint(&disk.path), once, "{}", system.kind);
        assert_nothing_left(&scratch, &["disk.img"]);
    }
}

#[test]
fn compressed_images_are_replaced_or_made_anew() {
    if !BTRFS.is_here() {
        return;
    }
    for (from, out) in [
        ("disk.img.zst", Some("out.img")),
        ("disk.img.zst", Some("out.img.zst")),
        ("disk.img", Some("out.img.zst")),
        ("disk.img.zst", None),
    ] {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, BTRFS);
        if from.ends_with(".zst") {
            tool(Command::new("zstd").args(["-q", "--rm"]).arg(&disk.path));
        }
        let input = fingerprint(&scratch.join(from));
        let mut args = vec!["inject", from, "--backend", "mount"];
        args.extend(out.map_or(vec!["--in-place"], |out| vec!["-o", out]));
        deaddrop(&scratch, "new", &args).run().expect_code(0);
        if let Some(out) = out {
            assert_eq!(fingerprint(&scratch.join(from)), input, "{from} {out}: the input was touched");
        }
        let written = out.unwrap_or(from);
        assert_nothing_left(&scratch, &[from, written]);
        let raw = scratch.join("judged.img");
        match written.ends_with(".zst") {
            true => drop(tool(Command::new("zstd").args(["-dq"]).arg(scratch.join(written)).arg("-o").arg(&raw))),
            false => fs::rename(scratch.join(written), &raw).unwrap(),
        }
        let judged = disk.at(&raw);
        assert!(is_version(&judged.tree(), "new"), "{from} {out:?}");
        judged.assert_sound(&scratch);
    }
}

#[test]
fn with_nothing_to_do_an_output_is_a_faithful_copy() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, BTRFS);
    deaddrop(&scratch, "new", &["inject", "disk.img", "--backend", "mount", "--in-place"]).run().expect_code(0);
    let args = ["inject", "disk.img", "--backend", "mount", "-o", "out.img"];
    let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
    assert!(done.stderr().contains("a copy, 3 secrets already as declared"), "{}", done.stderr());
    assert!(fs::read(scratch.join("out.img")).unwrap() == fs::read(&disk.path).unwrap());
}

#[test]
fn plan_and_verify_write_nothing_and_say_the_same_as_the_native_back_end() {
    if !EXT4.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, EXT4);
    let before = fingerprint(&disk.path);
    for command in ["plan", "verify"] {
        let run = |backend| deaddrop(&scratch, "new", &[command, "disk.img", "--json", "--backend", backend]).run();
        let (native, mount) = (run("native"), run("mount"));
        assert_eq!(native.code(), mount.code(), "{command}");
        assert_eq!(native.json(), mount.json(), "{command}");
    }
    assert_eq!(fingerprint(&disk.path), before);
    assert_nothing_left(&scratch, &["disk.img"]);
}

#[test]
fn what_the_native_writer_refuses_the_kernel_writes() {
    if !EXT4.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, System { options: "-O bigalloc -C 16384", ..EXT4 });
    deaddrop(&scratch, "new", &["inject", "disk.img", "-o", "out.img"]).run().expect_refusal("natively", 1, &["ext4"]);
    deaddrop(&scratch, "new", &["inject", "disk.img", "--backend", "mount", "-o", "out.img"]).run().expect_code(0);
    let out = disk.at(scratch.join("out.img"));
    assert!(is_version(&out.tree(), "new"));
    out.assert_sound(&scratch);
}

#[test]
fn the_only_store_decides_among_file_systems_that_only_the_kernel_reads() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, BTRFS);
    // A second root of another kind before it, without a store, and no label of NixOS on either.
    let other = System { mib: 4, options: "-O ^has_journal", ..EXT4 };
    let small = scratch.join("small.img");
    other.make(&small, "data");
    super::machine::copy_part(&small, 0, &disk.path, 1 << 20, 4 << 20);
    fs::remove_file(small).unwrap();
    {
        let device = Loop::over_part(&disk.path, disk.offset, disk.system.mib << 20);
        tool(Command::new("btrfs").args(["filesystem", "label", &device.0, "mine"]));
    }
    let done = deaddrop(&scratch, "new", &["plan", "disk.img"]).run().expect_code(1);
    assert!(done.stderr().contains("`--backend mount` (root) looks into btrfs and xfs"), "{}", done.stderr());
    let args = ["-v", "inject", "disk.img", "--backend", "mount", "-o", "out.img"];
    let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
    assert!(
        done.stderr().contains("partition 2 (btrfs, mine), the only one that holds /nix/store"),
        "{}",
        done.stderr()
    );
    assert!(is_version(&disk.at(scratch.join("out.img")).tree(), "new"));
}

#[test]
fn inspect_names_the_file_system_and_the_back_end() {
    for system in [BTRFS, XFS].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        Disk::new(&scratch, system);
        let done = deaddrop(&scratch, "new", &["inspect", "disk.img"]).run().expect_code(0);
        let said = done.stdout();
        assert!(said.contains("root: chosen by its label"), "{said}");
        assert!(said.contains(&format!("{}: written by the kernel: --backend mount", system.kind)), "{said}");
        let found = deaddrop(&scratch, "new", &["inspect", "disk.img", "--json"]).run().json();
        assert_eq!(found["root"]["backend"], "mount");
        assert_eq!(found["partitions"][1]["file_system"]["kind"], system.kind);
        assert_eq!(found["partitions"][1]["file_system"]["label"], "nixos");
    }
}
