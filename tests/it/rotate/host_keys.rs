//! Host keys of a running node: tested, told to sshd, seen to be served, and taken back if not. A key that the node's
//! sops-nix or agenix needs is refused if it would lock the node out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use deaddrop::run::decrypt;
use nix::sys::signal::Signal;
use serde_json::json;

use super::job::each_shell;
use crate::kit::decrypt::{By, HOST_KEY};
use crate::kit::nixos::{NixosRoot, Users};
use crate::kit::nixos_node::nixos_node;
use crate::kit::node::{Node, NodeBuilder, deaddrop};
use crate::kit::run::Finished;
use crate::kit::{Scratch, new_ssh_key, tool, wait_until};

/// What reloads the sshd of a node: it is its first process.
const RELOAD: &str = "kill -HUP 1";

fn declare(scratch: &Scratch, keys: &str) {
    scratch.write(
        "secrets.yaml",
        format!(
            "version: 1\nsecrets:\n  host: {{ path: {HOST_KEY}, {keys}, mode: \"0600\" }}\nhosts:\n  node1: {{ ssh: node1 }}\n"
        ),
    );
}

/// A node whose sshd is a unit that reloads, a new key, and a manifest that gives it.
fn case(scratch: &Scratch, builder: NodeBuilder) -> Node {
    let node = builder.start(scratch);
    node.add_unit("sshd.service");
    node.on_restart("sshd.service", RELOAD);
    new_ssh_key(&scratch.join("new"));
    declare(scratch, "from: file:new");
    node
}

/// A node whose sshd was started with a copy of the key, and has the key itself since: it serves the copy until it is
/// told. (Newer ones read the file at each connection.)
fn keeps_its_key(builder: NodeBuilder) -> NodeBuilder {
    builder.mounts(
        "cp -a \"$root/etc/ssh/ssh_host_ed25519_key\" \"$root/etc/ssh/running\"\n\
         sed -i 's,^HostKey .*,HostKey /etc/ssh/running,' \"$root/etc/ssh/sshd_config\"\n",
    )
}

fn configure(node: &Node) {
    let config = fs::read_to_string(node.at("/etc/ssh/sshd_config")).unwrap();
    fs::write(node.at("/etc/ssh/sshd_config"), config.replace("/etc/ssh/running", HOST_KEY)).unwrap();
}

fn rotate(scratch: &Scratch, args: &[&str]) -> Finished {
    deaddrop(scratch, &[&["rotate", "node1"], args].concat()).run()
}

