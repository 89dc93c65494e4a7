//! btrfs: which subvolume is the root, and which cannot be.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use super::machine::{BTRFS, Disk, PARENTS, TOUCHED, assert_nothing_left, deaddrop, fill, is_version};
use crate::kit::files::fingerprint;
use crate::kit::tree::Tree;
use crate::kit::{Scratch, tool};

fn btrfs(words: &[&dyn AsRef<OsStr>]) -> String {
    let output = tool(Command::new("btrfs").args(words.iter().map(|word| word.as_ref())));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A disk with a root in the subvolume `@`, in which /var is a subvolume of its own, `@home` beside it, a snapshot
/// `@before` of `@` that can be written and one `@kept` that cannot.
fn disk(scratch: &Scratch) -> Disk {
    Disk::filled(scratch, BTRFS, &|top| {
        for name in ["@", "@home"] {
            btrfs(&[&"subvolume", &"create", &top.join(name)]);
        }
        fill(&top.join("@"));
        btrfs(&[&"subvolume", &"snapshot", &top.join("@"), &top.join("@before")]);
        btrfs(&[&"subvolume", &"snapshot", &"-r", &top.join("@"), &top.join("@kept")]);
        // After the snapshots: in those it would be an empty directory that nothing can be made in.
        fs::remove_dir_all(top.join("@/var")).unwrap();
        btrfs(&[&"subvolume", &"create", &top.join("@/var")]);
        fs::create_dir(top.join("@/var/lib")).unwrap();
    })
}

/// Makes the subvolume at this path the default one.
fn set_default(disk: &Disk, default: &str) {
    let mounted = BTRFS.mount(&disk.path, disk.offset, "subvolid=5");
    let id = btrfs(&[&"inspect-internal", &"rootid", &mounted.at(default)]);
    btrfs(&[&"subvolume", &"set-default", &id, &mounted.root()]);
}

/// What is below a path of the top level.
fn tree(disk: &Disk, path: &str) -> Tree {
    Tree::of_directory(&disk.mounted("subvolid=5").at(path))
}

#[test]
fn the_default_subvolume_is_the_root_or_the_one_that_is_named() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = disk(&scratch);
    for (default, asked, root, said) in [
        ("@", None, "@", "the default, subvolume 256 (@)"),
        ("/", Some("@"), "@", "subvolume 256 (@)"),
        ("/", Some("/@"), "@", "subvolume 256 (@)"),
        ("/", Some("256"), "@", "subvolume 256 (@)"),
        ("@", Some("5"), "/", "the top level"),
        // A snapshot as the default, as after a rollback: it is the root, and what it was made of stays as it is.
        ("@before", None, "@before", "the default, subvolume 258 (@before)"),
    ] {
        set_default(&disk, default);
        let all = ["@", "@home", "@before", "@kept"];
        let before: Vec<Tree> = all.iter().map(|path| tree(&disk, path)).collect();
        let top = tree(&disk, "/");
        let mut args = vec!["-v", "inject", "disk.img", "--backend", "mount", "-o", "out.img"];
        args.extend(asked.iter().flat_map(|asked| ["--subvolume", asked]));
        let done = deaddrop(&scratch, "new", &args).run().expect_code(0);
        assert!(done.stderr().contains(said), "{default} {asked:?}: {}", done.stderr());
        assert!(done.stderr().contains("snapshots keep what was in them"), "{}", done.stderr());
        let out = disk.at(scratch.join("out.img"));
        assert!(is_version(&tree(&out, root), "new"), "{default} {asked:?}");
        for (path, before) in all.iter().zip(&before) {
            let after = tree(&out, path);
            match *path == root {
                true => before.assert_only(&after, TOUCHED, PARENTS),
                false => assert!(before.changes(&after).is_empty(), "{default} {asked:?}: {path} changed"),
            }
        }
        if root == "/" {
            top.assert_only(&tree(&out, "/"), TOUCHED, PARENTS);
        }
        out.assert_sound(&scratch);
        assert_nothing_left(&scratch, &["disk.img", "out.img"]);
        let mut args = vec!["verify", "out.img", "--backend", "mount"];
        args.extend(asked.iter().flat_map(|asked| ["--subvolume", asked]));
        deaddrop(&scratch, "new", &args).run().expect_code(0);
        fs::remove_file(&out.path).unwrap();
    }
}

#[test]
fn what_cannot_be_written_is_refused_by_name_and_can_be_looked_at() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = disk(&scratch);
    for (default, asked, want, hint) in [
        ("@kept", None, "the default, subvolume 259 (@kept) is a read-only snapshot", "--subvolume NAME"),
        ("@", Some("@kept"), "subvolume 259 (@kept) is a read-only snapshot", "btrfs property set"),
        ("@", Some("259"), "subvolume 259 (@kept) is a read-only snapshot", "btrfs property set"),
        ("@", Some("nowhere"), "there is no subvolume `nowhere`", "256 (@), 257 (@home)"),
        ("@", Some("etc"), "there is no subvolume `etc`", "by its path from the top level"),
        ("@", Some("99999"), "there is no subvolume `99999`", "256 (@)"),
    ] {
        set_default(&disk, default);
        let before = fingerprint(&disk.path);
        for destination in [&["-o", "out.img"][..], &["--in-place"]] {
            let mut args = [&["inject", "disk.img", "--backend", "mount"], destination].concat();
            args.extend(asked.iter().flat_map(|asked| ["--subvolume", asked]));
            deaddrop(&scratch, "new", &args).run().expect_refusal(want, 1, &[want, hint, "nothing was changed"]);
        }
        assert_eq!(fingerprint(&disk.path), before, "{want}");
        assert_nothing_left(&scratch, &["disk.img"]);
        if want.contains("read-only") {
            let mut args = vec!["plan", "disk.img", "--backend", "mount"];
            args.extend(asked.iter().flat_map(|asked| ["--subvolume", asked]));
            // What would change is shown, and then that it cannot be.
            deaddrop(&scratch, "new", &args)
                .run()
                .expect_code(1)
                .expect_output("/etc/secrets/small")
                .expect_error(want);
            args.push("--quick");
            deaddrop(&scratch, "new", &args).run().expect_code(0);
        }
    }
}

#[test]
fn a_read_only_subvolume_on_the_way_is_refused_and_nothing_is_changed() {
    if !BTRFS.is_here() {
        return;
    }
    let scratch = Scratch::new();
    let disk = disk(&scratch);
    set_default(&disk, "@");
    {
        let mounted = BTRFS.mount(&disk.path, disk.offset, "subvolid=5");
        btrfs(&[&"property", &"set", &mounted.at("@/var"), &"ro", &"true"]);
    }
    let before = tree(&disk, "@");
    for destination in [&["-o", "out.img"][..], &["--in-place"]] {
        let args = [&["inject", "disk.img", "--backend", "mount"], destination].concat();
        let done = deaddrop(&scratch, "new", &args).run();
        done.expect_refusal(
            "ro",
            1,
            &["/var/lib/new: Read-only file system", "btrfs property set", "nothing was changed"],
        );
    }
    before.assert_same(&tree(&disk, "@"), true);
    assert_nothing_left(&scratch, &["disk.img"]);
    assert_eq!(fs::metadata(&disk.path).unwrap().len(), disk.offset + ((disk.system.mib + 1) << 20));
}
