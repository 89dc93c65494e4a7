//! The arguments that several commands share: manifest, target, ssh.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deaddrop_image::output::Destination;

use super::backend::BackendArgs;
use super::fleet::{self, Machines, Request};
use super::images;
use crate::manifest::Manifest;
use crate::report::Ui;
use crate::report::rotate::RunKind;
use crate::rotate;
use crate::rotate::choose::Selection;
use crate::rotate::schedule::Limits;
use crate::run::message::{Exit, Failure};

/// The manifest where none is named.
pub const USUAL_MANIFEST: &str = "secrets.yaml";

/// Selects the manifest and its secrets.
#[derive(Debug, Clone, clap::Args)]
pub struct ManifestArgs {
    /// The manifest, YAML or JSON; - reads it from standard input
    #[arg(short, long, value_name = "FILE", default_value = USUAL_MANIFEST)]
    pub manifest: PathBuf,

    /// Only this secret (repeatable); the others are not changed, and their values are not read
    #[arg(long, value_name = "SECRET")]
    pub only: Vec<String>,
}

/// Selects the hosts of a run on images.
#[derive(Debug, Clone, clap::Args)]
pub struct HostsArgs {
    /// The target's host in the manifest; repeatable for an image of each: then TARGET or OUT holds {host}, which stands
    /// for its name
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,

    /// Every host of the manifest, each with an image of its own
    #[arg(long, conflicts_with = "host")]
    pub all_hosts: bool,
}

impl HostsArgs {
    /// True for a run over several hosts.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.all_hosts || self.host.iter().any(|host| Some(host) != self.host.first())
    }

    /// The only host; none if none is named, or several are.
    #[must_use]
    pub fn one(&self) -> Option<&str> {
        if self.are_several() { None } else { self.host.first().map(String::as_str) }
    }
}

/// Selects the target.
#[derive(Debug, clap::Args)]
pub struct TargetArgs {
    /// An image, a block device, or a directory or tar with a root file system
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,

    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Selects the root file system of an image, and the back end.
#[derive(Debug, Clone, clap::Args)]
pub struct PlaceArgs {
    /// The root partition, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL")]
    pub root_partition: Option<String>,

    #[command(flatten)]
    pub backend: BackendArgs,

    /// Go on although the target tells, by a key or its /etc/hostname, that it is another host of the manifest
    #[arg(long)]
    pub as_host: bool,

    /// The NixOS system to judge by, a path in the target's store, instead of the one that boots
    #[arg(long, value_name = "PATH")]
    pub system: Option<String>,
}

impl PlaceArgs {
    /// For a target that is no host's.
    #[must_use]
    pub fn to_read(root_partition: Option<&str>, backend: &BackendArgs, system: Option<&str>) -> Self {
        Self {
            root_partition: root_partition.map(str::to_owned),
            backend: backend.clone(),
            as_host: false,
            system: system.map(str::to_owned),
        }
    }
}

/// Selects what `plan` and `verify` survey: one target, or all hosts.
#[derive(Debug, clap::Args)]
pub struct SurveyArgs {
    /// An image, a block device, a directory or tar with a root file system, or @HOST for a running node of the manifest
    #[arg(value_name = "TARGET", required_unless_present = "all", conflicts_with = "all")]
    target: Option<PathBuf>,

    /// All running hosts of the manifest
    #[arg(long, conflicts_with_all = ["host", "all_hosts", "root_partition", "as_host", "system"])]
    all: bool,

    #[command(flatten)]
    ssh: SshArgs,

    #[command(flatten)]
    place: PlaceArgs,
}

impl SurveyArgs {
    /// The target; `None` for all hosts.
    #[must_use]
    pub fn target(&self) -> Option<Target<'_>> {
        self.target.as_deref().map(|path| Target {
            path,
            place: &self.place,
            ssh: Some(&self.ssh),
            forget_list: false,
            new_root: false,
            by_mark: false,
        })
    }

    /// Surveys all hosts. With `tells`, a host that differs is exit code 3.
    ///
    /// # Errors
    /// As [`fleet::run`].
    pub fn run_all(&self, ui: &Ui, manifest: &ManifestArgs, kind: RunKind, tells: bool) -> Result<Exit, Failure> {
        fleet::run(
            ui,
            &Request {
                manifest: &manifest.manifest,
                only: &manifest.only,
                hosts: Machines::Nodes(Selection { named: &[], all: true }),
                shard: None,
                serial: &[],
                limits: Limits::default(),
                ssh: &self.ssh,
                rollback: true,
                forget_list: false,
                public_out: None,
                kind,
                exit_on_difference: tells,
            },
        )
    }
}

impl SurveyArgs {
    /// Surveys the images of several hosts. `quick` only compares; with `tells`, an image that differs is exit code 3.
    ///
    /// # Errors
    /// As [`images::run`].
    pub fn run_images(
        &self,
        ui: &Ui,
        target: Target<'_>,
        manifest: &ManifestArgs,
        hosts: &HostsArgs,
        kind: RunKind,
        (quick, tells): (bool, bool),
    ) -> Result<Exit, Failure> {
        let request = images::Request {
            kind,
            target: target.path,
            place: &self.place,
            manifest,
            hosts,
            output: None,
            destination: &|_| Destination::InPlace { keep_mode: true, force: false, undo: None },
            public_out: None,
            sidecars: false,
            forget_list: false,
            quick,
            exit_on_difference: tells,
        };
        images::run(ui, &request)
    }
}

/// One target, and how to open it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// As on the command line.
    pub path: &'a Path,
    /// Partition and back end, for an image.
    pub place: &'a PlaceArgs,
    /// How ssh reaches a node; `None` for a command that does not accept one.
    pub ssh: Option<&'a SshArgs>,
    /// Abandon the entries of an interrupted rotate whose directories are missing.
    pub forget_list: bool,
    /// Accept a directory that is no root yet.
    pub new_root: bool,
    /// `{host}` says whose it is: its file is named after its host.
    pub by_mark: bool,
}

impl<'a> Target<'a> {
    /// A file or directory that is only opened.
    #[must_use]
    pub fn to_read(path: &'a Path, place: &'a PlaceArgs) -> Self {
        Self { path, place, ssh: None, forget_list: false, new_root: false, by_mark: false }
    }

    /// True for `@HOST`.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.path.display().to_string().starts_with('@')
    }
}

/// How ssh reaches the hosts.
#[derive(Debug, Clone, clap::Args)]
pub struct SshArgs {
    /// ssh configuration file, instead of ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,

    /// An option for ssh's -o, such as ProxyJump=gate (repeatable)
    #[arg(long, value_name = "OPTION")]
    pub ssh_option: Vec<String>,

    /// Seconds to wait for a host's answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,

    /// Number of hosts at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub parallel: u16,
}

impl SshArgs {
    /// The settings of a run on nodes, as far as these arguments and the manifest set them.
    #[must_use]
    pub fn options(&self, manifest: &Manifest) -> rotate::Options {
        rotate::Options {
            ssh_config: self.ssh_config.clone(),
            ssh_options: self.ssh_option.clone(),
            contact_timeout: Duration::from_secs(self.timeout),
            hidden: deaddrop_vault::hidden_variables(&manifest.vaults()),
            ..rotate::Options::default()
        }
    }
}
