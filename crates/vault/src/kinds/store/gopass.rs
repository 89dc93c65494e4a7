//! Stores of gopass, whose entries are encrypted by gpg or by age; and where gopass has its root store and identities:
//! from its configuration, or the default.

use std::path::{Path, PathBuf};

use super::pass::{self, Pass, default_root, home};
use super::passage::{self, Passage};
use super::tree::{StoreEntry, Tree};
use super::{Store, Take};
use crate::input::read::{self, ReadError};
use crate::items::document::Document;
use crate::{DataFormat, OpenError, Reference};

/// A store of gopass. Its directory has the file of one back end's recipients (internal/backend/crypto, `IDFile`).
pub(super) struct Gopass<'m> {
    pub gpg: Pass<'m>,
    pub age: Passage<'m>,
}

impl Store for Gopass<'_> {
    fn root(&self) -> Result<PathBuf, OpenError> {
        self.gpg.root()
    }

    fn suffix(&self, root: &Path) -> &'static str {
        let is_age = root.join(passage::RECIPIENTS).exists() && !root.join(pass::RECIPIENTS).exists();
        if is_age { passage::SUFFIX } else { pass::SUFFIX }
    }

    fn decrypt(&self, tree: &Tree, entries: &[&StoreEntry], take: &mut Take<'_>) -> Result<(), OpenError> {
        if self.suffix(&self.root()?) == passage::SUFFIX {
            return self.age.decrypt(tree, entries, take);
        }
        if self.age.identity.is_some() || self.age.password.is_some() {
            let hint = "remove `identity` and `password`: gpg's agent has the keys";
            return Err(OpenError::refused(&self.root()?, "its entries are encrypted by gpg, and not by age", hint));
        }
        self.gpg.decrypt(tree, entries, take)
    }
}

/// gopass's directory of configuration.
fn config() -> Result<PathBuf, OpenError> {
    let directory = std::env::var_os("XDG_CONFIG_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    directory.map_or_else(|| home().map(|home| home.join(".config")), Ok).map(|directory| directory.join("gopass"))
}

/// gopass's own file of age identities, which it encrypts with a passphrase (internal/backend/crypto/age/age.go).
pub(super) fn identities() -> Result<PathBuf, OpenError> {
    Ok(config()?.join("age/identities"))
}

/// Maximum length of the configuration, in bytes.
const LONGEST: usize = 1 << 20;

/// The directory of gopass's root store.
///
/// # Errors
/// The configuration cannot be read, or the home directory is unknown.
pub(super) fn root() -> Result<PathBuf, OpenError> {
    let home = home()?;
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = config()?;
    let files = [variable("GOPASS_CONFIG"), Some(config.join("config")), Some(config.join("config.yml"))];
    for file in files.into_iter().flatten() {
        let bytes = match read::read(&file, LONGEST) {
            Ok(bytes) => bytes,
            Err(ReadError::Missing { .. }) => continue,
            // The default store could have entries of the same names, so do not fall back to it.
            Err(problem) => return Err(OpenError::Read { path: file, problem }),
        };
        let Some(path) = std::str::from_utf8(&bytes).ok().and_then(configured) else { continue };
        return Ok(match path.strip_prefix("~/") {
            Some(below) => home.join(below),
            None => PathBuf::from(path),
        });
    }
    let data = variable("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
    let own = data.join("gopass/stores/root");
    if own.is_dir() { Ok(own) } else { default_root() }
}

/// The root store's path in a configuration: `path` of `[mounts]` since gopass 1.15; before that YAML, `path` or `root:
/// { path }`, where it may be a URL with the back end's name before `://`.
fn configured(text: &str) -> Option<String> {
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim();
        } else if let Some((key, value)) = line.split_once('=')
            && section == "mounts"
            && key.trim() == "path"
        {
            return Some(value.trim().trim_matches('"').to_owned()).filter(|path| !path.is_empty());
        }
    }
    let document = Document::parse(text.as_bytes(), DataFormat::Yaml).ok()?;
    let wanted = |item: &str| Reference { source: String::new(), item: item.to_owned(), field: None };
    let (root, path) = (wanted("/root/path"), wanted("path"));
    let found = document.fetch(&[&root, &path]).into_iter().find_map(Result::ok)?;
    let path = std::str::from_utf8(found.expose()).ok()?;
    let path = path.split_once("://").map_or(path, |(_, path)| path);
    Some(path.to_owned()).filter(|path| Path::new(path).is_absolute() || path.starts_with("~/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_store_is_found_in_every_configuration() {
        for (text, want) in [
            (
                "[core]\n\tautopush = true\n[mounts]\n\tpath = /home/x/store\n[mounts \"work\"]\n\tpath = /w\n",
                Some("/home/x/store"),
            ),
            ("[mounts \"work\"]\n\tpath = /w\n", None),
            ("path: /home/x/store\nautosync: true\n", Some("/home/x/store")),
            ("root:\n  path: gpgcli-gitcli-fs+file:///home/x/store\nmounts: {}\n", Some("/home/x/store")),
            ("path: relative\n", None),
            ("", None),
            ("a: [", None),
        ] {
            assert_eq!(configured(text).as_deref(), want, "{text}");
        }
    }
}
