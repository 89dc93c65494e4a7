//! What is wrong is told before any host is contacted.

use std::fs;

use super::nodes::Nodes;
use super::{Values, assert_empty, manifest};
use crate::kit::run::Deaddrop;

#[test]
fn an_unknown_host_or_tag_is_told_before_any_contact() {
    let nodes = Nodes::start(2);
    manifest(&nodes, ", tags: [server]", "", "");
    let text = fs::read_to_string(nodes.scratch.join("secrets.yaml")).unwrap();
    nodes.scratch.write("secrets.yaml", format!("{text}  card: {{ tags: [image] }}\n"));
    let values = Values::old();
    for (words, texts) in [
        (&["node000", "node01"][..], &["unknown host `node01`", "did you mean `node001`"][..]),
        (&["node000", "tag:sever"], &["no host has the tag `sever`", "did you mean `tag:server`?"]),
        (&["server"], &["unknown host `server`", "`tag:server`"]),
        (&["node000", "card"], &["card has no `ssh`", "hosts.card.ssh"]),
        (&["--all"], &["card has no `ssh`"]),
        (&[], &["no host was named", "--all; hosts here: card, node000, node001"]),
        (&["node000", "--serial", "sever"], &["no host has the tag `sever`"]),
        (&["node000", "--only", "s1"], &["unknown secret `s1`", "`s01`"]),
        (&["node1.img"], &["unknown host `node1.img`", "deaddrop inject"]),
        (&["--image", "node1.img"], &["on images it is `inject`", "deaddrop inject node1.img"]),
        (&["node000", "--shard", "auto"], &["neither JOB_COMPLETION_INDEX nor CI_NODE_INDEX"]),
    ] {
        // --ssh-config cannot stand beside --local.
        let run = values.environment().fold(Deaddrop::new(&nodes.scratch), |run, (name, value)| run.env(name, value));
        let run = run.args(["rotate"]).args(words).run();
        run.expect_refusal(&words.join(" "), 2, texts);
    }
    for words in [
        &["--shard", "0/4"][..],
        &["--shard", "5/4"],
        &["--parallel", "0"],
        &["--batch", "0"],
        &["--local"],
        &["--host", "node000"],
        &["--local", "--shard", "1/2"],
        &["--timeout", "0"],
    ] {
        let run = values.deaddrop(&nodes, &["rotate", "node000"]).args(words).run().expect_code(2);
        assert!(run.stdout().is_empty(), "{words:?}");
    }
    for number in 0..2 {
        assert_eq!(nodes.connections(number), 0, "{number}");
    }
}

#[test]
fn a_value_that_cannot_be_had_or_does_not_fit_is_told_before_any_contact() {
    let nodes = Nodes::start(2);
    manifest(&nodes, "", "", "");
    let values = Values::old();
    let run = Deaddrop::new(&nodes.scratch).args(["rotate", "--all", "--json", "--ssh-config", "ssh_config"]).run();
    run.expect_refusal("none of the values", 1, &["$S00 is not set", "$S09 is not set"]);
    // Only on the second host, and only there unfit.
    let text = fs::read_to_string(nodes.scratch.join("secrets.yaml")).unwrap();
    let unfit = text.replace(
        "s09, from: env:S09",
        "s09, from: env:S09, hosts: [node001], used_by: users.users.a.hashedPasswordFile",
    );
    assert!(unfit != text);
    nodes.scratch.write("secrets.yaml", unfit);
    values.deaddrop(&nodes, &["rotate", "--all"]).run().expect_refusal("unfit", 1, &["s09: NX012"]);
    // And a password for sudo that no source has.
    manifest(&nodes, ", become: sudo, become_password: \"env:SUDO\"", "", "");
    let run = values.deaddrop(&nodes, &["rotate", "--all"]).run();
    run.expect_refusal("sudo", 1, &["$SUDO is not set", "become_password of node000"]);
    manifest(&nodes, ", become: sudo, become_password: ask", "", "");
    let run = values.deaddrop(&nodes, &["rotate", "--all"]).run();
    run.expect_refusal("ask", 1, &["`ask` needs a terminal", "become_password: SOURCE:ITEM"]);
    for number in 0..2 {
        assert_eq!(nodes.connections(number), 0, "{number}");
        assert_empty(&nodes, number);
    }
}
