//! A run that is given up, and one that SIGTERM ends: neither waits for what a node does not do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::job::Job;
use crate::kit::node::{Node, NodeBuilder};
use crate::kit::{Scratch, wait_until};

/// How long a run may go on after SIGTERM before it is given up, with other tests beside it: less than its --timeout.
/// (The promise is 5 s.)
const PATIENCE: Duration = Duration::from_secs(50);

/// Runs on the node in place of what was asked for, and is told that as `$SSH_ORIGINAL_COMMAND`.
fn instead(scratch: &Scratch, name: &str, script: &str) -> Node {
    let node = NodeBuilder::new(name).sshd("ForceCommand exec /bin/bash /srv/instead\n").start(scratch);
    fs::write(node.at("/srv/instead"), script).unwrap();
    node
}

/// Lets so many lines of the answer through; `then` has the rest on its standard input.
fn after_lines(lines: usize, then: &str) -> String {
    format!(
        "eval \"$SSH_ORIGINAL_COMMAND\" | {{ n={lines}
         while [ $n -gt 0 ]; do IFS= read -r line || exit; printf '%s\\n' \"$line\"; n=$((n - 1)); done
         {then}
         }}"
    )
}

#[test]
fn a_node_that_drips_is_given_up() {
    const DRIP: &str = "while IFS= read -r -N1 c; do printf %s \"$c\"; sleep 0.3; done";
    let cases = [
        ("noise", "while :; do printf x; sleep 0.3; done".to_owned(), "could not be entered"),
        ("the greeting", after_lines(1, DRIP), "could not be entered"),
        (
            "what it is able to do",
            after_lines(2, "while :; do printf 'lacks x\\n'; sleep 0.3; done"),
            "nothing was changed",
        ),
        ("a survey", after_lines(3, DRIP), "nothing was changed"),
    ];
    for (name, script, what) in cases {
        eprintln!("{name}");
        let scratch = Scratch::new();
        let node = instead(&scratch, "node1", &script);
        let mut job = Job::new(&scratch);
        job.add("a", "/etc/secrets/a", "");
        job.deaddrop(&["rotate", "node1", "--timeout", "2"])
            .run()
            .expect_code(1)
            .expect_error(what)
            .expect_error("was not done with its answer after");
        drop(node);
    }
}

/// A run of `rotate --all`, and how it ended after SIGTERM was sent once `ready` says so.
fn terminated(scratch: &Scratch, args: &[&str], ready: impl Fn() -> bool) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_deaddrop"))
        .args(args)
        .args(["--ssh-config", "ssh/config", "--timeout", "60"])
        .current_dir(scratch.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !ready() {
        if Instant::now() > until || child.try_wait().unwrap().is_some() {
            let _ = child.kill();
            let output = child.wait_with_output().unwrap();
            panic!("it does not come to that: {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    // It neither waits for what nobody does, nor for its own --timeout.
    let until = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            let output = child.wait_with_output().unwrap();
            panic!("it goes on: {}", String::from_utf8_lossy(&output.stderr));
        }
        sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    // What it has started ends with it, or is on its way.
    wait_until("an ssh is left behind", || ssh_of(scratch).is_none());
    output
}

/// An ssh that was started with the configuration of this test.
fn ssh_of(scratch: &Scratch) -> Option<String> {
    let here = scratch.path().display().to_string();
    let running = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let is_here = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.display().to_string() == here);
        let words = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (is_here && words.starts_with("ssh\0")).then_some(words.replace('\0', " "))
    });
    running.into_iter().next()
}

#[track_caller]
fn expect(output: &Output, code: i32, text: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && said.contains(text), "{}, not {code}: {text}\n{said}", output.status);
}

#[test]
fn sigterm_ends_a_run_that_has_changed_nothing() {
    const HANG: &str = ": >/tmp/mark; sleep 1000";
    for (name, script) in [
        ("the greeting", HANG.to_owned()),
        ("what it is able to do", after_lines(2, HANG)),
        ("the survey", after_lines(3, HANG)),
        // 60,000 bytes are the scripts and a small part of the values.
        ("the values", format!("{{ dd bs=1 count=60000 status=none; {HANG}; }} | eval \"$SSH_ORIGINAL_COMMAND\"")),
    ] {
        eprintln!("{name}");
        let scratch = Scratch::new();
        let node = instead(&scratch, "node1", &script);
        let mut job = Job::new(&scratch);
        for number in 0..10 {
            job.add(&format!("a{number}"), &format!("/etc/secrets/{number}"), "");
            fs::write(scratch.join("values").join(format!("a{number}")), vec![b'v'; 1_000_000]).unwrap();
        }
        let ready = || node.at("/tmp/mark").exists();
        expect(&terminated(&scratch, &["rotate", "node1"], ready), 143, "nothing was changed");
        assert!((0..10).all(|number| !node.at(&format!("/etc/secrets/{number}")).exists()), "{name}");
        fs::remove_file(node.at("/tmp/mark")).unwrap();
        if name != "the values" {
            expect(&terminated(&scratch, &["plan", "@node1"], ready), 143, "nothing was changed");
            fs::remove_file(node.at("/tmp/mark")).unwrap();
            expect(&terminated(&scratch, &["verify", "--all"], ready), 143, "nothing was changed");
        }
    }
}

