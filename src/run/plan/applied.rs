//! Passwords that are applied on a running node: each by what makes its system's users (docs/rotation.md).

use std::collections::BTreeSet;

use deaddrop_core::secret::Secret;

use super::shadow::{trapped, trim_newline, users_of};
use super::{Action, Change};
use crate::nixos::closure::{Closure, UserManagement, UsersScript};
use crate::nixos::{self, passwords};
use crate::place::{Refusal, Survey, SurveyedPath};
use crate::run::desired::DesiredFile;

/// A password that is applied after its file is in place.
#[derive(Debug)]
pub struct AppliedPassword {
    /// The secret's name.
    pub secret: String,
    /// The user.
    pub user: String,
    /// How.
    pub how: Applying,
    /// The hash, which must then be in force.
    pub hash: Secret,
    /// The field that stands in the shadow file.
    pub old: Option<Secret>,
}

/// How a password is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applying {
    /// userborn.service is restarted, and reads the file.
    Userborn,
    /// The command of the system's activation that makes the users reads the file.
    Script(UsersScript),
    /// chpasswd gets the hash.
    Chpasswd,
}

/// The passwords of a file that are applied. A hash that is to be made must be made already.
pub(super) fn of(file: &DesiredFile, surveyed: &SurveyedPath, survey: &Survey, action: Action) -> Vec<AppliedPassword> {
    let (Some(system), Some(hash)) = (system(surveyed, survey), file.content.line()) else { return Vec::new() };
    let trapped = trapped(file, survey);
    let is_new = matches!(action, Action::Create | Action::Replace);
    let how = |user: &str| match &system.users {
        UserManagement::Userborn { .. } if is_new || trapped.contains(&user) => Some(Applying::Userborn),
        UserManagement::Perl { mutable: false } if is_new || trapped.contains(&user) => {
            system.users_script.clone().map(Applying::Script)
        }
        UserManagement::Perl { mutable: true } | UserManagement::Sysusers
            if file.apply_password && trapped.contains(&user) =>
        {
            Some(Applying::Chpasswd)
        }
        _ => None,
    };
    let hash = Secret::new(trim_newline(hash.expose()).to_vec());
    let applied = |user: &str| {
        let (secret, user, hash, old) =
            (file.secret.clone(), user.to_owned(), hash.clone(), survey.users.shadow_hash(user).cloned());
        Some(AppliedPassword { how: how(&user)?, secret, user, hash, old })
    };
    users_of(file, survey).into_iter().filter_map(applied).collect()
}

/// True if the password of a file is in force already, for all its users.
pub(super) fn is_in_force(file: &DesiredFile, surveyed: &SurveyedPath, survey: &Survey) -> bool {
    let users = users_of(file, survey);
    system(surveyed, survey).is_some()
        && !users.is_empty()
        && users.iter().all(|user| survey.users.shadow_hash(user).is_some())
        && trapped(file, survey).is_empty()
}

/// The system of a running node that was held against a path.
fn system<'s>(surveyed: &SurveyedPath, survey: &'s Survey) -> Option<&'s Closure> {
    survey.node.as_ref().filter(|_| surveyed.is_examined)?;
    survey.system.as_deref()
}

/// True if the hash of a file has to be known before the plan.
#[must_use]
pub fn needs_hash(file: &DesiredFile, survey: &Survey) -> bool {
    survey.node.is_some() && !users_of(file, survey).is_empty()
}

/// NX101 of a password file that sops-nix or agenix makes on a running node: it is changed where it is encrypted.
pub(super) fn made_elsewhere(file: &DesiredFile, survey: &Survey) -> Option<Refusal> {
    survey.node.as_ref()?;
    let system = survey.system.as_ref()?;
    let users = users_of(file, survey);
    let (user, path, tool) = system.made_passwords().find(|(user, path, _)| {
        users.contains(user) || (*path == file.path.as_str() && !file.password_users.is_empty())
    })?;
    let shown = nixos::closure::view::shown;
    let finding = passwords::made_by_a_tool(&shown(user), &shown(path), tool.name()).unless_allowed(&file.allow)?;
    finding.refuse.then_some(Refusal { code: Some(finding.code), reason: finding.reason, hint: finding.instead })
}

/// Refuses to run the script that makes the users if it would lock one: a user whose file of a hash is missing gets `!`.
pub(super) fn would_lock(
    passwords: &[AppliedPassword],
    changes: &[Change],
    survey: &Survey,
) -> Option<(String, Refusal)> {
    let first = passwords.iter().find(|password| matches!(password.how, Applying::Script(_)))?;
    let (system, node) = (survey.system.as_ref()?, survey.node.as_ref()?);
    let of = |action: fn(Action) -> bool| -> BTreeSet<&str> {
        changes.iter().filter(|change| action(change.action)).map(|change| change.path.as_str()).collect()
    };
    let (made, removed) = (of(|action| action == Action::Create), of(|action| action == Action::Remove));
    let is_missing =
        |path: &str| removed.contains(path) || (node.missing_password_files.contains(path) && !made.contains(path));
    let locked = system.accounts.users.iter().find_map(|user| {
        let path = user.hashed_password_file.as_deref().filter(|path| is_missing(path))?;
        Some((user.name.as_str(), path))
    })?;
    let (user, path) = (nixos::closure::view::shown(locked.0), nixos::closure::view::shown(locked.1));
    let refusal = Refusal {
        code: None,
        reason: format!(
            "{path}, the hashedPasswordFile of {user}, is missing: update-users-groups.pl, which applies the password of \
             {}, would lock {user}",
            first.user
        ),
        hint: format!(
            "put {path} there first (a secret with this path, in the same run), or take it out of the configuration"
        ),
    };
    Some((first.secret.clone(), refusal))
}
