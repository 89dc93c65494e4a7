//! The one flow that plan, inject and verify share: manifest, values and survey to a plan.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::TreeChange;
use deaddrop_core::warning::Warning;
use deaddrop_image::output::Destination;
use deaddrop_image::progress::Watch;

use super::backend::BackendArgs;
use super::fleet::{self, Request, SshArgs, Which};
use crate::manifest::{Manifest, SecretSpec, SelectError};
use crate::place::directory::DirectoryPlace;
use crate::place::{Change, Place, PlaceError, Wanted};
use crate::report::Ui;
use crate::report::public::KnownAs;
use crate::report::rotate::RunKind;
use crate::rotate::choose::Wish;
use crate::rotate::schedule::Limits;
use crate::rotate::{self, Node};
use crate::run::desired;
use crate::run::make::{self, PublicPart};
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, Part, Values};
use crate::run::plan::{self, Plan};
use crate::run::prepare::{self, Unprepared};

/// Which manifest, and as which host.
#[derive(Debug, Clone, clap::Args)]
pub struct ManifestArgs {
    /// The manifest
    #[arg(short, long, value_name = "FILE", default_value = "secrets.yaml")]
    pub manifest: PathBuf,

    /// The host that the target is, or will be
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,

    /// Only this secret (may be given several times); the others are left as they are, and their values are not read
    #[arg(long, value_name = "SECRET")]
    pub only: Vec<String>,
}

/// Which target.
#[derive(Debug, clap::Args)]
pub struct TargetArgs {
    /// An image, a block device, or a directory that holds a root
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,

    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where in an image.
#[derive(Debug, clap::Args)]
pub struct PlaceArgs {
    /// The root file system's partition, instead of the one that is chosen by itself: its number or its label
    #[arg(long, value_name = "N|LABEL")]
    pub root_partition: Option<String>,

    #[command(flatten)]
    pub backend: BackendArgs,
}

/// What is looked at: one target, or every host.
#[derive(Debug, clap::Args)]
pub struct LookArgs {
    /// An image, a block device, a directory that holds a root, or @HOST: a running node of the manifest
    #[arg(value_name = "TARGET", required_unless_present = "all", conflicts_with = "all")]
    target: Option<PathBuf>,

    /// Every host of the manifest, as it runs
    #[arg(long, conflicts_with_all = ["host", "root_partition"])]
    all: bool,

    #[command(flatten)]
    ssh: SshArgs,

    #[command(flatten)]
    place: PlaceArgs,
}

impl LookArgs {
    /// The one target; `None` for every host.
    #[must_use]
    pub fn one(&self) -> Option<Looked<'_>> {
        self.target.as_deref().map(|target| Looked {
            target,
            place: &self.place,
            ssh: Some(&self.ssh),
            forget_list: false,
        })
    }

    /// Looks at every host. Where `tells` says so, one that differs is exit code 3.
    ///
    /// # Errors
    /// As [`fleet::run`].
    pub fn all(&self, ui: &Ui, manifest: &ManifestArgs, kind: RunKind, tells: bool) -> Result<Exit, Failure> {
        fleet::run(
            ui,
            &Request {
                manifest: &manifest.manifest,
                only: &manifest.only,
                hosts: Which::Nodes(Wish { named: &[], all: true }),
                shard: None,
                serial: &[],
                limits: Limits::default(),
                ssh: &self.ssh,
                rollback: true,
                forget_list: false,
                kind,
                tells_differences: tells,
            },
        )
    }
}

/// One target, and how to get there.
#[derive(Debug, Clone, Copy)]
pub struct Looked<'a> {
    /// As it was given.
    pub target: &'a Path,
    /// Where in an image.
    pub place: &'a PlaceArgs,
    /// How a node is reached; `None` for what does not take one.
    pub ssh: Option<&'a SshArgs>,
    /// Of a rotate that was cut off, names that are not there are given up.
    pub forget_list: bool,
}

