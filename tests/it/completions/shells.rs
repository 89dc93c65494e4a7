//! In the shells themselves, on a terminal: a line is typed with a Tab in it and run, and what arrives at the program
//! is compared.

use std::fs;

use super::scratch;
use crate::kit::tmux::Tmux;
use crate::kit::{Scratch, wait_until, write_program};

/// A shell, ready for input.
struct Session {
    // Ends before the directory with its socket goes.
    terminal: Tmux,
    scratch: Scratch,
    runs: usize,
}

impl Session {
    /// Starts the shell by `start`, with the completions as `setup` takes them from the file `script`.
    fn start(shell: &str, start: &str, setup: &[&str]) -> Self {
        let scratch = scratch();
        let bin = scratch.join("bin");
        fs::create_dir(&bin).unwrap();
        // Answers as deaddrop does. Otherwise tells its arguments, each in a line of its own, and an empty line.
        let program = format!(
            "#!/bin/sh\nif [ -n \"$_DEADDROP_COMPLETE\" ]; then exec {} \"$@\"; fi\n\
             printf '%s\\n' \"$@\" '' >>{}\n",
            env!("CARGO_BIN_EXE_deaddrop"),
            scratch.join("runs").display()
        );
        write_program(&bin.join("deaddrop"), &program);
        let script = std::process::Command::new(env!("CARGO_BIN_EXE_deaddrop")).args(["completions", shell]).output();
        scratch.write("script", script.unwrap().stdout);
        scratch.write("runs", "");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let home = scratch.join("home").display().to_string();
        let env = [
            ("PATH", path.as_str()),
            ("HOME", &home),
            ("LC_ALL", "C.UTF-8"),
            ("XDG_CONFIG_HOME", &home),
            // fish leaves a directory there.
            ("TMPDIR", &home),
        ];
        let terminal = Tmux::start(&scratch, start, &env);
        wait_until("the prompt", || terminal.shown().contains(['#', '$', '%', '>']));
        let mut session = Self { scratch, terminal, runs: 0 };
        for line in setup {
            session.terminal.types(line);
            session.terminal.keys(&["Enter"]);
        }
        session.receives("deaddrop ready", &["ready"]);
        session
    }

    /// Types a line, with a Tab for each `→`, and runs it: the program must get these arguments.
    #[track_caller]
    fn receives(&mut self, line: &str, want: &[&str]) {
        let mut parts = line.split('→');
        self.terminal.types(parts.next().unwrap());
        for part in parts {
            self.terminal.keys(&["Tab"]);
            if !part.is_empty() {
                self.terminal.types(part);
            }
        }
        self.terminal.keys(&["Enter"]);
        let runs = || fs::read_to_string(self.scratch.join("runs")).unwrap();
        let count = |text: &str| text.matches("\n\n").count();
        wait_until(&format!("{line}: nothing was run\n{}", self.terminal.shown()), || count(&runs()) > self.runs);
        self.runs += 1;
        let all = runs();
        let last = all.trim_end().rsplit("\n\n").next().unwrap();
        assert_eq!(last.lines().collect::<Vec<_>>(), want, "{line}\n{}", self.terminal.shown());
    }

    /// What every shell completes in the same way. nushell leaves the space after a word to the person.
    fn completes_words(&mut self) {
        let [image, manifest] =
            ["h.img", "m.yaml"].map(|name| self.scratch.join("home").join(name).display().to_string());
        for (line, want) in [
            ("deaddrop ro→ alpha", &["rotate", "alpha"][..]),
            ("deaddrop rotate al→ be→", &["rotate", "alpha", "beta"]),
            ("deaddrop rotate tag:se→", &["rotate", "tag:server"]),
            ("deaddrop rotate two→", &["rotate", "two words"]),
            ("deaddrop rotate --local --host al→ --dry→", &["rotate", "--local", "--host", "alpha", "--dry-run"]),
            ("deaddrop plan a.img --host=be→", &["plan", "a.img", "--host=beta"]),
            ("deaddrop plan @al→", &["plan", "@alpha"]),
            ("deaddrop verify root --only wi→", &["verify", "root", "--only", "wifi"]),
            ("deaddrop sources list va→", &["sources", "list", "vault"]),
            ("deaddrop rotate -m other.json ga→", &["rotate", "-m", "other.json", "gamma"]),
            ("deaddrop rotate --manifest=ot→ ga→", &["rotate", "--manifest=other.json", "gamma"]),
            ("deaddrop rotate -m ~/m.yaml de→", &["rotate", "-m", &manifest, "delta"]),
            ("deaddrop inject ol→ --host al→", &["inject", "old disk.img.zst", "--host", "alpha"]),
            ("deaddrop inject 'old d→", &["inject", "old disk.img.zst"]),
            ("deaddrop inject \"old d→", &["inject", "old disk.img.zst"]),
            ("deaddrop inject q→", &["inject", "q'`touch ran`\".img"]),
            ("deaddrop inspect res→x→", &["inspect", "result/x.qcow2"]),
            ("deaddrop inspect ~/h→", &["inspect", &image]),
            ("deaddrop generate wi→", &["generate", "wireguard"]),
        ] {
            self.receives(line, want);
        }
    }

