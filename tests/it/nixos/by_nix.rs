//! A store, a database and a profile that nix itself makes (Debian's nix-bin), and a system in them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, tool};

/// A program of nix, with the store below `root`; no file of this machine's own nix is read.
fn nix(program: &str, scratch: &Scratch) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", scratch.path()).env("NIX_CONF_DIR", scratch.path()).env("NIX_STATE_DIR", scratch.join("state"));
    command.arg("--store").arg(scratch.join("root"));
    command
}

/// Adds a file or a directory to the store: its path there.
fn add(scratch: &Scratch, path: &Path) -> String {
    let said = tool(nix("nix-store", scratch).arg("--add").arg(path));
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_system_that_nix_put_into_its_store_is_read() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.join(name);
    let made = |name: &str, files: &[(&str, String)], links: &[(&str, String)]| {
        let directory = at(name);
        for (path, text) in files {
            fs::create_dir_all(directory.join(path).parent().unwrap()).unwrap();
            fs::write(directory.join(path), text).unwrap();
        }
        for (path, target) in links {
            fs::create_dir_all(directory.join(path).parent().unwrap()).unwrap();
            symlink(target, directory.join(path)).unwrap();
        }
        add(&scratch, &directory)
    };
    let users = json!({ "mutableUsers": false, "groups": [], "users": [
        { "name": "admin", "uid": 1000, "group": "users", "hashedPasswordFile": "/etc/secrets/admin" }] });
    scratch.write("users-groups.json", users.to_string());
    let users = add(&scratch, &at("users-groups.json"));
    scratch.write("fstab", "/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\n");
    let fstab = add(&scratch, &at("fstab"));
    let text = "[Service]\nExecStart=/x/bin/k3s server --token-file /etc/secrets/k3s\n";
    let unit = made("unit-k3s.service", &[("k3s.service", text.into())], &[]);
    let units = made("system-units", &[], &[("k3s.service", format!("{unit}/k3s.service"))]);
    let etc = made("etc", &[], &[("etc/fstab", fstab), ("etc/systemd/system", units)]);
    let activate = format!("#!/x/bash\n/x/bin/perl \\\n-w /nix/store/u-update-users-groups.pl {users}\n");
    let toplevel = made(
        "nixos-system-node1-25.11",
        &[("activate", activate), ("boot.json", "{}".into())],
        &[("etc", format!("{etc}/etc"))],
    );
    let profile = at("root/nix/var/nix/profiles/system");
    tool(nix("nix-env", &scratch).arg("-p").arg(&profile).args(["--set", &toplevel]));
    let image = at("node1.img");
    tool(Command::new("mke2fs").args(["-q", "-t", "ext4", "-L", "nixos", "-d"]).arg(at("root")).arg(&image).arg("64M"));

    let inspect = Deaddrop::new(&scratch).args(["inspect", "node1.img", "--json"]).run().expect_code(0).json();
    assert_eq!(inspect["nixos"], json!({ "name": "nixos-system-node1-25.11", "generation": 1 }));
    let lint = Deaddrop::new(&scratch).args(["lint", "node1.img"]).run().expect_code(0);
    lint.expect_output("/etc/secrets/admin").expect_output("/etc/secrets/k3s");
    scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets: { k3s: { path: /etc/secrets/k3s, from: env:K, used_by: services.k3s.tokenFile } }\n",
    );
    let lint = Deaddrop::new(&scratch).args(["lint", "node1.img", "--json"]).run().expect_code(0).json();
    assert_eq!(lint["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&lint["warnings"][0]["code"], &lint["warnings"][0]["path"]),
        (&json!("NX111"), &json!("/etc/secrets/admin"))
    );
}
