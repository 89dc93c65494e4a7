//! `scan` of file systems that the kernel mounts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::machine::{BTRFS, Disk, EXT4, XFS, assert_nothing_left, deaddrop, values};
use crate::kit::Scratch;
use crate::kit::files::fingerprint;

#[test]
fn values_are_found_in_what_the_kernel_mounts_and_the_image_stays_as_it_is() {
    for system in [BTRFS, XFS, EXT4].into_iter().filter(|system| system.is_here()) {
        let scratch = Scratch::new();
        let [(_, small), (_, large), _] = values("new");
        let disk = Disk::filled(&scratch, system, &|root| {
            for (name, mode, content) in [("open", 0o644, &small), ("closed", 0o600, &small), ("large", 0o644, &large)]
            {
                fs::write(root.join("var/lib").join(name), content).unwrap();
                fs::set_permissions(root.join("var/lib").join(name), fs::Permissions::from_mode(mode)).unwrap();
            }
        });
        let before = fingerprint(&disk.path);
        let args = ["scan", "disk.img", "--backend", "mount", "--json"];
        let found = deaddrop(&scratch, "new", &args).run().expect_code(3).json();
        let want = serde_json::json!([
            { "secret": "large", "path": "/var/lib/large", "form": "raw" },
            { "secret": "small", "path": "/var/lib/open", "form": "raw" },
        ]);
        assert_eq!(found["findings"], want, "{}", system.kind);
        assert_eq!(fingerprint(&disk.path), before, "{}", system.kind);
        assert_nothing_left(&scratch, &["disk.img"]);
    }
}
