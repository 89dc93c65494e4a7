//! Whole disks in place, by the program: with a journal that holds the change, and with an undo file where none does.
//! Cut off at every write, and taken back.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use memchr::memmem;

use super::machine::{ROOT, deaddrop, disk, values};
use crate::kit::images::Image;
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::mount::{Mount, assert_fsck_clean};
use crate::kit::{Scratch, sha256_of};

const NO_JOURNAL: &str = "-t ext4 -b 1024 -O ^has_journal,metadata_csum";

/// What the kernel reads of the secrets, after e2fsck found nothing.
#[track_caller]
pub fn assert_holds(disk: &Path, version: &str) {
    let image = Image::new(disk, ROOT);
    assert_fsck_clean(&image);
    let mount = Mount::read_write(&image);
    for (name, value) in values(version) {
        let read = fs::read(mount.at(&format!("/etc/secrets/{name}"))).unwrap();
        assert!(read == value, "{name} is not {version}");
    }
}

/// The undo files in a directory.
fn undo_files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A scratch directory with a disk, and a directory for undo files in it.
fn start(options: &str) -> (Scratch, PathBuf, PathBuf) {
    let scratch = Scratch::new();
    let path = disk(&scratch, options);
    let undo = scratch.join("undo");
    fs::create_dir(&undo).unwrap();
    (scratch, path, undo)
}

#[test]
fn a_disk_is_changed_in_place_and_no_byte_beside_the_root() {
    if !has_loop_devices() {
        return;
    }
    // Without a journal, and with one that is large enough: that needs no undo file, and is refused none.
    for options in ["-t ext2", NO_JOURNAL, "-t ext4 -b 1024", "-t ext4"] {
        let (scratch, path, undo) = start(options);
        let before = fs::read(&path).unwrap();
        {
            let device = Loop::new(&path);
            deaddrop(&scratch, "new", &["inject", &device.0, "--undo", "undo"]).run().expect_code(0);
            deaddrop(&scratch, "new", &["inject", &device.0, "--undo", "undo"])
                .run()
                .expect_code(0)
                .expect_error("nothing to do");
        }
        assert!(undo_files(&undo).is_empty(), "{options}");
        let after = fs::read(&path).unwrap();
        let (root, end) = (ROOT as usize, ROOT as usize + (20 << 20));
        assert!(before[..root] == after[..root] && before[end..] == after[end..], "{options}");
        assert_holds(&path, "new");
        // Nothing of the old values is left: the freed blocks are zeroed in the same change.
        for (name, value) in values("old") {
            let found = memmem::find(&after, &value[..value.len().min(40)]).is_some();
            assert!(!found, "{options}: the old {name} is still there");
        }
    }
}

#[test]
fn a_change_larger_than_the_journal_needs_an_undo_file_and_gets_one() {
    if !has_loop_devices() {
        return;
    }
    let (scratch, path, undo) = start("-t ext4 -b 1024 -J size=1");
    let device = Loop::new(&path);
    // Freed blocks are zeroed within the change: more of them than the journal has blocks.
    let removed = "version: 1\nsecrets:\n  large: { path: /etc/secrets/large, from: \"file:values/large\" }\n";
    fs::create_dir_all(scratch.join("values")).unwrap();
    scratch.write("secrets.yaml", removed);
    let run = |size: usize, fill: &str, args: &[&str]| {
        scratch.write("values/large", fill.repeat(size));
        let manifest = crate::kit::run::Deaddrop::new(&scratch);
        manifest.args(["inject", &device.0]).args(args).run()
    };
    run(1_200_000, "a", &["--undo", "undo", "-v"]).expect_code(0).expect_error("one journal transaction");
    let before = sha256_of(&path);
    let words = "the change cannot be one journal transaction: the journal is too small for it";
    run(1_200_000, "b", &[]).expect_refusal("no --undo", 1, &[words, "--undo DIR"]);
    assert_eq!(sha256_of(&path), before);
    run(1_200_000, "b", &["--undo", "undo", "-v"])
        .expect_code(0)
        .expect_error("with an undo file, since the journal is too small");
    assert!(undo_files(&undo).is_empty());
    drop(device);
    assert_fsck_clean(&Image::new(&path, ROOT));
}

#[test]
fn without_a_journal_a_device_needs_an_undo_file_and_a_regular_file_does_not() {
    if !has_loop_devices() {
        return;
    }
    let (scratch, path, undo) = start("-t ext2");
    let before = sha256_of(&path);
    {
        let device = Loop::new(&path);
        let refused = |args: &[&str], words: &[&str]| {
            let all = [&["inject", &device.0][..], args].concat();
            deaddrop(&scratch, "new", &all).run().expect_refusal(&args.join(" "), 1, words);
        };
        refused(&[], &["its file system has no journal", "hint: name a directory for an undo file", "--undo DIR"]);
        refused(&["--undo", "nowhere"], &["the undo file cannot be made: there is no directory nowhere"]);
        refused(&["--undo", "disk.img"], &["disk.img is no directory"]);
        deaddrop(&scratch, "new", &["inject", &device.0, "--undo", "undo", "-o", "x.img"]).run().expect_code(2);
    }
    assert_eq!(sha256_of(&path), before);
    deaddrop(&scratch, "new", &["inject", "disk.img", "--undo", "nowhere"]).run().expect_code(0);
    assert!(undo_files(&undo).is_empty());
    assert_holds(&path, "new");
    fs::create_dir(scratch.join("root")).unwrap();
    deaddrop(&scratch, "new", &["inject", "root", "--undo", "undo"]).run().expect_refusal(
        "directory",
        1,
        &["--undo is for images, and this is a directory"],
    );
}

