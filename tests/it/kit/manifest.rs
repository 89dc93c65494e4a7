//! Manifests with values to plant: what a test declares, written down as the files and variables that a run reads.

use std::fs;
use std::process::{Command, Stdio};

use crate::kit::canary::Canary;
use crate::kit::images::{Image, Layout};
use crate::kit::mount::debugfs;
use crate::kit::run::Deaddrop;
use crate::kit::tree::{Kind, Node, Tree};
use crate::kit::{Scratch, sha256};

/// Which source a value comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// An environment variable, by a source with a prefix.
    Env,
    /// A file of bytes.
    File,
    /// A line of a dotenv file.
    Dotenv,
    /// An item of a Bitwarden export.
    Vault,
}

/// One secret of a manifest, and the file that it should become.
#[derive(Clone)]
pub struct Item {
    pub name: &'static str,
    pub path: &'static str,
    pub from: From,
    pub value: Vec<u8>,
    /// Keys of the manifest besides `path` and `from`: `mode: "0440", newline: true`.
    pub keys: &'static str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A crypt(3) hash of the value that begins so, and not the value.
    pub hash: Option<&'static str>,
    /// Bytes that follow the value in the file.
    pub ending: &'static str,
}

impl Item {
    /// A secret with a random value, 0400, root's.
    pub fn new(name: &'static str, path: &'static str) -> Self {
        let value = Canary::new(name).bytes().to_vec();
        Self { name, path, from: From::Env, value, keys: "", mode: 0o400, uid: 0, gid: 0, hash: None, ending: "" }
    }

    pub fn from(self, from: From) -> Self {
        Self { from, ..self }
    }

    /// From a file, with these bytes.
    pub fn bytes(self, value: &[u8]) -> Self {
        Self { value: value.to_vec(), from: From::File, ..self }
    }

    /// From a file, as long as this; its own random text over and over, the last part cut off.
    pub fn sized(self, size: usize) -> Self {
        let value: Vec<u8> = self.value.iter().copied().cycle().take(size).collect();
        self.bytes(&value)
    }

    pub fn keys(self, keys: &'static str) -> Self {
        Self { keys, ..self }
    }

    /// The mode, user and group that the file should have.
    pub fn owned(self, mode: u32, uid: u32, gid: u32) -> Self {
        Self { mode, uid, gid, ..self }
    }

    pub fn hashed(self, prefix: &'static str) -> Self {
        Self { hash: Some(prefix), ..self }
    }

    pub fn ending(self, ending: &'static str) -> Self {
        Self { ending, ..self }
    }

    /// What to search for; none for a value that is found everywhere.
    pub fn canary(&self) -> Option<Canary> {
        // The beginning of a long one: a part of it is a leak, too.
        self.value.get(..40.min(self.value.len())).filter(|value| value.len() >= 8).map(|v| Canary::of(self.name, v))
    }

    /// The same secret with another value of the same source.
    pub fn with_new_value(&self) -> Self {
        Self { value: Canary::new(self.name).bytes().to_vec(), ..self.clone() }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.value).expect("only a file's value is no text")
    }

    fn reference(&self) -> String {
        match self.from {
            From::Env => format!("ci:{}", self.name),
            From::File => format!("file:values/{}", self.name),
            From::Dotenv => format!("dotenv:{}", self.name),
            From::Vault => format!("vault:Tests/{}", self.name),
        }
    }
}

/// A scratch directory with a manifest (`secrets.yaml`) and its sources in it.
pub struct Manifest {
    pub scratch: Scratch,
    pub items: Vec<Item>,
}

impl Manifest {
    /// Writes everything down.
    pub fn new(items: Vec<Item>) -> Self {
        let manifest = Self { scratch: Scratch::new(), items };
        fs::create_dir(manifest.scratch.join("values")).expect("making a directory of ours");
        manifest.write();
        manifest
    }

    /// Puts another item in the place of the one with its name.
    pub fn replace(&mut self, item: Item) {
        let place = self.items.iter_mut().find(|old| old.name == item.name).expect("an item of that name");
        *place = item;
        self.write();
    }