impl Looked<'_> {
    /// True for `@HOST`.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.target.display().to_string().starts_with('@')
    }
}

impl TargetArgs {
    /// As what is looked at.
    #[must_use]
    pub fn looked(&self) -> Looked<'_> {
        Looked { target: &self.target, place: &self.place, ssh: None, forget_list: false }
    }
}

/// A place, surveyed, and what has to happen to it.
pub struct Prepared<'w> {
    /// Surveyed.
    pub place: Opened<'w>,
    /// What has to happen.
    pub plan: Plan,
    /// The public parts of the generated keys of this run.
    pub public_parts: Vec<PublicPart>,
    /// The names by which SSH clients know the host.
    pub known_as: KnownAs,
}

/// A place that is open.
pub enum Opened<'w> {
    /// An image or a directory.
    Files(Box<dyn Change + 'w>),
    /// A running node, which can only be looked at.
    Node(Box<Node<'w>>),
}

impl<'w> Opened<'w> {
    /// To be surveyed.
    pub fn place(&mut self) -> &mut (dyn Place + 'w) {
        match self {
            Self::Files(place) => &mut **place,
            Self::Node(node) => &mut **node,
        }
    }

    /// To be changed.
    ///
    /// # Errors
    /// Exit 2 for a running node, called `name`.
    pub fn change(&mut self, name: &str) -> Result<&mut (dyn Change + 'w), Failure> {
        match self {
            Self::Files(place) => Ok(&mut **place),
            Self::Node(_) => Err(only_rotate(name)),
        }
    }
}

/// Loads and checks the manifest.
///
/// # Errors
/// Exit 2 with every error of the file.
pub fn load(args: &ManifestArgs) -> Result<Manifest, Failure> {
    Manifest::load(&args.manifest).map_err(|errors| Failure::usage(Message::rendered(errors.to_string())))
}

/// The secrets of the host that was named, or those of them that `--only` names.
///
/// # Errors
/// Exit 2 when the host or a secret is unknown, a host has to be named, or a secret is not for it.
pub fn select<'a>(manifest: &'a Manifest, args: &ManifestArgs) -> Result<Vec<&'a SecretSpec>, Failure> {
    manifest.select(args.host.as_deref(), &args.only).map_err(|error| wrong_selection(&error))
}

/// A host or a secret that the command line names, and the manifest does not have.
#[must_use]
pub fn wrong_selection(error: &SelectError) -> Failure {
    Failure::usage(Message::new(error.to_string()).hint(error.hint()))
}

/// The secrets of the host that `@HOST` names.
fn select_of_node<'a>(manifest: &'a Manifest, args: &ManifestArgs, node: &str) -> Result<Vec<&'a SecretSpec>, Failure> {
    if args.host.as_deref().is_some_and(|host| host != node) {
        let message = format!("`@{node}` is a host itself: --host names another one");
        return Err(Failure::usage(Message::new(message).hint("leave --host out")));
    }
    manifest.select(Some(node), &args.only).map_err(|error| wrong_selection(&error))
}

/// A change of a node is more than its files.
fn only_rotate(target: &str) -> Failure {
    let message =
        format!("{target}: files of a running node are changed by `rotate`, which also tells the units that use them");
    Failure::usage(Message::new(message).hint(format!("deaddrop rotate {}", target.trim_start_matches('@'))))
}