    /// Lists what can follow, with what it stands for.
    fn lists(&self, line: &str, want: &[&str]) {
        self.terminal.types(line);
        self.terminal.keys(&["Tab", "Tab"]);
        for text in want {
            wait_until(&format!("{text} is listed"), || self.terminal.shown().contains(text));
        }
        self.terminal.keys(&["C-c"]);
    }

    fn ran_nothing_else(&self) {
        for place in ["ran", "home/ran"] {
            assert!(!self.scratch.join(place).exists(), "a name was run");
        }
    }
}

#[test]
fn bash_completes_words_and_runs_no_name() {
    let mut bash = Session::start("bash", "bash --norc --noprofile", &["source ./script"]);
    bash.completes_words();
    bash.receives(r"deaddrop rotate \$→", &["rotate", "$(touch ran)"]);
    bash.receives(r"deaddrop rotate tag:\`→", &["rotate", "tag:`touch ran`"]);
    bash.receives("deaddrop inject '$→", &["inject", "$(touch ran).img"]);
    bash.receives("deaddrop inject \"\\$→", &["inject", "$(touch ran).img"]);
    bash.receives("A=1 deaddrop plan @be→; true", &["plan", "@beta"]);
    bash.lists("deaddrop rotate ", &["alpha", "beta", r"\$\(touch\ ran\)"]);
    bash.ran_nothing_else();
}

#[test]
fn zsh_completes_words_and_runs_no_name() {
    let setup = ["autoload -Uz compinit; compinit -D -u", "source ./script"];
    let mut zsh = Session::start("zsh", "zsh -f", &setup);
    zsh.completes_words();
    zsh.receives(r"deaddrop rotate \$→", &["rotate", "$(touch ran)"]);
    zsh.receives(r"deaddrop rotate tag:\`→", &["rotate", "tag:`touch ran`"]);
    zsh.receives("deaddrop inject '$→", &["inject", "$(touch ran).img"]);
    zsh.lists("deaddrop rotate ", &["alpha", "root@192.0.2.1", "$(touch ran)"]);
    zsh.ran_nothing_else();
}

#[test]
fn zsh_finds_the_script_in_a_directory_of_fpath() {
    let setup = ["mkdir f; mv script f/_deaddrop; fpath=($PWD/f $fpath); autoload -Uz compinit; compinit -D -u"];
    let mut zsh = Session::start("zsh", "zsh -f", &setup);
    zsh.receives("deaddrop rotate al→", &["rotate", "alpha"]);
    zsh.receives("deaddrop rotate be→", &["rotate", "beta"]);
}

#[test]
fn fish_completes_words_and_runs_no_name() {
    let mut fish = Session::start("fish", "fish --no-config --private", &["source ./script"]);
    fish.completes_words();
    fish.receives(r"deaddrop rotate \$→", &["rotate", "$(touch ran)"]);
    fish.receives("deaddrop inject '$→", &["inject", "$(touch ran).img"]);
    fish.ran_nothing_else();
}

#[test]
fn nushell_completes_words_and_runs_no_name() {
    let mut nushell = Session::start("nushell", "nu --no-config-file --no-history", &["source ./script"]);
    nushell.completes_words();
    nushell.receives("deaddrop rotate \"$→", &["rotate", "$(touch ran)"]);
    nushell.receives("deaddrop inject \"$→", &["inject", "$(touch ran).img"]);
    nushell.lists("deaddrop rotate ", &["alpha", "root@192.0.2.1"]);
    nushell.ran_nothing_else();
}
