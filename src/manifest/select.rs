//! Selects the secrets of a host.

use deaddrop_core::near;
use thiserror::Error;

use super::model::{Host, HostSelector, Manifest, SecretSpec};

/// A host or secret that is missing on the command line, or unknown. Exit code 2.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SelectError {
    /// No host is named, although some secrets have `hosts`.
    #[error("some secrets are for certain hosts only, and no host was named")]
    HostNeeded {
        /// Every host of the manifest, sorted.
        hosts: Vec<String>,
    },
    /// No host is named, although a secret depends on the host.
    #[error("secret `{secret}` differs from host to host (`{{host}}` stands in it), and no host was named")]
    HostNamed {
        /// The first such secret.
        secret: String,
        /// Every host of the manifest, sorted.
        hosts: Vec<String>,
    },
    /// The manifest has no host of this name.
    #[error("unknown host `{name}`")]
    UnknownHost {
        /// The name that the user gave, safe for a terminal.
        name: String,
        /// Hosts with similar names, nearest first.
        near: Vec<String>,
        /// Every host of the manifest, sorted.
        hosts: Vec<String>,
    },
    /// The manifest has no secret of this name.
    #[error("unknown secret `{name}`")]
    UnknownSecret {
        /// The name that the user gave, safe for a terminal.
        name: String,
        /// Secrets with similar names, nearest first.
        near: Vec<String>,
        /// Every secret of the run, in the file's order.
        secrets: Vec<String>,
    },
    /// The named secret is only for other hosts.
    #[error("secret `{secret}` is not for host `{host}`")]
    NotForHost {
        /// The secret's name.
        secret: String,
        /// The named host.
        host: String,
        /// The secret's `hosts`.
        wanted: Vec<String>,
    },
}

impl SelectError {
    /// The hint for the user.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::HostNeeded { hosts } | Self::HostNamed { hosts, .. } if hosts.is_empty() => NO_HOSTS.to_owned(),
            Self::HostNeeded { hosts } | Self::HostNamed { hosts, .. } => {
                format!("add `--host NAME`; {}", there_are(hosts))
            }
            Self::UnknownHost { hosts, .. } if hosts.is_empty() => NO_HOSTS.to_owned(),
            Self::UnknownHost { near, hosts, .. } => with_near(near, there_are(hosts)),
            Self::UnknownSecret { secrets, .. } if secrets.is_empty() => {
                "the manifest has no secrets; they are named under `secrets`".to_owned()
            }
            Self::UnknownSecret { near, secrets, .. } => {
                with_near(near, format!("secrets here: {}", near::list(secrets.iter().map(String::as_str))))
            }
            Self::NotForHost { wanted, .. } => {
                let wanted = near::list(wanted.iter().map(String::as_str));
                format!("its `hosts` are {wanted}: name another host, or leave it out of --only")
            }
        }
    }
}

fn with_near(near: &[String], all: String) -> String {
    let near: Vec<&str> = near.iter().map(String::as_str).collect();
    near::did_you_mean(&near).map_or(all.clone(), |question| format!("{question} {all}"))
}

/// The hint for a manifest without hosts.
const NO_HOSTS: &str = "the manifest has no hosts; they are named under `hosts`";

fn there_are(hosts: &[String]) -> String {
    format!("hosts here: {}", near::list(hosts.iter().map(String::as_str)))
}

impl Manifest {
    /// True for a declared source, and for `env` and `file`.
    #[must_use]
    pub fn has_source(&self, name: &str) -> bool {
        self.sources.contains_key(name) || super::check::BUILT_IN.contains(&name)
    }

    /// The secrets of a run, in the file's order: those for `host` (without `hosts`, or with `hosts` that include it),
    /// restricted to the ones in `only` if it is not empty. With no host: all secrets, if none of them has `hosts` or
    /// depends on the host.
    ///
    /// # Errors
    /// A host is required but not named, or is unknown; a secret in `only` is unknown, or not for that host.
    pub fn select(&self, host: Option<&str>, only: &[String]) -> Result<Vec<&SecretSpec>, SelectError> {
        let all = || self.hosts.keys().cloned().collect::<Vec<String>>();
        let mut secrets = self.named(only)?;
        let Some(name) = host else {
            if secrets.iter().any(|secret| !secret.hosts.is_empty()) {
                return Err(SelectError::HostNeeded { hosts: all() });
            }
            return match secrets.iter().find(|secret| secret.names_host()) {
                Some(secret) => Err(SelectError::HostNamed { secret: secret.name.clone(), hosts: all() }),
                None => Ok(secrets),
            };
        };
        let Some(host) = self.hosts.get(name) else {
            let near = near::near(name, self.hosts.keys().map(String::as_str));
            return Err(SelectError::UnknownHost {
                name: deaddrop_core::shown::text(name),
                near: near.into_iter().map(str::to_owned).collect(),
                hosts: all(),
            });
        };
        if let Some(other) = secrets.iter().find(|secret| !only.is_empty() && !secret.is_for(name, host)) {
            let wanted = other.hosts.iter().map(selector_text).collect();
            return Err(SelectError::NotForHost { secret: other.name.clone(), host: name.to_owned(), wanted });
        }
        secrets.retain(|secret| secret.is_for(name, host));
        Ok(secrets)
    }

