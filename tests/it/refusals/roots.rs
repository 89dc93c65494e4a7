//! A root that is none, or not alone: where the values would be lost to a partition that nobody boots, or to one half
//! of something. And what is cut off by its table, but not by its file system.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{MIB, disk, small_root};
use crate::kit::canary::Canary;
use crate::kit::images::Image;
use crate::kit::mount::{Mount, assert_fsck_clean, debugfs_write};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, sha256_of, tool};

/// An ext4 of `size` bytes with these directories.
fn file_system(scratch: &Scratch, name: &str, size: u64, label: &str, directories: &[&str]) -> PathBuf {
    let tree = scratch.join("tree");
    fs::create_dir(&tree).unwrap();
    directories.iter().for_each(|directory| fs::create_dir_all(tree.join(directory)).unwrap());
    let path = scratch.join(name);
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", label, "-E", "root_owner=0:0", "-d"]).arg(&tree);
    tool(mke2fs.arg(&path).arg(format!("{}k", size / 1024)));
    fs::remove_dir_all(tree).unwrap();
    path
}

fn run<'s>(scratch: &'s Scratch, value: &Canary, args: &[&str]) -> Deaddrop<'s> {
    scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n");
    Deaddrop::new(scratch).args(args).env("A", value.text()).plant(value)
}

/// All commands refuse `image` with these texts, and it is as before.
#[track_caller]
fn refused(scratch: &Scratch, image: &str, more: &[&str], texts: &[&str]) {
    let (value, before) = (Canary::new("a"), sha256_of(&scratch.join(image)));
    for command in ["plan", "inject", "verify"] {
        let args = [&[command, image][..], more].concat();
        run(scratch, &value, &args).run().expect_refusal(command, 1, texts);
    }
    assert_eq!(sha256_of(&scratch.join(image)), before, "{image}");
}

/// A boot partition of 8 MiB from 1 MiB on, and a root of 8 MiB from 10 MiB on, of these types.
fn boot_and_root(path: &Path, types: [&str; 2], contents: &[(u64, &Path)]) {
    let [boot, root] = types;
    let table = format!("label: gpt\n start=2048, size=16384, type={boot}\n start=20480, size=16384, type={root}\n");
    disk(path, 20 * MIB, &table, contents);
}

const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const EXTENDED_BOOT: &str = "BC13C2FF-59E6-4262-A352-B275FD6F7172";
const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

