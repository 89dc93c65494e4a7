//! The manifest after validation: what the rest of the program works with.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use deaddrop_core::path::TargetPath;
use deaddrop_core::privilege::Become;
use deaddrop_vault::{Reference, SourceSpec};

use super::rotation::{BecomePassword, OnChange, SecretKind};
use crate::derive::encoding::Encoding;
use crate::derive::expect::Expect;
use crate::derive::format::Format;
use crate::derive::generate::GenerateSpec;
use crate::derive::password::HashScheme;
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
