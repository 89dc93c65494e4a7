//! `--closure`: the system that will read the files, and what it changes.

use std::fs;
use std::process::Command;

use super::{Case, listing};
use crate::kit::nixos::{NixosRoot, Overlay};
use crate::kit::tool;

/// Mounts of an impermanent system: the root is empty at each boot.
const IMPERMANENT: &str = "none / tmpfs x-initrd.mount,mode=755 0 0
/dev/disk/by-label/nixos /nix ext4 x-initrd.mount 0 0
/dev/disk/by-label/data /srv ext4 defaults 0 0
tmpfs /scratch tmpfs defaults 0 0
/nix/persist /persist none x-initrd.mount,bind 0 0
/persist/etc/secrets /etc/secrets none bind 0 0
";

/// The paths and owners of the files in a tree.
fn files(case: &Case) -> Vec<String> {
    let lines = listing(&case.scratch.join("out"));
    lines
        .iter()
        .filter(|line| line.split(' ').count() == 4)
        .map(|line| line.split(' ').next().unwrap().into())
        .collect()
}

#[test]
fn numbers_of_users_and_groups_are_those_of_the_system_in_a_store_or_in_an_image() {
    let case = Case::one("path: /var/lib/app/a, owner: app, group: users");
    let mut root = NixosRoot::new(&case.scratch);
    root.user("app", Some(973), None);
    let toplevel = root.host(root.toplevel());
    // As nix build leaves it: a link.
    std::os::unix::fs::symlink(&toplevel, case.scratch.join("result")).unwrap();
    tool(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .arg(root.path())
            .arg(case.scratch.join("node1.img"))
            .arg("32M"),
    );
    for closure in [toplevel.to_str().unwrap(), "result", "node1.img", "root"] {
        let words = ["out", "--for", "nixos-anywhere", "--closure", closure];
        let run = case.tree_of_nobody(&words).run().expect_code(0);
        assert!(run.stdout().ends_with(" --chown /var/lib/app/a 973:100\n"), "{closure}: {}", run.stdout());
        assert!(!run.stderr().contains("! "), "{closure}: {}", run.stderr());
        fs::remove_dir_all(case.scratch.join("out")).unwrap();
    }
    // The standing passwd of an image is not that of the machine which is to be installed.
    root.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nother:x:1234:100::/:/bin/sh\n");
    let case = Case::one("path: /var/lib/app/a, owner: other");
    NixosRoot::new(&case.scratch).write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nother:x:1234:100::/:/bin/sh\n");
    let run = case.tree_of_nobody(&["out", "--closure", "root"]).run();
    run.expect_refusal("NX107", 1, &["NX107", "no user `other` yet", "fixes no number"]);
}

#[test]
fn what_is_no_system_is_refused_and_nothing_is_made() {
    let case = Case::one("path: /etc/a");
    fs::create_dir_all(case.scratch.join("plain/etc")).unwrap();
    case.scratch.write("junk.img", [7; 4096]);
    for (closure, texts) in [
        ("missing", &["--closure missing: not read", "nix build"][..]),
        ("plain", &["out: nothing was changed", "--closure: there is no NixOS in it"]),
        ("junk.img", &["--closure junk.img: not searched"]),
        ("nix/store/x", &["--closure nix/store/x: not read"]),
    ] {
        case.tree_of_nobody(&["out", "--closure", closure]).run().expect_refusal(closure, 1, texts);
        assert!(!case.scratch.join("out").exists(), "{closure}");
    }
}

#[test]
fn a_path_is_where_the_installed_system_sees_it_on_whichever_file_system_that_is() {
    let case = Case::new(
        "secrets:
  a: { path: /var/lib/a, from: env:A }
  b: { path: /etc/secrets/b, from: env:A }
  c: { path: /srv/c, from: env:A }
  d: { path: /persist/d, from: env:A }
hosts: { node1: { persist_root: /persist } }
",
    );
    NixosRoot::new(&case.scratch).fstab(IMPERMANENT);
    case.tree_of_nobody(&["out", "--closure", "root"]).run().expect_code(0);
    // /persist is bound from /nix/persist before activation, /srv is a file system of its own.
    assert_eq!(files(&case), ["/nix/persist/d", "/nix/persist/etc/secrets/b", "/nix/persist/var/lib/a", "/srv/c"]);
}

#[test]
fn a_path_that_the_installed_system_does_not_see_is_refused_by_its_code() {
    for (path, code) in [
        ("/var/lib/a", "NX007"),
        ("/etc/secrets/a", "NX006"),
        ("/scratch/x/a", "NX006: /scratch/x/a is on a tmpfs"),
        ("/etc/hosts", "NX004"),
    ] {
        let case = Case::one(&format!("path: {path}"));
        NixosRoot::new(&case.scratch).fstab(IMPERMANENT);
        let run = case.tree_of_nobody(&["out", "--closure", "root"]).run();
        run.expect_refusal(path, 1, &[code, path]);
        assert!(!case.scratch.join("out").exists(), "{path}");
    }
}

#[test]
fn below_an_overlay_of_etc_the_file_is_in_its_upper_directory() {
    let case = Case::one("path: /etc/secrets/a");
    NixosRoot::new(&case.scratch).overlay(Overlay::Links, true);
    let run = case.tree_of_nobody(&["out", "--closure", "root"]).run().expect_code(0);
    run.expect_error("NX102");
    assert_eq!(files(&case), ["/.rw-etc/upper/secrets/a"]);
}

#[test]
fn another_system_of_an_image_is_named_by_its_path() {
    let case = Case::one("path: /var/lib/app/a, owner: app");
    let mut root = NixosRoot::new(&case.scratch);
    root.user("app", Some(973), None);
    let system = root.toplevel().to_owned();
    case.tree_of_nobody(&["out", "--closure", "root", "--system", &system]).run().expect_code(0);
    let elsewhere = "/nix/store/00000000000000000000000000000000-nixos-system-x";
    let run = case.tree_of_nobody(&["other", "--closure", "root", "--system", elsewhere]).run();
    run.expect_refusal("no such system", 1, &["other: nothing was changed", elsewhere]);
    let own = root.host(&system).display().to_string();
    let run = case.tree_of_nobody(&["other", "--closure", &own, "--system", &system]).run();
    run.expect_refusal("a store path and a system", 2, &["is a system itself"]);
    assert!(!case.scratch.join("other").exists());
}
