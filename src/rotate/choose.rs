//! Selects the hosts of a run: `HOST…`, `tag:NAME`, or all of them. Pure, and before any contact.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use deaddrop_core::near;
use deaddrop_core::text::shown_text;

use crate::manifest::{Host, Manifest};

/// The hosts as the command line names them.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// `HOST` or `tag:NAME`, in the order of the command line.
    pub named: &'a [String],
    /// `--all`.
    pub all: bool,
}

/// A host of the run.
#[derive(Debug, Clone, Copy)]
pub struct ChosenHost<'m> {
    /// Its name in the manifest.
    pub name: &'m str,
    /// Its entry in the manifest.
    pub host: &'m Host,
}

/// The command line names hosts that cannot be selected: exit code 2.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChooseError {
    /// Neither a host nor a tag nor all.
    #[error("no host was named")]
    Nothing {
        /// Every host of the manifest, sorted.
        hosts: Vec<String>,
    },
    /// The manifest has no host of this name.
    #[error("unknown host `{name}`")]
    UnknownHost {
        /// The name on the command line, safe for a terminal.
        name: String,
        /// Similar names of hosts, and of tags as `tag:NAME`, nearest first.
        near: Vec<String>,
        /// Every host of the manifest, sorted.
        hosts: Vec<String>,
    },
    /// No host of the manifest has this tag.
    #[error("no host has the tag `{tag}`")]
    UnknownTag {
        /// The name on the command line, safe for a terminal.
        tag: String,
        /// Tags with similar names, nearest first, as `tag:NAME`.
        near: Vec<String>,
        /// Every tag of the manifest, sorted, as `tag:NAME`.
        tags: Vec<String>,
    },
    /// Hosts without an address in the manifest.
    #[error("{} no `ssh`, and so cannot be reached", have(.hosts))]
    NoSsh {
        /// Their names.
        hosts: Vec<String>,
    },
}

fn have(hosts: &[String]) -> String {
    let verb = if hosts.len() == 1 { "has" } else { "have" };
    format!("{} {verb}", near::list(hosts.iter().map(String::as_str)))
}

impl ChooseError {
    /// The next step for the user.
    #[must_use]
    pub fn hint(&self) -> String {
        let list = |names: &[String]| near::list(names.iter().map(String::as_str));
        let with_near = |near: &[String], all: String| {
            let near: Vec<&str> = near.iter().map(String::as_str).collect();
            near::did_you_mean(&near).map_or(all.clone(), |question| format!("{question} {all}"))
        };
        match self {
            Self::Nothing { hosts } | Self::UnknownHost { hosts, .. } if hosts.is_empty() => {
                "the manifest has no hosts; they are named under `hosts`".to_owned()
            }
            Self::Nothing { hosts } => {
                format!("name hosts, or tag:NAME, or say --all; hosts here: {}", list(hosts))
            }
            Self::UnknownHost { near, hosts, .. } => with_near(near, format!("hosts here: {}", list(hosts))),
            Self::UnknownTag { tags, .. } if tags.is_empty() => {
                "no host has tags; they are said at hosts.NAME.tags".to_owned()
            }
            Self::UnknownTag { near, tags, .. } => with_near(near, format!("tags here: {}", list(tags))),
            Self::NoSsh { hosts } => {
                let first = hosts.first().map_or("NAME", String::as_str);
                format!("add hosts.{first}.ssh (`user@address`, or a name of your ssh configuration), or leave it out")
            }
        }
    }
}

