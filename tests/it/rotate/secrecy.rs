//! No value where others can see it, on the node or here; no reader ever sees a file that is not whole.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{fs, thread};

use super::job::Job;
use crate::kit::Scratch;
use crate::kit::canary::Canary;
use crate::kit::node::{NodeBuilder, deaddrop};

/// Tells a thread to stop when the test ends, also where it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

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
        let stopping = Stop(&stop);
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
        drop(stopping);
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
            let stopping = Stop(&stop);
            while rounds.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            drop(stopping);
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

/// A program on a node that fails, and what it says.
struct Case {
    name: &'static str,
    /// The secret's keys, but for its path; its value is `file:values/it`.
    keys: &'static str,
    value: &'static str,
    /// What stood there.
    old: &'static str,
    /// `$f` is the secret's file.
    script: &'static str,
    /// What must not be shown, and what must.
    hidden: &'static [&'static str],
    shown: &'static [&'static str],
}

const LEFT_OUT: &str = "(a line that holds a value is not shown)";
const FROM: &str = "from: 'file:values/it'";
const TEMPLATE: &str = r#"template: "user=web\npassword={{ secret('file:values/it') }}\n""#;
const NO_OLD: &str = "";

const CASES: [Case; 11] = [
    Case {
        name: "a template's value, and its own text",
        keys: TEMPLATE,
        value: "Templ8-hunter",
        old: NO_OLD,
        script: r#"cat "$f"; echo "tried Templ8-hunter now"; echo "user=web is known""#,
        hidden: &["Templ8"],
        shown: &[LEFT_OUT, "user=web is known"],
    },
    Case {
        name: "a template's old value",
        keys: TEMPLATE,
        value: "Templ8-hunter",
        old: "user=web\npassword=OldPw-7\n",
        script: r#"echo "expected OldPw-7 here"; echo "user=web is known""#,
        hidden: &["OldPw-7"],
        shown: &[LEFT_OUT, "user=web is known"],
    },
    Case {
        name: "an old value that is longer than the new one",
        keys: FROM,
        value: "NewValue",
        old: "OldValue-1234567",
        script: r#"echo "expected OldValue-1234567""#,
        hidden: &["OldValue"],
        shown: &[LEFT_OUT],
    },
    Case {
        name: "a removed file's value",
        keys: "absent: true",
        value: "",
        old: "Removed-1234567",
        script: r#"echo "where is Removed-1234567?"; echo "$f is gone""#,
        hidden: &["Removed-"],
        shown: &[LEFT_OUT, "/etc/secrets/it is gone"],
    },
    Case {
        name: "a tab before it",
        keys: FROM,
        value: "\ttabbed-secret",
        old: NO_OLD,
        script: r#"cat "$f"; echo; echo "is tabbed-secret good?"; echo "and more""#,
        hidden: &["tabbed"],
        shown: &[LEFT_OUT, "and more"],
    },
    Case {
        name: "a long line that is cut through it",
        keys: FROM,
        value: "cut-through-this-one",
        old: NO_OLD,
        script: r#"printf %0292d 0; cat "$f"; echo; printf %0299d 0; cat "$f""#,
        hidden: &["cut-thr", "000000"],
        shown: &[LEFT_OUT],
    },
    Case {
        name: "three bytes",
        keys: FROM,
        value: "q7z",
        old: NO_OLD,
        script: r#"echo "one"; echo "it is q7z""#,
        hidden: &["q7z", "one\n"],
        shown: &["(what it said is not shown, for a value of `it` is under 4 bytes: run it by hand on the node)"],
    },
    Case {
        name: "a template's three bytes",
        keys: TEMPLATE,
        value: "q7z",
        old: NO_OLD,
        script: r#"echo "it is q7z""#,
        hidden: &["q7z"],
        shown: &["(what it said is not shown, for a value of `it` is under 4 bytes: run it by hand on the node)"],
    },
    Case {
        name: "base64, wherever it begins",
        keys: TEMPLATE,
        value: "encoded-secret-1",
        old: NO_OLD,
        script: r#"for before in '' a ab; do printf "${before}encoded-secret-1/" | base64; done; echo "and more""#,
        hidden: &["ZW5jb2RlZ", "VuY29kZW", "lbmNvZGVk"],
        shown: &[LEFT_OUT, "and more"],
    },
    Case {
        name: "hexadecimal",
        keys: TEMPLATE,
        value: "encoded-secret-1",
        old: NO_OLD,
        script: r#"x=$(od -An -tx1 "$f" | tr -d ' \n'); echo "a$x"; echo "$x" | tr a-f A-F; echo "and more""#,
        hidden: &["656e636f", "656E636F"],
        shown: &[LEFT_OUT, "and more"],
    },
    Case {
        name: "nothing at all",
        keys: "from: 'file:values/it', output: hide",
        value: "hidden-secret-1",
        old: NO_OLD,
        script: "echo harmless",
        hidden: &["harmless"],
        shown: &["(what it said is not shown, for `output: hide` of `it`: run it by hand on the node)"],
    },
];

