//! The survey: what exists at each declared path of a tree, and whether a file may be written there.

use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::acl::WritableDirectory;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Stat, Tree};
use deaddrop_image::table::root::OSTREE;

use super::interrupted::{self, Interrupted};
use super::labels::{Labeller, Labels};
use super::users::{User, Users};
use crate::derive::generate::{self, GenerateSpec};
use crate::nixos;

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

/// The state of a target, as far as a run needs it.
#[derive(Debug)]
pub struct Survey {
    /// One entry per wanted path, in the same order.
    pub places: Vec<Result<SurveyedPath, Refusal>>,
    /// The target's own users and groups.
    pub users: Users,
    /// The name in /etc/hostname; always `None` for a running node.
    pub hostname: Option<String>,
    /// Leftovers of an interrupted `rotate`; always `None` for a running node, which handles them itself.
    pub interrupted: Option<Arc<Interrupted>>,
}

/// A path where a file may be written, and what exists there.
#[derive(Debug)]
pub struct SurveyedPath {
    /// The path without symbolic links.
    pub physical: String,
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
}

/// A home directory above a declared path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Its path, as in passwd.
    pub path: String,
    /// Its user.
    pub user: User,
    /// It exists.
    pub exists: bool,
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

/// The reason why no file may be written at a path. The run ends, and nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `NX…` if the reason is a rule of NixOS.
    pub code: Option<&'static str>,
    /// The reason, with the path.
    pub reason: String,
    /// What to do instead.
    pub hint: String,
}

impl From<nixos::Finding> for Refusal {
    fn from(finding: nixos::Finding) -> Self {
        let hint = finding.advice();
        Self { code: Some(finding.code), reason: finding.reason, hint }
    }
}

impl Refusal {
    fn plain(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: None, reason: reason.into(), hint: hint.into() }
    }
}

/// Surveys the tree of a disk, on which a `rotate` may have been interrupted.
///
/// # Errors
/// As [`survey`]; also if an interrupted run cannot be finished here.
pub fn survey_disk<T: Tree>(tree: &T, wanted: &[Wanted]) -> Result<Survey, StorageError> {
    let survey = survey(tree, wanted)?;
    let hostname = hostname(tree)?;
    Ok(Survey { interrupted: interrupted::find(tree)?.map(Arc::new), hostname, ..survey })
}

/// Surveys any tree.
///
/// # Errors
/// If the tree cannot be read, or is damaged at a path.
pub fn survey<T: Tree>(tree: &T, wanted: &[Wanted]) -> Result<Survey, StorageError> {
    refuse_physical_root(tree)?;
    let managed = nixos::etc::ManagedEtc::find(tree)?;
    let mut labeller = Labeller::new(tree);
    // Only root may read it, and it is rarely needed.
    let with_shadow = wanted.iter().any(|want| want.is_password);
    let users = users(tree, with_shadow)?;
    let homes = Homes::of(tree, &users)?;
    let mut places = Vec::with_capacity(wanted.len());
    for want in wanted {
        places.push(place(tree, &managed, &homes, &mut labeller, want)?);
    }
    Ok(Survey { places, users, hostname: None, interrupted: None })
}

/// Refuses the root above OSTree's deployments: it has no /etc of its own, and a running system never sees one that is
/// created there.
fn refuse_physical_root<T: Tree>(tree: &T) -> Result<(), StorageError> {
    let exists = |path| match walk::resolve(tree, path) {
        Ok(walked) => Ok(walked.found.is_some()),
        Err(WalkError::Image(error)) => Err(error),
        // A link that leads nowhere, or too far: nothing exists there.
        Err(_) => Ok(false),
    };
    if exists(OSTREE)? && !exists("/etc")? {
        return Err(StorageError::refused(
            format!("this is the physical root of an OSTree system: it has {OSTREE}, and no /etc"),
            "the /etc that is booted is a deployment's, /ostree/deploy/OS/deploy/ID/etc, and OSTree merges it with \
             each update: put the secrets in when the system runs (Ignition, cloud-init, `deaddrop rotate`)",
        ));
    }
    Ok(())
}

