//! Keys that a node makes for itself: made there, judged there, and never on the wire where the node can do both.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::job::{assert_untouched, everything, mode_and_owner};
use crate::kit::node::{Node, NodeBuilder, deaddrop};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, tool, write_program};

/// An alphabet of what has a meaning for a shell, for tr, and for printf.
const ODD: &str = r"-a\]^z[:%*'$09nx";

const EACH_KIND: &str = r#"version: 1
secrets:
  token:  { path: "/etc/secrets/the token", generate: token }
  odd:
    { path: /etc/secrets/odd, generate: { kind: token, length: 400, alphabet: "-a\\]^z[:%*'$09nx" }, newline: true,
      owner: admin }
  deploy: { path: /etc/secrets/deploy, generate: { kind: ssh-ed25519, comment: "deploy -of node" }, mode: "0440" }
  host:   { path: /srv/ssh/host, generate: ssh-host-ed25519 }
  wg0:    { path: /etc/secrets/wg0, generate: wireguard }
  plain:  { path: /etc/secrets/plain, from: env:PLAIN }
hosts:
  node1: { ssh: node1 }
"#;

/// A node, and all that goes to it and comes from it.
struct Wire<'a> {
    scratch: &'a Scratch,
    node: Node,
}

impl<'a> Wire<'a> {
    fn new(scratch: &'a Scratch, node: NodeBuilder, manifest: &str) -> Self {
        let node = node.start(scratch);
        let dir = scratch.join("wire");
        fs::create_dir(&dir).unwrap();
        let place = dir.display();
        let ssh =
            format!("#!/bin/bash\nset -o pipefail\ntee -a {place}/in | /usr/bin/ssh \"$@\" | tee -a {place}/out\n");
        write_program(&dir.join("ssh"), &ssh);
        scratch.write("secrets.yaml", manifest);
        Self { scratch, node }
    }

    fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", self.scratch.join("wire").display());
        deaddrop(self.scratch, args).env("PATH", &path).env("PLAIN", "a value of no key")
    }

    fn rotate(&self) -> Finished {
        self.deaddrop(&["rotate", "node1"]).run()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.node.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn write(&self, path: &str, content: &[u8]) {
        let _ = fs::remove_file(self.node.at(path));
        fs::write(self.node.at(path), content).unwrap();
        fs::set_permissions(self.node.at(path), Permissions::from_mode(0o400)).unwrap();
    }

    /// True when a part of it went over the wire, as it is or in base64.
    fn has_seen(&self, value: &[u8]) -> bool {
        let part = &value[value.len() / 2..][..value.len().min(48) / 2];
        ["in", "out"].iter().any(|name| {
            let mut seen = fs::read(self.scratch.join("wire").join(name)).unwrap();
            let raw = memchr::memmem::find(&seen, part).is_some();
            seen.retain(|byte| *byte != b'\n');
            let encoded = (0..3).any(|shift| {
                let text = STANDARD.encode([&vec![b'x'; shift], part].concat());
                let inner = &text.as_bytes()[if shift == 0 { 0 } else { 4 }..text.len() - 4];
                memchr::memmem::find(&seen, inner).is_some()
            });
            raw || encoded
        })
    }

    /// Judges by the programs that they are for.
    #[track_caller]
    fn assert_keys(&self) {
        let token = self.read("/etc/secrets/the token");
        assert!(token.len() == 40 && token.iter().all(u8::is_ascii_alphanumeric), "{} bytes", token.len());
        let odd = self.read("/etc/secrets/odd");
        let (last, odd) = odd.split_last().unwrap();
        assert!((odd.len(), *last) == (400, b'\n') && odd.iter().all(|byte| ODD.as_bytes().contains(byte)));
        // Each of them is there: 400 of 16.
        assert!(ODD.bytes().all(|byte| odd.contains(&byte)), "a character is never chosen");
        for (path, comment) in [("/etc/secrets/deploy", "deploy -of node"), ("/srv/ssh/host", "host@node1")] {
            let copy = self.scratch.join("copy");
            fs::write(&copy, self.read(path)).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o600)).unwrap();
            let public = tool(Command::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(&copy)).stdout;
            assert_eq!(self.read(&format!("{path}.pub")), public, "{path}");
            assert!(String::from_utf8(public).unwrap().ends_with(&format!(" {comment}\n")), "{path}");
            assert_eq!(mode_and_owner(&self.node, &format!("{path}.pub")), (0o100_644, 0, 0));
            fs::remove_file(copy).unwrap();
        }
        let wg = self.read("/etc/secrets/wg0");
        assert!(wg.len() == 45 && STANDARD.decode(&wg[..44]).unwrap().len() == 32);
        assert_eq!(mode_and_owner(&self.node, "/etc/secrets/deploy"), (0o100_440, 0, 0));
        assert_eq!(mode_and_owner(&self.node, "/etc/secrets/odd"), (0o100_400, 1000, 0));
    }

    /// The parts of the keys that nobody else may have.
    fn private_parts(&self) -> Vec<(&'static str, Vec<u8>)> {
        // Less the lines that all files of OpenSSH share, and the public part; the last block has the seed.
        let of_ssh = |path| {
            let text = String::from_utf8(self.read(path)).unwrap();
            text.lines().nth(4).unwrap().as_bytes().to_vec()
        };
        let wg = self.read("/etc/secrets/wg0");
        vec![
            ("token", self.read("/etc/secrets/the token")),
            ("odd", self.read("/etc/secrets/odd")),
            ("deploy", of_ssh("/etc/secrets/deploy")),
            ("host", of_ssh("/srv/ssh/host")),
            ("wg0", wg[..40].to_vec()),
        ]
    }
}