/// `TYPE BASE64` of the key beside a private one.
fn public(scratch: &Scratch, name: &str) -> String {
    let text = fs::read_to_string(scratch.join(format!("{name}.pub"))).unwrap();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The ed25519 key that the node's sshd shows.
fn served(node: &Node) -> String {
    let mut scan = Command::new("ssh-keyscan");
    let text = tool(scan.args(["-t", "ed25519", "-p", &node.port.to_string(), "127.0.0.1"])).stdout;
    let text = String::from_utf8(text).unwrap();
    text.trim().split_once(' ').expect("a line of known_hosts").1.to_owned()
}

/// The file is the old one, and so is the key that is served.
#[track_caller]
fn assert_old(node: &Node, old: &[u8], key: &str) {
    assert!(fs::read(node.at(HOST_KEY)).unwrap() == old, "the file is not the old one");
    assert_eq!(served(node), key);
    node.assert_clean();
}

#[test]
fn a_new_host_key_is_tested_told_to_sshd_and_seen_to_be_served() {
    let scratch = Scratch::new();
    let node = case(&scratch, NodeBuilder::new("node1"));
    let dry = rotate(&scratch, &["--dry-run"]).expect_code(0);
    dry.expect_error("would reload sshd.service, and check that it serves the new host key");
    deaddrop(&scratch, &["plan", "@node1"]).run().expect_code(0).expect_output("would reload sshd.service");
    node.forget_acts();
    let run = rotate(&scratch, &["--public-out", "keys"]).expect_code(0);
    assert_eq!(node.acts(), ["reload-or-restart sshd"]);
    let new = public(&scratch, "new");
    assert_eq!(served(&node), new);
    let line = format!("node1 {new}");
    assert!(run.stderr().lines().any(|printed| printed == line), "{}", run.stderr());
    let keys = fs::read_to_string(scratch.join("keys")).unwrap();
    assert!(keys.lines().any(|printed| printed == line), "{keys}");
    assert!(keys.contains("\n# host: ssh-host-ed25519, /etc/ssh/ssh_host_ed25519_key\n"), "{keys}");
    node.assert_clean();
    // From here on the person's own known_hosts decides.
    rotate(&scratch, &[]).expect_code(1);
    let known = scratch.join("ssh/known_hosts");
    fs::write(&known, format!("[127.0.0.1]:{} {new}\n", node.port)).unwrap();
    rotate(&scratch, &[]).expect_code(0).expect_error("nothing to do");
}

#[test]
fn each_shell_waits_until_the_key_is_seen() {
    each_shell(|scratch, builder| {
        let node = case(scratch, keeps_its_key(builder));
        configure(&node);
        rotate(scratch, &[]).expect_code(0);
        assert_eq!(served(&node), public(scratch, "new"));
        node.assert_clean();
    });
}

#[test]
fn a_key_that_is_not_served_is_taken_back() {
    let scratch = Scratch::new();
    let node = case(&scratch, keeps_its_key(NodeBuilder::new("node1")));
    configure(&node);
    let (old, key) = (fs::read(node.at(HOST_KEY)).unwrap(), served(&node));
    node.on_restart("sshd.service", "true");
    rotate(&scratch, &[]).expect_code(1).expect_error("sshd does not serve the new host key: the old files are back");
    assert_old(&node, &old, &key);
    assert_eq!(node.acts(), ["reload-or-restart sshd", "reload-or-restart sshd"]);
    node.on_restart("sshd.service", "exit 1");
    rotate(&scratch, &[]).expect_code(1).expect_error("sshd.service could not be reloaded");
    assert_old(&node, &old, &key);
}

#[test]
fn sshd_says_first_whether_it_takes_the_key() {
    let scratch = Scratch::new();
    let node = case(&scratch, NodeBuilder::new("node1"));
    let (old, key) = (fs::read(node.at(HOST_KEY)).unwrap(), served(&node));
    let refuses =
        "#!/bin/sh\n[ \"$1\" != -t ] || { echo 'no hostkeys available' >&2; exit 1; }\nexec /usr/sbin/sshd \"$@\"\n";
    node.add_program("sshd", refuses);
    rotate(&scratch, &[])
        .expect_code(1)
        .expect_error("`sshd -t` does not accept")
        .expect_error("no hostkeys available");
    assert_old(&node, &old, &key);
    assert_eq!(node.acts(), Vec::<String>::new());
}

#[test]
fn a_run_that_is_cut_off_before_it_has_seen_the_key_takes_it_back() {
    let scratch = Scratch::new();
    let node = case(&scratch, keeps_its_key(NodeBuilder::new("node1")));
    configure(&node);
    let (old, key) = (fs::read(node.at(HOST_KEY)).unwrap(), served(&node));
    node.on_restart("sshd.service", "true");
    let run = deaddrop(&scratch, &["rotate", "node1"]).signal_after(Duration::from_secs(3), Signal::SIGKILL).run();
    assert!(run.code().is_none());
    wait_until("the old key is back", || fs::read(node.at(HOST_KEY)).is_ok_and(|now| now == old));
    wait_until("it has cleared up", || !node.at("/var/lib/deaddrop").exists());
    assert_old(&node, &old, &key);
}

#[test]
fn an_sshd_that_a_socket_starts_is_told_nothing() {
    let scratch = Scratch::new();
    let node = case(&scratch, NodeBuilder::new("node1"));
    node.add_unit_in_state("sshd.service", "inactive");
    node.add_unit("sshd.socket");
    // Each connection has an sshd of its own there: here one that has read its keys again.
    let again = "#!/bin/sh\n[ \"$1\" != -t ] || kill -HUP 1\nexec /usr/sbin/sshd \"$@\"\n";
    node.add_program("sshd", again);
    rotate(&scratch, &[]).expect_code(0);
    assert_eq!(node.acts(), Vec::<String>::new());
    assert_eq!(served(&node), public(&scratch, "new"));
}

#[test]
fn without_systemd_the_person_is_told_to_restart_sshd() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").without_systemd().start(&scratch);
    new_ssh_key(&scratch.join("new"));
    declare(&scratch, "from: file:new");
    rotate(&scratch, &[]).expect_code(0).expect_error("DD505");
    assert_eq!(fs::read(node.at(HOST_KEY)).unwrap(), fs::read(scratch.join("new")).unwrap());
}

