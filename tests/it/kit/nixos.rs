//! A directory that is the root of a NixOS, in our own words: store, profile, etc tree, activation text, fstab, users.
//!
//! [`NixosRoot::new`] makes a plain one that was activated when its image was built. Each method then changes one
//! thing. What NixOS itself writes, and where: nixpkgs, the files that src/nixos/closure names.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Scratch, hex};

/// The label of the default system.
pub const LABEL: &str = "25.11.20260901.abc1234";
/// A crypt text that verifies nothing in particular.
pub const HASH: &str =
    "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";

/// A store path: `/nix/store/HASH-NAME`, the hash made from the name.
pub fn store_path(name: &str) -> String {
    // nix's alphabet has no e, o, t, u.
    let hash = hex(&Sha256::digest(name)).replace('e', "z");
    format!("/nix/store/{}-{name}", &hash[..32])
}

/// Who makes the users.
#[derive(Clone)]
pub enum Users {
    /// Activation, with the perl script.
    Perl { mutable: bool },
    /// userborn.service; `mutable` stands in newer units only.
    Userborn { mutable: Option<bool>, directory: &'static str },
    /// userborn at build.
    UserbornStatic,
    /// systemd-sysusers.
    Sysusers,
}

/// How the etc overlay is said: activation mounts it; two links; boot.json alone, without activation (nixos-init).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    Activation,
    Links,
    NixosInit,
}

/// The root of a NixOS.
pub struct NixosRoot {
    top: PathBuf,
    toplevel: String,
    users: Users,
    /// The users and groups of the JSON.
    declared: Vec<Value>,
    groups: Vec<Value>,
    /// The snippets of activation but `users`: name and text.
    snippets: Vec<(String, String)>,
}

impl NixosRoot {
    /// The root of `node1`, generation 1: links in /etc, perl, mutable users, `admin` with a hashedPasswordFile
    /// `/etc/secrets/admin-password`, one ext4 by its label `nixos`; activated at build, so /etc/shadow has `!`.
    pub fn new(scratch: &Scratch) -> Self {
        Self::at(&scratch.join("root"))
    }

    /// The same in a directory that is made.
    pub fn at(top: &Path) -> Self {
        let toplevel = store_path(&format!("nixos-system-node1-{LABEL}"));
        let mut root = Self {
            top: top.to_owned(),
            toplevel: toplevel.clone(),
            users: Users::Perl { mutable: true },
            declared: vec![
                json!({ "name": "root", "uid": 0, "group": "root", "home": "/root", "isSystemUser": false,
                    "hashedPassword": null, "hashedPasswordFile": null, "initialHashedPassword": "!" }),
                json!({ "name": "wpa_supplicant", "uid": null, "group": "wpa_supplicant", "home": "/var/empty",
                    "isSystemUser": true, "hashedPassword": null, "hashedPasswordFile": null }),
            ],
            groups: vec![
                json!({ "name": "root", "gid": 0, "members": [] }),
                json!({ "name": "users", "gid": 100, "members": [] }),
                json!({ "name": "wpa_supplicant", "gid": null, "members": [] }),
            ],
            snippets: vec![
                ("etc".into(), format!("{} {} {}/etc", Self::perl(), store_path("setup-etc.pl"), store_path("etc"))),
                ("var".into(), "mkdir -p /var/tmp".into()),
            ],
        };
        root.system(&toplevel);
        root.link(&format!("{toplevel}/etc"), &format!("{}/etc", store_path("etc")));
        root.etc_entry("systemd/system", None).units_directory();
        root.etc_entry("hosts", Some("127.0.0.1 localhost\n"));
        root.etc_entry("ssh/sshd_config", Some("Port 22\n"));
        root.fstab("/dev/disk/by-label/nixos / ext4 x-initrd.mount,defaults 0 1\n");
        root.user("admin", Some(1000), Some("/etc/secrets/admin-password"));
        root.generation(1);
        root.activated();
        root
    }

    /// Its perl.
    pub fn perl() -> String {
        format!("{}/bin/perl", store_path("perl-5.42.0-env"))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.top
    }

