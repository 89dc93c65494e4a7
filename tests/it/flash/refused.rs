//! What is refused before anything is written, and with which words.

use std::fs;
use std::process::Command;

use super::{Case, OLD, is_all};
use crate::kit::disk::sfdisk;
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::mount::Mount;
use crate::kit::{program, tool};

#[test]
fn each_refusal_says_what_why_and_what_to_do() {
    let case = Case::small();
    case.file("device", 28 << 20);
    case.file("short", 8 << 20);
    fs::create_dir(case.scratch.join("directory")).unwrap();
    case.scratch.write("text", "no image, whatever its suffix\n".repeat(1000));
    tool(
        Command::new("tar")
            .arg("-C")
            .arg(case.scratch.path())
            .arg("-cf")
            .arg(case.scratch.join("root.tar"))
            .arg("text"),
    );
    let reviewed = [
        (
            ["small.img", "missing"],
            "error: missing: nothing was changed\n  cause: missing: there is no such file\nhint: name an image file, or a \
             block device\n",
        ),
        (
            ["small.img", "small.img"],
            "error: small.img: nothing was changed\n  cause: small.img is the image itself: writing the one would \
             damage the other\nhint: name the device that it is to be written to\n",
        ),
        (
            ["small.img", "directory"],
            "error: directory: nothing was changed\n  cause: directory is a directory, not a disk image\nhint: name an \
             image file, or a block device\n",
        ),
        (
            ["small.img", "short"],
            "error: short: nothing was changed\n  cause: small.img does not fit: it has 25165824 bytes (24 MiB), and short \
             has 8388608 (8 MiB)\nhint: take a larger one\n",
        ),
        (
            ["directory", "device"],
            "error: device: nothing was changed\n  cause: directory is a directory, and a device takes the image of a \
             disk\nhint: build a disk image: raw, qcow2, compressed or not\n",
        ),
        (
            ["root.tar", "device"],
            "error: device: nothing was changed\n  cause: root.tar is a tar with a root file system, and a device takes \
             the image of a disk\nhint: build a disk image: raw, qcow2, compressed or not\n",
        ),
        (
            ["text", "device"],
            "error: text: no root found: no Linux file system\n  -    29.2 KiB  whole disk             -\nhint: is this the \
             image of a NixOS system? (if a partition is encrypted or damaged, nothing can be told of it)\n",
        ),
    ];
    for ([image, device], want) in reviewed {
        let run = case.flash(image, device).run().expect_code(1);
        assert_eq!(run.stderr(), want, "{image} {device}");
    }
    assert!(is_all(&fs::read(case.scratch.join("device")).unwrap(), OLD));
    // In a compression: before the first byte is written.
    let packed = crate::kit::disk::zstd(&case.scratch.join("text"));
    let run = case.flash("text.zst", "device").run();
    run.expect_refusal("text", 1, &["text.zst (decompressed) is no disk image", "device: nothing was changed"]);
    fs::write(&packed, &fs::read(&packed).unwrap()[..12]).unwrap();
    case.flash("text.zst", "device").run().expect_refusal("cut", 1, &["nothing comes out of its zstd data"]);
    assert!(is_all(&fs::read(case.scratch.join("device")).unwrap(), OLD));
    for args in [&["flash", "small.img"][..], &["flash", "--only-inject"], &["flash", "a", "b", "--only-inject"]] {
        case.deaddrop(args).run().expect_refusal("usage", 2, &["hint: deaddrop flash "]);
    }
}

#[test]
fn without_the_right_the_way_to_it_is_said() {
    if !has_loop_devices() {
        return;
    }
    let case = Case::small();
    case.scratch.give_to(crate::kit::run::NOBODY);
    let device = Loop::new(case.file("file", 28 << 20));
    let run = case.flash("small.img", &device.0).unprivileged().run();
    run.expect_refusal("nobody", 1, &["Permission denied", "run it as root, or as a member of the device's group"]);
}

#[test]
fn an_image_that_is_shorter_than_its_table_needs_the_room_of_the_table() {
    let case = Case::small();
    let whole = fs::read(case.scratch.join("small.img")).unwrap();
    case.scratch.write("short.img", &whole[..20 << 20]);
    let device = case.file("device", 22 << 20);
    for more in [&[][..], &["--fix-gpt"]] {
        let run = case.flash("short.img", "device").args(more).run();
        run.expect_refusal("short", 1, &["it has 25165824 bytes", "take a larger one"]);
    }
    // A stream that ends before the table is whole.
    let image = case.scratch.join("small.img");
    crate::kit::disk::poke(&image, 100 << 10, &crate::kit::disk::noise(800 << 10));
    let packed = fs::read(crate::kit::disk::zstd(&image)).unwrap();
    case.scratch.write("cut.img.zst", &packed[..400 << 10]);
    case.file("device", 28 << 20);
    let run = case.flash("cut.img.zst", "device").run();
    run.expect_refusal("cut", 1, &["cut.img.zst ends, or is damaged, after the first"]);
    assert!(is_all(&fs::read(&device).unwrap(), OLD));
}

#[test]
fn a_plan_that_is_refused_leaves_the_device_as_it_is() {
    let case = Case::small();
    let device = case.file("device", 28 << 20);
    case.scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets:\n  token: { path: /etc/secrets/token, from: env:A, owner: nobody-here }\nhosts: { node1: \
         {} }\n",
    );
    case.flash("small.img", "device").run().expect_refusal("owner", 1, &["nobody-here"]);
    assert!(is_all(&fs::read(&device).unwrap(), OLD));
    // Out of a stream it is known later: then there is no table.
    crate::kit::disk::zstd(&case.scratch.join("small.img"));
    let run = case.flash("small.img.zst", "device").run().expect_code(5);
    run.expect_error("nobody-here").expect_error("device holds no partition table now").expect_error("run the same");
    super::assert_no_table(&device, "stream");
}

