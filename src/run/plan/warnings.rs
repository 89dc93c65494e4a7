//! Warnings about single files of a plan.

use std::collections::HashMap;

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::acl::{WritableDirectory, Writers};
use deaddrop_core::tree::walk;
use deaddrop_core::warning::Warning;

use super::parents::missing_home;
use super::{Action, Change, shadow};
use crate::derive::generate::KeyKind;
use crate::nixos::closure::wants::Kind;
use crate::nixos::{self, Finding};
use crate::place::users::Users;
use crate::place::{KeyMaker, Origin, Refusal, Survey, SurveyedPath};
use crate::run::desired::{Content, DesiredFile, Generated, KeyState};

/// What of NixOS's rules applies to a file, whatever the manifest allows.
pub fn nixos_findings(file: &DesiredFile, surveyed: &SurveyedPath, survey: &Survey) -> Vec<Finding> {
    let path = file.path.as_str();
    // What is allowed of these was said with the manifest's own warnings.
    let by_path = nixos::paths::judge(path).filter(|finding| finding.refuse && !file.allow.contains_key(finding.code));
    let home = missing_home(file, surveyed).map(|home| nixos::homes::missing(path, &home.path, &home.user.name));
    let mut findings: Vec<Finding> = by_path.into_iter().chain(surveyed.findings.iter().cloned()).chain(home).collect();
    if let Some(system) = survey.system.as_ref().filter(|_| !matches!(file.content, Content::Absent)) {
        let wants = &surveyed.wants;
        let in_initrd = survey.node.is_none() && wants.iter().any(|want| want.kind == Kind::Initrd);
        findings.extend(in_initrd.then(|| nixos::wants::in_initrd(path)));
        if is_roots_alone(file) {
            let unreadable = |want| nixos::wants::unreadable_by_user(path, want, &system.accounts);
            findings.extend(wants.iter().find_map(unreadable));
        }
        if wants.iter().any(|want| want.kind == Kind::EnvironmentFile) {
            findings.extend(as_env_file(file));
        }
    }
    findings.extend(shadow::findings(file, surveyed, survey));
    findings
}

/// NX110, if it is an environment file.
fn as_env_file(file: &DesiredFile) -> Vec<Finding> {
    let Content::Exact(text) = &file.content else { return Vec::new() };
    let parts: Vec<&[u8]> = file.parts.iter().flatten().map(Secret::expose).collect();
    nixos::env_file::judge(file.path.as_str(), text.expose(), &parts).into_iter().collect()
}

/// True if something is to be told of a file that depends on who reads it.
pub fn readers_matter(file: &DesiredFile) -> bool {
    !matches!(file.content, Content::Absent) && (is_roots_alone(file) || !as_env_file(file).is_empty())
}

/// True if the mode gives nobody but root a right.
fn is_roots_alone(file: &DesiredFile) -> bool {
    let of_group = file.mode & 0o070 != 0 && file.group.fixed_id() != Some(0);
    file.owner.fixed_id() == Some(0) && file.mode & 0o007 == 0 && !of_group
}

/// The warnings of NixOS's rules about a file.
///
/// # Errors
/// The first refusal that the manifest does not allow.
pub(super) fn of_nixos(file: &DesiredFile, surveyed: &SurveyedPath, survey: &Survey) -> Result<Vec<Warning>, Refusal> {
    let mut warnings = Vec::new();
    for finding in nixos_findings(file, surveyed, survey) {
        match finding.unless_allowed(&file.allow) {
            Some(finding) if finding.refuse => return Err(finding.into()),
            Some(finding) => warnings.push(finding.warning(&file.secret)),
            None => {}
        }
    }
    Ok(warnings)
}

/// Warnings about the values of a file, unless they are allowed.
pub fn value_warnings(file: &DesiredFile) -> impl Iterator<Item = Warning> + '_ {
    file.findings.iter().filter(|finding| !file.allow.contains_key(finding.code)).cloned()
}