    /// The system's store path.
    pub fn toplevel(&self) -> &str {
        &self.toplevel
    }

    /// The path on this machine of a path of the root.
    pub fn host(&self, path: &str) -> PathBuf {
        self.top.join(path.trim_start_matches('/'))
    }

    /// Writes a file (0644), with the directories above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let at = self.host(path);
        fs::create_dir_all(at.parent().expect("a path below the root")).expect("making directories of ours");
        fs::write(&at, content).unwrap_or_else(|error| panic!("writing {path}: {error}"));
        self
    }

    /// Lays a link, with the directories above it. One that stands is replaced.
    pub fn link(&self, path: &str, target: &str) -> &Self {
        let at = self.host(path);
        fs::create_dir_all(at.parent().expect("a path below the root")).expect("making directories of ours");
        if at.is_symlink() {
            fs::remove_file(&at).expect("removing a link of ours");
        }
        symlink(target, &at).unwrap_or_else(|error| panic!("linking {path}: {error}"));
        self
    }

    /// Makes a directory.
    pub fn directory(&self, path: &str) -> &Self {
        fs::create_dir_all(self.host(path)).expect("making a directory of ours");
        self
    }

    /// Removes a file, a link, or a directory with all in it; nothing is no failure.
    pub fn remove(&self, path: &str) -> &Self {
        let at = self.host(path);
        match at.is_dir() && !at.is_symlink() {
            true => fs::remove_dir_all(&at).expect("removing a directory of ours"),
            false => drop(fs::remove_file(&at)),
        }
        self
    }

    /// Writes a file of the store; gives its path.
    pub fn store(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = store_path(name);
        self.write(&path, content);
        path
    }

    // ------------------------------------------------------------------------------------------ the etc tree

    /// An entry of environment.etc: a link to a store file with this text. Without a text: to the store's directory
    /// `system-units`.
    pub fn etc_entry(&self, name: &str, text: Option<&str>) -> &Self {
        let target = match text {
            Some(text) => self.store(&format!("etc-{}", name.replace('/', "-")), text),
            None => store_path("system-units"),
        };
        self.link(&format!("{}/etc/{name}", store_path("etc")), &target)
    }

    fn units_directory(&self) -> &Self {
        self.directory(&store_path("system-units"))
    }

    /// The closure's fstab.
    pub fn fstab(&self, text: &str) -> &Self {
        self.etc_entry("fstab", Some(text))
    }

    /// A unit: a link to its own store path.
    pub fn unit(&self, name: &str, text: &str) -> &Self {
        let store = store_path(&format!("unit-{name}"));
        self.write(&format!("{store}/{name}"), text);
        self.link(&format!("{}/{name}", store_path("system-units")), &format!("{store}/{name}"))
    }

    /// A drop-in of a packaged unit.
    pub fn drop_in(&self, unit: &str, text: &str) -> &Self {
        let store = store_path(&format!("unit-{unit}-overrides"));
        self.write(&format!("{store}/overrides.conf"), text);
        let place = format!("{}/{unit}.d/overrides.conf", store_path("system-units"));
        self.link(&place, &format!("{store}/overrides.conf"))
    }

    /// Masks a unit: a link to a store path that is a link to /dev/null.
    pub fn mask(&self, name: &str) -> &Self {
        let store = store_path(&format!("unit-{name}-disabled"));
        self.link(&format!("{store}/{name}"), "/dev/null");
        self.link(&format!("{}/{name}", store_path("system-units")), &format!("{store}/{name}"))
    }

    /// A mount unit for a place, as newer impermanence makes them.
    pub fn mount_unit(&self, what: &str, place: &str, options: &str) -> &Self {
        let name = format!("{}.mount", place.trim_matches('/').replace('-', "\\x2d").replace('/', "-"));
        self.unit(&name, &format!("[Mount]\nWhat={what}\nWhere={place}\nOptions={options}\n"))
    }

    // ------------------------------------------------------------------------------------------ systems

    /// A system of this toplevel, without an etc tree.
    fn system(&self, toplevel: &str) -> &Self {
        let (_, label) = toplevel.split_once("-nixos-system-").expect("a system");
        self.write(&format!("{toplevel}/init"), "#!/bin/sh\n");
        self.write(&format!("{toplevel}/nixos-version"), label.split_once('-').expect("a label").1);
        self.write(&format!("{toplevel}/system"), "x86_64-linux");
        self.boot_json(toplevel, json!({}));
        self.directory(&format!("{toplevel}/specialisation"));
        self.write_activate(toplevel)
    }

    fn boot_json(&self, toplevel: &str, init: Value) -> &Self {
        let text = json!({
            "org.nixos.bootspec.v1": { "init": format!("{toplevel}/init"), "toplevel": toplevel },
            "org.nixos.nixos-init.v1": init,
        });
        self.write(&format!("{toplevel}/boot.json"), text.to_string())
    }

    /// The profile leads to our system as this generation.
    pub fn generation(&self, number: u32) -> &Self {
        self.link(&format!("/nix/var/nix/profiles/system-{number}-link"), &self.toplevel);
        self.link("/nix/var/nix/profiles/system", &format!("system-{number}-link"))
    }

    /// One more system in the store, `node1` with another label, with the same etc tree; gives its toplevel. With a
    /// number, also a link of the profile, which still leads to ours.
    pub fn other_system(&self, label: &str, number: Option<u32>) -> String {
        let toplevel = store_path(&format!("nixos-system-node1-{label}"));
        self.system(&toplevel).link(&format!("{toplevel}/etc"), &format!("{}/etc", store_path("etc")));
        if let Some(number) = number {
            self.link(&format!("/nix/var/nix/profiles/system-{number}-link"), &toplevel);
        }
        toplevel
    }

    /// A specialisation of ours: one more system; gives its toplevel.
    pub fn specialisation(&self, name: &str) -> String {
        let special = self.other_system(&format!("{LABEL}-{name}"), None);
        self.link(&format!("{}/specialisation/{name}", self.toplevel), &special);
        special
    }

    /// No profile: what says which system boots are a boot loader and the store.
    pub fn without_profile(&self) -> &Self {
        self.remove("/nix/var/nix/profiles")
    }

    /// As an SD image before its first boot: no profile, no /etc, a boot loader that names our system.
    pub fn never_booted(&self) -> &Self {
        self.without_profile().remove("/etc").remove("/var").extlinux(&self.toplevel)
    }

    /// The boot loader of SD images starts this system.
    pub fn extlinux(&self, toplevel: &str) -> &Self {
        let text = format!(
            "DEFAULT nixos-default\nTIMEOUT 50\n\nLABEL nixos-default\n  MENU LABEL NixOS - Default\n  \
             LINUX ../nixos/kernel\n  APPEND init={toplevel}/init loglevel=4\n"
        );
        self.write("/boot/extlinux/extlinux.conf", text)
    }

    /// systemd-boot, with this entry as the default; its generation starts this system.
    pub fn systemd_boot(&self, number: u32, toplevel: &str) -> &Self {
        let name = format!("nixos-generation-{number}.conf");
        self.write("/boot/loader/loader.conf", format!("timeout 5\ndefault {name}\nconsole-mode keep\n"));
        let entry = format!(
            "title NixOS\nversion Generation {number}\nlinux /EFI/nixos/k.efi\noptions init={toplevel}/init quiet\n"
        );
        self.write(&format!("/boot/loader/entries/{name}"), entry)
    }

    /// grub, whose first entry starts this system.
    pub fn grub(&self, toplevel: &str) -> &Self {
        let text = format!(
            "set default=\"0\"\nmenuentry \"NixOS\" --class nixos {{\n  search --set=drive1 --label nixos\n  \
             linux ($drive1)/nix/store/k/bzImage init={toplevel}/init loglevel=4\n}}\n"
        );
        self.write("/boot/grub/grub.cfg", text)
    }

    /// What is mounted at /nix alone: `store` and `var` at the top, nothing else.
    pub fn only_nix(&self) -> &Self {
        for name in ["store", "var"] {
            self.remove(&format!("/{name}"));
            if self.host(&format!("/nix/{name}")).exists() {
                fs::rename(self.host(&format!("/nix/{name}")), self.host(&format!("/{name}"))).expect("moving");
            }
        }
        self.remove("/nix").remove("/etc")
    }

    // ------------------------------------------------------------------------------------------ activation

    /// Adds a snippet of activation, before the others.
    pub fn snippet(&mut self, name: &str, text: &str) -> &mut Self {
        self.snippets.insert(0, (name.to_owned(), text.to_owned()));
        self.write_activate(&self.toplevel);
        self
    }

    fn write_activate(&self, toplevel: &str) -> &Self {
        let mut text = format!(
            "#!{}/bin/bash\n\nsystemConfig='{toplevel}'\n\nexport PATH=/empty\nfor i in {} {}; do\n    \
             PATH=$PATH:$i/bin:$i/sbin\ndone\n\numask 0022\n",
            store_path("bash-5.3"),
            store_path("coreutils-9.8"),
            store_path("shadow-4.18")
        );
        let users = match &self.users {
            Users::Perl { .. } => format!(
                "install -m 0700 -d /root\n{} \\\n-w {} {}\n",
                Self::perl(),
                store_path("update-users-groups.pl"),
                store_path("users-groups.json")
            ),
            _ => String::new(),
        };
        for (name, body) in self.snippets.iter().chain([&("users".to_owned(), users)]) {
            text += &format!("\n#### Activation script snippet {name}:\n_localstatus=0\n{body}\n");
        }
        let path = format!("{toplevel}/activate");
        self.write(&path, text + "\nexit 0\n");
        fs::set_permissions(self.host(&path), fs::Permissions::from_mode(0o555)).expect("making it a program");
        self
    }

    /// /etc as an overlay, said in one of three ways. Its mutable upper directory stands.
    pub fn overlay(&mut self, said: Overlay, mutable: bool) -> &mut Self {
        self.snippets.retain(|(name, _)| name != "etc");
        let upper = if mutable { ",upperdir=/.rw-etc/upper,workdir=/.rw-etc/work" } else { "" };
        let (image, basedir) = (store_path("etc-metadata.erofs"), store_path("etc-lowerdir"));
        match said {
            Overlay::Activation => {
                let options = format!("--options lowerdir=$tmp::{basedir}\\\n{upper}");
                let mount = format!("mount --type overlay overlay \\\n  {options} \\\n  $tmpEtcMount");
                self.snippets.push(("etc".into(), mount));
            }
            Overlay::Links => {
                self.link(&format!("{}/etc-metadata-image", self.toplevel), &image);
                self.link(&format!("{}/etc-basedir", self.toplevel), &basedir);
                let remount = if mutable { "mount --move $tmpEtcMount /etc # of /.rw-etc/upper" } else { "true" };
                self.snippets.push(("etc".into(), remount.into()));
            }
            Overlay::NixosInit => {
                self.boot_json(&self.toplevel, json!({ "etc_metadata_image": image, "etc_basedir": basedir }));
            }
        }
        self.write_activate(&self.toplevel);
        if said == Overlay::NixosInit {
            self.remove(&format!("{}/activate", self.toplevel));
        }
        if mutable {
            self.directory("/.rw-etc/upper").directory("/.rw-etc/work");
        }
        self
    }

    /// /etc as a configuration extension with these flags.
    pub fn confext(&mut self, flags: &[&str]) -> &mut Self {
        let image = store_path("etc-confext.raw");
        self.link(&format!("{}/etc-confext", self.toplevel), &image);
        self.boot_json(&self.toplevel, json!({ "etc_confext": { "name": "nixos", "image": image, "flags": flags } }));
        self
    }

    // ------------------------------------------------------------------------------------------ users

    /// Who makes the users.
    pub fn users(&mut self, users: Users) -> &mut Self {
        self.users = users;
        self.write_users();
        self
    }

    /// Declares a user, or declares it anew.
    pub fn user(&mut self, name: &str, uid: Option<u32>, hashed_password_file: Option<&str>) -> &mut Self {
        self.declare(json!({ "name": name, "uid": uid, "group": "users", "home": format!("/home/{name}"),
            "isSystemUser": false, "hashedPassword": null, "hashedPasswordFile": hashed_password_file,
            "initialHashedPassword": null, "initialPassword": null, "password": null }))
    }

    /// Declares a user by its object of the JSON.
    pub fn declare(&mut self, user: Value) -> &mut Self {
        self.declared.retain(|other| other["name"] != user["name"]);
        self.declared.push(user);
        self.write_users();
        self
    }

    fn write_users(&self) {
        let mut all = json!({ "groups": self.groups, "users": self.declared });
        let units = store_path("system-units");
        for unit in ["userborn.service", "systemd-sysusers.service", "systemd-sysusers.service.d"] {
            self.remove(&format!("{units}/{unit}"));
        }
        match &self.users {
            Users::Perl { mutable } => {
                all["mutableUsers"] = json!(mutable);
                self.store("users-groups.json", all.to_string());
            }
            Users::Userborn { mutable, directory } => {
                let json = self.store("userborn.json", all.to_string());
                let mutable = mutable
                    .map_or(String::new(), |mutable| format!("Environment=\"USERBORN_MUTABLE_USERS={mutable}\"\n"));
                let program = format!("{}/bin/userborn", store_path("userborn-0.5"));
                let text = format!("[Service]\nType=oneshot\n{mutable}ExecStart={program} {json} {directory}\n");
                self.unit("userborn.service", &text);
                self.link(&format!("{units}/systemd-sysusers.service"), "userborn.service");
            }
            Users::UserbornStatic => {
                for name in ["passwd", "group", "shadow"] {
                    self.etc_entry(name, Some(""));
                }
            }
            Users::Sysusers => self.write_sysusers(),
        }
        self.write_activate(&self.toplevel);
    }

    fn write_sysusers(&self) {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let mut lines = String::new();
        let mut credentials = String::from("[Service]\n");
        for user in &self.declared {
            let (name, group) = (text(&user["name"]), text(&user["group"]));
            let uid = user["uid"].as_u64().map_or("-".to_owned(), |uid| uid.to_string());
            lines += &format!("u {name} {uid}:{group} \"\" {} /bin/sh\n", text(&user["home"]));
            if let Some(file) = user["hashedPasswordFile"].as_str() {
                credentials += &format!("LoadCredential=passwd.hashed-password.{name}:{file}\n");
            }
        }
        for group in &self.groups {
            let gid = group["gid"].as_u64().map_or("-".to_owned(), |gid| gid.to_string());
            lines += &format!("g {} {gid}\n", text(&group["name"]));
        }
        self.etc_entry("sysusers.d/00-nixos.conf", Some(&lines));
        self.unit("systemd-sysusers.service", "[Service]\nType=oneshot\nExecStart=systemd-sysusers\n");
        self.drop_in("systemd-sysusers.service", &credentials);
    }

    /// What activation at the build of the image leaves in /etc: links, and the users with `!`.
    pub fn activated(&self) -> &Self {
        self.link("/etc/static", &format!("{}/etc", store_path("etc")));
        for name in ["fstab", "hosts", "systemd/system", "ssh/sshd_config"] {
            self.link(&format!("/etc/{name}"), &format!("/etc/static/{name}"));
        }
        self.write("/etc/NIXOS", "").directory("/var/lib").directory("/root");
        self.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nadmin:x:1000:100::/home/admin:/bin/sh\n");
        self.write("/etc/group", "root:x:0:\nusers:x:100:\nshadow:x:318:\n");
        self.shadow("root:!:1::::::\nadmin:!:1::::::\n")
    }

    /// The text of /etc/shadow (0640).
    pub fn shadow(&self, text: &str) -> &Self {
        self.write("/etc/shadow", text);
        fs::set_permissions(self.host("/etc/shadow"), fs::Permissions::from_mode(0o640))
            .expect("closing a file of ours");
        self
    }
}
