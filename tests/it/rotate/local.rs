//! `rotate --local`: the machine itself, here a node that runs deaddrop.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::job::{Job, assert_untouched, everything};
use crate::kit::Scratch;
use crate::kit::node::{Node, NodeBuilder};

/// Runs deaddrop on the node, in /srv/job, where the job lies.
fn on_the_node(scratch: &Scratch, node: &Node, args: &[&str]) -> Output {
    let job = node.at("/srv/job");
    let _ = fs::remove_dir_all(&job);
    fs::create_dir_all(&job).unwrap();
    for what in ["secrets.yaml", "values"] {
        crate::kit::tool(Command::new("cp").arg("-a").arg(scratch.join(what)).arg(&job));
    }
    Command::new("ssh")
        .arg("-F")
        .arg(scratch.join("ssh/config"))
        .args(["node1", "cd /srv/job && /srv/program"])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn the_same_is_done_without_ssh() {
    let scratch = Scratch::new();
    let program = Path::new(env!("CARGO_BIN_EXE_deaddrop")).display();
    let node = NodeBuilder::new("node1")
        .mounts(&format!("touch \"$root/srv/program\"; mount --bind '{program}' \"$root/srv/program\"\n"))
        .start(&scratch);
    node.add_unit("a.service");
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", ", restart: a, settle: 0, hosts: [node1]").add("two", "/srv/x/two", "");
    let output = on_the_node(&scratch, &node, &["rotate", "--local", "--host", "node1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    job.assert_in_place(&node);
    assert_eq!(node.acts(), ["restart -- a.service"]);
    let before = everything(&node);
    let output = on_the_node(&scratch, &node, &["rotate", "--local", "--host", "node1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing to do"));
    assert_untouched(&node, &before);
    let output = on_the_node(&scratch, &node, &["rotate", "--local"]);
    assert_eq!(output.status.code(), Some(2), "a host is needed");
}
