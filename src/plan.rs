//! Desired files against a survey: the changes. Pure: it reads and writes nothing.

mod interrupted;
mod keys;
mod parents;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::derive::generate::Recipe;
use crate::derive::password::{self, Verdict};
use crate::desired::{Content, DesiredFile, Generated, KeyState};
use crate::image::tree::{Label, Stat, TreeChange};
use crate::image::walk;
use crate::manifest::Owner;
use crate::secret::Secret;
use crate::target::users::Users;
use crate::target::{Interrupted, Origin, Refusal, Standing, Survey};

/// What has to happen to one declared file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing stands there.
    Create,
    /// Its content differs.
    Replace,
    /// Only its mode or owner differ.
    Metadata,
    /// It is as declared.
    Unchanged,
    /// It stands, and must not be there.
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

/// A directory that has to be made.
#[derive(Debug, PartialEq, Eq)]
pub struct NewDirectory {
    /// Physical path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it.
    pub owner: parents::Owned,
    /// SELinux label; none where nothing is labelled.
    pub label: Option<Label>,
}

/// One declared file and what has to happen to it.
#[derive(Debug)]
pub struct Change {
    /// The secret's name.
    pub secret: String,
    /// The declared path.
    pub path: String,
    /// Where it is without symbolic links.
    pub physical: String,
    /// Where its value comes from; empty when the file must not be there.
    pub from: String,
    /// What has to happen.
    pub action: Action,
    /// What should be there.
    pub content: Content,
    /// What is secret of it, as [`DesiredFile::parts`].
    pub parts: Option<Vec<Secret>>,
    /// Permission bits that it should have.
    pub mode: u32,
    /// Owner that it should have, in words: `root:root`.
    pub owner: String,
    /// Owning user that it should have.
    pub uid: u32,
    /// Owning group that it should have.
    pub gid: u32,
    /// The file that stands there.
    pub standing: Option<Stat>,
    /// The SELinux label of a file that is written; none where nothing is labelled.
    pub label: Option<Label>,
}

/// Something that a person should know, and that does not stop the run.
#[derive(Debug, Clone)]
pub struct Warning {
    /// `NX…`, or `DD…` for our own.
    pub code: &'static str,
    /// The secret's name; none when it is about the target as a whole.
    pub secret: Option<String>,
    /// What it is about.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Everything that has to happen to a target.
#[derive(Debug)]
pub struct Plan {
    /// Directories to make, each after the one above it.
    pub directories: Vec<NewDirectory>,
    /// One entry a declared file, in the manifest's order.
    pub changes: Vec<Change>,
    /// In the manifest's order.
    pub warnings: Vec<Warning>,
    /// What a `rotate` that was cut off has left, and that is finished in the same step.
    pub interrupted: Option<Arc<Interrupted>>,
}

/// A declared file that may not be put where it is declared.
#[derive(Debug)]
pub struct Refused {
    /// The secret's name.
    pub secret: String,
    /// Why.
    pub refusal: Refusal,
}

/// Compares. `files` and the survey's places are in the same order.
///
/// # Errors
/// All files that may not be put where they are declared, or whose owner the target does not know.
pub fn plan(files: Vec<DesiredFile>, survey: &Survey) -> Result<Plan, Vec<Refused>> {
    let mut changes = Vec::with_capacity(files.len());
    let mut warnings = Vec::new();
    let mut refused = Vec::new();
    let mut parents = Parents::default();
    let leftovers = survey.interrupted.iter().flat_map(|interrupted| &interrupted.leftovers);
    let of_a_run: HashMap<&str, u32> = leftovers.map(|left| (left.path.as_str(), left.own_names)).collect();
    for (file, place) in files.into_iter().zip(&survey.places) {
        let secret = file.secret.clone();
        let ids = owner_ids(&file, &survey.users);
        let owned = match place {
            Ok(standing) => parents::owned(&file, standing, &survey.users),
            Err(_) => Ok(parents::Owners::default()),
        };
        match (place, ids.and_then(|ids| Ok((ids, owned?)))) {
            (Ok(_), Ok(_)) if keys::foreign_key(&file).is_some() => {
                refused.extend(keys::foreign_key(&file).map(|refusal| Refused { secret, refusal }));
            }
            (Ok(standing), Ok(((uid, gid), owners))) => {
                warnings.extend(value_warnings(&file));
                warnings.extend(keys::token_warning(&file));
                warnings.extend(keys::sent_warning(&file, standing));
                warnings.extend(shadow_warnings(&file, &survey.users));
                warnings.extend(home_warning(&file, standing));
                warnings.extend(parents::open_warning(&file, standing, uid, &survey.users));
                parents.add(standing, &file, uid, &owners);
                let change = change(file, standing, uid, gid);
                warnings.extend(link_warning(&change, &of_a_run));
                warnings.extend(label_warning(&change, standing));
                changes.push(change);
            }
            (Err(refusal), _) => refused.push(Refused { secret, refusal: refusal.clone() }),
            (_, Err(refusal)) => refused.push(Refused { secret, refusal }),
        }
    }
    refused.extend(collisions(&changes, &parents));
    if !refused.is_empty() {
        return Err(refused);
    }
    warnings.extend(interrupted::warnings(&changes, survey.interrupted.as_deref()));
    let interrupted = survey.interrupted.clone();
    Ok(Plan { directories: parents.into_directories(), changes, warnings, interrupted })
}

impl Plan {
    /// True when the target is as declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|change| change.action == Action::Unchanged)
    }

