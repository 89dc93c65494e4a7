//! docs/deploy-key.md, run: its manifest, its configuration of ssh and its commands, with a real sshd as the forge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::sshd::{self, Sshd};
use super::{Setup, images, private_file, ssh_public};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, block_below, is_root, new_ssh_key, tool};

const PAGE: &str = include_str!("../../../docs/deploy-key.md");

/// The code block of the page below this mark.
fn block(mark: &str) -> String {
    block_below(PAGE, mark)
}

/// The lines of ssh's configuration in the page's Nix, with `/etc` in a root that is somewhere else.
fn ssh_config(root: &Path) -> String {
    let nix = block("nix");
    let (_, rest) = nix.split_once("programs.ssh.extraConfig = ''\n").unwrap();
    let (lines, _) = rest.split_once("'';").unwrap();
    lines.replace("/etc/", &format!("{}/etc/", root.display()))
}

/// The page's flake as git clones it; the user's name is left to the configuration.
fn flake() -> String {
    let nix = block("nix");
    let (_, rest) = nix.split_once("flake = \"git+ssh://git@").unwrap();
    let (url, _) = rest.split_once('"').unwrap();
    format!("ssh://{url}")
}

/// The forge: a repository, a host key, and an sshd that serves the repository to whoever has the deploy key.
struct Forge {
    sshd: Sshd,
    _scratch: Scratch,
}

/// Programs of git that do not look at this machine's configuration.
fn git(at: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(at).env("HOME", at).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    git.args(["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]);
    git
}

/// A repository with one flake in it, and the host key of the forge that has it.
fn repository(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let (work, bare) = (scratch.join("work"), scratch.join("nixos.git"));
    fs::create_dir(&work).unwrap();
    fs::write(work.join("flake.nix"), "{ outputs = _: { }; }\n").unwrap();
    tool(git(&work).args(["init", "-q"]));
    tool(git(&work).args(["add", "flake.nix"]));
    tool(git(&work).args(["commit", "-q", "-m", "first"]));
    tool(git(scratch.path()).args(["clone", "-q", "--bare", "work", "nixos.git"]));
    let host_key = scratch.join("forge_key");
    new_ssh_key(&host_key);
    (bare, host_key)
}

impl Forge {
    fn start(scratch: Scratch, repository: &Path, host_key: &Path, deploy_key: &str) -> Self {
        // As a forge does it: whoever has the key can read this repository, and nothing else.
        let git = tool(Command::new("sh").args(["-c", "command -v git"]));
        let git = String::from_utf8(git.stdout).unwrap();
        let command = format!("{} upload-pack '{}'", git.trim_end(), repository.display());
        let line = format!("command=\"{command}\",restrict {deploy_key}\n");
        Self { sshd: Sshd::start(&scratch, host_key, &line), _scratch: scratch }
    }

    /// Clones with the page's configuration of ssh, and only what the root has.
    fn clone(&self, config: &str, to: &Path) -> Output {
        fs::create_dir_all(to).unwrap();
        // The page's forge is somewhere else, and its user is called git.
        let here = format!(
            "Host git.example.org\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  HostKeyAlias git.example.org\n  \
             BatchMode yes\n",
            self.sshd.port,
            sshd::user()
        );
        let file = to.join("ssh_config");
        fs::write(&file, format!("{here}\n{config}")).unwrap();
        git(to)
            .env("GIT_SSH_COMMAND", format!("ssh -F {} -o GlobalKnownHostsFile=none", file.display()))
            .env_remove("SSH_AUTH_SOCK")
            .args(["clone", "-q", &flake(), "clone"])
            .output()
            .expect("running git")
    }
}

#[test]
fn the_example_of_the_manual_clones_from_the_injected_root_and_only_with_its_files() {
    let scratch = Scratch::new();
    scratch.write("secrets.yaml", block("manifest"));
    let image = images::RAW_EFI.committed(&scratch);
    let setup = Setup { scratch, image };
    fs::rename(&setup.image.path, setup.scratch.join("node1.img")).unwrap();
    let setup = Setup { image: images::Image::new(setup.scratch.join("node1.img"), setup.image.root_offset), ..setup };
    let elsewhere = Scratch::new();
    let (repository, forge_key) = repository(&elsewhere);
    let public = fs::read_to_string(elsewhere.join("forge_key.pub")).unwrap();
    let words: Vec<&str> = public.split(' ').take(2).collect();
    setup.scratch.write("forge.known_hosts", format!("git.example.org {}\n", words.join(" ")));

    // The page's commands, as they stand.
    for line in block("commands").lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "deaddrop");
        Deaddrop::new(&setup.scratch).args(&words[1..]).run().expect_code(0);
    }
    let sed = "sed -n 's/^# ssh public key: //p' node1.keys | grep deploy-key";
    assert!(PAGE.contains(sed), "the page says how to find the key");
    let deploy_key = tool(Command::new("sh").args(["-c", sed]).current_dir(setup.scratch.path()));
    let deploy_key = String::from_utf8(deploy_key.stdout).unwrap();

    // The root, read back from the image.
    let root = setup.scratch.join("root");
    fs::create_dir_all(root.join("etc/secrets")).unwrap();
    for name in ["etc/secrets/deploy-key", "etc/secrets/forge-known-hosts"] {
        let content = setup.content(&format!("/{name}")).unwrap();
        private_file(&setup.scratch, &format!("root/{name}"), &content);
    }
    assert_eq!(deploy_key.trim_end(), ssh_public(&root.join("etc/secrets/deploy-key")));

    let forge = Forge::start(elsewhere, &repository, &forge_key, deploy_key.trim_end());
    let config = ssh_config(&root);
    assert!(config.contains("IdentityFile") && config.contains("UserKnownHostsFile"), "{config}");
    let cloned = forge.clone(&config, &setup.scratch.join("with"));
    assert!(cloned.status.success(), "{}\n{}", String::from_utf8_lossy(&cloned.stderr), forge.sshd.log());
    let flake = fs::read_to_string(setup.scratch.join("with/clone/flake.nix")).unwrap();
    assert_eq!(flake, "{ outputs = _: { }; }\n");

    // Without the key, and without the forge's host key, it does not work: it is these files that do it.
    let key = root.join("etc/secrets/deploy-key");
    let kept = fs::read(&key).unwrap();
    tool(Command::new("rm").arg(&key));
    let refused = forge.clone(&config, &setup.scratch.join("without-key"));
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    private_file(&setup.scratch, "root/etc/secrets/deploy-key", &kept);
    fs::write(root.join("etc/secrets/forge-known-hosts"), "").unwrap();
    let refused = forge.clone(&config, &setup.scratch.join("without-known-hosts"));
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Host key verification failed"), "{refused:?}");
}

