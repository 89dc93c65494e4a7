//! The missing parent directories of files: their modes and owners.

use std::collections::{BTreeMap, HashMap};

use deaddrop_core::tree::{Label, walk};

use super::owners::{group_id, user_id};
use super::{Change, NewDirectory, Refused};
use crate::manifest::Owner;
use crate::place::users::Users;
use crate::place::{Home, Refusal, SurveyedPath};
use crate::run::desired::{Content, DesiredFile};

/// Directories that a system has for all users: 0755 if they are created. docs/manifest.md has this table.
const SYSTEM_DIRECTORIES: &[&str] = &[
    "/etc",
    "/etc/nix",
    "/etc/ssh",
    "/home",
    "/media",
    "/mnt",
    "/nix",
    "/opt",
    "/srv",
    "/usr",
    "/usr/local",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
];

/// The mode of a missing directory.
///
/// `is_last` is true if a declared file is directly in it; `asked` is the manifest's `directory_mode`; `shared` is true
/// if a file in it (or below it) belongs to another user than root or is readable by its group.
#[must_use]
pub fn mode(path: &str, is_last: bool, asked: Option<u32>, shared: bool) -> u32 {
    match (path, is_last, asked) {
        (_, true, Some(asked)) => asked,
        ("/root", ..) => 0o700,
        (path, ..) if SYSTEM_DIRECTORIES.contains(&path) => 0o755,
        (_, false, _) => 0o755,
        (_, true, None) if shared => 0o711,
        (_, true, None) => 0o700,
    }
}

/// The owner of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Both for people: `root:root`.
    pub shown: String,
}

impl Default for Owned {
    fn default() -> Self {
        Self { uid: 0, gid: 0, shown: "root:root".to_owned() }
    }
}

/// The owner of a file's missing parents; root if both are `None`.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Of the file's own directory, from the manifest.
    pub asked: Option<Owned>,
    /// Of all of them: they are below this user's home.
    pub home: Option<Owned>,
}

/// The owner of the missing parents of `file`.
///
/// # Errors
/// If the target has no such user or group.
pub(super) fn owned(file: &DesiredFile, surveyed: &SurveyedPath, users: &Users) -> Result<Owners, Refusal> {
    if matches!(file.content, Content::Absent) {
        return Ok(Owners::default());
    }
    let asked = file.directory_owner.as_ref().map(|owner| -> Result<Owned, Refusal> {
        let uid = user_id(file, &owner.user, users)?;
        let gid = match (&owner.group, &owner.user) {
            (Some(group), _) => group_id(file, group, users)?,
            (None, Owner::Name(name)) => users.own_group(uid, Some(name)).unwrap_or_default(),
            (None, Owner::Id(_)) => users.own_group(uid, None).unwrap_or_default(),
        };
        let group = owner.group.as_ref().map_or_else(|| users.group_shown(gid), ToString::to_string);
        Ok(Owned { uid, gid, shown: format!("{}:{group}", owner.user) })
    });
    let asked = asked.transpose()?;
    let home = surveyed.home.as_ref().filter(|home| home.exists).map(|home| Owned {
        uid: home.user.uid,
        gid: home.user.gid,
        shown: format!("{}:{}", home.user.name, users.group_shown(home.user.gid)),
    });
    Ok(Owners { asked, home })
}

/// The missing home that would have to be created for this file.
pub(super) fn missing_home<'s>(file: &DesiredFile, surveyed: &'s SurveyedPath) -> Option<&'s Home> {
    if matches!(file.content, Content::Absent) {
        return None;
    }
    surveyed.home.as_ref().filter(|home| !home.exists)
}

/// The missing directories of all files.
#[derive(Default)]
pub(super) struct Parents {
    /// By physical path, so that a parent comes before its content.
    directories: BTreeMap<String, Parent>,
}

#[derive(Default)]
struct Parent {
    /// The directory of the booted system that decides its mode, if it is another.
    nominal: Option<String>,
    holds_a_file: bool,
    asked: Option<u32>,
    shared: bool,
    in_home: bool,
    owner: Option<Owned>,
    label: Option<Label>,
}

