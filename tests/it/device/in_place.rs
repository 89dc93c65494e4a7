//! Whole disks and partitions in place, by one journal transaction: on each kind of node, with large sectors, killed at
//! every write, and on a medium that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{ROOT, ROOT_SIZE, Zram, deaddrop, disk, disk_with_sectors};
use super::undo::assert_holds;
use crate::kit::images::Image;
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::mount::{assert_fsck_clean, unmount};
use crate::kit::{Scratch, sha256_of, tool};

/// A way to name the root: by the disk around it, by its partition's own node, or by a device that begins where it
/// does.
#[derive(Debug, Clone, Copy)]
enum Node {
    Disk,
    Partition,
    Offset,
}

impl Node {
    /// A loop device over `path` with these sectors, and the node to name.
    fn attach(self, path: &Path, sector: u64) -> (Loop, String) {
        let sector = sector.to_string();
        let offset = (ROOT.to_string(), ROOT_SIZE.to_string());
        let mut arguments = vec!["--sector-size", &sector];
        if let Self::Offset = self {
            arguments.extend(["--offset", &offset.0, "--sizelimit", &offset.1]);
        }
        let device = Loop::with(path, &arguments);
        let node = if let Self::Partition = self { device.second_partition() } else { device.0.clone() };
        (device, node)
    }
}

#[test]
fn a_disk_and_a_partition_are_changed_by_one_transaction_and_nothing_beside_the_root() {
    if !has_loop_devices() {
        return;
    }
    for (node, sector) in [
        (Node::Disk, 512),
        (Node::Partition, 512),
        (Node::Offset, 512),
        (Node::Disk, 4096),
        (Node::Partition, 4096),
        (Node::Offset, 4096),
    ] {
        let name = format!("{node:?}, sectors of {sector}");
        let scratch = Scratch::new();
        let path = disk_with_sectors(&scratch, "-t ext4 -b 4096", sector);
        let before = fs::read(&path).unwrap();
        {
            let (_device, node) = node.attach(&path, sector);
            deaddrop(&scratch, "new", &["verify", &node]).run().expect_code(3);
            let run = deaddrop(&scratch, "new", &["inject", &node, "-v"]).run().expect_code(0);
            let run = run.expect_error("committed as one journal transaction");
            assert!(!run.stderr().contains("mode is now"), "{name}: {}", run.stderr());
            deaddrop(&scratch, "new", &["verify", &node]).run().expect_code(0);
            let changed = sha256_of(&path);
            deaddrop(&scratch, "new", &["inject", &node]).run().expect_code(0).expect_error("nothing to do");
            deaddrop(&scratch, "new", &["recover", &node]).run().expect_code(0).expect_error("nothing to recover");
            assert_eq!(sha256_of(&path), changed, "{name}");
        }
        let after = fs::read(&path).unwrap();
        let (root, end) = (ROOT as usize, (ROOT + ROOT_SIZE) as usize);
        assert!(before[..root] == after[..root] && before[end..] == after[end..], "{name}");
        assert_holds(&path, "new");
    }
}

#[test]
fn a_partition_without_a_journal_is_changed_with_an_undo_file() {
    if !has_loop_devices() {
        return;
    }
    for (node, sector) in [(Node::Partition, 512), (Node::Offset, 512), (Node::Disk, 4096), (Node::Partition, 4096)] {
        let name = format!("{node:?}, sectors of {sector}");
        let scratch = Scratch::new();
        let path = disk_with_sectors(&scratch, "-t ext4 -b 4096 -O ^has_journal", sector);
        let undo = scratch.join("undo");
        fs::create_dir(&undo).unwrap();
        {
            let (_device, node) = node.attach(&path, sector);
            let args = ["inject", &node, "--undo", "undo"];
            let cut = deaddrop(&scratch, "new", &args).tampered("fdatasync:error=EIO:when=2").run().expect_code(5);
            cut.expect_error("stopped in the middle");
            deaddrop(&scratch, "new", &["recover", &node, "--undo", "undo"]).run().expect_code(0);
            deaddrop(&scratch, "old", &["verify", &node]).run().expect_code(0);
            deaddrop(&scratch, "new", &args).run().expect_code(0);
        }
        assert_eq!(fs::read_dir(&undo).unwrap().count(), 0, "{name}");
        assert_holds(&path, "new");
    }
}

/// Kills `inject` at its `step`th, 2·`step`th, … call of each kind; recovers, and judges what is there each time.
/// How often a journal had to be replayed.
fn killed_at_each(node: Node, step: usize) -> usize {
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let mut recovered = 0;
    let run = |version: &str, command: &str, device: &str| {
        // One that fits into a block, and one that does not.
        let only = if command == "recover" { &[][..] } else { &["--only", "secret-0", "--only", "secret-1"] };
        deaddrop(&scratch, version, &[&[command, device], only].concat())
    };
    for call in ["pwrite64", "fdatasync"] {
        for number in (1..).step_by(step) {
            let (device, name) = node.attach(&path, 512);
            let injection = format!("{call}:signal=KILL:when={number}");
            let killed = run("new", "inject", &name).tampered(&injection).run().code() != Some(0);
            let recover = run("new", "recover", &name).run().expect_code(0);
            recovered += usize::from(recover.stderr().contains("journal was replayed"));
            let is_new = run("new", "verify", &name).run().code() == Some(0);
            if !is_new {
                run("old", "verify", &name).run().expect_code(0);
            }
            drop(device);
            assert_fsck_clean(&Image::new(&path, ROOT));
            if is_new {
                let (_device, name) = node.attach(&path, 512);
                run("old", "inject", &name).run().expect_code(0);
            }
            if !killed {
                assert!(is_new, "{node:?}, {call} {number}");
                break;
            }
        }
    }
    recovered
}

