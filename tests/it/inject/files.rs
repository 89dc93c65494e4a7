//! What stands where a secret is to go: links on the way, links and other things at the place, hard links, owners,
//! missing parents, and a shadow file that knows another password.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::kit::files::fingerprint;
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{Item, Manifest};
use crate::kit::mount::{assert_fsck_clean, debugfs_write};
use crate::kit::tree::{Kind, Tree};

/// A manifest of one secret at `path`, and the image of `layout`, prepared.
fn one(layout: Layout, item: Item, script: &str) -> (Manifest, Image, String) {
    let manifest = Manifest::new(vec![item]);
    let image = layout.committed(&manifest.scratch);
    debugfs_write(&image, script);
    (manifest, image, format!("{}.img", layout.name))
}

#[test]
fn links_on_the_way_are_followed_inside_the_image() {
    // /var/lib/kept is where they all lead.
    for (name, script, path) in [
        ("relative", "symlink /here var/lib/kept\n", "/here/secret"),
        ("absolute", "symlink /here /var/lib/kept\n", "/here/secret"),
        ("two in a row", "symlink /one /two\nsymlink /two var/lib/kept\n", "/one/secret"),
        ("in the middle", "symlink /srv/lib ../var/lib\n", "/srv/lib/kept/secret"),
        ("up, and never out", "symlink /here ../../../../var/lib/kept\n", "/here/secret"),
        (
            "longer than an inode holds",
            "symlink /here /var/lib/../lib/../lib/../lib/../lib/../lib/../lib/../lib/../lib/kept\n",
            "/here/secret",
        ),
    ] {
        let script = format!("mkdir /var/lib/kept\n{script}");
        let (manifest, image, file) = one(images::RAW_EFI, Item::new("secret", path), &script);
        let before = Tree::of(&image);
        let planned = manifest.deaddrop(&["plan", &file]).run().expect_code(0);
        planned.expect_output("at /var/lib/kept/secret");
        manifest.deaddrop(&["inject", &file]).run().expect_code(0);
        let after = Tree::of(&image);
        before.assert_only(&after, &["/var/lib/kept/secret"], &["/var/lib/kept"]);
        let node = after.at("/var/lib/kept/secret");
        assert_eq!((node.mode, node.uid, node.gid), (0o400, 0, 0), "{name}");
        let want = Kind::File { sha256: crate::kit::sha256(&manifest.items[0].value[..]).expect("reading memory") };
        assert!(node.kind == want, "{name}: not the bytes of its value");
        assert_fsck_clean(&image);
        manifest.deaddrop(&["verify", &file]).run().expect_code(0);
    }
}

