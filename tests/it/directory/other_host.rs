//! DD403: a target that tells that it is another host of the manifest.

use std::fs;
use std::os::unix::fs::symlink;

use super::Root;
use crate::kit::run::Finished;

const MANIFEST: &str = "\
version: 1
secrets:
  host-key: { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519 }
  a: { path: /etc/secrets/a, from: \"env:A_{host}\" }
hosts: { node1: , node2: , node3: { allow: { DD403: 'a clone, by design' } } }
";

impl Root {
    /// A run for a host, with the value of this host alone: none of another host can be read.
    fn run_as(&self, host: &str, args: &[&str]) -> Finished {
        let run = self.deaddrop(args).args(["root", "--host", host]);
        run.env(format!("A_{host}"), self.value.text()).run()
    }
}

/// Commands, and their exit codes for a root that is another host's.
const REFUSED: [&[&str]; 4] = [&["plan"], &["plan", "--exit-code"], &["inject"], &["verify"]];

#[test]
fn a_root_with_the_key_of_another_host_is_refused_and_as_host_goes_on() {
    let root = Root::new();
    root.scratch.write("secrets.yaml", MANIFEST);
    root.run_as("node1", &["inject"]).expect_code(0);
    let before = root.tree();
    for command in REFUSED {
        let run = root.run_as("node2", command);
        let run = run.expect_refusal(command[0], 1, &["DD403", "target of node1", "ssh_host_ed25519_key", "--as-host"]);
        assert!(!run.stderr().contains("allow:"), "{}", run.stderr());
    }
    root.run_as("node2", &["inject", "--force"]).expect_refusal("--force", 1, &["--force is for images"]);
    before.assert_same(&root.tree(), false);
    // The public part tells it alone, where the key's own comment does not.
    root.run_as("node1", &["verify"]).expect_code(0);
    // By design on node3: a warning, with the reason.
    root.run_as("node3", &["plan"]).expect_code(0).expect_output("! DD403").expect_output("a clone, by design");
    root.run_as("node2", &["plan", "--as-host"]).expect_code(0).expect_output("! DD403");
    root.run_as("node2", &["inject", "--as-host"]).expect_code(0);
    root.run_as("node2", &["verify", "--as-host"]).expect_code(0);
}

#[test]
fn a_hostname_of_the_manifest_tells_it_and_another_name_does_not() {
    let root = Root::new();
    root.scratch.write("secrets.yaml", MANIFEST);
    root.write("nix/store/e/etc/hostname", "# made by NixOS\n\nnode1\n");
    symlink("static/hostname", root.at("etc/hostname")).unwrap();
    for command in REFUSED {
        root.run_as("node2", command).expect_refusal(command[0], 1, &["DD403", "target of node1", "/etc/hostname"]);
    }
    root.run_as("node1", &["plan"]).expect_code(0);
    fs::remove_file(root.at("etc/hostname")).unwrap();
    for name in ["nixos\n", "node1.example.org\n", "", "node"] {
        root.write("etc/hostname", name);
        root.run_as("node2", &["plan"]).expect_code(0);
    }
    root.write("etc/hostname", "node1");
    root.run_as("node2", &["plan"]).expect_refusal("without a line end", 1, &["DD403"]);
    // Not a file, or a link to nothing: it tells nothing.
    fs::remove_file(root.at("etc/hostname")).unwrap();
    symlink("nowhere", root.at("etc/hostname")).unwrap();
    root.run_as("node2", &["plan"]).expect_code(0);
}

#[test]
fn the_public_part_beside_a_kept_key_tells_the_host_too() {
    let root = Root::new();
    root.scratch.write("secrets.yaml", MANIFEST);
    root.run_as("node1", &["inject"]).expect_code(0);
    let other = Root::new();
    other.scratch.write(
        "secrets.yaml",
        MANIFEST.replace("generate: ssh-host-ed25519", "generate: { kind: ssh-host-ed25519, comment: x }"),
    );
    other.run_as("node1", &["inject"]).expect_code(0);
    let public = "etc/ssh/ssh_host_ed25519_key.pub";
    let line = fs::read_to_string(other.at(public)).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    fs::write(other.at(public), format!("{} {} host-key@node1\n", words[0], words[1])).unwrap();
    other.run_as("node2", &["plan"]).expect_refusal("its .pub", 1, &["DD403", "target of node1", "key.pub"]);
}
