//! Stores of pass and gopass: files that the system's `gpg` decrypts, several side by side.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

use super::text::Flavour;
use super::tree::{Found, Tree};
use super::{MAX_ENTRY, Store, Take, Unread, gopass};
use crate::OpenError;
use crate::error::shown;
use crate::input::child::{ChildError, Program};
use crate::input::context::{Context, Surroundings};

/// How long one `gpg` may take: a person may have to type a passphrase or touch a key first.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How many `gpg` run side by side. The agent does the work, one after the other; more would only wait for it.
const SIDE_BY_SIDE: usize = 4;

/// What to do when gpg fails. It says itself why, on standard error.
const LOCKED: &str = "gpg says above why; if the key is locked and nothing asks for its passphrase, `export GPG_TTY=$(tty)`, \
                      or unlock it first: `gpg --decrypt FILE >/dev/null`";

/// A store of pass or gopass.
pub(super) struct Pass<'m> {
    pub context: &'m Context<'m>,
    pub path: Option<&'m Path>,
    pub flavour: Flavour,
}

impl Store for Pass<'_> {
    fn root(&self) -> Result<PathBuf, OpenError> {
        match (self.path, self.flavour) {
            (Some(path), _) => Ok(self.context.at(path)),
            (None, Flavour::Lines) => default_root(),
            (None, Flavour::Yaml) => gopass::root(),
        }
    }

    fn suffix(&self) -> &'static str {
        ".gpg"
    }

    fn flavour(&self) -> Flavour {
        self.flavour
    }

    fn decrypt(&self, tree: &Tree, entries: &[&Found], take: &mut Take<'_>) -> Result<(), OpenError> {
        let surroundings = self.context.surroundings();
        let Some((first, rest)) = entries.split_first() else { return Ok(()) };
        // Alone, so that a passphrase is asked for once. If it fails, so would the others.
        match decrypt(tree, first, surroundings) {
            Ok(content) => take(0, Ok(content)),
            Err(Problem::Entry(unread)) => take(0, Err(unread)),
            Err(Problem::Program(error)) => {
                let hint = match error {
                    ChildError::Missing => "install GnuPG (Debian: `apt install gnupg`)",
                    _ => LOCKED,
                };
                let what = format!("{error}, at \"{}\"", shown(&first.whole()));
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
                            Problem::Entry(unread) => unread,
                            Problem::Program(error) => Unread { what: format!("gpg {error}"), hint: LOCKED.to_owned() },
                        });
                        // The receiver is there until all senders are gone.
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

/// Why an entry cannot be decrypted.
enum Problem {
    /// Something about its file.
    Entry(Unread),
    /// gpg fails.
    Program(ChildError),
}

/// What one entry holds. gpg gets the file's content, and no path: it reads what was opened in the store.
fn decrypt(tree: &Tree, entry: &Found, surroundings: &Surroundings<'_>) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let input = tree.content(entry).map_err(Problem::Entry)?;
    if input.is_empty() {
        return Err(Problem::Entry(Unread { what: "its file is empty".to_owned(), hint: String::new() }));
    }
    let argv = ["gpg", "--batch", "--quiet", "--decrypt"].map(OsStr::new);
    let program = Program { argv: &argv, variables: &[], input: &input, timeout: TIMEOUT, limit: MAX_ENTRY };
    program.run(surroundings).map_err(Problem::Program)
}

/// `$PASSWORD_STORE_DIR`, or `~/.password-store`.
pub(super) fn default_root() -> Result<PathBuf, OpenError> {
    match std::env::var_os("PASSWORD_STORE_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => home().map(|home| home.join(".password-store")),
    }
}

/// The user's home.
///
/// # Errors
/// It is not known.
pub(super) fn home() -> Result<PathBuf, OpenError> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).ok_or_else(|| {
        OpenError::refused(
            Path::new("~"),
            "$HOME is not set, so the store is not known",
            "name its directory with `path`",
        )
    })
}
