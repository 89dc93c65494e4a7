//! Compares desired files with a survey: the changes. Pure: reads and writes nothing.

pub mod applied;
mod compare;
mod interrupted;
mod owners;
mod parents;
pub mod shadow;
mod warnings;

use std::collections::HashMap;
use std::sync::Arc;

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{Label, Stat};
use deaddrop_core::warning::Warning;

use self::applied::AppliedPassword;
use self::compare::action;
use self::parents::{Parents, collisions};
use self::shadow::Repair;
use self::warnings::{label_warning, link_warning, of_nixos, open_warning, sent_warning, token_warning};
use crate::nixos;
use crate::place::{Interrupted, Refusal, Survey, SurveyedPath};
use crate::run::decrypt;
use crate::run::desired::{Content, DesiredFile, Generated, KeyState};

pub use self::compare::changing;
pub use self::owners::owner_ids;
pub use self::shadow::needs_user;
pub use self::warnings::{nixos_findings, readers_matter, value_warnings};

/// The action for one declared file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It does not exist.
    Create,
    /// Its content differs.
    Replace,
    /// Only its mode or owner differs.
    Metadata,
    /// It is as declared.
    Unchanged,
    /// It exists, and must not.
    Remove,
}

impl Action {
    /// Its name in `--json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Metadata => "metadata",
            Self::Unchanged => "unchanged",
            Self::Remove => "remove",
        }
    }
}

/// A missing directory.
#[derive(Debug, PartialEq, Eq)]
pub struct NewDirectory {
    /// Physical path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: parents::Owned,
    /// SELinux label; `None` if the tree is not labelled.
    pub label: Option<Label>,
}

/// One declared file and its action.
#[derive(Debug)]
pub struct Change {
    /// The secret's name.
    pub secret: String,
    /// True for a file beside that of its secret: the public part of a key, the shadow file.
    pub is_beside: bool,
    /// The declared path.
    pub path: String,
    /// The path without symbolic links.
    pub physical: String,
    /// The path of the booted system where the file is written, if it is not the declared one.
    pub written_to: Option<String>,
    /// The origin of its value; empty if the file must not exist.
    pub from: String,
    /// The action.
    pub action: Action,
    /// The declared content.
    pub content: Content,
    /// Its secret parts, as [`DesiredFile::parts`].
    pub parts: Option<Vec<Secret>>,
    /// Declared permission bits.
    pub mode: u32,
    /// Declared owner, for people: `root:root`.
    pub owner: String,
    /// Declared user.
    pub uid: u32,
    /// Declared group.
    pub gid: u32,
    /// The existing file.
    pub existing: Option<Stat>,
    /// The SELinux label of a file that is written; `None` if the tree is not labelled.
    pub label: Option<Label>,
}

/// All changes of a target.
#[derive(Debug, Default)]
pub struct Plan {
    /// Missing directories, parents first.
    pub directories: Vec<NewDirectory>,
    /// One entry per declared file, in the manifest's order.
    pub changes: Vec<Change>,
    /// In the manifest's order.
    pub warnings: Vec<Warning>,
    /// Leftovers of an interrupted `rotate`, which are finished in the same step.
    pub interrupted: Option<Arc<Interrupted>>,
    /// On a running node: the passwords that are applied after the files, in the manifest's order.
    pub passwords: Vec<AppliedPassword>,
    /// On a running node: secrets whose password is in force before their file.
    pub in_force: Vec<String>,
}

/// A declared file that must not be written where it is declared.
#[derive(Debug)]
pub struct Refused {
    /// The secret's name; `None` if the target as a whole is refused.
    pub secret: Option<String>,
    /// The reason.
    pub refusal: Refusal,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.refusal.code.map_or(String::new(), |code| format!("{code}: "));
        let secret = self.secret.as_ref().map_or(String::new(), |secret| format!("{secret}: "));
        write!(f, "{secret}{code}{}", self.refusal.reason)
    }
}

