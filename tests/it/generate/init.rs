//! `deaddrop init`: a first manifest from flags, and from answers on a terminal.

use std::fs;
use std::process::Command;

use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, tool};

const FLAGS: [&str; 6] = [
    "--host",
    "node1=root@192.168.1.11",
    "--vault",
    "bitwarden:homelab.json",
    "--secrets",
    "login,k3s-token,wifi,deploy-key,host-key",
];

fn init(scratch: &Scratch, args: &[&str]) -> Finished {
    Deaddrop::new(scratch).args(["init"]).args(args).run()
}

#[test]
fn what_the_flags_say_passes_check() {
    let scratch = Scratch::new();
    init(&scratch, &FLAGS).expect_code(0).expect_error("deaddrop plan IMAGE --host node1");
    let said = Deaddrop::new(&scratch).args(["check"]).run().expect_code(0).stdout();
    assert_eq!(said, "secrets.yaml: 5 secrets, 1 host, no errors\n");
    let text = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    for line in [
        "    type: bitwarden",
        "    path: homelab.json",
        "    used_by: users.users.admin.hashedPasswordFile",
        "    generate: ssh-ed25519",
        "  node1: { ssh: root@192.168.1.11 }",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert!(text.lines().filter(|line| line.trim_start().starts_with('#')).count() > 10, "with comments:\n{text}");
}

#[test]
fn every_kind_of_vault_and_every_odd_name_passes_check() {
    let scratch = Scratch::new();
    for vault in [
        "bitwarden:a b.json",
        "onepassword:x.1pux",
        "keepass:x.kdbx",
        "proton-pass:x.zip",
        "lastpass:x.csv",
        "pass",
        "pass:/srv/store",
        "gopass",
        "passage",
        "dotenv:secrets.env",
        "env",
        "bw",
        "rbw",
        "op",
    ] {
        let args = [
            "--vault",
            vault,
            "--host",
            "1",
            "--host",
            "yes=root@fe80::1",
            "--user",
            "o.k",
            "--yes",
            "-o",
            "m.yaml",
            "--force",
        ];
        init(&scratch, &args).expect_code(0);
        let said = Deaddrop::new(&scratch).args(["check", "-m", "m.yaml"]).run().expect_code(0).stdout();
        assert_eq!(said, "m.yaml: 4 secrets, 2 hosts, no errors\n", "{vault}");
    }
}

#[test]
fn the_manifest_works_as_it_stands_once_the_vault_has_its_items() {
    let scratch = Scratch::new();
    let image = super::images::RAW_EFI.committed(&scratch);
    init(&scratch, &["--host", "node1", "--vault", "dotenv:secrets.env", "--user", "alice", "--yes"]).expect_code(0);
    scratch.write("secrets.env", "ALICE_LOGIN='correct horse'\nK3S_TOKEN=abcdefghijklmnop\nWIFI=xyzxyzxyz\n");
    Deaddrop::new(&scratch).args(["inject", "raw-efi.img", "--host", "node1"]).run().expect_code(0);
    crate::kit::mount::assert_fsck_clean(&image);
    Deaddrop::new(&scratch).args(["verify", "raw-efi.img", "--host", "node1"]).run().expect_code(0);
}

#[test]
fn names_are_taken_as_people_write_them() {
    let scratch = Scratch::new();
    for (vault, secrets, want) in [
        ("Bitwarden", "all", 6),
        ("1Password:x.1pux", "ALL", 6),
        ("Proton Pass", "login, wifi", 2),
        ("KeePassXC", "login wifi", 2),
        ("BITWARDEN:x.json", "k3s token,FluxCD", 2),
        ("env", "Login,login", 1),
    ] {
        let args = ["--vault", vault, "--secrets", secrets, "--host", "n", "--yes", "--force"];
        init(&scratch, &args).expect_code(0);
        let said = Deaddrop::new(&scratch).args(["check"]).run().expect_code(0).stdout();
        let plural = if want == 1 { "" } else { "s" };
        assert_eq!(said, format!("secrets.yaml: {want} secret{plural}, 1 host, no errors\n"), "{vault} {secrets}");
    }
    let args = ["--vault", "bitwarden", "--secrets", "all", "--host", "n", "--force"];
    init(&scratch, &args).expect_code(0);
    let text = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    assert!(text.starts_with("# yaml-language-server: $schema=https://"), "{text}");
    for line in [
        "    path: vault.json",
        "    kind: k3s-token",
        "    restart: wpa_supplicant.service",
        "    path: /var/lib/rancher/k3s/server/manifests/flux-git.yaml",
        "        identity: {{ secret('vault:Flux deploy key#notes') | b64encode }}",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert!(!scratch.join(".gitignore").exists(), "nobody said yes");
}

#[test]
fn what_must_not_be_committed_is_ignored_by_git_if_a_person_says_so() {
    let scratch = Scratch::new();
    let args = [&FLAGS[..], &["--gitignore"]].concat();
    init(&scratch, &args).expect_refusal("no repository", 2, &["--gitignore: secrets.yaml is in no git repository"]);
    assert!(!scratch.join("secrets.yaml").exists());
    tool(Command::new("git").args(["init", "-q"]).current_dir(scratch.path()));
    init(&scratch, &[&FLAGS[..], &["--yes", "--force"]].concat()).expect_code(0);
    assert!(!scratch.join(".gitignore").exists(), "--yes is no yes to this question");
    scratch.write(".gitignore", "result\n*.img");
    init(&scratch, &[&args[..], &["--force"]].concat()).expect_code(0).expect_error(".gitignore: ");
    let once = fs::read_to_string(scratch.join(".gitignore")).unwrap();
    assert!(once.starts_with("result\n*.img\n# ") && once.matches("*.img\n").count() == 1, "{once}");
    init(&scratch, &[&args[..], &["--force"]].concat()).expect_code(0);
    assert_eq!(fs::read_to_string(scratch.join(".gitignore")).unwrap(), once);
    let ignored = |path: &str| {
        scratch.write(path, "x");
        let check = Command::new("git").args(["check-ignore", "-q", path]).current_dir(scratch.path()).status();
        check.expect("running git").success()
    };
    for path in ["homelab.json", "node1.img", "node1.img.zst", "vault.kdbx"] {
        assert!(ignored(path), "{path}");
    }
    assert!(!ignored("secrets.yaml") && !ignored("other.json"));
}

#[test]
fn a_file_that_stands_is_left_alone_without_force() {
    let scratch = Scratch::new();
    scratch.write("secrets.yaml", "mine\n");
    init(&scratch, &FLAGS).expect_refusal("stands", 1, &["secrets.yaml: there is such a file already", "--force"]);
    assert_eq!(fs::read_to_string(scratch.join("secrets.yaml")).unwrap(), "mine\n");
    init(&scratch, &[&FLAGS[..], &["--force"]].concat()).expect_code(0);
    Deaddrop::new(&scratch).args(["check"]).run().expect_code(0);
}

#[test]
fn without_a_terminal_a_missing_flag_is_named() {
    let scratch = Scratch::new();
    for missing in ["--host", "--vault", "--secrets"] {
        let args: Vec<&str> = FLAGS.chunks(2).filter(|pair| pair[0] != missing).flatten().copied().collect();
        init(&scratch, &args).expect_refusal(missing, 2, &[&format!("{missing} is missing"), "--yes"]);
        assert!(!scratch.join("secrets.yaml").exists());
    }
    let object = init(&scratch, &["--yes", "--json"]).expect_code(0).json();
    assert_eq!((&object["command"], &object["summary"]["secrets"]), (&"init".into(), &4.into()));
}

#[test]
fn what_is_wrong_with_a_flag_is_told_and_nothing_is_written() {
    let scratch = Scratch::new();
    for (flag, value, want) in [
        ("--host", "a:b", "`:` cannot be in the name of a host"),
        ("--host", "", "a host needs a name"),
        ("--host", "node1=-x", "is not an address for SSH"),
        ("--vault", "bitwadren", "did you mean `bitwarden`?"),
        ("--vault", "env:x", "env has no file"),
        ("--vault", "nothing:x", "there is no such type of vault"),
        (
            "--secrets",
            "login,wfi",
            "there is no `wfi` among login, k3s-token, wifi, deploy-key, host-key, flux: did you mean `wifi`?",
        ),
        ("--user", "a b", "cannot be the name of a user"),
    ] {
        init(&scratch, &[flag, value, "--yes"]).expect_refusal(value, 2, &[&format!("{flag}: "), want]);
        assert!(!scratch.join("secrets.yaml").exists(), "{value}");
    }
    let twice = ["--host", "node1", "--host", "node1", "--yes"];
    init(&scratch, &twice).expect_refusal("twice", 2, &["duplicate key"]);
    init(&scratch, &["--yes", "-o", "missing/m.yaml"]).expect_refusal(
        "no directory",
        1,
        &["missing/m.yaml", "No such file"],
    );
}

#[test]
fn answers_on_a_terminal_make_the_same() {
    let scratch = Scratch::new();
    // A person on a terminal: each answer is typed once its question stands there.
    const PERSON: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
def until(text):
    global seen
    while text not in seen:
        seen += os.read(terminal, 4096)
    seen = seen[seen.index(text) + len(text):]
for question, answer in [
    (b"Hosts", b"a:b, node2"), (b"cannot be in the name of a host", b"node1=root@192.168.1.11  node2"),
    (b"Vault", b"Bitwarden"), (b"Secrets", b"login deploy-key,FluxCD"), (b"User", b"alice"),
    (b".gitignore", b"perhaps"), (b"say yes or no", b"Y"),
]:
    until(question)
    until(b": ") if question not in (b"cannot be in the name of a host", b"say yes or no") else until(b"]: ")
    os.write(terminal, answer + b"\n")
until(b"deaddrop plan IMAGE")
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    tool(Command::new("git").args(["init", "-q"]).current_dir(scratch.path()));
    let mut person = Command::new("timeout");
    person.args(["--signal=KILL", "60", "python3", "-c", PERSON, env!("CARGO_BIN_EXE_deaddrop"), "init"]);
    tool(person.current_dir(scratch.path()));
    let said = Deaddrop::new(&scratch).args(["check"]).run().expect_code(0).stdout();
    assert_eq!(said, "secrets.yaml: 3 secrets, 2 hosts, no errors\n");
    assert!(fs::read_to_string(scratch.join(".gitignore")).unwrap().contains("\n/vault.json\n"));
    let text = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
    for line in [
        "    path: vault.json",
        "  alice-password:",
        "    generate: ssh-ed25519",
        "  node1: { ssh: root@192.168.1.11 }",
        "  node2: {}",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}
