//! docs/walkthrough.md, run: its manifest and its commands, on small images and real sshds.

use std::fs;
use std::process::{Command, Output};

use crate::kit::images;
use crate::kit::mount::debugfs_write;
use crate::kit::node::NodeBuilder;
use crate::kit::{Scratch, block_below, write_program};

const PAGE: &str = include_str!("../../docs/walkthrough.md");

/// The code block of the page below this mark.
fn block(mark: &str) -> String {
    block_below(PAGE, mark)
}

const PASSWORD: &str = "made-up-password-1";
const NEW_PASSWORD: &str = "made-up-password-2";
const TOKEN: &str = "made-up-token-of-k3s";

/// A Bitwarden export with the two logins of the page.
fn export(password: &str) -> String {
    let login = |id: &str, name: &str, password: &str| serde_json::json!({ "id": id, "type": 1, "name": name, "login": { "username": null, "password": password } });
    let items = [login("1", "Homelab admin", password), login("2", "k3s token", TOKEN)];
    serde_json::json!({ "encrypted": false, "folders": [], "items": items }).to_string()
}

/// The page's directory, with programs that stand for what this machine lacks.
struct Desk {
    scratch: Scratch,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { scratch: Scratch::new() };
        // It stands for the images of three hosts, and its own name is that of one.
        let image = images::RAW_EFI.committed(&desk.scratch);
        debugfs_write(&image, "rm /etc/hostname\n");
        fs::rename(image.path, desk.scratch.join("built.img")).unwrap();
        fs::create_dir(desk.scratch.join("bin")).unwrap();
        let program = |name: &str, text: &str| write_program(&desk.scratch.join("bin").join(name), text);
        program(
            "nixos-rebuild",
            "#!/bin/sh\n[ \"$*\" != '' ] && mkdir -p result && cp built.img result/nixos-image-efi-raw-25.11.img\n",
        );
        program("sudo", "#!/bin/sh\nexec \"$@\"\n");
        // The nodes listen elsewhere than at the page's addresses.
        let real = env!("CARGO_BIN_EXE_deaddrop");
        program(
            "deaddrop",
            &format!(
                "#!/bin/sh\ncase \"$*\" in *--all* | rotate*) set -- \"$@\" --ssh-config ssh/config ;; esac\nexec {real} \"$@\"\n"
            ),
        );
        fs::create_dir_all(desk.scratch.join("home/.ssh")).unwrap();
        desk
    }

    /// Runs a block of the page in a shell that ends at the first failure. Its output has no value.
    #[track_caller]
    fn run(&self, mark: &str) -> String {
        let script = block(mark).replace("/dev/sdX", "sdX");
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.scratch.join("bin");
        let output: Output = Command::new("sh")
            .args(["-ec", &script])
            .current_dir(self.scratch.path())
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display()))
            .env("HOME", self.scratch.join("home"))
            .env_remove("SSH_AUTH_SOCK")
            .output()
            .expect("running sh");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for value in [PASSWORD, NEW_PASSWORD, TOKEN] {
            assert!(!said.contains(value), "{mark} shows a value");
        }
        assert!(output.status.success(), "{mark}: {}\n{said}", output.status);
        said
    }
}

#[test]
fn every_command_of_the_walkthrough_works_as_it_stands() {
    let desk = Desk::new();
    let nix = block("nix");
    for option in ["fileSystems.\"/\"", "users.mutableUsers = false", "hashedPasswordFile", "tokenFile", "autoUpgrade"]
    {
        assert!(nix.contains(option), "{option}");
    }
    let manifest = block("manifest");
    assert!(manifest.contains(", password: ask"), "the export of the page is protected");
    desk.scratch.write("secrets.yaml", manifest.replace(", password: ask", ""));
    fs::write(desk.scratch.join("homelab.json"), export(PASSWORD)).unwrap();
    fs::set_permissions(desk.scratch.join("homelab.json"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();

    assert!(desk.run("images").contains("root: chosen by its label"));
    desk.run("check");
    let said = desk.run("inject");
    assert_eq!(said.matches("4 secrets as declared").count(), 3, "{said}");
    assert!(desk.run("deploy-key").contains("deploy-key@node1"));
    desk.run("write");
    assert_eq!(fs::read(desk.scratch.join("sdX")).unwrap(), fs::read(desk.scratch.join("node1.img")).unwrap());
    desk.run("known-hosts");
    let known = fs::read_to_string(desk.scratch.join("home/.ssh/known_hosts")).unwrap();
    assert!(["192.168.1.11", "192.168.1.12", "192.168.1.13"].iter().all(|address| known.contains(address)), "{known}");

    let nodes = ["192.168.1.11", "192.168.1.12", "192.168.1.13"].map(|address| {
        let node = NodeBuilder::new(address).start(&desk.scratch);
        node.add_unit("k3s.service");
        node
    });
    fs::write(desk.scratch.join("homelab.json"), export(NEW_PASSWORD)).unwrap();
    let said = desk.run("rotate");
    assert!(said.contains("would restart k3s.service"), "{said}");
    assert!(said.contains("3 of 3 hosts as declared"), "{said}");
    for node in &nodes {
        assert_eq!(fs::read_to_string(node.at("/etc/secrets/k3s-token")).unwrap(), TOKEN);
        assert_eq!(node.acts(), ["restart -- k3s.service"]);
        node.assert_clean();
    }
}
