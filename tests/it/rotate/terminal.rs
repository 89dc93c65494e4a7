//! On a real terminal: who gets Ctrl-C, Ctrl-Z and what a person types.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::job::Job;
use crate::kit::Scratch;
use crate::kit::node::NodeBuilder;

/// What a step may take, with other tests beside it.
const SOON: Duration = Duration::from_secs(30);

/// A program that has a terminal for itself.
struct OnTerminal {
    child: Child,
    person: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    /// A shell's command line, in which `$0` is deaddrop and `"$@"` are these arguments.
    fn start(scratch: &Scratch, line: &str, args: &[&str]) -> Self {
        let pty = openpty(None, None).unwrap();
        let terminal = File::from(pty.slave);
        let mut command = Command::new("setsid");
        command.args(["--ctty", "bash", "--norc", "-c", line, env!("CARGO_BIN_EXE_deaddrop")]).args(args);
        command.args(["--ssh-config", "ssh/config", "--timeout", "60"]).current_dir(scratch.path());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", scratch.path()).env("TERM", "dumb");
        let child = command
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal)
            .spawn()
            .unwrap();
        let person = File::from(pty.master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (person.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is the end: nobody has the terminal open any more.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, person, shown }
    }

    fn types(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).unwrap();
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn waits_for(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + SOON;
        while !is(self) {
            assert!(Instant::now() < until, "{what}:\n{}", self.shown());
            sleep(Duration::from_millis(10));
        }
    }

