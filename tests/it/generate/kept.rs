//! What stands is kept; what is gone is made anew; what may be something else is never overwritten.

use std::fs;

use serde_json::json;

use super::{EACH_KIND, Setup, age_public, ssh_public};
use crate::kit::mount::debugfs_write;
use crate::kit::sha256_of;
use crate::kit::tree::Tree;

#[test]
fn a_second_run_changes_not_one_byte() {
    let setup = Setup::each_kind();
    setup.run("plan", &["--exit-code"]).expect_code(3);
    setup.run("verify", &[]).expect_code(3).expect_output("5 of 5 secrets are not as declared");
    setup.run("inject", &[]).expect_code(0);
    let (digest, tree) = (sha256_of(&setup.image.path), Tree::of(&setup.image));
    for _ in 0..2 {
        setup.run("inject", &[]).expect_code(0).expect_error("nothing to do, 5 secrets as declared");
        assert_eq!(sha256_of(&setup.image.path), digest);
    }
    assert!(tree == Tree::of(&setup.image));
    setup.run("verify", &[]).expect_code(0).expect_output("5 secrets as declared");
    setup.run("plan", &["--exit-code"]).expect_code(0).expect_output("Nothing to do: 5 secrets as declared");
    // Without the host's name the comment would be another one: the keys that stand are kept all the same.
    let alone = "version: 1\nsecrets:\n  \
                 deploy-key: { path: /etc/secrets/deploy-key, generate: ssh-ed25519, mode: \"0600\" }\n";
    let alone = setup.scratch.write("alone.yaml", alone);
    super::Deaddrop::new(&setup.scratch)
        .args(["inject", "raw-efi.img", "-m"])
        .args([alone])
        .run()
        .expect_code(0)
        .expect_error("nothing to do");
    assert_eq!(sha256_of(&setup.image.path), digest);
}

#[test]
fn the_plan_tells_what_is_made_and_what_is_kept() {
    let setup = Setup::each_kind();
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let planned = squeezed(&setup.run("plan", &[]).expect_code(0).stdout());
    for line in [
        "+ /etc/ssh/ssh_host_ed25519_key 0400 root:root host-key, generated (ssh-host-ed25519)",
        "+ /etc/ssh/ssh_host_ed25519_key.pub 0644 root:root host-key, its public part",
        "+ /etc/secrets/restic 0400 root:root restic, generated (token)",
        "7 changes: 7 to create; 0 unchanged.",
    ] {
        assert!(planned.contains(line), "{line}\n{planned}");
    }
    setup.run("inject", &[]).expect_code(0);
    debugfs_write(&setup.image, "set_inode_field /etc/secrets/wg0 mode 0100444\n");
    let planned = squeezed(&setup.run("plan", &[]).expect_code(0).stdout());
    for line in [
        "/etc/ssh/ssh_host_ed25519_key unchanged host-key, generated (ssh-host-ed25519), kept",
        "~ /etc/secrets/wg0 mode 0444 → 0440 wg0, generated (wireguard), kept",
    ] {
        assert!(planned.contains(line), "{line}\n{planned}");
    }
    let changes: Vec<serde_json::Value> = [
        ("host-key", "/etc/ssh/ssh_host_ed25519_key"),
        ("host-key", "/etc/ssh/ssh_host_ed25519_key.pub"),
        ("deploy-key", "/etc/secrets/deploy-key"),
        ("deploy-key", "/etc/secrets/deploy-key.pub"),
        ("wg0", "/etc/secrets/wg0"),
        ("backup", "/etc/secrets/backup.age"),
        ("restic", "/etc/secrets/restic"),
    ]
    .into_iter()
    .map(|(secret, path)| {
        let action = if secret == "wg0" { "metadata" } else { "unchanged" };
        json!({ "secret": secret, "path": path, "action": action })
    })
    .collect();
    let key = setup.content("/etc/secrets/wg0").unwrap();
    let object = setup.run("inject", &["--json"]).expect_code(0).json();
    assert_eq!(object["changes"], json!(changes));
    assert_eq!(object["summary"]["unchanged"], 6);
    assert_eq!(setup.content("/etc/secrets/wg0").unwrap(), key, "only its mode was to change");
}