/// Compares. `files` and the survey's places are in the same order.
///
/// # Errors
/// All files that must not be written where they are declared, or whose owner the target does not have.
pub fn plan(files: Vec<DesiredFile>, survey: &Survey) -> Result<Plan, Vec<Refused>> {
    let mut changes = Vec::with_capacity(files.len());
    let mut warnings = Vec::new();
    let mut refused = Vec::new();
    let mut repairs = Vec::new();
    let (mut passwords, mut in_force) = (Vec::new(), Vec::new());
    let mut of_keys = decrypt::warnings(&files, survey);
    let locked_out = decrypt::locked_out(&files, survey);
    let mut parents = Parents::default();
    let leftovers = survey.interrupted.iter().flat_map(|interrupted| &interrupted.leftovers);
    let of_a_run: HashMap<&str, u32> = leftovers.map(|left| (left.path.as_str(), left.own_names)).collect();
    for (file, place) in files.into_iter().zip(&survey.places) {
        let secret = Some(file.secret.clone());
        let ids = owner_ids(&file, &survey.users);
        let owned = match place {
            Ok(surveyed) => parents::owned(&file, surveyed, &survey.users).and_then(|owners| {
                shadow::needs_user(&file, survey)?;
                Ok((owners, of_nixos(&file, surveyed, survey)?))
            }),
            Err(_) => Ok(Default::default()),
        };
        let is_asked = place.as_ref().map_or(true, |surveyed| surveyed.is_examined);
        if let Some(refusal) = applied::made_elsewhere(&file, survey).filter(|_| is_asked) {
            refused.push(Refused { secret, refusal });
            continue;
        }
        let of_file = |told: &&decrypt::Told| told.path.as_deref() == Some(file.path.as_str());
        let locks =
            locked_out.iter().filter(of_file).filter_map(|told| told.finding.clone().unless_allowed(&file.allow));
        let (refuses, warns): (Vec<_>, Vec<_>) = locks.partition(|finding| finding.refuse);
        if let Some(finding) = refuses.into_iter().next() {
            refused.push(Refused { secret, refusal: finding.into() });
            continue;
        }
        warnings.extend(warns.into_iter().map(|finding| finding.warning(&file.secret)));
        match (place, ids.and_then(|ids| Ok((ids, owned?)))) {
            (Ok(_), Ok(_)) if foreign_key(&file).is_some() => {
                refused.extend(foreign_key(&file).map(|refusal| Refused { secret, refusal }));
            }
            (Ok(surveyed), Ok(((uid, gid), (owners, mut of_nixos)))) => {
                let mut found: Vec<Warning> = value_warnings(&file).collect();
                found.extend(token_warning(&file));
                found.extend(sent_warning(&file, surveyed));
                found.extend(open_warning(&file, surveyed, uid, &survey.users));
                parents.add(surveyed, &file, uid, &owners);
                let allow = file.allow.clone();
                repairs.extend(Repair::of(&file, survey));
                let action = action(&file, surveyed, uid, gid);
                passwords.extend(applied::of(&file, surveyed, survey, action));
                in_force.extend(applied::is_in_force(&file, surveyed, survey).then(|| file.secret.clone()));
                let change = change(file, surveyed, uid, gid);
                found.extend(link_warning(&change, &of_a_run));
                found.extend(label_warning(&change, surveyed));
                found.retain(|warning| !allow.contains_key(warning.code));
                warnings.append(&mut of_nixos);
                warnings.extend(of_keys.extract_if(.., |warning| warning.secret == secret));
                warnings.append(&mut found);
                changes.push(change);
            }
            (Err(refusal), _) => refused.push(Refused { secret, refusal: refusal.clone() }),
            (_, Err(refusal)) => refused.push(Refused { secret, refusal }),
        }
    }
    refused.extend(collisions(&changes, &parents));
    refused.extend(
        applied::would_lock(&passwords, &changes, survey)
            .map(|(secret, refusal)| Refused { secret: Some(secret), refusal }),
    );
    if !refused.is_empty() {
        return Err(refused);
    }
    // Each below the file of its secret.
    for change in shadow::changes(&repairs, survey) {
        let at = changes.iter().position(|other| other.secret == change.secret);
        changes.insert(at.map_or(changes.len(), |at| at.saturating_add(1)), change);
    }
    warnings.extend(survey.findings.iter().map(nixos::Finding::of_target));
    warnings.extend(interrupted::warnings(&changes, survey.interrupted.as_deref()));
    let interrupted = survey.interrupted.clone();
    Ok(Plan { directories: parents.into_directories(), changes, warnings, interrupted, passwords, in_force })
}

impl Plan {
    /// True if the target is as declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.passwords.is_empty() && self.changes.iter().all(|change| change.action == Action::Unchanged)
    }

    /// Number of secrets whose file stays, and whose password is applied.
    #[must_use]
    pub fn applied_alone(&self) -> usize {
        self.changes.iter().filter(|change| self.is_applied_alone(change)).count()
    }

    fn is_applied_alone(&self, change: &Change) -> bool {
        change.action == Action::Unchanged && self.passwords.iter().any(|password| password.secret == change.secret)
    }

    /// The action for each secret: that of its file, or, if it is unchanged, that of the one beside it, or of its password.
    #[must_use]
    pub fn secrets(&self) -> Vec<Action> {
        let mut actions = Vec::with_capacity(self.changes.len());
        for change in &self.changes {
            match (change.is_beside, actions.last_mut()) {
                (true, Some(of_the_file)) => {
                    if *of_the_file == Action::Unchanged {
                        *of_the_file = change.action;
                    }
                }
                _ if self.is_applied_alone(change) => actions.push(Action::Replace),
                _ => actions.push(change.action),
            }
        }
        actions
    }

    /// Number of files with this action.
    #[must_use]
    pub fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }
}