#[test]
fn what_stands_at_the_place_is_refused_by_its_kind() {
    const ODD: &str = "mkdir /odd\nsymlink /odd/there /etc/nixos/configuration.nix\nsymlink /odd/chain there\n\
                       cd /odd\nmknod block b 7 0\ncd /\nsymlink /odd/into-store /nix/store\n\
                       symlink /odd/out ../../../../etc/shadow\n";
    for (path, code, want) in [
        ("/var/lib/nixos", 1, &["/var/lib/nixos is a directory"][..]),
        ("/var/lib/oddities/pipe", 1, &["is a FIFO"]),
        ("/var/lib/oddities/null", 1, &["is a character device"]),
        ("/odd/block", 1, &["is a block device"]),
        ("/odd/there", 1, &["/odd/there is a symbolic link: /odd/there -> /etc/nixos/configuration.nix"]),
        ("/odd/chain", 1, &["/odd/chain -> there, /odd/there -> /etc/nixos/configuration.nix"]),
        ("/odd/out", 1, &["is a symbolic link", "../../../../etc/shadow"]),
        ("/bin/sh", 1, &["NX010", "/bin/sh -> /nix/store/"]),
        ("/odd/into-store/secret", 1, &["NX010", "/odd/into-store -> /nix/store"]),
        ("/var/lib/oddities/dangling", 1, &["is a symbolic link", "leads to nothing", "../gone/away"]),
        (
            "/var/lib/oddities/dangling/secret",
            1,
            &["NX010", "leads to nothing", "/var/lib/oddities/dangling -> ../gone/away"],
        ),
        ("/var/lib/oddities/dangling-absolute/secret", 1, &["NX010", "-> /persist/secrets"]),
        ("/var/lib/oddities/round-1/secret", 1, &["NX010", "more than 40 symbolic links", "round-2"]),
        ("/var/lib/oddities/round-1", 1, &["more than 40 symbolic links"]),
        ("/var/lib/oddities/holes/secret", 1, &["/var/lib/oddities/holes is a regular file, not a directory"]),
        ("/etc/systemd/system/secret", 1, &["NX004", "/etc/systemd/system"]),
        ("/etc/ssh/ssh_config", 1, &["NX004"]),
        ("/var/lib/oddities/to-etc/ssh/ssh_config", 1, &["NX004"]),
        ("/var/lib/oddities/to-etc/shadow", 1, &["NX005", "/var/lib/oddities/to-etc -> /etc"]),
        ("/var/run/secret", 2, &["NX002"]),
    ] {
        let (manifest, image, file) = one(images::RAW_EFI, Item::new("secret", path), ODD);
        let before = fingerprint(&image.path);
        for command in ["plan", "inject", "verify"] {
            let done = manifest.deaddrop(&[command, &file]).run().expect_refusal(path, code, want);
            assert!(done.stderr().contains("hint: "), "{path}: {}", done.stderr());
        }
        manifest.deaddrop(&["inject", &file, "-o", "out.img"]).run().expect_refusal(path, code, want);
        assert!(!manifest.scratch.join("out.img").exists(), "{path}");
        assert_eq!(fingerprint(&image.path), before, "{path}");
    }
}

#[test]
fn all_places_that_are_refused_are_told_at_once() {
    let manifest = Manifest::new(vec![
        Item::new("first", "/var/lib/nixos"),
        Item::new("good", "/etc/secrets/good"),
        Item::new("second", "/etc/hosts"),
        Item::new("third", "/etc/secrets/third").keys("owner: k3s"),
    ]);
    images::LEGACY.committed(&manifest.scratch);
    let said = manifest.deaddrop(&["inject", "legacy.img"]).run().expect_code(1).stderr();
    assert_eq!(said.matches("error: ").count(), 3, "{said}");
    for secret in ["first", "second", "third"] {
        assert!(said.contains(&format!("legacy.img: {secret}: ")), "{said}");
    }
}

#[test]
fn other_names_of_a_replaced_file_keep_the_old_content_and_that_is_said() {
    let (odd, other) = ("/var/lib/oddities/linked", "/var/lib/linked-too");
    let (manifest, image, file) = one(images::HYBRID, Item::new("secret", odd), "");
    let before = Tree::of(&image);
    let done = manifest.deaddrop(&["inject", &file, "--json"]).run().expect_code(0);
    let said = done.stderr();
    assert!(said.contains("DD101") && said.contains("1 more hard link, which keeps the old content"), "{said}");
    // The directory is a user's.
    assert_eq!(
        (&done.json()["warnings"][0]["code"], &done.json()["warnings"][1]["code"]),
        (&json!("DD210"), &json!("DD101"))
    );
    let after = Tree::of(&image);
    manifest.assert_in(&image, &after);
    assert_ne!(after.at(odd).inode, before.at(odd).inode, "a replaced file is a new one");
    assert_eq!((after.at(other).inode, after.at(other).links), (before.at(other).inode, 1));
    assert_eq!((&after.at(other).kind, after.at(other).mode), (&before.at(other).kind, 0o640));
    before.assert_only(&after, &[odd, other], &["/var/lib/oddities"]);
    assert_fsck_clean(&image);
    // It has one name now.
    let again = manifest.deaddrop(&["inject", &file, "--json"]).run().expect_code(0);
    assert_eq!(again.json()["warnings"].as_array().map(Vec::len), Some(1), "{}", again.stderr());
}

