//! What a run needs and what it lets out: no rights, no loop device, no child; and no value anywhere but in the image.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::outputs::{assert_only_files, few, unpacked};
use crate::kit::canary::Canary;
use crate::kit::files::fingerprint;
use crate::kit::images;
use crate::kit::manifest::{From, Item, Manifest, twenty};
use crate::kit::mount::{assert_fsck_clean, debugfs};
use crate::kit::run::{Finished, NOBODY};
use crate::kit::tree::Tree;
use crate::kit::{is_root, sha256_of};

/// Panics if a traced run mounted anything, touched a loop device, or started a process.
#[track_caller]
fn assert_confined(done: &Finished) {
    let trace = done.trace();
    trace.assert_none(&[
        "mount",
        "umount2",
        "fsopen",
        "fsconfig",
        "fsmount",
        "move_mount",
        "open_tree",
        "mount_setattr",
    ]);
    trace.assert_none(&["pivot_root", "chroot", "unshare", "setns", "fork", "vfork", "ptrace", "socket", "connect"]);
    assert!(trace.children().is_empty(), "a program was started");
    let started: Vec<&str> = ["clone", "clone3"].iter().flat_map(|call| trace.calls(call)).collect();
    assert!(started.iter().all(|call| call.contains("CLONE_THREAD")), "a process was started");
    // Sharing blocks with the image, and asking for the terminal: nothing of a device.
    let known = ["FICLONE", "TCGETS", "TIOCGWINSZ"];
    let ioctls = trace.calls("ioctl");
    let strange = ioctls.iter().find(|call| !known.iter().any(|known| call.contains(known)));
    assert!(strange.is_none(), "{strange:?}");
}

#[test]
fn an_unprivileged_user_needs_no_loop_device_no_mount_and_no_child() {
    const CALLS: &str =
        "%file,%process,%network,ioctl,ptrace,unshare,setns,fsopen,fsconfig,fsmount,move_mount,open_tree,mount_setattr";
    for (from, args) in [
        ("raw-efi.img", &["inject", "raw-efi.img"][..]),
        ("raw-efi.img", &["inject", "raw-efi.img", "-o", "out.img.zst"]),
        ("raw-efi.img.zst", &["inject", "raw-efi.img.zst"]),
        ("raw-efi.img.zst", &["inject", "raw-efi.img.zst", "-o", "out.img"]),
    ] {
        let layout = images::RAW_EFI;
        let manifest = Manifest::new(twenty(layout));
        let input = manifest.scratch.join(from);
        match from.ends_with(".zst") {
            true => drop(fs::copy(layout.compressed(), &input).expect("copying an image")),
            false => drop(layout.committed(&manifest.scratch)),
        }
        if is_root() {
            manifest.scratch.give_to(NOBODY);
        }
        let out = args.last().map(|name| manifest.scratch.join(name)).expect("a name");
        let run = |args: &[&str]| manifest.deaddrop(args).unprivileged().traced(CALLS).run();
        let done = run(args).expect_code(0).expect_error("20 secrets written");
        assert_confined(&done);
        for command in ["verify", "plan"] {
            let done = run(&[command, out.to_str().expect("UTF-8")]).expect_code(0);
            assert_confined(&done);
        }
        let data = fs::metadata(&out).expect("the result");
        assert_eq!(data.mode() & 0o7777, 0o600);
        if is_root() {
            assert_eq!((data.uid(), data.gid()), (NOBODY, NOBODY));
        }
        let image = unpacked(&manifest.scratch, &out, images::RAW_EFI);
        assert_fsck_clean(&image);
        manifest.assert_in(&image, &Tree::of(&image));
    }
}

