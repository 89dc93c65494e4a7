//! A run that is stopped: what runs ends whole, and nothing else begins.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::nodes::Nodes;
use super::{Values, assert_empty, manifest};
use crate::kit::run::json_of;

/// Runs with one host at a time, and sends it a signal once the file `mark` is there.
fn stopped_at(nodes: &Nodes, values: &Values, args: &[&str], mark: &str, signal: Signal) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop"));
    command.args(["rotate", "--all", "--parallel", "1", "--json", "--ssh-config", "ssh_config"]).args(args);
    command
        .current_dir(nodes.scratch.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", nodes.scratch.path());
    command.envs(values.environment()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // As a terminal's Ctrl-C does it: the program and all that it has started get the signal.
    let child = command.process_group(0).spawn().expect("starting the program");
    while !nodes.scratch.join(mark).exists() {
        sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(-i32::try_from(child.id()).unwrap()), signal).expect("sending a signal");
    child.wait_with_output().expect("waiting for the program")
}

#[test]
fn a_host_that_runs_ends_whole_and_the_others_do_not_begin() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let nodes = Nodes::start(3);
        let mark = nodes.scratch.join("mark");
        // It holds until the signal is sent, and a good while longer.
        let slow = format!(", run_after: [[sh, -c, \": > {}; sleep 1\"]], settle: 0", mark.display());
        manifest(&nodes, "", &slow, "");
        let values = Values::old();
        let output = stopped_at(&nodes, &values, &[], "mark", signal);
        assert_eq!(output.status.code(), Some(4), "{signal}");
        let object = json_of(&output.stdout).expect("JSON");
        let words: Vec<&str> =
            object["hosts"].as_array().unwrap().iter().filter_map(|host| host["status"].as_str()).collect();
        assert_eq!(words, ["done", "skipped", "skipped"], "{signal}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no other host begins"), "{signal}");
        values.assert_on(&nodes, 0);
        for number in [1, 2] {
            assert_empty(&nodes, number);
            assert_eq!(nodes.connections(number), 0, "{signal}");
        }
    }
}

#[test]
fn where_nothing_was_changed_the_exit_code_is_that_of_the_signal() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let nodes = Nodes::start(2);
        manifest(&nodes, "", "", "");
        // The first host refuses, after it has left a mark: it is its login shell's doing.
        nodes.shell(0, "mkdir -p /etc/secrets/s03");
        let mark = nodes.scratch.join("mark");
        let wait = format!(
            "ProxyCommand=bash -c ': > {}; sleep 0.5; exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3'",
            mark.display()
        );
        let values = Values::old();
        let output = stopped_at(&nodes, &values, &["--ssh-option", &wait], "mark", signal);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let object = json_of(&output.stdout).expect("JSON");
        assert_eq!(object["summary"]["skipped"], 1, "{signal}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was changed"), "{signal}");
        assert!(fs::metadata(nodes.path(1, "/etc/secrets")).is_err());
    }
}
