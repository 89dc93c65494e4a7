//! The flow that plan, inject and verify share: manifest, values and survey to a plan.

use std::time::{Duration, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::TreeChange;
use deaddrop_core::warning::Warning;
use deaddrop_image::native::NativeImage;
use deaddrop_image::open::disk::OfHost;
use deaddrop_image::output::Destination;
use deaddrop_image::progress::{Watch, quiet};
use deaddrop_image::tar::{self, TarOfHost, TarRoot};

use super::args::{ManifestArgs, SshArgs, Target};
use super::select::{load, manifest_warnings, select, select_of_node};
use super::{failure, root_directory};
use crate::manifest::Manifest;
use crate::place::directory::DirectoryPlace;
use crate::place::image::ImagePlace;
use crate::place::tar::TarPlace;
use crate::place::{Change, Place, Survey, SystemChoice, Wanted};
use crate::report::public::KnownAs;
use crate::report::{ProgressDisplay, Ui};
use crate::rotate::{self, Node};
use crate::run::desired::{self, DesiredFile};
use crate::run::identity::Identity;
use crate::run::make::{self, PublicPart};
use crate::run::message::{Failure, Message};
use crate::run::part::{self, HostPart, Values};
use crate::run::plan::{Plan, Refused};
use crate::run::prepare::{self, Ask, Unprepared};

/// An open place, and its plan.
pub struct Prepared<'w> {
    /// Already surveyed.
    pub place: Opened<'w>,
    /// The changes.
    pub plan: Plan,
    /// The public parts of the generated keys of this run.
    pub public_parts: Vec<PublicPart>,
    /// What `rotate` would do on a node after the files: "would restart k3s.service".
    pub after: Option<String>,
    /// The names by which SSH clients know the host.
    pub known_as: KnownAs,
}

/// An open place.
pub enum Opened<'w> {
    /// An image or a directory.
    Files(Box<dyn Change + 'w>),
    /// A running node. It can only be surveyed here: `rotate` changes nodes.
    Node(Box<Node<'w>>),
}

impl<'w> Opened<'w> {
    /// The place, to survey it.
    pub fn place(&mut self) -> &mut (dyn Place + 'w) {
        match self {
            Self::Files(place) => &mut **place,
            Self::Node(node) => &mut **node,
        }
    }

    /// The place, to change it.
    ///
    /// # Errors
    /// Exit 2 for a running node, called `name`.
    pub fn change(&mut self, name: &str) -> Result<&mut (dyn Change + 'w), Failure> {
        match self {
            Self::Files(place) => Ok(&mut **place),
            Self::Node(_) => Err(failure::only_rotate(name)),
        }
    }
}

/// A base that is open for one host.
pub enum Base {
    /// A disk image.
    Disk(OfHost),
    /// A tar of a root.
    Tar(TarOfHost),
}

impl Base {
    /// The place of the host.
    ///
    /// # Errors
    /// If the root of an image cannot be read.
    pub fn place(self, root_partition: Option<&str>) -> Result<Box<dyn Change>, StorageError> {
        match self {
            Self::Disk((image, output)) => {
                let image = NativeImage::with(image, output, root_partition, &quiet)?;
                Ok(Box::new(ImagePlace::Native(Box::new(image))))
            }
            Self::Tar(tar) => Ok(Box::new(TarPlace(tar.with(&quiet)))),
        }
    }
}

/// Connects to a running node, to survey it.
///
/// # Errors
/// Exit 2 for an option that is not for nodes, exit 1 if ssh cannot be run.
pub fn open_node<'w>(
    manifest: &Manifest,
    target: Target<'_>,
    ssh: &SshArgs,
    part: &HostPart<'_>,
    values: &Values,
) -> Result<Node<'w>, Failure> {
    let name = part.name;
    let only_for_images = |option: &str| {
        let message = format!("{option} is for images, and `@{name}` is a running node");
        Failure::usage(Message::new(message).hint("leave it out"))
    };
    if target.place.root_partition.is_some() {
        return Err(only_for_images("--root-partition"));
    }
    target.place.backend.refuse_for_a_directory().map_err(only_for_images)?;
    if target.place.as_host {
        return Err(only_for_images("--as-host"));
    }
    if target.place.system.is_some() {
        return Err(only_for_images("--system"));
    }
    let refused = |message: Message| Failure::refused(vec![message]);
    let password = part.become_password(values).map_err(|why| refused(Message::new(format!("@{name}: {why}"))))?;
    let options = rotate::Options { interactive: rotate::has_terminal(), ..ssh.options(manifest) };
    rotate::enter(name, part.host, password, &options, &|| {})
        .map_err(|error| refused(Message::new(format!("@{name}: {error}")).hint(error.hint())))
}