/// DD101. `of_a_run` has the number of names that an interrupted run left, by the path of their file.
pub(super) fn link_warning(change: &Change, of_a_run: &HashMap<&str, u32>) -> Option<Warning> {
    let of_a_run = of_a_run.get(change.physical.as_str()).copied().unwrap_or(0);
    let others = change.existing?.links.saturating_sub(1).saturating_sub(of_a_run);
    let effect = match change.action {
        Action::Replace | Action::Remove => "keeps the old content",
        Action::Metadata => "gets the new mode and owner too",
        Action::Create | Action::Unchanged => return None,
    };
    (others > 0).then(|| Warning {
        code: "DD101",
        secret: Some(change.secret.clone()),
        message: format!("{} has {others} more hard link{}, which {effect}", change.path, plural(others)),
        hint: "find and remove the other names: find / -xdev -samefile FILE".into(),
    })
}

/// DD201: neither a policy nor a neighbour determines the label of a new file or directory.
pub(super) fn label_warning(change: &Change, surveyed: &SurveyedPath) -> Option<Warning> {
    if !matches!(change.action, Action::Create | Action::Replace) {
        return None;
    }
    let labels = surveyed.labels.as_ref()?;
    let guessed = labels.parents.iter().chain([&labels.file]).find(|chosen| chosen.origin == Origin::Directory)?;
    Some(Warning {
        code: "DD201",
        secret: Some(change.secret.clone()),
        message: format!(
            "{} gets the SELinux label of its directory, {}: neither a policy in the target nor a neighbour tells a \
             better one",
            change.path, guessed.label
        ),
        hint: "a relabel at boot is needed: make /.autorelabel in the target, or boot it with autorelabel=1".into(),
    })
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// DD402: a kept token does not have the declared length and alphabet.
pub(super) fn token_warning(file: &DesiredFile) -> Option<Warning> {
    matches!(file.content, Content::Generated(Generated { key: KeyState::KeptOther, .. })).then(|| Warning {
        code: "DD402",
        secret: Some(file.secret.clone()),
        message: format!(
            "{} is kept, and is not of the length and alphabet that are declared: it may be in use",
            file.path
        ),
        hint: "to have a new one, remove the file in the target, and run this again".into(),
    })
}

/// DD404: a running node cannot generate the key itself.
pub(super) fn sent_warning(file: &DesiredFile, surveyed: &SurveyedPath) -> Option<Warning> {
    let Content::Generated(Generated { spec, key: KeyState::Made(_), .. }) = &file.content else { return None };
    if surveyed.key_maker != KeyMaker::HereForNode {
        return None;
    }
    let (path, kind) = (&file.path, spec.kind.kind());
    let (why, hint) = match kind {
        KeyKind::Age => ("no node makes keys of age", "if it must not leave the node: age-keygen there, by hand"),
        KeyKind::WireGuard => ("the node has no wg", "with wireguard-tools on the node it is made there"),
        KeyKind::Token => ("the node has no tr, wc or dd", "with coreutils or busybox on the node it is made there"),
        KeyKind::SshEd25519 | KeyKind::SshHostEd25519 => {
            ("the node has no ssh-keygen", "with ssh-keygen on the node it is made there")
        }
    };
    Some(Warning {
        code: "DD404",
        secret: Some(file.secret.clone()),
        message: format!("the key of {path} is made here and sent, once: {why}"),
        hint: hint.into(),
    })
}

/// DD210: a parent directory in which a user other than root and the file's owner can replace names.
pub(super) fn open_warning(file: &DesiredFile, surveyed: &SurveyedPath, uid: u32, users: &Users) -> Option<Warning> {
    // An absent file, or one that is not secret, needs no protection.
    if matches!(file.content, Content::Absent | Content::PublicPart(_)) {
        return None;
    }
    let is_others = |open: &&WritableDirectory| match open.to {
        Writers::Owner(owner) => owner != uid,
        Writers::Group(gid) => !users.is_alone_in(uid, gid),
        Writers::Everyone | Writers::Acl => true,
    };
    let open = surveyed.open.iter().find(is_others)?;
    let directory = walk::shown(&open.directory);
    let who = |name: String| walk::shown(&name);
    let why = match open.to {
        Writers::Owner(owner) => format!("{directory} belongs to {}, who", who(users.user_shown(owner))),
        Writers::Group(gid) => format!("the group {} may write to {directory}, and", who(users.group_shown(gid))),
        Writers::Everyone => format!("every user may write to {directory}, and"),
        Writers::Acl => format!("an ACL lets others write to {directory}, who"),
    };
    Some(Warning {
        code: "DD210",
        secret: Some(file.secret.clone()),
        message: format!("{why} can replace {} by another file", file.path),
        hint: "declare a path whose directories only root and the file's owner can write to".into(),
    })
}
