//! The text of a first manifest.

use std::path::Path;

use deaddrop_core::near;

use super::answers;
use super::vault::Vault;
use crate::manifest::Manifest;

/// A host of `--host`: `NAME` or `NAME=USER@ADDRESS`.
#[derive(Debug)]
pub(super) struct NamedHost {
    pub(super) name: String,
    ssh: Option<String>,
}

impl NamedHost {
    /// Validates it with the manifest's own checks.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, ssh) = match text.split_once('=') {
            Some((name, ssh)) => (name.trim(), Some(ssh.trim().to_owned())),
            None => (text.trim(), None),
        };
        let host = Self { name: name.to_owned(), ssh };
        judge(&format!("hosts:\n{}", host.lines()))?;
        Ok(host)
    }

    fn lines(&self) -> String {
        match &self.ssh {
            Some(ssh) => format!("  {}: {{ ssh: {} }}\n", yaml(&self.name), yaml(ssh)),
            None => format!("  {}: {{}}\n", yaml(&self.name)),
        }
    }
}

/// The name of a user, which becomes part of an option's name.
pub(super) fn user(name: &str) -> Result<String, String> {
    judge(&format!("defaults: {{ owner: {} }}\n", yaml(name)))?;
    Ok(name.to_owned())
}

/// The first error of a manifest with these lines.
fn judge(lines: &str) -> Result<(), String> {
    let wrong = |errors: crate::manifest::ManifestErrors| {
        errors.problems().first().map_or_else(String::new, |problem| problem.message.clone())
    };
    Manifest::parse(&format!("version: 1\n{lines}"), Path::new("answer")).map(drop).map_err(wrong)
}

/// A text as YAML: plain if YAML reads it as itself, otherwise in double quotes, with the escapes of JSON.
pub(super) fn yaml(text: &str) -> String {
    let starts_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '/' | '.' | '_'));
    let goes_on_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-@".contains(&byte));
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if starts_plain && goes_on_plain && !is_word { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// A secret that most installations have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usual {
    Login,
    K3sToken,
    Wifi,
    DeployKey,
    HostKey,
    Flux,
}

impl Usual {
    pub(super) const ALL: [Self; 6] =
        [Self::Login, Self::K3sToken, Self::Wifi, Self::DeployKey, Self::HostKey, Self::Flux];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::K3sToken => "k3s-token",
            Self::Wifi => "wifi",
            Self::DeployKey => "deploy-key",
            Self::HostKey => "host-key",
            Self::Flux => "flux",
        }
    }

    /// All names, for a question.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The named secrets, each once. A text has one or several names, in any case, or is `all`.
    pub(super) fn list<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Self>, String> {
        let mut list = Vec::new();
        for part in texts.flat_map(|text| text.split(',')) {
            // `k3s token` is one name, and `login wifi` is two.
            match Self::named(part) {
                Some(usual) => list.extend(usual),
                None => {
                    for word in answers::words(part) {
                        list.extend(Self::named(word).ok_or_else(|| Self::unknown(word))?);
                    }
                }
            }
        }
        let mut seen = Vec::new();
        list.retain(|usual| {
            !seen.contains(usual) && {
                seen.push(*usual);
                true
            }
        });
        Ok(list)
    }

    /// The secret of this name, or all of them.
    fn named(name: &str) -> Option<Vec<Self>> {
        let name = name.trim().to_lowercase().replace([' ', '_'], "-");
        match name.as_str() {
            "" => Some(Vec::new()),
            "all" => Some(Self::ALL.to_vec()),
            "fluxcd" => Some(vec![Self::Flux]),
            name => Self::ALL.into_iter().find(|usual| usual.name() == name).map(|usual| vec![usual]),
        }
    }

    fn unknown(name: &str) -> String {
        let near = near::near(name, Self::ALL.map(Self::name).into_iter());
        let near = near::did_you_mean(&near).map_or(String::new(), |question| format!(": {question}"));
        let name = deaddrop_core::text::shown_text(name).unwrap_or_default();
        format!("there is no `{name}` among {}{near}", Self::names())
    }

    /// Its lines; `user` is the one whose login password it is.
    pub(super) fn lines(self, vault: &Vault, user: &str) -> String {
        let item = |title: &str| yaml(&vault.item(title));
        match self {
            Self::Login => {
                let option = format!("users.users.{user}.hashedPasswordFile");
                format!(
                    "  # The login password of {user}. NixOS needs a hash, so one is generated:\n  \
                     #   {option} = \"/etc/secrets/{user}-password\";\n  \
                     {}:\n    path: {}\n    from: {}\n    hash: yescrypt\n    used_by: {}\n    \
                     # If the image was activated with mutable users (NX101):\n    # apply_password: true\n",
                    yaml(&format!("{user}-password")),
                    yaml(&format!("/etc/secrets/{user}-password")),
                    item(&format!("{user} login")),
                    yaml(&option),
                )
            }
            Self::K3sToken => format!(
                "  # The token with which the nodes of a cluster join it: the same on all, so it is in the vault.\n  \
                 # `deaddrop generate token` prints a new one.\n  \
                 #   services.k3s.tokenFile = \"/etc/secrets/k3s-token\";\n  \
                 k3s-token:\n    path: /etc/secrets/k3s-token\n    from: {}\n    used_by: services.k3s.tokenFile\n    \
                 # No `restart`: a running cluster takes another token only by `k3s token rotate`, of which\n    \
                 # `rotate` reminds you.\n    kind: k3s-token\n",
                item("k3s token")
            ),
            Self::Wifi => format!(
                "  # The Wi-Fi password, as a line of the file that wpa_supplicant reads:\n  \
                 #   networking.wireless.secretsFile = \"/etc/secrets/wifi\";\n  \
                 #   networking.wireless.networks.home.pskRaw = \"ext:psk_home\";\n  \
                 wifi:\n    path: /etc/secrets/wifi\n    template: |\n      psk_home={{{{ secret('{}') }}}}\n    \
                 used_by: networking.wireless.secretsFile\n    # What `rotate` restarts on a running node when the \
                 password has changed:\n    restart: wpa_supplicant.service\n",
                vault.item("Wifi")
            ),
            Self::DeployKey => DEPLOY_KEY.to_owned(),
            Self::HostKey => HOST_KEY.to_owned(),
            Self::Flux => FLUX
                .replace("IDENTITY", &vault.text("Flux deploy key"))
                .replace("KNOWN_HOSTS", &vault.text("Flux known hosts")),
        }
    }
}

