//! Files that are written, and the plan and the JSON that tell of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::json;

use super::Root;
use crate::kit::canary::Canary;
use crate::kit::run::Finished;
use crate::kit::skipped_without_root;

#[test]
fn each_difference_is_planned_written_and_then_gone() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = Root::new();
    root.declare(&[
        "path: /etc/new",
        "path: /etc/old",
        "path: /etc/open",
        "path: /etc/same",
        "path: /etc/gone, absent: true",
        "path: /no/such/place, absent: true",
    ]);
    root.write("etc/old", "another value");
    root.write("etc/gone", root.value.text());
    root.write("etc/open", root.value.text());
    root.write("etc/same", root.value.text());
    fs::set_permissions(root.at("etc/same"), fs::Permissions::from_mode(0o400)).unwrap();
    let before = root.tree();

    let plan = root.deaddrop(&["plan", "root", "--json", "--exit-code"]).run().expect_code(3);
    let changes = json!([
        { "secret": "a", "path": "/etc/new", "action": "create" },
        { "secret": "b", "path": "/etc/old", "action": "replace" },
        { "secret": "c", "path": "/etc/open", "action": "metadata" },
        { "secret": "d", "path": "/etc/same", "action": "unchanged" },
        { "secret": "e", "path": "/etc/gone", "action": "remove" },
        { "secret": "f", "path": "/no/such/place", "action": "unchanged" },
    ]);
    let object = |command: &str, changes: &serde_json::Value| {
        json!({
            "version": 1, "command": command, "target": "root", "changes": changes, "warnings": [],
            "summary": { "create": 1, "replace": 1, "metadata": 1, "unchanged": 2, "remove": 1 },
        })
    };
    assert_eq!(plan.json(), object("plan", &changes));
    let plan = root.deaddrop(&["plan", "root"]).run().expect_code(0);
    for line in [
        "root, a directory",
        "+ /etc/new    0400 root:root     a, from env:A",
        "~ /etc/old    content differs, mode 0644 → 0400   b, from env:A",
        "~ /etc/open   mode 0644 → 0400",
        "/etc/same   unchanged",
        "- /etc/gone   removed   e\n",
        "  /no/such/place   absent   f\n",
        "4 changes: 1 to create, 1 to replace, 1 of mode or owner, 1 to remove; 2 unchanged. Nothing was written.",
    ] {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&plan.stdout()).contains(&squeezed(line)), "{line}\n{}", plan.stdout());
    }
    let verify = root.deaddrop(&["verify", "root", "--json"]).run().expect_code(3);
    assert_eq!(verify.json(), object("verify", &changes));
    before.assert_same(&root.tree(), false);

    let inject = root.deaddrop(&["inject", "root", "--json"]).run().expect_code(0);
    assert_eq!(inject.json(), object("inject", &changes));
    for path in ["etc/new", "etc/old", "etc/open", "etc/same"] {
        assert_eq!(fs::read(root.at(path)).unwrap(), root.value.bytes(), "{path}");
        assert_eq!(root.stat(path), "0400 0:0", "{path}");
    }
    let after = root.tree();
    assert!(!root.at("etc/gone").exists());
    before.assert_only(&after, &["/etc/new", "/etc/old", "/etc/open", "/etc/same", "/etc/gone"], &["/etc", "/"]);
    assert_eq!(before.at("/etc/open").inode, after.at("/etc/open").inode, "only its mode was to change");

    root.deaddrop(&["verify", "root"]).run().expect_code(0).expect_output("6 secrets as declared");
    root.deaddrop(&["plan", "root", "--exit-code"]).run().expect_code(0).expect_output("Nothing to do");
    root.inject().expect_code(0).expect_error("nothing to do, 6 secrets as declared");
    after.assert_same(&root.tree(), false);
}

#[test]
fn owners_are_looked_up_in_the_root_itself_and_modes_are_exact() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = Root::new();
    root.declare(&[
        "path: /etc/a, owner: admin, group: keys, mode: \"0440\"",
        "path: /etc/b, owner: 70000, group: 80000, mode: \"0600\"",
        "path: /etc/c, group: users, mode: \"0644\", allow_world_readable: true",
    ]);
    root.inject().expect_code(0);
    assert_eq!(root.stat("etc/a"), "0440 1000:96");
    assert_eq!(root.stat("etc/b"), "0600 70000:80000");
    assert_eq!(root.stat("etc/c"), "0644 0:100");
    // `nobody` is a user of most systems that run this test, and not of this root.
    root.declare(&["path: /etc/d, owner: nobody"]);
    let run = root.deaddrop(&["inject", "root"]).run();
    run.expect_refusal(
        "nobody",
        1,
        &["root: a: /etc/d: the target has no user `nobody` yet", "users.users.nobody.uid"],
    );
}

#[test]
fn a_root_without_users_knows_root_only() {
    let root = Root::new();
    for file in ["etc/passwd", "etc/group", "etc/shadow"] {
        fs::remove_file(root.at(file)).unwrap();
    }
    root.declare(&["path: /etc/a, owner: admin, group: keys"]);
    root.inject().expect_refusal("admin", 1, &["no user `admin` yet"]);
    if !skipped_without_root("giving files to other users") {
        root.declare(&["path: /etc/a"]);
        root.inject().expect_code(0);
        assert_eq!(root.stat("etc/a"), "0400 0:0");
    }
}

