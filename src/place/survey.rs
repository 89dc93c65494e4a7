//! The survey: what exists at each declared path of a tree, and whether a file may be written there.

mod homes;
mod refusal;

use std::collections::BTreeMap;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::acl::WritableDirectory;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Stat, Tree};
use deaddrop_image::table::root::OSTREE;

use self::homes::Homes;
use self::refusal::{kind_refusal, walk_refusal};
use super::facts::{self, Facts};
use super::interrupted::{self, Interrupted};
use super::labels::{Labeller, Labels};
use super::need::NodeFacts;
use super::standing;
use super::users::Users;
use crate::derive::generate::{self, GenerateSpec};
use crate::nixos;
use crate::nixos::closure::view::View;
use crate::nixos::closure::wants::Want;
use crate::nixos::closure::{self, Closure, Etc, Found, UserManagement};
use crate::nixos::location::{Places, Readers};
use crate::nixos::open_file_system::OpenFileSystem;

pub use self::homes::Home;
pub use self::refusal::Refusal;

/// Maximum size of a passwd, group or shadow file, in bytes.
pub(super) const USERS_FILE_LIMIT: u64 = 17 << 20;

/// Maximum size of /etc/hostname, in bytes.
const HOSTNAME_LIMIT: u64 = 4096;

/// One path to survey.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The declared path.
    pub path: TargetPath,
    /// Read the content of an existing file of at most this many bytes.
    pub read_limit: u64,
    /// It is a user's password: the target's shadow file is needed.
    pub is_password: bool,
    /// A key of this kind is declared: a target that can check keys itself does so.
    pub key: Option<GenerateSpec>,
}

/// Where the keys of a target are generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMaker {
    /// In this program, which writes the target anyway.
    Here,
    /// In this program, for a running node that cannot generate the kind: the key is sent there.
    HereForNode,
    /// On the target: the key never leaves it.
    Target,
}

/// What the user says of the NixOS system in a target.
#[derive(Debug, Clone, Default)]
pub struct SystemChoice {
    /// The toplevel to judge by (`--system`), instead of the one that boots.
    pub system: Option<String>,
    /// Where files are written whose own path does not persist.
    pub persist_root: Option<String>,
    /// [`Survey::facts`] are wanted.
    pub with_facts: bool,
    /// Only the system is asked for: the wanted paths are those of another tree, which is to become its root. Then
    /// [`Survey::managed`] has an entry for each, and [`Survey::places`] none.
    pub system_only: bool,
}

/// What becomes of a password whose hash a file holds, if the shadow file has a line for its user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PasswordRule {
    /// Not known: a running node on which no password changes, or a system that cannot be read.
    #[default]
    Unknown,
    /// The file is applied, or no NixOS is there to read it.
    Applied,
    /// The line stays as it is.
    LineStays,
    /// The shadow file is in the store, and no file is read.
    InStore,
}

/// The shadow file that the boot will see.
#[derive(Debug)]
pub struct ShadowFile {
    /// Its path without symbolic links.
    pub physical: String,
    /// Mode, owner.
    pub stat: Stat,
    /// Its content.
    pub content: Secret,
}

/// The state of a target, as far as a run needs it.
#[derive(Debug, Default)]
pub struct Survey {
    /// One entry per wanted path, in the same order.
    pub places: Vec<Result<SurveyedPath, Refusal>>,
    /// The target's own users and groups.
    pub users: Users,
    /// The name in /etc/hostname; always `None` for a running node.
    pub hostname: Option<String>,
    /// What NixOS does with password files.
    pub passwords: PasswordRule,
    /// The shadow file, if a password is wanted or the system makes one, and there is one; always `None` for a running
    /// node.
    pub shadow: Option<ShadowFile>,
    /// The NixOS system of the target; `None` without one, and for a running node on which nothing would change.
    pub system: Option<Box<Closure>>,
    /// What only a running node has, if its system was read.
    pub node: Option<NodeFacts>,
    /// What `lint` needs of it, if it was asked for.
    pub facts: Option<Facts>,
    /// The keys that stand in the target where its system's sops-nix or agenix looks for one, by their declared path.
    /// Empty bytes: a file that cannot be read, or over 64 KiB. On a running node only if one of them would change.
    pub keys: BTreeMap<String, Secret>,
    /// [`SystemChoice::persist_root`].
    pub persist_root: Option<String>,
    /// What could not be read of the target's system (NX119).
    pub findings: Vec<nixos::Finding>,
    /// NX004 for each wanted path, see [`SystemChoice::system_only`].
    pub managed: Vec<Option<nixos::Finding>>,
    /// Leftovers of an interrupted `rotate`; always `None` for a running node, which handles them itself.
    pub interrupted: Option<Arc<Interrupted>>,
}

