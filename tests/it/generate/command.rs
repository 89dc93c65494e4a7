//! `deaddrop generate`: one key on standard output, its public part beside it.

use std::collections::BTreeSet;
use std::fs;

use super::{age_public, private_file, private_part, ssh_public, wg_public};
use crate::kit::Scratch;
use crate::kit::run::Deaddrop;

#[test]
fn each_kind_is_printed_as_its_own_program_takes_it() {
    let scratch = Scratch::new();
    let run = |args: &[&str]| Deaddrop::new(&scratch).args(args).run().expect_code(0);
    for kind in ["ssh-ed25519", "ssh-host-ed25519"] {
        let printed = run(&["generate", kind, "--comment", "me@here"]);
        let key = private_file(&scratch, "key", printed.stdout().as_bytes());
        let public = ssh_public(&key);
        assert!(public.ends_with(" me@here"));
        assert!(printed.stderr().starts_with(&format!("ssh public key: {public}\n")), "{}", printed.stderr());
        assert_eq!(printed.stderr().contains("age recipient: age1"), kind == "ssh-host-ed25519");
    }
    let printed = run(&["generate", "wireguard"]);
    let public = wg_public(printed.stdout().as_bytes());
    assert_eq!(printed.stderr(), format!("wireguard public key: {public}\n"));
    let printed = run(&["generate", "age"]);
    let public = age_public(printed.stdout().as_bytes());
    assert_eq!(printed.stderr(), format!("age recipient: {public}\n"));
    let printed = run(&["generate", "token"]);
    let token = printed.stdout();
    let is_token =
        token.len() == 41 && token.ends_with('\n') && token.trim_end().bytes().all(|b| b.is_ascii_alphanumeric());
    assert!(is_token && printed.stderr().is_empty());
}

#[test]
fn a_token_has_the_length_and_alphabet_that_are_asked_for() {
    let scratch = Scratch::new();
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        let args = ["generate", "token", "--length", "200", "--alphabet", "ab!"];
        let token = Deaddrop::new(&scratch).args(args).run().expect_code(0).stdout();
        assert_eq!(token.trim_end().chars().count(), 200);
        assert_eq!(token.trim_end().chars().collect::<BTreeSet<char>>(), BTreeSet::from(['a', 'b', '!']));
        assert!(seen.insert(token));
    }
}

#[test]
fn the_public_part_goes_into_a_file_when_asked_and_the_private_one_nowhere_else() {
    let scratch = Scratch::new();
    let printed = Deaddrop::new(&scratch)
        .args(["generate", "age", "--public-out", "public"])
        .traced("%file")
        .run()
        .expect_code(0);
    let (private, stderr) = (printed.stdout(), printed.stderr());
    assert!(stderr.is_empty());
    let text = fs::read_to_string(scratch.join("public")).unwrap();
    assert!(text.contains(&format!("\n# age recipient: {}\n", age_public(private.as_bytes()))), "{text}");
    let canary = private_part("the identity", private.as_bytes()).unwrap();
    assert_eq!(canary.found_in(text.as_bytes()), None);
    let written: Vec<String> = crate::kit::canary::search_files(scratch.path(), &[canary]);
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn what_has_no_meaning_is_wrong_usage_and_prints_no_key() {
    let scratch = Scratch::new();
    for (args, want) in [
        (&["generate", "rsa"][..], "rsa"),
        (&["generate", "token", "--length", "10"], "could be guessed"),
        (&["generate", "token", "--alphabet", "aab"], "holds `a` twice"),
        (&["generate", "token", "--comment", "x"], "--comment: `comment` has no meaning for `token`"),
        (&["generate", "age", "--length", "40"], "--length: `length` has no meaning for `age`"),
        (&["generate", "ssh-ed25519", "--comment", "a\nb"], "--comment"),
        (&["generate", "token", "--json"], "no --json"),
        (&["generate"], "KIND"),
    ] {
        let run = Deaddrop::new(&scratch).args(args).run().expect_code(2);
        assert!(run.stdout().is_empty() && run.stderr().contains(want), "{args:?}: {}", run.stderr());
    }
    Deaddrop::new(&scratch).args(["generate", "age", "--public-out", "missing/file"]).run().expect_refusal(
        "no directory",
        1,
        &["--public-out missing/file"],
    );
}