#[test]
fn no_value_leaves_a_run_that_tells_all_it_can() {
    // `Manifest::deaddrop` plants every value, and a run searches its outputs, its children's arguments and
    // environments, and TMPDIR; that it would find a leak is shown in tests/it/harness.rs.
    let layout = images::LEGACY;
    let mut manifest = Manifest::new(twenty(layout));
    let image = layout.committed(&manifest.scratch);
    let all = |command: &str| vec!["-vv".to_owned(), "--json".to_owned(), command.to_owned(), "legacy.img".to_owned()];
    let run = |manifest: &Manifest, args: &[String], more: &[Canary], code: i32| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let run = manifest.deaddrop(&args).traced("%process").env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace");
        more.iter().fold(run, |run, canary| run.plant(canary)).run().expect_code(code)
    };
    run(&manifest, &all("plan"), &[], 0);
    run(&manifest, &all("verify"), &[], 3);
    run(&manifest, &[&all("inject")[..], &["-o".into(), "out.img.zst".into()]].concat(), &[], 0);
    run(&manifest, &all("inject"), &[], 0);
    // What was made of the passwords is as good as the passwords, and so is what stood there before.
    let hash = |path: &str| debugfs(&image, &[format!("cat {path}")]).concat();
    let hashes = ["/etc/secrets/admin-password", "/etc/secrets/nobody-password"].map(hash);
    let mut made: Vec<Canary> = hashes.iter().map(|hash| Canary::of("a hash", hash.trim_end().as_bytes())).collect();
    let old: Vec<Item> = manifest.items.clone();
    for item in &old {
        if item.from != From::File {
            manifest.replace(item.with_new_value());
        }
    }
    made.extend(old.iter().filter_map(Item::canary));
    run(&manifest, &all("plan"), &made, 0);
    run(&manifest, &all("verify"), &made, 3);
    run(&manifest, &all("inject"), &made, 0);
    run(&manifest, &all("verify"), &made, 0);
    assert_only_files(&manifest.scratch, &["legacy.img", "out.img.zst"]);
}

#[test]
fn no_value_leaves_a_run_that_fails() {
    let layout = images::LEGACY;
    let base = Item::new("base", "/etc/secrets/base");
    let bad = |keys, path| Item::new("bad", path).keys(keys);
    for (name, item, image, tampering, code, want) in [
        ("no image", base.clone(), "missing.img", None, 1, "missing.img"),
        ("a place that is refused", bad("", "/etc/hosts"), "legacy.img", None, 1, "NX004"),
        ("an owner that is not there", bad("owner: k3s", "/etc/x"), "legacy.img", None, 1, "no user `k3s` yet"),
        ("no hash", bad("used_by: users.users.admin.hashedPasswordFile", "/etc/x"), "legacy.img", None, 1, "NX012"),
        (
            "a hash of a hash",
            bad("hash: yescrypt", "/etc/x")
                .bytes(b"$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"),
            "legacy.img",
            None,
            1,
            "hash",
        ),
        ("a write that fails", base.clone(), "legacy.img", Some("pwrite64:error=EIO:when=3"), 1, "nothing was changed"),
        ("a disk that is full", base.clone(), "legacy.img", Some("pwrite64:error=ENOSPC:when=9"), 1, "No space left"),
        ("a sync that fails", base, "legacy.img", Some("fsync,fdatasync:error=EIO"), 1, "nothing was changed"),
    ] {
        let mut items = few();
        items.push(item);
        let manifest = Manifest::new(items);
        let standing = layout.committed(&manifest.scratch);
        // What was written and taken back again leaves another time, and may fill a hole with zeros.
        let looks = || match tampering {
            None => format!("{:?}", fingerprint(&standing.path)),
            Some(_) => {
                format!("{:o} {}", fs::metadata(&standing.path).expect("the image").mode(), sha256_of(&standing.path))
            }
        };
        let before = looks();
        let outputs = [&[][..], &["-o", "out.img"], &["-o", "out.img.zst"]];
        // A packed output is written by other calls, and so few of them that one cannot be told from a line for people.
        let count = if tampering.is_some_and(|call| call.starts_with("pwrite64")) { 2 } else { 3 };
        for more in &outputs[..count] {
            let mut run = manifest
                .deaddrop(&[&["-vv", "--json", "inject", image][..], *more].concat())
                .env("RUST_BACKTRACE", "1");
            if let Some(tampering) = tampering {
                run = run.tampered(tampering);
            }
            let done = run.run().expect_code(code).expect_error(want);
            assert!(done.stdout().is_empty(), "{name}: JSON after a failure");
            assert_eq!(looks(), before, "{name} {more:?}: the image was touched");
            assert_only_files(&manifest.scratch, &["legacy.img"]);
        }
    }
}
