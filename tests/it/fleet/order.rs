//! In which order hosts go, and when the others are left alone.

use std::fs;

use super::nodes::Nodes;
use super::{Values, assert_empty, manifest, statuses};

/// Makes a node refuse: a directory stands where a file belongs.
fn break_node(nodes: &Nodes, number: usize) {
    nodes.shell(number, "mkdir -p /etc/secrets/s03");
}

fn status_words(object: &serde_json::Value) -> Vec<String> {
    statuses(object).into_iter().map(|(_, status)| status).collect()
}

#[test]
fn a_canary_that_fails_stops_all_others_before_they_are_contacted() {
    let nodes = Nodes::start(4);
    manifest(&nodes, "", "", "");
    break_node(&nodes, 1);
    let values = Values::old();
    let before: Vec<usize> = (0..4).map(|number| nodes.connections(number)).collect();
    let run = values
        .deaddrop(&nodes, &["rotate", "node000", "node001", "--all", "--canary", "2", "--json"])
        .run()
        .expect_code(4);
    assert_eq!(status_words(&run.json()), ["done", "failed", "skipped", "skipped"]);
    assert!(run.json()["hosts"][2]["error"].as_str().unwrap().contains("a canary failed"));
    assert!(run.stderr().contains("1 of 4 hosts done, 1 failed, 2 not begun"), "{}", run.stderr());
    for number in [2, 3] {
        assert_eq!(nodes.connections(number), before[number], "node{number} was contacted");
        assert_empty(&nodes, number);
    }
    // A canary that is well lets the others go.
    let run = values.deaddrop(&nodes, &["rotate", "node000", "node002", "node003", "--canary", "1", "--json"]).run();
    assert_eq!(status_words(&run.expect_code(0).json()), ["unchanged", "done", "done"]);
}

#[test]
fn one_failure_more_than_may_be_is_the_end_and_without_a_limit_all_go() {
    let nodes = Nodes::start(4);
    manifest(&nodes, "", "", "");
    break_node(&nodes, 0);
    let values = Values::old();
    let one_by_one = ["rotate", "--all", "--parallel", "1", "--json"];
    let limited = [&one_by_one[..], &["--max-failures", "0"]].concat();
    let run = values.deaddrop(&nodes, &limited).run().expect_code(1);
    assert_eq!(status_words(&run.json()), ["failed", "skipped", "skipped", "skipped"]);
    let limited = [&one_by_one[..], &["--max-failures", "1", "--batch", "2"]].concat();
    let run = values.deaddrop(&nodes, &limited).run().expect_code(4);
    assert_eq!(status_words(&run.json()), ["failed", "done", "done", "done"]);
    let run = values.deaddrop(&nodes, &one_by_one).run().expect_code(1);
    assert_eq!(status_words(&run.json()), ["failed", "unchanged", "unchanged", "unchanged"]);
}

/// For a secret: notes when something begins and ends on a node, in a file that all of them share.
fn noting(nodes: &Nodes) -> String {
    let notes = nodes.scratch.join("notes");
    format!(", run_after: [[sh, -c, \"echo begin >> {0}; sleep 0.3; echo end >> {0}\"]], settle: 0", notes.display())
}

fn notes(nodes: &Nodes) -> Vec<String> {
    let text = fs::read_to_string(nodes.scratch.join("notes")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn hosts_of_a_serial_tag_go_one_at_a_time() {
    let nodes = Nodes::start(4);
    for (top, flag) in [("serial: server\n", &[][..]), ("", &["--serial", "server"])] {
        manifest(&nodes, ", tags: [server]", &noting(&nodes), top);
        let _ = fs::remove_file(nodes.scratch.join("notes"));
        let args = [&["rotate", "--all"], flag].concat();
        Values::old().deaddrop(&nodes, &args).run().expect_code(0);
        assert_eq!(notes(&nodes), ["begin", "end"].repeat(4), "{top}{flag:?}");
    }
}

#[test]
fn what_is_left_of_a_serial_tag_does_not_begin_when_one_has_failed() {
    let nodes = Nodes::start(3);
    manifest(&nodes, ", tags: [server]", "", "serial: [server]\n");
    break_node(&nodes, 1);
    let run = Values::old().deaddrop(&nodes, &["rotate", "--all", "--json"]).run().expect_code(4);
    assert_eq!(status_words(&run.json()), ["done", "failed", "skipped"]);
    assert!(run.json()["hosts"][2]["error"].as_str().unwrap().contains("tag:server"), "{}", run.stderr());
}

#[test]
fn hosts_come_in_the_order_in_which_they_are_named_each_once() {
    let nodes = Nodes::start(3);
    manifest(&nodes, ", tags: [all]", "", "");
    let args = ["rotate", "node002", "tag:all", "node002", "--json"];
    let run = Values::old().deaddrop(&nodes, &args).run().expect_code(0);
    let hosts: Vec<String> = statuses(&run.json()).into_iter().map(|(host, _)| host).collect();
    assert_eq!(hosts, ["node002", "node000", "node001"]);
    // Each was entered once: one connection, one session.
    for number in 0..3 {
        assert_eq!(nodes.connections(number), 1, "{number}");
    }
}

#[test]
fn a_node_whose_unit_fails_is_rolled_back_and_the_others_are_done() {
    let nodes = Nodes::start(3);
    manifest(&nodes, "", ", restart: [app.service], settle: 1", "");
    let old = Values::old();
    old.deaddrop(&nodes, &["rotate", "--all"]).run().expect_code(0);
    nodes.shell(1, ": > /etc/broken-unit");
    let new = Values::others();
    let run = new.deaddrop(&nodes, &["rotate", "--all", "--json"]).run().expect_code(4);
    assert_eq!(status_words(&run.json()), ["done", "rolled-back", "done"]);
    assert!(run.stderr().contains("2 of 3 hosts done, 1 failed and was rolled back"), "{}", run.stderr());
    assert_eq!(run.json()["hosts"][0]["restarted"], serde_json::json!(["app.service"]));
    new.assert_on(&nodes, 0);
    old.assert_on(&nodes, 1);
    // Alone: nothing was changed anywhere.
    let run = new.deaddrop(&nodes, &["rotate", "--all", "--json"]).run().expect_code(1);
    assert_eq!(status_words(&run.json()), ["unchanged", "rolled-back", "unchanged"]);
    let run = new.deaddrop(&nodes, &["rotate", "node001", "--no-rollback", "--json"]).run().expect_code(4);
    assert_eq!(status_words(&run.json()), ["failed"]);
    new.assert_on(&nodes, 1);
}
