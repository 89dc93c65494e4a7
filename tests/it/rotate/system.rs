//! The NixOS of a running node: what `lint`, `plan` and `rotate` take from it, and when.

use serde_json::{Value, json};

use crate::kit::Scratch;
use crate::kit::decrypt::{By, HOST_KEY};
use crate::kit::nixos::{NixosRoot, Overlay, Users};
use crate::kit::nixos_node::{nixos_node, write_manifest};
use crate::kit::node::{Node, deaddrop};
use crate::kit::run::Finished;

/// Code, level, secret and path of each finding of `lint`.
fn findings(lint: &Finished) -> Vec<Value> {
    let of = |warning: &Value| json!([warning["code"], warning["level"], warning["secret"], warning["path"]]);
    lint.json()["warnings"].as_array().unwrap().iter().map(of).collect()
}

fn lint(scratch: &Scratch, code: i32) -> Finished {
    deaddrop(scratch, &["lint", "@node1", "--json"]).run().expect_code(code)
}

/// A node with units that read two files, of which the manifest gives one.
fn case(scratch: &Scratch, change: impl FnOnce(&mut NixosRoot)) -> (NixosRoot, Node) {
    let mut root = NixosRoot::new(scratch);
    root.users(Users::Perl { mutable: false });
    let unit =
        "[Service]\nUser=app\nExecStart=/bin/app --token-file /etc/secrets/app\nEnvironmentFile=/etc/secrets/env\n";
    root.unit("app.service", unit);
    change(&mut root);
    let node = nixos_node("node1", &root).start(scratch);
    (root, node)
}

#[test]
fn lint_reads_the_system_that_runs_and_says_what_it_does_of_an_image() {
    let scratch = Scratch::new();
    let (root, node) = case(&scratch, |_| {});
    write_manifest(&scratch, "  app: { path: /etc/secrets/app, from: env:A }\n");
    let found = findings(&lint(&scratch, 0));
    assert_eq!(
        found,
        [
            json!(["NX106", "warn", "app", "/etc/secrets/app"]),
            json!(["NX111", "warn", null, "/etc/secrets/admin-password"]),
            json!(["NX111", "warn", null, "/etc/secrets/env"]),
        ]
    );
    std::fs::write(node.at("/etc/secrets/env"), "A=b\n").unwrap();
    std::fs::write(node.at("/etc/secrets/admin-password"), "x\n").unwrap();
    assert_eq!(findings(&lint(&scratch, 0)).len(), 1);
    let text = deaddrop(&scratch, &["lint", "@node1"]).run().expect_code(0);
    text.expect_output("node1, a running node (node1); nixos-system-node1-").expect_output("stands there");
    deaddrop(&scratch, &["lint", "@node1", "--system", root.toplevel()]).run().expect_code(2);
    deaddrop(&scratch, &["lint", "@node2"]).run().expect_code(2);
}

#[test]
fn rules_about_mounts_and_first_boots_are_not_asked_of_a_node() {
    let scratch = Scratch::new();
    let (_root, _node) = case(&scratch, |root| {
        root.fstab(
            "/dev/disk/by-label/other / ext4 x-initrd.mount 0 1\n/dev/disk/by-label/data /srv ext4 defaults 0 2\n",
        );
        root.overlay(Overlay::Activation, true);
        root.other_system("25.05", Some(7));
        root.unit("cloud-init.service", "[Service]\nExecStart=/bin/cloud-init\n");
        root.etc_entry("cloud/cloud.cfg", Some("cloud_init_modules:\n - ssh\n"));
        let copy = "cp -a /etc/secrets/initrd \"$tmp/.initrd-secrets//x\"\n";
        root.write(&format!("{}/append-initrd-secrets", root.toplevel()), copy);
    });
    write_manifest(
        &scratch,
        "  late: { path: /srv/late, from: env:A, mode: \"0440\", group: keys }\n\
         \x20 etc: { path: /etc/secrets/app, from: env:A, mode: \"0440\", group: keys }\n\
         \x20 initrd: { path: /etc/secrets/initrd, from: env:A, mode: \"0440\", group: keys }\n\
         \x20 host: { path: /etc/ssh/ssh_host_rsa_key, from: env:A, mode: \"0440\", group: keys }\n",
    );
    let found = findings(&lint(&scratch, 0));
    for code in ["NX006", "NX102", "NX105", "NX114", "NX115", "NX116"] {
        assert!(found.iter().all(|finding| finding[0] != code), "{found:?}");
    }
    let codes: Vec<&str> = found.iter().filter_map(|finding| finding[0].as_str()).collect();
    assert_eq!(codes, ["NX111", "NX111", "NX112"], "{found:?}");
}