#[test]
fn a_file_of_which_only_mode_or_owner_differ_keeps_its_inode() {
    let mut manifest = Manifest::new(vec![Item::new("secret", "/etc/secrets/secret")]);
    let image = images::LEGACY.committed(&manifest.scratch);
    manifest.deaddrop(&["inject", "legacy.img"]).run().expect_code(0);
    let first = Tree::of(&image);
    let item = manifest.items[0].clone();
    manifest.replace(item.keys("mode: \"0440\", group: keys").owned(0o440, 0, 96));
    let done = manifest.deaddrop(&["inject", "legacy.img", "--json"]).run().expect_code(0);
    assert_eq!(done.json()["changes"][0]["action"], "metadata");
    let second = Tree::of(&image);
    manifest.assert_in(&image, &second);
    assert_eq!(first.at("/etc/secrets/secret").inode, second.at("/etc/secrets/secret").inode);
    first.assert_only(&second, &["/etc/secrets/secret"], &[]);
    assert_fsck_clean(&image);
}

#[test]
fn an_owner_that_the_image_does_not_have_is_refused_with_the_number_as_the_way_out() {
    for (layout, keys, want) in [
        (images::RAW_EFI, "owner: k3s", &["no user `k3s` yet", "/etc/passwd", "number", "users.users.k3s.uid"][..]),
        (images::RAW_EFI, "group: k3s", &["no group `k3s` yet", "/etc/group", "number", "users.groups.k3s.gid"]),
        (images::SD, "group: wheel", &["NX107", "no group `wheel` yet", "number"]),
    ] {
        let (manifest, image, file) = one(layout, Item::new("secret", "/etc/secrets/secret").keys(keys), "");
        let before = fingerprint(&image.path);
        manifest.deaddrop(&["inject", &file]).run().expect_refusal(keys, 1, want);
        assert_eq!(fingerprint(&image.path), before, "{keys}");
    }
}

#[test]
fn missing_parents_are_as_open_as_their_files_need() {
    let theirs = || Item::new("theirs", "/etc/secrets/theirs").keys("owner: 1000, group: 100").owned(0o400, 1000, 100);
    let grouped = || Item::new("theirs", "/etc/secrets/theirs").keys("group: 100, mode: \"0440\"").owned(0o440, 0, 100);
    let asked = || Item::new("ours", "/etc/secrets/ours").keys("directory_mode: \"0750\"");
    let ours = || Item::new("ours", "/etc/secrets/ours");
    for (name, items, want) in [
        ("only root's", vec![ours()], &[("/etc", 0o755), ("/etc/secrets", 0o700)][..]),
        ("another user's, too", vec![ours(), theirs()], &[("/etc/secrets", 0o711)]),
        ("a group's, too", vec![ours(), grouped()], &[("/etc/secrets", 0o711)]),
        ("as asked", vec![asked(), theirs()], &[("/etc/secrets", 0o750)]),
        ("root's home", vec![Item::new("a", "/root/.ssh/id")], &[("/root", 0o700), ("/root/.ssh", 0o700)]),
        (
            "a way down",
            vec![Item::new("a", "/var/lib/rancher/k3s/server/x")],
            &[
                ("/var", 0o755),
                ("/var/lib", 0o755),
                ("/var/lib/rancher", 0o755),
                ("/var/lib/rancher/k3s", 0o755),
                ("/var/lib/rancher/k3s/server", 0o700),
            ],
        ),
        ("known to everybody", vec![Item::new("a", "/etc/ssh/key")], &[("/etc", 0o755), ("/etc/ssh", 0o755)]),
    ] {
        let manifest = Manifest::new(items);
        let image = images::SD.committed(&manifest.scratch);
        manifest.deaddrop(&["inject", "sd.img"]).run().expect_code(0);
        let tree = Tree::of(&image);
        manifest.assert_in(&image, &tree);
        for (path, mode) in want {
            let node = tree.at(path);
            assert_eq!((node.mode, node.uid, node.gid), (*mode, 0, 0), "{name}: {path}");
        }
        assert_fsck_clean(&image);
    }
}