    /// What has to happen to each secret: to its file, or else to that of its public part.
    #[must_use]
    pub fn secrets(&self) -> Vec<Action> {
        let mut actions = Vec::with_capacity(self.changes.len());
        for change in &self.changes {
            match (&change.content, actions.last_mut()) {
                (Content::PublicPart(_), Some(of_the_key)) => {
                    if *of_the_key == Action::Unchanged {
                        *of_the_key = change.action;
                    }
                }
                _ => actions.push(change.action),
            }
        }
        actions
    }

    /// How many files have this action.
    #[must_use]
    pub fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }

    /// The changes as a target applies them; new password hashes are made here.
    ///
    /// # Errors
    /// When the system has no randomness for a salt.
    pub fn tree_changes(&self) -> Result<Vec<TreeChange>, password::HashError> {
        let directories = self.directories.iter().map(|directory| TreeChange::MakeDirectory {
            path: directory.path.clone(),
            mode: directory.mode,
            uid: directory.owner.uid,
            gid: directory.owner.gid,
            label: directory.label.clone(),
        });
        let mut all: Vec<TreeChange> = directories.collect();
        // The public part of a key that the target makes is known to the target alone.
        let mut made_there = false;
        for change in &self.changes {
            let (path, mode, uid, gid) = (change.physical.clone(), change.mode, change.uid, change.gid);
            let recipe = match &change.content {
                Content::Generated(Generated { key: KeyState::MadeThere(recipe), .. }) => Some(recipe.clone()),
                Content::PublicPart(None) if made_there => Some(Recipe::PublicPart),
                _ => None,
            };
            made_there = recipe.is_some();
            if let Some(recipe) = recipe {
                all.push(TreeChange::MakeKey { path, recipe, mode, uid, gid });
                continue;
            }
            match change.action {
                Action::Create | Action::Replace => {
                    let content = match &change.content {
                        Content::Exact(bytes) => bytes.clone(),
                        Content::Hash { scheme, password, .. } => password::hash(*scheme, password)?,
                        Content::Generated(Generated { key: KeyState::Made(key), .. }) => key.clone(),
                        Content::PublicPart(Some(line)) => line.clone(),
                        // Never created or replaced, see `change` and `plan`.
                        Content::Generated(_) | Content::PublicPart(None) | Content::Absent => continue,
                    };
                    all.push(TreeChange::WriteFile { path, content, mode, uid, gid, label: change.label.clone() });
                }
                Action::Metadata => all.push(TreeChange::SetMetadata { path, mode, uid, gid }),
                Action::Remove => all.push(TreeChange::RemoveFile { path }),
                Action::Unchanged => {}
            }
        }
        all.extend(self.finishing());
        Ok(all)
    }
}

