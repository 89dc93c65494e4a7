//! Modes and owners of the directories that have to be made above a file.

use super::{Warning, group_id, user_id};
use crate::desired::{Content, DesiredFile};
use crate::image::acl::{Open, Others};
use crate::image::walk;
use crate::manifest::Owner;
use crate::target::users::Users;
use crate::target::{Home, Refusal, Standing};

/// The code of a path below a home that does not stand.
pub(super) const NO_HOME: &str = "NX108";

/// Directories that a system has for everybody: 0755 when they have to be made. docs/manifest.md shows this table.
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

/// Decides the mode of a directory that has to be made.
///
/// `is_last` is true when a declared file lies directly in it; `asked` is the manifest's `directory_mode`; `shared`
/// is true when a file in it (or below it) belongs to another user than root or is readable by its group.
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

/// Who owns a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Both in words: `root:root`.
    pub shown: String,
}

impl Default for Owned {
    fn default() -> Self {
        Self { uid: 0, gid: 0, shown: "root:root".to_owned() }
    }
}

/// Who owns the directories that have to be made for a file; root where there is nobody else.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// The file's own directory, as the manifest says.
    pub asked: Option<Owned>,
    /// All of them: they are below this user's home.
    pub home: Option<Owned>,
}

/// Decides who owns the directories that have to be made for `file`.
///
/// # Errors
/// The target has no such user or group; the path is below a home that does not stand (NX108), and that is not allowed.
pub(super) fn owned(file: &DesiredFile, standing: &Standing, users: &Users) -> Result<Owners, Refusal> {
    if matches!(file.content, Content::Absent) {
        return Ok(Owners::default());
    }
    let asked = file.directory_owner.as_ref().map(|owner| {
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
    if let Some(home) = missing_home(file, standing)
        && !file.allow.contains_key(NO_HOME)
    {
        return Err(Refusal {
            code: Some(NO_HOME),
            reason: no_home(file, home),
            hint: format!(
                "declare another path, make the home in the target first, or go on with directories that are root's: \
                 `allow: {{ {NO_HOME}: \"the reason\" }}`"
            ),
        });
    }
    let home = standing.home.as_ref().filter(|home| home.stands).map(|home| Owned {
        uid: home.user.uid,
        gid: home.user.gid,
        shown: format!("{}:{}", home.user.name, users.group_shown(home.user.gid)),
    });
    Ok(Owners { asked, home })
}

/// The home that does not stand, and that directories for this file would have to be made in.
pub(super) fn missing_home<'s>(file: &DesiredFile, standing: &'s Standing) -> Option<&'s Home> {
    if matches!(file.content, Content::Absent) {
        return None;
    }
    standing.home.as_ref().filter(|home| !home.stands)
}

/// What is wrong with a path below a home that does not stand.
pub(super) fn no_home(file: &DesiredFile, home: &Home) -> String {
    let (path, user) = (&file.path, &home.user.name);
    format!(
        "{path} is below {}, the home of {user}, which is not there: it would be made, and belong to root",
        home.path
    )
}

/// DD210: a directory on the way whose names somebody else than root and the file's owner can change.
pub(super) fn open_warning(file: &DesiredFile, standing: &Standing, uid: u32, users: &Users) -> Option<Warning> {
    // What is not there, or not secret, need not be kept from anybody.
    if matches!(file.content, Content::Absent | Content::PublicPart(_)) {
        return None;
    }
    let is_others = |open: &&Open| match open.to {
        Others::Owner(owner) => owner != uid,
        Others::Group(gid) => !users.is_alone_in(uid, gid),
        Others::Everyone | Others::Acl => true,
    };
    let open = standing.open.iter().find(is_others)?;
    let directory = walk::shown(&open.directory);
    let who = |name: String| walk::shown(&name);
    let why = match open.to {
        Others::Owner(owner) => format!("{directory} belongs to {}, who", who(users.user_shown(owner))),
        Others::Group(gid) => format!("the group {} may write to {directory}, and", who(users.group_shown(gid))),
        Others::Everyone => format!("every user may write to {directory}, and"),
        Others::Acl => format!("an ACL lets others write to {directory}, who"),
    };
    Some(Warning {
        code: "DD210",
        secret: Some(file.secret.clone()),
        message: format!("{why} can replace {} by another file", file.path),
        hint: "declare a path whose directories only root and the file's owner can write to".into(),
    })
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
        let manual = include_str!("../../docs/manifest.md");
        for path in SYSTEM_DIRECTORIES {
            assert!(manual.contains(&format!("`{path}`")), "docs/manifest.md lacks {path}");
        }
    }
}
