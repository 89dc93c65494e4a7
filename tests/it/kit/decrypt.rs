//! sops-nix and agenix in a [`NixosRoot`], in our own words. What they write themselves: the files that
//! src/nixos/closure/decrypt names.

use std::fmt::Write;

use serde_json::{Value, json};

use super::nixos::{NixosRoot, Users, store_path};

/// What runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A snippet of activation.
    Activation,
    /// A service, beside userborn.
    Unit,
}

/// A secret: its name, its path, its encrypted file in the store.
pub type Encrypted<'a> = (&'a str, &'a str, &'a str);

/// A path of a host key.
pub const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
/// A path of an RSA host key.
pub const RSA_KEY: &str = "/etc/ssh/ssh_host_rsa_key";

impl NixosRoot {
    /// A file of sops in the store, for these recipients of age.
    pub fn sops_file(&self, name: &str, recipients: &[&str]) -> String {
        let mut text = String::from("wifi: ENC[AES256_GCM,data:AAAA,iv:AAAA,tag:AAAA,type:str]\nsops:\n    age:\n");
        for recipient in recipients {
            write!(
                text,
                "        - recipient: {recipient}\n          enc: |\n            -----BEGIN AGE ENCRYPTED FILE-----\n            \
                 YWdl\n            -----END AGE ENCRYPTED FILE-----\n"
            )
            .expect("text");
        }
        self.store(name, text + "    lastmodified: \"2026-09-01T00:00:00Z\"\n    mac: ENC[x]\n    version: 3.11.0\n")
    }

    /// sops-nix with these keys, by the names of its manifest (`ageSshKeyPaths`, …), and these secrets.
    pub fn sops_nix(&mut self, by: By, keys: Value, secrets: &[Encrypted<'_>]) -> &mut Self {
        self.sops_manifest(by, keys, secrets, false)
    }

    /// The same with the manifest of secrets that are needed before the users are made.
    pub fn sops_nix_for_users(&mut self, by: By, keys: Value, secrets: &[Encrypted<'_>]) -> &mut Self {
        self.sops_manifest(by, keys, secrets, true)
    }

    fn sops_manifest(&mut self, by: By, keys: Value, secrets: &[Encrypted<'_>], for_users: bool) -> &mut Self {
        let suffix = if for_users { "-for-users" } else { "" };
        let links = format!("/run/secrets{suffix}");
        let secrets: Vec<Value> = secrets
            .iter()
            .map(|(name, path, file)| {
                json!({ "name": name, "key": name, "path": path, "sopsFile": file, "format": "yaml", "mode": "0400",
                    "owner": null, "uid": 0, "group": null, "gid": 0, "neededForUsers": for_users, "restartUnits": [] })
            })
            .collect();
        let mut manifest = json!({
            "secrets": secrets, "templates": [], "symlinkPath": links, "secretsMountPoint": format!("{links}.d"),
            "ageKeyFile": null, "ageSshKeyPaths": [], "sshKeyPaths": [RSA_KEY], "gnupgHome": null,
            "keepGenerations": 1, "userMode": false, "logging": { "keyImport": true, "secretChanges": true },
        });
        for (key, value) in keys.as_object().expect("an object of keys") {
            manifest[key] = value.clone();
        }
        let json = self.store(&format!("manifest{suffix}.json"), manifest.to_string());
        let program = format!("{}/bin/sops-install-secrets", store_path("sops-install-secrets-0.0.1"));
        let ignore = if for_users { "-ignore-passwd " } else { "" };
        match by {
            By::Activation => {
                let name = if for_users { "setupSecretsForUsers" } else { "setupSecrets" };
                self.snippet(name, &format!("[ -e /run/current-system ] || echo {name}...\n{program} {ignore}{json}"))
            }
            By::Unit => {
                self.users(Users::Userborn { mutable: Some(true), directory: "/etc" });
                let text = format!("[Service]\nType=oneshot\nExecStart={program} {ignore}{json}\n");
                self.unit(&format!("sops-install-secrets{suffix}.service"), &text);
                self
            }
        }
    }

    /// agenix with these identities and these secrets.
    pub fn agenix(&mut self, by: By, identities: &[&str], secrets: &[Encrypted<'_>]) -> &mut Self {
        let mut text = String::from("echo '[agenix] decrypting secrets...'\n");
        for (name, path, file) in secrets {
            let own = format!("/run/agenix/{name}");
            writeln!(
                text,
                "  _truePath=\"/run/agenix.d/$_agenix_generation/{name}\"\n\
                 echo \"decrypting '{file}' to '$_truePath'...\"\nTMP_FILE=\"$_truePath.tmp\"\nIDENTITIES=()\n\
                 for identity in {}; do\n  test -r \"$identity\" || continue\n  IDENTITIES+=(-i)\n\
                 \x20 IDENTITIES+=(\"$identity\")\ndone\n(\n  umask u=r,g=,o=\n  \
                 {}/bin/age --decrypt \"${{IDENTITIES[@]}}\" -o \"$TMP_FILE\" \"{file}\"\n)\n\
                 mv -f \"$TMP_FILE\" \"$_truePath\"\n[ \"{path}\" != \"{own}\" ] && ln -sfT \"{own}\" \"{path}\"",
                identities.join(" "),
                store_path("age-1.3.1")
            )
            .expect("text");
        }
        text += "ln -sfT \"/run/agenix.d/$_agenix_generation\" /run/agenix\n";
        match by {
            By::Activation => self.snippet("agenixInstall", &text),
            By::Unit => {
                self.users(Users::Userborn { mutable: Some(true), directory: "/etc" });
                let script = self.store("agenix-install", format!("#!/bin/sh\n{text}"));
                self.unit("agenix-install-secrets.service", &format!("[Service]\nExecStart={script}\n"));
                self
            }
        }
    }
}
