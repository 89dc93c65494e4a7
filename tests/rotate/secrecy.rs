//! No value where others can see it, on the node or here; no reader ever sees a file that is not whole.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::Scratch;
use crate::common::canary::Canary;
use crate::common::node::NodeBuilder;
use crate::job::Job;

/// Looks at the arguments and environments of all processes of this machine, nodes' included, until it is told to stop.
fn look(canaries: &[Canary], stop: &AtomicBool, rounds: &AtomicUsize) -> BTreeSet<String> {
    let mut finds = BTreeSet::new();
    while !stop.load(Ordering::SeqCst) {
        for entry in fs::read_dir("/proc").expect("listing /proc").flatten() {
            if !entry.file_name().to_string_lossy().starts_with(|first: char| first.is_ascii_digit()) {
                continue;
            }
            for what in ["cmdline", "environ"] {
                // A process that ends meanwhile has neither any more.
                let bytes = fs::read(entry.path().join(what)).unwrap_or_default();
                finds
                    .extend(canaries.iter().filter_map(|canary| Some(format!("{what}: {}", canary.found_in(&bytes)?))));
            }
        }
        rounds.fetch_add(1, Ordering::SeqCst);
    }
    finds
}

#[test]
fn no_value_is_in_any_argument_or_environment_nor_in_a_log() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    let mut job = Job::new(&scratch);
    for at in 0..5 {
        job.add(&format!("s{at}"), &format!("/etc/secrets/s{at}"), ", restart: a, settle: 0, run_after: [['true']]");
    }
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let planted: Vec<Canary> = job.planted.clone();
    let finds = thread::scope(|scope| {
        let looking = scope.spawn(|| look(&planted, &stop, &rounds));
        // The first run, some that replace, one that is taken back: the same values each time.
        job.rotate().expect_code(0);
        while rounds.load(Ordering::SeqCst) < 40 {
            for at in 0..5 {
                fs::write(node.at(&format!("/etc/secrets/s{at}")), "another").expect("writing a file of ours");
            }
            job.rotate().expect_code(0);
        }
        fs::write(node.at("/etc/secrets/s0"), "another").expect("writing a file of ours");
        node.on_restart("a.service", "exit 1");
        job.rotate().expect_code(1);
        stop.store(true, Ordering::SeqCst);
        looking.join().expect("looking does not panic")
    });
    assert!(finds.is_empty(), "{finds:?}");
    let log = node.log();
    assert!(log.contains("Accepted publickey"), "sshd logs");
    assert!(planted.iter().all(|canary| canary.found_in(log.as_bytes()).is_none()), "sshd logged a value");
}

#[test]
fn a_value_in_an_argument_or_an_environment_would_be_seen() {
    for how in ["argument", "environment"] {
        let canary = Canary::new("seen");
        let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut child = Command::new("sh");
        child.args(["-c", "read x", if how == "argument" { canary.text() } else { "" }]);
        if how == "environment" {
            child.env("SEEN", canary.text());
        }
        let mut child = child.stdin(std::process::Stdio::piped()).spawn().expect("starting sh");
        let canaries = [canary];
        let finds = thread::scope(|scope| {
            let looking = scope.spawn(|| look(&canaries, &stop, &rounds));
            while rounds.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            stop.store(true, Ordering::SeqCst);
            looking.join().expect("looking does not panic")
        });
        drop(child.stdin.take());
        child.wait().expect("waiting for sh");
        assert_eq!(finds.len(), 1, "{how}: {finds:?}");
    }
}

#[test]
fn values_from_the_environment_do_not_reach_ssh() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let (value, password) = (Canary::new("value"), Canary::new("password"));
    scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:VALUE }\nhosts:\n  node1: { ssh: node1 }\n  \
         other: { ssh: x, become: sudo, become_password: 'env:PASSWORD' }\n",
    );
    let job = Job::new(&scratch);
    let run = job
        .deaddrop(&["rotate", "node1"])
        .env("VALUE", value.text())
        .env("PASSWORD", password.text())
        .plant(&value)
        .plant(&password)
        .traced("exit_group")
        .run()
        .expect_code(0);
    assert!(!run.trace().children().is_empty(), "ssh was started");
    assert_eq!(fs::read(node.at("/etc/secrets/a")).expect("it is there"), value.bytes());
}

#[test]
fn a_program_that_says_a_value_is_not_repeated() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    let mut job = Job::new(&scratch);
    job.add(
        "one",
        "/etc/secrets/one",
        ", restart: a, run_after: [[sh, -c, 'cat /etc/secrets/one; echo; echo and more; exit 1']]",
    );
    // The run itself refuses to end well if the value is in what it says.
    job.rotate().expect_code(1).expect_error("and more").expect_error("a line that holds a value is not shown");
    node.on_restart("a.service", "cat /etc/secrets/one > /srv/journal/a.service; exit 1");
    job.rotate().expect_code(1).expect_error("a line that holds a value is not shown");
    node.assert_clean();
}

#[test]
fn a_reader_never_sees_a_file_that_is_missing_empty_or_half() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", "").add("two", "/etc/secrets/two", "");
    job.rotate().expect_code(0);
    let stop = AtomicBool::new(false);
    let path = node.at("/etc/secrets/two");
    let seen = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !stop.load(Ordering::SeqCst) {
                seen.insert(fs::read(&path).unwrap_or_default());
            }
            seen
        });
        for _ in 0..5 {
            job.change_all().rotate().expect_code(0);
        }
        stop.store(true, Ordering::SeqCst);
        reading.join().expect("reading does not panic")
    });
    assert!(seen.len() > 3, "{} values were seen", seen.len());
    assert!(seen.iter().all(|bytes| job.planted.iter().any(|value| value.bytes() == bytes)), "something else was seen");
}