fn place<T: Tree>(
    tree: &T,
    managed: &nixos::etc::ManagedEtc<T::Node>,
    homes: &Homes<'_>,
    labeller: &mut Labeller<'_, T>,
    want: &Wanted,
) -> Result<Result<SurveyedPath, Refusal>, StorageError> {
    let path = want.path.as_str();
    let mut findings: Vec<nixos::Finding> = managed.judge(tree, path)?.into_iter().collect();
    // A managed name is refused as such, even if its links cannot be followed.
    let refuse =
        |refusal, findings: Vec<nixos::Finding>| Ok(Err(findings.into_iter().next().map_or(refusal, Refusal::from)));
    let mut walked = match walk::trace(tree, path) {
        Ok(walked) => walked,
        Err(WalkError::Image(error)) => return Err(error),
        Err(error) => return refuse(walk_refusal(path, &error), findings),
    };
    if findings.is_empty() && !walked.links.is_empty() {
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
    let home = homes.above(tree, path, &walked)?;
    let open = walk::writable_parents(tree, &walked)?;
    Ok(Ok(SurveyedPath {
        physical: walked.physical,
        missing_parents: walked.missing_parents,
        home,
        file,
        labels,
        open,
        key_maker: KeyMaker::Here,
        findings,
    }))
}

/// The homes of a target's users.
struct Homes<'u> {
    users: Vec<(&'u User, &'u str)>,
    /// The physical path of `/home`, if a link leads elsewhere.
    moved: Option<String>,
}

impl<'u> Homes<'u> {
    fn of<T: Tree>(tree: &T, users: &'u Users) -> Result<Self, StorageError> {
        let users: Vec<(&User, &str)> = users.with_homes().collect();
        let moved = match walk::resolve(tree, "/home") {
            _ if users.is_empty() => None,
            Ok(walked) => Some(walked.physical).filter(|physical| physical != "/home"),
            Err(WalkError::Image(error)) => return Err(error),
            Err(_) => None,
        };
        Ok(Self { users, moved })
    }

    /// The innermost home above `path`, as declared or as resolved.
    fn above<T: Tree>(&self, tree: &T, path: &str, walked: &Walk<T::Node>) -> Result<Option<Home>, StorageError> {
        for (user, home) in &self.users {
            let moved = self.moved.as_ref().zip(home.strip_prefix("/home/")).map(|(top, name)| format!("{top}/{name}"));
            let is_below = |home: &str| [path, walked.physical.as_str()].iter().any(|path| is_below(path, home));
            if !is_below(home) && !moved.as_deref().is_some_and(is_below) {
                continue;
            }
            let exists = match walk::resolve(tree, home) {
                Ok(walked) => walked.found.is_some_and(|(_, stat)| stat.kind == FileKind::Directory),
                Err(WalkError::Image(error)) => return Err(error),
                Err(_) => false,
            };
            return Ok(Some(Home { path: (*home).to_owned(), user: (*user).clone(), exists }));
        }
        Ok(None)
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn kind_refusal<T: Tree>(tree: &T, path: &str, walked: &Walk<T::Node>, kind: FileKind) -> Refusal {
    const HINT: &str = "only a regular file is replaced or removed: choose another path, or remove it there";
    if kind != FileKind::Symlink {
        return Refusal::plain(format!("{path} is {}", kind.name()), HINT);
    }
    // The chain shows where the link leads; if it cannot be followed, the error says why.
    match walk::trace_to_end(tree, path) {
        Ok(end) => Refusal {
            code: nixos::links::into_the_store(&end.physical),
            reason: format!("{path} is a symbolic link: {}", walk::chain(&end.links)),
            hint: HINT.into(),
        },
        Err(error) => {
            let at = walk::shown(&walked.physical);
            let reason = match error {
                WalkError::Dangling { links } => {
                    format!("{at} is a symbolic link that leads to nothing: {}", walk::chain(&links))
                }
                WalkError::Loop { .. } => format!("{at} is a symbolic link without an end: {error}"),
                _ => format!("{at} is a symbolic link: {error}"),
            };
            Refusal::plain(reason, HINT)
        }
    }
}

fn walk_refusal(path: &str, error: &WalkError) -> Refusal {
    let hint = match error {
        WalkError::NotADirectory { .. } => "choose a path whose parents are directories",
        WalkError::Foreign { .. } => {
            "links are followed only where nobody but root can lay them: declare the path where it leads, or give the \
             link and its directories to root"
        }
        _ => "choose a path without this link on the way",
    };
    let code = nixos::links::to_nowhere(error);
    Refusal { code, reason: format!("{path}: {error}"), hint: hint.into() }
}

fn users<T: Tree>(tree: &T, with_shadow: bool) -> Result<Users, StorageError> {
    // No such file, or a link that leads nowhere before the first boot: no users yet.
    let read = |path| read(tree, path, USERS_FILE_LIMIT);
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let shadow = if with_shadow { read("/etc/shadow")? } else { None };
    Ok(Users::parse(bytes(&passwd), bytes(&group), bytes(&shadow)))
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
