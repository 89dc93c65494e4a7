//! Which devices are never written to: the one that the running system is on, and one that the kernel keeps from it.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::process::Command;

use super::machine::{deaddrop, disk};
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::{Scratch, sha256_of, tool};

/// Opens of `device` in strace's log of a run, but for those to read.
fn opened_to_write(log: &str, device: &str) -> Vec<String> {
    let of_it = log.lines().filter(|line| line.contains("open") && line.contains(&format!("\"{device}\"")));
    of_it.filter(|line| !line.contains("O_RDONLY") && !line.contains("O_PATH")).map(str::to_owned).collect()
}

#[test]
fn the_disk_of_the_running_root_is_refused_also_by_force_and_never_opened_to_write() {
    let found = tool(Command::new("findmnt").args(["-no", "SOURCE", "/"]));
    let source = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    if !fs::metadata(&source).is_ok_and(|found| found.file_type().is_block_device()) {
        eprintln!("SKIPPED: the running root is not on a device that can be seen here ({source})");
        return;
    }
    let scratch = Scratch::new();
    for command in [
        &["inject", &source][..],
        &["inject", &source, "--force"],
        &["recover", &source, "--force"],
        &["scrub", &source, "--force"],
    ] {
        // Whatever goes wrong here: no write of it reaches a disk.
        let run = deaddrop(&scratch, "new", command).tampered("pwrite64,fdatasync,ioctl:error=EPERM").run();
        let words = format!("{source} holds the running system: / is on it");
        run.expect_refusal(&command.join(" "), 1, &[&words, "hint: a running root is a directory"]);
        let log = fs::read_to_string(scratch.join("tampering.log")).unwrap();
        assert!(log.contains(&format!("\"{source}\"")), "strace saw nothing");
        assert_eq!(opened_to_write(&log, &source), Vec::<String>::new());
        assert!(!log.contains(" pwrite"), "it wrote");
    }
    // The judge of this test.
    let line = "1 openat(AT_FDCWD, \"/dev/x\", O_RDWR|O_EXCL) = 3";
    assert_eq!(opened_to_write(line, "/dev/x"), [line]);
}

#[test]
fn a_device_that_is_read_only_is_refused_by_name_and_read() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let before = sha256_of(&path);
    let device = Loop::with(&path, &["--read-only"]);
    for command in
        [&["inject", &device.0][..], &["inject", &device.0, "--force"], &["recover", &device.0], &["scrub", &device.0]]
    {
        let words = format!("{} is a read-only device", device.0);
        deaddrop(&scratch, "new", command).run().expect_refusal("read-only", 1, &[&words, "blockdev --setrw"]);
    }
    deaddrop(&scratch, "new", &["plan", &device.0]).run().expect_code(0);
    deaddrop(&scratch, "old", &["verify", &device.0]).run().expect_code(0);
    deaddrop(&scratch, "new", &["inspect", &device.0]).run().expect_code(0);
    assert_eq!(sha256_of(&path), before);
}

#[test]
fn what_only_reads_never_opens_a_device_to_write() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let device = Loop::new(disk(&scratch, "-t ext4"));
    for command in [&["plan", &device.0][..], &["verify", &device.0], &["inspect", &device.0]] {
        let run = deaddrop(&scratch, "new", command).traced("%file,%desc").run();
        let log: Vec<&str> = run.trace().lines().collect();
        assert_eq!(opened_to_write(&log.join("\n"), &device.0), Vec::<String>::new(), "{command:?}");
        assert!(run.trace().calls("pwrite64").is_empty(), "{command:?}");
    }
}
