//! Places where no file may be put: refused with the code, the kind or the chain of links, and nothing is changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::stat::Mode;

use super::Root;
use crate::kit::{is_root, skipped_without_root, tool};

#[test]
fn a_place_that_cannot_hold_a_secret_is_refused_and_told_why() {
    let root = Root::new();
    fs::create_dir(root.at("etc/directory")).unwrap();
    nix::unistd::mkfifo(&root.at("etc/fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(root.at("etc/socket")).unwrap();
    if is_root() {
        tool(Command::new("mknod").arg(root.at("etc/device")).args(["c", "1", "3"]));
    }
    root.write("etc/file", "a file");
    for (link, to) in [
        ("etc/final", "/etc/file"),
        ("etc/dangling", "/nowhere"),
        ("etc/circle", "elcric"),
        ("etc/elcric", "circle"),
        ("etc/store", "/nix/store/e"),
        ("etc/outside", "/proc/self/root"),
        ("etc/up", "../../../../../../../etc/deaddrop-outside"),
        ("etc/empty-end", "/"),
        ("etc/over-file", "file/x"),
        ("srv", "/etc"),
        ("run", "/var"),
        ("var/run", "/run"),
        ("etc/odd", "/\u{1b}[31m\u{202e}x"),
    ] {
        symlink(to, root.at(link)).unwrap();
    }
    let before = root.tree();
    for (path, texts) in [
        ("/etc/directory", &["/etc/directory is a directory", "only a regular file is replaced"][..]),
        ("/etc/fifo", &["/etc/fifo is a FIFO"]),
        ("/etc/socket", &["/etc/socket is a socket"]),
        ("/etc/file/x", &["/etc/file is a regular file, not a directory", "choose a path whose parents are"]),
        ("/etc/fifo/x", &["/etc/fifo is a FIFO, not a directory"]),
        ("/etc/final", &["/etc/final is a symbolic link: /etc/final -> /etc/file"]),
        ("/etc/dangling", &["/etc/dangling is a symbolic link", "/etc/dangling -> /nowhere"]),
        ("/etc/dangling/x", &["NX010", "leads to nothing: /etc/dangling -> /nowhere"]),
        ("/etc/circle/x", &["NX010", "more than 40 symbolic links", "/etc/circle -> elcric"]),
        ("/etc/circle", &["/etc/circle is a symbolic link", "more than 40"]),
        ("/etc/store/x", &["NX010", "/etc/store/x would be written to /nix/store/e/x", "/etc/store -> /nix/store/e"]),
        ("/etc/outside/x", &["NX010", "leads to nothing: /etc/outside -> /proc/self/root"]),
        ("/etc/up/x", &["NX010", "leads to nothing: /etc/up -> ../../"]),
        ("/etc/over-file/x", &["/etc/file is a regular file, not a directory"]),
        ("/etc/hosts", &["NX004", "/etc/hosts is a name of /etc/static", "drop environment.etc for /etc/hosts"]),
        ("/etc/hosts/x", &["NX004", "/etc/hosts/x is below a name of /etc/static"]),
        ("/srv/hosts", &["NX004", "/srv/hosts would be written to /etc/hosts, through /srv -> /etc"]),
        ("/srv/shadow", &["NX005", "/srv/shadow would be written to /etc/shadow, through /srv -> /etc"]),
        ("/srv/static/x", &["NX010", "/nix/store/e/etc/x"]),
        ("/etc/odd/x", &["NX010", "/etc/odd -> /\u{fffd}[31m\u{fffd}x"]),
    ] {
        root.declare(&["path: /etc/good", &format!("path: {path}")]);
        for command in ["plan", "inject", "verify"] {
            let run = root.deaddrop(&[command, "root", "--json"]).limited().run();
            run.expect_refusal(path, 1, texts).expect_error("error: root: b: ");
        }
        // Nor is anything removed there.
        root.declare(&["path: /etc/good", &format!("path: {path}, absent: true")]);
        root.inject().expect_refusal(path, 1, texts).expect_error("error: root: b: ");
        before.assert_same(&root.tree(), false);
    }
    if is_root() {
        root.declare(&["path: /etc/device"]);
        root.inject().expect_refusal("a device", 1, &["/etc/device is a character device"]);
    }
}

#[test]
fn a_name_that_activation_makes_is_refused_also_where_a_link_leads_to_it() {
    let root = Root::new();
    // The link in /etc is not made yet, as in an image that was never booted: the tree tells all the same.
    fs::remove_file(root.at("etc/hosts")).unwrap();
    symlink("/etc", root.at("srv")).unwrap();
    for path in ["/etc/hosts", "/srv/hosts"] {
        root.declare(&[&format!("path: {path}")]);
        root.inject().expect_refusal(path, 1, &["NX004", "a name of /etc/static"]);
    }
    assert!(fs::symlink_metadata(root.at("etc/hosts")).is_err());
    // Beside the names in a directory of the tree there is room.
    root.declare(&["path: /etc/systemd/x"]);
    root.deaddrop(&["plan", "root"]).run().expect_code(0).expect_output("+ /etc/systemd/x");
}

#[test]
fn all_refusals_come_at_once() {
    let root = Root::new();
    symlink("/nowhere", root.at("etc/dangling")).unwrap();
    root.declare(&["path: /etc/hosts", "path: /etc/dangling/x", "path: /etc/good", "path: /etc/g2, owner: k3s"]);
    let said = root.inject().expect_refusal("three", 1, &["root: a: NX004", "root: b: NX010", "root: d: "]).stderr();
    assert_eq!(said.matches("error: ").count(), 3, "{said}");
}

#[test]
fn two_paths_that_links_lead_to_one_place_are_refused() {
    let root = Root::new();
    fs::create_dir_all(root.at("persist")).unwrap();
    symlink("/persist", root.at("srv")).unwrap();
    for (secrets, want) in [
        (["path: /srv/x", "path: /persist/x"], "/persist/x and /srv/x (of a) are the same file"),
        (["path: /srv/x/y", "path: /persist/x"], "/persist/x is a file here, and a directory above another secret"),
    ] {
        root.declare(&secrets);
        root.inject().expect_refusal(want, 1, &[want, "hint: give each secret a path of its own"]);
    }
}

#[test]
fn what_is_no_root_is_refused_or_told() {
    let root = Root::new();
    root.declare(&["path: /etc/a"]);
    for (name, args, texts) in [
        ("missing", &["inject", "missing"][..], &["missing", "nothing was changed"][..]),
        ("a partition", &["inject", "root", "--root-partition", "2"], &["--root-partition is for images"]),
        ("an output", &["inject", "root", "-o", "out.img"], &["-o is for images"]),
        ("a mode to keep", &["inject", "root", "--keep-mode"], &["--keep-mode is for images"]),
    ] {
        let before = root.tree();
        root.deaddrop(args).run().expect_refusal(name, 1, texts).expect_error("hint: ");
        before.assert_same(&root.tree(), false);
    }
    assert!(!root.scratch.join("out.img").exists());
    fs::create_dir(root.scratch.join("photos")).unwrap();
    for command in ["plan", "inject", "verify"] {
        let run = root.deaddrop(&[command, "photos"]).run();
        let run = run.expect_refusal(
            command,
            1,
            &["photos is no root: it has neither /etc nor /nix/store", "hint: name an image"],
        );
        assert!(!run.stderr().contains("tree"), "{}", run.stderr());
    }
    assert_eq!(fs::read_dir(root.scratch.join("photos")).unwrap().count(), 0);
}

#[test]
fn a_directory_with_an_image_is_not_taken_for_a_root_and_the_image_is_named() {
    let root = Root::new();
    root.declare(&["path: /etc/a"]);
    for (directory, file, named) in
        [("out", "nixos.img", "result/nixos.img"), ("sd", "sd-image/sd.img.zst", "result/sd-image/sd.img.zst")]
    {
        let image = root.scratch.join(directory).join(file);
        fs::create_dir_all(image.parent().unwrap()).unwrap();
        fs::write(&image, "an image").unwrap();
        symlink(directory, root.scratch.join("result")).unwrap();
        for command in
            [&["plan", "result"][..], &["inject", "result"], &["verify", "result"], &["inject", "result", "--new-root"]]
        {
            let run = root.deaddrop(command).run();
            if directory == "out" || !command.contains(&"--new-root") {
                run.expect_refusal(directory, 1, &[&format!("did you mean {named}?")]);
                assert!(!root.scratch.join(directory).join("etc").exists());
            }
        }
        fs::remove_file(root.scratch.join("result")).unwrap();
    }
}

#[test]
fn an_empty_directory_becomes_a_root_where_that_is_said() {
    let root = Root::new();
    root.declare(&["path: /etc/secrets/a"]);
    fs::create_dir(root.scratch.join("new")).unwrap();
    root.deaddrop(&["inject", "new", "--new-root"]).run().expect_code(0);
    root.deaddrop(&["verify", "new"]).run().expect_code(0);
    root.deaddrop(&["inject", "new", "--new-root"]).run().expect_code(0).expect_error("nothing to do");
    root.scratch.write("file", "no directory");
    root.deaddrop(&["inject", "file", "--new-root"]).run().expect_refusal(
        "a file",
        2,
        &["--new-root is for a directory"],
    );
}

/// Where a container's filter forbids openat2, each component is opened by itself, and no link is followed all the
/// same.
#[test]
fn without_openat2_the_same_is_written_and_nothing_outside_is_reached() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    for error in ["EPERM", "ENOSYS"] {
        let root = Root::new();
        let filter = format!("openat2:error={error}");
        root.declare(&["path: /etc/new", "path: /etc/deep/er/new", "path: /etc/old", "path: /var/link/x"]);
        root.write("etc/old", "another value");
        // Absolute and up: both lead into the root, not out of it.
        fs::create_dir(root.at("var/target")).unwrap();
        symlink("/var/../../../var/target", root.at("var/link")).unwrap();
        root.deaddrop(&["plan", "root", "--exit-code"]).tampered(&filter).run().expect_code(3);
        root.deaddrop(&["inject", "root"]).tampered(&filter).run().expect_code(0).expect_error("4 secrets written");
        let log = fs::read_to_string(root.scratch.join("tampering.log")).unwrap();
        assert!(log.contains("openat2(") && log.contains("(INJECTED)"), "openat2 was not asked for");
        root.deaddrop(&["verify", "root"]).run().expect_code(0);
        assert!(root.at("var/target/x").exists());
        assert_eq!(root.leftovers(), Vec::<String>::new());

        let outside = root.scratch.join("outside");
        fs::create_dir(&outside).unwrap();
        for (name, link, target) in [
            ("a link to a directory outside", "etc/out", outside.to_str().unwrap()),
            ("one that climbs", "etc/up", "../../../outside"),
        ] {
            symlink(target, root.at(link)).unwrap();
            root.declare(&[&format!("path: /{link}/x")]);
            let run = root.deaddrop(&["inject", "root"]).tampered(&filter).run();
            run.expect_refusal(name, 1, &["leads to nothing"]);
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