fn change(file: DesiredFile, standing: &Standing, uid: u32, gid: u32) -> Change {
    let action = match &standing.file {
        None if matches!(file.content, Content::Absent) => Action::Unchanged,
        None => Action::Create,
        Some(_) if matches!(file.content, Content::Absent) => Action::Remove,
        Some(there) => {
            let same_content = match (&file.content, &there.content) {
                (Content::Exact(want), Some(have)) => want == have,
                (Content::Hash { standing, .. }, _) => standing.is_some(),
                (Content::Generated(generated), _) => {
                    !matches!(generated.key, KeyState::Made(_) | KeyState::MadeThere(_))
                }
                (Content::PublicPart(Some(want)), Some(have)) => want == have,
                (Content::Exact(_) | Content::PublicPart(_), None)
                | (Content::PublicPart(None) | Content::Absent, _) => false,
            };
            let same_metadata = (there.stat.mode, there.stat.uid, there.stat.gid) == (file.mode, uid, gid);
            match (same_content, same_metadata) {
                (false, _) => Action::Replace,
                (true, false) => Action::Metadata,
                (true, true) => Action::Unchanged,
            }
        }
    };
    Change {
        secret: file.secret,
        path: file.path.as_str().to_owned(),
        physical: standing.physical.clone(),
        from: file.from,
        action,
        content: file.content,
        parts: file.parts,
        mode: file.mode,
        owner: format!("{}:{}", file.owner, file.group),
        uid,
        gid,
        standing: standing.file.as_ref().map(|file| file.stat),
        label: standing.labels.as_ref().map(|labels| labels.file.label.clone()),
    }
}

fn owner_ids(file: &DesiredFile, users: &Users) -> Result<(u32, u32), Refusal> {
    if matches!(file.content, Content::Absent) {
        return Ok((0, 0));
    }
    Ok((user_id(file, &file.owner, users)?, group_id(file, &file.group, users)?))
}

/// The number of a user that a file's manifest names.
fn user_id(file: &DesiredFile, user: &Owner, users: &Users) -> Result<u32, Refusal> {
    match user {
        Owner::Id(id) => Ok(*id),
        Owner::Name(name) => {
            users.uid(name).ok_or_else(|| unknown(file, "user", name, "/etc/passwd", "users.users", "uid"))
        }
    }
}

/// The number of a group that a file's manifest names.
fn group_id(file: &DesiredFile, group: &Owner, users: &Users) -> Result<u32, Refusal> {
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

/// NX108, where the person has allowed it.
fn home_warning(file: &DesiredFile, standing: &Standing) -> Option<Warning> {
    let home = parents::missing_home(file, standing)?;
    let reason = file.allow.get(parents::NO_HOME)?;
    Some(Warning {
        code: parents::NO_HOME,
        secret: Some(file.secret.clone()),
        message: format!("{}; that is allowed: {reason}", parents::no_home(file, home)),
        hint: format!("{} cannot use what is root's in its home", home.user.name),
    })
}

/// DD301 to DD304: values that hold what is probably not meant.
pub fn value_warnings(file: &DesiredFile) -> impl Iterator<Item = Warning> + '_ {
    file.oddities.iter().map(|finding| Warning {
        code: finding.oddity.code(),
        secret: Some(file.secret.clone()),
        message: format!("the value of {} {}", finding.from, finding.oddity),
        hint: "it is written as it is; if that is not meant, correct it in the source".into(),
    })
}