#[test]
fn a_boot_partition_is_not_taken_for_the_root() {
    let scratch = Scratch::new();
    let boot = file_system(&scratch, "boot.ext4", 8 * MIB, "boot", &["grub"]);
    let root = file_system(&scratch, "root.ext4", 8 * MIB, "root", &["etc", "usr"]);
    let noise = scratch.write("noise", vec![0xA5; 1 << 20]);
    let path = scratch.join("d.img");

    boot_and_root(&path, [LINUX, LINUX], &[(MIB, &boot), (10 * MIB, &root)]);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10 * MIB).unwrap();
    refused(&scratch, "d.img", &[], &["no root found: 2 partitions may hold it", "--root-partition"]);

    boot_and_root(&path, [LINUX, LINUX], &[(MIB, &boot), (10 * MIB, &noise)]);
    refused(&scratch, "d.img", &[], &["no root found: 2 partitions may hold it"]);
    boot_and_root(&path, [EXTENDED_BOOT, ROOT], &[(MIB, &boot), (10 * MIB, &noise)]);
    refused(&scratch, "d.img", &[], &["partition 2 holds no file system that is known"]);
    boot_and_root(&path, [EXTENDED_BOOT, LINUX], &[(MIB, &boot), (10 * MIB, &noise)]);
    refused(&scratch, "d.img", &[], &["partition 2 holds no file system that is known"]);

    // Whoever reads it, the rules are the same.
    let kernel = crate::kit::is_root() && Mount::try_read_only(&Image::new(&root, 0)).is_ok();
    let through_kernel = |texts: &[&str]| {
        let args = ["inject", "d.img", "--backend", "mount", "-o", "out.img"];
        if kernel {
            run(&scratch, &Canary::new("a"), &args).run().expect_refusal("a mount", 1, texts);
        }
    };
    through_kernel(&["partition 2 holds no file system that is known"]);

    // Alone, but no root.
    boot_and_root(&path, [LINUX, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"], &[(MIB, &boot), (10 * MIB, &noise)]);
    refused(&scratch, "d.img", &[], &["partition 1 (ext4, boot)", "does not look like a root", "--root-partition 1"]);
    through_kernel(&["does not look like a root", "--root-partition 1"]);
    let value = Canary::new("a");
    run(&scratch, &value, &["inject", "d.img", "--root-partition", "1"]).run().expect_code(0);
}

#[test]
fn the_type_of_a_root_decides_where_no_label_and_no_store_does() {
    let scratch = Scratch::new();
    let boot = file_system(&scratch, "boot.ext4", 8 * MIB, "BOOT", &["grub"]);
    let root = file_system(&scratch, "root.ext4", 8 * MIB, "cloudimg-rootfs", &["etc", "usr/bin"]);
    let path = scratch.join("d.img");
    boot_and_root(&path, [LINUX, ROOT], &[(MIB, &boot), (10 * MIB, &root)]);
    let value = Canary::new("a");
    let done = run(&scratch, &value, &["inject", "d.img", "-v"]).run().expect_code(0);
    assert!(done.stderr().contains("partition 2 (ext4, cloudimg-rootfs), the only one with the type of a root"));
    assert_fsck_clean(&Image::new(&path, 10 * MIB));
    let inspect = run(&scratch, &value, &["inspect", "d.img", "--json"]).run().expect_code(0).json();
    assert_eq!(inspect["root"]["partition"], 2);
    assert_eq!(inspect["root"]["reason"], "the only one with the type of a root");
    // A type is no reason to write to what is no root.
    boot_and_root(&path, [LINUX, ROOT], &[(10 * MIB, &boot)]);
    refused(&scratch, "d.img", &[], &["does not look like a root"]);
}

#[test]
fn a_feature_is_named_before_the_look_of_a_root_is_judged() {
    let scratch = Scratch::new();
    let path = scratch.join("boot.ext4");
    tool(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-O", "bigalloc"]).arg(&path).arg("8M"));
    boot_and_root(&scratch.join("d.img"), ["C12A7328-F81F-11D2-BA4B-00A0C93EC93B", LINUX], &[(10 * MIB, &path)]);
    refused(&scratch, "d.img", &[], &["ext4 feature `bigalloc`"]);
}

#[test]
fn of_an_image_that_is_a_file_system_it_is_only_said_that_it_is_no_root() {
    let scratch = Scratch::new();
    file_system(&scratch, "boot.img", 8 * MIB, "boot", &["grub"]);
    let value = Canary::new("a");
    for command in ["plan", "inject", "verify"] {
        // After inject it has /etc, and neither /usr nor /bin.
        let done = run(&scratch, &value, &[command, "boot.img", "--json"]).run().expect_code(0);
        let json = done.json();
        let warning = &json["warnings"][0];
        assert_eq!((&warning["code"], &warning["secret"]), (&Value::from("DD102"), &Value::Null), "{command}: {json}");
        assert!(done.stderr().contains("DD102"), "{command}: {}", done.stderr());
    }
    small_root(&scratch, "root.img", 8 * MIB, "", &[]);
    let done = run(&scratch, &value, &["plan", "root.img", "--json"]).run().expect_code(0);
    assert_eq!(done.json()["warnings"], serde_json::json!([]));
}

#[test]
fn the_physical_root_of_ostree_is_refused_by_its_name_in_an_image_and_in_a_directory() {
    let scratch = Scratch::new();
    let directories = ["ostree/repo", "ostree/deploy/os/deploy/0123abcd.0/etc", "boot"];
    let image = file_system(&scratch, "ostree.img", 8 * MIB, "root", &directories);
    let texts = ["physical root of an OSTree system", "/ostree/deploy", "deployment"];
    refused(&scratch, "ostree.img", &[], &texts);
    boot_and_root(&scratch.join("d.img"), ["C12A7328-F81F-11D2-BA4B-00A0C93EC93B", LINUX], &[(10 * MIB, &image)]);
    refused(&scratch, "d.img", &[], &texts);
    directories.iter().for_each(|path| fs::create_dir_all(scratch.join("root").join(path)).unwrap());
    let value = Canary::new("a");
    let said = run(&scratch, &value, &["inject", "root"]).run().expect_code(1).stderr();
    assert!(texts.iter().all(|text| said.contains(text)), "{said}");
    assert!(!scratch.join("root/etc").exists());
    if crate::kit::is_root() && Mount::try_read_only(&Image::new(&image, 0)).is_ok() {
        let args = ["inject", "ostree.img", "--backend", "mount", "--in-place"];
        run(&scratch, &value, &args).run().expect_refusal("a mount", 1, &texts);
    }
    // With an /etc it is a root like any other.
    fs::create_dir(scratch.join("root/etc")).unwrap();
    run(&scratch, &value, &["inject", "root"]).run().expect_code(0);
}

#[test]
fn a_file_that_is_cut_where_its_file_system_ends_is_written_in_place_and_anew() {
    let scratch = Scratch::new();
    let root = small_root(&scratch, "root.ext4", 8 * MIB, "nixos", &[]);
    let path = scratch.join("d.img");
    // The table says 18 MiB, the file ends behind the 8 MiB of the file system: with it, or a little later.
    for length in [9 * MIB, 9 * MIB + 512 * 3] {
        disk(&path, 20 * MIB, "label: dos\n start=2048, size=36864, type=83\n", &[(MIB, &root)]);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let value = Canary::new("a");
        let inspect = run(&scratch, &value, &["inspect", "d.img", "--json"]).run().expect_code(0).json();
        assert_eq!(inspect["partitions"][0]["problem"], Value::Null, "{inspect}");
        assert!(inspect["table"]["notes"][0].as_str().unwrap().contains("wholly there"), "{inspect}");
        run(&scratch, &value, &["inject", "d.img", "-o", "new.img", "--force"]).run().expect_code(0);
        run(&scratch, &value, &["inject", "d.img"]).run().expect_code(0);
        for name in ["d.img", "new.img"] {
            let image = Image::new(scratch.join(name), MIB);
            assert_eq!(fs::metadata(&image.path).unwrap().len(), length, "{name}");
            assert_fsck_clean(&image);
            run(&scratch, &value, &["verify", name]).run().expect_code(0);
            if crate::kit::is_root()
                && let Ok(mounted) = Mount::try_read_only(&image)
            {
                assert_eq!(fs::read(mounted.at("/etc/secrets/a")).unwrap(), value.text().as_bytes(), "{name}");
            }
        }
    }
    // One block less is a loss.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(9 * MIB - 1024).unwrap();
    refused(&scratch, "d.img", &[], &["cannot be used", "the image is truncated"]);
}

#[test]
fn a_hint_for_a_partition_names_the_command_for_it() {
    let scratch = Scratch::new();
    let root = small_root(&scratch, "root.ext4", 8 * MIB, "nixos", &[]);
    debugfs_write(&Image::new(&root, 0), "set_super_value state 2\n");
    let path = scratch.join("d.img");
    disk(&path, 20 * MIB, "label: dos\n start=2048, size=36864, type=83\n", &[(MIB, &root)]);
    let value = Canary::new("a");
    let said = run(&scratch, &value, &["inject", "d.img"]).run().expect_code(1).stderr();
    let command = said.split('`').nth(1).unwrap_or_else(|| panic!("{said}")).to_owned();
    assert_eq!(command, "e2fsck -p -f 'd.img?offset=1048576'");
    let inspect = run(&scratch, &value, &["inspect", "d.img"]).run().expect_code(0).stdout();
    assert!(inspect.contains(&command), "{inspect}");
    // It is enough.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &command]).current_dir(scratch.path()).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    assert_eq!(shell.output().unwrap().status.code(), Some(1), "e2fsck has mended it");
    run(&scratch, &value, &["inject", "d.img"]).run().expect_code(0);
    assert_fsck_clean(&Image::new(&path, MIB));
}

#[test]
fn a_root_beside_hashes_of_one_is_refused_unless_it_is_named() {
    const ROOT_VERITY: &str = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5";
    const USR_VERITY: &str = "77FF5F63-E7B6-4633-ACF4-1565B864C0E6";
    let scratch = Scratch::new();
    let root = small_root(&scratch, "root.ext4", 8 * MIB, "nixos", &[]);
    // cryptsetup, lib/verity/verity.c, `struct verity_sb`.
    let hashes = scratch.write("hashes", b"verity\0\0\x01\0\0\0");
    let nothing = scratch.write("nothing", b"");
    let path = scratch.join("d.img");
    let value = Canary::new("a");
    for (kind, content, is_refused) in [
        (ROOT_VERITY, &hashes, true),
        (ROOT_VERITY, &nothing, true),
        (LINUX, &hashes, true),
        (USR_VERITY, &hashes, false),
    ] {
        boot_and_root(&path, [kind, ROOT], &[(MIB, content), (10 * MIB, &root)]);
        if is_refused {
            let texts = ["partition 2 (ext4, nixos) is beside partition 1", "dm-verity", "--root-partition 2"];
            refused(&scratch, "d.img", &[], &texts);
        } else {
            run(&scratch, &value, &["plan", "d.img"]).run().expect_code(0);
        }
        run(&scratch, &value, &["plan", "d.img", "--root-partition", "2"]).run().expect_code(0);
    }
    boot_and_root(&path, [LINUX, LINUX], &[(10 * MIB, &hashes)]);
    refused(&scratch, "d.img", &["--root-partition", "2"], &["dm-verity cannot be written", "without dm-verity"]);
}