/// A path where a file may be written, and what exists there.
#[derive(Debug)]
pub struct SurveyedPath {
    /// The path without symbolic links.
    pub physical: String,
    /// The path of the booted system where the file is written, if it is not the declared one.
    pub written_to: Option<String>,
    /// Missing directories, topmost first.
    pub missing_parents: Vec<String>,
    /// The home directory that the path is below; `None` if it is below none, or below root's.
    pub home: Option<Home>,
    /// The existing regular file.
    pub file: Option<ExistingFile>,
    /// The SELinux labels of new files here; `None` if nothing is labelled.
    pub labels: Option<Labels>,
    /// Parent directories in which users other than root can replace names (the file's owner may be among them);
    /// topmost first.
    pub open: Vec<WritableDirectory>,
    /// Where the wanted key is generated, if one is wanted.
    pub key_maker: KeyMaker,
    /// What NixOS does with a file here: refusals that the manifest may allow, and warnings.
    pub findings: Vec<nixos::Finding>,
    /// What of the system reads the file.
    pub wants: Vec<Want>,
    /// The target's system was held against it. On a running node that is so if it would change.
    pub is_examined: bool,
}

/// An existing regular file of the target.
#[derive(Debug)]
pub struct ExistingFile {
    /// Mode, owner, size, number of names.
    pub stat: Stat,
    /// Its content; `None` if it is larger than the limit.
    pub content: Option<Secret>,
    /// The result of the key check, if the target has checked it itself.
    pub judged: Option<generate::ExistingKey>,
}

/// Surveys the tree of a disk, on which a `rotate` may have been interrupted.
///
/// # Errors
/// As [`survey`]; also if an interrupted run cannot be finished here.
pub fn survey_disk<T: Tree>(
    tree: &T,
    wanted: &[Wanted],
    choice: &SystemChoice,
    open: &OpenFileSystem,
) -> Result<Survey, StorageError> {
    let found = closure::read(tree, choice.system.as_deref())?;
    if choice.system.is_some() && !matches!(found, Found::System(_)) {
        let why = if let Found::Unreadable(why) = found { why } else { "--system: there is no NixOS here".to_owned() };
        return Err(StorageError::refused(why, "name a system in its store: /nix/store/HASH-nixos-system-NAME-LABEL"));
    }
    let (closure, findings) = match found {
        Found::None => (None, Vec::new()),
        Found::Unreadable(why) => (None, vec![nixos::unreadable(&why)]),
        Found::System(closure) => {
            let unread = (!closure.unread.is_empty()).then(|| nixos::unreadable(&closure.unread.join("; ")));
            (Some(closure), unread.into_iter().collect())
        }
    };
    if choice.system_only {
        let managed = managed(tree, wanted, closure.as_deref())?;
        return Ok(Survey { system: closure, findings, managed, ..Survey::default() });
    }
    let view = View::of(tree)?;
    if closure.is_none() && view.is_below_nix() && !exists(tree, "/etc")? {
        let why = findings.first().map_or("there is no system in it".to_owned(), |finding| finding.reason.clone());
        return Err(StorageError::refused(
            format!(
                "this is the file system that a NixOS mounts at /nix, and where other paths lie is not known: {why}"
            ),
            "name a system in its store, as it is called there (--system /nix/store/…), or open the root's partition",
        ));
    }
    let places =
        closure.as_ref().map(|closure| Places::new(closure, open, view.is_below_nix(), choice.persist_root.as_deref()));
    let passwords = match (&closure, findings.is_empty()) {
        (None, true) => PasswordRule::Applied,
        (None, false) => PasswordRule::Unknown,
        (Some(closure), _) => rule(&closure.users),
    };
    let survey = survey_with(tree, wanted, places.as_ref())?;
    let facts = match (&closure, &places) {
        (Some(closure), Some(places)) if choice.with_facts => Some(facts::find(tree, closure, places, open)?),
        _ => None,
    };
    let keys =
        closure.iter().zip(&places).flat_map(|(closure, places)| standing::keys(tree, closure, places)).collect();
    let interrupted = interrupted::find(tree)?.map(Arc::new);
    let persist_root = choice.persist_root.clone();
    Ok(Survey {
        facts,
        keys,
        persist_root,
        findings,
        passwords,
        hostname: hostname(tree)?,
        interrupted,
        system: closure,
        ..survey
    })
}

/// NX004 for each path, by the system's own etc tree. Nothing else of the tree is looked at.
fn managed<T: Tree>(
    tree: &T,
    wanted: &[Wanted],
    closure: Option<&Closure>,
) -> Result<Vec<Option<nixos::Finding>>, StorageError> {
    let view = View::of(tree)?;
    let managed = match closure {
        Some(closure) if closure.etc != (Etc::Confext { kept: true }) => {
            nixos::etc::ManagedEtc::of_system(&view, &closure.toplevel)?
        }
        _ => return Ok(wanted.iter().map(|_| None).collect()),
    };
    wanted.iter().map(|want| managed.judge(&view, want.path.as_str())).collect()
}

