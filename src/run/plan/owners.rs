//! Users and groups of a manifest as numbers of the target.

use crate::manifest::Owner;
use crate::place::Refusal;
use crate::place::users::Users;
use crate::run::desired::{Content, DesiredFile};

pub(super) fn owner_ids(file: &DesiredFile, users: &Users) -> Result<(u32, u32), Refusal> {
    if matches!(file.content, Content::Absent) {
        return Ok((0, 0));
    }
    Ok((user_id(file, &file.owner, users)?, group_id(file, &file.group, users)?))
}

/// The number of a user in the manifest.
pub(super) fn user_id(file: &DesiredFile, user: &Owner, users: &Users) -> Result<u32, Refusal> {
    match user {
        Owner::Id(id) => Ok(*id),
        Owner::Name(name) => {
            users.uid(name).ok_or_else(|| unknown(file, "user", name, "/etc/passwd", "users.users", "uid"))
        }
    }
}

/// The number of a group in the manifest.
pub(super) fn group_id(file: &DesiredFile, group: &Owner, users: &Users) -> Result<u32, Refusal> {
    match group {
        Owner::Id(id) => Ok(*id),
        Owner::Name(name) => {
            users.gid(name).ok_or_else(|| unknown(file, "group", name, "/etc/group", "users.groups", "gid"))
        }
    }
}

fn unknown(file: &DesiredFile, kind: &str, name: &str, table: &str, option: &str, id: &str) -> Refusal {
    Refusal {
        code: None,
        reason: format!("{}: the target has no {kind} `{name}` yet (no line in its {table})", file.path),
        hint: format!("write the number instead of the name, the one that {option}.{name}.{id} will have"),
    }
}