impl Parents {
    pub(super) fn add(&mut self, surveyed: &SurveyedPath, file: &DesiredFile, uid: u32, owners: &Owners) {
        if matches!(file.content, Content::Absent) {
            return;
        }
        let last = surveyed.missing_parents.len().checked_sub(1);
        for (index, path) in surveyed.missing_parents.iter().enumerate() {
            let parent = self.directories.entry(path.clone()).or_default();
            if surveyed.written_to.is_some() {
                // As the directory of the booted system that it stands for.
                let levels = surveyed.missing_parents.len().saturating_sub(index);
                parent.nominal = Some((0..levels).fold(file.path.as_str(), |path, _| walk::parent(path)).to_owned());
            }
            let label = surveyed.labels.as_ref().and_then(|labels| labels.parents.get(index));
            parent.label = parent.label.take().or_else(|| label.map(|chosen| chosen.label.clone()));
            // The public part of a key does not open its directory to others.
            parent.shared |= !matches!(file.content, Content::PublicPart(_))
                && (uid != 0 || file.mode & 0o040 != 0 || file.mode & 0o004 != 0);
            parent.in_home |= owners.home.is_some();
            if Some(index) == last {
                parent.holds_a_file = true;
                parent.asked = parent.asked.or(file.directory_mode);
                // An explicit setting of the manifest wins over another file's default.
                if owners.asked.is_some() {
                    parent.owner.clone_from(&owners.asked);
                }
            }
            parent.owner = parent.owner.take().or_else(|| owners.home.clone());
        }
    }

    pub(super) fn into_directories(self) -> Vec<NewDirectory> {
        self.directories
            .into_iter()
            .map(|(path, parent)| {
                let mode = match parent.in_home {
                    true => parent.asked.unwrap_or(0o700),
                    false => {
                        let nominal = parent.nominal.as_deref().unwrap_or(&path);
                        mode(nominal, parent.holds_a_file, parent.asked, parent.shared)
                    }
                };
                NewDirectory { path, mode, owner: parent.owner.unwrap_or_default(), label: parent.label }
            })
            .collect()
    }
}

/// Refuses two declared paths that links lead to one file, and a file where another needs a directory.
pub(super) fn collisions(changes: &[Change], parents: &Parents) -> Vec<Refused> {
    let mut first: HashMap<&str, &Change> = HashMap::new();
    let mut refused = Vec::new();
    for change in changes {
        let reason = if let Some(other) = first.get(change.physical.as_str()) {
            let physical = walk::shown(&change.physical);
            format!("{} and {} (of {}) are the same file, {physical}", change.path, other.path, other.secret)
        } else if parents.directories.contains_key(&change.physical) {
            format!("{} is a file here, and a directory above another secret", change.path)
        } else {
            first.insert(&change.physical, change);
            continue;
        };
        let refusal = Refusal { code: None, reason, hint: "give each secret a path of its own".into() };
        refused.push(Refused { secret: Some(change.secret.clone()), refusal });
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_as_open_as_its_files_need() {
        for (path, is_last, asked, shared, want) in [
            ("/etc/secrets", true, None, false, 0o700),
            ("/etc/secrets", true, None, true, 0o711),
            ("/etc/secrets", true, Some(0o750), true, 0o750),
            ("/etc/secrets", false, None, false, 0o755),
            ("/etc", true, None, false, 0o755),
            ("/etc/ssh", true, None, true, 0o755),
            ("/root", true, None, false, 0o700),
            ("/root", false, None, false, 0o700),
            ("/root/.ssh", true, None, false, 0o700),
        ] {
            assert_eq!(mode(path, is_last, asked, shared), want, "{path} {is_last} {asked:?} {shared}");
        }
    }

    #[test]
    fn the_manual_shows_the_same_table() {
        let manual = include_str!("../../../docs/manifest.md");
        for path in SYSTEM_DIRECTORIES {
            assert!(manual.contains(&format!("`{path}`")), "docs/manifest.md lacks {path}");
        }
    }
}
