//! The checked manifest, as the rest of the program uses it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use deaddrop_core::path::TargetPath;
use deaddrop_core::privilege::Become;
use deaddrop_core::warning::Warning;
use deaddrop_vault::{Reference, SourceSpec};

use super::allow::Allow;
use super::rotation::{BecomePassword, OnChange, SecretKind};
use crate::derive::cluster_token::Cluster;
use crate::derive::encoding::Encoding;
use crate::derive::expect::{Expect, ValueKind};
use crate::derive::format::Format;
use crate::derive::generate::GenerateSpec;
use crate::derive::newline::Newline;
use crate::derive::password::HashScheme;
use crate::derive::template::Template;

/// A checked manifest.
#[derive(Debug)]
pub struct Manifest {
    /// The file as the user named it, for messages.
    pub file: PathBuf,
    /// The directory where relative paths start.
    pub directory: PathBuf,
    /// Named sources. `env` and `file` are predeclared.
    pub sources: BTreeMap<String, SourceSpec>,
    /// Secrets, in the file's order.
    pub secrets: Vec<SecretSpec>,
    /// Hosts by name.
    pub hosts: BTreeMap<String, Host>,
    /// Tags whose hosts are rotated one at a time.
    pub serial: Vec<String>,
    /// Where a file is written whose own path does not persist, for hosts that do not say it.
    pub persist_root: Option<TargetPath>,
    /// Findings that are allowed on all hosts.
    pub allow: Allow,
    /// Warnings about secrets, in the file's order.
    pub warnings: Vec<Warning>,
}

/// A place in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
}

/// A declared file, with the defaults applied.
#[derive(Debug, Clone)]
pub struct SecretSpec {
    /// Its key under `secrets`.
    pub name: String,
    /// The place of its key in the manifest.
    pub location: Location,
    /// The file's path in the target.
    pub path: TargetPath,
    /// The file's content.
    pub value: ValueSpec,
    /// The encoding of the value in its source.
    pub encoding: Option<Encoding>,
    /// Conditions on the value.
    pub expect: Expect,
    /// The format of the file.
    pub format: Option<Format>,
    /// The scheme of the crypt(3) hash of the value, if the file contains that.
    pub hash: Option<HashScheme>,
    /// Owning user.
    pub owner: Owner,
    /// Owning group.
    pub group: Owner,
    /// Permission bits of the file, e.g. `0o400`.
    pub mode: u32,
    /// Permission bits of the parent directory if it is created. `None`: the rule in docs/manifest.md, "Directories".
    pub directory_mode: Option<u32>,
    /// Owner of the parent directory if it is created. `None`: the rule in docs/manifest.md, "Directories".
    pub directory_owner: Option<DirectoryOwner>,
    /// `newline`, if it is written out.
    pub newline: Option<Newline>,
    /// Selected hosts; empty means every host.
    pub hosts: Vec<HostSelector>,
    /// NixOS options that read the file, such as `users.users.admin.hashedPasswordFile`.
    pub used_by: Vec<String>,
    /// The kind of secret, if it needs more than its file on a running node.
    pub kind: Option<SecretKind>,
    /// Where the servers of a cluster keep the token before the last rotation; only with such a `kind`.
    pub keep_old: Option<TargetPath>,
    /// Actions on a running node after the file has changed.
    pub on_change: OnChange,
    /// True to put the hash into the user's line of the shadow file as well.
    pub apply_password: bool,
    /// True if the value may be empty.
    pub allow_empty: bool,
    /// Findings that are allowed for it.
    pub allow: Allow,
}

/// The content of a secret's file.
#[derive(Debug, Clone)]
pub enum ValueSpec {
    /// `from`: a value of a source.
    From(Reference),
    /// `template` or `template_file`: a text with values in it.
    Template(TemplateSpec),
    /// `generate`: a key generated for the target.
    Generate(GenerateSpec),
    /// `absent: true`: the file must not exist. The other keys have no meaning.
    Absent,
}

