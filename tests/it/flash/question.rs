//! The question, on a terminal (tmux), and where there is none.

use std::fs;

use super::{Case, OLD, assert_written, is_all};
use crate::kit::tmux::Tmux;
use crate::kit::{program, wait_until};

/// A terminal that runs this line of a shell, and shows its exit code.
fn start(case: &Case, line: &str) -> Tmux {
    let line = format!("{line}; echo code $?; sleep 60");
    Tmux::start(&case.scratch, &line, &[("A", case.value.text()), ("LC_ALL", "C.UTF-8")])
}

#[test]
fn the_name_of_the_device_is_asked_for_and_another_answer_changes_nothing() {
    let case = Case::small();
    let wanted = case.injected("small.img");
    let deaddrop = env!("CARGO_BIN_EXE_deaddrop");
    for (answer, code) in [("yes", 1), ("", 1), ("device", 0), ("./device", 0)] {
        let device = case.file("device", 28 << 20);
        let line = format!("SOURCE_DATE_EPOCH=1700000000 {deaddrop} flash small.img ./device --host node1");
        let tmux = start(&case, &line);
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
    let tmux = start(&case, &line);
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
