//! What sources share in one run: where paths start, passwords, and which variables no child may see.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use deaddrop_core::secret::Secret;

use super::{age, password};
use crate::{HOST, OpenError, PasswordSpec, Sources};

/// What a program runs in. Programs run side by side: this can be shared by threads, what holds passwords cannot.
pub(crate) struct Surroundings<'m> {
    directory: &'m Path,
    /// Names of environment variables that this manifest reads as values or passwords.
    hidden: BTreeSet<String>,
}

impl Surroundings<'_> {
    /// A path of the manifest; a relative one starts at the manifest's directory.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// The manifest's directory: where programs run.
    pub(crate) fn directory(&self) -> &Path {
        self.directory
    }

    /// Variables that no child gets.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = &str> {
        self.hidden.iter().map(String::as_str)
    }
}

/// What the sources of one run share.
pub(crate) struct Context<'m> {
    surroundings: Surroundings<'m>,
    /// Passwords that were had already: a person is asked once, a program runs once.
    passwords: RefCell<Vec<(PasswordSpec, Secret)>>,
    /// Files of age identities that were opened already, each once.
    pub(crate) identities: RefCell<Vec<Rc<age::Identities>>>,
}

impl<'m> Context<'m> {
    /// What these sources share.
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
            // Those of all hosts: what begins and ends as it does.
            match variable.split_once(HOST) {
                Some((start, rest)) => {
                    let end = rest.rsplit(HOST).next().unwrap_or_default();
                    with_host.insert((start.to_owned(), end.to_owned()))
                }
                None => hidden.insert(variable),
            };
        }
        if !with_host.is_empty() {
            // A name that is no text is none of a manifest's.
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
        }
    }

    /// What programs run in.
    pub(crate) fn surroundings(&self) -> &Surroundings<'m> {
        &self.surroundings
    }

    /// A path of the manifest; a relative one starts at the manifest's directory.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.surroundings.at(path)
    }

    /// The manifest's directory.
    pub(crate) fn directory(&self) -> &Path {
        self.surroundings.directory()
    }

    /// A password that opens the source called `source`.
    ///
    /// # Errors
    /// It cannot be had, or is empty.
    pub(crate) fn password(&self, source: &str, spec: &PasswordSpec) -> Result<Secret, OpenError> {
        let known = self.passwords.borrow().iter().find(|(own, _)| own == spec).map(|(_, known)| known.clone());
        // What is asked for is another password for each source.
        if let Some(known) = known.filter(|_| *spec != PasswordSpec::Ask) {
            return Ok(known);
        }
        let password = password::get(source, spec, self)?;
        self.passwords.borrow_mut().push((spec.clone(), password.clone()));
        Ok(password)
    }
}
