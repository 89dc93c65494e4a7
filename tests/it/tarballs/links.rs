//! Hard links to what is replaced, and names that several entries have. Tars by hand, with Python's tarfile; judged by
//! GNU tar, which extracts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{assert_in, assert_lists, by_script, extracted};
use crate::kit::files::holds;
use crate::kit::manifest::{Item, Manifest};
use crate::kit::tool;

/// Entries in the words of `SCRIPT`: a name, and what it is.
const SCRIPT: &str = r#"
import io, sys, tarfile
out, form, *entries = sys.argv[1:]
with tarfile.open(out, "w", format={"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[form]) as archive:
    for entry in entries:
        name, kind, rest = entry.split("|", 2)
        member = tarfile.TarInfo(name)
        member.mtime = 1
        data = None
        if kind == "dir":
            member.type, member.mode = tarfile.DIRTYPE, 0o755
        elif kind == "file":
            data = rest.encode()
            member.size, member.mode = len(data), 0o644
        elif kind == "hard":
            member.type, member.linkname = tarfile.LNKTYPE, rest
        elif kind == "sym":
            member.type, member.linkname = tarfile.SYMTYPE, rest
        archive.addfile(member, io.BytesIO(data) if data is not None else None)
"#;

fn tar(manifest: &Manifest, form: &str, entries: &[&str]) -> PathBuf {
    let path = manifest.scratch.join("node.tar");
    let entries = [&[path.to_str().unwrap(), form], entries].concat();
    by_script(SCRIPT, &entries);
    path
}

fn manifest() -> Manifest {
    Manifest::new(vec![Item::new("token", "/etc/token")])
}

/// Injects, and returns the extracted root.
fn injected(manifest: &Manifest, tar: &Path) -> PathBuf {
    manifest.deaddrop(&["plan", "node.tar"]).run().expect_code(0);
    manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0);
    assert_lists(tar);
    manifest.deaddrop(&["verify", "node.tar"]).run().expect_code(0);
    let root = extracted(&manifest.scratch, tar, "after");
    assert_in(&manifest.items, &root);
    root
}

#[test]
fn hard_links_to_a_replaced_file_keep_its_content_and_each_other() {
    let long = format!("etc/{}", "long".repeat(40));
    for form in ["gnu", "pax"] {
        for entries in [
            // The replaced name has the content; is a link itself; and links lead to it under several names.
            &["etc|dir|", "etc/token|file|old content", "etc/b|hard|etc/token", "etc/c|hard|etc/token"][..],
            &["etc|dir|", "etc/b|file|old content", "etc/token|hard|etc/b", "etc/c|hard|etc/token"],
            &["etc|dir|", "etc/token|file|old content", "etc/b|hard|etc/token", "etc/c|hard|etc/b"],
            &[
                "etc|dir|",
                "etc/token|file|old content",
                &format!("{long}|hard|etc/token"),
                "etc/c|hard|etc/token",
                &format!("etc/b|hard|{long}"),
            ],
        ] {
            let manifest = manifest();
            let tar = tar(&manifest, form, entries);
            let root = injected(&manifest, &tar);
            for name in ["etc/b", "etc/c"] {
                assert_eq!(fs::read_to_string(root.join(name)).unwrap(), "old content", "{entries:?}");
            }
            let inode = |name| std::os::unix::fs::MetadataExt::ino(&fs::metadata(root.join(name)).unwrap());
            assert_eq!(inode("etc/b"), inode("etc/c"), "{entries:?}");
            assert_ne!(inode("etc/b"), inode("etc/token"), "{entries:?}");
        }
    }
}

#[test]
fn a_hard_link_to_a_replaced_file_with_holes_keeps_the_holes() {
    for options in [&["--format=gnu"][..], &["--format=pax"], &["--format=pax", "--sparse-version=0.1"]] {
        let manifest = manifest();
        let root = manifest.scratch.join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        let sparse = fs::File::create(root.join("etc/token")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        // More parts than a header of old GNU form has room for.
        for at in 0..40 {
            std::os::unix::fs::FileExt::write_all_at(&sparse, b"part", at * 70_000).unwrap();
        }
        fs::hard_link(root.join("etc/token"), root.join("other")).unwrap();
        let tar = manifest.scratch.join("node.tar");
        let command = &mut Command::new("tar");
        tool(
            command
                .args(options)
                .args(["-S", "--owner=0", "--group=0", "-cf"])
                .arg(&tar)
                .args(["etc", "other"])
                .current_dir(&root),
        );
        let after = injected(&manifest, &tar);
        assert!(fs::read(after.join("other")).unwrap() == fs::read(root.join("etc/token")).unwrap(), "{options:?}");
        assert!(fs::metadata(&tar).unwrap().len() < 1 << 20, "{options:?}");
    }
}

#[test]
fn a_new_file_gets_the_label_of_its_neighbours() {
    let manifest = manifest();
    let path = manifest.scratch.join("node.tar");
    let make = r#"
import io, sys, tarfile
with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as archive:
    for name, label in (("etc", "etc_t"), ("etc/a", "file_t"), ("etc/b", "file_t")):
        member = tarfile.TarInfo(name)
        member.pax_headers = {"SCHILY.xattr.security.selinux": "u:object_r:" + label + ":s0\0"}
        if name == "etc":
            member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member, io.BytesIO(b""))
"#;
    by_script(make, &[path.to_str().unwrap()]);
    injected(&manifest, &path);
    let list = "import sys, tarfile\nprint(tarfile.open(sys.argv[1]).getmember('etc/token').pax_headers)";
    let list = by_script(list, &[path.to_str().unwrap()]);
    assert!(list.contains("'SCHILY.xattr.security.selinux': 'u:object_r:file_t:s0\\x00'"), "{list}");
}

#[test]
fn the_last_entry_of_a_name_counts_and_all_of_them_go() {
    let manifest = manifest();
    let entries = [
        "etc|dir|",
        "etc/token|file|the first value of it",
        "etc/passwd|file|svc:x:1:1::/:/bin/sh\n",
        "./etc//token|file|the second value of it",
        "etc/passwd|file|svc:x:7:7::/:/bin/sh\n",
    ];
    let tar = tar(&manifest, "gnu", &entries);
    let root = injected(&manifest, &tar);
    assert!(!holds(&tar, b"value of it"));
    assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().contains(":7:7:"));
    let mut owned = Manifest::new(vec![Item::new("token", "/etc/token").keys("owner: svc").owned(0o400, 7, 0)]);
    fs::copy(&tar, owned.scratch.join("node.tar")).unwrap();
    owned.items[0].gid = 0;
    let tar = owned.scratch.join("node.tar");
    injected(&owned, &tar);
}