#[test]
fn a_key_that_sshd_does_not_have_tells_it_nothing() {
    let scratch = Scratch::new();
    let node = case(&scratch, NodeBuilder::new("node1"));
    scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets:\n  deploy: { path: /etc/secrets/deploy, from: file:new }\nhosts:\n  node1: { ssh: node1 }\n",
    );
    rotate(&scratch, &[]).expect_code(0);
    assert_eq!(node.acts(), Vec::<String>::new());
}

/// The recipient of a private key.
fn recipient(file: &[u8]) -> String {
    decrypt::known(file).expect("a key").recipients[0].clone()
}

fn recipient_of(scratch: &Scratch, name: &str) -> String {
    recipient(&fs::read(scratch.join(name)).unwrap())
}

/// A node of NixOS with sops-nix, whose one file is encrypted for these recipients.
fn sops_node(scratch: &Scratch, recipients: &[&str], keys: serde_json::Value) -> NodeBuilder {
    let mut root = NixosRoot::new(scratch);
    root.users(Users::Perl { mutable: false });
    let file = root.sops_file("node1.yaml", recipients);
    root.sops_nix(By::Activation, keys, &[("wifi", "/run/secrets/wifi", file.as_str())]);
    nixos_node("node1", &root)
}

#[test]
fn a_key_that_opens_nothing_of_the_nodes_own_secrets_is_refused() {
    let scratch = Scratch::new();
    let keys = json!({ "ageSshKeyPaths": [HOST_KEY] });
    let node = case(&scratch, sops_node(&scratch, &["age1of-the-old-key"], keys));
    let (old, key) = (fs::read(node.at(HOST_KEY)).unwrap(), served(&node));
    let (recipient, command) = (recipient_of(&scratch, "new"), "`sops updatekeys node1.yaml`");
    let run = rotate(&scratch, &[]).expect_code(1).expect_error("host: NX120").expect_error(command);
    assert!(run.stderr().contains(&format!("add {recipient} to .sops.yaml")), "{}", run.stderr());
    deaddrop(&scratch, &["plan", "@node1"]).run().expect_code(1).expect_error("NX120");
    deaddrop(&scratch, &["lint", "@node1", "--values"]).run().expect_code(3).expect_output("NX120");
    assert_old(&node, &old, &key);
    assert_eq!(node.acts(), Vec::<String>::new());
    declare(&scratch, "from: file:new, allow: { NX120: 'the next system has it' }");
    rotate(&scratch, &[]).expect_code(0).expect_error("NX120");
    assert_eq!(served(&node), public(&scratch, "new"));
}

#[test]
fn agenix_needs_a_key_that_its_files_are_encrypted_for() {
    let scratch = Scratch::new();
    new_ssh_key(&scratch.join("new"));
    new_ssh_key(&scratch.join("other"));
    for (key, code) in [("other", 1), ("new", 0)] {
        let mut age = Command::new("age");
        let file = scratch.join("wifi.age");
        tool(age.args(["-e", "-o"]).arg(&file).arg("-R").arg(scratch.join(format!("{key}.pub"))).arg("/dev/null"));
        let mut root = NixosRoot::at(&scratch.join(format!("{key}.nixos")));
        root.users(Users::Perl { mutable: false });
        let file = root.store("wifi.age", fs::read(&file).unwrap());
        root.agenix(By::Activation, &[HOST_KEY], &[("wifi", "/run/agenix/wifi", &file)]);
        let name = format!("{key}1");
        let node = nixos_node(&name, &root).start(&scratch);
        node.add_unit("sshd.service");
        node.on_restart("sshd.service", RELOAD);
        declare(&scratch, "from: file:new");
        let manifest = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
        scratch.write("secrets.yaml", manifest.replace("node1", &name));
        let run = deaddrop(&scratch, &["rotate", &name]).run().expect_code(code);
        assert_eq!(
            run.stderr().contains("NX120") && run.stderr().contains("`agenix -r`"),
            code == 1,
            "{}",
            run.stderr()
        );
    }
}

