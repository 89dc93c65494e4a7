//! The names in a manifest, for completions. The manifest is read and decoded, but not checked: this takes no other
//! file, and a mistake in one place does not hide the names in others.

use std::collections::BTreeMap;
use std::path::Path;

use deaddrop_core::keys::{Entries, Entry, Field};

use super::check::BUILT_IN;
use super::decode::Context;
use super::problem::Problems;
use super::schema::{RawHost, RawManifest};
use super::tree::Tree;
use super::{indent, read, values};

/// A name, and what it stands for in a few words, which may be empty.
pub type Named = (String, String);

/// The names in a manifest, each list in the order of the file.
#[derive(Debug, Default)]
pub struct Names {
    /// Hosts, with their SSH addresses.
    pub hosts: Vec<Named>,
    /// Tags of hosts, with their number of hosts; sorted.
    pub tags: Vec<Named>,
    /// Secrets, with their paths.
    pub secrets: Vec<Named>,
    /// Sources, with their types; also the predeclared ones.
    pub sources: Vec<Named>,
}

impl Names {
    /// The names in the manifest at `path`: a regular file of at most 16 MiB. Reads no other file, and never standard
    /// input. `None` for what is no manifest.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        if read::is_standard_input(path) {
            return None;
        }
        let mut problems = Problems::default();
        Self::parse(&read::text(path, &mut problems)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut problems = Problems::default();
        let tree = Tree::parse(text, &mut problems)?;
        if indent::report(&tree, &mut problems) {
            return None;
        }
        let context = Context::new(&tree, problems);
        let (_, manifest) = context.decode::<RawManifest>().good()?;
        let hosts = entries(manifest.hosts);
        let tags = tags(&hosts);
        let mut sources = named(entries(manifest.sources), |source| source.kind().to_owned());
        for name in BUILT_IN {
            if !sources.iter().any(|(known, _)| known == name) {
                sources.push((name.to_owned(), String::new()));
            }
        }
        Some(Self {
            hosts: named(hosts, |host| text_of(host.ssh)),
            tags,
            secrets: named(entries(manifest.secrets), |secret| text_of(secret.path)),
            sources,
        })
    }
}

fn entries<T>(section: Field<Entries<T>>) -> Vec<Entry<T>> {
    section.good().map(|(_, entries)| entries.0).unwrap_or_default()
}

fn text_of(field: Field<String>) -> String {
    field.good().map(|(_, text)| text).unwrap_or_default()
}

/// The names that are none are left out.
fn named<T>(entries: Vec<Entry<T>>, about: impl Fn(T) -> String) -> Vec<Named> {
    let good = entries.into_iter().filter(|entry| values::label(&entry.name, "").is_ok());
    good.map(|entry| (entry.name, entry.value.good().map(|(_, value)| about(value)).unwrap_or_default())).collect()
}

fn tags(hosts: &[Entry<RawHost>]) -> Vec<Named> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for host in hosts {
        let Field::Good(_, RawHost { tags: Field::Good(_, tags), .. }) = &host.value else { continue };
        for tag in tags {
            if let Field::Good(_, tag) = tag {
                let count = counts.entry(tag).or_default();
                *count = count.saturating_add(1);
            }
        }
    }
    let about = |count| if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") };
    counts.into_iter().map(|(tag, count)| (tag.to_owned(), about(count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(named: &[Named]) -> Vec<String> {
        named.iter().map(|(name, about)| format!("{name}={about}")).collect()
    }

    #[test]
    fn every_name_is_told_with_what_it_stands_for() {
        let names = Names::parse(
            "version: 1
sources: { vault: { type: bitwarden, path: vault.json }, env: { type: env, prefix: A_ } }
secrets: { wifi: { path: /etc/wifi, from: vault:Wifi }, login: { path: /etc/login, from: vault:Login } }
hosts: { node2: { ssh: root@node2, tags: [server, edge] }, node1: { tags: [server] }, node3: }
",
        )
        .unwrap();
        assert_eq!(texts(&names.hosts), ["node2=root@node2", "node1=", "node3="]);
        assert_eq!(texts(&names.tags), ["edge=1 host", "server=2 hosts"]);
        assert_eq!(texts(&names.secrets), ["wifi=/etc/wifi", "login=/etc/login"]);
        assert_eq!(texts(&names.sources), ["vault=bitwarden", "env=env", "file="]);
    }

    #[test]
    fn a_mistake_elsewhere_hides_no_name_and_what_is_no_manifest_has_none() {
        let names =
            Names::parse("version: 9\nsecrets: { a: { path: 7, form: x } }\nhosts: { node1: , \"\": }\n").unwrap();
        assert_eq!((texts(&names.secrets), texts(&names.hosts)), (vec!["a=".to_owned()], vec!["node1=".to_owned()]));
        for text in ["", "- a\n", "a: [", "version: 1\n\thosts:\n", "7\n"] {
            assert!(Names::parse(text).is_none_or(|names| names.hosts.is_empty()), "{text:?}");
        }
        assert!(Names::of(Path::new("-")).is_none() && Names::of(Path::new("/")).is_none());
    }
}