/// The hosts of a run, each once, in the order in which `selection` names them. Those of a tag, and all hosts, are
/// sorted by name.
///
/// # Errors
/// The first argument that is no host or tag; hosts without `ssh`.
pub fn choose<'m>(manifest: &'m Manifest, selection: Selection<'_>) -> Result<Vec<ChosenHost<'m>>, ChooseError> {
    let every = || manifest.hosts.keys().cloned().collect::<Vec<String>>();
    if !selection.all && selection.named.is_empty() {
        return Err(ChooseError::Nothing { hosts: every() });
    }
    let mut seen = HashSet::new();
    let mut chosen: Vec<ChosenHost<'m>> = Vec::new();
    let mut add = |name: &'m str, host: &'m Host| {
        if seen.insert(name) {
            chosen.push(ChosenHost { name, host });
        }
    };
    if selection.all {
        manifest.hosts.iter().for_each(|(name, host)| add(name, host));
    }
    let tags = by_tag(manifest);
    for word in selection.named {
        if let Some(tag) = word.strip_prefix("tag:") {
            let Some(hosts) = tags.get(tag) else { return Err(unknown_tag(tag, &tags)) };
            hosts.iter().for_each(|(name, host)| add(name, host));
        } else {
            // As `plan` and `verify` name a node.
            let found = manifest.hosts.get_key_value(word);
            let found = found.or_else(|| manifest.hosts.get_key_value(word.strip_prefix('@')?));
            let Some((name, host)) = found else {
                return Err(unknown_host(word, &tags, every()));
            };
            add(name, host);
        }
    }
    let unreachable: Vec<String> =
        chosen.iter().filter(|chosen| chosen.host.ssh.is_none()).map(|chosen| chosen.name.to_owned()).collect();
    match unreachable.is_empty() {
        true => Ok(chosen),
        false => Err(ChooseError::NoSsh { hosts: unreachable }),
    }
}

/// The hosts of each tag, in the order of their names.
type Tags<'m> = BTreeMap<&'m str, Vec<(&'m String, &'m Host)>>;

fn by_tag(manifest: &Manifest) -> Tags<'_> {
    let mut tags = Tags::new();
    for (name, host) in &manifest.hosts {
        // A tag that a host lists twice counts once.
        for tag in host.tags.iter().collect::<BTreeSet<_>>() {
            tags.entry(tag).or_default().push((name, host));
        }
    }
    tags
}