#[test]
fn of_a_nodes_system_no_more_than_16_mib_are_read() {
    let scratch = Scratch::new();
    let (_root, node) = case(&scratch, |root| {
        let more = format!("#{}\n", "x".repeat(9 << 20));
        let files = ["a.yaml", "b.yaml"].map(|name| {
            let file = root.sops_file(name, &["age1x"]);
            let text = std::fs::read_to_string(root.host(&file)).unwrap();
            root.write(&file, format!("{text}{more}"));
            file
        });
        let secrets = [("a", "/run/secrets/a", files[0].as_str()), ("b", "/run/secrets/b", files[1].as_str())];
        root.sops_nix(By::Activation, json!({ "ageSshKeyPaths": [HOST_KEY] }), &secrets);
    });
    write_manifest(&scratch, "  env: { path: /etc/secrets/env, from: env:A }\n");
    let lint = deaddrop(&scratch, &["lint", "@node1"]).run().expect_code(0);
    lint.expect_output("NX119").expect_output("over 16 MiB of the system were read").expect_output("NX111");
    // A run whose paths are no keys does not read them at all.
    node.wrap_program("stat", "echo \"$*\" >>/srv/stat.log");
    deaddrop(&scratch, &["rotate", "node1"]).env("A", "B=c").run().expect_code(0);
    let log = std::fs::read_to_string(node.at("/srv/stat.log")).unwrap();
    assert!(log.contains("system-units") && !log.contains("-a.yaml"), "{log}");
}

#[test]
fn with_persist_root_what_a_boot_would_lose_is_written_below_it() {
    let scratch = Scratch::new();
    let mut root = NixosRoot::new(&scratch);
    root.users(Users::Perl { mutable: false });
    root.fstab(
        "none / tmpfs x-initrd.mount,mode=755 0 0\n/dev/disk/by-label/keep /persist ext4 x-initrd.mount 0 1\n\
         /persist/etc/bound /etc/bound none bind 0 0\n",
    );
    let mounts = "mkdir -p \"$root/persist/etc/bound\" \"$root/etc/bound\" \"$root/var/lib/volatile\"\n\
                  mount --bind \"$root/persist\" \"$root/persist\"\n\
                  mount --bind \"$root/persist/etc/bound\" \"$root/etc/bound\"\n\
                  mount -t tmpfs tmpfs \"$root/var/lib/volatile\"\n";
    let node = nixos_node("node1", &root).mounts(mounts).start(&scratch);
    let secrets = "version: 1\nsecrets:\n  root: { path: /etc/secrets/root, from: env:A }\n\
                   \x20 bound: { path: /etc/bound/a, from: env:A }\n\
                   \x20 below: { path: /persist/secrets/a, from: env:A }\n\
                   \x20 volatile: { path: /var/lib/volatile/a, from: env:A }\nhosts:\n";
    let rotate = |host: &str, code: i32| {
        scratch.write("secrets.yaml", format!("{secrets}  node1: {{ ssh: node1{host} }}\n"));
        deaddrop(&scratch, &["rotate", "node1"]).env("A", "a value of no interest").run().expect_code(code)
    };
    // Without it, what is on the root would be gone at the next boot.
    rotate("", 1).expect_error("root: NX007").expect_error("gone at the next boot");
    assert!(!node.at("/etc/secrets/root").exists());
    rotate(", persist_root: /persist", 0).expect_error("4 changed");
    for path in
        ["/persist/etc/secrets/root", "/persist/etc/bound/a", "/persist/secrets/a", "/persist/var/lib/volatile/a"]
    {
        assert!(node.at(path).exists(), "{path}");
    }
    assert!(!node.at("/etc/secrets/root").exists());
    rotate(", persist_root: /persist", 0).expect_error("nothing to do");
    let plan = deaddrop(&scratch, &["plan", "@node1", "--json"]).env("A", "another value").run().expect_code(0).json();
    let written = |at: usize| plan["changes"][at]["written_to"].clone();
    assert_eq!((written(0), written(1)), (json!("/persist/etc/secrets/root"), json!(null)));
    node.assert_clean();
}
