//! Stores of passage: age files, with identities that are opened once.

use std::cell::RefCell;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::pass::home;
use super::tree::{StoreEntry, Tree};
use super::{MAX_ENTRY, Store, Take, Unread};
use crate::input::context::Context;
use crate::input::{age, read};
use crate::{KdfLimit, OpenError, PasswordSpec};

/// Suffix of an entry's file.
pub(super) const SUFFIX: &str = ".age";

/// The file in a store's directory with the recipients that it is encrypted to; gopass has it too.
pub(super) const RECIPIENTS: &str = ".age-recipients";

/// `$PASSAGE_DIR`, otherwise `~/.passage/store`.
pub(super) fn default_root() -> Result<PathBuf, OpenError> {
    match std::env::var_os("PASSAGE_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => home().map(|home| home.join(".passage/store")),
    }
}

/// `$PASSAGE_IDENTITIES_FILE`, otherwise `~/.passage/identities`.
pub(super) fn default_identity() -> Result<PathBuf, OpenError> {
    match std::env::var_os("PASSAGE_IDENTITIES_FILE").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => home().map(|home| home.join(".passage/identities")),
    }
}

/// A store of age files: of passage, or of gopass.
pub(super) struct Passage<'m> {
    pub source: &'m str,
    pub context: &'m Context<'m>,
    pub path: Option<&'m Path>,
    /// The program's own directory, without `path`.
    pub default_root: fn() -> Result<PathBuf, OpenError>,
    /// A file of identities.
    pub identity: Option<&'m Path>,
    /// The program's own file of identities, without `identity`.
    pub default_identity: fn() -> Result<PathBuf, OpenError>,
    /// The password of the identities; if there are none, of the entries.
    pub password: Option<&'m PasswordSpec>,
    pub kdf_limit: KdfLimit,
}

impl Passage<'_> {
    /// The file of identities; `None` if the password opens the entries.
    fn identity(&self) -> Result<Option<PathBuf>, OpenError> {
        if let Some(path) = self.identity {
            return Ok(Some(path.to_owned()));
        }
        let own = (self.default_identity)()?;
        Ok(Some(own).filter(|own| self.password.is_none() || own.exists()))
    }
}

impl Store for Passage<'_> {
    fn root(&self) -> Result<PathBuf, OpenError> {
        match self.path {
            Some(path) => Ok(self.context.at(path)),
            None => (self.default_root)(),
        }
    }

    fn suffix(&self, _: &Path) -> &'static str {
        SUFFIX
    }

    fn decrypt(&self, tree: &Tree, entries: &[&StoreEntry], take: &mut Take<'_>) -> Result<(), OpenError> {
        if entries.is_empty() {
            return Ok(());
        }
        let (identities, password);
        let key = match (self.identity()?, self.password) {
            (None, Some(spec)) => {
                password = RefCell::new(self.context.password(self.source, spec, self.kdf_limit)?.not_empty()?);
                age::Key::Password(&password)
            }
            (identity, spec) => {
                let path = identity.unwrap_or_default();
                identities = age::identities(self.context, self.source, &path, spec, self.kdf_limit)?;
                age::Key::Identities(&identities)
            }
        };
        for (index, entry) in entries.iter().enumerate() {
            take(index, open(tree, entry, key));
        }
        Ok(())
    }
}

fn open(tree: &Tree, entry: &StoreEntry, key: age::Key<'_>) -> Result<zeroize::Zeroizing<Vec<u8>>, Unread> {
    let file: Box<dyn Read> = Box::new(tree.open(entry)?);
    let plain = age::decrypt_with(file, key).map_err(|failure| {
        let (what, hint) = failure.words();
        Unread { what, hint }
    })?;
    read::to_end(plain, 0, MAX_ENTRY).map_err(|problem| Unread { what: problem.to_string(), hint: String::new() })
}
