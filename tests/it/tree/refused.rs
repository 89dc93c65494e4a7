//! Every refusal of `tree`, whole: what is said is compared with tests/it/tree/refusals.txt, which was reviewed.

use std::fmt::Write;
use std::fs;

use super::Case;
use crate::kit::nixos::NixosRoot;
use crate::kit::run::NOBODY;

const REVIEWED: &str = include_str!("refusals.txt");

/// Keys of the one secret, further words, the exit code.
type Refusal = (&'static str, &'static str, &'static [&'static str], i32);

const REFUSALS: &[Refusal] = &[
    ("what stands", "path: /etc/a", &["stands"], 1),
    ("no directory above", "path: /etc/a", &["missing/out"], 1),
    ("an owner without a number", "path: /etc/a, owner: app", &["out"], 1),
    ("a number that is not fixed", "path: /etc/a, group: wpa_supplicant", &["out", "--closure", "root"], 1),
    ("no system at all", "path: /etc/a", &["out", "--closure", "missing"], 1),
    ("a root without NixOS", "path: /etc/a", &["out", "--closure", "plain"], 1),
    ("a managed name", "path: /etc/hosts", &["out", "--closure", "root"], 1),
    ("a tmpfs", "path: /scratch/a", &["out", "--closure", "root"], 1),
    (
        "a path that pr cuts",
        "path: /var/lib/app/a-name-that-is-too-long, owner: 1000",
        &["out", "--for", "nixos-anywhere"],
        1,
    ),
    ("a path that read splits", "path: /etc/a b, owner: 1000", &["out", "--for", "nixos-anywhere"], 1),
    ("a path that read changes", "path: '/etc/a\\b', owner: 1000", &["out", "--for", "nixos-anywhere"], 1),
    (
        "a directory with a file of another owner",
        "path: /var/lib/app/a, directory_owner: '1000:100'",
        &["out", "--for", "nixos-anywhere"],
        1,
    ),
    ("a path that base64 makes no name of", "path: '/etc/????'", &["out", "--for", "disko-image"], 1),
    ("disko-install for nobody", "path: /etc/a", &["out", "--for", "disko-install"], 1),
    ("a program that is not there", "path: /etc/a", &["--for", "nixos-anywhere", "--", "no-such-program"], 1),
    ("a directory and a program", "path: /etc/a", &["out", "--for", "nixos-anywhere", "--", "true"], 2),
    ("a program without a tool", "path: /etc/a", &["--", "true"], 2),
    ("neither", "path: /etc/a", &[], 2),
    ("an option of a closure", "path: /etc/a", &["out", "--system", "/nix/store/x"], 2),
];

#[test]
fn each_refusal_says_what_was_reviewed_and_makes_nothing() {
    let mut said = String::new();
    for (name, keys, words, code) in REFUSALS {
        let case = Case::one(keys);
        fs::create_dir_all(case.scratch.join("plain/etc")).unwrap();
        fs::create_dir(case.scratch.join("stands")).unwrap();
        let fstab = "/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\ntmpfs /scratch tmpfs defaults 0 0\n";
        NixosRoot::new(&case.scratch).fstab(fstab);
        let run = case.tree_of_nobody(words).run().expect_code(*code);
        assert_eq!(run.stdout(), "", "{name}");
        assert!(!case.scratch.join("out").exists() && case.trees().is_empty(), "{name}");
        let mut stderr = run.stderr().replace(case.scratch.path().to_str().unwrap(), "HERE");
        stderr = stderr.replace(case.memory.path().to_str().unwrap(), "MEMORY");
        // What was made before the program could not be run.
        let lines = stderr.lines().filter(|line| !line.starts_with("  + ") && !line.starts_with("MEMORY/"));
        writeln!(said, "## {name}\n{}\n", lines.collect::<Vec<_>>().join("\n")).unwrap();
    }
    let said = said.replace(&format!("-{NOBODY}-"), "-UID-");
    if std::env::var_os("DEADDROP_BLESS").is_some() {
        fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tree/refusals.txt"), &said).unwrap();
        return;
    }
    assert_eq!(said, REVIEWED, "review what is new, and write it: DEADDROP_BLESS=1");
}
