//! The commands that only read, on every container: they say what they say of the raw disk, and write nothing, neither
//! to the image nor beside it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::kit::canary::Canary;
use crate::kit::disk::run;
use crate::kit::files::{fingerprint, names};
use crate::kit::nixos::{NixosRoot, Users};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, tool};

/// The name of the image, what makes it of `node.img`, and what `inspect` calls it.
const KINDS: [(&str, &[&str], &str); 12] = [
    ("node.img", &[], "raw"),
    ("node.img.gz", &["gzip", "-1kn"], "gzip"),
    ("node.img.xz", &["xz", "-0k"], "xz"),
    ("node.img.bz2", &["bzip2", "-1k"], "bzip2"),
    ("node.img.zst", &["zstd", "-1kq"], "zstd"),
    ("node.qcow2", &["qemu-img", "convert", "-f", "raw", "-O", "qcow2"], "qcow2"),
    ("small.qcow2", &["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c"], "qcow2"),
    ("node.vmdk", &["qemu-img", "convert", "-f", "raw", "-O", "vmdk"], "vmdk"),
    ("node.vdi", &["qemu-img", "convert", "-f", "raw", "-O", "vdi"], "vdi"),
    ("node.vhd", &["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on"], "vhd"),
    ("fixed.vhd", &["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on"], "vhd"),
    ("node.vhdx", &["qemu-img", "convert", "-f", "raw", "-O", "vhdx"], "vhdx"),
];

/// A NixOS in `images/node.img` that has one of the values in its store, and a manifest.
struct Case {
    scratch: Scratch,
    admin: Canary,
    token: Canary,
}

impl Case {
    fn new() -> Self {
        let case = Self { scratch: Scratch::new(), admin: Canary::new("admin"), token: Canary::new("token") };
        let mut root = NixosRoot::new(&case.scratch);
        root.users(Users::Perl { mutable: false });
        root.unit("k3s.service", "[Service]\nExecStart=/x/k3s server --token-file /etc/secrets/k3s-token\n");
        root.store("leak", case.token.text());
        case.scratch.write(
            "secrets.yaml",
            "version: 1\nsecrets:\n  admin: { path: /etc/secrets/admin-password, from: env:ADMIN, hash: yescrypt, \
             used_by: users.users.admin.hashedPasswordFile }\n  token: { path: /etc/secrets/token, from: env:TOKEN }\n",
        );
        fs::create_dir(case.scratch.join("images")).unwrap();
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-L", "nixos", "-d"]).arg(root.path()).arg(case.image("node.img"));
        tool(make.arg("64M"));
        case.settle("node.img");
        case
    }

    fn image(&self, name: &str) -> PathBuf {
        self.scratch.join("images").join(name)
    }

    /// Makes the image called `name`.
    fn make(&self, name: &str, by: &[&str]) {
        let Some((program, arguments)) = by.split_first() else { return };
        let (raw, to) = (self.image("node.img"), self.image(name));
        let mut words = [arguments, &[raw.to_str().unwrap()]].concat();
        if *program == "qemu-img" {
            words.push(to.to_str().unwrap());
        }
        run(program, &words);
        self.settle(name);
    }

    /// Reserved blocks that were not written become holes: whether one counts as one depends on what was read since.
    fn settle(&self, name: &str) {
        let (from, to) = (self.image(name), self.image("settled"));
        run("cp", &["--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]);
        fs::rename(to, from).unwrap();
    }

    fn json(&self, command: &str, name: &str, code: i32) -> Value {
        let image = format!("images/{name}");
        let run = Deaddrop::new(&self.scratch).args([command, &image, "--json"]);
        let run = run.env("ADMIN", self.admin.text()).env("TOKEN", self.token.text());
        let run = run.plant(&self.admin).plant(&self.token).run();
        eprintln!("{command} {name}");
        run.expect_code(code).json()
    }
}

/// Everything of the image and of its directory that a write would change.
fn state(image: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let directory = image.parent().unwrap();
    let data = fs::metadata(directory).unwrap();
    let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
    (fingerprint(image), names(directory), times)
}

#[test]
fn what_only_reads_says_the_same_of_every_container_and_writes_nothing() {
    let case = Case::new();
    // The code of each command, and what of its object does not depend on the container.
    let commands: [(&str, i32, &[&str]); 5] = [
        ("inspect", 0, &["table"]),
        ("plan", 0, &["changes"]),
        ("verify", 3, &["changes"]),
        ("lint", 0, &["warnings", "summary"]),
        ("scan", 3, &["findings", "summary"]),
    ];
    let mut of_raw: Vec<Vec<Value>> = Vec::new();
    for (name, by, shown) in KINDS {
        case.make(name, by);
        let before = state(&case.image(name));
        for (place, (command, code, fields)) in commands.iter().enumerate() {
            let object = case.json(command, name, *code);
            assert_eq!(state(&case.image(name)), before, "{command} {name}");
            let said: Vec<Value> = fields.iter().map(|field| object[field].clone()).collect();
            if of_raw.len() == place {
                assert!(said.iter().all(|value| !value.is_null() && *value != json!([])), "{command}: {object}");
                of_raw.push(said);
            } else {
                assert_eq!(said, of_raw[place], "{command} {name}");
            }
            if *command == "inspect" {
                assert_eq!(object["layers"][0]["kind"], json!(shown), "{name}: {object}");
            }
        }
        if name != "node.img" {
            fs::remove_file(case.image(name)).unwrap();
        }
    }
}