/// Runs the flow up to the plan.
///
/// # Errors
/// Exit 2 for the manifest and the host, exit 1 for the rest. Nothing was written.
pub fn prepare<'w>(
    ui: &Ui,
    target: Target<'_>,
    manifest: &ManifestArgs,
    host: Option<&str>,
    destination: Option<&Destination>,
    watch: Watch<'w>,
) -> Result<Prepared<'w>, Failure> {
    let name = target.path.display().to_string();
    let loaded = load(&manifest.manifest)?;
    let node = name.strip_prefix('@');
    if loaded.hosts.contains_key(&name) && target.path.symlink_metadata().is_err() {
        return Err(failure::not_a_file_but_a_host(&name));
    }
    let secrets = match node {
        Some(node) => select_of_node(&loaded, host, &manifest.only, node)?,
        None => select(&loaded, host, &manifest.only)?,
    };
    let host = node.or(host);
    let part = HostPart {
        name: host.unwrap_or(&name),
        host: node.and_then(|node| loaded.hosts.get(node)),
        as_host: host,
        secrets,
    };
    let values = Values::read(&loaded, std::slice::from_ref(&part), ui.tell())?;
    // Before the target is opened.
    let files = part.files(&loaded, &values).map_err(|unfit| part::does_not_fit(&unfit))?;
    let opened = match (node, target.ssh) {
        (Some(_), Some(ssh)) => Opened::Node(Box::new(open_node(&loaded, target, ssh, &part, &values)?)),
        (Some(_), None) => return Err(failure::only_rotate(&name)),
        (None, _) => {
            let opened = open(ui, target, destination, watch).map_err(|error| failure::failed(&name, &error.into()))?;
            Opened::Files(opened)
        }
    };
    plan_of(ui, opened, target, HostInput { manifest: &loaded, part: &part, values: &values, files })
}

/// What is known of a host before its place is opened.
pub struct HostInput<'a> {
    /// The manifest.
    pub manifest: &'a Manifest,
    /// The host, and its secrets.
    pub part: &'a HostPart<'a>,
    /// The values of the run.
    pub values: &'a Values,
    /// The files that it should have.
    pub files: Vec<DesiredFile>,
}

/// Surveys an open place, and plans its changes. `target` says what it was opened as.
///
/// # Errors
/// Exit 1. Nothing was written.
pub fn plan_of<'w>(
    ui: &Ui,
    mut opened: Opened<'w>,
    target: Target<'_>,
    input: HostInput<'_>,
) -> Result<Prepared<'w>, Failure> {
    let is_node = matches!(opened, Opened::Node(_));
    let secrets = input.part.secrets.clone();
    let Planned { plan, public_parts, known_as, survey } = plan_place(ui, opened.place(), is_node, target, input)?;
    let after = match &mut opened {
        Opened::Files(_) => String::new(),
        Opened::Node(node) => rotate::announced(node, &plan, &survey, &secrets).map_err(|error| {
            let message = Message::new(format!("{}: {error}", target.path.display()));
            Failure::refused(vec![message.hint(error.hint())])
        })?,
    };
    let after = Some(after).filter(|after| !after.is_empty());
    Ok(Prepared { place: opened, plan, public_parts, after, known_as })
}

/// The plan of a place.
pub struct Planned {
    /// The changes.
    pub plan: Plan,
    /// The public parts of the generated keys of this run.
    pub public_parts: Vec<PublicPart>,
    /// The names by which SSH clients know the host.
    pub known_as: KnownAs,
    /// What the plan was made from.
    pub survey: Survey,
}