/// Runs `inject` and kills it at its `number`th write, or flush; false when it ended before that.
fn killed_at(scratch: &Scratch, device: &str, call: &str, number: u32) -> bool {
    let injection = format!("{call}:signal=KILL:when={number}");
    let run = deaddrop(scratch, "new", &["inject", device, "--undo", "undo"]).tampered(&injection).run();
    run.code().is_none_or(|code| code != 0)
}

#[test]
fn killed_at_any_write_it_is_taken_back() {
    if !has_loop_devices() {
        return;
    }
    let (scratch, path, undo) = start(NO_JOURNAL);
    let mut taken_back = 0;
    'calls: for call in ["pwrite64", "fsync", "fdatasync", "unlink"] {
        for number in 1.. {
            let device = Loop::new(&path);
            let killed = killed_at(&scratch, &device.0, call, number);
            for file in undo_files(&undo) {
                assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
            }
            if number % 3 == 0 {
                // Whoever does not look for the undo file is told, or finds a whole file system.
                let run = deaddrop(&scratch, "new", &["recover", &device.0]).run();
                if run.code() != Some(0) {
                    run.expect_refusal("marked", 1, &["not unmounted cleanly", "deaddrop recover '", "--undo DIR"]);
                }
            }
            let back = deaddrop(&scratch, "new", &["recover", &device.0, "--undo", "undo"]).run().expect_code(0);
            taken_back += u32::from(back.stderr().contains("what it wrote was taken back"));
            assert!(undo_files(&undo).is_empty(), "{call} {number}");
            if !killed {
                break;
            }
            let is_new = deaddrop(&scratch, "new", &["verify", &device.0]).run().code() == Some(0);
            drop(device);
            assert_fsck_clean(&Image::new(&path, ROOT));
            if is_new {
                // Killed after the last flush.
                continue 'calls;
            }
            let device = Loop::new(&path);
            deaddrop(&scratch, "old", &["verify", &device.0]).run().expect_code(0);
        }
        let device = Loop::new(&path);
        deaddrop(&scratch, "old", &["inject", &device.0, "--undo", "undo"]).run().expect_code(0);
    }
    assert!(taken_back > 10, "{taken_back} runs were taken back");
}

/// A disk whose change was cut off in the middle of the home writes, and its undo file.
fn half_changed(options: &str) -> (Scratch, PathBuf, PathBuf, Loop) {
    let (scratch, path, undo) = start(options);
    fs::copy(&path, scratch.join("clone.img")).unwrap();
    let device = Loop::new(&path);
    // The first flush of the device is that of the mark.
    let run = deaddrop(&scratch, "new", &["inject", &device.0, "--undo", "undo"]);
    let run = run.tampered("fdatasync:error=EIO:when=2").run().expect_code(5);
    run.expect_error("stopped in the middle").expect_error(&format!("deaddrop recover {} --undo undo", device.0));
    let file = undo_files(&undo).pop().expect("an undo file");
    (scratch, path, file, device)
}

#[test]
fn the_next_run_takes_back_what_was_cut_off_and_goes_on() {
    if !has_loop_devices() {
        return;
    }
    let (scratch, path, file, device) = half_changed(NO_JOURNAL);
    deaddrop(&scratch, "new", &["inject", &device.0]).run().expect_refusal(
        "no --undo",
        1,
        &["not unmounted cleanly", "was a run with --undo cut off?"],
    );
    let json = deaddrop(&scratch, "new", &["inject", &device.0, "--undo", "undo", "--json"]).run().expect_code(0);
    json.json();
    let json = json.expect_error("an earlier run was cut off, and what it wrote was taken back");
    json.expect_error("6 secrets written");
    assert!(!file.exists());
    drop(device);
    assert_holds(&path, "new");

    let (scratch, path, file, device) = half_changed("-t ext2");
    // Zeroing free blocks of a file system that is half changed would destroy it.
    deaddrop(&scratch, "new", &["scrub", &device.0]).run().expect_refusal("scrub", 1, &["not unmounted cleanly"]);
    deaddrop(&scratch, "new", &["scrub", &device.0, "--undo", "undo"]).run().expect_code(0);
    assert!(!file.exists());
    drop(device);
    assert_holds(&path, "old");
}

