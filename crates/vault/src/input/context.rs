//! State that the sources of one run share: the manifest's directory, passwords, and the variables hidden from child
//! processes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use deaddrop_core::secret::Secret;

use super::age;
use super::kdf::Derivation;
use super::password::{self, Password};
use crate::finding::Finding;
use crate::{HOST, KdfLimit, OpenError, PasswordSpec, Sources};

/// The environment of child processes. Shared by threads, unlike [`Context`], which holds passwords.
pub(crate) struct Surroundings<'m> {
    directory: &'m Path,
    /// Names of environment variables that this manifest reads as values or passwords.
    hidden: BTreeSet<String>,
}

impl Surroundings<'_> {
    /// A path of the manifest as a path of this process; a relative one starts at the manifest's directory.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        // Without `./`, in which a person does not name a file.
        if self.directory == Path::new(".") { path.to_owned() } else { self.directory.join(path) }
    }

    /// The manifest's directory, which is the working directory of programs.
    pub(crate) fn directory(&self) -> &Path {
        self.directory
    }

    /// Variables that no child process inherits.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = &str> {
        self.hidden.iter().map(String::as_str)
    }
}

/// State that the sources of one run share.
pub(crate) struct Context<'m> {
    surroundings: Surroundings<'m>,
    /// Passwords obtained so far: the user is asked once, a program runs once.
    passwords: RefCell<Vec<(PasswordSpec, Secret)>>,
    /// Files of age identities opened so far.
    pub(crate) identities: RefCell<Vec<Rc<age::Identities>>>,
    /// Findings so far.
    findings: RefCell<Vec<Finding>>,
    /// See [`Sources::tell`].
    tell: Option<fn(&str)>,
}

impl<'m> Context<'m> {
    /// The shared state for `sources`, with no password and no identity yet.
    pub(crate) fn new(sources: &Sources<'m>) -> Self {
        let mut hidden = BTreeSet::new();
        for spec in sources.specs.values() {
            if let Some(PasswordSpec::Env(name)) = spec.password() {
                hidden.insert(name.clone());
            }
        }
        let mut with_host = BTreeSet::new();
        for reference in &sources.references {
            let variable = match sources.specs.get(&reference.source) {
                Some(spec) => spec.variable(&reference.item),
                None if reference.source == "env" => Some(reference.item.clone()),
                None => None,
            };
            let Some(variable) = variable else { continue };
            // With a placeholder, every variable that matches for any host name: same start and same end.
            match variable.split_once(HOST) {
                Some((start, rest)) => {
                    let end = rest.rsplit(HOST).next().unwrap_or_default();
                    with_host.insert((start.to_owned(), end.to_owned()))
                }
                None => hidden.insert(variable),
            };
        }
        if !with_host.is_empty() {
            // A manifest is UTF-8, so it cannot name a variable that is not.
            let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            hidden.extend(names.filter(|name| {
                with_host.iter().any(|(start, end)| {
                    name.strip_prefix(start.as_str()).is_some_and(|rest| rest.ends_with(end.as_str()))
                })
            }));
        }
        Self {
            surroundings: Surroundings { directory: sources.directory, hidden },
            passwords: RefCell::default(),
            identities: RefCell::default(),
            findings: RefCell::default(),
            tell: sources.tell,
        }
    }

    /// Records a finding.
    pub(crate) fn report(&self, finding: Finding) {
        self.findings.borrow_mut().push(finding);
    }

    /// The findings so far.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.findings.take()
    }

    /// The environment of child processes.
    pub(crate) fn surroundings(&self) -> &Surroundings<'m> {
        &self.surroundings
    }

    /// A path of the manifest as a path of this process; a relative one starts at the manifest's directory.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.surroundings.at(path)
    }

    /// The manifest's directory.
    pub(crate) fn directory(&self) -> &Path {
        self.surroundings.directory()
    }

    /// How the key of `whose` (a source, or a file of identities) is derived.
    pub(crate) fn derivation(&self, whose: &str, limit: KdfLimit) -> Derivation {
        Derivation { whose: whose.to_owned(), limit, tell: self.tell }
    }

    /// The password for the source called `source`. It may be empty.
    ///
    /// # Errors
    /// The password is not available.
    pub(crate) fn password(&self, source: &str, spec: &PasswordSpec, limit: KdfLimit) -> Result<Password, OpenError> {
        let secret = self.secret(source, spec)?;
        Ok(Password::new(secret, source, spec, self.derivation(source, limit)))
    }

    fn secret(&self, source: &str, spec: &PasswordSpec) -> Result<Secret, OpenError> {
        let known = self.passwords.borrow().iter().find(|(own, _)| own == spec).map(|(_, known)| known.clone());
        // Each source has its own question.
        if let Some(known) = known.filter(|_| *spec != PasswordSpec::Ask) {
            return Ok(known);
        }
        let password = password::get(source, spec, self)?;
        self.passwords.borrow_mut().push((spec.clone(), password.clone()));
        Ok(password)
    }
}
