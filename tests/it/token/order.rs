//! A rotation that goes through, and what leaves the cluster alone.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cluster::{Cluster, DATA, KEPT, SMALL, Shape, TOKEN, systemctl_begin, unwish, wish};
use crate::kit::canary::Canary;
use crate::kit::wait_until;

const WHOLE: Shape =
    Shape { servers: 3, agents: 2, keys: ", keep_old: /etc/secrets/k3s-token.old, restart: k3s", ..SMALL };

#[test]
fn the_request_then_the_file_then_servers_one_by_one_then_agents() {
    let mut cluster = Cluster::start(&WHOLE);
    let old = cluster.token().clone();
    cluster.new_token();
    cluster.forget_events();
    let said = cluster.deaddrop(&["rotate", "--all", "--dry-run"]).run().expect_code(0).stderr();
    for line in [
        "(a) server1, server2, server3 run with one token",
        "(b) keep the old token in /etc/secrets/k3s-token.old: server1, server2, server3",
        "(c) ask for the new token (PUT /v1-k3s/token): server1",
        "(d) write /etc/secrets/k3s-token, on all at once: agent1, agent2, server1, server2, server3",
        "each ready before the next: server1, server2, server3",
        "(f) restart k3s.service: agent1, agent2",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(cluster.events(), [""; 0], "a dry run does nothing");

    let done = cluster.deaddrop(&["rotate", "--all", "--json"]).run().expect_code(0);
    assert_eq!(
        cluster.events(),
        [
            "server1: PUT",
            "server1: restart",
            "server1: ready",
            "server2: restart",
            "server2: ready",
            "server3: restart",
            "server3: ready",
            "agent1: restart",
            "agent1: ready",
            "agent2: restart",
            "agent2: ready",
        ]
    );
    let object = done.json();
    assert_eq!(object["summary"]["done"], 5, "{object}");
    assert_eq!(object["hosts"][0]["restarted"][0], "k3s.service", "{object}");
    cluster.assert_on_one_token();
    for server in &cluster.servers {
        assert!(fs::read(server.at(KEPT)).unwrap() == old.bytes(), "{}: what was kept is another", server.name);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(server.at(KEPT)).unwrap());
        assert_eq!(mode & 0o7777, 0o400);
    }
    assert!(cluster.agents.iter().all(|agent| !agent.at(KEPT).exists()));

    // Nothing to rotate: nothing is done, and the old token stays.
    cluster.forget_events();
    cluster.rotate().expect_code(0).expect_error("nothing to do");
    assert_eq!(cluster.events(), [""; 0]);
    assert!(fs::read(cluster.servers[0].at(KEPT)).unwrap() == old.bytes());
}

#[test]
fn an_agent_that_is_away_is_told_and_done_by_a_later_run_while_the_others_go_on() {
    let mut cluster = Cluster::start(&Shape { agents: 2, ..SMALL });
    cluster.scratch.write_private("wifi", "made up value");
    let wifi = "  wifi: { path: /etc/secrets/wifi, from: 'file:wifi' }\n";
    cluster.write_manifest_with("", wifi);
    cluster.agents[1].stop();
    // Nothing to rotate: other secrets are none of its business.
    let run = cluster.rotate().expect_code(4).expect_error("agent2").expect_error("could not be entered");
    assert!(!run.stderr().contains("again for what is left"), "not without the others: {}", run.stderr());
    assert!(cluster.agents[0].at("/etc/secrets/wifi").exists());
    // A rotation is refused: it may be a server.
    cluster.new_token();
    cluster.rotate().expect_code(1).expect_error("not begun");
    // Unless it is under way.
    cluster.agents.pop();
    cluster.write_manifest("");
    cluster.rotate().expect_code(0);
    cluster.assert_on_one_token();
}

#[test]
fn only_its_mode_changes_and_nothing_restarts() {
    let cluster = Cluster::start(&Shape { agents: 1, keys: ", mode: '0440'", ..SMALL });
    cluster.forget_events();
    let object = cluster.deaddrop(&["rotate", "--all", "--json"]).run().expect_code(0).json();
    assert_eq!(object["hosts"][0]["changes"][0]["action"], "metadata", "{object}");
    assert_eq!((&object["hosts"][0]["status"], &object["summary"]["done"]), (&"done".into(), &2.into()));
    cluster.rotate().expect_code(0).expect_error("nothing to do");
    assert_eq!(cluster.events(), [""; 0]);
}

#[test]
fn both_forms_are_one_token() {
    let cluster = Cluster::start(&Shape { agents: 1, ..SMALL });
    cluster.forget_events();
    let long = format!("K10{}::server:{}\n", "5a".repeat(32), cluster.token().text());
    cluster.each(|node| cluster.place(node, long.as_bytes()));
    cluster.rotate().expect_code(0).expect_error("nothing to do");
    cluster.deaddrop(&["verify", "--all"]).run().expect_code(0);
    assert_eq!(fs::read_to_string(cluster.servers[0].at(TOKEN)).unwrap(), long);
    assert_eq!(cluster.events(), [""; 0]);
}

