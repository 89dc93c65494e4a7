//! Users and groups of a manifest as numbers of the target.

use crate::manifest::Owner;
use crate::place::Refusal;
use crate::place::users::Users;
use crate::run::desired::{Content, DesiredFile};
use crate::run::remedy;

/// The numbers of a file's owner and group in the target.
///
/// # Errors
/// If it does not have one of them.
pub fn owner_ids(file: &DesiredFile, users: &Users) -> Result<(u32, u32), Refusal> {
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
            users.uid(name).ok_or_else(|| unknown(file, users, ["user", name, "/etc/passwd", "users.users", "uid"]))
        }
    }
}

/// The number of a group in the manifest.
pub(super) fn group_id(file: &DesiredFile, group: &Owner, users: &Users) -> Result<u32, Refusal> {
    match group {
        Owner::Id(id) => Ok(*id),
        Owner::Name(name) => {
            users.gid(name).ok_or_else(|| unknown(file, users, ["group", name, "/etc/group", "users.groups", "gid"]))
        }
    }
}

/// NX107 on a NixOS: the number is given at the first boot.
fn unknown(file: &DesiredFile, users: &Users, [kind, name, table, option, id]: [&str; 5]) -> Refusal {
    if users.is_nowhere() {
        return Refusal {
            code: None,
            reason: format!(
                "{}: which number the {kind} `{name}` will have is not known without its system",
                file.path
            ),
            hint: remedy::name_closure(&format!("{option}.{name}.{id}")),
        };
    }
    let (code, fixed) = match users.is_nixos() {
        true => (Some("NX107"), ", and its configuration fixes no number: it is given at the first boot"),
        false => (None, ""),
    };
    Refusal {
        code,
        reason: format!("{}: the target has no {kind} `{name}` yet (no line in its {table}){fixed}", file.path),
        hint: format!("write the number instead of the name, the one that {option}.{name}.{id} will have"),
    }
}