#[test]
fn a_line_that_holds_a_value_in_any_way_is_not_shown() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let file = node.at("/etc/secrets/it");
    fs::create_dir_all(scratch.join("values")).expect("making a directory of ours");
    fs::create_dir_all(file.parent().expect("it has one")).expect("making a directory of the node");
    for case in &CASES {
        scratch.write("values/it", case.value);
        // The node's other users do not matter here: what stood there is root's.
        match case.old {
            NO_OLD => drop(fs::remove_file(&file)),
            old => fs::write(&file, old).expect("writing a file of the node"),
        }
        let script =
            serde_json::to_string(&format!("f=/etc/secrets/it; {}; exit 1", case.script)).expect("text is JSON");
        scratch.write(
            "secrets.yaml",
            format!(
                "version: 1\nsecrets:\n  it: {{ path: /etc/secrets/it, {}, run_after: [[sh, -c, {script}]] }}\n\
                 hosts:\n  node1: {{ ssh: node1 }}\n",
                case.keys
            ),
        );
        let said = deaddrop(&scratch, &["rotate", "node1"]).run().expect_code(1).stderr();
        for hidden in case.hidden {
            assert!(!said.contains(hidden), "{}: {hidden}: {said}", case.name);
        }
        for shown in case.shown {
            assert!(said.contains(shown), "{}: {shown}: {said}", case.name);
        }
    }
    node.assert_clean();
}

#[test]
fn what_a_unit_says_with_a_short_value_is_read_on_the_node() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    let mut job = Job::new(&scratch);
    job.add("other", "/etc/secrets/other", ", restart: a, settle: 0");
    fs::write(scratch.join("values/pin"), "429").expect("writing a file of ours");
    let hosts = job.hosts.clone();
    scratch.write(
        "secrets.yaml",
        format!(
            "version: 1\nsecrets:\n  \
             pin: {{ path: /etc/secrets/pin, from: 'file:values/pin', restart: a, settle: 0 }}\nhosts:\n{hosts}"
        ),
    );
    node.on_restart("a.service", "echo 'wrong pin 429' > /srv/journal/a.service; exit 1");
    let said = job.deaddrop(&["rotate", "node1"]).run().expect_code(1).stderr();
    assert!(
        said.contains("a value of `pin` is under 4 bytes: `journalctl -u a.service` on the node shows it"),
        "{said}"
    );
    assert!(!said.contains("wrong pin"), "{said}");
}

#[test]
fn what_stood_there_and_was_not_read_lets_nothing_be_shown() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add(
        "one",
        "/etc/secrets/one",
        ", run_after: [[sh, -c, 'tail -c 40 /etc/secrets/one; echo; echo harmless; exit 1']]",
    );
    fs::create_dir_all(node.at("/etc/secrets")).expect("making a directory of the node");
    for (length, shown) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        fs::write(node.at("/etc/secrets/one"), "x".repeat(length)).expect("writing a file of the node");
        let said = job.deaddrop(&["rotate", "node1"]).run().expect_code(1).stderr();
        assert_eq!(said.contains("harmless"), shown, "{length}: {said}");
        assert_eq!(said.contains("for what stands at /etc/secrets/one was not read"), !shown, "{length}: {said}");
    }
}

#[test]
fn output_is_hidden_only_in_a_run_that_changes_the_secret() {
    let scratch = Scratch::new();
    let _node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("quiet", "/etc/secrets/quiet", ", output: hide");
    job.rotate().expect_code(0);
    job.add("loud", "/etc/secrets/loud", ", run_after: [[sh, -c, 'echo harmless; exit 1']]");
    job.rotate().expect_code(1).expect_error("harmless");
    let said = job.change("quiet").rotate().expect_code(1).stderr();
    assert!(said.contains("for `output: hide` of `quiet`") && !said.contains("harmless"), "{said}");
}

#[test]
fn a_key_that_was_made_on_the_node_is_not_shown() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    let show = ", run_after: [[sh, -c, 'echo it is $(cat /etc/secrets/token); exit 1']]";
    job.add("other", "/etc/secrets/other", show);
    let manifest = fs::read_to_string(scratch.join("secrets.yaml")).expect("it is there");
    let token = "secrets:\n  token: { path: /etc/secrets/token, generate: { kind: token, length: 20 } }\n";
    scratch.write("secrets.yaml", manifest.replacen("secrets:\n", token, 1));
    // Made in this run, and taken back.
    job.rotate().expect_code(1).expect_error("not shown");
    // One that stands and stays.
    let kept = Canary::of("kept", b"kWq7Zp3Lx9Vb2Nm5Rt8Y");
    fs::write(node.at("/etc/secrets/token"), kept.bytes()).expect("writing a file of the node");
    job.deaddrop(&["rotate", "node1"]).plant(&kept).run().expect_code(1).expect_error("not shown");
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
        let stopping = Stop(&stop);
        for _ in 0..5 {
            job.change_all().rotate().expect_code(0);
        }
        drop(stopping);
        reading.join().expect("reading does not panic")
    });
    assert!(seen.len() > 3, "{} values were seen", seen.len());
    assert!(seen.iter().all(|bytes| job.planted.iter().any(|value| value.bytes() == bytes)), "something else was seen");
}
