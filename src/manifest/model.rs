//! The manifest after validation: what the rest of the program works with.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::generate::GenerateSpec;
use super::rotation::{Become, BecomePassword, OnChange, SecretKind};
use super::sources::SourceSpec;
use crate::derive::encoding::Encoding;
use crate::derive::expect::Expect;
use crate::derive::format::Format;
use crate::derive::template::Template;

/// A checked manifest.
#[derive(Debug)]
pub struct Manifest {
    /// The file as the person named it, for messages.
    pub file: PathBuf,
    /// The directory where relative paths of sources start.
    pub directory: PathBuf,
    /// Named sources. `env` and `file` are always there, named or not.
    pub sources: BTreeMap<String, SourceSpec>,
    /// Secrets in the file's order.
    pub secrets: Vec<SecretSpec>,
    /// Hosts by name.
    pub hosts: BTreeMap<String, Host>,
    /// Tags whose hosts are rotated one at a time.
    pub serial: Vec<String>,
    /// What is allowed but probably not meant, in the file's order.
    pub warnings: Vec<Warning>,
}

/// A finding about a secret that does not stop the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// `NX003`, …
    pub code: &'static str,
    /// The secret's name.
    pub secret: String,
    /// What will happen, and why.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Where the secret's key stands in the manifest.
    pub location: Location,
}

/// Where in the manifest something stands: 1-based line and column (columns count characters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
}

/// One declared file, with the defaults applied.
#[derive(Debug, Clone)]
pub struct SecretSpec {
    /// Its key under `secrets`.
    pub name: String,
    /// Where its key stands in the manifest.
    pub location: Location,
    /// Where the file belongs in the target.
    pub path: TargetPath,
    /// What the file holds.
    pub value: ValueSpec,
    /// How the value is written in its source.
    pub encoding: Option<Encoding>,
    /// What the value must be.
    pub expect: Expect,
    /// What the file must parse as.
    pub format: Option<Format>,
    /// Make a crypt(3) hash of the value.
    pub hash: Option<HashScheme>,
    /// Owning user.
    pub owner: Owner,
    /// Owning group.
    pub group: Owner,
    /// Permission bits of the file, e.g. `0o400`.
    pub mode: u32,
    /// Permission bits of the last parent, when it has to be made; the design's rule decides without it.
    pub directory_mode: Option<u32>,
    /// Who owns the last parent, when it has to be made; the design's rule decides without it.
    pub directory_owner: Option<DirectoryOwner>,
    /// Add one newline to the value.
    pub newline: bool,
    /// Only for these hosts; empty means every host.
    pub hosts: Vec<HostSelector>,
    /// NixOS options that read the file, such as `users.users.admin.hashedPasswordFile`.
    pub used_by: Vec<String>,
    /// What else than the file it takes on a running node.
    pub kind: Option<SecretKind>,
    /// What is done on a running node when the file has changed.
    pub on_change: OnChange,
    /// An empty value is meant.
    pub allow_empty: bool,
    /// Codes of refusals that are gone past, each with the person's reason.
    pub allow: BTreeMap<String, String>,
}

/// What a secret's file holds: exactly one of these keys stands in the manifest.
#[derive(Debug, Clone)]
pub enum ValueSpec {
    /// `from`: what a source holds.
    From(Reference),
    /// `template` or `template_file`: a text around values.
    Template(TemplateSpec),
    /// `generate`: a key that the target makes for itself.
    Generate(GenerateSpec),
    /// `absent: true`: the file must not be there, and what else the secret says about it has no meaning.
    Absent,
}

impl SecretSpec {
    /// True when the file must not be there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.value, ValueSpec::Absent)
    }

    /// Everything that has to be read from a source for it, as it stands in the manifest.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let (one, many) = match &self.value {
            ValueSpec::From(reference) => (Some(reference), &[][..]),
            ValueSpec::Template(template) => (None, template.references.as_slice()),
            ValueSpec::Generate(_) | ValueSpec::Absent => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().map(|(_, reference)| reference))
    }

    /// True when its file differs from host to host, since the host's name stands in a reference or a template.
    #[must_use]
    pub fn names_host(&self) -> bool {
        let in_template = matches!(&self.value, ValueSpec::Template(template) if template.template.names_host());
        in_template || self.references().any(Reference::names_host)
    }

    /// The users whose `users.users.NAME.hashedPasswordFile` reads this file.
    pub fn password_users(&self) -> impl Iterator<Item = &str> {
        self.used_by.iter().filter_map(|option| {
            let name = option.strip_prefix("users.users.")?.strip_suffix(".hashedPasswordFile")?;
            Some(name.trim_matches('"'))
        })
    }

    /// True when some `….hashedPasswordFile` option reads this file, so that it must be one line of crypt(3) text.
    #[must_use]
    pub fn is_hashed_password_file(&self) -> bool {
        self.used_by.iter().any(|option| option.ends_with(".hashedPasswordFile"))
    }
}

/// A text around values.
#[derive(Debug, Clone)]
pub struct TemplateSpec {
    /// The file that it was read from, as the manifest names it; `None` for one that stands in the manifest.
    pub file: Option<String>,
    /// Read and checked.
    pub template: Arc<Template>,
    /// What the text of each `secret('…')` in it refers to.
    pub references: Vec<(String, Reference)>,
}