#[test]
fn killed_at_any_write_a_disk_is_recovered() {
    if has_loop_devices() {
        let recovered = killed_at_each(Node::Disk, 1);
        assert!(recovered > 5, "{recovered}");
    }
}

#[test]
fn killed_at_some_writes_a_partition_is_recovered() {
    if has_loop_devices() {
        let recovered = killed_at_each(Node::Partition, 4) + killed_at_each(Node::Offset, 5);
        assert!(recovered > 2, "{recovered}");
    }
}

#[test]
fn a_device_that_fails_before_the_commit_point_is_as_it_was_and_after_it_is_finished_by_recover() {
    if !has_loop_devices() {
        return;
    }
    for (injection, code, words) in [
        ("pread64:error=EIO:when=9", 1, "Input/output error"),
        ("pwrite64:error=EIO:when=1", 1, "nothing was changed"),
        ("pwrite64:error=ENXIO:when=3+", 1, "nothing was changed"),
        ("fdatasync:error=EIO:when=1", 1, "nothing was changed"),
        ("fdatasync:error=EIO:when=3", 5, "`deaddrop recover IMAGE`, or the next run, finishes it"),
        ("fdatasync:error=EIO:when=3+", 5, "after the commit point"),
    ] {
        let scratch = Scratch::new();
        let path = disk(&scratch, "-t ext4");
        let device = Loop::new(&path);
        let run = deaddrop(&scratch, "new", &["inject", &device.0]).tampered(injection).run();
        let run = run.expect_refusal(injection, code, &[words]);
        assert!(!run.stderr().contains("its mode"), "{injection}: {}", run.stderr());
        deaddrop(&scratch, "new", &["recover", &device.0]).run().expect_code(0);
        let version = if code == 5 { "new" } else { "old" };
        deaddrop(&scratch, version, &["verify", &device.0]).run().expect_code(0);
        drop(device);
        assert_holds(&path, version);
    }
}

#[test]
fn a_medium_that_is_full_below_the_device_leaves_it_as_it_was() {
    if !has_loop_devices() {
        return;
    }
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4");
    let medium = Medium::new(&scratch);
    let on_medium = medium.0.join("disk.img");
    tool(Command::new("cp").arg("--sparse=always").arg(&path).arg(&on_medium));
    // Whatever is written to a hole of the file has no place now; the loop device learns of it when it flushes.
    let filler = medium.0.join("filler");
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())).output();
    {
        let device = Loop::new(&on_medium);
        let run = deaddrop(&scratch, "new", &["inject", &device.0]).run();
        run.expect_refusal("full", 1, &["nothing was changed", "Input/output error"]);
    }
    fs::remove_file(filler).unwrap();
    {
        let device = Loop::new(&on_medium);
        deaddrop(&scratch, "new", &["recover", &device.0]).run().expect_code(0);
        deaddrop(&scratch, "old", &["verify", &device.0]).run().expect_code(0);
        deaddrop(&scratch, "new", &["inject", &device.0]).run().expect_code(0);
    }
    assert_holds(&on_medium, "new");
}

/// A small file system in memory.
struct Medium(PathBuf);

impl Medium {
    fn new(scratch: &Scratch) -> Self {
        let place = scratch.join("medium");
        fs::create_dir(&place).unwrap();
        tool(Command::new("mount").args(["-t", "tmpfs", "-o", "size=12M", "medium"]).arg(&place));
        Self(place)
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

#[test]
fn a_disk_that_is_not_removable_needs_force_and_is_named_by_its_size() {
    let Some(zram) = Zram::new() else { return };
    let device = zram.path();
    let scratch = Scratch::new();
    let path = disk(&scratch, "-t ext4 -b 4096");
    tool(Command::new("cp").arg("--no-target-directory").arg("--sparse=never").arg(&path).arg(&device));
    for command in [&["inject", &device][..], &["recover", &device], &["scrub", &device]] {
        let words = format!("{device} (32 MiB) is not removable");
        let hint = "--force writes to it all the same";
        deaddrop(&scratch, "new", command).run().expect_refusal("zram", 1, &[&words, "nothing was changed", hint]);
    }
    deaddrop(&scratch, "old", &["verify", &device]).run().expect_code(0);
    deaddrop(&scratch, "new", &["plan", &device]).run().expect_code(0);
    deaddrop(&scratch, "new", &["inspect", &device]).run().expect_code(0);
    deaddrop(&scratch, "new", &["inject", &device, "-o", "out.img"]).run().expect_code(0);
    deaddrop(&scratch, "new", &["inject", &device, "--force"]).run().expect_code(0);
    deaddrop(&scratch, "new", &["verify", &device]).run().expect_code(0);
}
