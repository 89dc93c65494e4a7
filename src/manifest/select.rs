//! Which secrets a host gets.

use deaddrop_core::near;
use thiserror::Error;

use super::model::{Host, HostSelector, Manifest, SecretSpec};

/// A host or a secret that was not named, or that is not there. A mistake on the command line: exit code 2.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SelectError {
    /// Some secrets are for certain hosts only, and none was named.
    #[error("some secrets are for certain hosts only, and no host was named")]
    HostNeeded {
        /// Every host of the manifest, sorted.
        hosts: Vec<String>,
    },
    /// A secret's file differs from host to host, and none was named.
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
        /// What was asked for, made fit for a terminal.
        name: String,
        /// Hosts whose names are like it, nearest first.
        near: Vec<String>,
        /// Every host of the manifest, sorted.
        hosts: Vec<String>,
    },
    /// The manifest has no secret of this name.
    #[error("unknown secret `{name}`")]
    UnknownSecret {
        /// What was asked for, made fit for a terminal.
        name: String,
        /// Secrets whose names are like it, nearest first.
        near: Vec<String>,
        /// Every secret that the run could have, in the file's order.
        secrets: Vec<String>,
    },
    /// The secret that was asked for is for other hosts only.
    #[error("secret `{secret}` is not for host `{host}`")]
    NotForHost {
        /// The secret's name.
        secret: String,
        /// The host that was named.
        host: String,
        /// What the secret's `hosts` says.
        wanted: Vec<String>,
    },
}

impl SelectError {
    /// What to do.
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
    /// True for a source that is declared, and for `env` and `file`.
    #[must_use]
    pub fn has_source(&self, name: &str) -> bool {
        self.sources.contains_key(name) || super::check::BUILT_IN.contains(&name)
    }

    /// The secrets of a run, in the file's order: those of `host` (without `hosts`, or naming it or one of its tags), and of
    /// these only the ones that `only` names, if it names any. Without a host: all of them, provided that none of those has
    /// `hosts`, or the host's name in it.
    ///
    /// # Errors
    /// A host is needed, or is not in the manifest; a named secret is not there, or not for that host.
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
            let wanted = other.hosts.iter().map(written).collect();
            return Err(SelectError::NotForHost { secret: other.name.clone(), host: name.to_owned(), wanted });
        }
        secrets.retain(|secret| secret.is_for(name, host));
        Ok(secrets)
    }

    /// The secrets that `only` names, in the file's order; all of them if it names none.
    ///
    /// # Errors
    /// A named secret is not in the manifest.
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

/// As it stands in the manifest.
fn written(selector: &HostSelector) -> String {
    match selector {
        HostSelector::Host(name) => name.clone(),
        HostSelector::Tag(tag) => format!("tag:{tag}"),
    }
}

impl SecretSpec {
    /// True when the host `name` of the manifest gets it.
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
