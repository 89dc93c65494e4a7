//! The passwords that open sources: from a variable, a file, a program, and the terminal.

use std::process::Command;

use super::{injected, manifest, path, program, root};
use crate::kit::Scratch;
use crate::kit::run::Deaddrop;

/// What opens the fixture, which tests/exports/make.py has made.
const PASSWORD: &str = "correct \"horse\" $battery ünïcödé";

/// A target, the fixture and a manifest whose source is opened by `password`.
fn prepare(password: &str) -> Scratch {
    let scratch = Scratch::new();
    root(&scratch);
    let export = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exports/bitwarden-pbkdf2.json");
    std::fs::copy(export, scratch.join("export.json")).unwrap();
    let source = format!("  v: {{ type: bitwarden, path: export.json, password: {password} }}\n");
    manifest(&scratch, &source, &[("a", "v:odd values/dollar#username")]);
    scratch
}

fn inject(scratch: &Scratch) -> Deaddrop<'_> {
    Deaddrop::new(scratch).args(["inject", "root", "-m", "secrets.yaml"]).env("PATH", path(scratch))
}

#[test]
fn a_password_comes_from_a_variable_a_file_or_a_program_less_one_final_newline() {
    let scratch = prepare("{ env: VAULT }");
    inject(&scratch).env("VAULT", PASSWORD).run().expect_code(0);
    assert_eq!(injected(&scratch, "a"), b"admin");
    inject(&scratch).run().expect_refusal("unset", 1, &["v: its password: $VAULT is not set", "read -rs VAULT"]);
    inject(&scratch).env("VAULT", "").run().expect_refusal("empty", 1, &["its password is empty"]);
    inject(&scratch).env("VAULT", "wrong-planted").run().expect_refusal("wrong", 1, &["password"]);

    let scratch = prepare("{ file: password }");
    scratch.write("password", format!("{PASSWORD}\n"));
    inject(&scratch).run().expect_code(0);
    scratch.write("password", format!("{PASSWORD}\n\n"));
    inject(&scratch).run().expect_code(1);
    std::fs::remove_file(scratch.join("password")).unwrap();
    inject(&scratch).run().expect_refusal("no file", 1, &["there is no such file"]);

    let scratch = prepare("{ exec: [show, planted-argument] }");
    program(&scratch, "show", &format!("printf '%s\\n' '{PASSWORD}'"));
    inject(&scratch).run().expect_code(0);
    program(&scratch, "show", "exit 4");
    let run = inject(&scratch).run().expect_refusal("fails", 1, &["its password: show ended with status 4"]);
    assert!(!run.stderr().contains("planted-argument"));
}

#[test]
fn a_password_that_is_asked_for_needs_a_terminal_and_is_not_shown_there() {
    let scratch = prepare("ask");
    // setsid: no terminal, whatever the tests were started from.
    let output = Command::new("setsid")
        .args(["-w", env!("CARGO_BIN_EXE_deaddrop")])
        .args(["inject", "root", "-m", "secrets.yaml"])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`password: ask` needs a terminal") && said.contains("sources.v.password"), "{said}");

    // A terminal of its own, made by Python, that types the password when it is asked.
    let script = format!(
        r#"
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while b"Password for v: " not in seen:
    seen += os.read(terminal, 1)
os.write(terminal, {PASSWORD:?}.encode() + b"\n")
try:
    while True:
        seen += os.read(terminal, 1000)
except OSError:
    pass
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.stdout.buffer.write(seen)
sys.exit(code)
"#
    );
    let output = Command::new("python3")
        .args(["-c", &script, env!("CARGO_BIN_EXE_deaddrop"), "inject", "root", "-m", "secrets.yaml"])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{seen}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!seen.contains("battery"), "it was shown");
    assert_eq!(injected(&scratch, "a"), b"admin");

    // Ctrl-C at the question: the terminal shows again what is typed.
    let script = r#"
import os, pty, sys, termios
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while b"Password for v: " not in seen:
    seen += os.read(terminal, 1)
assert not termios.tcgetattr(terminal)[3] & termios.ECHO
os.write(terminal, b"\x03")
while b"nothing was changed" not in seen:
    seen += os.read(terminal, 1)
assert termios.tcgetattr(terminal)[3] & termios.ECHO
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;
    let output = Command::new("python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_deaddrop"), "inject", "root", "-m", "secrets.yaml"])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
}