#[test]
fn a_key_that_is_gone_is_made_anew_and_the_others_stay() {
    let setup = Setup::each_kind();
    setup.run("inject", &[]).expect_code(0);
    let keys = |setup: &Setup| EACH_KIND.map(|(_, path)| setup.content(path).unwrap());
    for (gone, (name, path)) in EACH_KIND.into_iter().enumerate() {
        let before = keys(&setup);
        setup.remove(path);
        setup.run("verify", &[]).expect_code(3).expect_output("1 of 5 secrets is not as declared");
        setup.run("inject", &[]).expect_code(0).expect_error("1 secret written, 4 unchanged");
        for (at, (old, new)) in before.iter().zip(keys(&setup)).enumerate() {
            assert_eq!(*old != new, at == gone, "{name}");
        }
    }
    // An empty file is no key: sshd's own key generation takes it for none as well.
    setup.put("/etc/secrets/deploy-key", b"");
    setup.run("inject", &[]).expect_code(0);
    ssh_public(&setup.file("/etc/secrets/deploy-key"));
}

#[test]
fn the_public_part_follows_the_key_that_stands() {
    let setup = Setup::each_kind();
    setup.run("inject", &[]).expect_code(0);
    let path = "/etc/secrets/deploy-key";
    let beside = format!("{path}.pub");
    let (key, public) = (setup.content(path).unwrap(), setup.content(&beside).unwrap());
    let other = setup.content("/etc/ssh/ssh_host_ed25519_key.pub").unwrap();
    for (name, content) in
        [("none", None), ("another key's", Some(&other[..])), ("no key", Some(b"hello\n")), ("empty", Some(b""))]
    {
        match content {
            None => setup.remove(&beside),
            Some(content) => setup.put(&beside, content),
        }
        setup.run("verify", &[]).expect_code(3).expect_output("1 of 5 secrets is not as declared");
        setup.run("inject", &[]).expect_code(0).expect_error("1 secret written, 4 unchanged");
        assert_eq!(setup.content(&beside).unwrap(), public, "{name}");
        assert_eq!(setup.content(path).unwrap(), key, "{name}");
    }
    // The same key with another comment is in step.
    let bare: Vec<&str> = std::str::from_utf8(&public).unwrap().split(' ').take(2).collect();
    let renamed = format!("{} root@elsewhere\n", bare.join(" "));
    setup.put(&beside, renamed.as_bytes());
    debugfs_write(&setup.image, &format!("set_inode_field {beside} mode 0100644\n"));
    setup.run("verify", &[]).expect_code(0);
    assert_eq!(setup.content(&beside).unwrap(), renamed.as_bytes());
}

#[test]
fn a_key_that_somebody_else_made_is_kept_and_its_rights_are_put_right() {
    use super::{piped, wg_public};
    use std::process::Command;
    let setup = Setup::each_kind();
    let ssh = setup.scratch.join("made");
    piped(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "theirs", "-f"]).arg(&ssh), b"");
    let ssh = fs::read(ssh).unwrap();
    let wg = piped(Command::new("wg").arg("genkey"), b"").into_bytes();
    let age = piped(&mut Command::new("age-keygen"), b"").into_bytes();
    debugfs_write(&setup.image, "mkdir /etc/secrets\n");
    for (path, content) in [
        ("/etc/ssh/ssh_host_ed25519_key", &ssh),
        ("/etc/secrets/deploy-key", &ssh),
        ("/etc/secrets/wg0", &wg),
        ("/etc/secrets/backup.age", &age),
    ] {
        setup.put(path, content);
        debugfs_write(&setup.image, &format!("set_inode_field {path} mode 0100644\n"));
    }
    setup.run("inject", &["--public-out", "keys.json"]).expect_code(0);
    assert_eq!(setup.content("/etc/ssh/ssh_host_ed25519_key").unwrap(), ssh);
    assert_eq!(setup.content("/etc/secrets/wg0").unwrap(), wg);
    assert_eq!(setup.content("/etc/secrets/backup.age").unwrap(), age);
    let tree = Tree::of(&setup.image);
    assert_eq!((tree.at("/etc/secrets/wg0").mode, tree.at("/etc/secrets/wg0").uid), (0o440, 998));
    assert_eq!(tree.at("/etc/ssh/ssh_host_ed25519_key").mode, 0o400);
    let beside = String::from_utf8(setup.content("/etc/secrets/deploy-key.pub").unwrap()).unwrap();
    assert_eq!(beside.trim_end(), ssh_public(&setup.file("/etc/secrets/deploy-key")));
    assert!(beside.ends_with(" theirs\n"));
    let keys: serde_json::Value = serde_json::from_slice(&fs::read(setup.scratch.join("keys.json")).unwrap()).unwrap();
    assert_eq!(keys["keys"][2]["wireguard_public_key"], wg_public(&wg));
    assert_eq!(keys["keys"][3]["age_recipient"], age_public(&age));
}

