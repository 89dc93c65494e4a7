//! An image that was made to harm, as far as names and kinds of files go: nothing outside changes, no device is opened,
//! no set-id file is kept, and no run takes long. What the kernel's own readers do with a hostile file system is the
//! kernel's.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::machine::{BTRFS, Disk, EXT4, System, XFS, assert_nothing_left, deaddrop, is_version};
use crate::kit::Scratch;
use crate::kit::files::fingerprint;
use crate::kit::run::Finished;
use crate::kit::tree::Tree;

const SYSTEMS: [System; 3] = [BTRFS, XFS, EXT4];

/// Panics if a traced run opened a device that is not its own loop device, or followed anything out of the mount.
#[track_caller]
fn assert_only_loop_devices(done: &Finished, what: &str) {
    for call in ["open", "openat", "openat2"].iter().flat_map(|name| done.trace().calls(name)) {
        // Made and opened by the program's own name; `-y` shows what a descriptor is.
        let known = ["/dev/loop-control", "/dev/btrfs-control", "/dev/null", "/dev/tty", "/dev/urandom"];
        let is_loop = |path: &str| path.starts_with("/dev/loop") && path[9..].bytes().all(|byte| byte.is_ascii_digit());
        for word in call.split(['"', '<', '>']).filter(|word| word.starts_with("/dev/")) {
            assert!(known.contains(&word) || is_loop(word), "{what}: {call}");
        }
    }
}

#[test]
fn links_out_of_the_root_lead_nowhere() {
    for system in SYSTEMS.into_iter().filter(|system| system.is_here()) {
        for (name, link, target) in [
            ("absolute", "etc/secrets", "OUTSIDE"),
            ("through proc", "etc/secrets", "/proc/self/root/OUTSIDE"),
            ("by ..", "etc/secrets", "../../../../../../../../../../OUTSIDE"),
            ("a parent", "var/lib", "OUTSIDE"),
            ("through a descriptor", "etc/secrets", "/proc/self/fd/5"),
            ("to itself", "etc/secrets", "secrets"),
        ] {
            if system != BTRFS && !["absolute", "through proc"].contains(&name) {
                continue;
            }
            let what = format!("{} {name}", system.kind);
            let scratch = Scratch::new();
            let outside = scratch.join("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("small"), "theirs").unwrap();
            let disk = Disk::filled(&scratch, system, &|root| {
                fs::remove_dir_all(root.join(link)).unwrap();
                let target = target.replace("/OUTSIDE", "OUTSIDE").replace("OUTSIDE", outside.to_str().unwrap());
                symlink(target, root.join(link)).unwrap();
            });
            let before = (Tree::of_directory(&outside), fingerprint(&disk.path));
            for destination in [&["--in-place"][..], &["-o", "out.img"]] {
                let args = [&["inject", "disk.img", "--backend", "mount"], destination].concat();
                let done = deaddrop(&scratch, "new", &args).traced("%file,openat2,mkdirat,linkat").run();
                assert_only_loop_devices(&done, &what);
                let leaves = |line: &str| line.contains("open") && line.contains("/proc/self/root");
                assert!(!done.trace().lines().any(leaves), "{what}");
                done.expect_refusal(&what, 1, &["NX010", "symbolic link"]);
            }
            assert!(before.0 == Tree::of_directory(&outside), "{what}: something outside changed");
            assert!(before.1 == fingerprint(&disk.path), "{what}: written to, and refused");
            assert_nothing_left(&scratch, &["disk.img", "outside"]);
        }
    }
}

#[test]
fn devices_fifos_and_sockets_are_never_opened() {
    for system in SYSTEMS.into_iter().filter(|system| system.is_here()) {
        let (last, last_kind) = if system == EXT4 { ("a socket", SFlag::S_IFSOCK) } else { ("a FIFO", SFlag::S_IFIFO) };
        let kinds = [
            ("etc/secrets/small", "a block device", SFlag::S_IFBLK, makedev(7, 0)),
            ("etc/secrets/large", "a character device", SFlag::S_IFCHR, makedev(1, 5)),
            ("var/lib/new/new", last, last_kind, 0),
        ];
        let scratch = Scratch::new();
        let disk = Disk::filled(&scratch, system, &|root| {
            fs::create_dir(root.join("var/lib/new")).unwrap();
            for (path, _, kind, device) in kinds {
                let _ = fs::remove_file(root.join(path));
                mknod(&root.join(path), kind, Mode::from_bits_truncate(0o666), device).unwrap();
            }
        });
        let before = fingerprint(&disk.path);
        for command in [&["plan", "disk.img"][..], &["inject", "disk.img", "--in-place"]] {
            let args = [command, &["--backend", "mount"]].concat();
            let done = deaddrop(&scratch, "new", &args).limited().traced("%file,openat2").run();
            assert_only_loop_devices(&done, system.kind);
            for (path, name, ..) in kinds {
                let last = format!("\"{}\"", path.rsplit('/').next().unwrap());
                let in_mount = |line: &&str| line.contains("openat2(") && line.contains(&last);
                let calls: Vec<&str> = done.trace().lines().filter(in_mount).collect();
                let only_looked_at = calls.iter().all(|call| call.contains("O_PATH"));
                assert!(only_looked_at && (!calls.is_empty() || path.starts_with("var")), "{name}: {calls:?}");
            }
            let said = kinds.map(|(path, name, ..)| format!("/{path} is {name}"));
            done.expect_refusal(system.kind, 1, &said.each_ref().map(String::as_str));
        }
        assert!(before == fingerprint(&disk.path), "{}", system.kind);
    }
}

#[test]
fn a_set_id_file_where_a_path_leads_is_replaced_by_one_without() {
    for system in SYSTEMS.into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = Disk::filled(&scratch, system, &|root| {
            let path = root.join("etc/secrets/small");
            fs::set_permissions(path, fs::Permissions::from_mode(0o6755)).unwrap();
            fs::set_permissions(root.join("var/lib"), fs::Permissions::from_mode(0o2777)).unwrap();
        });
        deaddrop(&scratch, "new", &["inject", "disk.img", "--backend", "mount", "--in-place"]).run().expect_code(0);
        let tree = disk.tree();
        assert!(is_version(&tree, "new"), "{}", system.kind);
        assert_eq!(
            (tree.at("/var/lib/new").mode, tree.at("/var/lib/new").gid),
            (0o711, 0),
            "not what its parent has set"
        );
    }
}

