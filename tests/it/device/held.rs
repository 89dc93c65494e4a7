//! Who has the image in hands: it is refused in place, read and copied all the same, and --force writes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use deaddrop_image::open::holders::refuse_holders;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::machine::{Mounted, deaddrop, disk};
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::{Scratch, program, sha256_of};

/// Asserts that `inject`, `recover` and `scrub` on `image` are refused with these words and change nothing (a device
/// also with --force), and that plan and -o still work.
fn assert_held(scratch: &Scratch, image: &str, words: &str) {
    let before = sha256_of(&scratch.join("disk.img"));
    for command in [&["inject", image][..], &["recover", image], &["scrub", image]] {
        deaddrop(scratch, "new", command).run().expect_refusal(words, 1, &[words, "hint: "]);
        if image.starts_with("/dev/") {
            let run = deaddrop(scratch, "new", command).args(["--force"]).run();
            let run = run.expect_refusal("--force", 1, &[words, "hint: unmount it, or detach what uses it"]);
            assert!(!run.stderr().contains("--force"), "{}", run.stderr());
        }
    }
    deaddrop(scratch, "new", &["plan", image]).run().expect_code(0);
    deaddrop(scratch, "new", &["verify", image]).run().expect_code(3);
    deaddrop(scratch, "new", &["inject", image, "-o", "out.img"]).run().expect_code(0);
    fs::remove_file(scratch.join("out.img")).unwrap();
    assert_eq!(sha256_of(&scratch.join("disk.img")), before, "{words}");
}

#[test]
fn two_runs_on_one_image_are_told_apart_by_a_lock_that_force_does_not_override() {
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let words = "disk.img is locked by another process, perhaps another deaddrop";
    let other = File::open(&path).unwrap();
    other.lock_shared().unwrap();
    // Another reader: it may be read, and not written.
    deaddrop(&scratch, "new", &["plan", "disk.img"]).run().expect_code(0);
    deaddrop(&scratch, "new", &["inject", "disk.img"]).run().expect_refusal("reader", 1, &[words, "wait until"]);
    other.unlock().unwrap();
    other.lock().unwrap();
    for command in [&["plan", "disk.img"][..], &["inject", "disk.img"], &["inject", "disk.img", "--force"]] {
        deaddrop(&scratch, "new", command).run().expect_refusal("writer", 1, &[words]);
    }
    other.unlock().unwrap();
    deaddrop(&scratch, "new", &["inject", "disk.img"]).run().expect_code(0);
}

#[test]
fn locks_of_qemu_are_seen_where_qemu_puts_them_and_nowhere_else() {
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let words = "disk.img is open in a virtual machine (qemu's lock is on it)";
    for (byte, held) in [(0, false), (99, false), (100, true), (103, true), (201, true), (299, true), (300, false)] {
        let file = File::open(&path).unwrap();
        let mut lock = nix::libc::flock {
            l_type: nix::libc::F_RDLCK as i16,
            l_whence: nix::libc::SEEK_SET as i16,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        let refused = refuse_holders(&File::open(&path).unwrap(), "disk.img");
        assert_eq!(refused.is_err(), held, "byte {byte}");
        if byte == 100 {
            assert_held(&scratch, "disk.img", words);
            deaddrop(&scratch, "new", &["inject", "disk.img", "--force"]).run().expect_code(0);
        }
        // By hand: a child that another test just started may still hold a copy of the descriptor.
        lock.l_type = nix::libc::F_UNLCK as i16;
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    }
}

#[test]
fn an_image_that_qemu_has_open_is_refused() {
    let scratch = Scratch::new();
    disk(&scratch, "-t ext4");
    let qemu = Command::new("qemu-io")
        .args(["-f", "raw", "disk.img"])
        .current_dir(scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut qemu) = qemu else {
        eprintln!("SKIPPED: there is no qemu-io (Debian package qemu-utils)");
        return;
    };
    // Its answer tells that it has opened the image.
    qemu.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(qemu.stdout.take().unwrap()), &mut answer).unwrap();
    assert!(answer.contains("32 MiB"), "{answer}");
    assert_held(&scratch, "disk.img", "disk.img is open in a virtual machine (qemu's lock is on it)");
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
    deaddrop(&scratch, "new", &["inject", "disk.img"]).run().expect_code(0);
}

#[test]
fn a_file_behind_a_loop_device_is_refused_with_the_place_it_is_mounted_at() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let device = Loop::new(&path);
    assert_held(&scratch, "disk.img", &format!("disk.img is attached to {}: writing to it", device.0));
    fs::hard_link(&path, scratch.join("other-name.img")).unwrap();
    deaddrop(&scratch, "new", &["inject", "other-name.img"]).run().expect_refusal("link", 1, &["is attached to"]);
    {
        let mounted = Mounted::new(&scratch, &device.second_partition(), "ro");
        let place = mounted.place().display().to_string();
        assert_held(&scratch, "disk.img", &format!("disk.img is attached to {} and mounted at {place}", device.0));
    }
    // Nobody writes to it: --force is as good as its word.
    deaddrop(&scratch, "new", &["inject", "disk.img", "--force"]).run().expect_code(0);
    drop(device);
    deaddrop(&scratch, "new", &["verify", "disk.img"]).run().expect_code(0);
}

