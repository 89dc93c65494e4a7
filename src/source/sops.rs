//! `sops`: a file that the program `sops` decrypts, to JSON.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use super::child::{ChildError, Program};
use super::context::Context;
use super::document::{self, Document};
use super::{Listed, LookupError, OpenError, Source};
use crate::manifest::{DataFormat, Reference};
use crate::secret::Secret;

/// A file encrypted by sops.
pub(super) struct Sops<'m> {
    pub context: &'m Context<'m>,
    pub path: &'m Path,
    pub timeout: Duration,
}

impl Sops<'_> {
    /// Runs sops, once.
    fn document(&self) -> Result<Document, OpenError> {
        let path = self.context.at(self.path);
        // sops says of a file that is not there that it failed; and it tells the file's format by its name, so that it
        // cannot have it from standard input.
        super::read::open(&path).map_err(|problem| OpenError::Read { path: path.clone(), problem })?;
        let absolute = std::path::absolute(&path).unwrap_or(path);
        let words = ["sops", "--decrypt", "--output-type", "json"].map(OsStr::new);
        let argv: Vec<&OsStr> = words.into_iter().chain([absolute.as_os_str()]).collect();
        let limit = document::longest(DataFormat::Json);
        let program = Program { argv: &argv, variables: &[], input: &[], timeout: self.timeout, limit };
        let output = program.run(self.context.surroundings()).map_err(|error| {
            let hint = match error {
                ChildError::Missing => "install sops, <https://getsops.io>; it decrypts with its own keys",
                ChildError::TimedOut(_) => "give it more time: `timeout: SECONDS`",
                _ => "sops says above why; `sops --decrypt FILE` by itself says the same",
            };
            OpenError::Program { program: program.name(), error, hint: hint.to_owned() }
        })?;
        Document::parse(&output, DataFormat::Json).map_err(|error| OpenError::Output {
            program: program.name(),
            what: format!("its output: {error}"),
            hint: String::new(),
        })
    }
}

impl Source for Sops<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        Ok(self.document()?.fetch(wanted))
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        Ok(self.document()?.list())
    }
}
