//! A session that dies at any command of the program on the node, runs that meet, and lines that end.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::thread;

use super::job::Job;
use crate::kit::Scratch;
use crate::kit::node::{Node, NodeBuilder, deaddrop};
use crate::kit::run::Deaddrop;

/// What `sh` is on the node: bash, which counts the commands of the changing part, and where /srv/kill-at says so dies
/// before that one, with everything that it has started. Commands that only look, or set a variable, are not counted:
/// to die before one of these is to die before the next that is. ROTATE_KILL=all counts them too, which takes five
/// times as long.
const COUNTING_SHELL: &str = r#"#!/bin/bash
[ "$1" = -c ] || exec /bin/bash --posix "$@"
[ -e /srv/kill-at ] || exec /bin/bash --posix "$@"
read -r at </srv/kill-at
exec /bin/bash --posix -c '
  trial_at=$1
  trial_all=
  [ ! -e /srv/kill-all ] || trial_all=" "
  trial_count=0
  trial_before() {
    [ "${items+x}" ] || return 0
    case $trial_all$BASH_COMMAND in
      [a-zA-Z_]*=* | "[ "* | load_item* | eval* | case* | for* | shift* | "set "*) return 0 ;;
      say* | printf* | return* | stands* | :) return 0 ;;
    esac
    trial_count=$((trial_count + 1))
    [ "$trial_count" -ge "$trial_at" ] || return 0
    echo "$BASH_COMMAND" >|/srv/killed
    kill -9 0
  }
  set -T
  trap trial_before DEBUG
  eval "$2"
' sh "$at" "$2"
"#;

/// A node whose shell can die, and a job of every kind of change.
struct Trial<'a> {
    node: Node,
    job: Job<'a>,
    old: Vec<Vec<u8>>,
}

impl<'a> Trial<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        let node = NodeBuilder::new("node1").start(scratch);
        node.add_program("sh", COUNTING_SHELL);
        node.add_unit("a.service");
        let mut job = Job::new(scratch);
        job.add("replaced", "/etc/secrets/replaced", ", restart: a, settle: 0");
        job.add("created", "/srv/made/created", "");
        job.add("set-right", "/etc/secrets/set-right", ", mode: '0440', group: 96");
        job.add("also-replaced", "/etc/secrets/also-replaced", "");
        let old = vec![b"the old value of the first".to_vec(), b"the old value of the last".to_vec()];
        Self { node, job, old }
    }

    /// Puts the old state there.
    fn reset(&self) {
        let write = |path: &str, bytes: &[u8], mode| {
            let _ = fs::remove_file(self.node.at(path));
            fs::write(self.node.at(path), bytes).unwrap();
            fs::set_permissions(self.node.at(path), Permissions::from_mode(mode)).unwrap();
        };
        write("/etc/secrets/replaced", &self.old[0], 0o400);
        write("/etc/secrets/also-replaced", &self.old[1], 0o400);
        write("/etc/secrets/set-right", self.job.secrets[2].3.bytes(), 0o600);
        let _ = fs::remove_dir_all(self.node.at("/srv/made"));
        let _ = fs::remove_file(self.node.at("/srv/killed"));
    }

    /// Runs with a shell that dies before this command; false when it has ended before.
    fn die_at(&self, command: usize, args: &[&str]) -> bool {
        fs::write(self.node.at("/srv/kill-at"), format!("{command}\n")).unwrap();
        if std::env::var_os("ROTATE_KILL").is_some() {
            fs::write(self.node.at("/srv/kill-all"), "").unwrap();
        }
        self.deaddrop(args).run();
        fs::remove_file(self.node.at("/srv/kill-at")).unwrap();
        fs::remove_file(self.node.at("/srv/killed")).is_ok()
    }

    fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        // One connection for all of it.
        let path = format!("ControlPath={}", self.job.scratch.join("cm").display());
        let mut all = args.to_vec();
        all.extend(["--ssh-option", "ControlMaster=auto", "--ssh-option", "ControlPersist=60", "--ssh-option", &path]);
        self.job.deaddrop(&all)
    }

    /// Each file is wholly old or wholly new; `old`, `new`, or `mixed` says what all are.
    fn state(&self) -> &'static str {
        let read = |path: &str| fs::read(self.node.at(path)).unwrap_or_default();
        let value = |index: usize| self.job.secrets[index].3.bytes();
        let judge = |path: &str, old: &[u8], new: &[u8]| match read(path) {
            bytes if bytes == old => false,
            bytes if bytes == new => true,
            bytes => panic!("{path} has {} bytes that are neither", bytes.len()),
        };
        let data = fs::metadata(self.node.at("/etc/secrets/set-right")).unwrap();
        assert_eq!(read("/etc/secrets/set-right"), value(2));
        let set_right = (data.mode() & 0o7777, data.gid()) == (0o440, 96);
        let is_new = [
            judge("/etc/secrets/replaced", &self.old[0], value(0)),
            judge("/srv/made/created", b"", value(1)),
            set_right,
            judge("/etc/secrets/also-replaced", &self.old[1], value(3)),
        ];
        match is_new {
            [true, true, true, true] => "new",
            [false, false, false, false] => {
                assert_eq!((data.mode() & 0o7777, data.gid()), (0o600, 0), "neither its old nor its new mode");
                "old"
            }
            _ => "mixed",
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let socket = self.job.scratch.join("cm");
        let _ = std::process::Command::new("ssh").arg("-S").arg(socket).args(["-O", "exit", "x"]).output();
    }
}