/// A crypt(3) hash of a password, by libcrypt.
fn hash_of(password: &[u8]) -> String {
    let mut mkpasswd = Command::new("mkpasswd")
        .args(["-m", "yescrypt", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("running mkpasswd (Debian package whois)");
    mkpasswd.stdin.take().expect("a pipe").write_all(password).expect("writing to mkpasswd");
    let output = mkpasswd.wait_with_output().expect("waiting for mkpasswd");
    String::from_utf8(output.stdout).expect("a hash is text").trim_end().to_owned()
}

/// Puts a shadow file with one user in the place of the image's.
fn set_shadow(manifest: &Manifest, image: &Image, line: &str) {
    let path = manifest.scratch.join("shadow");
    writeln!(File::create(&path).expect("a file of ours"), "{line}").expect("writing a shadow file");
    let script = format!("rm /etc/shadow\nwrite {} /etc/shadow\nsif /etc/shadow mode 0100640\n", path.display());
    debugfs_write(image, &script);
    fs::remove_file(path).expect("removing a file of ours");
}

#[test]
fn a_shadow_line_with_another_password_is_warned_about_where_that_is_allowed() {
    let item = Item::new("admin-password", "/etc/secrets/admin-password")
        .keys("hash: yescrypt, used_by: users.users.admin.hashedPasswordFile, allow: { NX101: a test }")
        .hashed("$y$");
    let (ours, theirs) = (hash_of(&item.value), hash_of(b"another password"));
    for (name, line, warned) in [
        ("locked, as a build leaves it", "admin:!:1::::::", true),
        ("locked by passwd -l", &format!("admin:!{ours}:1::::::"), true),
        ("another password", &format!("admin:{theirs}:1::::::"), true),
        ("no password", "admin::1::::::", true),
        ("this password", &format!("admin:{ours}:1::::::"), false),
        ("another user's line", "root:!:1::::::", false),
    ] {
        let (manifest, image, file) = one(images::LEGACY, item.clone(), "");
        set_shadow(&manifest, &image, line);
        // Before, in the run itself, and afterwards, also when there is nothing to do any more.
        for (command, code) in [("plan", 0), ("verify", 3), ("inject", 0), ("inject", 0), ("verify", 0)] {
            let done = manifest.deaddrop(&[command, &file, "--json"]).run().expect_code(code);
            let json = done.json();
            let codes: Vec<&str> =
                json["warnings"].as_array().expect("a list").iter().filter_map(|w| w["code"].as_str()).collect();
            assert_eq!(codes, if warned { vec!["NX101"] } else { vec![] }, "{name}: {command}");
            assert_eq!(done.stderr().contains("! NX101"), warned, "{name}: {command}: {}", done.stderr());
            assert!(
                !done.stderr().contains(&ours[4..]) && !done.stderr().contains(&theirs[4..]),
                "{name}: a hash is shown"
            );
        }
    }
    // An image that was never activated has no shadow file.
    let (manifest, _, file) = one(images::SD, item, "");
    let done = manifest.deaddrop(&["inject", &file, "--json"]).run().expect_code(0);
    assert!(done.json()["warnings"].as_array().is_some_and(Vec::is_empty), "{}", done.stderr());
}

#[test]
fn a_directory_of_somebody_else_is_warned_about() {
    let script = "mkdir /srv/app\nset_inode_field /srv/app uid 1234\n";
    let (manifest, _image, file) = one(images::RAW_EFI, Item::new("secret", "/srv/app/x"), script);
    let run = manifest.deaddrop(&["inject", &file]).run().expect_code(0);
    run.expect_error("DD210").expect_error("/srv/app belongs to 1234, who can replace /srv/app/x");
}