#[test]
fn sigterm_ends_a_run_that_connects_or_becomes_root_or_reads_values() {
    let scratch = Scratch::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    let node = NodeBuilder::new("node1").start(&scratch);
    job.host(&format!("ssh: 'ssh://root@127.0.0.1:{}'", socket.local_addr().unwrap().port()));
    let taken = std::cell::RefCell::new(Vec::new());
    let ready = || socket.accept().map(|taken_one| taken.borrow_mut().push(taken_one)).is_ok();
    expect(&terminated(&scratch, &["rotate", "--all"], ready), 143, "nothing was changed");

    node.add_program("sudo", "#!/bin/sh\n: >/tmp/mark\nexec sleep 1000\n");
    job.host("ssh: admin@node1, become: sudo");
    expect(&terminated(&scratch, &["rotate", "--all"], || node.at("/tmp/mark").exists()), 143, "nothing was changed");

    let mark = scratch.join("mark");
    scratch.write(
        "secrets.yaml",
        format!(
            "version: 1\nsources:\n  slow: {{ type: exec, argv: [sh, -c, ': > {}; exec sleep 20 2>/dev/null'] }}\n\
             secrets:\n  a: {{ path: /etc/secrets/a, from: 'slow:x' }}\nhosts:\n  node1: {{ ssh: node1 }}\n",
            mark.display()
        ),
    );
    expect(&terminated(&scratch, &["rotate", "--all"], || mark.exists()), 143, "nothing was changed");
}

#[test]
fn sigterm_does_not_wait_for_a_unit_and_the_node_goes_on() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    node.on_restart("a.service", ": >/srv/mark; while [ ! -e /srv/go ]; do sleep 0.1; done");
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", ", restart: a, settle: 0");
    let ready = || node.at("/srv/mark").exists();
    expect(&terminated(&scratch, &["rotate", "--all"], ready), 4, "it is not known whether the new files are in place");
    assert_eq!(job.states(&node), ["new"]);
    fs::write(node.at("/srv/go"), "").unwrap();
    wait_until("the node does not bring it to its end", || !node.at("/var/lib/deaddrop").exists());
    job.assert_in_place(&node);

    // One that is done in a moment is waited for.
    fs::remove_file(node.at("/srv/mark")).unwrap();
    node.on_restart("a.service", ": >/srv/mark; sleep 0.5");
    job.change_all();
    expect(&terminated(&scratch, &["rotate", "--all"], ready), 0, "done");
    job.assert_in_place(&node);
}

#[test]
fn sigterm_does_not_wait_for_the_lock_of_another_run() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    // Here it waits to take back what an earlier run has left, which may change files.
    fs::create_dir(node.at("/var/lib/deaddrop")).unwrap();
    fs::set_permissions(node.at("/var/lib/deaddrop"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(node.at("/var/lib/deaddrop/list"), "").unwrap();
    let config = scratch.join("ssh/config");
    let mut other = Command::new("ssh")
        .arg("-F")
        .arg(&config)
        .args(["node1", "flock /var/lib sh -c ': >/srv/mark; sleep 1000'"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // Not before the other one has the lock: else this run may be done first.
    wait_until("the other run has the lock", || node.at("/srv/mark").exists());
    let start = Instant::now();
    let ready = || start.elapsed() > Duration::from_secs(3);
    let output = terminated(&scratch, &["rotate", "--all"], ready);
    expect(&output, 4, "stopped by SIGTERM");
    let _ = other.kill();
    let _ = other.wait();
}

#[test]
fn sigterm_ends_every_host_of_many() {
    let scratch = Scratch::new();
    let nodes: Vec<Node> =
        (1..=2).map(|number| instead(&scratch, &format!("node{number}"), ": >/tmp/mark; sleep 1000")).collect();
    let done = NodeBuilder::new("node3").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    let hosts = |names: &[&str]| names.iter().map(|name| format!("  {name}: {{ ssh: {name} }}\n")).collect::<String>();
    let manifest = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    let (secrets, _) = manifest.split_once("hosts:\n").unwrap();
    let ready = || nodes.iter().all(|node| node.at("/tmp/mark").exists());
    scratch.write("secrets.yaml", format!("{secrets}hosts:\n{}", hosts(&["node1", "node2"])));
    expect(&terminated(&scratch, &["rotate", "--all"], ready), 143, "nothing was changed");
    nodes.iter().for_each(|node| fs::remove_file(node.at("/tmp/mark")).unwrap());
    scratch.write("secrets.yaml", format!("{secrets}hosts:\n{}", hosts(&["node1", "node2", "node3"])));
    let ready = || ready() && done.at("/etc/secrets/a").exists() && !done.at("/var/lib/deaddrop").exists();
    expect(&terminated(&scratch, &["rotate", "--all"], ready), 4, "1 of 3 hosts done");
}
