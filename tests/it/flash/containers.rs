//! Every container, on devices as large as the image, larger and smaller.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Case, assert_good, assert_no_table, assert_written};
use crate::kit::disk::{blank, run};
use crate::kit::files::mode;
use crate::kit::images;
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::{program, tool};

/// Makes a container of a raw image beside it.
fn pack(kind: &str, raw: &Path) -> PathBuf {
    let path = PathBuf::from(format!("{}.{kind}", raw.display()));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    match kind {
        "raw" => drop(fs::copy(raw, &path).unwrap()),
        "qcow2" | "vmdk" | "vhdx" => {
            run("qemu-img", &["convert", "-f", "raw", "-O", kind, &text(raw), &text(&path)]);
        }
        "tar" => {
            let directory = raw.parent().unwrap();
            fs::copy(raw, directory.join("disk.raw")).unwrap();
            tool(
                Command::new("tar")
                    .arg("-C")
                    .arg(directory)
                    .args(["--format=oldgnu", "-cSf"])
                    .arg(&path)
                    .arg("disk.raw"),
            );
        }
        "qcow2.zst" => {
            let inner = pack("qcow2", raw);
            run("zstd", &["-q", "-f", &text(&inner), "-o", &text(&path)]);
        }
        _ => {
            let name = [("zst", "zstd"), ("gz", "gzip"), ("xz", "xz"), ("bz2", "bzip2")];
            let name = name.iter().find(|(suffix, _)| *suffix == kind).unwrap().1;
            let packed = File::create(&path).unwrap();
            tool(Command::new(program(name)).args(["-c", "-1"]).arg(raw).stdout(packed));
        }
    }
    path
}

#[test]
fn every_container_becomes_what_inject_makes_of_the_raw_image() {
    let case = Case::small();
    let wanted = case.injected("small.img");
    let size = u64::try_from(wanted.len()).unwrap();
    for kind in ["raw", "zst", "gz", "xz", "bz2", "qcow2", "qcow2.zst", "vmdk", "vhdx", "tar"] {
        let image = pack(kind, &case.scratch.join("small.img"));
        for (what, size) in [("as large", size), ("larger", size + (3 << 20) + 512)] {
            let device = case.file("device", size);
            let run = case.flash(image.to_str().unwrap(), "device").run().expect_code(0);
            assert!(run.stderr().contains("written and read back; 1 secret written"), "{kind}: {}", run.stderr());
            assert_written(&device, &wanted, &format!("{kind}, {what}"));
            assert_eq!(mode(&device), 0o600);
        }
        let device = case.file("device", size - 4096);
        let before = fs::read(&device).unwrap();
        let run = case.flash(image.to_str().unwrap(), "device").run();
        let texts = ["device: nothing was changed", "does not fit", "take a larger one"];
        run.expect_refusal(kind, 1, &texts);
        assert!(fs::read(&device).unwrap() == before, "{kind}");
    }
}