#[test]
fn missing_parents_are_as_open_as_what_is_in_them_needs() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    for (name, secrets, want) in [
        ("root's own", &["path: /etc/secrets/x"][..], &[("etc/secrets", "0700 0:0")][..]),
        ("another user's", &["path: /etc/secrets/x, owner: admin"], &[("etc/secrets", "0711 0:0")]),
        ("a group's", &["path: /etc/secrets/x, group: keys, mode: \"0440\""], &[("etc/secrets", "0711 0:0")]),
        ("both kinds", &["path: /etc/secrets/x", "path: /etc/secrets/y, owner: admin"], &[("etc/secrets", "0711 0:0")]),
        ("directory_mode", &["path: /etc/secrets/x, directory_mode: \"0750\""], &[("etc/secrets", "0750 0:0")]),
        (
            "a directory of the system",
            &["path: /etc/ssh/key", "path: /var/lib/x"],
            &[("etc/ssh", "0755 0:0"), ("var/lib", "0755 0:0")],
        ),
        (
            "above the last",
            &["path: /srv/a/b/c/x"],
            &[("srv", "0755 0:0"), ("srv/a", "0755 0:0"), ("srv/a/b", "0755 0:0"), ("srv/a/b/c", "0700 0:0")],
        ),
        ("home of root", &["path: /root/.ssh/id"], &[("root/.ssh", "0700 0:0")]),
        (
            "below one that holds a file",
            &["path: /srv/a/x", "path: /srv/a/b/y, owner: admin"],
            &[("srv/a", "0711 0:0"), ("srv/a/b", "0711 0:0")],
        ),
    ] {
        let root = Root::new();
        fs::set_permissions(root.at("etc"), fs::Permissions::from_mode(0o775)).unwrap();
        root.declare(secrets);
        root.inject().expect_code(0);
        for (path, want) in want {
            assert_eq!(root.stat(path), *want, "{name}: {path}");
        }
        assert_eq!(root.stat("etc"), "0775 0:0", "{name}: a directory that stands is left as it is");
    }
    let root = Root::new();
    fs::remove_dir(root.at("root")).unwrap();
    root.declare(&["path: /root/token"]);
    root.inject().expect_code(0);
    assert_eq!(root.stat("root"), "0700 0:0", "/root itself");
}

#[test]
fn links_on_the_way_are_followed_inside_the_root() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = Root::new();
    fs::create_dir_all(root.at("persist/secrets")).unwrap();
    fs::create_dir(root.scratch.join("persist")).unwrap();
    symlink("/persist/secrets", root.at("etc/secrets")).unwrap();
    symlink("../../../../../../persist", root.at("etc/up")).unwrap();
    symlink("secrets", root.at("etc/twice")).unwrap();
    root.declare(&["path: /etc/secrets/a", "path: /etc/up/b", "path: /etc/twice/c", "path: /etc/up/new/d"]);
    root.inject().expect_code(0);
    for path in ["persist/secrets/a", "persist/b", "persist/secrets/c", "persist/new/d"] {
        assert_eq!(fs::read(root.at(path)).unwrap(), root.value.bytes(), "{path}");
    }
    assert_eq!(fs::read_dir(root.scratch.join("persist")).unwrap().count(), 0, "outside the root");
    root.deaddrop(&["verify", "root"]).run().expect_code(0);
}

#[test]
fn other_hard_links_keep_the_old_content_and_that_is_told() {
    let root = Root::new();
    root.write("etc/old", "another value");
    fs::hard_link(root.at("etc/old"), root.at("etc/linked")).unwrap();
    root.declare(&["path: /etc/old"]);
    let run = root.deaddrop(&["plan", "root", "--json"]).run().expect_code(0);
    assert_eq!(run.json()["warnings"][0]["code"], "DD101");
    assert_eq!(run.json()["warnings"][0]["secret"], "a");
    if !skipped_without_root("giving files to other users") {
        root.inject().expect_code(0).expect_error("DD101  /etc/old has 1 more hard link, which keeps the old content");
        assert_eq!(fs::read_to_string(root.at("etc/linked")).unwrap(), "another value");
    }
}

