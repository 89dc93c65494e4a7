//! Directories below a home belong to its user; links that others could have laid are not followed. Both hold for
//! directories, images and running nodes by the same code: see also tests/it/rotate/files.rs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use super::Root;
use crate::kit::{is_root, tool};

/// Mode, owner and group.
fn of(root: &Root, path: &str) -> (u32, u32, u32) {
    let data = fs::symlink_metadata(root.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    (data.mode() & 0o7777, data.uid(), data.gid())
}

fn root_with_a_home() -> Root {
    assert!(is_root(), "run the tests as root: files are given away");
    let root = Root::new();
    root.write(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\noperator:x:11:0::/root:/bin/sh\nadmin:x:1000:100::/home/admin:/bin/sh\n\
         gone:x:1001:100::/home/gone:/bin/sh\nnobody:x:65534:65534::/var/empty:/bin/sh\n",
    );
    fs::create_dir_all(root.at("home/admin")).unwrap();
    chown(root.at("home/admin"), Some(1000), Some(100)).unwrap();
    root
}

#[test]
fn directories_below_a_home_are_its_users_and_elsewhere_roots() {
    let root = root_with_a_home();
    root.declare(&[
        "path: /home/admin/.ssh/id, owner: admin, group: users",
        "path: /home/admin/.config/app/deep/key, directory_mode: '0750'",
        "path: /home/admin/.cache/x/key, directory_owner: root",
        "path: /srv/app/key, directory_owner: 'admin:96'",
        "path: /srv/number/key, directory_owner: 1001",
        "path: /srv/unknown/key, directory_owner: 4711",
        "path: /root/.ssh/key",
        "path: /var/empty/x/key",
    ]);
    let plan = root.deaddrop(&["plan", "root"]).run().expect_code(0);
    assert!(plan.stdout().contains("/home/admin/.ssh/ "), "{}", plan.stdout());
    assert!(plan.stdout().contains("directory 0700 admin:users"), "{}", plan.stdout());
    root.inject().expect_code(0);
    for (path, want) in [
        ("home/admin/.ssh", (0o700, 1000, 100)),
        ("home/admin/.ssh/id", (0o400, 1000, 100)),
        ("home/admin/.config", (0o700, 1000, 100)),
        ("home/admin/.config/app", (0o700, 1000, 100)),
        ("home/admin/.config/app/deep", (0o750, 1000, 100)),
        ("home/admin/.config/app/deep/key", (0o400, 0, 0)),
        ("home/admin/.cache", (0o700, 1000, 100)),
        ("home/admin/.cache/x", (0o700, 0, 0)),
        ("srv/app", (0o700, 1000, 96)),
        ("srv/number", (0o700, 1001, 100)),
        ("srv/unknown", (0o700, 4711, 0)),
        ("root/.ssh", (0o700, 0, 0)),
        ("var/empty/x", (0o700, 0, 0)),
    ] {
        assert_eq!(of(&root, path), want, "{path}");
    }
    root.deaddrop(&["verify", "root"]).run().expect_code(0);
}

#[test]
fn a_path_below_a_home_that_does_not_stand_is_refused_unless_that_is_allowed() {
    let root = root_with_a_home();
    root.declare(&["path: /home/gone/.ssh/id"]);
    let before = root.tree();
    for command in ["plan", "inject", "verify"] {
        let run = root.deaddrop(&[command, "root"]).run();
        run.expect_refusal(command, 1, &["NX108", "/home/gone", "the home of gone", "allow: { NX108:"]);
    }
    before.assert_same(&root.tree(), false);
    root.declare(&["path: /home/gone/.ssh/id, allow: { NX108: 'made at the first boot' }"]);
    root.inject().expect_code(0).expect_error("! NX108").expect_error("made at the first boot");
    assert_eq!(of(&root, "home/gone/.ssh"), (0o700, 0, 0));
    // What must not be there is not made.
    let root = root_with_a_home();
    root.declare(&["path: /home/gone/.ssh/id, absent: true"]);
    root.inject().expect_code(0);
}

#[test]
fn a_directory_that_others_may_write_to_is_warned_about() {
    let root = root_with_a_home();
    root.write("etc/group", "root:x:0:\nusers:x:100:admin,gone\nadmin:x:1000:\nkeys:x:96:\n");
    root.write(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nadmin:x:1000:1000::/home/admin:/bin/sh\ngone:x:1001:100::/nonexistent:/bin/sh\n",
    );
    for (path, mode, uid, gid) in [
        ("srv/all", 0o777, 0, 0),
        ("srv/sticky", 0o1777, 0, 0),
        ("srv/theirs", 0o1755, 1001, 0),
        ("srv/keys", 0o775, 0, 96),
        ("srv/alone", 0o775, 0, 1000),
        ("srv/roots", 0o775, 0, 0),
    ] {
        fs::create_dir_all(root.at(path)).unwrap();
        chown(root.at(path), Some(uid), Some(gid)).unwrap();
        fs::set_permissions(root.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (declared, want) in [
        ("path: /home/admin/.ssh/id", Some("/home/admin belongs to admin, who can replace /home/admin/.ssh/id")),
        ("path: /home/admin/.ssh/id, owner: admin", None),
        ("path: /srv/all/x/id", Some("every user may write to /srv/all, and can replace /srv/all/x/id")),
        ("path: /srv/sticky/id", None),
        ("path: /srv/theirs/id", Some("/srv/theirs belongs to gone, who can replace /srv/theirs/id")),
        ("path: /srv/theirs/id, owner: admin", Some("/srv/theirs belongs to gone")),
        ("path: /srv/keys/id", Some("the group keys may write to /srv/keys, and can replace /srv/keys/id")),
        ("path: /srv/alone/id, owner: admin", None),
        ("path: /srv/alone/id", Some("the group admin may write to /srv/alone")),
        ("path: /srv/roots/id", None),
        ("path: /srv/all/id, absent: true", None),
    ] {
        root.declare(&[declared]);
        let run = root.deaddrop(&["plan", "root"]).run().expect_code(0);
        let (said, code) = (run.stdout() + &run.stderr(), "DD210");
        assert_eq!(said.contains(code), want.is_some(), "{declared}: {said}");
        assert!(said.contains(want.unwrap_or_default()), "{declared}: {said}");
    }
}

#[test]
fn a_home_is_known_also_where_a_link_leads_to_it() {
    for declared in ["/home/admin/.ssh/id", "/var/home/admin/.ssh/id", "/people/admin/.ssh/id"] {
        let root = root_with_a_home();
        fs::create_dir_all(root.at("var/home/admin")).unwrap();
        chown(root.at("var/home/admin"), Some(1000), Some(100)).unwrap();
        fs::remove_dir_all(root.at("home")).unwrap();
        symlink("var/home", root.at("home")).unwrap();
        symlink("/home", root.at("people")).unwrap();
        root.declare(&[&format!("path: {declared}")]);
        root.inject().expect_code(0);
        assert_eq!(of(&root, "var/home/admin/.ssh"), (0o700, 1000, 100), "{declared}");
    }
}

#[test]
fn a_link_that_somebody_else_could_have_laid_is_not_followed() {
    for (name, owner, mode, acl, want) in [
        ("a directory of a user", 1000, 0o755, None, Some("/var/app belongs to user 1000")),
        ("a directory for everybody", 0, 0o757, None, Some("every user may write to /var/app")),
        ("a sticky directory", 0, 0o1777, None, None),
        ("a directory of root", 0, 0o755, None, None),
        ("root's group", 0, 0o775, None, None),
        ("an ACL", 0, 0o775, Some("u:1000:rwx"), Some("an ACL lets others write to /var/app")),
        ("an ACL to read", 0, 0o775, Some("u:1000:rx"), None),
    ] {
        let root = root_with_a_home();
        let app = root.at("var/app");
        fs::create_dir(&app).unwrap();
        fs::create_dir(root.at("srv")).unwrap();
        fs::write(root.at("srv/environment"), "of root").unwrap();
        symlink("/srv", app.join("conf")).unwrap();
        fs::set_permissions(&app, fs::Permissions::from_mode(mode)).unwrap();
        if let Some(entry) = acl {
            tool(Command::new("setfacl").args(["-m", entry]).arg(&app));
        }
        chown(&app, Some(owner), Some(0)).unwrap();
        root.declare(&["path: /var/app/conf/environment, owner: 1000, group: 100"]);
        let run = root.inject();
        match want {
            Some(why) => {
                run.expect_refusal(name, 1, &["the symbolic link /var/app/conf -> /srv is not followed", why]);
                assert_eq!(fs::read(root.at("srv/environment")).unwrap(), b"of root", "{name}");
            }
            None => drop(run.expect_code(0)),
        }
    }
    // The link itself belongs to a user, in a directory where others may only add.
    let root = root_with_a_home();
    fs::create_dir(root.at("srv")).unwrap();
    symlink("/srv", root.at("var/conf")).unwrap();
    std::os::unix::fs::lchown(root.at("var/conf"), Some(1000), Some(100)).unwrap();
    root.declare(&["path: /var/conf/x"]);
    root.inject().expect_refusal("a user's link", 1, &["/var/conf -> /srv is not followed: it belongs to user 1000"]);
}

#[test]
fn where_the_whole_root_is_a_users_its_links_are_his() {
    let root = root_with_a_home();
    symlink("/var", root.at("conf")).unwrap();
    tool(Command::new("chown").args(["-hR", "1000:100"]).arg(root.at("")));
    root.declare(&["path: /conf/x"]);
    root.inject().expect_code(0);
    assert!(root.at("var/x").exists());
}
