//! A root that does not exist yet: only the files of a host are in it. Of the system that will read them only its
//! closure is known, or nothing.

use deaddrop_core::error::StorageError;
use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{Child, FileKind, Label, Stat, Tree};

use super::survey::{rule, survey, survey_with};
use super::users::Users;
use super::{Place, PlaceError, Survey, SystemChoice, Wanted};
use crate::nixos::Finding;
use crate::nixos::closure::Closure;
use crate::nixos::location::Places;

/// A root that does not exist yet.
pub struct NewTree<'w> {
    /// What messages call it.
    pub name: String,
    /// Where the system lies that will read its files.
    pub system: Option<System<'w>>,
}

/// A NixOS in another place.
pub struct System<'w> {
    /// The place.
    pub place: Box<dyn Place + 'w>,
    /// Its path in the place's store; `None` for the one that boots.
    pub path: Option<String>,
}

impl Place for NewTree<'_> {
    fn survey(&mut self, wanted: &[Wanted], choice: &SystemChoice) -> Result<Survey, PlaceError> {
        let Some(System { place, path }) = &mut self.system else {
            return Ok(survey_of_nothing(wanted, choice)?);
        };
        let of_system = SystemChoice { system: path.clone(), system_only: true, ..SystemChoice::default() };
        let known = place.survey(wanted, &of_system)?;
        match known.system {
            Some(closure) => Ok(survey_for(closure, wanted, choice, known.findings, known.managed)?),
            None => {
                let why = known.findings.first().map(|found| found.reason.clone());
                let why = why.unwrap_or_else(|| "there is no NixOS in it".to_owned());
                let hint = "name a system, /nix/store/HASH-nixos-system-NAME-LABEL, or an image with one";
                Err(StorageError::refused(format!("--closure: {why}"), hint).into())
            }
        }
    }

    fn title(&self) -> String {
        format!("{}, a new tree", self.name)
    }
}

/// What the system in `closure` makes of the paths. `managed` is NX004 for each of them.
fn survey_for(
    closure: Box<Closure>,
    wanted: &[Wanted],
    choice: &SystemChoice,
    findings: Vec<Finding>,
    managed: Vec<Option<Finding>>,
) -> Result<Survey, StorageError> {
    let persist_root = choice.persist_root.clone();
    let places = Places::of_all(&closure, persist_root.as_deref());
    let mut survey = survey_with(&EmptyTree, wanted, Some(&places))?;
    for (place, managed) in survey.places.iter_mut().zip(managed) {
        if let (Ok(surveyed), Some(finding)) = (place, managed) {
            surveyed.findings.insert(0, finding);
        }
    }
    let passwords = rule(&closure.users);
    Ok(Survey { passwords, persist_root, findings, system: Some(closure), ..survey })
}

/// Without a system nothing says which paths persist: each is below `persist_root`.
fn survey_of_nothing(wanted: &[Wanted], choice: &SystemChoice) -> Result<Survey, StorageError> {
    let mut mapped = wanted.to_vec();
    if let Some(root) = &choice.persist_root {
        let is_below = |path: &str| path.strip_prefix(root.as_str()).is_some_and(|rest| rest.starts_with('/'));
        for want in mapped.iter_mut().filter(|want| !is_below(want.path.as_str())) {
            let path = format!("{root}{}", want.path);
            want.path = TargetPath::parse(&path)
                .map_err(|why| StorageError::refused(path, format!("choose another: {why}")))?;
        }
    }
    let persist_root = choice.persist_root.clone();
    let mut survey = Survey { persist_root, ..survey(&EmptyTree, &mapped)? };
    for (place, (want, mapped)) in survey.places.iter_mut().zip(wanted.iter().zip(&mapped)) {
        if let (Ok(surveyed), true) = (place, want.path != mapped.path) {
            surveyed.written_to = Some(mapped.path.as_str().to_owned());
        }
    }
    survey.users = Users::nowhere();
    Ok(survey)
}

/// A tree without any file.
struct EmptyTree;

impl Tree for EmptyTree {
    type Node = ();

    fn root(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn root_stat(&self) -> Result<Stat, StorageError> {
        let (kind, mode) = (FileKind::Directory, 0o755);
        Ok(Stat { kind, mode, uid: 0, gid: 0, size: 0, links: 2, inode: 0, modified: 0 })
    }

    fn child(&self, (): &(), _: &[u8]) -> Result<Option<((), Stat)>, StorageError> {
        Ok(None)
    }

    fn read_link(&self, (): &()) -> Result<Vec<u8>, StorageError> {
        Err(StorageError::corrupt("the root is not a symbolic link"))
    }

    fn read(&self, (): &(), _: u64) -> Result<Option<Secret>, StorageError> {
        Err(StorageError::corrupt("the root is not a regular file"))
    }

    fn label(&self, (): &()) -> Result<Option<Label>, StorageError> {
        Ok(None)
    }

    fn acl_lets_write(&self, (): &()) -> Result<bool, StorageError> {
        Ok(false)
    }

    fn children(&self, (): &(), _: usize) -> Result<Vec<Child<()>>, StorageError> {
        Ok(Vec::new())
    }
}
