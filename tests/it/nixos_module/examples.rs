//! examples/: each flake is evaluated by `nix eval`, and the commands of its README run as they stand, on an image of a
//! NixOS of our own that has what the configuration says.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::flake::Flakes;
use crate::kit::decrypt::By;
use crate::kit::nixos::{NixosRoot, Users};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, block_below, tool, write_program};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const PASSWORD: &str = "made-up-password-1";
const TOKEN: &str = "made-up-token-of-k3s";

/// The directory of an example, and the programs that its README calls.
struct Desk {
    flakes: Flakes,
    directory: String,
    readme: String,
}

impl Desk {
    fn new(example: &str) -> Self {
        let flakes = Flakes::new();
        let bin = flakes.scratch.join("bin");
        let words = "build-image --image-variant raw-efi --flake .#node";
        let built = flakes.scratch.join("built.img");
        let text = format!(
            "#!/bin/sh\nset -e\ncase \"$*\" in '{words}'[123]) ;; *) exit 1 ;; esac\nmkdir -p result\n\
             cp {} result/nixos-image-efi-raw-25.11.img\n",
            built.display()
        );
        write_program(&bin.join("nixos-rebuild"), &text);
        let program = env!("CARGO_BIN_EXE_deaddrop");
        write_program(&bin.join("deaddrop"), &format!("#!/bin/sh\nexec {program} \"$@\"\n"));
        let directory = format!("examples/{example}");
        let readme = fs::read_to_string(flakes.scratch.join(format!("deaddrop/{directory}/README.md"))).unwrap();
        Self { flakes, directory, readme }
    }

    fn scratch(&self) -> &Scratch {
        &self.flakes.scratch
    }

    /// The path of a file beside the flake.
    fn at(&self, name: &str) -> PathBuf {
        self.scratch().join(format!("deaddrop/{}/{name}", self.directory))
    }

    fn eval(&self, output: &str) -> Value {
        self.flakes.eval(&self.directory, output)
    }

    /// An option of node1.
    fn option(&self, name: &str) -> String {
        let value = self.eval(&format!(".#nixosConfigurations.node1.config.{name}"));
        value.as_str().unwrap_or_else(|| panic!("{name} is no text: {value}")).to_owned()
    }

    /// A NixOS whose user `admin` and k3s read what the configuration says, from its file systems.
    fn system(&self) -> NixosRoot {
        let mut root = NixosRoot::new(self.scratch());
        root.users(Users::Perl { mutable: false });
        root.user("admin", Some(1000), Some(&self.option("users.users.admin.hashedPasswordFile")));
        let token = self.option("services.k3s.tokenFile");
        let start = format!("[Service]\nExecStart=/nix/store/x/bin/k3s server --token-file {token}\n");
        root.unit("k3s.service", &start);
        let (device, kind) = (self.option("fileSystems.\"/\".device"), self.option("fileSystems.\"/\".fsType"));
        root.fstab(&format!("{device} / {kind} x-initrd.mount 0 1\n"));
        root
    }

    /// What `nixos-rebuild build-image` gives from now on.
    fn build(&self, root: &NixosRoot) {
        let image = self.scratch().join("built.img");
        tool(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-L", "nixos", "-d"])
                .arg(root.path())
                .arg(&image)
                .arg("64M"),
        );
    }

    /// The vault: a Bitwarden export with these items.
    fn vault(&self, items: &[Value]) {
        let export = json!({ "encrypted": false, "folders": [], "items": items });
        let name = format!("deaddrop/{}/homelab.json", self.directory);
        self.scratch().write_private(name, export.to_string());
    }

    /// Runs a block of the README in a shell that ends at the first failure: what it says, which holds no value.
    #[track_caller]
    fn run(&self, mark: &str) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .args(["-ec", &block_below(&self.readme, mark)])
            .current_dir(self.at("."))
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.scratch().join("bin").display()))
            .env("HOME", self.scratch().path())
            .env("NIX_CONF_DIR", self.scratch().path())
            .env("NIX_STATE_DIR", self.scratch().join("state"))
            .output()
            .expect("running sh");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for value in [PASSWORD, TOKEN, "PRIVATE KEY"] {
            assert!(!said.contains(value), "{mark} shows a value");
        }
        assert!(output.status.success(), "{mark}: {}\n{said}", output.status);
        said
    }

    /// A file of a node's image, by debugfs.
    fn file(&self, node: &str, path: &str) -> String {
        let image = self.at(&format!("{node}.img"));
        let said = tool(Command::new("debugfs").args(["-R", &format!("cat {path}")]).arg(image));
        String::from_utf8(said.stdout).expect("text")
    }

    /// Each image has what the manifest says, and nothing in its system objects.
    fn assert_whole(&self) {
        let manifest = self.at("secrets.json").display().to_string();
        for node in NODES {
            let image = self.at(&format!("{node}.img")).display().to_string();
            for command in [&["verify"][..], &["lint", "--strict", "--values"]] {
                let run = Deaddrop::new(self.scratch()).args(command).args(["--host", node, "-m", &manifest, &image]);
                run.run().expect_code(0);
            }
        }
    }
}