/// Every `share`-th command, beginning with `first`: dies before it, then lets the next run look at another secret
/// alone. That one takes back, or brings to its end, what was begun, also when it dies itself on the way.
fn die_everywhere(first: usize, share: usize) {
    let scratch = Scratch::new();
    let mut trial = Trial::new(&scratch);
    trial.job.add("other", "/etc/secrets/other", "");
    fs::write(trial.node.at("/etc/secrets/other"), trial.job.secrets[4].3.bytes()).unwrap();
    fs::set_permissions(trial.node.at("/etc/secrets/other"), Permissions::from_mode(0o400)).unwrap();
    let others: Vec<String> = ["replaced", "created", "set-right", "also-replaced"].map(str::to_owned).to_vec();
    let mut args = vec!["rotate", "node1"];
    others.iter().for_each(|name| args.extend(["--only", name]));
    let mut seen = [0; 3];
    let mut command = first;
    loop {
        trial.reset();
        if !trial.die_at(command, &args) {
            break;
        }
        // In the middle of it any mixture may stand there, of whole files.
        seen[usize::from(trial.state() == "mixed")] += 1;
        // The next run dies too, each time somewhere else.
        trial.die_at(1 + command % 17, &["rotate", "node1", "--only", "other"]);
        trial.state();
        let run = trial.deaddrop(&["rotate", "node1", "--only", "other"]).run().expect_code(0);
        run.expect_error("node1   ✓ nothing to do");
        let state = trial.state();
        assert_ne!(state, "mixed", "killed before command {command}");
        trial.node.assert_clean();
        if state == "new" {
            seen[2] += 1;
        }
        command += share;
    }
    // Counter-proof: it did die in the middle, at the beginning, and at the end.
    assert!(command > 60, "{command} commands only");
    assert!(seen[0] > 10 && seen[1] > 0 && seen[2] > 1, "{command} {seen:?}");
    trial.reset();
    trial.deaddrop(&args).run().expect_code(0);
    assert_eq!(trial.state(), "new");
}

#[test]
fn a_session_that_dies_anywhere_leaves_all_old_or_all_new_for_the_next_run_1_of_3() {
    die_everywhere(1, 3);
}

#[test]
fn a_session_that_dies_anywhere_leaves_all_old_or_all_new_for_the_next_run_2_of_3() {
    die_everywhere(2, 3);
}

#[test]
fn a_session_that_dies_anywhere_leaves_all_old_or_all_new_for_the_next_run_3_of_3() {
    die_everywhere(3, 3);
}

#[test]
fn a_session_that_dies_anywhere_is_finished_on_the_disk_as_well() {
    let scratch = Scratch::new();
    let mut trial = Trial::new(&scratch);
    trial.job.add("other", "/etc/secrets/other", "");
    fs::write(trial.node.at("/etc/secrets/other"), trial.job.secrets[4].3.bytes()).unwrap();
    fs::set_permissions(trial.node.at("/etc/secrets/other"), Permissions::from_mode(0o400)).unwrap();
    let mut args = vec!["rotate", "node1"];
    ["replaced", "created", "set-right", "also-replaced"].iter().for_each(|name| args.extend(["--only", name]));
    let mut seen = [0; 3];
    for command in (1..).step_by(4) {
        trial.reset();
        if !trial.die_at(command, &args) {
            break;
        }
        seen[usize::from(trial.state() == "mixed")] += 1;
        // The node's power is gone, and its disk is looked at: here, the directory that its root is.
        let run = Deaddrop::new(&scratch).args(["inject", "node1.root", "--host", "node1", "--only", "other"]);
        trial.job.planted.iter().fold(run, Deaddrop::plant).run().expect_code(0);
        let state = trial.state();
        assert_ne!(state, "mixed", "killed before command {command}");
        // An empty directory says nothing, and the next run on the node takes it away.
        let _ = fs::remove_dir(trial.node.at("/var/lib/deaddrop"));
        trial.node.assert_clean();
        seen[2] += usize::from(state == "new");
    }
    assert!(seen[0] > 5 && seen[1] > 0 && seen[2] > 0, "{seen:?}");
}

