//! Which secrets a host gets.

use thiserror::Error;

use super::model::{Host, HostSelector, Manifest, SecretSpec};
use crate::report::suggest;

/// A host that was not named, or that is not there. A mistake on the command line: exit code 2.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SelectError {
    /// Some secrets are for certain hosts only, and none was named.
    #[error("some secrets are for certain hosts only, and no host was named")]
    HostNeeded {
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
}

impl SelectError {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::HostNeeded { hosts } if hosts.is_empty() => NO_HOSTS.to_owned(),
            Self::HostNeeded { hosts } => format!("add `--host NAME`; {}", there_are(hosts)),
            Self::UnknownHost { hosts, .. } if hosts.is_empty() => NO_HOSTS.to_owned(),
            Self::UnknownHost { near, hosts, .. } => {
                let near: Vec<&str> = near.iter().map(String::as_str).collect();
                match suggest::did_you_mean(&near) {
                    Some(question) => format!("{question} {}", there_are(hosts)),
                    None => there_are(hosts),
                }
            }
        }
    }
}

/// The hint for a manifest without hosts.
const NO_HOSTS: &str = "the manifest has no hosts; they are named under `hosts`";

fn there_are(hosts: &[String]) -> String {
    format!("hosts here: {}", suggest::list(hosts.iter().map(String::as_str)))
}

impl Manifest {
    /// True for a source that is declared, and for `env` and `file`.
    #[must_use]
    pub fn has_source(&self, name: &str) -> bool {
        self.sources.contains_key(name) || super::check::BUILT_IN.contains(&name)
    }

    /// The secrets of `host`, in the file's order: those without `hosts`, and those that name it or one of its tags.
    /// Without a host: all secrets, provided that none has `hosts`.
    ///
    /// # Errors
    /// A host is needed, or is not in the manifest.
    pub fn select(&self, host: Option<&str>) -> Result<Vec<&SecretSpec>, SelectError> {
        let all = || self.hosts.keys().cloned().collect::<Vec<String>>();
        let Some(name) = host else {
            return match self.secrets.iter().any(|secret| !secret.hosts.is_empty()) {
                true => Err(SelectError::HostNeeded { hosts: all() }),
                false => Ok(self.secrets.iter().collect()),
            };
        };
        let Some(host) = self.hosts.get(name) else {
            let near = suggest::near(name, self.hosts.keys().map(String::as_str));
            return Err(SelectError::UnknownHost {
                name: super::excerpt::clean(name),
                near: near.into_iter().map(str::to_owned).collect(),
                hosts: all(),
            });
        };
        Ok(self.secrets.iter().filter(|secret| is_for(secret, name, host)).collect())
    }
}

fn is_for(secret: &SecretSpec, name: &str, host: &Host) -> bool {
    secret.hosts.is_empty()
        || secret.hosts.iter().any(|selector| match selector {
            HostSelector::Host(wanted) => wanted == name,
            HostSelector::Tag(tag) => host.tags.contains(tag),
        })
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
        manifest.select(host).unwrap().into_iter().map(|secret| secret.name.clone()).collect()
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
        let error = manifest.select(None).unwrap_err();
        assert_eq!(error.to_string(), "some secrets are for certain hosts only, and no host was named");
        assert_eq!(error.hint(), "add `--host NAME`; hosts here: node1, node2, node3");
        let manifest = Manifest::parse("version: 1\nsecrets: {a: {path: /a, from: env:A}}\n", Path::new("m")).unwrap();
        assert_eq!(names(&manifest, None), ["a"]);
        assert_eq!(manifest.select(Some("x")).unwrap_err().hint(), NO_HOSTS);
    }

    #[test]
    fn an_unknown_host_is_told_with_near_names_and_the_list() {
        let manifest = Manifest::parse(MANIFEST, Path::new("m")).unwrap();
        let error = manifest.select(Some("nod1")).unwrap_err();
        assert_eq!(error.to_string(), "unknown host `nod1`");
        assert_eq!(error.hint(), "did you mean `node1`? hosts here: node1, node2, node3");
        let error = manifest.select(Some("\u{1b}[2J")).unwrap_err();
        assert_eq!(error.to_string(), "unknown host `\u{fffd}[2J`");
    }
}
