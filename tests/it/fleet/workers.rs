//! Several workers, and what each of them reads.

use std::fs;

use super::nodes::Nodes;
use super::{SECRETS, Values, manifest, statuses};
use crate::kit::run::Deaddrop;
use crate::kit::write_program;

#[test]
fn shards_cover_every_host_once_whatever_says_which_one_it_is() {
    let nodes = Nodes::start(9);
    manifest(&nodes, "", "", "");
    let values = Values::old();
    let hosts = |run: Deaddrop<'_>| -> Vec<String> {
        let finished = run.run().expect_code(0);
        statuses(&finished.json()).into_iter().map(|(host, _)| host).collect()
    };
    let by = |worker: usize, how: usize| {
        let run = |args: &[&str]| values.deaddrop(&nodes, &[&["rotate", "--all", "--json"], args].concat());
        match how {
            0 => run(&["--shard", &format!("{}/3", worker + 1)]),
            1 => run(&["--shard", "auto"]).env("JOB_COMPLETION_INDEX", worker.to_string()).env("JOB_COMPLETIONS", "3"),
            _ => run(&["--shard", "auto"]).env("CI_NODE_INDEX", (worker + 1).to_string()).env("CI_NODE_TOTAL", "3"),
        }
    };
    let shards: Vec<Vec<String>> = (0..3).map(|worker| hosts(by(worker, 0))).collect();
    let mut all: Vec<String> = shards.concat();
    all.sort();
    assert_eq!(all, (0..9).map(Nodes::name).collect::<Vec<_>>());
    for number in 0..9 {
        assert_eq!(nodes.connections(number), 1, "{number}");
        values.assert_on(&nodes, number);
    }
    for how in [1, 2] {
        assert_eq!((0..3).map(|worker| hosts(by(worker, how))).collect::<Vec<_>>(), shards, "{how}");
    }
    // One host alone is in one of six shards, and the others have nothing to do.
    let alone =
        |shard: usize| values.deaddrop(&nodes, &["rotate", "node004", "--json", "--shard", &format!("{shard}/6")]);
    let found: usize = (1..=6).map(|shard| hosts(alone(shard)).len()).sum();
    assert_eq!(found, 1);
}

#[test]
fn a_vault_is_read_once_for_all_hosts() {
    let nodes = Nodes::start(3);
    let values = Values::old();
    // A program that notes each of its runs, and reads its values from a file, since it gets none of our variables that
    // hold some.
    let object: Vec<String> =
        (0..SECRETS).map(|number| format!("\"v{number:02}\": \"{}\"", values.text(number))).collect();
    nodes.scratch.write("vault.json", format!("{{{}}}", object.join(", ")));
    write_program(&nodes.scratch.join("vault"), "#!/bin/sh\necho once >> runs\ncat vault.json\n");
    let secrets: String = (0..SECRETS)
        .map(|number| format!("  s{number:02}: {{ path: /etc/secrets/s{number:02}, from: \"vault:v{number:02}\" }}\n"))
        .collect();
    let text = format!(
        "version: 1\nsources: {{ vault: {{ type: exec, argv: [./vault] }} }}\nsecrets:\n{secrets}hosts:\n{}",
        nodes.hosts("")
    );
    nodes.scratch.write("secrets.yaml", text);
    values.deaddrop(&nodes, &["rotate", "--all"]).run().expect_code(0);
    (0..3).for_each(|number| values.assert_on(&nodes, number));
    assert_eq!(fs::read_to_string(nodes.scratch.join("runs")).unwrap(), "once\n");
}

#[test]
fn some_secrets_only_go_to_the_hosts_that_get_them() {
    let nodes = Nodes::start(2);
    manifest(&nodes, "", ", hosts: [node001]", "");
    let values = Values::old();
    let run = values.deaddrop(&nodes, &["rotate", "--all", "--only", "s00", "--json"]).run().expect_code(0);
    let words: Vec<String> = statuses(&run.json()).into_iter().map(|(_, status)| status).collect();
    assert_eq!(words, ["unchanged", "done"]);
    assert!(nodes.path(1, "/etc/secrets/s00").exists() && !nodes.path(1, "/etc/secrets/s01").exists());
    assert_eq!(nodes.connections(0), 0, "it gets none of them");
    let run = values.deaddrop(&nodes, &["rotate", "node000", "--only", "s00"]).run();
    run.expect_refusal("none of these", 2, &["secret `s00` is for none of these hosts"]);
}
