//! Which files are searched, in which targets.

use std::fs;
use std::os::unix::fs::symlink;

use super::Root;
use crate::kit::disk::zstd;
use crate::kit::images::Image;
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::mount::debugfs_write;
use crate::kit::{skipped_without_root, tool};

#[test]
fn only_files_that_others_can_read_are_searched_and_all_of_the_store() {
    let root = Root::new();
    let token = root.token.bytes();
    for (path, mode) in [
        ("/etc/open", 0o644),
        ("/etc/others-alone", 0o404),
        ("/etc/owner", 0o600),
        ("/etc/group", 0o640),
        ("/var/lib/closed/open", 0o644),
        ("/var/lib/closed/below/open", 0o644),
        ("/var/lib/passage/open", 0o644),
        ("/var/lib/listed/open", 0o644),
        ("/nix/store/p/share/readable", 0o444),
        ("/nix/store/p/share/owner", 0o400),
        ("/nix/store/q", 0o444),
        ("/nix/var/owner", 0o600),
    ] {
        root.put(path, mode, token);
    }
    root.set_mode("/var/lib/closed", 0o700);
    root.set_mode("/var/lib/passage", 0o711);
    root.set_mode("/var/lib/listed", 0o744);
    symlink("/etc/open", root.at("/etc/link")).unwrap();
    let want = [
        "/etc/open",
        "/etc/others-alone",
        "/nix/store/p/share/owner",
        "/nix/store/p/share/readable",
        "/nix/store/q",
        "/var/lib/passage/open",
    ]
    .map(|path| format!("token {path} raw"));
    assert_eq!(root.findings(), want);
    let image = root.image("16M", "");
    assert_eq!(root.findings_in(&image, &[]), want);
    assert_eq!(root.findings_in(zstd(&image), &[]), want);
    // The directory that a root is built in says nothing about the root.
    root.set_mode("/", 0o700);
    assert_eq!(root.findings(), want);
}

#[test]
fn the_secrets_own_file_is_no_finding_wherever_its_path_leads() {
    let root = Root::new();
    root.declare(&[
        "token: { path: /etc/secrets/token, from: env:TOKEN, mode: \"0444\", allow_world_readable: true, OWNER }",
        "same: { path: /srv/link/same, from: env:TOKEN, mode: \"0444\", allow_world_readable: true, OWNER }",
        "admin: { path: /etc/secrets/admin, from: env:ADMIN, OWNER }",
    ]);
    fs::create_dir_all(root.at("/srv/real")).unwrap();
    symlink("real", root.at("/srv/link")).unwrap();
    root.put("/etc/secrets/token", 0o444, root.token.bytes());
    root.put("/srv/real/same", 0o444, root.token.bytes());
    fs::hard_link(root.at("/etc/secrets/token"), root.at("/etc/another-name")).unwrap();
    assert!(root.findings().is_empty());
    assert!(root.findings_in(root.image("16M", ""), &[]).is_empty());
    // The file of another secret, whose value it is not.
    root.put("/etc/secrets/admin", 0o444, root.token.bytes());
    let want = ["same /etc/secrets/admin raw", "token /etc/secrets/admin raw"];
    assert_eq!(root.findings(), want);
    // Closed at its own path, and open at another one.
    fs::remove_file(root.at("/etc/secrets/admin")).unwrap();
    root.set_mode("/etc/secrets", 0o700);
    let want = ["same /etc/another-name raw", "token /etc/another-name raw"];
    assert_eq!(root.findings(), want);
}

#[test]
fn a_file_with_several_names_is_one_finding_by_its_own_name() {
    let root = Root::new();
    root.put("/nix/store/.links/0abc", 0o444, root.token.bytes());
    for name in ["/nix/store/p/share/one", "/nix/store/z"] {
        fs::hard_link(root.at("/nix/store/.links/0abc"), root.at(name)).unwrap();
    }
    let found = root.findings();
    assert!(matches!(&found[..], [one] if !one.contains(".links")), "{found:?}");
}

#[test]
fn a_file_system_that_is_mounted_at_nix_is_searched_as_a_store() {
    let root = Root::new();
    fs::rename(root.at("/nix/store"), root.at("/store")).unwrap();
    fs::remove_dir_all(root.at("/nix")).unwrap();
    root.put("/store/p/owner", 0o400, root.token.bytes());
    assert_eq!(root.findings_in(root.image("16M", ""), &[]), ["token /store/p/owner raw"]);
}

#[test]
fn a_block_device_is_searched() {
    if !has_loop_devices() {
        return;
    }
    let root = Root::new();
    root.put("/etc/open", 0o644, root.token.bytes());
    let device = Loop::new(root.image("16M", ""));
    assert_eq!(root.findings_in(&device.0, &[]), ["token /etc/open raw"]);
}