#[test]
fn a_link_to_an_earlier_file_of_the_name_keeps_that_one() {
    let manifest = manifest();
    let entries =
        ["etc|dir|", "etc/token|file|first", "etc/b|hard|etc/token", "etc/token|file|second", "etc/c|hard|etc/token"];
    let root = injected(&manifest, &tar(&manifest, "pax", &entries));
    assert_eq!(fs::read_to_string(root.join("etc/b")).unwrap(), "first");
    assert_eq!(fs::read_to_string(root.join("etc/c")).unwrap(), "second");
}

#[test]
fn a_path_through_a_symbolic_link_is_resolved_inside_of_the_tar() {
    for target in ["/real", "../../real", "real"] {
        let mut manifest = Manifest::new(vec![Item::new("token", "/etc/token")]);
        let tar = tar(
            &manifest,
            "gnu",
            &["real|dir|", "usr|dir|", "nix|dir|", "nix/store|dir|", &format!("etc|sym|{target}")],
        );
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0).expect_error("/etc/token");
        assert_lists(&tar);
        manifest.items[0].path = "/real/token";
        assert_in(&manifest.items, &extracted(&manifest.scratch, &tar, "after"));
    }
}

#[test]
fn what_programs_extract_differently_is_refused() {
    for (entries, want) in [
        (&["etc|dir|", "a|sym|/etc", "a/b|file|x"][..], "lies below what is a symbolic link"),
        (&["etc|dir|", "a|file|x", "a/b|file|x"], "lies below what is a regular file"),
        (&["etc|dir|", "etc/a|file|x", "etc|file|x"], "is no directory, and others are below it"),
        (&["etc|dir|", "a|hard|b"], "is a hard link to what is not before it"),
        (&["etc|dir|", "a|hard|etc"], "is a hard link to a directory"),
        (&["etc|dir|", "a|hard|../etc/shadow"], "has `..` in its name"),
        (&["etc|dir|", "a|hard|/etc/shadow"], "has an absolute name"),
        (&["etc|dir|", "../a|file|x"], "has `..` in its name"),
        (&["etc|dir|", "etc/../../a|file|x"], "has `..` in its name"),
        (&["etc|dir|", "/a|file|x"], "has an absolute name"),
        (&["etc|dir|", ".|file|x"], "is the top of the tree, and no directory"),
    ] {
        let manifest = manifest();
        tar(&manifest, "gnu", entries);
        manifest.deaddrop(&["inject", "node.tar"]).limited().run().expect_refusal(want, 1, &[want]);
    }
}