#[test]
fn sshd_shows_the_injected_host_key_and_the_public_file_is_known_hosts_for_it() {
    let setup = Setup::new(
        "version: 1\nsecrets:\n  host-key: { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519 }\n  \
         deploy-key: { path: /etc/secrets/key, generate: ssh-ed25519 }\nhosts: { node1: { ssh: root@127.0.0.1 } }\n",
    );
    setup.run("inject", &["--public-out", "keys"]).expect_code(0);
    let files = Scratch::new();
    let host_key = private_file(&files, "host_key", &setup.content("/etc/ssh/ssh_host_ed25519_key").unwrap());
    let key = private_file(&files, "key", &setup.content("/etc/secrets/key").unwrap());
    let sshd = Sshd::start(&files, &host_key, &format!("{}\n", ssh_public(&key)));
    let login = |alias: &str, known_hosts: &Path| {
        Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "GlobalKnownHostsFile=none",
            ])
            .args([
                "-o",
                &format!("HostKeyAlias={alias}"),
                "-o",
                &format!("UserKnownHostsFile={}", known_hosts.display()),
            ])
            .args(["-o", "IdentitiesOnly=yes", "-i"])
            .arg(&key)
            .args(["-p", &sshd.port.to_string(), &format!("{}@127.0.0.1", sshd::user()), "echo", "in"])
            .env_remove("SSH_AUTH_SOCK")
            .output()
            .expect("running ssh")
    };
    let keys = setup.scratch.join("keys");
    for name in ["node1", "127.0.0.1"] {
        let output = login(name, &keys);
        assert!(output.status.success(), "{name}: {}\n{}", String::from_utf8_lossy(&output.stderr), sshd.log());
        assert_eq!(output.stdout, b"in\n", "{name}");
    }
    let output = login("node2", &keys);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("node2"), "{output:?}");
    // Another host key than the injected one is not taken.
    let other = files.join("other");
    new_ssh_key(&other);
    let public = fs::read_to_string(files.join("other.pub")).unwrap();
    let known = files.write("known_hosts", format!("node1 {public}"));
    assert!(!login("node1", &known).status.success());
    assert!(is_root() || !sshd::user().is_empty());
}