/// Makes each kind of key, keeps it, and puts right what is beside it.
#[track_caller]
fn whole_life(node: NodeBuilder) {
    let scratch = Scratch::new();
    let wire = Wire::new(&scratch, node, EACH_KIND);
    let plan = wire.deaddrop(&["plan", "@node1"]).run().expect_code(0).expect_output("generated (token)");
    assert!(!(plan.stdout() + &plan.stderr()).contains("DD403"));
    wire.rotate().expect_code(0);
    wire.assert_keys();
    wire.node.assert_clean();
    let before = everything(&wire.node);
    wire.rotate().expect_code(0).expect_error("node1   ✓ nothing to do");
    wire.deaddrop(&["verify", "@node1"]).run().expect_code(0);
    wire.deaddrop(&["plan", "@node1"]).run().expect_code(0).expect_output("generated (ssh-ed25519), kept");
    assert_untouched(&wire.node, &before);
    for (name, part) in wire.private_parts() {
        assert!(!wire.has_seen(&part), "{name} was on the wire");
    }
    // Counter-proof: what is sent is found.
    assert!(wire.has_seen(b"a value of no key"));

    // What is beside the key, and its mode.
    let (key, public) = (wire.read("/etc/secrets/deploy"), wire.read("/etc/secrets/deploy.pub"));
    fs::write(wire.node.at("/etc/secrets/deploy.pub"), wire.read("/srv/ssh/host.pub")).unwrap();
    fs::set_permissions(wire.node.at("/etc/secrets/deploy"), Permissions::from_mode(0o444)).unwrap();
    // A list is dealt with first, and all is looked at again.
    fs::create_dir(wire.node.at("/var/lib/deaddrop")).unwrap();
    fs::write(wire.node.at("/var/lib/deaddrop/list"), "run 0a\n").unwrap();
    wire.rotate().expect_code(0);
    assert_eq!((wire.read("/etc/secrets/deploy"), wire.read("/etc/secrets/deploy.pub")), (key, public));
    wire.assert_keys();
    // An empty file is filled, one that is gone is made.
    let old = wire.private_parts();
    wire.write("/etc/secrets/wg0", b"");
    for path in ["/etc/secrets/the token", "/etc/secrets/deploy"] {
        fs::remove_file(wire.node.at(path)).unwrap();
    }
    wire.deaddrop(&["verify", "@node1"]).run().expect_code(3);
    wire.rotate().expect_code(0);
    wire.assert_keys();
    let is_new: Vec<bool> = old.iter().zip(wire.private_parts()).map(|(old, new)| old.1 != new.1).collect();
    assert_eq!(is_new, [true, false, true, false, true]);
    for (name, part) in wire.private_parts() {
        assert!(!wire.has_seen(&part), "{name} was on the wire");
    }
    wire.node.assert_clean();
}

#[test]
fn keys_are_made_and_judged_by_dash() {
    whole_life(NodeBuilder::new("node1").shell("/usr/bin/dash"));
}

#[test]
fn keys_are_made_and_judged_by_bash() {
    whole_life(NodeBuilder::new("node1").shell("/usr/bin/bash"));
}

#[test]
fn keys_are_made_and_judged_by_other_shells() {
    for shell in ["/usr/bin/zsh", "/usr/bin/ksh93"] {
        match Path::new(shell).exists() {
            true => whole_life(NodeBuilder::new("node1").shell(shell)),
            false => eprintln!("SKIPPED: {shell} is not installed"),
        }
    }
}