/// A running node, to be looked at.
fn open_node<'w>(
    manifest: &Manifest,
    looked: Looked<'_>,
    ssh: &SshArgs,
    part: &Part<'_>,
    values: &Values,
) -> Result<Node<'w>, Failure> {
    let name = part.name;
    let only_for_images = |option: &str| {
        let message = format!("{option} is for images, and `@{name}` is a running node");
        Failure::usage(Message::new(message).hint("leave it out"))
    };
    if looked.place.root_partition.is_some() {
        return Err(only_for_images("--root-partition"));
    }
    looked.place.backend.refuse_for_a_directory().map_err(only_for_images)?;
    let refused = |message: Message| Failure::refused(vec![message]);
    let password = part.become_password(values).map_err(|why| refused(Message::new(format!("@{name}: {why}"))))?;
    let options = rotate::Options {
        ssh_config: ssh.ssh_config.clone(),
        ssh_options: ssh.ssh_option.clone(),
        contact_timeout: Duration::from_secs(ssh.timeout),
        interactive: rotate::has_terminal(),
        hidden: deaddrop_vault::hidden_variables(&manifest.vaults()),
        ..rotate::Options::default()
    };
    rotate::enter(name, part.host, password, &options, &|| {})
        .map_err(|error| refused(Message::new(format!("@{name}: {error}")).hint(error.hint())))
}

/// The manifest's own warnings, for the secrets of this run.
pub fn manifest_warnings(manifest: &Manifest, secrets: &[&SecretSpec]) -> Vec<Warning> {
    let ours = |name: &str| secrets.iter().any(|secret| secret.name == name);
    let warnings = manifest.warnings.iter().filter(|warning| ours(&warning.secret));
    warnings
        .map(|warning| Warning {
            code: warning.code,
            secret: Some(warning.secret.clone()),
            message: warning.message.clone(),
            hint: warning.hint.clone(),
        })
        .collect()
}

/// Runs the flow up to the plan.
///
/// # Errors
/// Exit 2 for the manifest and the host, exit 1 for the rest; nothing was written.
pub fn prepare<'w>(
    ui: &Ui,
    looked: Looked<'_>,
    manifest: &ManifestArgs,
    destination: Option<&Destination>,
    watch: Watch<'w>,
) -> Result<Prepared<'w>, Failure> {
    let name = looked.target.display().to_string();
    let loaded = load(manifest)?;
    let node = name.strip_prefix('@');
    let secrets = match node {
        Some(host) => select_of_node(&loaded, manifest, host)?,
        None => select(&loaded, manifest)?,
    };
    let host = node.or(manifest.host.as_deref());
    let part = Part {
        name: host.unwrap_or(&name),
        host: node.and_then(|node| loaded.hosts.get(node)),
        as_host: host,
        secrets,
    };
    let values = Values::read(&loaded, std::slice::from_ref(&part))?;
    let files = part.files(&loaded, &values).map_err(|unfit| part::does_not_fit(&unfit))?;

    let mut opened = match (node, looked.ssh) {
        (Some(_), Some(ssh)) => Opened::Node(Box::new(open_node(&loaded, looked, ssh, &part, &values)?)),
        (Some(_), None) => return Err(only_rotate(&name)),
        (None, _) => {
            let opened = open(ui, looked, destination, watch).map_err(|error| failed(&name, &error.into()))?;
            Opened::Files(opened)
        }
    };
    let survey = |wanted: &[Wanted]| {
        let survey = opened.place().survey(wanted)?;
        match &survey.interrupted {
            Some(interrupted) if !looked.forget_list => interrupted.refuse_missing()?,
            None if looked.forget_list => ui.say("--forget-list: no rotate that was cut off has left a list there"),
            _ => {}
        }
        Ok(survey)
    };
    let prepared = prepare::prepare(files, host, desired::wanted, survey);
    let prepare::Prepared { mut plan, public_parts } = prepared.map_err(|unprepared| match unprepared {
        Unprepared::Survey(error) => failed(&name, &error),
        Unprepared::NoRandomness(error) => nothing_changed(&name, &error),
        Unprepared::Refused(refused) => {
            let message = |refused: &plan::Refused| {
                let code = refused.refusal.code.map_or(String::new(), |code| format!("{code}: "));
                Message::new(format!("{name}: {}: {code}{}", refused.secret, refused.refusal.reason))
                    .hint(refused.refusal.hint.as_str())
            };
            Failure::refused(refused.iter().map(message).collect())
        }
    })?;
    let known_as = host.and_then(|name| Some(KnownAs::new(name, loaded.hosts.get(name)?))).unwrap_or_default();
    let mut warnings = manifest_warnings(&loaded, &part.secrets);
    warnings.append(&mut plan.warnings);
    warnings.extend(opened.place().warnings());
    plan.warnings = warnings;
    Ok(Prepared { place: opened, plan, public_parts, known_as })
}

