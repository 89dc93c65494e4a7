//! A log that waits to be replayed: by whom, and where.

use std::fs;
use std::io::Write;
use std::process::Command;

use super::machine::{BTRFS, Disk, EXT4, System, XFS, assert_nothing_left, deaddrop, is_version};
use crate::kit::files::fingerprint;
use crate::kit::{Scratch, tool};

/// An image as a power cut leaves it: what was synced since the last commit is only in the log.
fn cut_off(scratch: &Scratch, system: System) -> Disk {
    let disk = Disk::new(scratch, system);
    let cut = scratch.join("cut.img");
    {
        let mounted = system.mount(&disk.path, disk.offset, "");
        tool(Command::new("sync").arg("-f").arg(mounted.root()));
        let mut file = fs::File::create_new(mounted.at("etc/logged")).unwrap();
        file.write_all(b"only in the log").unwrap();
        file.sync_all().unwrap();
        disk.copy(&cut);
    }
    fs::rename(&cut, &disk.path).unwrap();
    disk
}

#[test]
fn plan_and_verify_look_past_a_log_say_so_and_write_nothing() {
    for system in [BTRFS, XFS, EXT4].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = cut_off(&scratch, system);
        let before = fingerprint(&disk.path);
        for (command, code) in [("plan", 0), ("verify", 3)] {
            let done = deaddrop(&scratch, "new", &[command, "disk.img", "--backend", "mount"]).run().expect_code(code);
            let said = done.stderr();
            let want = format!("the log of partition 2 ({}, nixos) was not replayed", system.kind);
            assert!(said.contains(&want), "{}: {said}", system.kind);
        }
        assert_eq!(fingerprint(&disk.path), before, "{}", system.kind);
        assert_nothing_left(&scratch, &["disk.img"]);
    }
}

#[test]
fn inject_replays_a_log_in_what_it_writes_and_nowhere_else() {
    for system in [BTRFS, XFS, EXT4].into_iter().filter(|system| system.is_here()) {
        for destination in [&["-o", "out.img"][..], &["-o", "out.img.zst"], &["--in-place"]] {
            let scratch = Scratch::new();
            let disk = cut_off(&scratch, system);
            let before = fingerprint(&disk.path);
            let args = [&["inject", "disk.img", "--backend", "mount"], destination].concat();
            let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
            assert!(done.stderr().contains("the kernel replayed the log of partition 2"), "{}", done.stderr());
            let judged = match destination {
                ["-o", out] => {
                    assert_eq!(fingerprint(&disk.path), before, "{}: the input was touched", system.kind);
                    if out.ends_with(".zst") {
                        tool(Command::new("zstd").args(["-dq", "--rm"]).arg(scratch.join(out)));
                    }
                    disk.at(scratch.join("out.img"))
                }
                _ => disk.at(&disk.path),
            };
            let tree = judged.tree();
            assert!(is_version(&tree, "new") && tree.0.contains_key("/etc/logged"), "{} {args:?}", system.kind);
            judged.assert_sound(&scratch);
            assert_nothing_left(&scratch, &["disk.img", "out.img"]);
        }
    }
}