#[test]
fn an_image_that_changes_while_it_is_written_leaves_no_table() {
    let case = Case::small();
    let device = case.file("device", 28 << 20);
    // The run stands still at its third write for as long as another program writes to the image.
    let image = case.scratch.join("small.img");
    let writer = std::thread::spawn(move || {
        for round in 0..40_u8 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            crate::kit::disk::poke(&image, 3 << 20, &[round]);
        }
    });
    let run = case.flash("small.img", "device").tampered("pwrite64:delay_enter=1000000:when=3").run().expect_code(5);
    run.expect_error("small.img was changed by somebody else").expect_error("device holds no partition table now");
    writer.join().unwrap();
    super::assert_no_table(&device, "changed");
}

#[test]
fn a_device_in_use_is_refused_and_force_does_not_help() {
    if !has_loop_devices() {
        return;
    }
    let case = Case::small();
    let file = case.file("file", 28 << 20);
    let device = Loop::new(&file);
    let refused = |force: &[&str], texts: &[&str]| {
        case.flash("small.img", &device.0).args(force).run().expect_refusal(texts[0], 1, texts);
    };
    tool(Command::new(program("mkfs.ext4")).args(["-q", &device.0]));
    let mounted = Mount::with(device.0.as_ref(), &[]).unwrap();
    let before = fs::read(&file).unwrap();
    for force in [&[][..], &["--force"]] {
        refused(force, &["is mounted at ", "unmount it, or detach what uses it"]);
    }
    assert!(fs::read(&file).unwrap() == before);
    drop(mounted);
    let other = Loop::new(&device.0);
    refused(&["--force"], &["is attached to /dev/loop", "unmount it"]);
    drop(other);
    // The image behind the device, the device behind the image, and a partition of the device.
    let words = "and the image are on the same disk, or file: writing the one would damage the other";
    let own = Loop::new(case.scratch.join("small.img"));
    case.flash("small.img", &own.0).args(["--force"]).run().expect_refusal("behind", 1, &[words]);
    case.flash(&own.0, "small.img").args(["--force"]).run().expect_refusal("over", 1, &[words]);
    let partition = own.second_partition();
    case.flash(&partition, &own.0).args(["--force"]).run().expect_refusal("a partition", 1, &[words]);
    // A file that is attached, as a device.
    case.scratch.write("other.img", fs::read(case.scratch.join("small.img")).unwrap());
    let texts = ["small.img is attached to /dev/loop", "unmount it, or detach what uses it"];
    case.flash("other.img", "small.img").args(["--force"]).run().expect_refusal("attached", 1, &texts);
    drop(own);
    tool(Command::new(program("blockdev")).args(["--setro", &device.0]));
    let said = case.flash("small.img", &device.0).args(["--force"]).run();
    // The kernel keeps it for the next file behind this device.
    tool(Command::new(program("blockdev")).args(["--setrw", &device.0]));
    said.expect_refusal("read-only", 1, &["is a read-only device"]);
}

#[test]
fn a_partition_and_other_sectors_are_refused() {
    if !has_loop_devices() {
        return;
    }
    let case = Case::small();
    let file = case.file("file", 80 << 20);
    sfdisk(&file, "label: gpt\n start=2048, size=2048\n start=6144, size=110000\n");
    let device = Loop::new(&file);
    let partition = device.second_partition();
    let before = fs::read(&file).unwrap();
    let texts = ["is a partition, and an image is written to a whole disk", "--force writes to the partition"];
    case.flash("small.img", &partition).run().expect_refusal("partition", 1, &texts);
    assert!(fs::read(&file).unwrap() == before);
    case.flash("small.img", &partition).args(["--force"]).run().expect_code(0);
    drop(device);
    let device = Loop::with(&file, &["--sector-size", "4096"]);
    let texts = ["counts in sectors of 512 bytes, and", "has sectors of 4096", "build the image for that sector size"];
    for image in ["small.img", "small.img.zst"] {
        crate::kit::disk::zstd(&case.scratch.join("small.img"));
        case.flash(image, &device.0).run().expect_refusal(image, 1, &texts);
    }
    let legacy = crate::kit::images::SD.committed(&case.scratch).path;
    case.flash(legacy.to_str().unwrap(), &device.0).run().expect_refusal("MBR", 1, &texts);
}

#[test]
fn without_a_device_those_are_listed_that_could_be_meant() {
    if !has_loop_devices() {
        return;
    }
    let case = Case::small();
    let device = Loop::new(case.file("file", 28 << 20));
    let run = case.deaddrop(&["flash"]).run().expect_code(0);
    let line = run.stdout().lines().find(|line| line.starts_with(&format!("{} ", device.0))).map(str::to_owned);
    let line = line.unwrap_or_else(|| panic!("{} is not listed:\n{}", device.0, run.stdout()));
    assert!(line.contains("28 MiB, over ") && line.ends_with("/file"), "{line}");
    let json = case.deaddrop(&["flash", "--json"]).run().expect_code(0).json();
    assert_eq!(json["command"], "flash");
    let devices = json["devices"].as_array().unwrap();
    assert!(devices.iter().any(|entry| entry["device"] == device.0.as_str() && entry["in_use"].is_null()));
}