    fn write(&self) {
        let mut text = String::from(
            "version: 1\nsources:\n  ci: { type: env, prefix: TEST_ }\n  dotenv: { type: dotenv, path: values.env }\n  \
             vault: { type: bitwarden, path: export.json }\nsecrets:\n",
        );
        for item in &self.items {
            let keys = if item.keys.is_empty() { String::new() } else { format!(", {}", item.keys) };
            text += &format!("  {}: {{ path: \"{}\", from: {:?}{keys} }}\n", item.name, item.path, item.reference());
        }
        self.scratch.write("secrets.yaml", text);
        let of = |from: From| self.items.iter().filter(move |item| item.from == from);
        for item in of(From::File) {
            self.scratch.write(format!("values/{}", item.name), &item.value);
        }
        let lines: Vec<String> = of(From::Dotenv).map(|item| format!("{}='{}'\n", item.name, item.text())).collect();
        self.scratch.write_private("values.env", lines.concat());
        let folder = "00000000-0000-4000-8000-00000000000f";
        let vault: Vec<serde_json::Value> = of(From::Vault)
            .zip(1..)
            .map(|(item, number)| {
                serde_json::json!({
                    "id": format!("00000000-0000-4000-8000-{number:012}"), "folderId": folder, "type": 1,
                    "name": item.name, "notes": null, "favorite": false,
                    "login": { "username": "x", "password": item.text(), "totp": null, "uris": [] },
                })
            })
            .collect();
        let export = serde_json::json!({
            "encrypted": false, "folders": [{ "id": folder, "name": "Tests" }], "items": vault,
        });
        self.scratch.write_private("export.json", export.to_string());
    }

    /// A run with `-m secrets.yaml`, the values planted.
    pub fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        self.deaddrop_alone(args).args(["-m", "secrets.yaml"])
    }

    /// The same for a command that takes no manifest.
    pub fn deaddrop_alone(&self, args: &[&str]) -> Deaddrop<'_> {
        let mut run = Deaddrop::new(&self.scratch).args(args);
        for item in &self.items {
            if item.from == From::Env {
                run = run.env(format!("TEST_{}", item.name), item.text());
            }
            if let Some(canary) = item.canary() {
                run = run.plant(&canary);
            }
        }
        run
    }

    /// The paths of all items.
    pub fn paths(&self) -> Vec<&'static str> {
        self.items.iter().map(|item| item.path).collect()
    }

    /// Panics unless every file is in the image as it was declared. `tree` is the image's.
    #[track_caller]
    pub fn assert_in(&self, image: &Image, tree: &Tree) {
        for item in &self.items {
            let Node { kind, mode, uid, gid, links, attributes, .. } = tree.at(item.path);
            assert_eq!((*mode, *uid, *gid, *links), (item.mode, item.uid, item.gid, 1), "{}", item.path);
            assert!(attributes.is_empty(), "{} has attributes: {attributes:?}", item.path);
            match item.hash {
                None => {
                    let content = [&item.value[..], item.ending.as_bytes()].concat();
                    let want = Kind::File { sha256: sha256(&content[..]).expect("reading memory") };
                    assert!(*kind == want, "{} has not the bytes of its value", item.path);
                }
                Some(prefix) => {
                    let hash = debugfs(image, &[format!("cat \"{}\"", item.path)]).concat();
                    let line = hash.strip_suffix('\n').expect("a hash is a line");
                    assert!(line.starts_with(prefix) && !line.contains('\n'), "{} is not one of {prefix}", item.path);
                    assert!(libcrypt_takes(item.text(), line), "libcrypt does not take {} for its password", item.path);
                }
            }
        }
    }
}