#[test]
fn an_undo_file_that_is_not_durably_there_or_gone_is_told() {
    if !has_loop_devices() {
        return;
    }
    // Its directory before the device is touched, and after it is changed.
    let (scratch, path, undo) = start(NO_JOURNAL);
    let device = Loop::new(&path);
    let before = sha256_of(&path);
    let inject = |when: &str| {
        let run = deaddrop(&scratch, "new", &["inject", &device.0, "--undo", "undo"]);
        run.tampered(&format!("fsync:error=EIO:when={when}")).run()
    };
    let run = inject("2").expect_code(1).expect_error("nothing was changed");
    run.expect_error("making the undo file").expect_error("durable");
    assert!(undo_files(&undo).is_empty());
    assert_eq!(sha256_of(&path), before);
    inject("4").expect_code(5).expect_error("is changed, but its undo file could not be removed");
    drop(device);
    assert_holds(&path, "new");
    // What is taken back is not called unchanged.
    let (scratch, path, file, device) = half_changed(NO_JOURNAL);
    let recover = || deaddrop(&scratch, "new", &["recover", &device.0, "--undo", "undo"]);
    let run = recover().tampered("fsync:error=EIO:when=1").run().expect_code(5);
    run.expect_error("is as it was before the interrupted run, but").expect_error("could not be removed");
    recover().run().expect_code(0);
    assert!(!file.exists());
    drop(device);
    assert_holds(&path, "old");
}

#[test]
fn an_undo_file_is_used_for_its_own_device_and_only_if_nobody_wrote_since() {
    if !has_loop_devices() {
        return;
    }
    let (scratch, path, file, device) = half_changed(NO_JOURNAL);
    let refused = |name: &str, image: &str, words: &[&str]| {
        let before = sha256_of(&path);
        for command in ["recover", "inject"] {
            let run = deaddrop(&scratch, "new", &[command, image, "--undo", "undo"]).run();
            run.expect_refusal(name, 1, words);
        }
        assert!(file.exists(), "{name}: the undo file is kept");
        assert_eq!(sha256_of(&path), before, "{name}");
    };
    let whole = fs::read(&file).unwrap();
    let restore_file = || {
        let _ = fs::remove_file(&file);
        fs::write(&file, &whole).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    };

    // A clone of the disk as it was: the same UUIDs, and nothing of it was ever written.
    let clone = Loop::new(scratch.join("clone.img"));
    refused("clone", &clone.0, &["was made for /dev/loop", "nothing of it is to be taken back here"]);
    drop(clone);

    // Another size, or another place: the same file system elsewhere.
    let partition = Loop::with(&path, &["--offset", &ROOT.to_string()]);
    // Two loop devices on one file do not see each other's writes at once: only what is refused is asked.
    let words = ["holds the old blocks of another device, which was /dev/loop"];
    deaddrop(&scratch, "new", &["recover", &partition.0, "--undo", "undo"]).run().expect_refusal("place", 1, &words);
    drop(partition);

    // Somebody's hands.
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    refused("mode", &device.0, &["is not a file that only you can read and write"]);
    restore_file();
    let elsewhere = scratch.join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let run = deaddrop(&scratch, "new", &["recover", &device.0, "--undo", "undo"]).run();
    run.expect_refusal("link", 1, &["opening the undo file"]);
    restore_file();

    // Another run.
    let lock = File::open(&file).unwrap();
    lock.lock().unwrap();
    refused("lock", &device.0, &["is in use by another run"]);
    lock.unlock().unwrap();

    // Damaged, where the device says that it is half changed: nothing is thrown away.
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&file, &damaged).unwrap();
    refused("damaged", &device.0, &["is damaged", "may be half changed"]);
    restore_file();

    // Somebody wrote to the file system: one byte of a block that the run wrote, too.
    let number = u64::from_le_bytes(whole[68 + path_length(&whole)..][..8].try_into().unwrap());
    let block = File::options().write(true).read(true).open(&device.0).unwrap();
    let at = ROOT + number * 1024 + 700;
    let mut byte = [0];
    block.read_exact_at(&mut byte, at).unwrap();
    block.write_all_at(&[!byte[0]], at).unwrap();
    block.sync_all().unwrap();
    refused("written", &device.0, &["is neither what it was", "somebody (e2fsck, a boot) has written to"]);
    block.write_all_at(&byte, at).unwrap();
    block.sync_all().unwrap();
    drop(block);

    deaddrop(&scratch, "new", &["recover", &device.0, "--undo", "undo"]).run().expect_code(0);
    assert!(!file.exists());
    drop(device);
    assert_holds(&path, "old");
}

fn path_length(undo: &[u8]) -> usize {
    u32::from_le_bytes(undo[64..68].try_into().unwrap()) as usize
}

#[test]
fn a_full_disk_for_the_undo_file_changes_nothing() {
    if !has_loop_devices() {
        return;
    }
    let (scratch, path, undo) = start(NO_JOURNAL);
    let device = Loop::new(&path);
    let before = sha256_of(&path);
    // The second write of the run is one of the undo file's: the header is the first.
    let run = deaddrop(&scratch, "new", &["inject", &device.0, "--undo", "undo"]);
    let run = run.tampered("pwrite64:error=ENOSPC:when=2").run();
    run.expect_refusal("full", 1, &["nothing was changed", "writing the undo file", "No space left"]);
    assert!(undo_files(&undo).is_empty());
    assert_eq!(sha256_of(&path), before);
}