fn open<'w>(
    ui: &Ui,
    looked: Looked<'_>,
    destination: Option<&Destination>,
    watch: Watch<'w>,
) -> Result<Box<dyn Change + 'w>, StorageError> {
    let path = looked.target;
    if !path.is_dir() {
        return looked.place.backend.open(ui, path, looked.place.root_partition.as_deref(), destination, watch);
    }
    let only_for_images = |option: &str| {
        Err(StorageError::refused(
            format!("{option} is for images, and this is a directory"),
            "leave it out: a directory is changed in place, all files or none",
        ))
    };
    if let Err(option) = looked.place.backend.refuse_for_a_directory() {
        return only_for_images(option);
    }
    match destination {
        _ if looked.place.root_partition.is_some() => only_for_images("--root-partition"),
        Some(Destination::File { .. }) => only_for_images("-o"),
        Some(Destination::InPlace { keep_mode: true, .. }) => only_for_images("--keep-mode"),
        Some(Destination::InPlace { force: true, .. }) => only_for_images("--force"),
        Some(Destination::InPlace { undo: Some(_), .. }) => only_for_images("--undo"),
        _ => {
            if !["etc", "nix/store"].iter().any(|place| path.join(place).symlink_metadata().is_ok()) {
                ui.say(&format!("{} has neither /etc nor /nix/store: is it a root?", path.display()));
            }
            Ok(Box::new(DirectoryPlace::open(path)?))
        }
    }
}

/// The changes of a plan; new password hashes are made here.
///
/// # Errors
/// Exit 1 when the system has no randomness for a salt.
pub fn tree_changes(plan: &Plan, target: &str) -> Result<Vec<TreeChange>, Failure> {
    make::tree_changes(plan).map_err(|error| nothing_changed(target, &error))
}

fn nothing_changed(target: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::refused(vec![Message::new(format!("{target}: nothing was changed")).caused_by(error)])
}

/// One time for the whole run: SOURCE_DATE_EPOCH if it is set, else now. The specification
/// (reproducible-builds.org/specs/source-date-epoch) wants a malformed one refused.
///
/// # Errors
/// Exit 2 for one that is no time that a file can have.
pub fn time_of_run() -> Result<SystemTime, Failure> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(SystemTime::now()) };
    let seconds = text.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = seconds.and_then(|text| text.parse().ok()).filter(|seconds| *seconds <= LATEST);
    let time = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    time.ok_or_else(|| {
        let hint = format!("set it to seconds since 1970, at most {LATEST}, or unset it");
        Failure::usage(Message::new("SOURCE_DATE_EPOCH is not a time that a file can have").hint(hint))
    })
}

/// The last second that an ext4 inode of 256 bytes can hold (34 bits, from 1901 on): in the year 2446.
const LATEST: u64 = (1 << 34) - (1 << 31) - 1;

/// A failure of a target that was to be changed.
#[must_use]
pub fn failed(target: &str, error: &PlaceError) -> Failure {
    let (exit, what) = match error.is_half_done() {
        true => (Exit::HalfDone, "stopped in the middle"),
        false => (Exit::Refused, "nothing was changed"),
    };
    let message = Message::new(format!("{target}: {what}")).caused_by(error).hint(error.hint().unwrap_or_default());
    Failure { exit, messages: vec![message] }
}

/// An error of an image that nothing was to be changed in.
#[must_use]
pub fn error_message(error: &StorageError) -> Message {
    Message::from_error(error).hint(error.hint().unwrap_or_default())
}
