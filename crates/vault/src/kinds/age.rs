//! `age`: an age file (age-encryption.org/v1) with a document in it.

use deaddrop_core::keys::Field;
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::input::Input;
use crate::input::context::Context;
use crate::items::document::{self, Document};
use crate::keys::{Declared, KdfLimitKeys, PasswordKeys};
use crate::kinds::Kind;
use crate::spec::{FileSpec, Spec};
use crate::{DataFormat, Listed, LookupError, OpenError, Reference, Source};

/// An age file with a document.
pub(crate) struct Age<'m> {
    input: Input<'m>,
    format: DataFormat,
}

impl<'m> Age<'m> {
    /// `input` must come from [`Input::age`].
    pub(crate) fn new(input: Input<'m>, format: DataFormat) -> Self {
        Self { input, format }
    }

    fn document(&self) -> Result<Document, OpenError> {
        let bytes = self.input.read(document::longest(self.format))?;
        Document::parse(&bytes, self.format).map_err(|error| self.input.refused(error.to_string(), ""))
    }
}

/// A file encrypted by age.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "an age source", default, deny_unknown_fields)]
#[schemars(rename = "age-source", extend("required" = ["path", "format"]))]
pub struct AgeKeys {
    /// The file, or `-` for standard input; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// Content of the file: JSON, YAML, NAME=VALUE lines, or one value, the item `value`.
    pub format: Field<DataFormat>,
    /// A file of age identities, or an SSH key.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
    /// The passphrase, if the file is encrypted to one.
    pub password: Field<PasswordKeys>,
    /// `none`: deriving the key from the password may cost anything. Without it, time and memory are bounded.
    pub kdf_limit: Field<KdfLimitKeys>,
}

/// An age file, and the format of its content.
#[derive(Debug, Clone)]
pub struct AgeSpec {
    /// The file, and how to decrypt it.
    pub file: FileSpec,
    /// Format of the decrypted content.
    pub format: DataFormat,
}

impl Spec for AgeSpec {
    type Keys = AgeKeys;

    fn check(declared: &Declared<'_>, keys: AgeKeys) -> Option<Self> {
        let path = declared.needed_path(keys.path);
        let (no_identity, no_password) = (keys.identity.is_missing(), keys.password.is_missing());
        let identity = declared.path(keys.identity);
        let password = declared.password(declared.child("password"), keys.password);
        if no_identity && no_password {
            let hint = "`identity: FILE` (age identities, or an SSH key), or `password` if it is encrypted to one";
            declared.problem("an age source needs an `identity` or a `password`", hint);
        }
        let format = match keys.format {
            Field::Missing => {
                let hint = "one of json, yaml, dotenv and value (all of it is one value)";
                declared.problem("an age source needs a `format`", hint);
                None
            }
            field => field.good().map(|(_, format)| format),
        };
        let kdf_limit = declared.kdf_limit(keys.kdf_limit);
        let file = FileSpec { path: path?, identity: identity?, password: password?, kdf_limit: kdf_limit? };
        Some(AgeSpec { file, format: format? })
    }

    fn file(&self) -> Option<&FileSpec> {
        Some(&self.file)
    }
}

impl Kind for Age<'_> {
    type Spec = AgeSpec;

    fn open<'m>(spec: &'m AgeSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Age::new(Input::age(name, &spec.file, context), spec.format))
    }

    fn keeps_files(spec: &AgeSpec) -> bool {
        spec.format == DataFormat::Value
    }
}

impl Source for Age<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let document = self.document()?;
        let report = |finding| self.input.context().report(finding);
        document.findings(self.input.name(), wanted).into_iter().for_each(report);
        Ok(document.fetch(wanted))
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let document = self.document()?;
        let report = |finding| self.input.context().report(finding);
        document.findings(self.input.name(), &[]).into_iter().for_each(report);
        Ok(document.list())
    }
}
