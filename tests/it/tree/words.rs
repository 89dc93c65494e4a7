//! The words for each tool: read back by a shell and by the tool's own means; and what the tool would spoil.

use std::fmt::Write;
use std::process::Command;

use super::Case;
use crate::kit::tool;

/// The words that a shell makes of a line.
fn read_by_shell(line: &str) -> Vec<String> {
    assert_eq!(line.matches('\n').count(), 1, "one line");
    let output = tool(Command::new("sh").args(["-c", &format!("printf '%s\\n' {line}")]));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_line_is_read_by_a_shell_as_the_words_for_the_tool() {
    let case = Case::new(
        "secrets:
  a: { path: \"/etc/it's $A/a b\", from: env:A }
  b: { path: /var/lib/app/b, from: env:A, owner: 1000, group: 100 }
hosts: { node1: {} }
",
    );
    let dir = "a dir";
    for (tool, want) in [
        ("nixos-anywhere", vec!["--extra-files", "DIR", "--chown", "/var/lib/app/b", "1000:100"]),
        (
            "disko-image",
            vec![
                "--post-format-files",
                "DIR/etc/it's $A/a b",
                "/etc/it's $A/a b",
                "--post-format-files",
                "DIR/var/lib/app/b",
                "/var/lib/app/b",
            ],
        ),
    ] {
        let run = case.tree_of_nobody(&[dir, "--for", tool]).run().expect_code(0);
        let want: Vec<String> = want.iter().map(|word| word.replace("DIR", &case.path(dir))).collect();
        assert_eq!(read_by_shell(&run.stdout()), want, "{tool}");
        std::fs::remove_dir_all(case.scratch.join(dir)).unwrap();
    }
}

#[test]
fn disko_install_is_for_root_which_keeps_the_owners() {
    let case = Case::one("path: /etc/secrets/a, owner: 1000, group: 100");
    let refused = case.tree_of_nobody(&["out", "--for", "disko-install"]).run();
    if crate::kit::is_root() {
        refused.expect_refusal("nobody", 1, &["disko-install keeps the owner", "run it as root"]);
        let run = case.tree(&["out", "--for", "disko-install"]).run().expect_code(0);
        let from = case.path("out/etc/secrets/a");
        assert_eq!(run.stdout(), format!("--extra-files {from} /etc/secrets/a\n"));
        assert!(run.stderr().contains("DD211") && run.stderr().contains("/etc/secrets (0711"), "{}", run.stderr());
        assert!(!run.stderr().contains("root's, and it is to belong"), "{}", run.stderr());
    }
}

#[test]
fn owners_that_disko_loses_are_said_and_may_be_allowed() {
    let case = Case::one("path: /etc/a, owner: 1000, group: 100");
    let run = case.tree_of_nobody(&["out", "--for", "disko-image"]).run().expect_code(0);
    run.expect_error("DD211").expect_error("disko's script makes /etc/a root's, and it is to belong to 1000:100");
    let case = Case::one("path: /etc/a, owner: 1000, group: 100, allow: { DD211: the service reads it as root }");
    let run = case.tree_of_nobody(&["out", "--for", "disko-image"]).run().expect_code(0);
    assert!(!run.stderr().contains("DD211"), "{}", run.stderr());
}

/// What the real command makes of the pairs: `pr -2t`, then `read file ownership`.
fn through_pr(pairs: &[(String, &str)]) -> Vec<(String, String)> {
    let mut input = String::new();
    pairs.iter().for_each(|(path, _)| writeln!(input, "{path}").unwrap());
    pairs.iter().for_each(|(_, owner)| writeln!(input, "{owner}").unwrap());
    let script = r#"pr -2t | while read file ownership; do printf '%s|%s\n' "$file" "$ownership"; done"#;
    let output = crate::kit::fed(Command::new("bash").args(["-c", script]), input.as_bytes());
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.split_once('|').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn what_the_chown_of_nixos_anywhere_spoils_is_refused_and_nothing_else() {
    let long = |length: usize| format!("/etc/{}", "x".repeat(length - 5));
    for (path, why) in [
        (long(35), None),
        (long(36), Some("its --chown cuts a path after 35 bytes, and this one has 36")),
        ("/etc/a b".to_owned(), Some("its --chown splits a path at a space")),
        ("/etc/a\\b".to_owned(), Some("its --chown drops the backslash")),
        ("/etc/ä'\"*$x".to_owned(), None),
    ] {
        let pair = [(path.clone(), "1000:100")];
        let survives = through_pr(&pair) == [(path.clone(), "1000:100".to_owned())];
        assert_eq!(survives, why.is_none(), "{path}: what pr does");
        let yaml = serde_json::to_string(&path).unwrap();
        let case = Case::one(&format!("path: {yaml}, owner: 1000, group: 100"));
        let run = case.tree_of_nobody(&["out", "--for", "nixos-anywhere"]).run();
        match why {
            None => drop(run.expect_code(0)),
            Some(why) => {
                run.expect_refusal(&path, 1, &["a: ", "is to belong to 1000:100, and nixos-anywhere cannot", why]);
                assert!(!case.scratch.join("out").exists());
            }
        }
        // Root's own are in the tar alone.
        let case = Case::one(&format!("path: {yaml}"));
        case.tree_of_nobody(&["out", "--for", "nixos-anywhere"]).run().expect_code(0);
    }
}

#[test]
fn more_pairs_than_a_page_of_pr_has_lines_are_refused() {
    for (count, is_refused) in [(66, false), (67, true)] {
        let pairs: Vec<(String, &str)> = (0..count).map(|number| (format!("/a/{number}"), "1000:100")).collect();
        let survive = through_pr(&pairs).iter().all(|(path, owner)| path.starts_with("/a/") && owner == "1000:100");
        assert_eq!(survive, !is_refused, "{count}: what pr does");
        let secret =
            |number: usize| format!("  s{number}: {{ path: /a/{number}, from: env:A, owner: 1000, group: 100 }}\n");
        let secrets: String = (0..count).map(secret).collect();
        let case = Case::new(&format!("secrets:\n{secrets}hosts: {{ node1: {{}} }}\n"));
        let run = case.tree_of_nobody(&["out", "--for", "nixos-anywhere"]).run();
        match is_refused {
            false => drop(run.expect_code(0)),
            true => {
                let texts = ["67 files and directories", "mixes up the owners of more than 66"];
                run.expect_refusal("67", 1, &texts);
            }
        }
    }
}

#[test]
fn a_directory_is_given_away_only_with_all_that_is_in_it() {
    let keys = |owner: &str| {
        format!("path: /var/lib/app/a, owner: {owner}, group: 100, directory_owner: '1000:100', directory_mode: '0700'")
    };
    let case = Case::one(&keys("1000"));
    let run = case.tree_of_nobody(&["out", "--for", "nixos-anywhere"]).run().expect_code(0);
    let out = case.path("out");
    let want = format!("--extra-files {out} --chown /var/lib/app 1000:100 --chown /var/lib/app/a 1000:100\n");
    assert_eq!(run.stdout(), want);
    let case = Case::one(&keys("0"));
    let run = case.tree_of_nobody(&["out", "--for", "nixos-anywhere"]).run();
    run.expect_refusal("another owner below", 1, &["/var/lib/app is to belong to 1000:100", "/var/lib/app/a (0:100)"]);
}

#[test]
fn a_path_that_is_no_name_in_base64_is_refused_for_disko() {
    for (path, why) in [
        ("/etc/????".to_owned(), Some("there is a `/` in it")),
        (format!("/{}", "x".repeat(187)), None),
        (format!("/{}", "x".repeat(188)), Some("too long for a name")),
    ] {
        // What the script does: a copy of this name.
        let script = r#"cd "$(mktemp -d)" && touch ./"$(echo "$1" | base64)"; code=$?; rm -r "$PWD"; exit $code"#;
        let works = Command::new("bash").args(["-c", script, "-", &path]).output().unwrap().status.success();
        assert_eq!(works, why.is_none(), "{path}: what the script does");
        let case = Case::one(&format!("path: '{path}'"));
        let run = case.tree_of_nobody(&["out", "--for", "disko-image"]).run();
        match why {
            None => drop(run.expect_code(0)),
            Some(why) => drop(run.expect_refusal(&path, 1, &["keeps a file under its path in base64", why])),
        }
    }
}