const DEPLOY_KEY: &str = "  \
  # The key with which each host reads a private repository (docs/deploy-key.md): generated on the first run, then
  # kept. `inject --public-out keys.txt` writes the public part.
  deploy-key:
    path: /etc/secrets/deploy-key
    generate: ssh-ed25519
";

const HOST_KEY: &str = "  \
  # The host's SSH key: generated on the first run, so that it is known before the first boot.
  # `inject --public-out known_hosts` writes the line for known_hosts.
  host-key:
    path: /etc/ssh/ssh_host_ed25519_key
    generate: ssh-host-ed25519
";

const FLUX: &str = "  \
  # FluxCD's Secret for a private git repository: k3s applies the files of this directory when it starts, so that the
  # cluster can fetch its configuration from the first boot on. The server only: `hosts: [NAME]`.
  flux:
    path: /var/lib/rancher/k3s/server/manifests/flux-git.yaml
    format: yaml
    template: |
      apiVersion: v1
      kind: Namespace
      metadata:
        name: flux-system
      ---
      apiVersion: v1
      kind: Secret
      metadata:
        name: flux-system
        namespace: flux-system
      type: Opaque
      data:
        identity: {{ secret('IDENTITY') | b64encode }}
        known_hosts: {{ secret('KNOWN_HOSTS') | b64encode }}
";

/// The comment by which an editor finds the JSON schema of a manifest.
pub(super) const SCHEMA: &str = "# yaml-language-server: \
    $schema=https://raw.githubusercontent.com/deaddrop/deaddrop/main/docs/manifest.schema.json";

/// The content of a first manifest.
#[derive(Debug)]
pub(super) struct FirstManifest {
    pub(super) hosts: Vec<NamedHost>,
    pub(super) vault: Vault,
    /// The lines of each secret.
    pub(super) secrets: Vec<String>,
}

impl FirstManifest {
    /// The whole file.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{SCHEMA}\n\
             # The secrets of each host, and their files. It contains no value, so it can be committed.\n\
             # docs/manifest.md has every key. `deaddrop check` checks it; `deaddrop sources list vault` lists items.\n\
             version: 1\n\n\
             # The sources of values. `env` (environment variables) and `file` (files next to this one) always exist.\n\
             sources:\n  vault:\n{}\n\
             secrets:\n",
            self.vault.lines()
        );
        if self.secrets.is_empty() {
            text.push_str("  # NAME: { path: /etc/secrets/NAME, from: \"vault:ITEM\" }\n");
        }
        text.push_str(&self.secrets.join("\n"));
        text.push_str(
            "\n# The hosts, for --host NAME. A secret is for all of them unless it has `hosts: [NAME, …]`.\nhosts:\n",
        );
        self.hosts.iter().for_each(|host| text.push_str(&host.lines()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_as_itself_in_yaml() {
        for (text, want) in [
            ("node1", "node1"),
            ("/etc/secrets/x", "/etc/secrets/x"),
            ("yes", "\"yes\""),
            ("1", "\"1\""),
            ("vault:k3s token", "\"vault:k3s token\""),
            ("a # b", "\"a # b\""),
            ("say \"x\"", "\"say \\\"x\\\"\""),
            ("-x", "\"-x\""),
            ("", "\"\""),
        ] {
            assert_eq!(yaml(text), want);
            let read = Manifest::parse(&format!("version: 1\nhosts: {{ h: {{ ssh: {want} }} }}\n"), Path::new("m"));
            if let Ok(manifest) = read {
                assert_eq!(manifest.hosts["h"].ssh.as_deref(), Some(text));
            }
        }
    }

    #[test]
    fn every_kind_of_vault_with_every_secret_makes_a_manifest_that_holds() {
        for kind in super::super::vault::names().split(", ") {
            for user in ["admin", "root", "a.b-c"] {
                let hosts = vec![NamedHost::parse("node1=root@192.168.1.11").unwrap(), NamedHost::parse("1").unwrap()];
                let vault = Vault::parse(kind).or_else(|_| Vault::parse(&format!("{kind}:some file"))).unwrap();
                let secrets = Usual::ALL.map(|usual| usual.lines(&vault, user)).to_vec();
                let first = FirstManifest { hosts, vault, secrets };
                let text = first.text();
                let manifest =
                    Manifest::parse(&text, Path::new("m")).unwrap_or_else(|errors| panic!("{kind}: {errors}\n{text}"));
                assert_eq!((manifest.secrets.len(), manifest.hosts.len()), (6, 2), "{kind}");
                assert!(manifest.warnings.is_empty(), "{kind}: {:?}", manifest.warnings);
            }
        }
    }
}