impl SecretSpec {
    /// True if the file must not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.value, ValueSpec::Absent)
    }

    /// All references to sources, as written in the manifest.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let (one, many) = match &self.value {
            ValueSpec::From(reference) => (Some(reference), &[][..]),
            ValueSpec::Template(template) => (None, template.references.as_slice()),
            ValueSpec::Generate(_) | ValueSpec::Absent => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().map(|(_, reference)| reference))
    }

    /// True if the file depends on the host, because a reference or a template contains the host's name.
    #[must_use]
    pub fn names_host(&self) -> bool {
        let in_template = matches!(&self.value, ValueSpec::Template(template) if template.template.names_host());
        in_template || self.references().any(Reference::names_host)
    }

    /// The users whose option `users.users.NAME.hashedPasswordFile` reads this file.
    pub fn password_users(&self) -> impl Iterator<Item = &str> {
        self.used_by.iter().filter_map(|option| {
            let name = option.strip_prefix("users.users.")?.strip_suffix(".hashedPasswordFile")?;
            Some(name.trim_matches('"'))
        })
    }

    /// What makes this file an SSH private key without its content: "a file named `ssh_host_*_key`"; `None` if it is
    /// none.
    #[must_use]
    pub fn ssh_key_file(&self) -> Option<&'static str> {
        const OPTIONS: [&str; 2] = ["services.openssh.hostKeys", "boot.initrd.network.ssh.hostKeys"];
        let path = self.path.as_str();
        let (directory, name) = path.rsplit_once('/')?;
        if name.ends_with(".pub") {
            return None;
        }
        if name.strip_prefix("ssh_host_").is_some_and(|rest| rest.ends_with("_key")) {
            return Some("a file named `ssh_host_*_key`");
        }
        if name.starts_with("id_") && directory.ends_with("/.ssh") {
            return Some("a file `.ssh/id_*`");
        }
        let reads = |option: &str| OPTIONS.iter().any(|name| option.starts_with(name));
        self.used_by.iter().any(|option| reads(option)).then_some("a file of `hostKeys`")
    }

    /// True if the file is made of lines, so that a newline at its end is usual: by its `format`, by what `expect`
    /// wants, or by its name.
    #[must_use]
    pub fn is_file_of_lines(&self) -> bool {
        const NAMES: [&str; 16] = [
            "known_hosts",
            "known_hosts2",
            "ssh_known_hosts",
            "authorized_keys",
            "authorized_keys2",
            "authorized_principals",
            "allowed_signers",
            ".env",
            "netrc",
            ".netrc",
            ".pgpass",
            ".git-credentials",
            ".htpasswd",
            "htpasswd",
            ".npmrc",
            "crypttab",
        ];
        const ENDINGS: [&str; 7] = [".pub", ".env", ".conf", ".pem", ".crt", ".ini", ".netrc"];
        let (directory, name) = self.path.as_str().rsplit_once('/').unwrap_or_default();
        let kinds = [ValueKind::Pem, ValueKind::SshPrivateKey, ValueKind::AgeIdentity];
        self.format.is_some()
            || self.expect.kind.is_some_and(|kind| kinds.contains(&kind))
            || NAMES.contains(&name)
            || ENDINGS.iter().any(|ending| name.ends_with(ending))
            // NixOS's own place for a user's authorized_keys.
            || directory.ends_with("/authorized_keys.d")
    }

    /// The program whose token the file is, if its value is rotated in the running cluster too.
    #[must_use]
    pub fn cluster(&self) -> Option<Cluster> {
        let has_value = matches!(self.value, ValueSpec::From(_) | ValueSpec::Template(_)) && self.hash.is_none();
        self.kind.filter(|_| has_value).map(SecretKind::cluster)
    }

    /// True if a `….hashedPasswordFile` option reads this file, which must then be one line of crypt(3) text.
    #[must_use]
    pub fn is_hashed_password_file(&self) -> bool {
        self.used_by.iter().any(|option| option.ends_with(".hashedPasswordFile"))
    }
}

/// A template and its references.
#[derive(Debug, Clone)]
pub struct TemplateSpec {
    /// The template's file, as the manifest names it; `None` for an inline template.
    pub file: Option<String>,
    /// The parsed template.
    pub template: Arc<Template>,
    /// The text of each `secret('…')`, and the reference that it means.
    pub references: Vec<(String, Reference)>,
}

/// A user or group: numeric, or a name in the target's own passwd or group file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// uid or gid.
    Id(u32),
    /// A name, resolved in the target.
    Name(String),
}

impl Owner {
    /// The id, if it is the same in every target: a number, or that of `root`, which is 0 even without a passwd file.
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

/// The value of `directory_owner`: USER or USER:GROUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryOwner {
    /// Owning user.
    pub user: Owner,
    /// Owning group. `None`: the user's group.
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

/// A host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// `user@address` or `ssh://user@address:port` for SSH, or an alias from the user's ssh configuration.
    pub ssh: Option<String>,
    /// Names that select several hosts as `tag:NAME`.
    pub tags: Vec<String>,
    /// How the login user becomes root. `None`: it is root.
    pub becomes: Option<Become>,
    /// The password for that. `None`: none is needed.
    pub become_password: Option<BecomePassword>,
    /// Arguments of ssh's `-o`, in the manifest's order.
    pub ssh_options: Vec<String>,
    /// Where a file is written whose own path does not persist. `None`: that of the manifest.
    pub persist_root: Option<TargetPath>,
    /// Findings that are allowed on it.
    pub allow: Allow,
}

/// One entry of a secret's `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSelector {
    /// A host by name.
    Host(String),
    /// `tag:NAME`.
    Tag(String),
}