/// Whether libcrypt says that `hash` is that of `password`; both go through standard input.
fn libcrypt_takes(password: &str, hash: &str) -> bool {
    let mut perl = Command::new("perl")
        .args(["-e", "local $/; my ($p, $h) = split /\\0/, <STDIN>; exit(crypt($p, $h) eq $h ? 0 : 1)"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("running perl");
    let mut input = perl.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, format!("{password}\0{hash}").as_bytes()).expect("writing to perl");
    drop(input);
    perl.wait().expect("waiting for perl").success()
}

/// Twenty secrets: all sources, sizes around a block's, owners by name and number, hashes, parents that stand and
/// parents that do not.
pub fn twenty(layout: Layout) -> Vec<Item> {
    // Names of users come from the image; one that was never activated has none but root.
    let theirs = if layout.activated {
        Item::new("theirs", "/etc/secrets/theirs").keys("owner: sshd, group: wpa_supplicant, mode: \"0440\"")
    } else {
        Item::new("theirs", "/etc/secrets/theirs").keys("owner: 998, group: 995, mode: \"0440\"")
    };
    let admin = "hash: yescrypt, used_by: users.users.admin.hashedPasswordFile, allow: { NX101: a test }";
    let nobody = "hash: sha512crypt, used_by: users.users.nobody.hashedPasswordFile, allow: { NX101: a test }";
    vec![
        Item::new("plain", "/etc/secrets/plain"),
        Item::new("ends-in-newline", "/etc/secrets/ends-in-newline").keys("newline: true").ending("\n"),
        Item::new("from-dotenv", "/etc/secrets/wifi.env").from(From::Dotenv),
        Item::new("from-vault", "/etc/secrets/k3s-token").from(From::Vault).keys("used_by: services.k3s.tokenFile"),
        Item::new("one-byte", "/etc/secrets/one-byte").bytes(b"x"),
        Item::new("empty", "/etc/secrets/empty").bytes(b"").keys("allow_empty: true"),
        Item::new("odd-bytes", "/etc/secrets/odd-bytes").bytes(b"\0\n\r\xff\xfe no newline at the end \0"),
        Item::new("admin-password", "/etc/secrets/admin-password").from(From::Vault).keys(admin).hashed("$y$j"),
        Item::new("nobody-password", "/etc/secrets/nobody-password").keys(nobody).hashed("$6$"),
        Item::new("block-less-one", "/var/lib/secrets/block-less-one").sized(4095),
        Item::new("block", "/var/lib/secrets/block").sized(4096),
        Item::new("block-and-one", "/var/lib/secrets/block-and-one").sized(4097),
        Item::new("hundred-kib", "/var/lib/secrets/hundred-kib").sized(100 << 10),
        theirs.owned(0o440, 998, 995),
        Item::new("by-number", "/srv/far/down/by-number")
            .keys("owner: 4000000000, group: 70000, mode: \"0600\", directory_mode: \"0750\"")
            .owned(0o600, 4_000_000_000, 70_000),
        Item::new("world", "/etc/secrets/world").keys("mode: \"0444\", allow_world_readable: true").owned(0o444, 0, 0),
        Item::new("root-key", "/root/.ssh/id_ed25519")
            .sized(399)
            .keys("mode: \"0600\", expect: none")
            .owned(0o600, 0, 0),
        Item::new("host-key", "/etc/ssh/ssh_host_ed25519_key").sized(411).keys("expect: none"),
        Item::new("at-the-top", "/at the top, ünïcode"),
        Item::new("in-nix", "/nix/secret"),
    ]
}

/// The directories of [`twenty`] that are missing in an image, with the mode that they should get.
pub fn new_directories(layout: Layout) -> Vec<(&'static str, u32)> {
    // Owners other than root in /etc/secrets open it for passing through.
    let mut directories = vec![
        ("/etc/secrets", 0o711),
        ("/var/lib/secrets", 0o700),
        ("/srv/far", 0o755),
        ("/srv/far/down", 0o750),
        ("/root/.ssh", 0o700),
    ];
    if !layout.activated {
        directories.extend([("/etc", 0o755), ("/etc/ssh", 0o755), ("/var", 0o755), ("/var/lib", 0o755)]);
        directories.extend([("/srv", 0o755), ("/root", 0o700)]);
    }
    directories
}