/// Surveys a place, and plans its changes. `target` says what it was opened as.
///
/// # Errors
/// Exit 1. Nothing was written.
pub fn plan_place(
    ui: &Ui,
    place: &mut dyn Place,
    is_node: bool,
    target: Target<'_>,
    HostInput { manifest, part, values, files }: HostInput<'_>,
) -> Result<Planned, Failure> {
    let name = target.path.display().to_string();
    let host = part.as_host;
    let choice = SystemChoice {
        system: target.place.system.clone(),
        persist_root: manifest.persist_root(host).map(|path| path.as_str().to_owned()),
        ..SystemChoice::default()
    };
    let survey = |ask: Ask<'_>| {
        let wanted = match ask {
            Ask::Survey(wanted) => wanted,
            Ask::Examine(wanted, survey, need) => return place.examine(wanted, *survey, need),
        };
        let survey = place.survey(wanted, &choice)?;
        match &survey.interrupted {
            Some(interrupted) if !target.forget_list => interrupted.refuse_missing()?,
            None if target.forget_list => ui.info("--forget-list: no rotate that was cut off has left a list there"),
            _ => {}
        }
        Ok(survey)
    };
    let allow = manifest.allowances(host).of_target();
    let identity = host.filter(|_| !is_node).map(|host| Identity {
        host,
        hosts: &manifest.hosts,
        insist: target.place.as_host,
        by_mark: target.by_mark,
    });
    let prepared = prepare::prepare(files, host, &allow, identity, desired::wanted, survey);
    let prepare::Prepared { mut plan, public_parts, survey } = prepared.map_err(|unprepared| match unprepared {
        Unprepared::Survey(error) => failure::failed(&name, &error),
        Unprepared::NoRandomness(error) => failure::nothing_changed(&name, &error),
        Unprepared::Hash(error) => failure::nothing_changed(&name, &error),
        Unprepared::Refused(refused) => {
            let message =
                |refused: &Refused| Message::new(format!("{name}: {refused}")).hint(refused.refusal.hint.as_str());
            Failure::refused(refused.iter().map(message).collect())
        }
    })?;
    let known_as = host.and_then(|name| Some(KnownAs::new(name, manifest.hosts.get(name)?))).unwrap_or_default();
    let mut warnings = manifest_warnings(manifest, &part.secrets, host);
    let is_its = |warning: &&Warning| {
        warning.secret.as_ref().is_none_or(|name| part.secrets.iter().any(|secret| secret.name == *name))
    };
    let mut of_values: Vec<Warning> = values.warnings().iter().filter(is_its).cloned().collect();
    manifest.allowances(host).filter(&mut of_values);
    warnings.append(&mut of_values);
    warnings.append(&mut plan.warnings);
    let mut of_place = place.warnings();
    manifest.allowances(host).filter(&mut of_place);
    warnings.append(&mut of_place);
    plan.warnings = warnings;
    Ok(Planned { plan, public_parts, known_as, survey })
}

/// Surveys a target that only its system is asked of, and gives its title too.
///
/// # Errors
/// Exit 1 if it cannot be read.
pub fn look(
    ui: &Ui,
    target: Target<'_>,
    choice: &SystemChoice,
    wanted: &[Wanted],
) -> Result<(Survey, String), Failure> {
    let name = target.path.display().to_string();
    let progress = ProgressDisplay::new(ui);
    let watch = |step| progress.show(step);
    let failed = |error| Failure::refused(vec![failure::place_message(&name, &error)]);
    let mut place = open(ui, target, None, &watch).map_err(|error| failed(error.into()))?;
    look_at(&name, &mut *place, choice, wanted)
}

/// The same of an open place, called `name`.
///
/// # Errors
/// As [`look`].
pub fn look_at(
    name: &str,
    place: &mut dyn Place,
    choice: &SystemChoice,
    wanted: &[Wanted],
) -> Result<(Survey, String), Failure> {
    let failed = |error| Failure::refused(vec![failure::place_message(name, &error)]);
    let survey = place.survey(wanted, choice).map_err(failed)?;
    match (&survey.system, survey.findings.first()) {
        (None, Some(unread)) => {
            let message = Message::new(format!("{name}: {}: {}", unread.code, unread.reason));
            Err(Failure::refused(vec![message.hint(unread.instead.as_str())]))
        }
        _ => Ok((survey, place.title())),
    }
}

