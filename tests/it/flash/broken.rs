//! Devices that fail, go away, or lie.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Case, assert_no_table};
use crate::kit::disk::{blank, zstd};
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::mount::Mount;
use crate::kit::{is_root, tool};

#[test]
fn a_device_that_fails_names_the_place_and_is_left_without_a_table() {
    let case = Case::small();
    zstd(&case.scratch.join("small.img"));
    for image in ["small.img", "small.img.zst"] {
        for (error, words) in [("EIO", "Input/output error"), ("ENODEV", "No such device"), ("ENOSPC", "No space left")]
        {
            // The first two zero the ends.
            for call in 3..9 {
                let device = case.file("device", 28 << 20);
                let run = case.flash(image, "device").tampered(&format!("pwrite64:error={error}:when={call}"));
                let run = run.run().expect_code(5);
                let said = run.stderr();
                assert!(said.contains("writing device at byte ") && said.contains(words), "{said}");
                assert!(said.contains("device holds no partition table now"), "{said}");
                assert!(!said.contains("written and read back"), "{said}");
                assert_no_table(&device, &format!("{image}, {error} at {call}"));
            }
        }
    }
    let device = case.file("device", 28 << 20);
    let run = case.flash("small.img", "device").tampered("fdatasync:error=EIO:when=2").run().expect_code(5);
    run.expect_error("flushing device").expect_error("its mode is 0600, it was 0644");
    assert_no_table(&device, "the flush");
    // The old table may be there still, and the new one.
    for (call, words) in [
        ("pwrite64:error=EIO:when=1+", "what device held may be there in part, with its old partition table"),
        ("fdatasync:error=EIO:when=1", "what device held may be there in part, with its old partition table"),
        ("fdatasync:error=EIO:when=4+", "device may hold the new partition table, and was not compared"),
    ] {
        case.file("device", 28 << 20);
        let run = case.flash("small.img", "device").tampered(call).run().expect_code(5);
        assert!(!run.stderr().contains("holds no partition table"), "{call}: {}", run.stderr());
        run.expect_error(words);
    }
}

#[test]
fn a_device_that_forgets_what_was_written_is_found_out() {
    let case = Case::small();
    zstd(&case.scratch.join("small.img"));
    // A write that is never made, and is said to be: at 1 MiB, 4 MiB of which are there.
    for image in ["small.img", "small.img.zst"] {
        let device = case.file("device", 28 << 20);
        let run = case.flash(image, "device").tampered("pwrite64:retval=4194304:when=3").run().expect_code(5);
        run.expect_error("does not hold what was written to it").expect_error("at byte 1048576");
        assert_no_table(&device, image);
        // Without the read-back nobody would know.
        let device = case.file("device", 28 << 20);
        let run = case.flash(image, "device").args(["--no-read-back"]);
        let run = run.tampered("pwrite64:retval=4194304:when=3").run();
        match image {
            "small.img" => drop(run.expect_code(0)),
            // Its file system is read from the device.
            _ => assert!(matches!(run.code(), Some(0 | 5))),
        }
        drop(device);
    }
    // The first MiB, which is written last.
    let device = case.file("device", 28 << 20);
    let last = case.flash("small.img", "device").traced("pwrite64").run().expect_code(0);
    let calls = last.trace().calls("pwrite64").len();
    let device_again = case.file("device", 28 << 20);
    assert_eq!(device, device_again);
    let lie = format!("pwrite64:retval=1048576:when={calls}");
    let run = case.flash("small.img", "device").tampered(&lie).run().expect_code(5);
    run.expect_error("does not hold what was written to it").expect_error("at byte 0");
    assert_no_table(&device, "the first MiB");
}

#[test]
fn a_device_smaller_than_it_says_names_the_place_where_it_ends() {
    if !has_loop_devices() || !is_root() {
        return;
    }
    let case = Case::small();
    // A file system of 16 MiB with a file of 28 MiB in it, most of which has no room.
    let small = case.scratch.join("fs.img");
    blank(&small, 16 << 20);
    tool(Command::new(crate::kit::program("mkfs.ext4")).args(["-q", "-O", "^has_journal"]).arg(&small));
    let mount = Mount::with(&small, &["-o", "loop"]).unwrap();
    let liar = mount.at("/liar");
    blank(&liar, 28 << 20);
    let device = Loop::new(&liar);
    let run = case.flash("small.img", &device.0).run().expect_code(5);
    let said = run.stderr();
    assert!(said.contains(&format!("writing {} at byte ", device.0)) || said.contains("flushing"), "{said}");
    assert!(said.contains("holds no partition table now") && !said.contains("read back;"), "{said}");
    assert_no_table(Path::new(&device.0), "a device that lies");
    drop(device);
    fs::remove_file(&liar).unwrap();
}
