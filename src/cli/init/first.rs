//! The text of a first manifest.

use std::fmt::Write;
use std::path::Path;

use deaddrop_core::near;

use super::vault::Vault;
use crate::manifest::Manifest;

/// A host as it was named: `NAME` or `NAME=USER@ADDRESS`.
#[derive(Debug)]
pub(super) struct NamedHost {
    pub(super) name: String,
    ssh: Option<String>,
}

impl NamedHost {
    /// Checks it as a manifest is checked.
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

/// The name of a user, which becomes a part of an option's name.
pub(super) fn user(name: &str) -> Result<String, String> {
    judge(&format!("defaults: {{ owner: {} }}\n", yaml(name)))?;
    Ok(name.to_owned())
}

/// The first thing that is wrong with a manifest of these lines.
fn judge(lines: &str) -> Result<(), String> {
    let wrong = |errors: crate::manifest::ManifestErrors| {
        errors.problems().first().map_or_else(String::new, |problem| problem.message.clone())
    };
    Manifest::parse(&format!("version: 1\n{lines}"), Path::new("answer")).map(drop).map_err(wrong)
}

/// A text as YAML: plain where it reads as itself, else in double quotes, which escape as JSON does.
pub(super) fn yaml(text: &str) -> String {
    let starts_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '/' | '.' | '_'));
    let goes_on_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-@".contains(&byte));
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if starts_plain && goes_on_plain && !is_word { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// A secret that most homes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usual {
    Login,
    K3sToken,
    Wifi,
    DeployKey,
    HostKey,
}

impl Usual {
    const ALL: [Self; 5] = [Self::Login, Self::K3sToken, Self::Wifi, Self::DeployKey, Self::HostKey];

    fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::K3sToken => "k3s-token",
            Self::Wifi => "wifi",
            Self::DeployKey => "deploy-key",
            Self::HostKey => "host-key",
        }
    }

    /// All of their names, for a question.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Those that are named, each once.
    pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<Self>, String> {
        let mut list = Vec::new();
        for name in names.map(str::trim).filter(|name| !name.is_empty()) {
            let Some(usual) = Self::ALL.into_iter().find(|usual| usual.name() == name) else {
                let near = near::near(name, Self::ALL.map(Self::name).into_iter());
                let near = near::did_you_mean(&near).map_or(String::new(), |question| format!(": {question}"));
                let name = deaddrop_core::text::shown_text(name).unwrap_or_default();
                return Err(format!("there is no `{name}` among {}{near}", Self::names()));
            };
            if !list.contains(&usual) {
                list.push(usual);
            }
        }
        Ok(list)
    }

    fn lines(self, vault: &Vault, user: &str) -> String {
        let item = |title: &str| yaml(&vault.item(title));
        match self {
            Self::Login => {
                let option = format!("users.users.{user}.hashedPasswordFile");
                format!(
                    "  # The login password of {user}. NixOS wants a hash, so one is made:\n  \
                     #   {option} = \"/etc/secrets/{user}-password\";\n  \
                     {}:\n    path: {}\n    from: {}\n    hash: yescrypt\n    used_by: {}\n",
                    yaml(&format!("{user}-password")),
                    yaml(&format!("/etc/secrets/{user}-password")),
                    item(&format!("{user} login")),
                    yaml(&option),
                )
            }
            Self::K3sToken => format!(
                "  # The token by which the nodes of a cluster join it: the same on all of them, so it comes from the vault.\n  \
                 # `deaddrop generate token` prints a new one.\n  \
                 #   services.k3s.tokenFile = \"/etc/secrets/k3s-token\";\n  \
                 k3s-token:\n    path: /etc/secrets/k3s-token\n    from: {}\n    used_by: services.k3s.tokenFile\n",
                item("k3s token")
            ),
            Self::Wifi => format!(
                "  # The Wi-Fi password, as a line of the file that wpa_supplicant reads:\n  \
                 #   networking.wireless.secretsFile = \"/etc/secrets/wifi\";\n  \
                 #   networking.wireless.networks.home.pskRaw = \"ext:psk_home\";\n  \
                 wifi:\n    path: /etc/secrets/wifi\n    template: |\n      psk_home={{{{ secret('{}') }}}}\n    \
                 used_by: networking.wireless.secretsFile\n",
                vault.item("Wifi")
            ),
            Self::DeployKey => "  # The key by which each host reads a private repository (docs/deploy-key.md): made on the first run, kept from\n  \
                                # then on. `inject --public-out keys.txt` writes the public part, for the forge.\n  \
                                deploy-key:\n    path: /etc/secrets/deploy-key\n    generate: ssh-ed25519\n"
                .to_owned(),
            Self::HostKey => "  # The key by which each host shows itself to SSH clients: made on the first run, so that it is known before the first boot.\n  \
                              # `inject --public-out known_hosts` writes the line for known_hosts.\n  \
                              host-key:\n    path: /etc/ssh/ssh_host_ed25519_key\n    generate: ssh-host-ed25519\n"
                .to_owned(),
        }
    }
}

/// What a first manifest is made of.
#[derive(Debug)]
pub(super) struct FirstManifest {
    pub(super) hosts: Vec<NamedHost>,
    pub(super) vault: Vault,
    pub(super) secrets: Vec<Usual>,
    pub(super) user: String,
}

impl FirstManifest {
    /// The whole file.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "# Which secret belongs into which file of which host. It holds no value, so it can be committed.\n\
             # docs/manifest.md has every key. `deaddrop check` reads it; `deaddrop sources list vault` shows what the vault has.\n\
             version: 1\n\n\
             # Where values come from. `env` (environment variables) and `file` (files beside this one) are always there.\n\
             sources:\n  vault:\n{}\n\
             secrets:\n",
            self.vault.lines()
        );
        if self.secrets.is_empty() {
            text.push_str("  # NAME: { path: /etc/secrets/NAME, from: \"vault:ITEM\" }\n");
        }
        for (at, secret) in self.secrets.iter().enumerate() {
            let gap = if at > 0 { "\n" } else { "" };
            let _ = write!(text, "{gap}{}", secret.lines(&self.vault, &self.user));
        }
        text.push_str(
            "\n# The names that --host takes. A secret is for all of them unless it has `hosts: [NAME, …]`.\nhosts:\n",
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
                let secrets = Usual::ALL.to_vec();
                let vault = Vault::parse(kind).or_else(|_| Vault::parse(&format!("{kind}:some file"))).unwrap();
                let first = FirstManifest { hosts, vault, secrets, user: user.into() };
                let text = first.text();
                let manifest =
                    Manifest::parse(&text, Path::new("m")).unwrap_or_else(|errors| panic!("{kind}: {errors}\n{text}"));
                assert_eq!((manifest.secrets.len(), manifest.hosts.len()), (5, 2), "{kind}");
                assert!(manifest.warnings.is_empty(), "{kind}: {:?}", manifest.warnings);
            }
        }
    }
}