/// Opens an image, a block device or a directory; without a destination for reading only.
///
/// # Errors
/// If it cannot be opened, or an option is not for it.
pub fn open<'w>(
    ui: &Ui,
    target: Target<'_>,
    destination: Option<&Destination>,
    watch: Watch<'w>,
) -> Result<Box<dyn Change + 'w>, StorageError> {
    let path = target.path;
    if !path.is_dir() && tar::is_tar(path) {
        return open_tar(target, destination, watch);
    }
    if !path.is_dir() {
        return target.place.backend.open(ui, path, target.place.root_partition.as_deref(), destination, watch);
    }
    let only_for_images = |option: &str| {
        Err(StorageError::refused(
            format!("{option} is for images, and this is a directory"),
            "leave it out: a directory is changed in place, all files or none",
        ))
    };
    if let Err(option) = target.place.backend.refuse_for_a_directory() {
        return only_for_images(option);
    }
    match destination {
        _ if target.place.root_partition.is_some() => only_for_images("--root-partition"),
        Some(Destination::File { .. }) => only_for_images("-o"),
        Some(Destination::InPlace { keep_mode: true, .. }) => only_for_images("--keep-mode"),
        Some(Destination::InPlace { force: true, .. }) => only_for_images("--force"),
        Some(Destination::InPlace { undo: Some(_), .. }) => only_for_images("--undo"),
        _ => {
            root_directory::check(path, target.new_root)?;
            Ok(Box::new(DirectoryPlace::open(path)?))
        }
    }
}

/// Opens a base once for all hosts, and gives the place of each; none if each opens it for itself. See
/// [`deaddrop_image::open::disk::DiskImage::open_for_all`].
///
/// # Errors
/// If it cannot be opened, a destination is not possible, or an option is not for it.
pub fn open_for_all(
    target: Target<'_>,
    count: usize,
    destinations: &[Destination],
    watch: Watch<'_>,
) -> Result<Option<Vec<Base>>, StorageError> {
    if tar::is_tar(target.path) {
        refuse_for_a_tar(target)?;
        let tars = TarRoot::open_for_all(target.path, count, destinations, watch)?;
        return Ok(Some(tars.into_iter().map(Base::Tar).collect()));
    }
    let images = target.place.backend.open_for_all(target.path, count, destinations, watch)?;
    Ok(images.map(|images| images.into_iter().map(Base::Disk).collect()))
}

/// Opens a root file system in a tar.
fn open_tar<'w>(
    target: Target<'_>,
    destination: Option<&Destination>,
    watch: Watch<'w>,
) -> Result<Box<dyn Change + 'w>, StorageError> {
    refuse_for_a_tar(target)?;
    Ok(Box::new(TarPlace(TarRoot::open(target.path, destination, watch)?)))
}

fn refuse_for_a_tar(target: Target<'_>) -> Result<(), StorageError> {
    let asked = target.place.root_partition.as_ref().map(|_| "--root-partition");
    if let Some(option) = asked.or(target.place.backend.refuse_for_a_directory().err()) {
        return Err(StorageError::refused(
            format!("{option} is for disk images, and {} is a tar", target.path.display()),
            "leave it out: a tar of a root is read and written without the kernel",
        ));
    }
    Ok(())
}

/// The changes of a plan; generates the new password hashes.
///
/// # Errors
/// Exit 1 if the system has no randomness for a salt.
pub fn tree_changes(plan: &Plan, target: &str) -> Result<Vec<TreeChange>, Failure> {
    make::tree_changes(plan).map_err(|error| failure::nothing_changed(target, &error))
}

/// The time of all new files of a run: SOURCE_DATE_EPOCH if it is set, otherwise the current time. The specification
/// (reproducible-builds.org/specs/source-date-epoch) requires that a malformed value is refused.
///
/// # Errors
/// Exit 2 if it is not a valid time of a file.
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

/// The last second that an ext4 inode of 256 bytes can store (34 bits, from 1901 on): in the year 2446.
const LATEST: u64 = (1 << 34) - (1 << 31) - 1;
