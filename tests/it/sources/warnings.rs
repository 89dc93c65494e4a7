//! What a source notices reaches the user with every command that reads it, in both forms, once.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{manifest, root};
use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, skipped_without_root};

/// Codes and secrets of a list of warnings.
fn codes(warnings: &Value) -> Vec<String> {
    let of = |warning: &Value| {
        let text = |key: &str| warning[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}", text("code"), text("secret"))
    };
    warnings.as_array().expect("a list").iter().map(of).collect()
}

#[test]
fn what_a_source_notices_is_told_by_every_command_that_reads_it() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let scratch = Scratch::new();
    root(&scratch);
    let canary = Canary::new("all values");
    let word = canary.text();
    scratch.write("env", format!("A={word}\nKEY=`{word}\n{word} {word}\n{word}`\n"));
    let sources = "  lab: { type: dotenv, path: env }\n  again: { type: dotenv, path: env }\n";
    let secrets = [("a", "lab:A"), ("key", "lab:KEY"), ("same", "lab:KEY"), ("b", "again:A")];
    manifest(&scratch, sources, &secrets);
    let whole = ["DD308 -", "DD305 -"];
    let all = ["DD308 -", "DD305 -", "DD306 key", "DD306 same"];
    let commands: [(&[&str], i32, &[&str]); 7] = [
        (&["check"], 0, &[]),
        (&["check", "--values"], 0, &all),
        (&["plan", "root"], 0, &all),
        (&["verify", "root"], 3, &all),
        (&["inject", "root"], 0, &all),
        (&["verify", "root"], 0, &all),
        (&["sources", "list", "lab"], 0, &whole),
    ];
    for (command, code, want) in commands {
        let run = || Deaddrop::new(&scratch).args(command).args(["-m", "secrets.yaml"]).plant(&canary);
        let done = run().args(["--json"]).run().expect_code(code);
        assert_eq!(codes(&done.json()["warnings"]), want, "{command:?}");
        // `inject` has done its work by now.
        let people = run().run();
        let people = people.stdout() + &people.stderr();
        for line in want {
            let code = line.split(' ').next().unwrap();
            let count = want.iter().filter(|other| other.starts_with(code)).count();
            assert_eq!(people.matches(&format!("! {code}")).count(), count, "{command:?}: {people}");
        }
    }

    fs::set_permissions(scratch.join("env"), fs::Permissions::from_mode(0o600)).unwrap();
    let only = Deaddrop::new(&scratch).args(["plan", "root", "-m", "secrets.yaml", "--json", "--only", "a"]);
    assert_eq!(codes(&only.plant(&canary).run().expect_code(0).json()["warnings"]), ["DD305 -"]);
}

#[test]
fn a_run_over_hosts_tells_it_once_for_all_of_them() {
    let scratch = Scratch::new();
    let canary = Canary::new("a value");
    scratch.write("env", format!("A={0}\n{0} {0}\n", canary.text()));
    scratch.write(
        "secrets.yaml",
        "version: 1\nsources: { lab: { type: dotenv, path: env } }\n\
         secrets: { a: { path: /etc/a, from: lab:A } }\nhosts: { n1: { ssh: \
         'ssh://nobody@127.0.0.1:9' }, n2: { ssh: 'ssh://nobody@127.0.0.1:9' } }\n",
    );
    let args = ["rotate", "--dry-run", "n1", "n2", "-m", "secrets.yaml", "--json"];
    let done = Deaddrop::new(&scratch).args(args).plant(&canary).run().expect_code(1);
    for host in done.json()["hosts"].as_array().unwrap() {
        assert_eq!(codes(&host["warnings"]), ["DD308 -", "DD305 -"]);
    }
    for code in ["DD305", "DD308"] {
        assert_eq!(done.stderr().matches(&format!("! {code}")).count(), 1, "{}", done.stderr());
    }
}