fn change(file: DesiredFile, surveyed: &SurveyedPath, uid: u32, gid: u32) -> Change {
    let action = action(&file, surveyed, uid, gid);
    Change {
        secret: file.secret,
        is_beside: matches!(file.content, Content::PublicPart(_)),
        path: file.path.as_str().to_owned(),
        physical: surveyed.physical.clone(),
        written_to: surveyed.written_to.clone(),
        from: file.from,
        action,
        content: file.content,
        parts: file.parts,
        mode: file.mode,
        owner: format!("{}:{}", file.owner, file.group),
        uid,
        gid,
        existing: surveyed.file.as_ref().map(|file| file.stat),
        label: surveyed.labels.as_ref().map(|labels| labels.file.label.clone()),
    }
}

/// The refusal of an existing file that is not a key of the declared kind.
fn foreign_key(file: &DesiredFile) -> Option<Refusal> {
    let Content::Generated(Generated { spec, key: KeyState::Foreign(reason), .. }) = &file.content else { return None };
    Some(Refusal {
        code: None,
        reason: format!(
            "{} holds something else than a key of the kind {}, and it may be in use: {reason}",
            file.path,
            spec.kind.kind().name()
        ),
        hint: "it is never overwritten: move it away in the target, or choose another path".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::manifest::Owner;
    use crate::place::users::Users;
    use crate::place::{ExistingFile, KeyMaker};
    use deaddrop_core::path::TargetPath;
    use deaddrop_core::secret::Secret;
    use deaddrop_core::tree::FileKind;
    use deaddrop_core::tree::TreeChange;

    fn desired(secret: &str, path: &str, content: &str) -> DesiredFile {
        DesiredFile {
            secret: secret.into(),
            path: TargetPath::parse(path).unwrap(),
            from: "env:X".into(),
            content: Content::Exact(Secret::new(content.as_bytes().to_vec())),
            parts: None,
            mode: 0o400,
            directory_mode: None,
            directory_owner: None,
            allow: BTreeMap::new(),
            owner: Owner::Name("root".into()),
            group: Owner::Name("root".into()),
            apply_password: false,
            is_cluster_token: false,
            password_users: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn existing(path: &str, content: &str, mode: u32, links: u32) -> Result<SurveyedPath, Refusal> {
        let size = u64::try_from(content.len()).unwrap();
        Ok(SurveyedPath {
            physical: path.into(),
            written_to: None,
            missing_parents: Vec::new(),
            home: None,
            file: Some(ExistingFile {
                stat: Stat { kind: FileKind::File, mode, uid: 0, gid: 0, size, links, inode: 0, modified: 0 },
                content: Some(Secret::new(content.as_bytes().to_vec())),
                judged: None,
            }),
            labels: None,
            open: Vec::new(),
            key_maker: KeyMaker::Here,
            findings: Vec::new(),
            wants: Vec::new(),
            is_examined: true,
        })
    }

    fn missing(path: &str, parents: &[&str]) -> Result<SurveyedPath, Refusal> {
        let missing_parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
        let (open, key_maker) = (Vec::new(), KeyMaker::Here);
        Ok(SurveyedPath {
            physical: path.into(),
            written_to: None,
            missing_parents,
            home: None,
            file: None,
            labels: None,
            open,
            key_maker,
            findings: Vec::new(),
            wants: Vec::new(),
            is_examined: true,
        })
    }

    fn survey(places: Vec<Result<SurveyedPath, Refusal>>) -> Survey {
        let users = Users::parse(b"admin:x:1000:100::/:/bin/sh\n", b"", b"admin:!:1::::::\n");
        Survey { places, users, ..Survey::default() }
    }

    #[test]
    fn each_difference_has_its_action() {
        for (place, want) in [
            (missing("/etc/x", &[]), Action::Create),
            (existing("/etc/x", "old", 0o400, 1), Action::Replace),
            (existing("/etc/x", "old", 0o644, 1), Action::Replace),
            (existing("/etc/x", "new", 0o644, 1), Action::Metadata),
            (existing("/etc/x", "new", 0o400, 1), Action::Unchanged),
        ] {
            let plan = plan(vec![desired("x", "/etc/x", "new")], &survey(vec![place])).unwrap();
            assert_eq!(plan.changes[0].action, want);
            assert_eq!(plan.is_empty(), want == Action::Unchanged);
        }
    }

    fn absent(path: &str) -> DesiredFile {
        // Owners from `defaults` do not matter, even if the target does not have them.
        let owner = Owner::Name("nobody-here".into());
        DesiredFile { content: Content::Absent, from: String::new(), owner, ..desired("x", path, "") }
    }

    #[test]
    fn a_file_that_must_not_be_there_is_removed_and_where_nothing_stands_nothing_is_made() {
        for (place, want) in [
            (missing("/etc/a/b/x", &["/etc/a", "/etc/a/b"]), Action::Unchanged),
            (existing("/etc/a/b/x", "", 0o644, 1), Action::Remove),
        ] {
            let plan = plan(vec![absent("/etc/a/b/x")], &survey(vec![place])).unwrap();
            assert_eq!((plan.changes[0].action, plan.is_empty()), (want, want == Action::Unchanged));
            assert_eq!(plan.directories, []);
            let changes = crate::run::make::tree_changes(&plan).unwrap();
            match want {
                Action::Remove => {
                    assert!(matches!(&changes[..], [TreeChange::RemoveFile { path }] if path == "/etc/a/b/x"))
                }
                _ => assert!(changes.is_empty()),
            }
        }
    }

    #[test]
    fn the_other_names_of_a_removed_file_are_warned_about() {
        let plan = plan(vec![absent("/etc/x")], &survey(vec![existing("/etc/x", "v", 0o400, 2)])).unwrap();
        assert_eq!(plan.warnings[0].code, "DD101");
        assert!(plan.warnings[0].message.ends_with("1 more hard link, which keeps the old content"));
    }

    #[test]
    fn missing_parents_are_made_once_and_open_for_their_users() {
        let mut theirs = desired("b", "/etc/secrets/b", "v");
        theirs.owner = Owner::Name("admin".into());
        let files = vec![desired("a", "/srv/a/b/x", "v"), theirs, desired("c", "/etc/secrets/c", "v")];
        let places = vec![
            missing("/srv/a/b/x", &["/srv", "/srv/a", "/srv/a/b"]),
            missing("/etc/secrets/b", &["/etc", "/etc/secrets"]),
            missing("/etc/secrets/c", &["/etc", "/etc/secrets"]),
        ];
        let plan = plan(files, &survey(places)).unwrap();
        let made: Vec<(&str, u32)> = plan.directories.iter().map(|d| (d.path.as_str(), d.mode)).collect();
        let want = [("/etc", 0o755), ("/etc/secrets", 0o711), ("/srv", 0o755), ("/srv/a", 0o755), ("/srv/a/b", 0o700)];
        assert_eq!(made, want);
        assert_eq!(plan.changes[1].uid, 1000);
    }

    #[test]
    fn an_owner_that_the_target_does_not_have_is_refused_with_the_numeric_form() {
        let mut file = desired("x", "/etc/x", "v");
        file.owner = Owner::Name("k3s".into());
        let refused = plan(vec![file], &survey(vec![missing("/etc/x", &[])])).unwrap_err();
        assert!(refused[0].refusal.reason.contains("no user `k3s` yet"), "{refused:?}");
        assert!(refused[0].refusal.hint.contains("users.users.k3s.uid"), "{refused:?}");
    }

    #[test]
    fn two_paths_that_lead_to_one_file_are_refused() {
        let files = vec![desired("x", "/etc/x", "1"), desired("y", "/etc/y", "2")];
        let places = vec![missing("/srv/x", &[]), missing("/srv/x", &[])];
        let refused = plan(files, &survey(places)).unwrap_err();
        assert_eq!(refused.len(), 1);
        assert!(refused[0].refusal.reason.contains("are the same file"), "{refused:?}");
    }

    #[test]
    fn other_hard_links_are_warned_about() {
        let places = vec![existing("/etc/x", "old", 0o400, 3)];
        let plan = plan(vec![desired("x", "/etc/x", "new")], &survey(places)).unwrap();
        assert_eq!(plan.warnings[0].code, "DD101");
        assert!(plan.warnings[0].message.contains("2 more hard links"), "{:?}", plan.warnings);
    }

    #[test]
    fn a_shadow_line_with_another_hash_is_warned_about() {
        let mut file = desired("pw", "/etc/x", "$y$j9T$abc$def\n");
        file.password_users = vec!["admin".into(), "nobody".into()];
        let plan = plan(vec![file], &survey(vec![missing("/etc/x", &[])])).unwrap();
        let codes: Vec<&str> = plan.warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes, ["NX101"], "one for admin, none for a user without a line");
    }
}
