//! The answers of the program to a script: what is in them, and what is never done for one.

use std::fs::{self, File};
use std::process::Command;

use nix::sys::stat::Mode;

use super::scratch;
use crate::kit::loops::{Loop, has_loop_devices};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, tool};

/// The run for a line of zsh.
fn asked<'a>(scratch: &'a Scratch, words: &[&str]) -> Deaddrop<'a> {
    Deaddrop::new(scratch).env("_DEADDROP_COMPLETE", "zsh").args(["--", "deaddrop"]).args(words).limited()
}

/// The answer, which must be the whole output.
#[track_caller]
fn answer_of(run: Finished) -> Vec<String> {
    let run = run.expect_code(0);
    assert_eq!(run.stderr(), "");
    run.stdout().lines().map(str::to_owned).collect()
}

#[track_caller]
fn answer(scratch: &Scratch, words: &[&str]) -> Vec<String> {
    answer_of(asked(scratch, words).run())
}

#[test]
fn names_come_with_what_they_stand_for() {
    let scratch = scratch();
    for (words, want) in [
        (&["rotate", "al"][..], &["alpha\troot@192.0.2.1"][..]),
        (&["rotate", "tag:s"], &["tag:server\t2 hosts"]),
        (&["rotate", "--serial", "e"], &["edge\t1 host"]),
        (&["plan", "@b"], &["@beta\troot@192.0.2.2"]),
        (&["verify", "x", "--only", ""], &["wifi\t/etc/wifi", "login\t/etc/login"]),
        (&["sources", "list", ""], &["vault\tbitwarden", "env\t", "file\t"]),
        (&["-m", "other.json", "rotate", ""], &["gamma\t"]),
        (&["inject", "a.img", "-m", ""], &["home/\t", "other.json\t", "result/\t", "secrets.yaml\t", "tmp/\t"]),
        (&["inject", "result/"], &["result/x.qcow2\t"]),
        (&["inject", "a.img", "--format", "v"], &["vmdk\t", "vdi\t", "vhd\t", "vhdx\t"]),
        (&["inject", "a.img", "--undo", "r"], &["result/\t"]),
        (&["inject", "a.img", "--public-out", "no"], &["notes.txt\t"]),
        (&["init", "--secrets", "login,w"], &["login,wifi\t"]),
        // A host that is made, and words that nobody knows.
        (&["init", "--host", ""], &[]),
        (&["inject", "a.img", "--root-partition", ""], &[]),
    ] {
        assert_eq!(answer(&scratch, words), want, "{words:?}");
    }
    assert_eq!(answer(&scratch, &["comp"]), ["completions\tPrints the completions of a shell"]);
}

#[test]
fn what_is_no_manifest_gives_no_names_and_no_error() {
    let scratch = scratch();
    scratch.write("broken.yaml", "hosts: { alpha: [ }\n");
    scratch.write("not-utf-8.yaml", b"hosts: { alpha: \xff }\n");
    scratch.write("text.yaml", "alpha");
    // Never what a terminal or a shell would take for something else.
    scratch.write(
        "odd.yaml",
        "hosts: { \"a\\nb\": , \"a\\tb\": , \"\\e[2J\": , \"\\u202Ea\": , -x: , \"~root\": , \"\": }\n",
    );
    fs::create_dir(scratch.join("directory.yaml")).unwrap();
    nix::unistd::mkfifo(&scratch.join("fifo.yaml"), Mode::S_IRWXU).unwrap();
    File::create(scratch.join("large.yaml")).unwrap().set_len(100 << 20).unwrap();
    for manifest in [
        "broken.yaml",
        "not-utf-8.yaml",
        "text.yaml",
        "odd.yaml",
        "directory.yaml",
        "fifo.yaml",
        "large.yaml",
        "missing.yaml",
        "/dev/zero",
        "-",
        "",
    ] {
        for words in [&["-m", manifest, "rotate", ""][..], &["rotate", "--local", "-m", manifest, "--host", ""]] {
            assert!(answer(&scratch, words).is_empty(), "{manifest}");
        }
    }
}

