//! `exec`: a program that prints one JSON document. An item is a JSON pointer into it (RFC 6901), or a key of its top
//! level.

use std::ffi::OsStr;
use std::time::Duration;

use deaddrop_core::keys::Field;
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::input::child::{ChildError, Program};
use crate::input::context::{Context, Surroundings};
use crate::items::document::{self, Document};
use crate::items::replaced;
use crate::keys::Declared;
use crate::kinds::Kind;
use crate::spec::{DEFAULT_TIMEOUT, LONGEST_TIMEOUT, Spec};
use crate::{DataFormat, Listed, LookupError, OpenError, Reference, Source};

/// The program.
pub(crate) struct Exec<'m> {
    spec: &'m ExecSpec,
    surroundings: &'m Surroundings<'m>,
}

impl<'m> Exec<'m> {
    pub(crate) fn new(spec: &'m ExecSpec, surroundings: &'m Surroundings<'m>) -> Self {
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

/// A program that prints JSON.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "an exec source", default, deny_unknown_fields)]
#[schemars(rename = "exec-source", extend("required" = ["argv"]))]
pub struct ExecKeys {
    /// The program and its arguments, run without a shell. It runs once, in the manifest's directory.
    #[schemars(length(min = 1))]
    pub argv: Field<Vec<Field<String>>>,
    /// Time limit, in seconds.
    #[schemars(extend("default" = DEFAULT_TIMEOUT, "minimum" = 1, "maximum" = LONGEST_TIMEOUT))]
    pub timeout: Field<u64>,
}

/// A program that prints JSON.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// The program and its arguments. Never shown, because they may hold a value.
    pub argv: Vec<String>,
    /// Time limit.
    pub timeout: Duration,
}

impl Spec for ExecSpec {
    type Keys = ExecKeys;

    fn check(declared: &Declared<'_>, keys: ExecKeys) -> Option<Self> {
        let argv = match keys.argv {
            Field::Missing => {
                let hint = "the program and its arguments, such as `argv: [my-tool, dump, --json]`";
                declared.problem("an exec source needs an `argv`", hint);
                None
            }
            field => declared.report.argv(declared.child("argv"), field),
        };
        Some(ExecSpec { argv: argv?, timeout: declared.timeout(keys.timeout)? })
    }
}

impl Kind for Exec<'_> {
    type Spec = ExecSpec;

    fn open<'m>(spec: &'m ExecSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Exec::new(spec, context.surroundings()))
    }
}

impl Source for Exec<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        const HINT: &str = "let the program print such a value in base64, and say `encoding: base64`; if U+FFFD is part \
            of the value, this is the way as well";
        Ok(replaced::refuse(wanted, self.document()?.fetch(wanted), HINT))
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        Ok(self.document()?.list())
    }
}