#[test]
fn looking_does_not_take_back_what_was_interrupted_and_says_that_it_is_there() {
    let scratch = Scratch::new();
    let trial = Trial::new(&scratch);
    trial.reset();
    let list = trial.node.at("/var/lib/deaddrop/list");
    let died_after_the_list = |command: &usize| trial.die_at(*command, &["rotate", "node1"]) && list.exists();
    (5..200).step_by(5).find(died_after_the_list).expect("at some command there is a list");
    let mode = fs::metadata(trial.node.at("/var/lib/deaddrop/list")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    trial.deaddrop(&["plan", "@node1"]).run().expect_code(0).expect_output("an interrupted run left its list there");
    trial.deaddrop(&["rotate", "node1", "--dry-run"]).run().expect_code(0).expect_error("DD502");
    assert!(trial.node.at("/var/lib/deaddrop/list").exists());
    trial.deaddrop(&["rotate", "node1"]).run().expect_code(0);
    assert_eq!(trial.state(), "new");
    // Interrupted before its end: the unit was told in the run that did end.
    assert_eq!(trial.node.acts(), ["restart -- a.service"]);
    trial.node.assert_clean();
}

#[test]
fn a_connection_that_is_cut_while_units_restart_does_not_stop_the_node() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    // The unit is the network: it ends the connection, and hangs up on everybody.
    node.on_restart(
        "a.service",
        "pkill -o -f 'sshd: root' ; pkill -HUP -f 'sh -c while' ; sleep 1; touch /srv/restarted",
    );
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", ", restart: a, settle: 0");
    job.rotate().expect_code(4).expect_error("it is not known whether the new files are in place");
    for _ in 0..200 {
        if node.at("/srv/restarted").exists() && !node.at("/var/lib/deaddrop").exists() {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(50));
    }
    job.assert_in_place(&node);
    job.rotate().expect_code(0).expect_error("node1   ✓ nothing to do");
}

#[test]
fn of_two_runs_at_once_one_wins_whole() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    // Two whole jobs, in directories of their own.
    let (one, two) = (Scratch::new(), Scratch::new());
    let mut jobs = [Job::new(&one), Job::new(&two)];
    for (job, scratch_of_job) in jobs.iter_mut().zip([&one, &two]) {
        for name in ["a", "b", "c", "d"] {
            job.add(name, &format!("/etc/secrets/{name}"), "");
        }
        let _ = scratch_of_job;
    }
    let config = scratch.join("ssh/config");
    let run = |dir: &Scratch| {
        std::process::Command::new(env!("CARGO_BIN_EXE_deaddrop"))
            .args(["rotate", "node1", "--ssh-config"])
            .arg(&config)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    };
    let mut ended = Vec::new();
    for _ in 0..6 {
        for job in &mut jobs {
            job.change_all();
        }
        let (first, second) = thread::scope(|scope| {
            let other = scope.spawn(|| run(&two));
            (run(&one), other.join().unwrap())
        });
        let states: Vec<Vec<&str>> = jobs.iter().map(|job| whole(job, &node)).collect();
        let wins = states.iter().filter(|states| states.iter().all(|state| *state == "new")).count();
        assert_eq!(wins, 1, "{states:?}");
        node.assert_clean();
        ended.push((first.code(), second.code()));
    }
    assert!(ended.iter().all(|(first, second)| *first == Some(0) || *second == Some(0)), "{ended:?}");
}

/// For each secret `new` when its file has this job's value, else `-`.
fn whole(job: &Job<'_>, node: &Node) -> Vec<&'static str> {
    let state = |(_, path, _, value): &(String, String, String, crate::kit::canary::Canary)| {
        if fs::read(node.at(path)).unwrap_or_default() == value.bytes() { "new" } else { "-" }
    };
    job.secrets.iter().map(state).collect()
}

#[test]
fn a_file_that_changes_between_the_look_and_the_change_is_not_overwritten() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", "").add("two", "/etc/secrets/two", "");
    // The node's flock is asked for the lock after the look: somebody writes a file at that moment.
    node.wrap_program("flock", "echo mine >/etc/secrets/two");
    deaddrop(&scratch, &["rotate", "node1"]).run().expect_code(1).expect_error("/etc/secrets/two changed while");
    assert_eq!(fs::read(node.at("/etc/secrets/two")).unwrap(), b"mine\n");
    assert!(!node.at("/etc/secrets/one").exists());
    node.assert_clean();
}

