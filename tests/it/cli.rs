//! The command line itself: help, exit codes, colour, quiet and talkative runs, pipes that close.

use std::fs;
use std::process::{Command, Stdio};

use crate::kit::Scratch;
use crate::kit::canary::Canary;
use crate::kit::run::{Deaddrop, on_terminal, on_terminal_of};

const COMMANDS: [&str; 13] = [
    "check",
    "inspect",
    "plan",
    "inject",
    "tree",
    "verify",
    "rotate",
    "recover",
    "scrub",
    "scan",
    "generate",
    "init",
    "completions",
];

/// A scratch directory with a root, and a manifest of one secret from $A.
fn with_root() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    let owner = nix::unistd::geteuid();
    let group = nix::unistd::getegid();
    let keys = format!("path: /etc/a, from: env:A, owner: {owner}, group: {group}");
    scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n  a: {{ {keys} }}\n"));
    scratch
}

#[test]
fn a_manifest_comes_from_standard_input_too_as_yaml_or_json() {
    let scratch = with_root();
    let value = Canary::new("a");
    let yaml = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    let (owner, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let json = format!(
        r#"{{"version":1,"sources":{{"d":{{"type":"dotenv","path":"values.env"}}}},"secrets":{{"a":{{"path":"/etc/a",
        "from":"d:A","owner":{owner},"group":{group}}}}}}}"#
    );
    scratch.write_private("values.env", format!("A={}\n", value.text()));
    for (text, code) in [(yaml.as_str(), 0), (&json, 0), ("version: 2\n", 2), ("", 2)] {
        let run = Deaddrop::new(&scratch).args(["check", "--values", "-m", "-"]).stdin(text).env("A", value.text());
        run.plant(&value).run().expect_code(code);
    }
    // The relative path starts at the current directory.
    let run = Deaddrop::new(&scratch).args(["inject", "root", "-m", "-"]).stdin(json.as_str());
    run.plant(&value).run().expect_code(0);
    assert_eq!(fs::read_to_string(scratch.join("root/etc/a")).unwrap(), value.text());
    // Standard input is the manifest already; where it is wrong is said.
    let twice = json.replace("values.env", "-");
    let run = Deaddrop::new(&scratch).args(["check", "-m", "-"]).stdin(twice).run();
    let texts = ["-:1:", "standard input (`-`) can be read once, and the manifest (`-m -`) reads it already"];
    run.expect_refusal("twice", 2, &texts);
    let endless = vec![b'#'; (16 << 20) + 1];
    let run = Deaddrop::new(&scratch).args(["check", "-m", "-"]).stdin(endless).run();
    run.expect_refusal("endless", 2, &["is over 16 MiB, the limit of a manifest"]);
}

#[test]
fn a_file_name_cannot_drive_the_terminal_nor_look_like_another() {
    let scratch = with_root();
    let odd = "x\u{9b}2J\u{202e}\u{200b}\u{61c}\u{e0041}y";
    for args in [&["inspect", odd][..], &["plan", odd], &["inject", odd], &["check", "-m", odd], &["scrub", odd]] {
        let run = Deaddrop::new(&scratch).args(args).env("A", "x").run();
        let said = run.stderr();
        assert!(said.contains("x\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}y"), "{args:?}: {said}");
        assert!(!said.contains(['\u{9b}', '\u{202e}', '\u{200b}', '\u{61c}', '\u{e0041}']), "{args:?}: {said}");
    }
    for args in [&[odd][..], &["inspect", "x", odd], &["inspect", &format!("--{odd}")], &["rotate", "--parallel", odd]]
    {
        let said = Deaddrop::new(&scratch).args(args).run().expect_code(2).stderr();
        assert!(!said.contains(['\u{9b}', '\u{202e}', '\u{200b}', '\u{61c}', '\u{e0041}']), "{args:?}: {said}");
    }
    // What a program reads is the name itself, and nothing hidden is in it either.
    std::fs::rename(scratch.join("root"), scratch.join(odd)).unwrap();
    let run = Deaddrop::new(&scratch).args(["plan", odd, "--json"]).env("A", "x").run().expect_code(0);
    assert!(!run.stdout().contains(['\u{9b}', '\u{202e}', '\u{200b}', '\u{61c}', '\u{e0041}']), "{}", run.stdout());
}

