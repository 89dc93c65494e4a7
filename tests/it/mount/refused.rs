//! What is refused, by name and with what to do.

use std::fs;

use super::machine::{BTRFS, Disk, EXT4, XFS, assert_nothing_left, deaddrop};
use crate::kit::Scratch;
use crate::kit::files::fingerprint;

#[test]
fn without_the_back_end_btrfs_and_xfs_are_refused_by_name_with_the_way() {
    for system in [BTRFS, XFS].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, system);
        let before = fingerprint(&disk.path);
        for command in ["plan", "inject", "verify", "recover", "scrub"] {
            let run = deaddrop(&scratch, "new", &[command, "disk.img"]).run();
            let want = format!("{} cannot be written", system.kind);
            run.expect_refusal(command, 1, &[&want, "--backend mount", "as root"]);
        }
        assert_eq!(fingerprint(&disk.path), before);
    }
}

#[test]
fn in_place_must_be_asked_for_and_the_reason_is_said() {
    if !EXT4.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, EXT4);
    let before = fingerprint(&disk.path);
    let done = deaddrop(&scratch, "new", &["inject", "disk.img", "--backend", "mount"]).run();
    let want =
        ["the kernel writes as it goes", "some files new and some old", "-o OUT", "--in-place", "nothing was changed"];
    done.expect_refusal("without either", 1, &want);
    assert_eq!(fingerprint(&disk.path), before);
    deaddrop(&scratch, "new", &["inject", "disk.img", "--in-place", "-o", "out.img"]).run().expect_code(2);
    deaddrop(&scratch, "new", &["inject", "disk.img", "--in-place"]).run().expect_code(0);
}

#[test]
fn who_is_not_root_is_told_what_to_do() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, BTRFS);
    let before = fingerprint(&disk.path);
    scratch.give_to(crate::kit::run::NOBODY);
    for command in [&["plan", "disk.img"][..], &["verify", "disk.img"], &["inject", "disk.img", "-o", "out.img"]] {
        let args = [command, &["--backend", "mount"]].concat();
        let done = deaddrop(&scratch, "new", &args).unprivileged().run();
        done.expect_refusal(command[0], 1, &["which only root may do", "sudo", "an ext4 is written without root"]);
    }
    assert_eq!(fingerprint(&disk.path).digest, before.digest);
    assert_nothing_left(&scratch, &["disk.img"]);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    if !EXT4.is_here() {
        return;
    }
    let scratch = Scratch::new();
    Disk::new(&scratch, EXT4);
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    for (args, want) in [
        (&["plan", "disk.img", "--subvolume", "@"][..], "--subvolume is for btrfs, which the kernel writes"),
        (&["plan", "disk.img", "--subvolume", "@", "--backend", "mount"], "--subvolume is for btrfs, and the root is"),
        (&["plan", "root", "--backend", "mount"], "--backend mount is for images, and this is a directory"),
        (&["inject", "root", "--backend", "mount"], "--backend mount is for images, and this is a directory"),
        (&["plan", "root", "--subvolume", "@"], "--subvolume is for images, and this is a directory"),
        (
            &["inject", "disk.img", "--backend", "mount", "--in-place", "--undo", "tmp"],
            "--undo is for the native back end",
        ),
    ] {
        deaddrop(&scratch, "new", args).run().expect_refusal(want, 1, &[want, "hint: "]);
    }
    deaddrop(&scratch, "new", &["plan", "disk.img", "--backend", "fuse"]).run().expect_code(2);
}

#[test]
fn what_the_kernel_does_not_have_is_said_by_name() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, BTRFS);
    let before = fingerprint(&disk.path);
    for (tampering, want) in [
        ("fsopen:error=ENODEV", &["this kernel does not have btrfs", "modprobe btrfs"][..]),
        ("fsopen:error=ENOSYS", &["this kernel has no fsopen(2)", "Linux 5.8"]),
        ("fsopen:error=EPERM", &["mounting a btrfs: Operation not permitted", "--privileged"]),
        ("fsmount:error=EPERM", &["mounting a btrfs: Operation not permitted", "CAP_SYS_ADMIN"]),
        ("fsconfig:error=EINVAL:when=2", &["the kernel's btrfs does not take the mount option ro: Invalid argument"]),
        ("fsconfig:error=EUCLEAN:when=3", &["the kernel does not mount partition 2 (btrfs, nixos)", "dmesg"]),
        ("fsconfig:error=EEXIST:when=3", &["a btrfs with the same UUID is mounted", "Linux 6.7"]),
    ] {
        for command in [&["plan", "disk.img"][..], &["inject", "disk.img", "-o", "out.img"]] {
            let args = [command, &["--backend", "mount"]].concat();
            deaddrop(&scratch, "new", &args).tampered(tampering).run().expect_refusal(tampering, 1, want);
            assert_nothing_left(&scratch, &["disk.img"]);
        }
    }
    assert_eq!(fingerprint(&disk.path), before);
    // Before Linux 5.14 there was no `nosymfollow`, and what cannot do direct I/O goes through the page cache.
    for tampering in ["fsmount:error=EINVAL:when=1", "ioctl:error=EINVAL:when=2", "ioctl:error=EBUSY:when=2"] {
        let args = ["plan", "disk.img", "--backend", "mount"];
        let tried = (0..50).any(|_| {
            let run = deaddrop(&scratch, "new", &args).tampered(tampering).run();
            let log = fs::read_to_string(scratch.join("tampering.log")).unwrap();
            let injected = log.lines().find(|line| line.contains("INJECTED")).expect("strace tampers with a call");
            // Another test took the device that was free, and the second call asks for another one.
            let meant = !injected.contains("LOOP_CTL_GET_FREE");
            if meant {
                run.expect_code(0);
            }
            meant
        });
        assert!(tried, "{tampering}: no loop device was ours at once");
    }
}

#[test]
fn a_plan_judges_what_can_be_read_and_says_that_this_is_all() {
    for system in [BTRFS, XFS, EXT4].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, system);
        let plan = ["plan", "disk.img", "--backend", "mount"];
        let before = fingerprint(&disk.path);
        deaddrop(&scratch, "new", &plan).run().expect_code(0).expect_output("Judged as far as can be told by reading");
        let quick = [&plan[..], &["--quick"]].concat();
        assert!(!deaddrop(&scratch, "new", &quick).run().expect_code(0).stdout().contains("Judged"));
        assert_eq!(fingerprint(&disk.path), before);
        let immutable = |root: &std::path::Path| {
            crate::kit::tool(std::process::Command::new("chattr").arg("+i").arg(root.join("etc/secrets")));
        };
        let scratch = Scratch::new();
        Disk::filled(&scratch, system, &immutable);
        let run = deaddrop(&scratch, "new", &plan).run().expect_code(1).expect_output("/etc/secrets/small");
        run.expect_error("/etc/secrets is immutable").expect_error("chattr -i");
        assert_eq!(deaddrop(&scratch, "new", &[&plan[..], &["--json"]].concat()).run().expect_code(1).stdout(), "");
        deaddrop(&scratch, "new", &quick).run().expect_code(0);
        assert_nothing_left(&scratch, &["disk.img"]);
    }
}
