//! Signals, and what a killed run leaves. The program that is run sends them: then it runs for certain.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use super::Case;
use crate::kit::wait_until;

const TOOL: [&str; 3] = ["--for", "nixos-anywhere", "--"];

/// A run of this text as the program.
fn run_of(case: &Case, text: &str) -> crate::kit::run::Finished {
    let program = case.program("tool", text);
    case.tree_of_nobody(&[&TOOL[..], &[&program]].concat()).run()
}

#[test]
fn a_signal_is_handed_on_and_the_program_says_how_it_ends() {
    for (signal, code) in [("HUP", 129), ("INT", 130), ("TERM", 143)] {
        let case = Case::one("path: /etc/a");
        let text = format!(
            "trap 'test -r \"$2/etc/a\" && exit 7' {signal}\nkill -{signal} $PPID\nwhile :; do sleep 0.1; done"
        );
        run_of(&case, &text).expect_code(7);
        assert_eq!(case.trees().len(), 0, "{signal}");
        // A program without an answer to it ends by it.
        let text = format!("kill -{signal} $PPID\nexec sleep 60");
        run_of(&case, &text).expect_code(code);
        assert_eq!(case.trees().len(), 0, "{signal}");
    }
}

#[test]
fn a_program_that_ignores_a_signal_gets_sigterm_later() {
    let case = Case::one("path: /etc/a");
    run_of(&case, "trap '' INT\nkill -INT $PPID\nexec sleep 60").expect_code(143);
    assert_eq!(case.trees().len(), 0);
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let case = Case::one("path: /etc/a");
    let program = case.program("tool", "kill -HUP $PPID\nsleep 0.2\nexit 7");
    let deaddrop = env!("CARGO_BIN_EXE_deaddrop");
    let run = crate::kit::run::Deaddrop::new(&case.scratch).instead("sh");
    let run = run
        .args(["-c", "trap '' HUP; exec \"$@\"", "-", deaddrop, "tree", "--host", "node1"])
        .args(TOOL)
        .args([program]);
    let run = run.env("A", case.value.text()).env("XDG_RUNTIME_DIR", case.memory.path()).plant(&case.value);
    // Root's own: the secret is root's.
    run.run().expect_code(7);
    assert_eq!(case.trees().len(), 0);
}

#[test]
fn a_key_on_the_terminal_reaches_the_program_without_being_handed_on() {
    let case = Case::one("path: /etc/a");
    let text = "trap 'touch got' INT\ntouch ready\nwhile ! test -e got; do sleep 0.1; done\nexit 7";
    let program = case.program("tool", text);
    let deaddrop = env!("CARGO_BIN_EXE_deaddrop");
    // `exec`: a shell between would end by the key, too.
    let words = TOOL.join(" ");
    let line = format!("exec strace -f -e trace=kill -o log {deaddrop} tree --host node1 {words} {program}");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(case.scratch.path());
    command.env("A", case.value.text()).env("XDG_RUNTIME_DIR", case.memory.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    wait_until("the program runs", || case.scratch.join("ready").exists());
    keys.write_all(b"\x03").unwrap();
    wait_until("the program gets it", || case.scratch.join("got").exists());
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let log = fs::read_to_string(case.scratch.join("log")).unwrap();
    assert!(log.contains("SIGINT") && !log.contains(" kill("), "it is not sent again:\n{log}");
    assert_eq!(case.trees().len(), 0);
}

#[test]
fn a_signal_before_the_program_ends_the_run_and_no_program_is_started() {
    let case = Case::one("path: /etc/a");
    let program = case.program("tool", "touch ran");
    let run = case.tree_of_nobody(&[&TOOL[..], &[&program]].concat()).tampered("linkat:signal=TERM").run();
    run.expect_code(143).expect_error("stopped by a signal: nothing was changed");
    assert_eq!(case.trees().len(), 0);
    assert!(!case.scratch.join("ran").exists());
    // A directory of the user is made whole, and the signal comes too late.
    case.tree(&["out"]).unprivileged().tampered("linkat:signal=TERM").run().expect_code(0);
    assert!(case.scratch.join("out/etc/a").exists());
}

#[test]
fn what_a_killed_run_leaves_is_wiped_by_the_next_and_the_program_ends_with_it() {
    let case = Case::one("path: /etc/a");
    let left = |case: &Case| {
        let trees = case.trees();
        assert_eq!(trees.len(), 1, "the tree is left");
        trees[0].display().to_string()
    };
    // While the program runs, and while the files are made.
    let run = run_of(&case, "echo $$ > number\nkill -KILL $PPID\nexec sleep 60");
    assert_eq!(run.shell_code(), 137);
    let number = fs::read_to_string(case.scratch.join("number")).unwrap();
    wait_until("the program ends", || !fs::exists(format!("/proc/{}", number.trim())).unwrap());
    let tree = left(&case);
    assert!(fs::exists(format!("{tree}/etc/a")).unwrap());
    run_of(&case, "exit 0")
        .expect_code(0)
        .expect_error(&format!("{tree}: a run that was cut off had left it; it is wiped"));
    assert_eq!(case.trees().len(), 0);
    case.tree(&["--for", "nixos-anywhere", "--", "true"])
        .unprivileged()
        .tampered("linkat:signal=KILL")
        .run()
        .shell_code();
    let tree = left(&case);
    // Any run of `tree` does it.
    case.tree(&["out"]).unprivileged().run().expect_code(0).expect_error(&tree);
    assert_eq!(case.trees().len(), 0);
}

#[test]
fn the_tree_of_a_run_that_lives_is_left_alone() {
    let case = Case::one("path: /etc/a");
    let inner = format!(
        "{} tree --host node1 --for nixos-anywhere -- true && test -r \"$2/etc/a\"",
        if crate::kit::is_root() { case.path("deaddrop") } else { env!("CARGO_BIN_EXE_deaddrop").to_owned() }
    );
    let text = format!("A=another-value {inner}");
    run_of(&case, &text).expect_code(0);
    assert_eq!(case.trees().len(), 0);
}

#[test]
fn what_is_named_like_a_tree_and_is_not_ours_is_left_alone() {
    let case = Case::one("path: /etc/a");
    let user = if crate::kit::is_root() { 65534 } else { nix::unistd::geteuid().as_raw() };
    let name = |number: u32| case.memory.path().join(format!("deaddrop-tree-{user}-{number:016x}"));
    fs::write(name(1), "a file").unwrap();
    std::os::unix::fs::symlink(case.scratch.path(), name(2)).unwrap();
    if crate::kit::is_root() {
        fs::create_dir(name(3)).unwrap();
    }
    let before = case.trees().len();
    let run = case.tree_of_nobody(&["out"]);
    if crate::kit::is_root() {
        std::os::unix::fs::chown(name(3), Some(0), Some(0)).unwrap();
    }
    let run = run.run().expect_code(0);
    assert!(!run.stderr().contains("cut off"), "{}", run.stderr());
    assert_eq!(case.trees().len(), before);
    crate::kit::tool(Command::new("rm").arg("--").arg(name(1)).arg(name(2)));
}
