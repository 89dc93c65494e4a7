//! What a node cannot do: nothing is changed then, and it is said why.

use std::fs;

use super::job::Job;
use crate::kit::Scratch;
use crate::kit::node::NodeBuilder;

#[test]
fn a_file_system_that_is_full_keeps_all_old_files() {
    let scratch = Scratch::new();
    // The small file system is seen inside the node only: a link leads there, and a copy tells what is in it.
    let node = NodeBuilder::new("node1")
        .mounts("mount -t tmpfs -o size=64k,mode=700 tmpfs \"$root/etc/secrets\"\n")
        .start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("small", "/etc/secrets/small", "").add("big", "/etc/secrets/big", "");
    fs::write(scratch.join("values/big"), vec![b'x'; 100_000]).unwrap();
    job.rotate().expect_code(1).expect_error("/etc/secrets/big cannot be written").expect_error("No space left");
    node.assert_clean();
    // Neither is there.
    job.deaddrop(&["plan", "@node1"]).run().expect_code(0).expect_output("2 changes: 2 to create");
}

#[test]
fn a_read_only_etc_is_told_and_nothing_is_changed() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1")
        .mounts("mount --bind \"$root/etc\" \"$root/etc\"\nmount -o remount,bind,ro \"$root/etc\"\n")
        .start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/srv/a", "").add("b", "/etc/secrets/b", "");
    job.rotate().expect_code(1).expect_error("/etc/secrets/b cannot be written").expect_error("Read-only file system");
    assert_eq!(job.states(&node), ["none", "none"]);
    node.assert_clean();
}

#[test]
fn without_a_place_for_the_list_nothing_is_written() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1")
        .mounts("mount --bind \"$root/var\" \"$root/var\"\nmount -o remount,bind,ro \"$root/var\"\n")
        .start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    job.rotate().expect_code(1).expect_error("its list of temporary files cannot be written");
    assert_eq!(job.states(&node), ["none"]);
    node.assert_clean();
}

#[test]
fn an_owner_that_the_node_does_not_have_is_refused() {
    let scratch = Scratch::new();
    let _node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", ", owner: k3s");
    job.rotate().expect_code(1).expect_error("the target has no user `k3s` yet");
}

#[test]
fn images_and_nodes_are_told_apart() {
    let scratch = Scratch::new();
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    crate::kit::run::Deaddrop::new(&scratch)
        .args(["inject", "@node1"])
        .run()
        .expect_code(2)
        .expect_error("deaddrop rotate node1");
    job.deaddrop(&["plan", "@node1", "--root-partition", "1"]).run().expect_code(2).expect_error("is for images");
    job.deaddrop(&["plan", "@nope"]).run().expect_code(2).expect_error("unknown host `nope`");
}