#[test]
fn a_superblock_that_names_another_device_is_refused_before_it_is_mounted() {
    for (system, at, bytes, want) in [
        (
            EXT4,
            1024 + 0x200,
            &b"journal_path=/dev/loop0"[..],
            "ext4 whose superblock has mount options for its journal",
        ),
        // s_journal_inum and s_journal_dev.
        (EXT4, 1024 + 0xE0, &[0, 0, 0, 0, 0, 7, 0, 0], "ext4 with an external journal"),
        // num_devices.
        (BTRFS, 0x10088, &[2], "a btrfs that lies on 2 devices"),
        // sb_logstart.
        (XFS, 48, &[0; 8], "an xfs whose log lies on another device"),
    ] {
        if !system.is_here() {
            continue;
        }
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, system);
        let file = fs::OpenOptions::new().write(true).open(&disk.path).unwrap();
        file.write_all_at(bytes, disk.offset + at).unwrap();
        for command in [&["plan", "disk.img"][..], &["inject", "disk.img", "-o", "out.img"]] {
            let args = [command, &["--backend", "mount"]].concat();
            let done = deaddrop(&scratch, "new", &args).traced("fsopen,ioctl").run();
            assert!(done.trace().calls("fsopen").is_empty(), "{want}: it was mounted");
            done.expect_refusal(want, 1, &[want]);
        }
        assert_nothing_left(&scratch, &["disk.img"]);
    }
}

#[test]
fn many_files_cost_nothing() {
    // Two million of them, made by hand, are in docs/mount.md.
    const FILES: usize = 60_000;
    for system in [XFS, EXT4].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let system = System { options: if system == EXT4 { "-N 80000" } else { "" }, ..system };
        Disk::filled(&scratch, system, &|root| {
            for number in 0..FILES {
                let directory = root.join(format!("nix/store/{}", number / 1000));
                if number % 1000 == 0 {
                    fs::create_dir(&directory).unwrap();
                }
                fs::File::create_new(directory.join(number.to_string())).unwrap();
            }
        });
        for destination in [&["--in-place"][..], &["-o", "out.img"]] {
            let args = [&["inject", "disk.img", "--backend", "mount"], destination].concat();
            deaddrop(&scratch, "new", &args).limited().run().expect_code(0);
        }
        assert_nothing_left(&scratch, &["disk.img", "out.img"]);
    }
}