#[test]
fn a_loop_device_that_goes_with_its_last_close_is_waited_for() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let device = Loop::new(&path);
    // As after umount(8) of a mount with `-o loop`, while udev or another program looks at the device.
    let opened = File::open(&device.0).unwrap();
    let detached = Command::new(program("losetup")).args(["-d", &device.0]).status().unwrap();
    assert!(detached.success());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            drop(opened);
        });
        deaddrop(&scratch, "new", &["inject", "disk.img"]).run().expect_code(0);
    });
}

#[test]
fn a_device_that_is_mounted_is_refused_and_so_is_the_disk_around_it() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let device = Loop::new(&path);
    let partition = device.second_partition();
    {
        let mounted = Mounted::new(&scratch, &partition, "ro");
        let place = mounted.place().display().to_string();
        assert_held(&scratch, &partition, &format!("{partition} is mounted at {place}"));
        assert_held(&scratch, &device.0, &format!("{} is mounted at {place}", device.0));
    }
    // The node of another partition is free.
    {
        let _mounted = Mounted::new(&scratch, &partition, "ro");
        refuse_holders(&File::open(format!("{}p1", device.0)).unwrap(), "p1").unwrap();
    }
    deaddrop(&scratch, "new", &["inject", &partition]).run().expect_code(0);
}

#[test]
fn a_device_that_the_kernel_gives_to_one_only_is_refused() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let device = Loop::new(&path);
    let partition = device.second_partition();
    let holder = File::options().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&partition).unwrap();
    for image in [&partition, &device.0] {
        assert_held(&scratch, image, &format!("{image}, or a part of it, is in use"));
    }
    drop(holder);
    // Another deaddrop holds a lock as well, and that is the better explanation.
    let other = File::options().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&device.0).unwrap();
    other.lock().unwrap();
    let words = "is locked by another process, perhaps another deaddrop";
    deaddrop(&scratch, "old", &["inject", &device.0]).run().expect_refusal("lock", 1, &[words]);
}

#[test]
fn a_device_below_another_loop_device_is_refused() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let device = Loop::new(disk(&scratch, "-t ext4"));
    let above = Loop::with(&device.0, &["--offset", &super::machine::ROOT.to_string()]);
    assert_held(&scratch, &device.0, &format!("{} is attached to {}", device.0, above.0));
    let mounted = Mounted::new(&scratch, &above.0, "ro");
    let place = mounted.place().display();
    assert_held(&scratch, &device.0, &format!("{} is attached to {} and mounted at {place}", device.0, above.0));
}

#[test]
fn a_device_that_is_mounted_in_another_namespace_is_refused() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let device = Loop::new(disk(&scratch, "-t ext4"));
    let partition = device.second_partition();
    let place = scratch.join("elsewhere");
    fs::create_dir(&place).unwrap();
    let mut other = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount \"$0\" \"$1\" && echo mounted && read line", &partition])
        .arg(&place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(other.stdout.take().unwrap()), &mut answer).unwrap();
    assert_eq!(answer, "mounted\n");
    for image in [&device.0, &partition] {
        for command in [&["inject", image][..], &["inject", image, "--force"], &["recover", image], &["scrub", image]] {
            let words = format!("{image}, or a part of it, is in use (mounted elsewhere");
            deaddrop(&scratch, "new", command).run().expect_refusal("namespace", 1, &[&words]);
        }
    }
    drop(other.stdin.take());
    other.wait().unwrap();
    deaddrop(&scratch, "new", &["inject", &device.0]).run().expect_code(0);
}

#[test]
fn a_loop_device_over_a_file_that_is_mounted_by_another_one_is_refused() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let device = Loop::new(&path);
    let twin = Loop::with(&path, &["--offset", &super::machine::ROOT.to_string(), "--sizelimit", "20971520"]);
    let mounted = Mounted::new(&scratch, &twin.0, "ro");
    let words =
        format!("{} is over the same file as {}, which is mounted at {}", device.0, twin.0, mounted.place().display());
    assert_held(&scratch, &device.0, &words);
}

#[test]
fn a_btrfs_is_seen_by_its_devices_name() {
    if !has_loop_devices() || !fs::read_to_string("/proc/filesystems").unwrap().contains("btrfs") {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("btrfs.img");
    File::create_new(&path).unwrap().set_len(128 << 20).unwrap();
    if !Command::new("mkfs.btrfs").arg("-q").arg(&path).output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no mkfs.btrfs");
        return;
    }
    let device = Loop::new(&path);
    let mounted = Mounted::new(&scratch, &device.0, "");
    let error = refuse_holders(&File::open(&device.0).unwrap(), "it").unwrap_err().to_string();
    assert!(error.starts_with(&format!("it is mounted at {}", mounted.place().display())), "{error}");
}