/// Positions in `chosen` of the hosts with this tag.
///
/// # Errors
/// If no host of the manifest has it.
pub fn with_tag(manifest: &Manifest, chosen: &[ChosenHost<'_>], tag: &str) -> Result<Vec<usize>, ChooseError> {
    let tags = by_tag(manifest);
    if !tags.contains_key(tag) {
        return Err(unknown_tag(tag, &tags));
    }
    let has = |chosen: &ChosenHost<'_>| chosen.host.tags.iter().any(|own| own == tag);
    Ok(chosen.iter().enumerate().filter(|(_, chosen)| has(chosen)).map(|(at, _)| at).collect())
}

fn unknown_host(word: &str, tags: &Tags<'_>, hosts: Vec<String>) -> ChooseError {
    let mut near: Vec<String> =
        near::near(word, hosts.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
    // A tag without its `tag:` is a likely mistake.
    near.extend(tags.get_key_value(word).map(|(tag, _)| format!("tag:{tag}")));
    ChooseError::UnknownHost { name: shown_text(word).unwrap_or_default(), near, hosts }
}

fn unknown_tag(tag: &str, tags: &Tags<'_>) -> ChooseError {
    let near = near::near(tag, tags.keys().copied());
    ChooseError::UnknownTag {
        tag: shown_text(tag).unwrap_or_default(),
        near: near.into_iter().map(|tag| format!("tag:{tag}")).collect(),
        tags: tags.keys().map(|tag| format!("tag:{tag}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn manifest() -> Manifest {
        let text = "version: 1
secrets: { a: { path: /etc/a, from: env:A } }
hosts:
  web2: { ssh: web2, tags: [web, web] }
  web1: { ssh: web1, tags: [web, edge] }
  db1: { ssh: db1, tags: [data] }
  card: { tags: [image] }
";
        Manifest::parse(text, Path::new("m")).unwrap()
    }

    fn names(selection: &[&str], all: bool) -> Result<Vec<String>, ChooseError> {
        let manifest = manifest();
        let named: Vec<String> = selection.iter().map(|word| (*word).to_owned()).collect();
        let chosen = choose(&manifest, Selection { named: &named, all })?;
        Ok(chosen.iter().map(|chosen| chosen.name.to_owned()).collect())
    }

    #[test]
    fn hosts_come_in_the_persons_order_each_once() {
        for (selection, want) in [
            (&["web2"][..], &["web2"][..]),
            (&["db1", "web1", "db1"], &["db1", "web1"]),
            (&["tag:web"], &["web1", "web2"]),
            (&["web2", "tag:web", "tag:edge", "tag:data"], &["web2", "web1", "db1"]),
        ] {
            assert_eq!(names(selection, false).unwrap(), want, "{selection:?}");
        }
    }

    #[test]
    fn all_means_every_host_and_one_that_cannot_be_reached_is_told() {
        let error = names(&[], true).unwrap_err();
        assert_eq!(error.to_string(), "card has no `ssh`, and so cannot be reached");
        assert!(error.hint().starts_with("add hosts.card.ssh"), "{}", error.hint());
        assert_eq!(names(&["web1", "tag:image"], false), Err(ChooseError::NoSsh { hosts: vec!["card".into()] }));
        let text = "version: 1\nhosts: { b: { ssh: b }, a: { ssh: a } }\n";
        let manifest = Manifest::parse(text, Path::new("m")).unwrap();
        let chosen = choose(&manifest, Selection { named: &["b".into()], all: true }).unwrap();
        assert_eq!(chosen.iter().map(|chosen| chosen.name).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_unknown_host_or_tag_is_told_with_what_is_near() {
        for (word, error, hint) in [
            ("web3", "unknown host `web3`", "did you mean `web1` or `web2`? hosts here: card, db1, web1, web2"),
            ("data", "unknown host `data`", "did you mean `tag:data`? hosts here: card, db1, web1, web2"),
            (
                "tag:wep",
                "no host has the tag `wep`",
                "did you mean `tag:web`? tags here: tag:data, tag:edge, tag:image, tag:web",
            ),
            ("tag:", "no host has the tag ``", "tags here: tag:data, tag:edge, tag:image, tag:web"),
            ("\u{1b}[2J", "unknown host `\u{fffd}[2J`", "hosts here: card, db1, web1, web2"),
        ] {
            let found = names(&["web1", word], false).unwrap_err();
            assert_eq!((found.to_string().as_str(), found.hint().as_str()), (error, hint));
        }
        let nothing = names(&[], false).unwrap_err();
        assert_eq!(nothing.to_string(), "no host was named");
        assert!(nothing.hint().contains("--all; hosts here: card, db1"), "{}", nothing.hint());
    }

    #[test]
    fn a_manifest_without_hosts_or_tags_says_where_they_belong() {
        let manifest = Manifest::parse("version: 1\nhosts: { a: { ssh: a } }\n", Path::new("m")).unwrap();
        let error = choose(&manifest, Selection { named: &["tag:x".into()], all: false }).unwrap_err();
        assert!(error.hint().contains("hosts.NAME.tags"), "{}", error.hint());
        let manifest = Manifest::parse("version: 1\n", Path::new("m")).unwrap();
        let error = choose(&manifest, Selection { named: &["a".into()], all: false }).unwrap_err();
        assert!(error.hint().contains("named under `hosts`"), "{}", error.hint());
    }

    #[test]
    fn the_hosts_of_a_tag_are_found_among_the_chosen() {
        let manifest = manifest();
        let named = ["db1", "web2", "web1"].map(str::to_owned);
        let chosen = choose(&manifest, Selection { named: &named, all: false }).unwrap();
        assert_eq!(with_tag(&manifest, &chosen, "web").unwrap(), [1, 2]);
        // The tag is there, and none of the chosen has it.
        assert!(with_tag(&manifest, &chosen, "image").unwrap().is_empty());
        assert!(with_tag(&manifest, &chosen, "wob").is_err());
    }
}