/// Surveys any tree.
///
/// # Errors
/// If the tree cannot be read, or is damaged at a path.
pub fn survey<T: Tree>(tree: &T, wanted: &[Wanted]) -> Result<Survey, StorageError> {
    survey_with(tree, wanted, None)
}

/// Where these paths of the booted system lie in a tree; as they are, if no system can be read.
///
/// # Errors
/// If the tree cannot be read.
pub fn locate_all<T: Tree>(
    tree: &T,
    paths: &[&str],
    choice: &SystemChoice,
    open: &OpenFileSystem,
) -> Result<Vec<String>, StorageError> {
    let Found::System(closure) = closure::read(tree, choice.system.as_deref())? else {
        return Ok(paths.iter().map(|path| (*path).to_owned()).collect());
    };
    let is_below_nix = View::of(tree)?.is_below_nix();
    let places = Places::new(&closure, open, is_below_nix, choice.persist_root.as_deref());
    Ok(paths.iter().map(|path| places.locate(path, false).in_tree).collect())
}

/// What a user management does with a line that stands: nixpkgs, `update-users-groups.pl`; userborn.
pub(super) fn rule(users: &UserManagement) -> PasswordRule {
    match users {
        UserManagement::Perl { mutable: true } | UserManagement::Sysusers => PasswordRule::LineStays,
        UserManagement::Perl { mutable: false } | UserManagement::Userborn { .. } => PasswordRule::Applied,
        UserManagement::UserbornStatic => PasswordRule::InStore,
        UserManagement::Unknown => PasswordRule::Unknown,
    }
}

/// Surveys a tree. `places` are those of the NixOS system in it, or for which it is made.
///
/// # Errors
/// As [`survey`].
pub(super) fn survey_with<T: Tree>(
    tree: &T,
    wanted: &[Wanted],
    places: Option<&Places<'_>>,
) -> Result<Survey, StorageError> {
    refuse_physical_root(tree)?;
    let managed = nixos::etc::ManagedEtc::find(tree, places.map(Places::toplevel))?;
    let mut labeller = Labeller::new(tree);
    // Only root may read it, and it is rarely needed.
    let is_password = |path: &str| places.is_some_and(|places| places.accounts().users_of(path).next().is_some());
    let with_shadow = wanted.iter().any(|want| want.is_password || is_password(want.path.as_str()));
    let at = places.map_or_else(|| SHADOW.to_owned(), |places| places.locate(SHADOW, false).in_tree);
    // Only `lint` judges a password that the system makes, so that there a shadow file may be closed to us.
    let shadow = match with_shadow {
        true => shadow_file(tree, &at)?,
        false if places.is_some_and(Places::makes_passwords) => shadow_file(tree, &at).unwrap_or_default(),
        false => None,
    };
    let mut users = users(tree, shadow.as_ref())?;
    places.iter().for_each(|places| users.declare(places.accounts()));
    let homes = Homes::of(tree, &users)?;
    let readers = places.map(Places::readers).unwrap_or_default();
    let mut surveyed = Vec::with_capacity(wanted.len());
    for want in wanted {
        surveyed.push(place(tree, places, &readers, &managed, &homes, &mut labeller, want)?);
    }
    Ok(Survey { places: surveyed, users, shadow, ..Survey::default() })
}

/// Refuses the root above OSTree's deployments: it has no /etc of its own, and a running system never sees one that is
/// created there.
fn refuse_physical_root<T: Tree>(tree: &T) -> Result<(), StorageError> {
    if exists(tree, OSTREE)? && !exists(tree, "/etc")? {
        return Err(StorageError::refused(
            format!("this is the physical root of an OSTree system: it has {OSTREE}, and no /etc"),
            "the /etc that is booted is a deployment's, /ostree/deploy/OS/deploy/ID/etc, and OSTree merges it with \
             each update: put the secrets in when the system runs (Ignition, cloud-init, `deaddrop rotate`)",
        ));
    }
    Ok(())
}

fn exists<T: Tree>(tree: &T, path: &str) -> Result<bool, StorageError> {
    match walk::resolve(tree, path) {
        Ok(walked) => Ok(walked.found.is_some()),
        Err(WalkError::Image(error)) => Err(error),
        // A link that leads nowhere, or too far: nothing exists there.
        Err(_) => Ok(false),
    }
}

