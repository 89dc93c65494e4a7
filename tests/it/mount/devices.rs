//! Block devices: an SD card in a reader is a target like a file.

use super::machine::{BTRFS, Disk, XFS, assert_nothing_left, deaddrop, is_version};
use crate::kit::Scratch;
use crate::kit::loops::Loop;

#[test]
fn a_device_is_changed_in_place_and_what_that_means_is_said() {
    for system in [BTRFS, XFS].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, system);
        {
            let size = std::fs::metadata(&disk.path).unwrap().len();
            let device = Loop::over_part(&disk.path, 0, size);
            let plain = deaddrop(&scratch, "new", &["inject", &device.0, "--backend", "mount"]).run();
            plain.expect_refusal("without --in-place", 1, &["a power cut in the middle", "--in-place"]);
            let args = ["inject", &device.0, "--backend", "mount", "--in-place"];
            let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
            let note = "on a block device the space of replaced values is discarded";
            assert_eq!(done.stderr().contains(note), system == BTRFS, "{}", done.stderr());
            let args = ["verify", &device.0, "--backend", "mount"];
            deaddrop(&scratch, "new", &args).run().expect_code(0);
        }
        assert!(is_version(&disk.tree(), "new"));
        disk.assert_sound(&scratch);
        assert_nothing_left(&scratch, &["disk.img"]);
    }
}

#[test]
fn an_image_that_is_mounted_is_refused_in_place() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, BTRFS);
    let args = ["inject", "disk.img", "--backend", "mount", "--in-place"];
    {
        let _mounted = disk.mounted("");
        deaddrop(&scratch, "new", &args).run().expect_refusal(
            "mounted",
            1,
            &["is attached to /dev/loop", "mounted at"],
        );
        deaddrop(&scratch, "new", &["plan", "disk.img", "--backend", "mount"]).run().expect_code(0);
    }
    deaddrop(&scratch, "new", &args).run().expect_code(0);
}
