//! Ten runs at once on ten images of one build, with one UUID: each gets its own secrets, and nobody's else.

use std::{fs, thread};

use super::machine::{BTRFS, Disk, EXT4, XFS, assert_nothing_left, deaddrop, declare, is_version, pattern};
use crate::kit::Scratch;

#[test]
fn ten_runs_at_once_on_ten_images_of_one_uuid() {
    for system in [BTRFS, XFS, EXT4].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, system);
        let nodes: Vec<Scratch> = (0..10).map(|_| Scratch::new()).collect();
        thread::scope(|scope| {
            for (number, node) in nodes.iter().enumerate() {
                disk.copy(&node.join("disk.img"));
                let version = format!("node{number}");
                declare(node, &version);
                scope.spawn(move || {
                    let destination = if number % 2 == 0 { &["--in-place"][..] } else { &["-o", "out.img"] };
                    let args = [&["inject", "disk.img", "--backend", "mount"], destination].concat();
                    deaddrop(node, &version, &args).run().expect_code(0);
                });
            }
        });
        for (number, node) in nodes.iter().enumerate() {
            let written = if number % 2 == 0 { "disk.img" } else { "out.img" };
            let image = disk.at(node.join(written));
            assert!(is_version(&image.tree(), &format!("node{number}")), "{} {number}", system.kind);
            image.assert_sound(node);
            for other in (0..10).filter(|other| *other != number) {
                let value = pattern(&format!("node{other}"), "small");
                assert!(!image.holds(&value), "{}: {number} has a value of {other}", system.kind);
            }
            let files = if number % 2 == 0 { &["disk.img"][..] } else { &["disk.img", "out.img"] };
            assert_nothing_left(node, files);
        }
        fs::remove_file(&disk.path).unwrap();
    }
}
