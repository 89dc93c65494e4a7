//! Getting there: hosts that are down, keys that are wrong, silence.

use std::fs;
use std::net::TcpListener;

use super::job::{Job, assert_untouched, everything};
use crate::kit::Scratch;
use crate::kit::node::NodeBuilder;

#[test]
fn a_node_that_is_down_is_unreachable() {
    let scratch = Scratch::new();
    let mut node = NodeBuilder::new("node1").start(&scratch);
    node.stop();
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    job.rotate().expect_code(1).expect_error("node1   ✗ could not be entered").expect_error("Connection refused");
    job.deaddrop(&["plan", "@node1"]).run().expect_code(1).expect_error("Connection refused");
}

#[test]
fn an_unknown_or_changed_host_key_is_refused_and_known_hosts_stays() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    let known = scratch.join("ssh/known_hosts");
    let good = fs::read_to_string(&known).unwrap();
    fs::write(&known, "").unwrap();
    // Not even when a person or a manifest asks for it.
    job.host("ssh: node1, ssh_options: [StrictHostKeyChecking=no]");
    job.deaddrop(&["rotate", "node1", "--ssh-option", "StrictHostKeyChecking=accept-new"])
        .run()
        .expect_code(1)
        .expect_error("its host key is not known");
    assert_eq!(fs::read_to_string(&known).unwrap(), "");
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBiUAgsV2Ic1c0VcSL1AGVc0DZWg3cXbnEGT0d0KIVps";
    let changed = format!("[127.0.0.1]:{} {other}\n", node.port);
    fs::write(&known, &changed).unwrap();
    job.rotate().expect_code(1).expect_error("its host key is not the one that is known");
    assert_eq!(fs::read_to_string(&known).unwrap(), changed);
    assert_eq!(job.states(&node), ["none"]);
    fs::write(&known, &good).unwrap();
    job.rotate().expect_code(0);
    assert_eq!(fs::read_to_string(&known).unwrap(), good);
}

#[test]
fn no_option_lets_a_host_in_whose_key_is_not_known() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    let known = scratch.join("ssh/known_hosts");
    let good = fs::read_to_string(&known).unwrap();
    fs::write(&known, "").unwrap();
    let ran = scratch.join("ran");
    let (local, command) = (
        format!("LocalCommand=touch {}", ran.display()),
        format!("KnownHostsCommand=/bin/cat {}", scratch.join("key").display()),
    );
    for options in [
        &["NoHostAuthenticationForLocalhost=yes"][..],
        &["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "CheckHostIP=no"],
        &["HostKeyAlias=localhost", "nohostauthenticationforlocalhost yes"],
        &["UpdateHostKeys=yes", "PermitLocalCommand=yes", &local],
    ] {
        let listed: Vec<String> = options.iter().map(|option| format!("'{option}'")).collect();
        job.host(&format!("ssh: node1, ssh_options: [{}]", listed.join(", ")));
        job.rotate().expect_code(1).expect_error("its host key is not known");
        job.host("ssh: node1");
        let given: Vec<&str> = options.iter().flat_map(|option| ["--ssh-option", option]).collect();
        job.deaddrop(&[&["rotate", "node1"][..], &given].concat())
            .run()
            .expect_code(1)
            .expect_error("its host key is not known");
        job.deaddrop(&[&["verify", "@node1"][..], &given].concat())
            .run()
            .expect_code(1)
            .expect_error("its host key is not known");
    }
    assert_eq!(fs::read_to_string(&known).unwrap(), "");
    assert_eq!(job.states(&node), ["none"]);
    // A person's own way to know a key is the person's to say, and not a manifest's.
    let name = format!("[127.0.0.1]:{} ", node.port);
    fs::write(scratch.join("key"), good.lines().find(|line| line.starts_with(&name)).unwrap()).unwrap();
    job.host(&format!("ssh: node1, ssh_options: ['{command}']"));
    job.rotate().expect_code(2).expect_error("KnownHostsCommand").expect_error("--ssh-option");
    job.host("ssh: node1");
    job.deaddrop(&[
        "rotate",
        "node1",
        "--ssh-option",
        &command,
        "--ssh-option",
        "PermitLocalCommand=yes",
        "--ssh-option",
        &local,
    ])
    .run()
    .expect_code(0);
    job.assert_in_place(&node);
    assert!(!ran.exists(), "a local command would read ssh's standard input");
}

#[test]
fn a_host_that_takes_the_connection_and_says_nothing_is_given_up() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    let port = socket.local_addr().unwrap().port();
    job.host(&format!("ssh: 'ssh://root@127.0.0.1:{port}'"));
    job.deaddrop(&["rotate", "node1", "--timeout", "1"])
        .run()
        .expect_code(1)
        .expect_error("node1   ✗ could not be entered");
    // A login shell that hangs after the login.
    fs::write(node.at("/srv/hang"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    drop(node);
    let _node = NodeBuilder::new("node2").sshd("ForceCommand exec sleep 1000\n").start(&scratch);
    job.host("ssh: node2");
    job.deaddrop(&["rotate", "node1", "--timeout", "2"]).run().expect_code(1).expect_error("it said nothing for 2 s");
}

#[test]
fn a_node_that_never_stops_talking_is_given_up() {
    let scratch = Scratch::new();
    let _node =
        NodeBuilder::new("node1").sshd("ForceCommand exec yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    job.rotate().expect_code(1).expect_error("it did not answer as asked");
}

#[test]
fn a_user_who_is_not_root_is_told_to_become_root() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "").host("ssh: admin@node1");
    let before = everything(&node);
    job.rotate().expect_code(1).expect_error("the shell runs as admin").expect_error("become: sudo");
    assert_untouched(&node, &before);
}

#[test]
fn a_control_master_that_stays_does_not_keep_us() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    let socket = scratch.join("cm");
    let master = ["--ssh-option", "ControlMaster=auto", "--ssh-option", "ControlPersist=60"];
    let path = format!("ControlPath={}", socket.display());
    let args = ["rotate", "node1", "--ssh-option", &path];
    job.deaddrop(&[&args[..], &master[..]].concat()).run().expect_code(0);
    job.assert_in_place(&node);
    assert!(socket.exists(), "the master is there");
    job.change("a").deaddrop(&[&args[..], &master[..]].concat()).run().expect_code(0);
    job.assert_in_place(&node);
    let connections = node.log().matches("Accepted publickey").count();
    assert_eq!(connections, 1, "the second run used the first one's connection");
    let exit = std::process::Command::new("ssh").arg("-S").arg(&socket).args(["-O", "exit", "x"]).output().unwrap();
    assert!(exit.status.success());
}
