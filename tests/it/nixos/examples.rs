//! The manifests of docs/nixos.md, each on a system of its kind: what they give takes effect, and nothing is missing.

use std::fs;

use crate::kit::canary::Canary;
use crate::kit::nixos::{NixosRoot, Overlay, Users};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, block_below, new_ssh_key};

/// The example of this name on a system that is changed so.
struct Example {
    scratch: Scratch,
    root: NixosRoot,
    value: Canary,
}

impl Example {
    fn new(name: &str, change: impl FnOnce(&mut NixosRoot)) -> Self {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/nixos.md")).unwrap();
        let scratch = Scratch::new();
        scratch.write("secrets.yaml", block_below(&page, name));
        let mut root = NixosRoot::new(&scratch);
        change(&mut root);
        Self { scratch, root, value: Canary::new("the value of all") }
    }

    fn run(&self, args: &[&str]) -> Finished {
        let run = Deaddrop::new(&self.scratch).args(args).plant(&self.value);
        let names = ["ADMIN_PASSWORD", "APP_TOKEN", "WIFI", "K3S_TOKEN"];
        names.iter().fold(run, |run, name| run.env(name, self.value.text())).run()
    }

    /// Neither `lint` nor `inject` has a warning, and the files are there.
    fn is_silent(&self, host: &[&str], written: &[&str]) {
        self.run(&[&["lint", "root", "--strict"], host].concat()).expect_code(0).expect_output("nothing to object to");
        let inject = self.run(&[&["inject", "root"], host].concat()).expect_code(0);
        assert!(!inject.stderr().contains("! "), "{}", inject.stderr());
        for path in written {
            let found = fs::symlink_metadata(self.root.host(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(found.is_file(), "{path}");
        }
        self.run(&[&["lint", "root", "--strict", "--values"], host].concat()).expect_code(0);
        self.run(&[&["verify", "root"], host].concat()).expect_code(0);
    }
}

const NODE: &[&str] = &["--host", "node1"];

#[test]
fn a_plain_node() {
    let example = Example::new("plain", |root| {
        let text =
            "[Service]\nDynamicUser=true\nEnvironmentFile=/etc/secrets/app.env\nExecStart=/nix/store/x/bin/app\n";
        root.users(Users::Perl { mutable: false }).unit("app.service", text);
    });
    example.is_silent(NODE, &["/etc/secrets/admin-password", "/etc/secrets/app.env"]);
}

#[test]
fn an_sd_image_before_its_first_boot() {
    let example = Example::new("sd-image", |root| {
        root.user("deploy", Some(1001), None).never_booted();
    });
    new_ssh_key(&example.scratch.join("deploy-key"));
    example.is_silent(NODE, &["/etc/secrets/admin-password", "/etc/secrets/deploy-key"]);
    // The number that the page says is needed.
    let example = Example::new("sd-image", |root| {
        root.user("deploy", None, None).never_booted();
    });
    new_ssh_key(&example.scratch.join("deploy-key"));
    let lint = example.run(&[&["lint", "root"], NODE].concat());
    lint.expect_code(3).expect_output("NX107");
}

#[test]
fn impermanence() {
    let example = Example::new("impermanence", |root| {
        root.user("admin", Some(1000), Some("/persist/secrets/admin-password"));
        root.unit("wifi.service", "[Service]\nEnvironmentFile=/etc/secrets/wifi\nExecStart=/nix/store/x/bin/wifi\n");
        root.fstab(
            "none / tmpfs x-initrd.mount 0 0\n/dev/disk/by-label/nixos /nix ext4 x-initrd.mount 0 1\n\
             /nix/persist /persist none x-initrd.mount,bind 0 0\n/persist/etc/secrets /etc/secrets none bind 0 0\n",
        );
        root.only_nix();
    });
    example.is_silent(&[], &["/persist/secrets/admin-password", "/persist/etc/secrets/wifi"]);
}

#[test]
fn an_overlay_over_etc() {
    let example = Example::new("overlay", |root| {
        let path = "/var/lib/secrets/admin-password";
        root.user("admin", Some(1000), Some(path)).overlay(Overlay::Links, false);
        root.users(Users::Userborn { mutable: Some(false), directory: "/var/lib/nixos" });
    });
    example.is_silent(NODE, &["/var/lib/secrets/admin-password"]);
}

#[test]
fn nodes_of_k3s() {
    for node in ["node1", "node2"] {
        let example = Example::new("k3s", |root| {
            let text = "[Service]\nExecStart=/nix/store/x/bin/k3s server --token-file /etc/secrets/k3s-token\n";
            root.user("admin", Some(1000), None).unit("k3s.service", text);
        });
        example.is_silent(&["--host", node], &["/etc/secrets/k3s-token"]);
    }
}