#[test]
fn each_help_opens_with_one_sentence_and_one_example() {
    let scratch = Scratch::new();
    for command in COMMANDS {
        for args in [&["help", command][..], &[command, "--help"]] {
            let help = Deaddrop::new(&scratch).args(args).run().expect_code(0).stdout();
            let mut paragraphs = help.split("\n\n");
            let sentence = paragraphs.next().unwrap();
            assert!(sentence.ends_with('.') && sentence.matches(". ").count() == 0, "{command}: {sentence}");
            let example = paragraphs.next().unwrap();
            assert!(example.starts_with("Example: ") && example.contains(&format!("deaddrop {command}")), "{example}");
        }
    }
}

#[test]
fn each_example_is_a_command_line_that_is_taken() {
    let scratch = with_root();
    let manifest = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    // Nobody listens at port 1.
    let hosts = "hosts: { node1: { ssh: \"ssh://nobody@127.0.0.1:1\", tags: [server] } }";
    scratch.write("secrets.yaml", format!("{manifest}{hosts}\n"));
    for command in COMMANDS {
        let help = Deaddrop::new(&scratch).args([command, "--help"]).run().expect_code(0).stdout();
        let example = help.split("\n\n").find_map(|part| part.strip_prefix("Example: ")).unwrap().replace('\n', " ");
        let example = example.trim_start_matches("source <(").trim_end_matches(')');
        let words = example.split(' ').skip(1);
        let said = Deaddrop::new(&scratch).args(words).env("A", "a value").run();
        // The image of an example is not here, nor is a node: that is the only thing that may be wrong.
        let is_missing = said.stderr().contains("there is no such file") || said.stderr().contains("1 unreachable");
        if is_missing {
            said.expect_code(1)
        } else {
            said.expect_code(0)
        };
    }
}

#[test]
fn alone_it_shows_the_three_uses_and_wrong_usage_is_exit_2() {
    let scratch = Scratch::new();
    let alone = Deaddrop::new(&scratch).run().expect_code(2);
    for use_ in
        ["an image, after its build", "running nodes, over SSH", "CI, in an unprivileged container", "Exit codes: 0"]
    {
        assert!(alone.stderr().contains(use_), "{use_}");
    }
    assert!(alone.stdout().is_empty());
    for args in [
        &["frobnicate"][..],
        &["inject"],
        &["inject", "a", "b"],
        &["plan", "a", "--frob"],
        &["inject", "a", "-o", "b", "--keep-mode"],
        &["plan", "a", "-q", "-v"],
        &["completions", "cmd.exe"],
        &["plan", "a", "-o", "b"],
    ] {
        let run = Deaddrop::new(&scratch).args(args).run().expect_code(2);
        assert!(run.stdout().is_empty() && run.stderr().starts_with("error: "), "{args:?}: {}", run.stderr());
    }
    Deaddrop::new(&scratch).args(["--version"]).run().expect_code(0);
}

#[test]
fn what_is_asked_for_goes_to_standard_output_and_what_is_told_of_work_to_standard_error() {
    let scratch = with_root();
    let value = Canary::new("a");
    let run = |args: &[&str]| Deaddrop::new(&scratch).args(args).env("A", value.text()).plant(&value).run();
    for (args, code) in [
        (&["check"][..], 0),
        (&["plan", "root"], 0),
        (&["plan", "root", "--exit-code"], 3),
        (&["verify", "root"], 3),
        (&["inject", "root"], 0),
        (&["inject", "root"], 0),
        (&["verify", "root"], 0),
    ] {
        let quiet = run(&[args, &["-q"]].concat()).expect_code(code);
        assert_eq!((quiet.stdout(), quiet.stderr()), (String::new(), String::new()), "{args:?} -q");
        // The quiet run has written: what is said now is of a second run.
        let code = if args[0] == "inject" { 0 } else { code };
        let words = run(args).expect_code(code);
        let (asked_for, told) = (words.stdout(), words.stderr());
        let (some, none) = if args[0] == "inject" { (told, asked_for) } else { (asked_for, told) };
        assert!(!some.is_empty() && none.is_empty(), "{args:?}: {none}");
        let json = run(&[args, &["--json"]].concat()).expect_code(code);
        let object = json.json();
        assert_eq!(object["command"], args[0]);
        assert_eq!(object["version"], 1);
        let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let want: &[&str] = match args[0] {
            "check" => &["version", "command", "target", "manifest", "changes", "warnings", "summary"],
            _ => &["version", "command", "target", "changes", "warnings", "summary"],
        };
        assert_eq!(keys, want, "{args:?}");
    }
    let both = run(&["verify", "root", "-q", "--json"]).expect_code(0);
    assert!(both.stderr().is_empty() && both.json()["summary"]["unchanged"] == 1);
}