fn login(name: &str, password: &str) -> Value {
    json!({ "id": name, "type": 1, "name": name, "login": { "username": null, "password": password } })
}

#[test]
fn the_manifest_of_each_example_is_accepted_and_its_configurations_have_no_warning() {
    for example in ["k3s-homelab", "sops-bootstrap"] {
        let desk = Desk::new(example);
        let manifest = desk.eval(".#deaddrop");
        assert_eq!(manifest["hosts"].as_object().unwrap().keys().collect::<Vec<_>>(), NODES);
        desk.scratch().write("secrets.json", manifest.to_string());
        Deaddrop::new(desk.scratch()).args(["check", "-m", "secrets.json"]).run().expect_code(0);
        for node in NODES {
            for kind in ["warnings", "assertions"] {
                let found = desk.eval(&format!(".#nixosConfigurations.{node}.config.{kind}"));
                assert_eq!(found, json!([]), "{example} {node} {kind}");
            }
        }
    }
}

#[test]
fn three_k3s_nodes_get_their_secrets_by_deaddrop_alone() {
    let desk = Desk::new("k3s-homelab");
    desk.vault(&[login("Homelab admin", PASSWORD), login("k3s token", TOKEN)]);
    desk.build(&desk.system());
    desk.run("images");
    desk.run("pipe");
    desk.assert_whole();
    for node in NODES {
        assert_eq!(desk.file(node, &desk.option("services.k3s.tokenFile")), TOKEN);
        assert!(desk.file(node, &desk.option("users.users.admin.hashedPasswordFile")).starts_with("$y$"));
        let keys = fs::read_to_string(desk.at(&format!("{node}.keys"))).unwrap();
        assert!(keys.contains("deploy-key") && keys.contains("192.168.1.1"), "{keys}");
    }
    let key = desk.option("deaddrop.secrets.host-key.path");
    assert_ne!(desk.file("node1", &key), desk.file("node2", &key));
    let ssh = desk.option("programs.ssh.extraConfig");
    assert!(ssh.contains("IdentityFile /etc/secrets/deploy-key"), "{ssh}");
}

#[test]
fn three_k3s_nodes_get_the_key_of_sops_nix() {
    let desk = Desk::new("sops-bootstrap");
    let mut items = Vec::new();
    let mut recipients = Vec::new();
    for node in NODES {
        let made = Deaddrop::new(desk.scratch()).args(["generate", "ssh-host-ed25519", "--public-out", "key.json"]);
        let private = made.run().expect_code(0).stdout();
        let public: Value = serde_json::from_slice(&fs::read(desk.scratch().join("key.json")).unwrap()).unwrap();
        let public = &public["keys"][0];
        fs::remove_file(desk.scratch().join("key.json")).unwrap();
        recipients.push(public["age_recipient"].as_str().expect("a recipient").to_owned());
        items.push(json!({ "id": node, "type": 5, "name": format!("{node} host key"),
            "sshKey": { "privateKey": private, "publicKey": public["ssh_public_key"], "keyFingerprint": "" } }));
    }
    desk.vault(&items);

    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let mut root = desk.system();
    let file = root.sops_file("secrets.yaml", &recipients);
    let keys = json!({ "ageSshKeyPaths": desk.eval(".#nixosConfigurations.node1.config.sops.age.sshKeyPaths") });
    let path = |name: &str| desk.option(&format!("sops.secrets.{name}.path"));
    let (token, deploy, admin) = (path("k3s-token"), path("deploy-key"), path("admin-password"));
    root.sops_nix(By::Activation, keys.clone(), &[("k3s-token", &token, &file), ("deploy-key", &deploy, &file)]);
    root.sops_nix_for_users(By::Activation, keys, &[("admin-password", &admin, &file)]);
    desk.build(&root);
    let said = desk.run("images");
    assert!(!said.contains("NX11"), "{said}");
    desk.assert_whole();

    // A key that is no recipient is told before the first boot.
    root.sops_file("secrets.yaml", &recipients[..2]);
    desk.build(&root);
    let manifest = desk.at("secrets.json").display().to_string();
    let args = ["lint", "built.img", "-m", &manifest, "--host", "node3", "--values"];
    Deaddrop::new(desk.scratch()).args(args).run().expect_code(0).expect_output("NX118");
}
