//! A run that is cut off at any step: the next one ends with one token everywhere.

use std::fs;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::{Cluster, DATA, SMALL, Shape, TOKEN, state, systemctl, unwish, wish};
use crate::kit::wait_until;

const WHOLE: Shape = Shape { servers: 3, agents: 2, keys: ", keep_old: /etc/secrets/k3s-token.old", ..SMALL };

fn end(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
}

/// Ends every connection of a run.
fn cut(child: &Child) {
    let parent = child.id().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if name.ends_with("(ssh") && rest.split(' ').nth(2) == Some(&parent) {
            let pid = entry.file_name().to_string_lossy().parse().unwrap();
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The next run brings it to its end; the one after that has nothing to do.
#[track_caller]
fn goes_on(cluster: &Cluster, step: &str) {
    eprintln!("after {step}");
    cluster.rotate().expect_code(0);
    cluster.assert_on_one_token();
    cluster.forget_events();
    cluster.rotate().expect_code(0).expect_error("nothing to do");
    let acts: Vec<String> = cluster.events().into_iter().filter(|event| event.contains("restart")).collect();
    assert_eq!(acts, [""; 0], "after {step}");
}

#[test]
fn killed_at_any_step_the_next_run_goes_on() {
    let mut cluster = Cluster::start(&WHOLE);
    for step in ["(b)", "(c)", "(d)", "(e) server1", "(e) server2", "(e) server3", "(f) agent1", "(f) agent2"] {
        cluster.new_token();
        cluster.rotate_until(step, end);
        goes_on(&cluster, step);
    }
}

#[test]
fn with_its_connections_cut_at_any_step_the_run_or_the_next_one_goes_on() {
    let mut cluster = Cluster::start(&Shape { servers: 2, agents: 1, ..WHOLE });
    for step in ["(b)", "(c)", "(d)", "(e) server1", "(e) server2", "(f) agent1"] {
        cluster.new_token();
        let (code, said) = cluster.rotate_until(step, cut);
        assert!([0, 1, 4].contains(&code), "{step}: {said}");
        goes_on(&cluster, step);
    }
}

#[test]
fn stopped_by_a_signal_after_the_request_it_ends_with_4_and_the_next_run_goes_on() {
    let mut cluster = Cluster::start(&Shape { agents: 1, ..SMALL });
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        cluster.new_token();
        let stop = |child: &Child| kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let (code, said) = cluster.rotate_until("(e) server1", stop);
        assert!(code == 4 && said.contains("the run was stopped"), "{code}: {said}");
        assert!(!cluster.events().last().unwrap().starts_with("agent1"), "an agent was restarted after {signal}");
        goes_on(&cluster, signal.as_str());
    }
}

#[test]
fn killed_after_the_request_went_through_and_before_its_answer() {
    let mut cluster = Cluster::start(&WHOLE);
    let old = cluster.token().clone();
    cluster.new_token();
    wish(&cluster.servers[0], "hold", "");
    cluster.forget_events();
    cluster.rotate_until("(c)", |child| {
        wait_until("it is not asked", || cluster.events().iter().any(|event| event == "server1: PUT"));
        wait_until("it has not done it", || {
            let own = fs::read_to_string(cluster.servers[0].at(DATA).join("server/token")).unwrap();
            own.contains(cluster.token().text())
        });
        end(child);
    });
    unwish(&cluster.servers[0], "hold");
    // No server has started since: each still runs with the old one.
    assert!((0..3).all(|server| cluster.runs_with(server, &old)));
    // A server is down by now, and is done nevertheless, first of all.
    systemctl(&cluster.servers[2], "stop");
    cluster.forget_events();
    cluster.rotate().expect_code(0);
    let restarts: Vec<String> = cluster.events().into_iter().filter(|event| event.ends_with("restart")).collect();
    assert_eq!(restarts[..3], ["server3: restart", "server1: restart", "server2: restart"]);
    cluster.assert_on_one_token();
}

#[test]
fn a_manifest_that_has_changed_meanwhile_first_ends_what_the_cluster_has() {
    let mut cluster = Cluster::start(&Shape { servers: 2, agents: 1, keys: "", ..WHOLE });
    for step in ["(d)", "(e) server2"] {
        cluster.new_token();
        cluster.rotate_until(step, end);
        cluster.new_token();
        goes_on(&cluster, step);
    }
    // Back to the one before, in the middle.
    let before = cluster.token().clone();
    cluster.new_token();
    cluster.rotate_until("(e) server2", end);
    cluster.set_token(before);
    goes_on(&cluster, "(e) server2, and back");
}

#[test]
fn a_server_that_does_not_get_ready_ends_the_run_and_no_old_file_comes_back() {
    let mut cluster = Cluster::start(&Shape { servers: 2, ..WHOLE });
    cluster.new_token();
    // It starts with its old file after the request: the trap that k3s has.
    cluster.rotate_until("(d)", end);
    let server = &cluster.servers[1];
    let old = cluster.tokens[0].clone();
    cluster.place(server, old.bytes());
    systemctl(server, "restart");
    cluster
        .rotate()
        .expect_code(4)
        .expect_error("k3s.service is not ready with the new token, which stays")
        .expect_error("newer than datastore")
        .expect_error("remove /var/lib/rancher/k3s/server/cred/passwd");
    assert!(cluster.all().all(|node| fs::read(node.at(TOKEN)).unwrap() == cluster.token().bytes()));
    assert!(!state(server).starts_with("active"), "{}", state(server));
    // The way out that it names.
    for file in ["server/cred/passwd", "server/token"] {
        fs::remove_file(server.at(DATA).join(file)).unwrap();
    }
    goes_on(&cluster, "the way out");
}

#[test]
fn the_only_server_that_was_restarted_with_its_old_file_comes_up_again() {
    let mut cluster = Cluster::start(&SMALL);
    cluster.new_token();
    cluster.rotate_until("(d)", end);
    // The node may have gone on with the file by itself.
    cluster.place(&cluster.servers[0], cluster.tokens[0].bytes());
    systemctl(&cluster.servers[0], "restart");
    assert!(!state(&cluster.servers[0]).starts_with("active"), "it refuses to start");
    goes_on(&cluster, "a restart with the old file");
}

#[test]
fn a_node_that_dies_while_its_file_is_renamed_gets_no_old_file_back() {
    let mut cluster = Cluster::start(&SMALL);
    // The shell that renames is killed, before or after it.
    for (place, script) in [("before", "kill -9 $PPID; exit 1"), ("after", "/usr/bin/mv \"$@\"; kill -9 $PPID; exit 1")]
    {
        cluster.new_token();
        let server = &cluster.servers[0];
        let once = format!("case $* in *n/k3s-token*) [ -e /srv/died ] || {{ : >/srv/died; {script}; }};; esac");
        server.wrap_program("mv", &format!("echo \"$*\" >>/srv/mv; {once}"));
        cluster.rotate().expect_code(0).expect_error("an interrupted run was finished first");
        cluster.assert_on_one_token();
        let renames = fs::read_to_string(server.at("/srv/mv")).unwrap();
        assert!(!renames.contains("o/k3s-token"), "{place}: {renames}");
        fs::remove_file(server.at("/srv/died")).unwrap();
    }
}