#[test]
fn a_key_that_opens_them_or_beside_one_that_does_is_put_there() {
    // Its own recipient is added already.
    let scratch = Scratch::new();
    new_ssh_key(&scratch.join("new"));
    let own = recipient_of(&scratch, "new");
    let keys = json!({ "ageSshKeyPaths": [HOST_KEY] });
    let node = sops_node(&scratch, &["age1of-the-old-key", &own], keys).start(&scratch);
    node.add_unit("sshd.service");
    node.on_restart("sshd.service", RELOAD);
    declare(&scratch, "from: file:new");
    rotate(&scratch, &[]).expect_code(0);
    assert_eq!(served(&node), public(&scratch, "new"));
    // The node has a key of age besides.
    let scratch = Scratch::new();
    tool(Command::new("age-keygen").arg("-o").arg(scratch.join("age")));
    let keys = json!({ "ageSshKeyPaths": [HOST_KEY], "ageKeyFile": "/var/lib/age" });
    let node = case(&scratch, sops_node(&scratch, &[&recipient_of(&scratch, "age")], keys));
    rotate(&scratch, &[]).expect_code(1).expect_error("NX120");
    fs::copy(scratch.join("age"), node.at("/var/lib/age")).unwrap();
    rotate(&scratch, &[]).expect_code(0);
}

#[test]
fn a_key_that_the_run_makes_is_kept_and_its_recipient_is_told() {
    let scratch = Scratch::new();
    let keys = json!({ "ageSshKeyPaths": [HOST_KEY] });
    let node = case(&scratch, keeps_its_key(sops_node(&scratch, &["age1of-the-old-key"], keys)));
    configure(&node);
    for name in [HOST_KEY, "/etc/ssh/ssh_host_ed25519_key.pub"] {
        fs::remove_file(node.at(name)).unwrap();
    }
    declare(&scratch, "generate: ssh-host-ed25519");
    let run = rotate(&scratch, &["--public-out", "keys.json"]).expect_code(0);
    let made = fs::read_to_string(node.at("/etc/ssh/ssh_host_ed25519_key.pub")).unwrap();
    let key: String = made.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(served(&node), key);
    let recipient = recipient(&fs::read(node.at(HOST_KEY)).unwrap());
    run.expect_error(&format!("add {recipient} to .sops.yaml, then `sops updatekeys node1.yaml`"))
        .expect_error(&format!("node1 {key}"));
    let object: serde_json::Value = serde_json::from_slice(&fs::read(scratch.join("keys.json")).unwrap()).unwrap();
    assert_eq!((&object["version"], &object["host"]), (&json!(1), &json!("node1")));
    let keys = object["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["known_hosts"], json!(format!("node1 {key}")));
    assert_eq!(keys[0]["age_recipient"], json!(recipient));
    assert_eq!(keys[0]["host"], json!(null));
    assert_eq!(fs::metadata(node.at(HOST_KEY)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn of_several_hosts_each_key_has_its_host() {
    let scratch = Scratch::new();
    let nodes = ["node1", "node2"].map(|name| NodeBuilder::new(name).start(&scratch));
    scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets:\n  deploy: { path: /etc/secrets/deploy, generate: ssh-ed25519 }\n\
         \x20 host: { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519, mode: \"0600\" }\n\
         hosts:\n  node1: { ssh: node1 }\n  node2: { ssh: root@node2 }\n",
    );
    deaddrop(&scratch, &["rotate", "--all", "--public-out", "none/keys.json"]).run().expect_code(1);
    assert!(!nodes[0].at("/etc/secrets/deploy").exists(), "it is said before any host is contacted");
    deaddrop(&scratch, &["rotate", "--all", "--public-out", "keys.json"]).run().expect_code(0);
    let object: serde_json::Value = serde_json::from_slice(&fs::read(scratch.join("keys.json")).unwrap()).unwrap();
    assert_eq!(object["host"], json!(null));
    let of = |key: &serde_json::Value| (key["host"].clone(), key["secret"].clone(), key["kind"].clone());
    let keys: Vec<_> = object["keys"].as_array().unwrap().iter().map(of).collect();
    let want = |host: &str| {
        [(json!(host), json!("deploy"), json!("ssh-ed25519")), (json!(host), json!("host"), json!("ssh-host-ed25519"))]
    };
    let mut keys = keys;
    keys.sort_by_key(|key| format!("{key:?}"));
    assert_eq!(keys, [want("node1"), want("node2")].concat());
}