#[test]
fn each_block_is_written_once_and_the_first_mib_last() {
    let case = Case::small();
    let device = case.file("device", 28 << 20);
    let run = case.flash("small.img", "device").traced("pwrite64,fdatasync").run().expect_code(0);
    let name = format!("<{}>", device.display());
    let numbers = |line: &&str| {
        let (call, _) = line.rsplit_once(") = ")?;
        let mut numbers = call.rsplit(", ").map(str::parse::<u64>);
        let (offset, size) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some((offset, size))
    };
    let is_ours = |line: &&&str| line.contains(&name);
    let trace = run.trace();
    let writes: Vec<(u64, u64)> = trace.calls("pwrite64").iter().filter(is_ours).filter_map(numbers).collect();
    let (edges, rest) = writes.split_at(2);
    assert_eq!(edges, [(0, 1 << 20), (27 << 20, 1 << 20)]);
    assert_eq!(rest.last(), Some(&(0, 1 << 20)));
    // The tail before it, with the backup of the table.
    assert_eq!(rest[rest.len() - 2], (23 << 20, 1 << 20));
    let mut sorted = rest.to_vec();
    sorted.sort_unstable();
    assert!(sorted.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{sorted:?}");
    let flushes = trace.calls("fdatasync").iter().filter(is_ours).count();
    assert_eq!(flushes, 4, "the edges, the body, the tail and the head");
}

#[test]
fn a_stream_that_says_nothing_of_its_size_is_refused_as_soon_as_it_is_known_with_no_table_written() {
    let case = Case::new();
    let image = images::NONE.committed(&case.scratch).path;
    let packed = pack("gz", &image);
    let device = case.file("device", 30 << 20);
    let run = case.flash(packed.to_str().unwrap(), "device").run().expect_code(5);
    run.expect_error("does not fit").expect_error("device holds no partition table now");
    assert_no_table(&device, "too small");
    // The same on one that is large enough: a file system without a table.
    let device = case.file("device", 70 << 20);
    case.flash(packed.to_str().unwrap(), "device").run().expect_code(0);
    assert_written(&device, &case.injected("none.img"), "no table");
}

#[test]
fn on_a_block_device_the_backup_table_moves_to_the_end_when_it_is_asked_for() {
    if !has_loop_devices() {
        return;
    }
    for (layout, kind) in [(images::RAW_EFI, "raw"), (images::HYBRID, "zst"), (images::LEGACY_GPT, "qcow2")] {
        let case = Case::new();
        let raw = layout.committed(&case.scratch).path;
        let image = pack(kind, &raw);
        let image = image.to_str().unwrap();
        let file = case.file("device", 100 << 20);
        let device = Loop::new(&file);
        let said = case.flash(image, &device.0).run().expect_code(0).stderr();
        assert!(said.contains("Primary header thinks Alt. header is not at the end of the disk"), "{said}");
        assert_written(&file, &case.injected(raw.to_str().unwrap()), kind);
        let run = case.flash(image, &device.0).args(["--fix-gpt"]).run().expect_code(0);
        run.expect_error("the backup GPT is at the end of the device now, sector 204799 instead of");
        assert_good(&case, Path::new(&device.0), layout.root_offset);
        // On the same device it is at the end already.
        let moved = case.scratch.join("moved.img");
        fs::copy(&file, &moved).unwrap();
        let run = case.flash("moved.img", &device.0).args(["--fix-gpt"]).run().expect_code(0);
        run.expect_error("the backup GPT is at the end of").expect_error("already");
    }
}

#[test]
fn a_damaged_table_is_not_moved_and_a_damaged_backup_is_made_again() {
    let case = Case::small();
    let path = case.scratch.join("small.img");
    let sound = fs::read(&path).unwrap();
    let device = case.file("device", 30 << 20);
    let before = fs::read(&device).unwrap();
    // A bit of the primary's header, and of its entries.
    for at in [512 + 60, 1024 + 60] {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let run = case.flash("small.img", "device").args(["--fix-gpt"]).run();
        run.expect_refusal("primary", 1, &["its GPT cannot be moved: the checksum of the"]);
        assert!(fs::read(&device).unwrap() == before);
    }
    // What is told of it without the option.
    let run = case.flash("small.img", "device").run().expect_code(0);
    run.expect_error("the GPT of the image is damaged (the checksum of the entries is wrong)");
    // A backup that is far from the end of the image is as good as another.
    fs::write(&path, [&sound[..], &vec![0; 3 << 20]].concat()).unwrap();
    let run = case.flash("small.img", "device").args(["--fix-gpt"]).run().expect_code(0);
    assert!(!run.stderr().contains("could not be used"), "{}", run.stderr());
    assert_good(&case, &device, 8 << 20);
    for at in [sound.len() - 512 + 60, sound.len() - 33 * 512 + 60] {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let run = case.flash("small.img", "device").run().expect_code(0);
        run.expect_error("the backup of the GPT cannot be used: the checksum of the");
        let run = case.flash("small.img", "device").args(["--fix-gpt"]).run().expect_code(0);
        run.expect_error("the image's own backup could not be used: the checksum of the");
        assert_good(&case, &device, 8 << 20);
    }
}

#[test]
fn holes_and_zeros_are_zeros_on_the_device_whatever_it_had_there() {
    let case = Case::new();
    let path = case.scratch.join("sparse.img");
    blank(&path, 80 << 20);
    crate::kit::disk::sfdisk(&path, "label: gpt\n start=2048, size=40960, type=linux, name=nixos\n");
    crate::kit::disk::ext4(&path, 1 << 20, 20 << 20, "nixos");
    let wanted = case.injected("sparse.img");
    let mut devices = vec![(case.file("device", 81 << 20), None)];
    if has_loop_devices() {
        let file = case.file("behind", 81 << 20);
        let device = Loop::new(&file);
        devices.push((file, Some(device)));
    }
    for (file, device) in devices {
        let device = device.as_ref().map_or_else(|| file.to_str().unwrap(), |device| &device.0);
        case.flash("sparse.img", device).run().expect_code(0);
        assert_written(&file, &wanted, device);
        // Where zeros cannot be made by a command, they are written.
        fs::write(&file, vec![super::OLD; 81 << 20]).unwrap();
        let run = case.flash("sparse.img", device).tampered("fallocate:error=EOPNOTSUPP");
        run.tampered("ioctl:error=EOPNOTSUPP:when=3+").run().expect_code(0);
        assert_written(&file, &wanted, device);
    }
}