    /// The secrets in `only`, in the file's order; all if it is empty.
    ///
    /// # Errors
    /// A secret in `only` is not in the manifest.
    pub fn named(&self, only: &[String]) -> Result<Vec<&SecretSpec>, SelectError> {
        let names = || self.secrets.iter().map(|secret| secret.name.as_str());
        if let Some(unknown) = only.iter().find(|wanted| !names().any(|name| name == *wanted)) {
            return Err(SelectError::UnknownSecret {
                name: deaddrop_core::shown::text(unknown),
                near: near::near(unknown, names()).into_iter().map(str::to_owned).collect(),
                secrets: names().map(str::to_owned).collect(),
            });
        }
        Ok(self.secrets.iter().filter(|secret| only.is_empty() || only.contains(&secret.name)).collect())
    }
}

/// The selector as selector_text in the manifest.
fn selector_text(selector: &HostSelector) -> String {
    match selector {
        HostSelector::Host(name) => name.clone(),
        HostSelector::Tag(tag) => format!("tag:{tag}"),
    }
}

impl SecretSpec {
    /// True if the host called `name` gets this secret.
    #[must_use]
    pub fn is_for(&self, name: &str, host: &Host) -> bool {
        self.hosts.is_empty()
            || self.hosts.iter().any(|selector| match selector {
                HostSelector::Host(wanted) => wanted == name,
                HostSelector::Tag(tag) => host.tags.contains(tag),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const MANIFEST: &str = "version: 1
secrets:
  every: { path: /etc/every, from: env:A }
  one: { path: /etc/one, from: env:A, hosts: [node1] }
  servers: { path: /etc/servers, from: env:A, hosts: [\"tag:server\"] }
hosts:
  node1: { tags: [server, rack1] }
  node2: { tags: [server] }
  node3:
";

    fn names(manifest: &Manifest, host: Option<&str>) -> Vec<String> {
        manifest.select(host, &[]).unwrap().into_iter().map(|secret| secret.name.clone()).collect()
    }

    #[test]
    fn a_host_gets_what_is_for_every_host_for_its_name_and_for_its_tags() {
        let manifest = Manifest::parse(MANIFEST, Path::new("m")).unwrap();
        assert_eq!(names(&manifest, Some("node1")), ["every", "one", "servers"]);
        assert_eq!(names(&manifest, Some("node2")), ["every", "servers"]);
        assert_eq!(names(&manifest, Some("node3")), ["every"]);
    }

    #[test]
    fn without_a_host_all_secrets_are_meant_unless_one_has_hosts() {
        let manifest = Manifest::parse(MANIFEST, Path::new("m")).unwrap();
        let error = manifest.select(None, &[]).unwrap_err();
        assert_eq!(error.to_string(), "some secrets are for certain hosts only, and no host was named");
        assert_eq!(error.hint(), "add `--host NAME`; hosts here: node1, node2, node3");
        let manifest = Manifest::parse("version: 1\nsecrets: {a: {path: /a, from: env:A}}\n", Path::new("m")).unwrap();
        assert_eq!(names(&manifest, None), ["a"]);
        assert_eq!(manifest.select(Some("x"), &[]).unwrap_err().hint(), NO_HOSTS);
    }

    #[test]
    fn an_unknown_host_is_told_with_near_names_and_the_list() {
        let manifest = Manifest::parse(MANIFEST, Path::new("m")).unwrap();
        let error = manifest.select(Some("nod1"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "unknown host `nod1`");
        assert_eq!(error.hint(), "did you mean `node1`? hosts here: node1, node2, node3");
        let error = manifest.select(Some("\u{1b}[2J"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "unknown host `\u{fffd}[2J`");
    }

    #[test]
    fn named_secrets_alone_are_meant_and_only_they_can_need_a_host() {
        let manifest = Manifest::parse(MANIFEST, Path::new("m")).unwrap();
        let names = |host, only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            let selected = manifest.select(host, &only)?;
            Ok::<_, SelectError>(selected.into_iter().map(|secret| secret.name.clone()).collect::<Vec<_>>())
        };
        // In the file's order, each once.
        assert_eq!(names(Some("node1"), &["servers", "every", "servers"]).unwrap(), ["every", "servers"]);
        assert_eq!(names(None, &["every"]).unwrap(), ["every"]);
        for (name, host, only, error, hint) in [
            (
                "one of them needs a host",
                None,
                &["every", "one"][..],
                "some secrets are for certain hosts only, and no host was named",
                "add `--host NAME`; hosts here: node1, node2, node3",
            ),
            (
                "unknown",
                Some("node1"),
                &["every", "server"],
                "unknown secret `server`",
                "did you mean `servers`? secrets here: every, one, servers",
            ),
            ("an escape", None, &["\u{1b}[2J"], "unknown secret `\u{fffd}[2J`", "secrets here: every, one, servers"),
            (
                "another host's",
                Some("node3"),
                &["servers"],
                "secret `servers` is not for host `node3`",
                "its `hosts` are tag:server: name another host, or leave it out of --only",
            ),
            ("an unknown host", Some("x"), &["every"], "unknown host `x`", "hosts here: node1, node2, node3"),
        ] {
            let found = names(host, only).unwrap_err();
            assert_eq!((found.to_string().as_str(), found.hint().as_str()), (error, hint), "{name}");
        }
    }
}
