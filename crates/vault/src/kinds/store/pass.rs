//! Stores of pass and gopass: files that the system's `gpg` decrypts, several in parallel.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

use super::tree::{StoreEntry, Tree};
use super::{MAX_ENTRY, Store, Take, Unread};
use crate::OpenError;
use crate::error::shown;
use crate::input::child::{ChildError, Program};
use crate::input::context::{Context, Surroundings};

/// Suffix of an entry's file.
pub(super) const SUFFIX: &str = ".gpg";

/// The file in a store's directory with the keys that it is encrypted to.
pub(super) const RECIPIENTS: &str = ".gpg-id";

/// Time limit of one `gpg`: long, because the user may have to type a passphrase or touch a hardware key.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum number of parallel `gpg`. The agent decrypts one after the other, so more would not help.
const SIDE_BY_SIDE: usize = 4;

/// Hint for a failed `gpg`, which prints the reason on standard error.
const LOCKED: &str = "gpg says above why; if the key is locked and nothing asks for its passphrase, `export \
GPG_TTY=$(tty)`, \
                      or unlock it first: `gpg --decrypt FILE >/dev/null`";

/// A store of pass or gopass.
pub(super) struct Pass<'m> {
    pub context: &'m Context<'m>,
    pub path: Option<&'m Path>,
    /// The program's own directory, without `path`.
    pub default_root: fn() -> Result<PathBuf, OpenError>,
}

impl Store for Pass<'_> {
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
        let surroundings = self.context.surroundings();
        let Some((first, rest)) = entries.split_first() else { return Ok(()) };
        // The first one alone, so that the user is asked for the passphrase once. If it fails, the others would too.
        match decrypt(tree, first, surroundings) {
            Ok(content) => take(0, Ok(content)),
            Err(DecryptError::Entry(unread)) => take(0, Err(unread)),
            Err(DecryptError::Program(error)) => {
                let hint = match error {
                    ChildError::Missing => "install GnuPG (Debian: `apt install gnupg`)",
                    _ => LOCKED,
                };
                let what = format!("{error}, at \"{}\"", shown(&first.full_name()));
                return Err(OpenError::Output { program: "gpg".to_owned(), what, hint: hint.to_owned() });
            }
        }
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::sync_channel(1);
        thread::scope(|scope| {
            for _ in 0..SIDE_BY_SIDE.min(rest.len()) {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    while let Some((index, entry)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        rest.get(index).map(|entry| (index, entry))
                    } {
                        let content = decrypt(tree, entry, surroundings).map_err(|problem| match problem {
                            DecryptError::Entry(unread) => unread,
                            DecryptError::Program(error) => {
                                Unread { what: format!("gpg {error}"), hint: LOCKED.to_owned() }
                            }
                        });
                        // The receiver exists until all senders are dropped.
                        let _ = sender.send((index, content));
                    }
                });
            }
            drop(sender);
            for (index, content) in receiver {
                take(index.saturating_add(1), content);
            }
        });
        Ok(())
    }
}

/// The reason why an entry cannot be decrypted.
enum DecryptError {
    /// Its file cannot be read.
    Entry(Unread),
    /// gpg fails.
    Program(ChildError),
}

/// Decrypts one entry. gpg reads its content on standard input, not by path: the file that was opened inside the store.
fn decrypt(
    tree: &Tree,
    entry: &StoreEntry,
    surroundings: &Surroundings<'_>,
) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let input = tree.content(entry).map_err(DecryptError::Entry)?;
    if input.is_empty() {
        return Err(DecryptError::Entry(Unread { what: "its file is empty".to_owned(), hint: String::new() }));
    }
    let argv = ["gpg", "--batch", "--quiet", "--decrypt"].map(OsStr::new);
    let program = Program { argv: &argv, variables: &[], input: &input, timeout: TIMEOUT, limit: MAX_ENTRY };
    program.run(surroundings).map_err(DecryptError::Program)
}

/// `$PASSWORD_STORE_DIR`, otherwise `~/.password-store`.
pub(super) fn default_root() -> Result<PathBuf, OpenError> {
    match std::env::var_os("PASSWORD_STORE_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => home().map(|home| home.join(".password-store")),
    }
}

/// The user's home directory.
///
/// # Errors
/// It is unknown.
pub(super) fn home() -> Result<PathBuf, OpenError> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).ok_or_else(|| {
        OpenError::refused(
            Path::new("~"),
            "$HOME is not set, so the store is not known",
            "name its directory with `path`",
        )
    })
}
