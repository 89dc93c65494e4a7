//! `sops`: a file that the program `sops` decrypts to JSON.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deaddrop_core::keys::Field;
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::input::child::{ChildError, Program};
use crate::input::context::Context;
use crate::items::document::{self, Document};
use crate::keys::Declared;
use crate::kinds::Kind;
use crate::spec::{DEFAULT_TIMEOUT, FileSpec, LONGEST_TIMEOUT, Spec};
use crate::{DataFormat, Listed, LookupError, OpenError, Reference, Source};

/// A file encrypted by sops.
pub(crate) struct Sops<'m> {
    pub context: &'m Context<'m>,
    pub path: &'m Path,
    pub timeout: Duration,
}

impl Sops<'_> {
    /// Runs sops once.
    fn document(&self) -> Result<Document, OpenError> {
        let path = self.context.at(self.path);
        // sops reports a missing file only as a failure. It detects the format by the file's name, so standard input is
        // no alternative.
        crate::input::read::open(&path).map_err(|problem| OpenError::Read { path: path.clone(), problem })?;
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

/// A file encrypted by sops.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a sops source", default, deny_unknown_fields)]
#[schemars(rename = "sops-source", extend("required" = ["path"]))]
pub struct SopsKeys {
    /// The file; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// Time limit of the program, in seconds.
    #[schemars(extend("default" = DEFAULT_TIMEOUT, "minimum" = 1, "maximum" = LONGEST_TIMEOUT))]
    pub timeout: Field<u64>,
}

/// A file encrypted by sops, opened by the `sops` program.
#[derive(Debug, Clone)]
pub struct SopsSpec {
    /// The file.
    pub file: FileSpec,
    /// Time limit of the program.
    pub timeout: Duration,
}

impl Spec for SopsSpec {
    type Keys = SopsKeys;

    fn check(declared: &Declared<'_>, keys: SopsKeys) -> Option<Self> {
        let path: PathBuf = declared.needed_path(keys.path)?;
        Some(SopsSpec { file: FileSpec::plain(path), timeout: declared.timeout(keys.timeout)? })
    }

    fn file(&self) -> Option<&FileSpec> {
        Some(&self.file)
    }
}

impl Kind for Sops<'_> {
    type Spec = SopsSpec;

    fn open<'m>(spec: &'m SopsSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Sops { context, path: &spec.file.path, timeout: spec.timeout })
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