#[test]
fn what_stands_is_judged_on_the_node_as_it_is_here() {
    let scratch = Scratch::new();
    let wire = Wire::new(&scratch, NodeBuilder::new("node1"), EACH_KIND);
    wire.rotate().expect_code(0);
    let here = |args: &[&str]| {
        let file = scratch.join("made");
        let _ = fs::remove_file(&file);
        tool(Command::new("ssh-keygen").args(["-q"]).args(args).arg("-f").arg(&file));
        fs::read(&file).unwrap()
    };
    let good = wire.read("/etc/secrets/deploy");
    let mut turned = good.clone();
    turned[200] = if turned[200] == b'A' { b'B' } else { b'A' };
    for (path, content, want) in [
        ("/etc/secrets/deploy", b"hello\n".to_vec(), "no private key in OpenSSH's format"),
        ("/etc/secrets/deploy", here(&["-t", "ed25519", "-N", "passphrase"]), "a passphrase protects"),
        ("/etc/secrets/deploy", here(&["-t", "ecdsa", "-N", ""]), "an SSH key of another type"),
        ("/etc/secrets/deploy", here(&["-t", "rsa", "-m", "PEM", "-N", ""]), "no private key in OpenSSH's format"),
        ("/etc/secrets/deploy", turned, "a damaged key of OpenSSH"),
        ("/etc/secrets/deploy", vec![b'x'; 20_000], "too large for a key"),
        ("/etc/secrets/wg0", b"A".repeat(43), "no key of WireGuard"),
        ("/etc/secrets/wg0", vec![0; 45], "no key of WireGuard"),
    ] {
        let standing = wire.read(path);
        wire.write(path, &content);
        let before = everything(&wire.node);
        let run = wire.rotate().expect_code(1).expect_error(want).expect_error("holds something else than a key");
        assert_untouched(&wire.node, &before);
        drop(run);
        // The same file in a directory.
        let root = scratch.join("root");
        for directory in ["etc/secrets", "srv/ssh"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join(path.trim_start_matches('/')), &content).unwrap();
        Deaddrop::new(&scratch)
            .args(["inject", "root", "--host", "node1"])
            .env("PLAIN", "x")
            .run()
            .expect_code(1)
            .expect_error(want);
        fs::remove_dir_all(root).unwrap();
        wire.write(path, &standing);
        wire.rotate().expect_code(0);
    }
    // A token of another length or alphabet is kept, and said; a newline after it may be there or not.
    let token = wire.read("/etc/secrets/the token");
    let with = |more: &[u8]| [&token[..], more].concat();
    for (content, is_other) in [
        (with(b"\n"), false),
        (with(b"\n\n"), true),
        (with(b"x"), true),
        (token[..39].to_vec(), true),
        ([&token[..39], b"-"].concat(), true),
        ([&token[..39], b"\n"].concat(), true),
        ([&token[..20], b"\n", &token[20..]].concat(), true),
        ([&token[..40], b"\0"].concat(), true),
        (b"\0".repeat(40), true),
    ] {
        wire.write("/etc/secrets/the token", &content);
        let run = wire.rotate().expect_code(0).expect_error("nothing to do");
        assert_eq!(run.stderr().contains("DD402"), is_other, "{content:?}: {}", run.stderr());
        assert_eq!(wire.read("/etc/secrets/the token"), content);
    }
}

#[test]
fn what_a_node_cannot_make_is_made_here_sent_once_and_said() {
    let scratch = Scratch::new();
    let manifest = EACH_KIND.replace("  plain:", "  age: { path: /etc/secrets/age, generate: age }\n  plain:");
    let wire = Wire::new(&scratch, NodeBuilder::new("node1").busybox(), &manifest);
    let plan = wire.deaddrop(&["plan", "@node1"]).run().expect_code(0);
    let run = wire.rotate().expect_code(0);
    for (path, why) in [
        ("/etc/secrets/deploy", "the node has no ssh-keygen"),
        ("/srv/ssh/host", "the node has no ssh-keygen"),
        ("/etc/secrets/wg0", "the node has no wg"),
        ("/etc/secrets/age", "no node makes keys of age"),
    ] {
        for said in [plan.stdout() + &plan.stderr(), run.stderr()] {
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(&format!("the key of {path} is made here and sent, once: {why}")), "{said}");
        }
    }
    wire.assert_keys();
    let (age, parts) = (wire.read("/etc/secrets/age"), wire.private_parts());
    let before = everything(&wire.node);
    let run = wire.rotate().expect_code(0).expect_error("node1   ✓ nothing to do");
    assert!(!run.stderr().contains("DD403"), "{}", run.stderr());
    assert_untouched(&wire.node, &before);
    assert!(age.starts_with(b"# created: "));
    for (name, part) in parts {
        // The token is made by busybox; of the others it has no program.
        assert_eq!(wire.has_seen(&part), !matches!(name, "token" | "odd"), "{name}");
    }
    wire.node.assert_clean();
}

#[test]
fn a_key_that_is_made_there_goes_with_the_rest_when_a_unit_fails_and_its_output_is_not_shown() {
    let scratch = Scratch::new();
    let manifest = EACH_KIND.replace("generate: token }", "generate: token, restart: a, settle: 0 }");
    let wire = Wire::new(&scratch, NodeBuilder::new("node1"), &manifest);
    wire.node.add_unit("a.service");
    wire.node.on_restart("a.service", "cat '/etc/secrets/the token' >>/srv/journal/a.service; exit 1");
    let run = wire.rotate().expect_code(1).expect_error("rolled back").expect_error("it may hold a key that was made");
    let token = fs::read_to_string(wire.node.at("/srv/journal/a.service")).unwrap();
    assert!(token.len() == 40 && !run.stderr().contains(&token));
    for path in ["/etc/secrets/the token", "/etc/secrets/deploy", "/etc/secrets/deploy.pub", "/etc/secrets/wg0"] {
        assert!(!wire.node.at(path).exists(), "{path}");
    }
    wire.node.assert_clean();
}
