//! `sops`: a file that the program `sops` decrypts, to JSON, or to the bytes of a binary file.
//!
//! Formats, from getsops/sops (`cmd/sops/formats/formats.go`, `stores/json/store.go`): sops takes a file for YAML,
//! JSON, dotenv or INI by the end of its name, and for binary otherwise. A binary file is encrypted to a JSON object of
//! the keys `data` and `sops`. Go's JSON has U+FFFD for what is no UTF-8, so the bytes of such a file are asked for as
//! they are.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deaddrop_core::keys::Field;
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::input::child::{ChildError, Program};
use crate::input::context::Context;
use crate::input::read::{self, ReadError};
use crate::items::document::{self, Document};
use crate::items::replaced;
use crate::keys::Declared;
use crate::kinds::Kind;
use crate::spec::{DEFAULT_TIMEOUT, FileSpec, LONGEST_TIMEOUT, Spec};
use crate::{DataFormat, Listed, LookupError, OpenError, Reference, Source};

/// The ends of names by which sops takes a file for something else than binary. It heeds their case.
const TEXT: [&str; 5] = [".yaml", ".yml", ".json", ".env", ".ini"];

/// The item that is all of a binary file, by sops's own name.
const DATA: &str = "data";

/// Hint for a value with U+FFFD.
const REPLACED: &str = "encrypt it as a file of its own that sops takes for binary: its name must not end in .yaml, \
    .json, .env or .ini; or keep it in base64, with `encoding: base64`";

/// A file encrypted by sops.
pub(crate) struct Sops<'m> {
    pub context: &'m Context<'m>,
    pub path: &'m Path,
    pub timeout: Duration,
}

impl Sops<'_> {
    /// Runs sops once.
    fn decrypt(&self) -> Result<Decrypted, OpenError> {
        let path = self.context.at(self.path);
        // sops reports a missing file only as a failure. It detects the format by the file's name, so standard input is
        // no alternative.
        let failed = |problem| OpenError::Read { path: path.clone(), problem };
        let file = read::open(&path).map_err(failed)?;
        let is_binary = has_binary_name(&path) && is_binary(file).map_err(failed)?;
        let absolute = std::path::absolute(&path).unwrap_or(path);
        let output = if is_binary { "binary" } else { "json" };
        let words = ["sops", "--decrypt", "--output-type", output].map(OsStr::new);
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
        if is_binary {
            return Ok(Decrypted::Binary(Document::of_one(DATA, &output)));
        }
        let document = Document::parse(&output, DataFormat::Json).map_err(|error| OpenError::Output {
            program: program.name(),
            what: format!("its output: {error}"),
            hint: String::new(),
        })?;
        Ok(Decrypted::Text(document))
    }
}

/// What sops has printed.
enum Decrypted {
    /// The bytes of a binary file, as the item [`DATA`].
    Binary(Document),
    /// JSON.
    Text(Document),
}

/// True if sops takes a file of this name for binary.
fn has_binary_name(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    !TEXT.iter().any(|end| path.ends_with(end.as_bytes()))
}

/// True if `file` has the keys of an encrypted binary file, and no others: `sops --input-type json` writes JSON into a
/// file of any name. A pipe is not read here, since sops is to read it.
fn is_binary(file: File) -> Result<bool, ReadError> {
    if !file.metadata().map_err(ReadError::Io)?.is_file() {
        return Ok(false);
    }
    let bytes = read::to_end(file, 0, document::longest(DataFormat::Json))?;
    let keys: Option<BTreeMap<String, IgnoredAny>> = serde_json::from_slice(&bytes).ok();
    Ok(keys.is_some_and(|keys| keys.keys().eq([DATA, "sops"])))
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

    fn keeps_files(spec: &SopsSpec) -> bool {
        has_binary_name(&spec.file.path)
    }
}

impl Source for Sops<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        Ok(match self.decrypt()? {
            Decrypted::Binary(document) => document.fetch(wanted),
            Decrypted::Text(document) => replaced::refuse(wanted, document.fetch(wanted), REPLACED),
        })
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let (Decrypted::Binary(document) | Decrypted::Text(document)) = self.decrypt()?;
        Ok(document.list())
    }
}