fn place<T: Tree>(
    tree: &T,
    places: Option<&Places<'_>>,
    readers: &Readers<'_>,
    managed: &nixos::etc::ManagedEtc<T::Node>,
    homes: &Homes<'_>,
    labeller: &mut Labeller<'_, T>,
    want: &Wanted,
) -> Result<Result<SurveyedPath, Refusal>, StorageError> {
    let path = want.path.as_str();
    let by_activation = want.is_password || places.is_some_and(|places| places.is_read_by_activation(path));
    let location = places.map(|places| places.locate(path, by_activation));
    let at = location.as_ref().map_or(path, |location| location.in_tree.as_str());
    let managed_here = if places.is_some_and(Places::own_etc_wins) { None } else { managed.judge(tree, path)? };
    let mut findings: Vec<nixos::Finding> = managed_here.into_iter().collect();
    // A managed name is refused as such, even if its links cannot be followed.
    let refuse =
        |refusal, findings: Vec<nixos::Finding>| Ok(Err(findings.into_iter().next().map_or(refusal, Refusal::from)));
    findings.extend(location.iter().flat_map(|location| location.findings.clone()));
    let mut walked = match walk::trace(tree, at) {
        Ok(walked) => walked,
        Err(WalkError::Image(error)) => return Err(error),
        Err(error) => return refuse(walk_refusal(path, &error), findings),
    };
    if !findings.iter().any(|finding| finding.refuse) && !walked.links.is_empty() {
        // Checks the physical path too: a path that is refused by its name is also refused through a link.
        let by_name = nixos::paths::judge(&walked.physical).filter(|finding| finding.refuse);
        let finding = match by_name {
            Some(finding) => Some(finding),
            None => managed.judge(tree, &walked.physical)?,
        };
        findings.extend(finding.map(|finding| nixos::links::landing(path, &walked, finding)));
    }
    if let Some((link, why)) = walked.foreign.take() {
        return refuse(walk_refusal(path, &WalkError::Foreign { link, why }), findings);
    }
    let file = match &walked.found {
        None => None,
        Some((node, stat)) if stat.kind == FileKind::File => {
            Some(ExistingFile { stat: *stat, content: tree.read(node, want.read_limit)?, judged: None })
        }
        Some((_, stat)) => return refuse(kind_refusal(tree, path, &walked, stat.kind), findings),
    };
    let labels = labeller.choose(&walked)?;
    let home = homes.above(tree, places, path, &walked)?;
    let open = walk::writable_parents(tree, &walked)?;
    Ok(Ok(SurveyedPath {
        physical: walked.physical,
        written_to: location.as_ref().map(|location| location.path.clone()).filter(|written_to| written_to != path),
        missing_parents: walked.missing_parents,
        home,
        file,
        labels,
        open,
        key_maker: KeyMaker::Here,
        findings,
        wants: readers.of(path, at),
        is_examined: places.is_some(),
    }))
}

pub(super) fn users<T: Tree>(tree: &T, shadow: Option<&ShadowFile>) -> Result<Users, StorageError> {
    // No such file, or a link that leads nowhere before the first boot: no users yet.
    let read = |path| read(tree, path, USERS_FILE_LIMIT);
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let shadow = shadow.map_or(&[][..], |shadow| shadow.content.expose());
    Ok(Users::parse(bytes(&passwd), bytes(&group), shadow))
}

const SHADOW: &str = "/etc/shadow";

/// The shadow file at a path of the tree, through links.
pub(super) fn shadow_file<T: Tree>(tree: &T, path: &str) -> Result<Option<ShadowFile>, StorageError> {
    match walk::resolve(tree, path) {
        Ok(Walk { found: Some((node, stat)), physical, .. }) if stat.kind == FileKind::File => {
            let content = tree.read(&node, USERS_FILE_LIMIT)?;
            Ok(content.map(|content| ShadowFile { physical, stat, content }))
        }
        Err(WalkError::Image(error)) => Err(error),
        _ => Ok(None),
    }
}

/// The name in /etc/hostname: its first line that is no comment (hostname(5)).
fn hostname<T: Tree>(tree: &T) -> Result<Option<String>, StorageError> {
    let file = read(tree, "/etc/hostname", HOSTNAME_LIMIT)?;
    let text = String::from_utf8_lossy(bytes(&file)).into_owned();
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(name.map(str::to_owned))
}

/// The content of a regular file of the target, through links; `None` if there is none, or if it is over `limit`.
fn read<T: Tree>(tree: &T, path: &str, limit: u64) -> Result<Option<Secret>, StorageError> {
    match walk::resolve(tree, path) {
        Ok(Walk { found: Some((node, stat)), .. }) if stat.kind == FileKind::File => tree.read(&node, limit),
        Err(WalkError::Image(error)) => Err(error),
        _ => Ok(None),
    }
}

fn bytes(file: &Option<Secret>) -> &[u8] {
    file.as_ref().map_or(&[], Secret::expose)
}