/// `from`: SOURCE:ITEM[#FIELD]. In the item and the field, [`HOST`] stands for the host's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// A named source, or `env`, or `file`.
    pub source: String,
    /// The item inside it: an id, a name, folder/name, a variable, a file.
    pub item: String,
    /// The field; the password when there is none.
    pub field: Option<String>,
}

/// What stands for the host's name in a reference.
pub const HOST: &str = "{host}";

impl Reference {
    /// True when the host's name is to be put into it.
    #[must_use]
    pub fn names_host(&self) -> bool {
        self.item.contains(HOST) || self.field.as_ref().is_some_and(|field| field.contains(HOST))
    }

    /// The reference for one host, with its name put in; as it is without a host.
    #[must_use]
    pub fn for_host(&self, host: Option<&str>) -> Self {
        let Some(host) = host.filter(|_| self.names_host()) else { return self.clone() };
        Self {
            source: self.source.clone(),
            item: self.item.replace(HOST, host),
            field: self.field.as_ref().map(|field| field.replace(HOST, host)),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.item)?;
        match &self.field {
            Some(field) => write!(f, "#{field}"),
            None => Ok(()),
        }
    }
}

/// A user or group: numeric, or a name in the target's own passwd or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// uid or gid.
    Id(u32),
    /// Looked up in the target.
    Name(String),
}

impl Owner {
    /// The id, if it is the same in every target: a number, or that of `root`, which is 0 even where no passwd is yet.
    #[must_use]
    pub fn fixed_id(&self) -> Option<u32> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Name(name) => (name == "root").then_some(0),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// `directory_owner`: USER or USER:GROUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryOwner {
    /// Owning user.
    pub user: Owner,
    /// Owning group; that of the user where there is none.
    pub group: Option<Owner>,
}

impl fmt::Display for DirectoryOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => write!(f, "{}", self.user),
        }
    }
}

/// A crypt(3) scheme that `hash` can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "hash")]
pub enum HashScheme {
    /// `$y$`, the default of current distributions.
    Yescrypt,
    /// `$6$`, for systems whose libcrypt is old.
    Sha512crypt,
}

impl HashScheme {
    /// Its name in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Yescrypt => "yescrypt",
            Self::Sha512crypt => "sha512crypt",
        }
    }
}

/// A node.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// `user@address` or `ssh://user@address:port` for SSH, or an alias of the person's ssh configuration.
    pub ssh: Option<String>,
    /// Names that select several hosts as `tag:NAME`.
    pub tags: Vec<String>,
    /// How the user that logs in becomes root; not at all where there is none.
    pub becomes: Option<Become>,
    /// The password that this takes; none is given where there is none.
    pub become_password: Option<BecomePassword>,
    /// For ssh's `-o`, in the manifest's order.
    pub ssh_options: Vec<String>,
}

/// One entry of a secret's `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSelector {
    /// A host by name.
    Host(String),
    /// `tag:NAME`.
    Tag(String),
}

/// An absolute, clean path inside a target: starts with `/`, has no `.`, `..`, empty component or NUL, no component
/// over 255 bytes, no trailing slash, and is not `/` itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPath(String);

impl TargetPath {
    /// Checks a path.
    ///
    /// # Errors
    /// One sentence that says what is wrong with it.
    pub fn parse(path: &str) -> Result<Self, String> {
        if !path.starts_with('/') {
            return Err("a path starts with `/`".into());
        }
        if path.contains('\0') {
            return Err("a path cannot hold a NUL byte".into());
        }
        if path.len() > 4095 {
            return Err("a path has at most 4095 bytes".into());
        }
        if path.ends_with('/') {
            return Err("a path names a file, and does not end with `/`".into());
        }
        for component in path.split('/').skip(1) {
            match component {
                "" => return Err("`//` is not allowed in a path".into()),
                "." => return Err("`.` is not allowed in a path".into()),
                ".." => return Err("`..` is not allowed in a path".into()),
                _ if component.len() > 255 => {
                    return Err("a name in a path has at most 255 bytes".into());
                }
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory above, `/` at the top.
    #[must_use]
    pub fn parent(&self) -> &str {
        match self.0.rfind('/') {
            Some(0) | None => "/",
            Some(slash) => &self.0[..slash],
        }
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_clean() {
        let long = format!("/etc/{}", "x".repeat(256));
        for (name, path, want) in [
            ("parent step", "/etc/../root/x", "`..` is not allowed in a path"),
            ("relative", "etc/x", "a path starts with `/`"),
            ("dot", "/etc/./x", "`.` is not allowed in a path"),
            ("empty component", "/etc//x", "`//` is not allowed in a path"),
            ("trailing slash", "/etc/x/", "a path names a file, and does not end with `/`"),
            ("root", "/", "a path names a file, and does not end with `/`"),
            ("NUL", "/etc/x\0y", "a path cannot hold a NUL byte"),
            ("long name", long.as_str(), "a name in a path has at most 255 bytes"),
        ] {
            assert_eq!(TargetPath::parse(path).unwrap_err(), want, "{name}");
        }
        assert_eq!(TargetPath::parse("/etc/secrets/x").unwrap().parent(), "/etc/secrets");
        assert_eq!(TargetPath::parse("/x").unwrap().parent(), "/");
    }
}
