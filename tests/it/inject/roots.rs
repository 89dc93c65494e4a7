//! Which partition is the root, as the program chooses it or is told to.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::outputs::few;
use crate::kit::disk::sfdisk;
use crate::kit::files::fingerprint;
use crate::kit::images::{self, Image};
use crate::kit::manifest::Manifest;
use crate::kit::mount::debugfs_write;
use crate::kit::tool;
use crate::kit::tree::Tree;

const MIB: u64 = 1 << 20;

/// A GPT disk `two.img` whose partitions 1 and 2, 64 MiB each, are the committed image `none` with these labels; an
/// empty label leaves a partition without a file system.
fn two_roots(manifest: &Manifest, labels: [&str; 2]) -> [Image; 2] {
    let path = manifest.scratch.join("two.img");
    let file = fs::File::create_new(&path).expect("making an image");
    file.set_len(132 * MIB).expect("sizing an image");
    sfdisk(&path, "label: gpt\nstart=2048, size=131072\nsize=131072\n");
    let roots = [Image::new(&path, MIB), Image::new(&path, 65 * MIB)];
    for (root, label) in roots.iter().zip(labels) {
        if label.is_empty() {
            continue;
        }
        let one = images::NONE.committed(&manifest.scratch);
        tool(Command::new("tune2fs").args(["-L", label]).arg(&one.path));
        file.write_all_at(&fs::read(&one.path).expect("an image"), root.root_offset).expect("writing a partition");
        fs::remove_file(&one.path).expect("removing an image");
    }
    roots
}

#[test]
fn the_label_of_nixos_decides_and_verbose_says_so() {
    let manifest = Manifest::new(few());
    let [other, root] = two_roots(&manifest, ["data", "nixos"]);
    let before = Tree::of(&other);
    let done = manifest.deaddrop(&["-v", "inject", "two.img"]).run().expect_code(0);
    assert!(done.stderr().contains("partition 2 (ext4, nixos), chosen by its label"), "{}", done.stderr());
    manifest.assert_in(&root, &Tree::of(&root));
    assert!(before.changes(&Tree::of(&other)).is_empty(), "the other partition changed");
}

#[test]
fn a_person_decides_by_number_or_by_label() {
    for (asked, which) in [("1", 0), ("2", 1), ("data", 0), ("nixos", 1)] {
        let manifest = Manifest::new(few());
        let roots = two_roots(&manifest, ["data", "nixos"]);
        let done = manifest.deaddrop(&["-v", "inject", "two.img", "--root-partition", asked]).run().expect_code(0);
        assert!(done.stderr().contains("chosen by --root-partition"), "{asked}: {}", done.stderr());
        manifest.assert_in(&roots[which], &Tree::of(&roots[which]));
        assert!(!Tree::of(&roots[1 - which]).0.contains_key("/etc/secrets/token"), "{asked}: not the other one");
        manifest.deaddrop(&["verify", "two.img", "--root-partition", asked]).run().expect_code(0);
    }
}

#[test]
fn without_one_that_stands_out_nothing_is_written() {
    for (name, labels, asked, want) in [
        (
            "two labels of NixOS",
            ["nixos", "NIXOS_SD"],
            None,
            &["2 partitions have the label of a NixOS root", "--root-partition"][..],
        ),
        ("two with a store", ["a", "b"], None, &["2 partitions hold /nix/store", "--root-partition"]),
        ("no file system", ["", ""], None, &["no root found"]),
        ("a partition that is not there", ["data", "nixos"], Some("3"), &["there is no partition `3`"]),
        ("a label that is not there", ["data", "nixos"], Some("root"), &["there is no partition `root`"]),
        (
            "a label that two have",
            ["same", "same"],
            Some("same"),
            &["2 partitions are called `same`", "--root-partition N"],
        ),
        ("one without a file system", ["", "nixos"], Some("1"), &["partition 1 holds no file system"]),
    ] {
        let manifest = Manifest::new(few());
        two_roots(&manifest, labels);
        let before = fingerprint(&manifest.scratch.join("two.img"));
        for command in ["inject", "plan", "verify"] {
            let mut args = vec![command, "two.img"];
            args.extend(asked.iter().flat_map(|asked| ["--root-partition", asked]));
            manifest.deaddrop(&args).run().expect_refusal(name, 1, want);
        }
        assert_eq!(fingerprint(&manifest.scratch.join("two.img")), before, "{name}");
    }
}

#[test]
fn the_only_store_decides_where_no_label_does() {
    let manifest = Manifest::new(few());
    let [first, second] = two_roots(&manifest, ["a", "b"]);
    // The second has no /nix any more: its name leads nowhere.
    debugfs_write(&second, "unlink /nix\n");
    let done = manifest.deaddrop(&["-v", "inject", "two.img"]).run().expect_code(0);
    assert!(done.stderr().contains("the only one that holds /nix/store"), "{}", done.stderr());
    manifest.assert_in(&first, &Tree::of(&first));
}