#[test]
fn without_a_host_the_values_of_all_hosts_are_searched_for() {
    let root = Root::new();
    let owner = format!("owner: {}, group: {}", nix::unistd::geteuid(), nix::unistd::getegid());
    root.scratch.write(
        "secrets.yaml",
        format!(
            "version: 1\nsecrets:\n\
             \x20 each: {{ path: /etc/secrets/each, from: \"env:{{host}}\", {owner} }}\n\
             \x20 one: {{ path: /etc/secrets/one, from: env:TOKEN, hosts: [node1], {owner} }}\n\
             hosts: {{ node1: {{}}, node2: {{}} }}\n"
        ),
    );
    root.put("/etc/token", 0o644, root.token.bytes());
    root.put("/etc/value-of-node1", 0o644, "the first host's");
    root.put("/etc/value-of-node2", 0o644, "the second host's");
    let findings = |args: &[&str]| {
        let run = root.deaddrop(&[&["scan", "root", "--json"], args].concat());
        super::findings(run.env("node1", "the first host's").env("node2", "the second host's").run())
    };
    let (one, two) = ("each /etc/value-of-node1 raw", "each /etc/value-of-node2 raw");
    assert_eq!(findings(&[]), ["one /etc/token raw", one, two]);
    assert_eq!(findings(&["--host", "node1"]), ["one /etc/token raw", one]);
    assert_eq!(findings(&["--host", "node2"]), [two]);
    assert_eq!(findings(&["--only", "each"]), [one, two]);
    assert_eq!(findings(&["--only", "one", "--host", "node1"]), ["one /etc/token raw"]);
    root.declare(&["each: { path: /etc/secrets/each, from: \"env:{host}\", OWNER }"]);
    root.deaddrop(&["scan", "root"]).run().expect_refusal("no hosts", 2, &["differs from host to host"]);
}

#[test]
fn what_cannot_be_read_is_told_and_no_clean_result() {
    if skipped_without_root("a run of another user") {
        return;
    }
    let root = Root::new();
    root.put("/nix/store/p/share/owner", 0o400, root.token.bytes());
    root.put("/var/lib/passage/open", 0o644, root.token.bytes());
    root.set_mode("/var/lib/passage", 0o711);
    let run = || root.deaddrop(&["scan", "root"]).unprivileged().run();
    run().expect_refusal(
        "not root",
        1,
        &["root: 2 files and directories could not be searched", "/nix/store/p/share/owner", "/var/lib/passage"],
    );
    root.put("/etc/open", 0o644, root.token.bytes());
    run().expect_code(3).expect_error("not searched: /nix/store/p/share/owner").expect_output("2 files not searched");
}

#[test]
fn directories_in_a_circle_and_files_that_overlap_come_to_an_end() {
    let root = Root::new();
    root.put("/etc/open", 0o644, root.token.bytes());
    root.put("/var/large", 0o644, vec![b'x'; 8 << 20]);
    for number in 0..10 {
        root.put(&format!("/var/copy-{number}"), 0o644, "");
    }
    let image = Image::new(root.image("16M", "-O ^has_journal"), 0);
    debugfs_write(&image, "link /etc /etc/again\nlink /etc /var/etc\n");
    assert_eq!(root.findings_in(&image.path, &[]), ["token /etc/open raw"]);
    let copies: String = (0..10).map(|number| format!("copy_inode /var/large /var/copy-{number}\n")).collect();
    debugfs_write(&image, &copies);
    let run = root.deaddrop(&["scan", image.path.to_str().unwrap()]).limited().run();
    run.expect_refusal("overlap", 1, &["its files are larger than the file system"]);
}

#[test]
fn a_damaged_file_is_told_and_the_others_are_searched() {
    let root = Root::new();
    root.put("/etc/damaged", 0o644, vec![b'x'; 100_000]);
    let image = Image::new(root.image("16M", "-O ^extents,^64bit"), 0);
    debugfs_write(&image, "set_inode_field /etc/damaged block[0] 999999999\n");
    let run = root.deaddrop(&["scan", image.path.to_str().unwrap()]).run();
    run.expect_refusal("damaged", 1, &["1 file or directory could not be searched", "/etc/damaged: "]);
    root.put("/etc/open", 0o644, root.token.bytes());
    tool(std::process::Command::new("cp").arg(root.at("/etc/open")).arg(root.scratch.join("open")));
    debugfs_write(&image, &format!("write {} /open\n", root.scratch.join("open").display()));
    debugfs_write(&image, "set_inode_field /open mode 0100644\n");
    assert_eq!(root.findings_in(&image.path, &[]), ["token /open raw"]);
}
