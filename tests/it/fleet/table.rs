//! A hundred nodes in one run, and what people and programs are told of them.

use std::fs;

use super::nodes::Nodes;
use super::{SECRETS, Values, assert_empty, manifest, statuses};
use crate::kit::run::on_terminal;

const NODES: usize = 100;
/// Nobody listens there.
const DOWN: usize = 7;
/// A directory stands where a file belongs.
const REFUSED: usize = 42;
/// Its host key is not the one that is known.
const FOREIGN: usize = 93;
const FAILING: [usize; 3] = [DOWN, REFUSED, FOREIGN];

#[test]
fn of_a_hundred_nodes_three_fail_in_three_ways_and_the_others_are_done() {
    let mut nodes = Nodes::start(NODES);
    manifest(&nodes, "", "", "");
    nodes.stop(DOWN);
    fs::create_dir_all(nodes.path(REFUSED, "/etc/secrets")).unwrap();
    nodes.shell(REFUSED, "mkdir -p /etc/secrets/s03");
    nodes.forget_host_key(FOREIGN);
    let known = fs::read(nodes.scratch.join("known_hosts")).unwrap();

    let values = Values::old();
    let first = values.deaddrop(&nodes, &["rotate", "--all", "--json"]).run().expect_code(4);
    let object = first.json();
    let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["version", "command", "hosts", "summary"]);
    assert_eq!((&object["version"], &object["command"]), (&1.into(), &"rotate".into()));
    let want = |number: usize| match number {
        DOWN | FOREIGN => "unreachable",
        REFUSED => "failed",
        _ => "done",
    };
    let wanted: Vec<(String, String)> =
        (0..NODES).map(|number| (Nodes::name(number), want(number).to_owned())).collect();
    let other: Vec<_> = statuses(&object).into_iter().zip(wanted).filter(|(found, want)| found != want).collect();
    assert!(other.is_empty(), "{other:?}\n{}", first.stderr());
    let summary = serde_json::json!({
        "done": 97, "unchanged": 0, "failed": 1, "rolled-back": 0, "unreachable": 2, "skipped": 0,
    });
    assert_eq!(object["summary"], summary);
    for number in 0..NODES {
        let host = &object["hosts"][number];
        assert!(host["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{number}");
        assert_eq!(host["error"].is_string(), FAILING.contains(&number), "{number}");
        if !FAILING.contains(&number) {
            let changes = host["changes"].as_array().unwrap();
            assert!(changes.len() == SECRETS && changes.iter().all(|change| change["action"] == "create"), "{number}");
            values.assert_on(&nodes, number);
        }
    }
    assert!(
        object["hosts"][REFUSED]["error"].as_str().unwrap().contains("/etc/secrets/s03"),
        "{}",
        object["hosts"][REFUSED]
    );
    assert!(object["hosts"][FOREIGN]["error"].as_str().unwrap().contains("host key"), "{}", object["hosts"][FOREIGN]);
    assert_empty(&nodes, DOWN);
    assert_empty(&nodes, FOREIGN);
    assert!(!nodes.path(REFUSED, "/etc/secrets/s00").exists(), "one that is refused is refused as a whole");
    assert!(fs::read(nodes.scratch.join("known_hosts")).unwrap() == known, "known_hosts stays as it is");

    // One line a host, as each ends, and a sum; no terminal, so nothing that moves.
    let said = first.stderr();
    for number in 0..NODES {
        let name = format!("  {} ", Nodes::name(number));
        let line =
            said.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{name} is missing:\n{said}"));
        let sign = if FAILING.contains(&number) { '✗' } else { '✓' };
        assert!(line.contains(sign), "{line}");
        assert!(FAILING.contains(&number) || line.contains("10 changed"), "{line}");
    }
    assert!(said.contains("97 of 100 hosts done, 1 failed, 2 unreachable ("), "{said}");
    let again = "hint: again for what is left: deaddrop rotate node007 node042 node093";
    assert!(said.contains(again) && !said.contains('\u{1b}'), "{said}");

    // Nothing is left to do but what fails again: nothing was changed anywhere.
    let second = values.deaddrop(&nodes, &["rotate", "--all", "--json", "-q"]).run().expect_code(1);
    assert_eq!(second.json()["summary"]["unchanged"], 97);
    assert_eq!(second.stderr(), "");
}

#[test]
fn on_a_terminal_running_hosts_have_a_line_with_their_step() {
    let nodes = Nodes::start(3);
    manifest(&nodes, "", "", "");
    let values = Values::old();
    let run = |environment: &[(&str, &str)]| {
        let mut command = on_terminal(&nodes.scratch, "rotate --all --ssh-config ssh_config");
        command.envs(values.environment()).envs(environment.iter().copied());
        let output = command.output().expect("running script (Debian package bsdutils)");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let screen = run(&[("TERM", "xterm")]);
    assert!(screen.contains("connecting") && screen.contains("of 3 hosts"), "{screen:?}");
    for number in 0..3 {
        assert!(screen.contains(&Nodes::name(number)), "{screen:?}");
    }
    assert!(screen.contains("10 changed") && screen.contains("3 of 3 hosts done"), "{screen:?}");
    assert!(is_coloured(&screen), "a terminal gets colour");
    let plain = run(&[("TERM", "xterm"), ("NO_COLOR", "1")]);
    assert!(plain.contains("nothing to do") && !is_coloured(&plain), "NO_COLOR: {plain:?}");
    let dumb = run(&[("TERM", "dumb")]);
    assert!(dumb.contains("nothing to do") && !dumb.contains("connecting") && !dumb.contains('\u{1b}'), "{dumb:?}");
}

/// True where some text has a colour or is bold: `ESC [ … m`.
fn is_coloured(screen: &str) -> bool {
    let codes = screen.split("\u{1b}[").skip(1);
    codes
        .filter_map(|code| code.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').chars().next())
        .any(|end| end == 'm')
}

#[test]
fn more_is_told_on_request_and_a_warning_once_for_all_hosts() {
    let nodes = Nodes::start(2);
    manifest(&nodes, "", ", kind: k3s-token", "");
    let values = Values::old();
    let said = values.deaddrop(&nodes, &["rotate", "--all", "-v"]).run().expect_code(0).stderr();
    assert_eq!(said.matches("+ /etc/secrets/s05").count(), 2, "{said}");
    // A token's file alone does not do it.
    assert_eq!(said.matches("(on node000, node001)").count(), 1, "{said}");
}