#[test]
fn a_password_is_hashed_once_and_kept_while_it_verifies() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = Root::new();
    for scheme in ["yescrypt", "sha512crypt"] {
        root.declare(&[&format!("path: /etc/{scheme}, hash: {scheme}, used_by: users.users.admin.hashedPasswordFile")]);
        root.write("etc/shadow", "root:!:1::::::\nadmin:!:1::::::\n");
        root.inject().expect_code(0);
        let line = fs::read(root.at(&format!("etc/{scheme}"))).unwrap();
        assert!(line.starts_with(b"$") && line.ends_with(b"\n"), "{scheme}");
        let before = root.tree();
        root.inject().expect_code(0).expect_error("nothing to do");
        root.deaddrop(&["verify", "root"]).run().expect_code(0);
        before.assert_same(&root.tree(), false);
        // Once its line is what stands in the shadow file, there is nothing to warn of.
        let line = String::from_utf8(line).unwrap();
        root.write("etc/shadow", &format!("root:!:1::::::\nadmin:{}:1::::::\n", line.trim_end()));
        let run = root.deaddrop(&["plan", "root", "--json"]).run().expect_code(0);
        assert_eq!(run.json()["warnings"], serde_json::json!([]), "{scheme}");
        // Another password makes another hash.
        let other = Canary::new("another password");
        let run = root.deaddrop(&["verify", "root"]).env("A", other.text()).plant(&other).run();
        run.expect_code(3).expect_output(&format!("~ /etc/{scheme}"));
    }
}

#[test]
fn with_only_the_others_are_neither_read_nor_written_nor_warned_about() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = Root::new();
    // The value of `unset` is nowhere, and `file` would be replaced.
    let manifest = "version: 1\nsecrets:\n  unset: { path: /var/tmp/unset, from: env:UNSET, hosts: [node1] }\n  \
                    file: { path: /etc/file, from: env:A }\n  one: { path: /etc/one, from: env:A }\n  two: { path: \
                    /var/tmp/two, from: env:A }\nhosts: { node1: }\n";
    root.scratch.write("secrets.yaml", manifest);
    root.write("etc/file", "as it was");
    root.deaddrop(&["plan", "root", "--host", "node1"]).run().expect_refusal("all", 1, &["$UNSET is not set"]);
    let only = ["--only", "two", "--only=one", "--json"];
    let names = |run: &Finished| {
        let json = run.json();
        let list = |key: &str| {
            let entries = json[key].as_array().unwrap().iter();
            entries.map(|entry| entry["secret"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        (list("changes"), list("warnings"), json["summary"]["create"].as_u64().unwrap())
    };
    let both = ("one two".to_owned(), "two".to_owned());
    for (command, created, code) in [("plan", 2, 0), ("verify", 2, 3), ("inject", 2, 0), ("verify", 0, 0)] {
        let run = root.deaddrop(&[&[command, "root"], &only[..]].concat()).run().expect_code(code);
        assert_eq!(names(&run), (both.0.clone(), both.1.clone(), created), "{command}");
        assert!(!run.stderr().contains("unset") && !run.stderr().contains("etc/file"), "{command}: {}", run.stderr());
    }
    assert_eq!(fs::read_to_string(root.at("etc/file")).unwrap(), "as it was");
    assert!(!root.at("var/tmp/unset").exists());
    let run = root.deaddrop(&["verify", "root", "--only", "one", "--host", "node1"]).run().expect_code(0);
    assert!(!run.stderr().contains("NX003"), "{}", run.stderr());
}

#[test]
fn source_date_epoch_is_the_time_of_new_files_and_a_wrong_one_is_refused() {
    let root = Root::new();
    root.declare(&["path: /etc/a"]);
    for wrong in ["18446744073709551615", "99999999999", "-1", "soon", "", "1.5", "+1"] {
        let run = root.deaddrop(&["inject", "root"]).env("SOURCE_DATE_EPOCH", wrong).run();
        run.expect_refusal(wrong, 2, &["SOURCE_DATE_EPOCH is not a time", "hint: "]);
    }
    assert!(!root.at("etc/a").exists());
    if !skipped_without_root("giving files to other users") {
        root.deaddrop(&["inject", "root"]).env("SOURCE_DATE_EPOCH", "1700000000").run().expect_code(0);
        assert_eq!(fs::metadata(root.at("etc/a")).unwrap().mtime(), 1_700_000_000);
    }
}

#[test]
fn a_user_without_rights_can_do_what_needs_no_chown() {
    let root = Root::new();
    root.declare(&["path: /srv/a, owner: 65534, group: 65534"]);
    fs::create_dir(root.at("srv")).unwrap();
    if crate::kit::is_root() {
        root.scratch.give_to(65534);
        // As on a real root: only its root reads the shadow file.
        std::os::unix::fs::chown(root.at("etc/shadow"), Some(0), Some(0)).unwrap();
        for command in ["plan", "inject", "verify"] {
            root.deaddrop(&[command, "root"]).unprivileged().run().expect_code(0);
        }
        assert_eq!(root.stat("srv/a"), "0400 65534:65534");
        let before = root.tree();
        for (name, secrets, texts) in [
            ("a file of root", "path: /srv/b", &["/srv/b is to belong to 0:0", "run deaddrop as root"][..]),
            ("a directory of root", "path: /srv/d/b, owner: 65534, group: 65534", &["/srv/d is to belong to 0:0"]),
        ] {
            root.declare(&["path: /srv/new, owner: 65534, group: 65534", secrets]);
            let run = root.deaddrop(&["inject", "root"]).unprivileged().run();
            run.expect_refusal(name, 1, texts).expect_error("root: nothing was changed");
            before.assert_same(&root.tree(), true);
        }
    }
}