/// NX101: NixOS keeps a shadow line that stands when users are mutable, so the file may never be applied.
fn shadow_warnings<'a>(file: &'a DesiredFile, users: &'a Users) -> impl Iterator<Item = Warning> + 'a {
    file.password_users.iter().filter_map(move |user| {
        let shadow = users.shadow_hash(user)?;
        let in_force = match &file.content {
            Content::Exact(line) => trim_newline(line.expose()) == shadow.expose(),
            Content::Hash { standing: Some(line), .. } if trim_newline(line.expose()) == shadow.expose() => true,
            Content::Hash { password, .. } => password::verify_any(shadow.expose(), password) == Verdict::Matches,
            Content::Generated(_) | Content::PublicPart(_) | Content::Absent => return None,
        };
        (!in_force).then(|| Warning {
            code: "NX101",
            secret: Some(file.secret.clone()),
            message: format!(
                "/etc/shadow already has a line for {user}, with another password or none: with users.mutableUsers = \
                 true (the default) NixOS keeps that line, and {} is never applied",
                file.path
            ),
            hint: "set users.mutableUsers = false, or services.userborn.enable = true".into(),
        })
    })
}

fn trim_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// DD101. `of_a_run` are the names that a run which was cut off has left, by the path of their file.
fn link_warning(change: &Change, of_a_run: &HashMap<&str, u32>) -> Option<Warning> {
    let of_a_run = of_a_run.get(change.physical.as_str()).copied().unwrap_or(0);
    let others = change.standing?.links.saturating_sub(1).saturating_sub(of_a_run);
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

/// DD201: nothing tells the label that a new file, or a directory made for it, should have.
fn label_warning(change: &Change, standing: &Standing) -> Option<Warning> {
    if !matches!(change.action, Action::Create | Action::Replace) {
        return None;
    }
    let labels = standing.labels.as_ref()?;
    let guessed = labels.parents.iter().chain([&labels.file]).find(|chosen| chosen.origin == Origin::Directory)?;
    Some(Warning {
        code: "DD201",
        secret: Some(change.secret.clone()),
        message: format!(
            "{} gets the SELinux label of its directory, {}: neither a policy in the target nor a neighbour tells a better one",
            change.path, guessed.label
        ),
        hint: "a relabel at boot is needed: make /.autorelabel in the target, or boot it with autorelabel=1".into(),
    })
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The directories to make, gathered from all files.
#[derive(Default)]
struct Parents {
    /// By physical path, so that a parent comes before what is in it.
    directories: BTreeMap<String, Parent>,
}

#[derive(Default)]
struct Parent {
    holds_a_file: bool,
    asked: Option<u32>,
    shared: bool,
    in_home: bool,
    owner: Option<parents::Owned>,
    label: Option<Label>,
}

impl Parents {
    fn add(&mut self, standing: &Standing, file: &DesiredFile, uid: u32, owners: &parents::Owners) {
        if matches!(file.content, Content::Absent) {
            return;
        }
        let last = standing.missing_parents.len().checked_sub(1);
        for (index, path) in standing.missing_parents.iter().enumerate() {
            let parent = self.directories.entry(path.clone()).or_default();
            let label = standing.labels.as_ref().and_then(|labels| labels.parents.get(index));
            parent.label = parent.label.take().or_else(|| label.map(|chosen| chosen.label.clone()));
            // The public part of a key needs no way to it: it is for whoever has the key.
            parent.shared |= !matches!(file.content, Content::PublicPart(_))
                && (uid != 0 || file.mode & 0o040 != 0 || file.mode & 0o004 != 0);
            parent.in_home |= owners.home.is_some();
            if Some(index) == last {
                parent.holds_a_file = true;
                parent.asked = parent.asked.or(file.directory_mode);
                // What the manifest says of it counts more than what another file's silence says.
                if owners.asked.is_some() {
                    parent.owner.clone_from(&owners.asked);
                }
            }
            parent.owner = parent.owner.take().or_else(|| owners.home.clone());
        }
    }

    fn into_directories(self) -> Vec<NewDirectory> {
        self.directories
            .into_iter()
            .map(|(path, parent)| {
                let mode = match parent.in_home {
                    true => parent.asked.unwrap_or(0o700),
                    false => parents::mode(&path, parent.holds_a_file, parent.asked, parent.shared),
                };
                NewDirectory { path, mode, owner: parent.owner.unwrap_or_default(), label: parent.label }
            })
            .collect()
    }
}

/// Two declared paths that links lead to one place, or a file where another needs a directory.
fn collisions(changes: &[Change], parents: &Parents) -> Vec<Refused> {
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
        refused.push(Refused { secret: change.secret.clone(), refusal });
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::Kind;
    use crate::manifest::TargetPath;
    use crate::secret::Secret;
    use crate::target::{KeyMaker, StandingFile};

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
            password_users: Vec::new(),
            oddities: Vec::new(),
        }
    }

    fn standing(path: &str, content: &str, mode: u32, links: u32) -> Result<Standing, Refusal> {
        let size = u64::try_from(content.len()).unwrap();
        Ok(Standing {
            physical: path.into(),
            missing_parents: Vec::new(),
            home: None,
            file: Some(StandingFile {
                stat: Stat { kind: Kind::File, mode, uid: 0, gid: 0, size, links, inode: 0, modified: 0 },
                content: Some(Secret::new(content.as_bytes().to_vec())),
                judged: None,
            }),
            labels: None,
            open: Vec::new(),
            key_maker: KeyMaker::Here,
        })
    }

    fn missing(path: &str, parents: &[&str]) -> Result<Standing, Refusal> {
        let missing_parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
        let (open, key_maker) = (Vec::new(), KeyMaker::Here);
        Ok(Standing { physical: path.into(), missing_parents, home: None, file: None, labels: None, open, key_maker })
    }

    fn survey(places: Vec<Result<Standing, Refusal>>) -> Survey {
        let users = Users::parse(b"admin:x:1000:100::/:/bin/sh\n", b"", b"admin:!:1::::::\n");
        Survey { places, users, interrupted: None }
    }

    #[test]
    fn each_difference_has_its_action() {
        for (place, want) in [
            (missing("/etc/x", &[]), Action::Create),
            (standing("/etc/x", "old", 0o400, 1), Action::Replace),
            (standing("/etc/x", "old", 0o644, 1), Action::Replace),
            (standing("/etc/x", "new", 0o644, 1), Action::Metadata),
            (standing("/etc/x", "new", 0o400, 1), Action::Unchanged),
        ] {
            let plan = plan(vec![desired("x", "/etc/x", "new")], &survey(vec![place])).unwrap();
            assert_eq!(plan.changes[0].action, want);
            assert_eq!(plan.is_empty(), want == Action::Unchanged);
        }
    }

    fn absent(path: &str) -> DesiredFile {
        // What defaults say of owners does not matter, even when the target does not have them.
        let owner = Owner::Name("nobody-here".into());
        DesiredFile { content: Content::Absent, from: String::new(), owner, ..desired("x", path, "") }
    }

    #[test]
    fn a_file_that_must_not_be_there_is_removed_and_where_nothing_stands_nothing_is_made() {
        for (place, want) in [
            (missing("/etc/a/b/x", &["/etc/a", "/etc/a/b"]), Action::Unchanged),
            (standing("/etc/a/b/x", "", 0o644, 1), Action::Remove),
        ] {
            let plan = plan(vec![absent("/etc/a/b/x")], &survey(vec![place])).unwrap();
            assert_eq!((plan.changes[0].action, plan.is_empty()), (want, want == Action::Unchanged));
            assert_eq!(plan.directories, []);
            let changes = plan.tree_changes().unwrap();
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
        let plan = plan(vec![absent("/etc/x")], &survey(vec![standing("/etc/x", "v", 0o400, 2)])).unwrap();
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
        let places = vec![standing("/etc/x", "old", 0o400, 3)];
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
