//! `--public-out FILE`: what others may know of the keys, in a file that is whole or as it was.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use deaddrop_core::error::CommitError;
use deaddrop_core::unfinished::Unfinished;

use crate::run::message::{Failure, Message};

/// The file, written and not yet in its place.
pub struct PublicOut {
    file: Unfinished,
    path: PathBuf,
}

/// True for a file that is to be JSON.
#[must_use]
pub fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

impl PublicOut {
    /// Writes the text beside where the file will be, so that nothing is left that could go wrong once the keys are in
    /// their place.
    ///
    /// # Errors
    /// Exit 1: the directory is not there or full, or something that is no regular file stands at `path`.
    pub fn write(path: &Path, text: &str) -> Result<Self, Failure> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let written = || {
            // Where that cannot be known, the directory cannot be written to either.
            if let Ok(there) = path.symlink_metadata()
                && !there.is_file()
            {
                return Err(io::Error::other("what stands there is no regular file"));
            }
            let file = Unfinished::create(directory)?;
            file.set_mode(0o644)?;
            file.file().write_all(text.as_bytes())?;
            file.file().sync_all()?;
            Ok(file)
        };
        match written() {
            Ok(file) => Ok(Self { file, path: path.to_owned() }),
            Err(error) => Err(Failure::refused(vec![failed(path, "nothing was changed", &error)])),
        }
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// What the system says. What stood there is as it was, or a power cut may make it so.
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

fn failed(path: &Path, what: &str, error: &io::Error) -> Message {
    Message::new(format!("--public-out {}: {what}", path.display())).caused_by(error)
}
