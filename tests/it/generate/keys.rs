//! Each kind, as the program reads it that it is for.

use std::process::Command;

use super::{Setup, age_public, piped, ssh_public, wg_public};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::tree::{Kind, Tree};

#[test]
fn each_kind_is_what_its_own_program_takes_for_one() {
    let setup = Setup::each_kind();
    let before = Tree::of(&setup.image);
    setup.run("inject", &[]).expect_code(0).expect_error("5 secrets written, 0 unchanged");
    assert_fsck_clean(&setup.image);

    for (path, comment) in
        [("/etc/ssh/ssh_host_ed25519_key", "host-key@node1"), ("/etc/secrets/deploy-key", "deploy of node1")]
    {
        let public = String::from_utf8(setup.content(&format!("{path}.pub")).unwrap()).unwrap();
        assert_eq!(format!("{}\n", ssh_public(&setup.file(path))), public, "{path}");
        let about = piped(Command::new("ssh-keygen").args(["-l", "-f"]).arg(setup.file(path)), b"");
        assert!(
            about.starts_with("256 SHA256:") && about.trim_end().ends_with(&format!("{comment} (ED25519)")),
            "{about}"
        );
        assert!(
            public.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI") && public.ends_with(&format!(" {comment}\n"))
        );
        // It signs, and its own public part verifies.
        let key = setup.file(path);
        let allowed = setup.scratch.write("allowed", format!("me {public}"));
        let signature = piped(Command::new("ssh-keygen").args(["-Y", "sign", "-n", "x", "-f"]).arg(&key), b"a message");
        let signature = setup.scratch.write("signature", signature);
        piped(
            Command::new("ssh-keygen")
                .args(["-Y", "verify", "-n", "x", "-I", "me", "-f"])
                .arg(allowed)
                .arg("-s")
                .arg(signature),
            b"a message",
        );
    }

    let wg = setup.content("/etc/secrets/wg0").unwrap();
    assert_eq!(wg_public(&wg).len(), 44);
    assert_eq!((wg.len(), wg.last()), (45, Some(&b'\n')), "as `wg genkey` prints it");
    let age = setup.content("/etc/secrets/backup.age").unwrap();
    assert!(age_public(&age).starts_with("age1"));
    let token = setup.content("/etc/secrets/restic").unwrap();
    assert!(token.len() == 60 && token.iter().all(|byte| b"abcdef0123456789".contains(byte)));

    let after = Tree::of(&setup.image);
    let rights = |path: &str| {
        let node = after.at(path);
        assert!(matches!(node.kind, Kind::File { .. }), "{path}");
        format!("{:04o} {}:{}", node.mode, node.uid, node.gid)
    };
    for (path, want) in [
        ("/etc/ssh/ssh_host_ed25519_key", "0400 0:0"),
        ("/etc/ssh/ssh_host_ed25519_key.pub", "0644 0:0"),
        ("/etc/secrets/deploy-key", "0600 0:0"),
        ("/etc/secrets/deploy-key.pub", "0644 0:0"),
        ("/etc/secrets/wg0", "0440 998:995"),
        ("/etc/secrets/backup.age", "0400 0:0"),
        ("/etc/secrets/restic", "0400 0:0"),
    ] {
        assert_eq!(rights(path), want, "{path}");
    }
    let new: Vec<&str> = after.0.keys().filter(|path| !before.0.contains_key(*path)).map(String::as_str).collect();
    assert_eq!(new.len(), 8, "the seven files and /etc/secrets: {new:?}");
}

#[test]
fn the_wireguard_key_is_clamped() {
    // What `wg` itself does not check: RFC 7748, section 5.
    let setup = Setup::each_kind();
    for _ in 0..4 {
        setup.run("inject", &[]).expect_code(0);
        let key = setup.content("/etc/secrets/wg0").unwrap();
        let bytes = piped(
            Command::new("python3").args(["-c", "import base64, sys; print(base64.b64decode(sys.stdin.read()).hex())"]),
            &key,
        );
        let hex = bytes.trim_end();
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        assert_eq!((hex.len(), byte(0) & 7, byte(31) & 0xc0), (64, 0, 0x40));
        setup.remove("/etc/secrets/wg0");
    }
}

#[test]
fn a_directory_that_is_made_for_a_key_is_not_opened_by_its_public_part() {
    let setup = Setup::new(
        "version: 1\nsecrets:\n  key: { path: /etc/secrets/key, generate: ssh-ed25519 }\nhosts: { node1: }\n",
    );
    setup.run("inject", &[]).expect_code(0);
    let tree = Tree::of(&setup.image);
    assert_eq!((tree.at("/etc/secrets").mode, tree.at("/etc/secrets/key.pub").mode), (0o700, 0o644));
}

#[test]
fn hosts_and_runs_never_get_the_same_key() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let setup = Setup::each_kind();
        setup.run("inject", &[]).expect_code(0);
        for (name, path) in super::EACH_KIND {
            assert!(seen.insert(setup.content(path).unwrap()), "{name} was there before");
        }
    }
}
