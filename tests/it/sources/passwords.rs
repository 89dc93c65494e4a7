//! The passwords that open sources: from a variable, a file, a program, and the terminal.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{injected, manifest, path, program, root};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, tool};

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

/// A terminal of its own, made by Python: it types the next password of `argv[1]`, a JSON list, at each question, and
/// prints what it has seen.
const TYPIST: &str = r#"
import json, os, pty, signal, sys
signal.alarm(300)
passwords = json.loads(sys.argv[1])
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[2], sys.argv[2:])
seen, asked = b"", 0
try:
    while True:
        seen += os.read(terminal, 1)
        if seen.endswith((b"Password for v: ", b" key: ")):
            # One question too many gets an empty answer.
            os.write(terminal, b"".join(password.encode() for password in passwords[asked:asked + 1]) + b"\n")
            asked += 1
except OSError:
    pass
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.stdout.buffer.write(seen)
sys.exit(code)
"#;

/// What is seen on a terminal where `passwords` are typed, and the exit code.
fn typed(scratch: &Scratch, passwords: &[&str]) -> (String, Option<i32>) {
    let output = Command::new("python3")
        .args(["-c", TYPIST, &serde_json::to_string(passwords).unwrap(), env!("CARGO_BIN_EXE_deaddrop")])
        .args(["inject", "root", "-m", "secrets.yaml"])
        .env("HOME", scratch.path())
        .env("PATH", path(scratch))
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("Traceback"), "{said}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

/// `content` as an age file with this passphrase, whose key costs little.
fn locked(content: &[u8], passphrase: &str) -> Vec<u8> {
    let mut recipient = age::scrypt::Recipient::new(age::secrecy::SecretString::from(passphrase.to_owned()));
    recipient.set_work_factor(2);
    let encryptor = age::Encryptor::with_recipients(std::iter::once::<&dyn age::Recipient>(&recipient)).unwrap();
    let mut bytes = Vec::new();
    let mut writer = encryptor.wrap_output(&mut bytes).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn a_wrong_password_on_a_terminal_is_asked_for_twice_more() {
    const OTHER: &str = "correct horse ünïcödé";
    for (source, file, password, wanted) in [
        ("bitwarden, path: vault, password: ask", "bitwarden-pbkdf2.json", PASSWORD, "odd values/dollar#username"),
        ("proton-pass, path: vault, password: ask", "proton-json.pgp", PASSWORD, "Router"),
        ("keepass, path: vault, password: ask", "keepass/argon2d-aes.kdbx", OTHER, "home/Homelab admin"),
        ("age, path: vault, password: ask, format: value", "age/identity.txt", OTHER, "value"),
        ("age, path: inside, identity: vault, password: ask, format: json", "age/identity.txt", OTHER, "token"),
        ("passage, path: store, password: ask", "age/identity.txt", OTHER, "one"),
        ("age, path: with-ssh, identity: key, format: value", "age/identity.txt", OTHER, "value"),
    ] {
        let scratch = Scratch::new();
        root(&scratch);
        let exports = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exports");
        std::fs::create_dir(scratch.join("store")).unwrap();
        std::fs::copy(format!("{exports}/age/document.age"), scratch.join("inside")).unwrap();
        let content = std::fs::read(format!("{exports}/{file}")).unwrap();
        let content = if file.ends_with(".txt") { locked(&content, password) } else { content };
        for to in ["vault", "store/one.age", "store/two.age"] {
            scratch.write(to, &content);
        }
        if source.contains("key,") {
            tool(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", OTHER, "-f"]).arg(scratch.join("key")));
            let with_ssh = Command::new("age")
                .args(["-R", "key.pub", "-o", "with-ssh", "secrets"])
                .current_dir(scratch.write("secrets", "planted").parent().unwrap())
                .output()
                .unwrap();
            assert!(with_ssh.status.success());
        }
        let also = if source.starts_with("passage") { "two" } else { wanted };
        let from = |item: &str| format!("\"v:{item}\"");
        let secrets = [("a", from(wanted)), ("b", from(also))];
        let secrets = secrets.each_ref().map(|(name, from)| (*name, from.as_str()));
        manifest(&scratch, &format!("  v: {{ type: {source} }}\n"), &secrets);

        let (seen, code) = typed(&scratch, &["planted-wrong", "", password]);
        assert_eq!(code, Some(0), "{source}: {seen}");
        assert_eq!(seen.matches("Wrong password. Pass").count(), 2, "{source}: {seen}");
        assert!(!seen.contains("planted-wrong"), "{source}: it was shown");
        assert!(scratch.join("root/etc/a").exists() && scratch.join("root/etc/b").exists(), "{source}");

        std::fs::remove_dir_all(scratch.join("root")).unwrap();
        root(&scratch);
        let (seen, code) = typed(&scratch, &["planted-wrong", "planted-worse", "planted-worst", password]);
        assert_eq!(code, Some(1), "{source}: {seen}");
        assert_eq!(seen.matches("Wrong password. Pass").count(), 2, "{source}: {seen}");
        assert!(!scratch.join("root/etc/a").exists(), "{source}");
    }
    // A password from elsewhere is not asked for.
    let scratch = prepare("{ env: VAULT }");
    inject(&scratch).env("VAULT", "planted-wrong").run().expect_refusal("env", 1, &["its password is wrong"]);
}

/// A database whose key takes 10^9 rounds of AES-KDF, the most without `kdf_limit`, and many times that with it.
fn costly(rounds: u64) -> Scratch {
    let scratch = Scratch::new();
    root(&scratch);
    let database = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exports/keepass/header-hash.kdbx");
    let mut bytes = std::fs::read(database).unwrap();
    let at = bytes.windows(3).position(|field| field == [6, 8, 0]).unwrap() + 3;
    bytes[at..at + 8].copy_from_slice(&rounds.to_le_bytes());
    scratch.write("x.kdbx", bytes);
    scratch.write("pw", "x");
    scratch
}

#[test]
fn a_key_that_takes_long_is_told_of_and_a_signal_ends_its_derivation() {
    const LONGEST: u64 = 1_000_000_000;
    for (rounds, limit, signal, code) in
        [(LONGEST, "", Signal::SIGINT, 130), (LONGEST * 1000, ", kdf_limit: none", Signal::SIGTERM, 143)]
    {
        let scratch = costly(rounds);
        let source = format!("  v: {{ type: keepass, path: x.kdbx, password: {{ file: pw }}{limit} }}\n");
        manifest(&scratch, &source, &[("a", "v:node1")]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_deaddrop"))
            .args(["inject", "root", "-m", "secrets.yaml"])
            .current_dir(scratch.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, format!("v: deriving the key: {rounds} rounds of AES-KDF …\n"));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("stopped by a signal: nothing was changed"), "{rest}");
    }
    // With -q nothing is told.
    let scratch = costly(LONGEST);
    manifest(&scratch, "  v: { type: keepass, path: x.kdbx, password: { file: pw } }\n", &[("a", "v:node1")]);
    let run = inject(&scratch).args(["-q"]).signal_after(Duration::from_secs(3), Signal::SIGTERM).run();
    assert!(!run.stderr().contains("deriving"), "{}", run.stderr());

    let scratch = costly(LONGEST + 1);
    manifest(&scratch, "  v: { type: keepass, path: x.kdbx, password: { file: pw } }\n", &[("a", "v:node1")]);
    let want = ["its key is derived in 1000000001 rounds of AES-KDF, over 1000000000", "`kdf_limit: none`"];
    inject(&scratch).run().expect_refusal("over the limit", 1, &want);
}
