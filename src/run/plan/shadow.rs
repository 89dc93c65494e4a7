//! Passwords that NixOS would not apply: NX101, NX011, and the repair of the shadow file (`apply_password: true`).

use deaddrop_core::secret::Secret;

use super::{Action, Change};
use crate::derive::password::{self, Verdict};
use crate::nixos;
use crate::place::survey::PasswordRule;
use crate::place::users::with_hash;
use crate::place::{Refusal, Survey, SurveyedPath};
use crate::run::desired::{Content, DesiredFile};

const SHADOW: &str = "/etc/shadow";

/// A hash that goes into the shadow file as well.
#[derive(Debug)]
pub struct Repair {
    /// The secret's name.
    secret: String,
    /// The users whose lines get it.
    users: Vec<String>,
    /// The hash, with or without a newline.
    hash: Secret,
}

impl Repair {
    /// The repair that a file needs, if the manifest asks for it. A hash that is to be made must be made already.
    #[must_use]
    pub fn of(file: &DesiredFile, survey: &Survey) -> Option<Self> {
        let hash = file.content.line().filter(|_| is_needed(file, survey))?.clone();
        let users = trapped(file, survey).into_iter().map(str::to_owned).collect();
        Some(Self { secret: file.secret.clone(), users, hash })
    }
}

/// True if the hash of a file goes into the shadow file too.
#[must_use]
pub fn is_needed(file: &DesiredFile, survey: &Survey) -> bool {
    file.apply_password && survey.passwords == PasswordRule::LineStays && !trapped(file, survey).is_empty()
}

/// True if the hash of a file may have to go into the shadow file although the file itself stays.
#[must_use]
pub fn may_apply(file: &DesiredFile, survey: &Survey) -> bool {
    file.apply_password && !trapped(file, survey).is_empty()
}

/// The users whose password a file is: those that the manifest names, and those of the system's configuration.
pub(super) fn users_of<'a>(file: &'a DesiredFile, survey: &'a Survey) -> Vec<&'a str> {
    if !matches!(file.content, Content::Exact(_) | Content::Hash { .. } | Content::Unread) {
        return Vec::new();
    }
    let mut users: Vec<&str> = file.password_users.iter().map(String::as_str).collect();
    for user in survey.system.iter().flat_map(|system| system.accounts.users_of(file.path.as_str())) {
        if !users.contains(&user) {
            users.push(user);
        }
    }
    users
}

/// The users of a file whose line in the shadow file has another password.
pub(super) fn trapped<'a>(file: &'a DesiredFile, survey: &'a Survey) -> Vec<&'a str> {
    let is_other = |user: &&str| survey.users.shadow_hash(user).is_some_and(|hash| !is_in_force(file, hash));
    users_of(file, survey).into_iter().filter(is_other).collect()
}

/// True if the line of the file is the standing hash, or a hash of the same password.
fn is_in_force(file: &DesiredFile, standing: &Secret) -> bool {
    match &file.content {
        Content::Exact(line) => trim_newline(line.expose()) == standing.expose(),
        Content::Hash { existing: Some(line), .. } if trim_newline(line.expose()) == standing.expose() => true,
        Content::Hash { password, .. } => password::verify_any(standing.expose(), password) == Verdict::Matches,
        // Without the value only a locked line is known to be another one.
        Content::Unread => !standing.expose().starts_with(b"!") && !standing.expose().starts_with(b"*"),
        Content::Generated(_) | Content::PublicPart(_) | Content::Absent => true,
    }
}

pub(super) fn trim_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Refuses `apply_password` without a user.
///
/// # Errors
/// If nothing says whose password it is.
pub fn needs_user(file: &DesiredFile, survey: &Survey) -> Result<(), Refusal> {
    if file.apply_password && users_of(file, survey).is_empty() {
        return Err(Refusal {
            code: None,
            reason: format!("{} has `apply_password`, and nothing says whose password it is", file.path),
            hint: "add `used_by: users.users.NAME.hashedPasswordFile`".to_owned(),
        });
    }
    Ok(())
}

/// NX101 and NX011: the system would not apply a password.
#[must_use]
pub fn findings(file: &DesiredFile, surveyed: &SurveyedPath, survey: &Survey) -> Vec<nixos::Finding> {
    let path = file.path.as_str();
    let of_trapped = |finding: fn(&str, &str) -> nixos::Finding| {
        trapped(file, survey).into_iter().map(|user| finding(user, path)).collect()
    };
    // What stands on a running node is not refused.
    let rule = if survey.node.is_some() && !surveyed.is_examined { PasswordRule::Unknown } else { survey.passwords };
    match rule {
        PasswordRule::Applied => Vec::new(),
        PasswordRule::InStore if users_of(file, survey).is_empty() => Vec::new(),
        PasswordRule::InStore => vec![nixos::passwords::in_store(path)],
        PasswordRule::LineStays if file.apply_password => Vec::new(),
        PasswordRule::LineStays => of_trapped(nixos::passwords::line_stays),
        PasswordRule::Unknown => of_trapped(nixos::passwords::shadow_line_stays),
    }
}

/// The changes of the shadow file: one for each secret, all with the same content, that with every hash in it.
#[must_use]
pub fn changes(repairs: &[Repair], survey: &Survey) -> Vec<Change> {
    let Some(shadow) = &survey.shadow else { return Vec::new() };
    let mut content = shadow.content.clone();
    for repair in repairs {
        for user in &repair.users {
            content = with_hash(&content, user, trim_newline(repair.hash.expose())).unwrap_or(content);
        }
    }
    let (stat, users) = (shadow.stat, &survey.users);
    let change = |repair: &Repair| Change {
        secret: repair.secret.clone(),
        is_beside: true,
        path: SHADOW.to_owned(),
        physical: shadow.physical.clone(),
        written_to: (shadow.physical != SHADOW).then(|| shadow.physical.clone()),
        from: format!("the password of {}", repair.users.join(" and ")),
        action: Action::Replace,
        content: Content::Exact(content.clone()),
        parts: Some(vec![repair.hash.clone()]),
        mode: stat.mode,
        owner: format!("{}:{}", users.user_shown(stat.uid), users.group_shown(stat.gid)),
        uid: stat.uid,
        gid: stat.gid,
        existing: Some(stat),
        label: None,
    };
    repairs.iter().map(change).collect()
}