#[test]
fn twice_v_lists_each_file_also_what_is_unchanged() {
    let scratch = with_root();
    let run = |args: &[&str]| Deaddrop::new(&scratch).args(args).env("A", "a value").run().expect_code(0);
    let run = |args: &[&str]| {
        let run = run(args);
        run.stdout() + &run.stderr()
    };
    run(&["inject", "root"]);
    assert!(!run(&["verify", "root", "-v"]).contains("/etc/a"));
    for command in ["inject", "verify"] {
        assert!(run(&[command, "root", "-vv"]).contains("/etc/a   unchanged   a"), "{command}");
    }
}

#[test]
fn a_narrow_terminal_cuts_paths_and_breaks_no_word() {
    let scratch = with_root();
    let (owner, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let secret = |name: &str, path: &str| {
        format!("  {name}: {{ path: {path}, from: 'env:A', owner: {owner}, group: {group} }}\n")
    };
    let secrets = [
        secret("admin-password", "/etc/secrets/of/the/administrator/admin-password"),
        secret("short", "/etc/short"),
        secret("temporary", "/var/tmp/a-file-that-is-removed/after/thirty/days"),
    ];
    scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{}", secrets.concat()));
    let shown = |columns: u16, words: &str| {
        let mut command = on_terminal_of(&scratch, columns, words);
        command.env("A", "a value").env("NO_COLOR", "1");
        let output = command.output().expect("running script (Debian package bsdutils)");
        String::from_utf8(output.stdout).unwrap().replace('\r', "")
    };
    for words in
        ["plan root", "verify root", "inject root", "verify root -vv", "scan root", "check", "plan missing.img"]
    {
        let wide: Vec<String> = shown(250, words).split_whitespace().map(str::to_owned).collect();
        for columns in [60, 80, 110] {
            let narrow = shown(columns, words);
            for line in narrow.lines() {
                assert!(line.chars().count() <= usize::from(columns), "{columns}, {words}: {line}");
            }
            // Every word is whole, but for the paths that end a cut.
            let is_known = |word: &str| match word.strip_prefix('…') {
                Some(end) => wide.iter().any(|word| word.ends_with(end)),
                None => wide.iter().any(|known| known == word) || word.contains("ms"),
            };
            let broken: Vec<&str> = narrow.split_whitespace().filter(|word| !is_known(word)).collect();
            // What `inject` said first it does not say again.
            assert!(words == "inject root" || broken.is_empty(), "{columns}, {words}: {broken:?}\n{narrow}");
        }
    }
    assert!(shown(60, "verify root -vv").contains('…'), "a long path is cut");
    let piped = Deaddrop::new(&scratch).args(["verify", "root", "-vv"]).env("A", "a value").run().stdout();
    assert!(!piped.contains('…'), "a pipe gets all: {piped}");
}

#[test]
fn a_commands_own_options_come_before_the_global_ones() {
    let scratch = Scratch::new();
    for command in COMMANDS {
        for flag in ["-h", "--help"] {
            let help = Deaddrop::new(&scratch).args([command, flag]).run().expect_code(0).stdout();
            let (own, global) = help.split_once("Global options:").unwrap_or_else(|| panic!("{command}: {help}"));
            for option in ["--json", "--quiet", "--verbose", "--help"] {
                assert!(global.contains(option) && !own.contains(&format!("  {option}")), "{command}: {option}");
            }
            let others = global.lines().filter(|line| line.trim_start().starts_with("--")).count();
            assert_eq!(others, 1, "{command}: --json alone has no short form: {global}");
        }
    }
}

#[test]
fn a_host_that_is_taken_for_a_file_is_told_with_the_name_of_the_node() {
    let scratch = with_root();
    let manifest = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    scratch.write("secrets.yaml", format!("{manifest}hosts: {{ node1: {{ ssh: \"ssh://nobody@127.0.0.1:1\" }} }}\n"));
    for command in ["plan", "verify", "inject"] {
        let run = Deaddrop::new(&scratch).args([command, "node1"]).run();
        run.expect_refusal(command, 1, &["node1: there is no such image", "did you mean @node1?"]);
    }
    // A file of this name is meant.
    fs::create_dir_all(scratch.join("node1/etc")).unwrap();
    Deaddrop::new(&scratch).args(["plan", "node1"]).env("A", "a value").run().expect_code(0);
    let run = Deaddrop::new(&scratch).args(["rotate", "@node1"]).env("A", "a value").run().expect_code(1);
    run.expect_error("node1").expect_error("1 unreachable");
}

#[test]
fn colour_is_for_terminals_and_no_color_forbids_it() {
    let scratch = with_root();
    let run = |env: &[(&str, &str)]| {
        let mut command = on_terminal(&scratch, "plan root");
        command.env("A", "a value").envs(env.iter().copied());
        String::from_utf8(command.output().expect("running script (Debian package bsdutils)").stdout).unwrap()
    };
    assert!(run(&[]).contains("\u{1b}["), "a terminal gets colour");
    assert!(!run(&[("NO_COLOR", "1")]).contains('\u{1b}'), "NO_COLOR");
    assert!(!run(&[("TERM", "dumb")]).contains('\u{1b}'), "a terminal that knows none");
    let piped = Deaddrop::new(&scratch).args(["plan", "root"]).env("A", "a value").env("TERM", "xterm").run();
    assert!(!piped.stdout().contains('\u{1b}'), "no terminal");
    // What is not said in colour is said in signs.
    assert!(piped.stdout().contains("+ /etc/a"));
}

#[test]
fn a_reader_that_has_had_enough_does_not_change_the_exit_code() {
    for (args, code) in [
        (&["inject", "root", "--json"][..], 0),
        (&["verify", "root", "--json"], 3),
        (&["plan", "root", "--json"], 0),
        (&["--help"], 0),
        (&["completions", "bash"], 0),
    ] {
        let scratch = with_root();
        for (stdout, stderr) in [(true, false), (false, true), (true, true)] {
            let closed = || {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                Stdio::from(writer)
            };
            let pipe = |is_closed: bool| if is_closed { closed() } else { Stdio::null() };
            let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop"));
            command.args(args).current_dir(scratch.path()).env("A", "a value").stdin(Stdio::null());
            let status = command.stdout(pipe(stdout)).stderr(pipe(stderr)).status().unwrap();
            let want = if args[0] == "verify" && scratch.join("root/etc/a").exists() { 0 } else { code };
            assert_eq!(status.code(), Some(want), "{args:?}");
        }
    }
}

#[test]
fn an_object_that_cannot_be_written_is_an_error_where_nothing_was_done() {
    let scratch = with_root();
    for (args, code) in [
        (&["plan", "root", "--json"][..], 1),
        (&["verify", "root", "--json"], 1),
        (&["check", "--json"], 1),
        (&["completions", "bash"], 1),
        (&["inject", "root", "--json"], 0),
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop"));
        let output = command.args(args).current_dir(scratch.path()).env("A", "a value").stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains("standard output: No space left on device"), "{args:?}: {said}");
    }
    assert!(scratch.join("root/etc/a").exists(), "what was done stays done, and is exit 0");
}