#[test]
fn no_program_is_run_no_source_is_read_and_nothing_is_written() {
    let scratch = scratch();
    scratch.write(
        "secrets.yaml",
        "version: 1
sources:
  program: { type: exec, command: [touch, ran] }
  vault: { type: bitwarden, path: vault.json, password: { exec: [touch, ran] } }
secrets:
  a: { path: /a, template_file: template }
  b: { path: /b, from: vault:b }
hosts: { alpha: { ssh: root@192.0.2.1, become: sudo, become_password: ask } }
",
    );
    for file in ["vault.json", "template"] {
        scratch.write(file, "");
    }
    for words in [&["rotate", ""][..], &["inject", "a.img", "--only", ""], &["sources", "list", ""], &["inject", ""]] {
        let run = asked(&scratch, words).traced("%file,%network,write").run();
        assert!(run.trace().children().iter().all(|child| child.contains("deaddrop")), "{words:?}");
        for line in run.trace().lines() {
            let is_opened = |name: &str| line.contains("open") && line.contains(&format!("{name}\""));
            assert!(!["vault.json", "template", "a.img"].iter().any(|name| is_opened(name)), "{line}");
            assert!(!line.contains("O_WRONLY") && !line.contains("O_CREAT") && !line.contains("socket("), "{line}");
        }
        assert!(!answer_of(run).is_empty(), "{words:?}");
    }
    assert!(!scratch.join("ran").exists());
}

#[test]
fn a_run_that_no_script_asks_for_is_as_always() {
    let scratch = scratch();
    for (shell, args) in [("zsh", &["check"][..]), ("zsh", &[]), ("cmd", &["--", "deaddrop", ""]), ("", &["check"])] {
        let run = |deaddrop: Deaddrop| {
            let run = deaddrop.args(args).run();
            (run.code(), run.stdout(), run.stderr())
        };
        let with = run(Deaddrop::new(&scratch).env("_DEADDROP_COMPLETE", shell));
        assert_eq!(with, run(Deaddrop::new(&scratch)), "{shell} {args:?}");
    }
    for args in [&[][..], &["deaddrop"]] {
        let run = Deaddrop::new(&scratch).env("_DEADDROP_COMPLETE", "bash").args(["--"]).args(args).run();
        assert!(answer_of(run).is_empty(), "{args:?}");
    }
}

#[test]
fn devices_are_those_that_flash_lists() {
    if !has_loop_devices() {
        return;
    }
    let scratch = scratch();
    File::create(scratch.join("disk")).unwrap().set_len(8 << 20).unwrap();
    let device = Loop::new(scratch.join("disk"));
    let listed = Deaddrop::new(&scratch).args(["flash"]).run().expect_code(0).stdout();
    let listed = listed.lines().find(|line| line.split(' ').next() == Some(&device.0)).unwrap().to_owned();
    for words in [&["flash", "a.img", &device.0][..], &["flash", "a.img", ""], &["flash", "--only-inject", ""]] {
        let lines = answer_of(asked(&scratch, words).traced("openat").run().expect_code(0));
        let line = lines.iter().find(|line| line.split('\t').next() == Some(&device.0)).expect("the device");
        let (_, about) = line.split_once('\t').unwrap();
        assert!(listed.contains(about.trim_end_matches('…')) && about.starts_with("8 MiB"), "{line}\n{listed}");
    }
    let run = asked(&scratch, &["flash", "a.img", &device.0]).traced("openat").run();
    assert!(run.trace().calls("openat").iter().all(|line| !line.contains("\"/dev/loop")), "the device was opened");
}

#[test]
fn fish_lists_names_with_what_they_stand_for() {
    let scratch = scratch();
    let bin = scratch.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_deaddrop"), bin.join("deaddrop")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let line = "deaddrop completions fish | source; complete -C 'deaddrop rotate al'";
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "-c", line]).env("PATH", path).env("HOME", scratch.join("home"));
    // It leaves a directory there.
    fish.env("TMPDIR", scratch.path());
    let said = tool(fish.current_dir(scratch.path())).stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "alpha\troot@192.0.2.1\n");
}