#[test]
fn a_token_with_the_hash_of_a_ca_is_that_of_this_cluster() {
    let mut cluster = Cluster::start(&SMALL);
    let new = Canary::new("token");
    let own = fs::read_to_string(cluster.servers[0].at(DATA).join("server/token")).unwrap();
    let (ca, other) = (&own[3..67], "0".repeat(64));
    cluster.set_token(Canary::of("long", format!("K10{other}::server:{}", new.text()).as_bytes()));
    cluster.rotate().expect_code(1).expect_error("the new token names another CA than that of the cluster");
    let long = Canary::of("long", format!("K10{ca}::server:{}", new.text()).as_bytes());
    cluster.set_token(long.clone());
    cluster.rotate().expect_code(0);
    assert!(fs::read(cluster.servers[0].at(TOKEN)).unwrap() == long.bytes());
    assert!(cluster.runs_with(0, &new), "the secret alone is sent");
}

#[test]
fn rke2_has_its_own_names_and_each_shell_will_do() {
    for (program, shell) in [("rke2", "/usr/bin/dash"), ("k3s", "/usr/bin/bash"), ("k3s", "/usr/bin/busybox")] {
        let mut cluster = Cluster::start(&Shape { agents: 1, program, shell, ..SMALL });
        cluster.new_token();
        cluster.rotate().expect_code(0);
        cluster.assert_on_one_token();
        cluster.rotate().expect_code(0).expect_error("nothing to do");
    }
}

#[test]
fn no_token_is_in_an_argument_or_an_environment_of_a_node() {
    let mut cluster = Cluster::start(&Shape { agents: 1, keys: WHOLE.keys, ..SMALL });
    for node in cluster.all() {
        node.wrap_program("curl", "{ echo \"args: $*\"; env; } >>/srv/curl.log");
    }
    cluster.new_token();
    // What a process shows of itself is searched as long as the run lasts.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let found = scope.spawn(|| {
            let mut found = Vec::new();
            while !over.load(Ordering::SeqCst) {
                for process in fs::read_dir("/proc").unwrap().flatten() {
                    for file in ["cmdline", "environ"] {
                        let text = fs::read(process.path().join(file)).unwrap_or_default();
                        found.extend(cluster.tokens.iter().filter_map(|token| token.found_in(&text)));
                    }
                }
            }
            found
        });
        let run = cluster.rotate();
        over.store(true, Ordering::SeqCst);
        run.expect_code(0);
        assert_eq!(found.join().unwrap(), [""; 0]);
    });
    let log = fs::read_to_string(cluster.servers[0].at("/srv/curl.log")).unwrap();
    assert!(log.lines().filter(|line| line.starts_with("args: ")).all(|line| line == "args: -q -K -"), "{log}");
    assert!(cluster.tokens.iter().all(|token| token.found_in(log.as_bytes()).is_none()));
    cluster.assert_on_one_token();
}

#[test]
fn each_server_is_ready_before_the_next_one_restarts() {
    let mut cluster = Cluster::start(&Shape { servers: 2, ..SMALL });
    cluster.new_token();
    cluster.forget_events();
    // Its unit is active, and its apiserver is not ready.
    wish(&cluster.servers[0], "unready", "");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| cluster.rotate());
        wait_until("it is not restarted", || cluster.events().iter().any(|event| event == "server1: ready"));
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert!(!cluster.events().iter().any(|event| event == "server2: restart"));
        unwish(&cluster.servers[0], "unready");
        run.join().unwrap().expect_code(0);
    });
    cluster.assert_on_one_token();
}

#[test]
fn one_server_alone_rotates_too_and_other_secrets_come_after() {
    let mut cluster = Cluster::start(&SMALL);
    cluster.new_token();
    cluster.scratch.write_private("wifi", "made up value");
    cluster.write_manifest_with(
        ", run_after: [[touch, /srv/ran]]",
        "  wifi: { path: /etc/secrets/wifi, from: 'file:wifi' }\n",
    );
    let object = cluster.deaddrop(&["rotate", "--all", "--json"]).run().expect_code(0).json();
    cluster.assert_on_one_token();
    let server = &cluster.servers[0];
    assert!(server.at("/etc/secrets/wifi").exists() && server.at("/srv/ran").exists());
    let secrets: Vec<&str> = object["hosts"][0]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["secret"].as_str().unwrap())
        .collect();
    assert_eq!(secrets, ["token", "wifi"]);
}

#[test]
fn a_node_that_waits_for_its_file_gets_it_without_a_restart() {
    let mut cluster = Cluster::make(&Shape { servers: 2, agents: 1, ..SMALL });
    // A new cluster: all of it waits.
    let [first, second] = cluster.servers.as_slice() else { panic!("two") };
    systemctl_begin(first, "start");
    cluster.forget_events();
    let begin = |cluster: &Cluster| cluster.events().iter().filter(|event| event.contains("restart")).count();
    cluster.rotate().expect_code(0);
    assert_eq!(begin(&cluster), 0);
    wait_until("the first server is not up", || super::cluster::state(first).starts_with("active running"));

    // A server and an agent join while the token is rotated.
    fs::remove_file(second.at(TOKEN)).unwrap();
    fs::remove_file(cluster.agents[0].at(TOKEN)).unwrap();
    systemctl_begin(second, "start");
    systemctl_begin(&cluster.agents[0], "start");
    cluster.new_token();
    cluster.forget_events();
    cluster.rotate().expect_code(0);
    let restarted: Vec<String> = cluster.events().into_iter().filter(|event| event.contains("restart")).collect();
    assert_eq!(restarted, ["server1: restart"]);
    cluster.assert_on_one_token();
    cluster.forget_events();
    cluster.rotate().expect_code(0).expect_error("nothing to do");
    assert_eq!(begin(&cluster), 0);
}
