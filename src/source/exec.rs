//! `exec`: a program that prints one JSON document. An item is a JSON pointer into it (RFC 6901), or a key at its top.

use std::ffi::OsStr;

use super::child::{ChildError, Program};
use super::context::Surroundings;
use super::document::{self, Document};
use super::{Listed, LookupError, OpenError, Source};
use crate::manifest::{DataFormat, ExecSpec, Reference};
use crate::secret::Secret;

/// The program.
pub(super) struct Exec<'m> {
    spec: &'m ExecSpec,
    surroundings: &'m Surroundings<'m>,
}

impl<'m> Exec<'m> {
    pub(super) fn new(spec: &'m ExecSpec, surroundings: &'m Surroundings<'m>) -> Self {
        Self { spec, surroundings }
    }

    fn document(&self) -> Result<Document, OpenError> {
        let argv: Vec<&OsStr> = self.spec.argv.iter().map(OsStr::new).collect();
        let limit = document::longest(DataFormat::Json);
        let program = Program { argv: &argv, variables: &[], input: &[], timeout: self.spec.timeout, limit };
        let output = program.run(self.surroundings).map_err(|error| {
            let hint = match error {
                ChildError::Missing => {
                    "install it, or write its whole path; a relative one starts at the manifest's directory"
                }
                ChildError::TimedOut(_) => "give it longer with `timeout: SECONDS`",
                _ => "run it by itself, in the manifest's directory, to see what it says",
            };
            OpenError::Program { program: program.name(), error, hint: hint.to_owned() }
        })?;
        Document::parse(&output, DataFormat::Json).map_err(|wrong| OpenError::Output {
            program: program.name(),
            what: format!("what it printed, line {}, column {}: {}", wrong.line, wrong.column, wrong.what),
            hint: "it has to print one JSON document, and nothing else, on standard output".to_owned(),
        })
    }
}

impl Source for Exec<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        Ok(self.document()?.fetch(wanted))
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        Ok(self.document()?.list())
    }
}
