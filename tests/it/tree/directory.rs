//! A tree that the user names: what is in it, what is printed, and what is refused before it is made.

use std::fs;

use super::{Case, listing};
use crate::kit::{is_root, sha256_of, skipped_without_root};

/// Files of several owners and modes, a generated key, a file that must not be there.
const SEVERAL: &str = "secrets:
  a: { path: /etc/secrets/a, from: env:A }
  b: { path: /var/lib/app/b, from: env:A, owner: 1000, group: 100, mode: \"0440\" }
  host-key: { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519 }
  gone: { path: /etc/secrets/gone, absent: true }
hosts: { node1: { ssh: root@192.0.2.7 } }
";

#[test]
fn a_tree_holds_the_files_of_the_host_with_modes_owners_and_parents_and_nothing_else() {
    if skipped_without_root("giving files away") {
        return;
    }
    let case = Case::new(SEVERAL);
    let run = case.tree(&["out", "--public-out", "known"]).run().expect_code(0);
    assert_eq!(run.stdout(), "", "without --for nothing is printed");
    assert!(run.stderr().contains("3 secrets written"), "{}", run.stderr());
    let out = case.scratch.join("out");
    let value = sha256_of(&case.scratch.write("value", case.value.bytes()));
    let (key, public) = ("etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub");
    assert_eq!(
        listing(&out),
        [
            "/ 0700 0:0".to_owned(),
            "/etc 0755 0:0".to_owned(),
            "/etc/secrets 0700 0:0".to_owned(),
            format!("/etc/secrets/a 0400 0:0 {value}"),
            "/etc/ssh 0755 0:0".to_owned(),
            format!("/{key} 0400 0:0 {}", sha256_of(&out.join(key))),
            format!("/{public} 0644 0:0 {}", sha256_of(&out.join(public))),
            "/var 0755 0:0".to_owned(),
            "/var/lib 0755 0:0".to_owned(),
            "/var/lib/app 0711 0:0".to_owned(),
            format!("/var/lib/app/b 0440 1000:100 {value}"),
        ]
    );
    let known = fs::read_to_string(case.scratch.join("known")).unwrap();
    assert!(known.contains("192.0.2.7 ssh-ed25519 "), "{known}");
}

#[test]
fn the_tree_of_somebody_else_is_theirs_and_the_modes_are_as_declared() {
    let case = Case::new(SEVERAL);
    case.tree_of_nobody(&["out"]).run().expect_code(0);
    let lines = listing(&case.scratch.join("out"));
    let owner = if is_root() {
        "65534:65534".to_owned()
    } else {
        format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid())
    };
    assert!(lines.iter().all(|line| line.contains(&owner)), "{lines:?}");
    for want in ["/ 0700", "/etc/secrets 0700", "/etc/secrets/a 0400", "/var/lib/app 0711", "/var/lib/app/b 0440"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{want} "))), "{want}: {lines:?}");
    }
}

#[test]
fn json_is_that_of_inject_with_the_words_as_a_list() {
    let case = Case::new(SEVERAL);
    let object = case.tree_of_nobody(&["out", "--json", "--for", "nixos-anywhere"]).run().expect_code(0).json();
    let out = case.path("out");
    assert_eq!(object["command"], "tree");
    assert_eq!(object["target"], out.as_str());
    assert_eq!(object["words"], serde_json::json!(["--extra-files", out, "--chown", "/var/lib/app/b", "1000:100"]));
    assert_eq!(object["summary"]["create"], 4);
    assert_eq!(object["changes"][0], serde_json::json!({"secret": "a", "path": "/etc/secrets/a", "action": "create"}));
    let object = case.tree(&["other", "--json"]).unprivileged().run().expect_code(0).json();
    assert_eq!(object["words"], serde_json::json!([]), "without --for");
}

#[test]
fn what_stands_is_refused_before_a_value_is_read_and_what_fails_leaves_no_directory() {
    let case = Case::one("path: /etc/a");
    fs::create_dir(case.scratch.join("out")).unwrap();
    case.scratch.write("file", "");
    std::os::unix::fs::symlink("nowhere", case.scratch.join("link")).unwrap();
    for name in ["out", "file", "link"] {
        case.tree(&[name]).run().expect_refusal(name, 1, &["it exists, and a tree is a new directory"]);
    }
    assert_eq!(fs::read_dir(case.scratch.join("out")).unwrap().count(), 0);
    case.tree(&["missing/out"]).run().expect_refusal("no parent", 1, &["no tree was made", "No such file"]);
    // Refused by the plan, and by the disk.
    let case = Case::one("path: /etc/a, owner: app");
    let texts = ["which number the user `app` will have", "--closure SYSTEM", "users.users.app.uid"];
    case.tree(&["out"]).run().expect_refusal("an owner's name", 1, &texts);
    assert!(!case.scratch.join("out").exists());
    let case = Case::one("path: /etc/a");
    let failing = case.tree(&["out"]).tampered("linkat:error=ENOSPC").run();
    failing.expect_refusal("a full disk", 1, &["out: nothing was changed"]);
    assert!(!case.scratch.join("out").exists(), "it is taken away again");
}

#[test]
fn without_a_system_every_path_is_below_persist_root() {
    let case = Case::new(
        "secrets:
  a: { path: /etc/secrets/a, from: env:A }
  b: { path: /persist/b/b, from: env:A }
hosts: { node1: { persist_root: /persist } }
",
    );
    let object = case.tree_of_nobody(&["out", "--json", "--for", "disko-image"]).run().expect_code(0).json();
    assert_eq!(object["changes"][0]["path"], "/etc/secrets/a");
    assert_eq!(object["changes"][0]["written_to"], "/persist/etc/secrets/a");
    assert_eq!(object["changes"][1].get("written_to"), None);
    let words: Vec<&str> = object["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!((words[2], words[5]), ("/persist/etc/secrets/a", "/persist/b/b"));
    let paths: Vec<String> = listing(&case.scratch.join("out"))
        .iter()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        paths,
        [
            "/ 0700",
            "/persist 0755",
            "/persist/b 0700",
            "/persist/b/b 0400",
            "/persist/etc 0755",
            "/persist/etc/secrets 0700",
            "/persist/etc/secrets/a 0400",
        ]
    );
}

#[test]
fn wrong_words_are_wrong_usage() {
    let case = Case::one("path: /etc/a");
    for words in [
        &[][..],
        &["--for", "nixos-anywhere"],
        &["out", "--for", "ansible"],
        &["--", "true"],
        &["out", "--for", "nixos-anywhere", "--", "true"],
        &["out", "--host", "node2"],
    ] {
        let run = case.tree(words).run().expect_code(2);
        assert_eq!(run.stdout(), "", "{words:?}");
    }
    assert!(!case.scratch.join("out").exists());
}
