//! A running node whose system is that of a [`NixosRoot`]: its store, and the link to the system that runs. Its users
//! are those of the node's own files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Scratch;
use super::nixos::NixosRoot;
use super::node::{Node, NodeBuilder};

/// A node with the store of `root`, whose system runs there.
pub fn nixos_node(name: &str, root: &NixosRoot) -> NodeBuilder {
    let (store, toplevel) = (root.host("/nix"), root.toplevel());
    let copy = format!("rm -rf \"$root/nix\"\ncp -a '{}' \"$root/nix\"\n", store.display());
    NodeBuilder::new(name).mounts(&format!("{copy}ln -s {toplevel} \"$root/run/current-system\"\n"))
}

/// Lines of the node's own shadow file.
pub fn set_shadow(node: &Node, text: &str) {
    fs::write(node.at("/etc/shadow"), text).expect("writing a file of ours");
    fs::set_permissions(node.at("/etc/shadow"), fs::Permissions::from_mode(0o640)).expect("setting its mode");
}

/// The hash field of a user's line.
pub fn shadow_field(node: &Node, user: &str) -> String {
    let text = fs::read_to_string(node.at("/etc/shadow")).expect("reading a file of ours");
    let line = text.lines().find(|line| line.starts_with(&format!("{user}:"))).expect("a line of the user");
    line.split(':').nth(1).expect("a field").to_owned()
}

/// Values of the environment beside a manifest.
pub fn write_manifest(scratch: &Scratch, secrets: &str) {
    scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{secrets}hosts:\n  node1: {{ ssh: node1 }}\n"));
}
