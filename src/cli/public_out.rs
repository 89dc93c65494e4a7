//! `--public-out FILE`: the public parts of the generated keys. The file is written completely, or stays as it was.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use deaddrop_core::error::CommitError;
use deaddrop_core::unfinished::Unfinished;

use crate::report::public::{self, KnownAs};
use crate::run::make::PublicPart;
use crate::run::message::{Failure, Message};

/// The file, written and not yet renamed to its name.
pub struct PublicOut {
    file: Unfinished,
    path: PathBuf,
}

/// True for the name of a JSON file.
#[must_use]
pub fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// The public parts of the keys of a host, for `--public-out` if it is given.
///
/// # Errors
/// As [`PublicOut::write`].
pub fn of(path: Option<&Path>, known_as: &KnownAs, parts: &[PublicPart]) -> Result<Option<PublicOut>, Failure> {
    let write = |path: &Path| {
        let text = match is_json(path) {
            true => public::json(known_as, parts),
            false => public::text(known_as, parts),
        };
        PublicOut::write(path, &text)
    };
    path.map(write).transpose()
}

impl PublicOut {
    /// Writes the text to a temporary file in the same directory, so that only a rename remains once the keys are in
    /// place.
    ///
    /// # Errors
    /// Exit 1 if the directory is missing or full, or if something other than a regular file is at `path`.
    pub fn write(path: &Path, text: &str) -> Result<Self, Failure> {
        let written = || {
            // If that is unknown, creating the file below fails too.
            if let Ok(there) = path.symlink_metadata()
                && !there.is_file()
            {
                return Err(io::Error::other("it exists, and is no regular file"));
            }
            let file = unfinished(path, text)?;
            file.file().sync_all()?;
            Ok(file)
        };
        match written() {
            Ok(file) => Ok(Self { file, path: path.to_owned() }),
            Err(error) => Err(Failure::refused(vec![failed(path, "nothing was changed", &error)])),
        }
    }

    /// Renames the file to its name.
    ///
    /// # Errors
    /// If the rename fails. The previous file is unchanged then, or a power cut may bring it back.
    pub fn put(self) -> Result<(), Message> {
        let path = self.path;
        self.file.replace(&path).map_err(|error| {
            let (what, error) = match &error {
                CommitError::Before(error) => ("the public parts could not be written", error),
                CommitError::After(error) => {
                    ("the public parts are written, but the directory could not be synced", error)
                }
            };
            failed(&path, what, error).hint("the next run writes them")
        })
    }
}

/// A new file in the directory of `path`, not yet renamed to it. It contains no value: other users may read it.
///
/// # Errors
/// If it cannot be created or written.
pub fn unfinished(path: &Path, text: &str) -> io::Result<Unfinished> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let file = Unfinished::create(directory)?;
    file.set_mode(0o644)?;
    file.file().write_all(text.as_bytes())?;
    Ok(file)
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Message {
    Message::new(format!("--public-out {}: {what}", path.display())).caused_by(error)
}
