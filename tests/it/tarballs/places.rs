//! What the other commands say of a tar.

use std::process::Command;

use super::{MAKERS, items, prepared};
use crate::kit::files::fingerprint;
use crate::kit::manifest::{Item, Manifest};
use crate::kit::nixos::{NixosRoot, Users};
use crate::kit::tool;

#[test]
fn inspect_names_each_layer_and_json_has_them() {
    let (manifest, tar) = prepared(items(), &MAKERS[1], "node.tar");
    let packed = tool(Command::new("xz").arg("-c").arg(&tar)).stdout;
    manifest.scratch.write("node.tar.xz", packed);
    let run = manifest.deaddrop_alone(&["inspect", "node.tar.xz"]).run().expect_code(0);
    run.expect_output("xz → tar of a root file system").expect_output("pax headers");
    let json = manifest.deaddrop_alone(&["inspect", "--json", "node.tar.xz"]).run().expect_code(0).json();
    let kinds: Vec<&str> =
        json["layers"].as_array().unwrap().iter().map(|layer| layer["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["xz", "tar"]);
    assert_eq!(json["container"]["kind"], "xz");
    assert_eq!(json["tar"]["form"], "pax");
    assert!(json["table"].is_null() && json["partitions"].as_array().unwrap().is_empty());
    let image = crate::kit::images::LEGACY.committed(&manifest.scratch).path;
    let image = image.file_name().unwrap().to_str().unwrap();
    let json = manifest.deaddrop_alone(&["inspect", "--json", image]).run().expect_code(0).json();
    assert!(json["tar"].is_null() && json.as_object().unwrap().contains_key("tar"));
}

#[test]
fn scan_finds_values_in_files_that_others_can_read_and_writes_nothing() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/secrets/token")]);
    let root = super::root(&manifest.scratch);
    std::fs::write(root.join("nix/store/leak"), &manifest.items[0].value).unwrap();
    let tar = MAKERS[3].make(&manifest.scratch, &root, "node.tar");
    let before = fingerprint(&tar);
    manifest.deaddrop(&["scan", "node.tar"]).run().expect_code(3).expect_output("/nix/store/leak");
    assert!(fingerprint(&tar) == before);
    std::fs::remove_file(root.join("nix/store/leak")).unwrap();
    MAKERS[3].make(&manifest.scratch, &root, "node.tar");
    manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0);
    manifest.deaddrop(&["scan", "node.tar"]).run().expect_code(0);
}

#[test]
fn lint_reads_a_nixos_from_a_tar_as_from_its_directory() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/secrets/token")]);
    let mut root = NixosRoot::new(&manifest.scratch);
    root.users(Users::Perl { mutable: false });
    let tar = manifest.scratch.join("node.tar.xz");
    // As nixpkgs makes LXC's tarballs.
    let pack = "exec tar --sort=name --owner=0 --group=0 --numeric-owner -cJf \"$0\" *";
    tool(Command::new("sh").args(["-c", pack]).arg(&tar).current_dir(root.path()));
    let linted = |target: &str| {
        let mut json = manifest.deaddrop(&["lint", "--json", target]).run().expect_code(0).json();
        json["target"].take();
        json
    };
    assert_eq!(linted("node.tar.xz"), linted("root"));
    let before = fingerprint(&tar);
    manifest
        .deaddrop_alone(&["inspect", "node.tar.xz"])
        .run()
        .expect_code(0)
        .expect_output("NixOS: nixos-system-node1");
    assert!(fingerprint(&tar) == before);
}

#[test]
fn a_tar_smaller_than_a_block_when_it_is_compressed_is_taken_and_gets_its_digests() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/token")]);
    std::fs::create_dir_all(manifest.scratch.join("root/etc")).unwrap();
    let tar = manifest.scratch.join("node.tar.gz");
    let root = manifest.scratch.join("root");
    tool(Command::new("tar").args(["--owner=0", "--group=0", "-czf"]).arg(&tar).arg("etc").current_dir(root));
    assert!(std::fs::metadata(&tar).unwrap().len() < 512);
    manifest.deaddrop(&["inject", "node.tar.gz", "-o", "out.tar.gz", "--sidecars"]).run().expect_code(0);
    tool(
        Command::new("sha256sum").args(["-c", "out.tar.gz.sha256", "SHA256SUMS"]).current_dir(manifest.scratch.path()),
    );
    assert!(!manifest.scratch.join("out.tar.gz.bmap").exists());
    manifest.deaddrop(&["inject", "out.tar.gz"]).run().expect_code(0).expect_error("nothing to do");
}

#[test]
fn plan_writes_nothing_and_json_has_the_changes() {
    let (manifest, tar) = prepared(items(), &MAKERS[0], "node.tar");
    let before = fingerprint(&tar);
    let json = manifest.deaddrop(&["plan", "--json", "node.tar"]).run().expect_code(0).json();
    assert_eq!(json["changes"].as_array().unwrap().len(), manifest.items.len());
    manifest.deaddrop(&["plan", "--exit-code", "--quick", "node.tar"]).run().expect_code(3);
    assert!(fingerprint(&tar) == before);
}
