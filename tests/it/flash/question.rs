//! The question, on a terminal (tmux), and where there is none.

use std::fs;
use std::process::Command;

use super::{Case, OLD, assert_written, is_all};
use crate::kit::{program, tool, wait_until};

/// A session of tmux of its own; it ends with it.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn start(case: &Case, line: &str) -> Self {
        let tmux = Self { socket: case.scratch.join("tmux").display().to_string() };
        let line = format!("{line}; echo code $?; sleep 60");
        let mut command = tmux.command(&["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "40", &line]);
        command.current_dir(case.scratch.path()).env("A", case.value.text()).env("LC_ALL", "C.UTF-8");
        tool(&mut command);
        tmux
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("tmux"));
        command.args(["-S", &self.socket]).args(args);
        command
    }

    fn shown(&self) -> String {
        let shown = tool(&mut self.command(&["capture-pane", "-p", "-J"]));
        String::from_utf8(shown.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        tool(self.command(&["send-keys"]).args(keys));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}

#[test]
fn the_name_of_the_device_is_asked_for_and_another_answer_changes_nothing() {
    let case = Case::small();
    let wanted = case.injected("small.img");
    let deaddrop = env!("CARGO_BIN_EXE_deaddrop");
    for (answer, code) in [("yes", 1), ("", 1), ("device", 0), ("./device", 0)] {
        let device = case.file("device", 28 << 20);
        let line = format!("SOURCE_DATE_EPOCH=1700000000 {deaddrop} flash small.img ./device --host node1");
        let tmux = Tmux::start(&case, &line);
        wait_until("it asks", || tmux.shown().contains("Type its name (device) to go on:"));
        let shown = tmux.shown();
        for text in
            ["./device: a file, 28 MiB", "holds now: nothing that is known", "will be written: small.img, raw, 24 MiB"]
        {
            assert!(shown.contains(text), "{text}\n{shown}");
        }
        assert!(is_all(&fs::read(&device).unwrap(), OLD), "nothing is written before the answer");
        tmux.keys(&[answer, "Enter"]);
        wait_until("it ends", || tmux.shown().contains("code "));
        let shown = tmux.shown();
        assert!(shown.contains(&format!("code {code}")), "{answer}\n{shown}");
        if code == 0 {
            assert_written(&device, &wanted, answer);
        } else {
            assert!(shown.contains("nothing was changed") && shown.contains("the answer was another name"), "{shown}");
            assert!(is_all(&fs::read(&device).unwrap(), OLD));
        }
    }
}

#[test]
fn a_signal_at_the_question_changes_nothing() {
    let case = Case::small();
    let device = case.file("device", 28 << 20);
    let line = format!("{} flash small.img device --host node1", env!("CARGO_BIN_EXE_deaddrop"));
    let tmux = Tmux::start(&case, &line);
    wait_until("it asks", || tmux.shown().contains("to go on:"));
    tmux.keys(&["C-c"]);
    wait_until("it ends", || tmux.shown().contains("code "));
    assert!(tmux.shown().contains("code 130"), "{}", tmux.shown());
    assert!(is_all(&fs::read(&device).unwrap(), OLD));
}

#[test]
fn without_a_terminal_the_option_is_named_that_answers() {
    let case = Case::small();
    let device = case.file("device", 28 << 20);
    // A session of its own has no terminal.
    let run = case.deaddrop(&["-w", env!("CARGO_BIN_EXE_deaddrop"), "flash", "small.img", "device", "--host", "node1"]);
    let run = run.instead(program("setsid")).stdin("device\n").run().expect_code(1);
    run.expect_error("there is no terminal to ask on").expect_error("--yes overwrites it without asking");
    assert!(is_all(&fs::read(&device).unwrap(), OLD));
}
