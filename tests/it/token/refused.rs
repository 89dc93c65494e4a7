//! What is refused before the cluster is asked for anything.

use std::fs;
use std::process::Command;

use super::cluster::{
    Cluster, DATA, KEPT, SMALL, Shape, TOKEN, systemctl, systemctl_begin, systemctl_start, unwish, wish,
};
use crate::kit::canary::Canary;

const TWO: Shape = Shape { servers: 2, keys: ", keep_old: /etc/secrets/k3s-token.old", ..SMALL };

/// Panics unless the run is refused with these words, and nothing was changed.
#[track_caller]
fn refused(cluster: &Cluster, words: &[&str]) {
    let before = cluster.events();
    let old = fs::read(cluster.servers[0].at(TOKEN)).unwrap();
    let mut run = cluster.rotate().expect_code(1);
    for word in words {
        run = run.expect_error(word);
    }
    let asked =
        cluster.events().len() > before.len() && cluster.events()[before.len()..].iter().any(|e| e.ends_with("PUT"));
    assert!(!asked, "it was asked: {:?}", cluster.events());
    assert!(fs::read(cluster.servers[0].at(TOKEN)).unwrap() == old, "the file was written");
    assert!(cluster.servers.iter().all(|server| !server.at(KEPT).exists()), "the old token was kept");
}

#[test]
fn all_hosts_are_chosen_in_one_run() {
    let cluster = Cluster::make(&Shape { servers: 2, agents: 1, ..SMALL });
    cluster.deaddrop(&["rotate", "server1"]).run().expect_code(1).expect_error("these are missing: agent1, server2");
    for option in [&["--canary", "1"][..], &["--batch", "1"], &["--max-failures", "0"], &["--shard", "1/2"]] {
        let args: Vec<&str> = ["rotate", "--all"].into_iter().chain(option.iter().copied()).collect();
        cluster.deaddrop(&args).run().expect_code(1).expect_error(option[0]);
    }
    let here = ["rotate", "--local", "--host", "server1"];
    crate::kit::run::Deaddrop::new(&cluster.scratch).args(here).run().expect_code(1).expect_error("--local");
}

#[test]
fn a_server_that_is_down_or_cannot_be_reached_or_asked() {
    let mut cluster = Cluster::start(&TWO);
    cluster.new_token();
    systemctl(&cluster.servers[1], "stop");
    refused(&cluster, &["server2", "k3s.service is inactive, and the token is rotated only while every server runs"]);
    systemctl_start(&cluster.servers[1]);
    cluster.wait_until_up();

    wish(&cluster.servers[1], "old", "");
    refused(&cluster, &["its k3s cannot rotate its token"]);
    unwish(&cluster.servers[1], "old");

    // It is being started, and does not come to its end.
    systemctl(&cluster.servers[1], "stop");
    wish(&cluster.servers[1], "never", "");
    systemctl_begin(&cluster.servers[1], "start");
    refused(&cluster, &["server2", "its server does not answer at", "or is not ready"]);
    unwish(&cluster.servers[1], "never");
    systemctl(&cluster.servers[1], "restart");
    cluster.wait_until_up();

    // Another CA in its own copy.
    let own = cluster.servers[1].at(DATA).join("server/token");
    let text = fs::read_to_string(&own).unwrap();
    let other = text.replacen(&text[3..67], &"0".repeat(64), 1);
    fs::write(&own, other).unwrap();
    refused(&cluster, &["names another CA than that of server1"]);
    fs::write(&own, text).unwrap();

    cluster.servers[1].stop();
    refused(&cluster, &["server2", "could not be entered"]);
}

#[test]
fn a_token_that_no_server_takes() {
    let mut cluster = Cluster::start(&SMALL);
    let first = cluster.token().clone();
    cluster.set_token(Canary::of("bootstrap", b"abcdef.0123456789abcdef"));
    refused(&cluster, &["the new token has the form `id.secret`"]);
    cluster.set_token(Canary::of("words", b"two words of a token"));
    refused(&cluster, &["the new token is empty or no word"]);
    assert!(cluster.runs_with(0, &first));
}

#[test]
fn a_unit_that_takes_its_token_from_elsewhere_and_an_agent_token_that_is_the_servers() {
    let mut cluster = Cluster::start(&SMALL);
    cluster.new_token();
    let unit = cluster.servers[0].at("/etc/systemd/system/k3s.service");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(&unit, text.replace(TOKEN, "/etc/other")).unwrap();
    refused(&cluster, &["k3s.service does not take its token from /etc/secrets/k3s-token, but from /etc/other"]);
    fs::write(&unit, text.replace("--token-file", "--agent-token-file /etc/agent --token-file")).unwrap();
    fs::write(cluster.servers[0].at("/etc/agent"), fs::read(cluster.servers[0].at(TOKEN)).unwrap()).unwrap();
    refused(&cluster, &["the agent token of k3s.service is that of the servers"]);

    fs::write(cluster.servers[0].at("/etc/agent"), "one agent token").unwrap();
    cluster.scratch.write_private("agent", "another-agent-token");
    cluster.write_manifest_with("", "  agent: { path: /etc/agent, from: 'file:agent' }\n");
    fs::write(cluster.servers[0].at("/etc/agent"), "one-agent-token").unwrap();
    refused(&cluster, &["the agent token of k3s.service, /etc/agent, changes in the same run"]);
    // Without it in the run, it is rotated.
    cluster.deaddrop(&["rotate", "--all", "--only", "token"]).run().expect_code(0);
    cluster.assert_on_one_token();
}

#[test]
fn a_server_without_curl_and_the_steps_by_hand() {
    let mut cluster = Cluster::start(&SMALL);
    cluster.new_token();
    let node = &cluster.servers[0];
    hide_curl(node);
    refused(&cluster, &["there is no curl", "`k3s token rotate`", "(e) restart k3s.service on server1"]);
}

/// Covers curl with nothing, in the node's own mount namespace.
fn hide_curl(node: &crate::kit::node::Node) {
    let scratch = node.root.parent().unwrap();
    let script = "mkdir -p /srv/bin && cp -a /usr/bin/. /srv/bin && rm /srv/bin/curl && mount --bind /srv/bin /usr/bin";
    let status = Command::new("ssh").arg("-F").arg(scratch.join("ssh/config")).arg(&node.name).arg(script).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_request_that_fails_twice_leaves_everything_as_before() {
    let mut cluster = Cluster::start(&TWO);
    let old = cluster.token().clone();
    cluster.new_token();
    wish(&cluster.servers[0], "fail", "2");
    cluster.forget_events();
    cluster
        .rotate()
        .expect_code(1)
        .expect_error("answered 500 to the request for the new token, twice")
        .expect_error("server1: PUT");
    assert_eq!(cluster.events(), ["server1: PUT", "server1: PUT", "server1: PUT"]);
    for server in 0..2 {
        assert!(cluster.runs_with(server, &old));
        assert!(fs::read(cluster.servers[server].at(TOKEN)).unwrap() == old.bytes());
        assert!(!cluster.servers[server].at(KEPT).exists(), "what was kept is back as it was");
    }
    // It would start again.
    systemctl(&cluster.servers[0], "restart");
    cluster.wait_until_up();

    // Once only: it is asked again, and that is enough.
    wish(&cluster.servers[0], "fail", "1");
    cluster.rotate().expect_code(0);
    cluster.assert_on_one_token();
}