#[test]
fn what_may_be_something_else_in_use_is_refused_and_stays() {
    use super::piped;
    use std::process::Command;
    let setup = Setup::each_kind();
    let made = |args: &[&str]| {
        let path = setup.scratch.join("made");
        piped(Command::new("ssh-keygen").args(args).args(["-q", "-f"]).arg(&path), b"");
        let content = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        fs::remove_file(setup.scratch.join("made.pub")).unwrap();
        content
    };
    let ecdsa = made(&["-t", "ecdsa", "-N", ""]);
    let protected = made(&["-t", "ed25519", "-a", "1", "-N", "a passphrase"]);
    let large = vec![b'x'; 20_000];
    debugfs_write(&setup.image, "mkdir /etc/secrets\n");
    for (path, content, want) in [
        ("/etc/secrets/deploy-key", &ecdsa[..], "it is an SSH key of another type"),
        ("/etc/secrets/deploy-key", &protected, "it is a key that a passphrase protects"),
        ("/etc/secrets/deploy-key", b"my notes\n", "it is no private key in OpenSSH's format"),
        ("/etc/ssh/ssh_host_ed25519_key", &large, "it is too large for a key"),
        ("/etc/secrets/wg0", b"my notes\n", "it is no key of WireGuard"),
        ("/etc/secrets/backup.age", b"my notes\n", "it is no file of age's X25519 identities"),
    ] {
        setup.put(path, content);
        let before = sha256_of(&setup.image.path);
        for command in ["plan", "verify", "inject"] {
            setup.run(command, &[]).expect_refusal(
                path,
                1,
                &[path, "may be in use", want, "hint: it is never overwritten"],
            );
        }
        setup.run("inject", &["--public-out", "keys"]).expect_code(1);
        assert!(!setup.scratch.join("keys").exists());
        assert_eq!(sha256_of(&setup.image.path), before, "{want}");
        setup.remove(path);
    }
}

#[test]
fn a_token_that_stands_is_kept_and_another_length_is_only_warned_about() {
    let setup = Setup::each_kind();
    setup.run("inject", &[]).expect_code(0);
    let large = vec![b'x'; 20_000];
    for (content, warned) in [(&b"short"[..], true), (&large, true), (&[b'a'; 60], false), (&[b'G'; 60], true)] {
        setup.put("/etc/secrets/restic", content);
        debugfs_write(&setup.image, "set_inode_field /etc/secrets/restic mode 0100400\n");
        let said = setup.run("inject", &["--json"]).expect_code(0).json();
        assert_eq!(setup.content("/etc/secrets/restic").unwrap(), content);
        let codes: Vec<&str> =
            said["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap()).collect();
        assert_eq!(codes, if warned { vec!["DD402"] } else { vec![] });
    }
    let manifest = super::MANIFEST.replace("length: 60,", "length: 61,");
    setup.put("/etc/secrets/restic", &[b'a'; 60]);
    setup.scratch.write("secrets.yaml", manifest);
    setup.run("plan", &[]).expect_code(0).expect_output("DD402");
}

#[test]
fn a_warning_is_told_once_and_not_for_the_public_part_again() {
    let setup = Setup::new(
        "version: 1\nsecrets:\n  key: { path: /var/tmp/key, generate: ssh-ed25519 }\n  \
         token: { path: /etc/secrets/token, generate: token }\nhosts: { node1: , node2: }\n",
    );
    let check = super::Deaddrop::new(&setup.scratch).args(["check"]).run().expect_code(0).stdout();
    assert!(check.contains("DD401") && check.contains("deaddrop generate token"), "{check}");
    for command in ["plan", "inject", "inject"] {
        let run = setup.run(command, &[]).expect_code(0);
        let said = run.stdout() + &run.stderr();
        for code in ["NX003", "DD401"] {
            assert_eq!(said.matches(code).count(), 1, "{command}: {said}");
        }
    }
}

#[test]
fn a_new_output_has_keys_that_its_input_has_not() {
    let setup = Setup::each_kind();
    let before = sha256_of(&setup.image.path);
    setup.run("inject", &["-o", "out.img", "--public-out", "first"]).expect_code(0);
    setup.run("inject", &["-o", "out.img", "--force", "--public-out", "second"]).expect_code(0);
    assert_eq!(sha256_of(&setup.image.path), before);
    let read = |name: &str| fs::read_to_string(setup.scratch.join(name)).unwrap();
    assert_ne!(read("first"), read("second"), "the input holds none, so each output has its own");
    super::Deaddrop::new(&setup.scratch)
        .args(["inject", "out.img", "--host", "node1", "--public-out", "third"])
        .run()
        .expect_code(0)
        .expect_error("nothing to do");
    assert_eq!(read("second"), read("third"));
}