    /// Until this is shown so many times.
    #[track_caller]
    fn sees(&self, text: &str, times: usize) {
        self.waits_for(text, |this| this.shown().matches(text).count() >= times);
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.person).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    #[track_caller]
    fn ends_with(mut self, code: i32) {
        let until = Instant::now() + SOON;
        while self.child.try_wait().unwrap().is_none() && Instant::now() < until {
            sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        assert!(status.code() == Some(code) && self.echoes(), "{status}, not {code}:\n{}", self.shown());
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // Best effort: it has ended, but where a test fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ONLY: &str = "exec \"$0\" \"$@\"";
const ASKS: &str = "Enter passphrase for key";

/// A node with a unit that takes two seconds to restart, and makes `/srv/mark` as it begins.
fn node<'a>(scratch: &'a Scratch, job: &mut Job<'a>) -> crate::kit::node::Node {
    let node = NodeBuilder::new("node1").start(scratch);
    node.add_unit("a.service");
    node.on_restart("a.service", ": >/srv/mark; sleep 2");
    job.add("a", "/etc/secrets/a", ", restart: a, settle: 0");
    node
}

/// From here on ssh has to ask.
fn lock_key(scratch: &Scratch) {
    let key = scratch.join("ssh/id");
    crate::kit::tool(Command::new("ssh-keygen").args(["-q", "-p", "-N", "open it", "-f"]).arg(key));
}

#[test]
fn ctrl_c_does_not_cut_off_a_change_that_has_begun() {
    for line in [ONLY, "\"$0\" \"$@\"", "set -m; \"$0\" \"$@\""] {
        for asks in [false, true] {
            let scratch = Scratch::new();
            let mut job = Job::new(&scratch);
            let node = node(&scratch, &mut job);
            let mut run = match asks {
                true => {
                    lock_key(&scratch);
                    let mut run = OnTerminal::start(&scratch, line, &["rotate", "node1"]);
                    run.sees(ASKS, 1);
                    run.types("open it\n");
                    run
                }
                false => OnTerminal::start(&scratch, line, &["rotate", "node1"]),
            };
            run.waits_for("a restart", |_| node.at("/srv/mark").exists());
            run.types("\u{3}");
            run.sees("is not cut off", 1);
            run.sees("1 changed", 1);
            // A shell that was interrupted as well may say so.
            if line == ONLY {
                run.ends_with(0);
            }
            job.assert_in_place(&node);
        }
    }
}

#[test]
fn ctrl_c_and_sigterm_at_a_question_end_the_run_and_the_terminal_is_as_before() {
    let scratch = Scratch::new();
    let mut job = Job::new(&scratch);
    let node = node(&scratch, &mut job);
    lock_key(&scratch);
    for args in
        [&["rotate", "node1"][..], &["rotate", "--all", "--parallel", "1"], &["plan", "@node1"], &["verify", "--all"]]
    {
        let mut run = OnTerminal::start(&scratch, ONLY, args);
        run.sees(ASKS, 1);
        run.waits_for("no echo", |run| !run.echoes());
        run.types("\u{3}");
        run.sees("stopped by a signal: nothing was changed", 1);
        run.ends_with(130);
        let run = OnTerminal::start(&scratch, ONLY, args);
        run.sees(ASKS, 1);
        run.waits_for("no echo", |run| !run.echoes());
        kill(Pid::from_raw(run.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        run.sees("stopped by a signal: nothing was changed", 1);
        run.ends_with(143);
    }
    // Nobody is asked again for the next host, whether it waits for its turn or has not begun.
    let known = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    scratch.write("secrets.yaml", format!("{known}  again: {{ ssh: node1 }}\n  third: {{ ssh: node1 }}\n"));
    for parallel in ["1", "3"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut run = OnTerminal::start(&scratch, ONLY, &["rotate", "--all", "--parallel", parallel]);
            run.sees(ASKS, 1);
            run.waits_for("no echo", |run| !run.echoes());
            match signal {
                Signal::SIGINT => run.types("\u{3}"),
                _ => kill(Pid::from_raw(run.child.id().cast_signed()), signal).unwrap(),
            }
            run.sees("stopped by a signal: nothing was changed", 1);
            assert_eq!(run.shown().matches(ASKS).count(), 1, "{}", run.shown());
            run.ends_with(if signal == Signal::SIGINT { 130 } else { 143 });
        }
    }
    scratch.write("secrets.yaml", known);
    // All of the job is ended, as by a terminal that has it in the foreground.
    let mut run = OnTerminal::start(&scratch, "\"$0\" \"$@\"; echo it went on", &["rotate", "node1"]);
    run.sees(ASKS, 1);
    run.waits_for("no echo", |run| !run.echoes());
    run.types("\u{3}");
    run.sees("stopped by a signal: nothing was changed", 1);
    assert_eq!(job.states(&node), ["none"]);
}

#[test]
fn each_host_asks_in_its_turn() {
    let scratch = Scratch::new();
    let mut job = Job::new(&scratch);
    let node = node(&scratch, &mut job);
    let other = NodeBuilder::new("node2").start(&scratch);
    other.add_unit("a.service");
    lock_key(&scratch);
    let known = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    scratch.write("secrets.yaml", format!("{known}  node2: {{ ssh: node2 }}\n"));
    for parallel in ["1", "2"] {
        let mut run = OnTerminal::start(&scratch, ONLY, &["rotate", "--all", "--parallel", parallel]);
        for times in [1, 2] {
            run.sees(ASKS, times);
            run.waits_for("no echo", |run| !run.echoes());
            run.types("open it\n");
            run.waits_for("echo", OnTerminal::echoes);
        }
        run.ends_with(0);
        job.assert_in_place(&node);
        job.assert_in_place(&other);
        job.change_all();
    }
}

#[test]
fn a_run_can_be_put_aside_at_a_question_and_asks_again() {
    let scratch = Scratch::new();
    let mut job = Job::new(&scratch);
    let node = node(&scratch, &mut job);
    lock_key(&scratch);
    let line = "set -m; \"$0\" \"$@\"; echo \"aside: $?\"; stty -a | grep -o '[-]*echo '; fg; echo \"end: $?\"";
    let mut run = OnTerminal::start(&scratch, line, &["rotate", "node1"]);
    run.sees(ASKS, 1);
    run.waits_for("no echo", |run| !run.echoes());
    run.types("\u{1a}");
    run.sees("aside: 148", 1);
    run.sees(ASKS, 2);
    run.waits_for("no echo", |run| !run.echoes());
    run.types("open it\n");
    run.sees("end: 0", 1);
    run.ends_with(0);
    job.assert_in_place(&node);
    // Begun in the background, it waits until it is in the foreground.
    job.change_all();
    fs::remove_file(node.at("/srv/mark")).unwrap();
    let line = "set -m; \"$0\" \"$@\" & sleep 2; jobs; fg; echo \"end: $?\"";
    let mut run = OnTerminal::start(&scratch, line, &["rotate", "node1"]);
    run.sees("Stopped", 1);
    run.sees(ASKS, 1);
    run.waits_for("no echo", |run| !run.echoes());
    run.types("open it\n");
    run.sees("end: 0", 1);
    run.ends_with(0);
    job.assert_in_place(&node);
}