#[test]
fn completions_and_man_pages_come_from_the_same_definitions() {
    let scratch = Scratch::new();
    // Those of the other shells ask the program: tests/it/completions.
    for shell in ["elvish", "powershell"] {
        let script = Deaddrop::new(&scratch).args(["completions", shell]).run().expect_code(0).stdout();
        for word in ["inject", "root-partition", "manifest", "nixos-anywhere"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/man");
    assert!(fs::metadata(script).is_ok());
    fs::create_dir(scratch.join("man")).unwrap();
    Deaddrop::new(&scratch).args(["man", "man"]).run().expect_code(0);
    let pages =
        fs::read_dir(scratch.join("man")).unwrap().flatten().map(|page| page.file_name().into_string().unwrap());
    let pages: Vec<String> = pages.collect();
    for page in ["deaddrop.1", "deaddrop-inject.1", "deaddrop-inspect.1"] {
        assert!(pages.iter().any(|name| name == page), "{page} in {pages:?}");
        let text = fs::read_to_string(scratch.join("man").join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}

#[test]
fn no_core_is_dumped_and_no_child_is_started() {
    let scratch = with_root();
    let value = Canary::new("a");
    let run = Deaddrop::new(&scratch).args(["inject", "root"]).env("A", value.text()).plant(&value);
    let run = run.traced("prlimit64,prctl,setrlimit").run().expect_code(0);
    assert!(run.trace().children().is_empty());
    let limit = run.trace().lines().any(|line| line.contains("RLIMIT_CORE") && line.contains("rlim_cur=0"));
    let dumpable = run.trace().calls("prctl").iter().any(|line| line.contains("PR_SET_DUMPABLE, SUID_DUMP_DISABLE"));
    assert!(limit && dumpable, "core dumps are off");
}
