//! What a person is asked on the terminal: by ssh, one host at a time; by deaddrop, once.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use super::nodes::Nodes;
use super::{Values, manifest};
use crate::kit::run::on_terminal;
use crate::kit::tool;

/// A run on a terminal of its own, and what has been shown there so far.
struct Person {
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: String,
}

impl Person {
    /// Reads the screen until `text` stands there `times` times, or the run has ended.
    fn waits_for(&mut self, text: &str, times: usize) {
        let mut buffer = [0; 4096];
        while self.seen.matches(text).count() < times {
            let count = self.screen.read(&mut buffer).expect("reading the terminal");
            assert!(count > 0, "`{text}` was not shown {times} times:\n{:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    fn types(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).expect("typing");
    }
}

/// Runs `rotate --all` with these arguments on a terminal; `person` answers. Gives the exit code and all that was
/// shown.
fn on_a_terminal(
    nodes: &Nodes,
    values: &Values,
    args: &str,
    person: impl FnOnce(&mut Person),
) -> (Option<i32>, String) {
    let mut command = on_terminal(&nodes.scratch, &format!("rotate --all --ssh-config ssh_config {args}"));
    command.envs(values.environment()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("running script (Debian package bsdutils)");
    let (keyboard, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Person { keyboard, screen, seen: String::new() };
    person(&mut shown);
    let mut rest = Vec::new();
    shown.screen.read_to_end(&mut rest).expect("reading the terminal");
    shown.seen.push_str(&String::from_utf8_lossy(&rest));
    (child.wait().expect("waiting for script").code(), shown.seen)
}

#[test]
fn ssh_asks_one_host_at_a_time() {
    const QUESTION: &str = "Enter passphrase for key";
    let nodes = Nodes::start(3);
    manifest(&nodes, "", "", "");
    let values = Values::old();
    let key = nodes.scratch.join("user");
    tool(Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "a made-up phrase", "-f"]).arg(key));
    for parallel in ["--parallel 16", "--parallel 1"] {
        let (code, shown) = on_a_terminal(&nodes, &values, parallel, |person| {
            for host in 1..=3 {
                person.waits_for(QUESTION, host);
                // The next one waits until this one is answered.
                assert_eq!(person.seen.matches(QUESTION).count(), host);
                person.types("a made-up phrase");
            }
        });
        assert_eq!(code, Some(0), "{shown:?}");
        assert!(shown.contains("3 of 3 hosts done"), "{shown:?}");
    }
    (0..3).for_each(|number| values.assert_on(&nodes, number));
}

#[test]
fn a_password_for_sudo_is_asked_for_once_whatever_the_number_of_hosts() {
    let nodes = Nodes::start(2);
    manifest(&nodes, ", become: sudo, become_password: ask", "", "");
    let values = Values::old();
    let (code, shown) = on_a_terminal(&nodes, &values, "", |person| {
        person.waits_for("Password of the user on node000, node001: ", 1);
        person.types("hunter2-made-up");
    });
    assert_eq!(code, Some(0), "{shown:?}");
    assert_eq!(shown.matches("Password of").count(), 1, "{shown:?}");
    assert!(!shown.contains("hunter2-made-up"), "what is typed is not shown");
    (0..2).for_each(|number| values.assert_on(&nodes, number));
}