/// What `run_after` is to run so that the session ends there, with nothing said: every process of the node but sshd's
/// first one.
const CUT: &str = ", run_after: [[sh, -c, 'kill -9 -1']]";

#[test]
fn what_is_no_longer_the_runs_own_is_left_and_the_roll_back_is_said() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    for name in ["a", "b", "c"] {
        job.add(name, &format!("/etc/secrets/{name}"), "");
    }
    job.rotate().expect_code(0);
    let old: Vec<Vec<u8>> = job.secrets.iter().map(|secret| secret.3.bytes().to_vec()).collect();
    job.change_all().with("a", CUT).add("made", "/etc/secrets/made", "");
    job.rotate().expect_code(4);
    assert_eq!(job.states(&node), ["new"; 4]);
    // Somebody writes one of them, and one that was made, before the next run.
    for name in ["b", "made"] {
        fs::remove_file(node.at(&format!("/etc/secrets/{name}"))).unwrap();
        fs::write(node.at(&format!("/etc/secrets/{name}")), "of somebody else").unwrap();
    }
    job.with("a", "");
    let run = job.deaddrop(&["rotate", "node1", "--only", "a", "--json"]).run().expect_code(0);
    let json = run.json();
    let warnings = json["hosts"][0]["warnings"].as_array().unwrap();
    let codes: Vec<&str> = warnings.iter().map(|warning| warning["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["DD502", "DD503", "DD503"], "{json}");
    assert!(warnings[0]["message"].as_str().unwrap().contains("rolled back first"), "{json}");
    let read = |name: &str| fs::read(node.at(&format!("/etc/secrets/{name}"))).unwrap();
    assert_eq!(read("a"), job.secrets[0].3.bytes());
    assert_eq!((read("b"), read("made")), (b"of somebody else".to_vec(), b"of somebody else".to_vec()));
    assert_eq!(read("c"), old[2]);
    node.assert_clean();
}

#[test]
fn a_directory_that_is_not_there_keeps_the_list_until_its_names_are_given_up() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    fs::create_dir(node.at("/srv/data")).unwrap();
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "").add("b", "/srv/data/b", "").add("c", "/etc/secrets/c", "");
    job.rotate().expect_code(0);
    let old: Vec<Vec<u8>> = job.secrets.iter().map(|secret| secret.3.bytes().to_vec()).collect();
    job.change("a").change("b").with("a", CUT);
    job.rotate().expect_code(4);
    job.with("a", "");
    // The disk is not mounted any more.
    fs::rename(node.at("/srv/data"), node.at("/srv/away")).unwrap();
    let list = fs::read(node.at("/var/lib/deaddrop/list")).unwrap();
    for place in ["none", "another"] {
        if place == "another" {
            fs::create_dir(node.at("/srv/data")).unwrap();
        }
        let run = job.deaddrop(&["rotate", "node1", "--only", "c"]).run().expect_code(1);
        run.expect_error("/srv/data is not there, or is another directory than then").expect_error("--forget-list");
        assert_eq!(fs::read(node.at("/var/lib/deaddrop/list")).unwrap(), list);
        assert_eq!(fs::read(node.at("/etc/secrets/a")).unwrap(), job.secrets[0].3.bytes());
    }
    let run = job.deaddrop(&["rotate", "node1", "--only", "c", "--forget-list", "--json"]).run().expect_code(0);
    let warnings = run.json()["hosts"][0]["warnings"].as_array().unwrap().clone();
    let codes: Vec<&str> = warnings.iter().map(|warning| warning["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["DD502", "DD503"], "{warnings:?}");
    let message = warnings[1]["message"].as_str().unwrap();
    assert!(message.starts_with("/srv/data/b was given up: its directory is not there"), "{message}");
    assert_eq!(fs::read(node.at("/etc/secrets/a")).unwrap(), old[0]);
    assert_eq!(fs::read(node.at("/srv/away/b")).unwrap(), job.secrets[1].3.bytes());
    assert!(!node.at("/var/lib/deaddrop").exists());
    // Without a list it means nothing.
    job.deaddrop(&["rotate", "node1", "--only", "c", "--forget-list"]).run().expect_code(0);
}
