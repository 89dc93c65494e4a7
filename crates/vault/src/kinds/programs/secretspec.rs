//! `secretspec`: an item is the name of a secret in secretspec.toml. One call of `secretspec export --format json`; if
//! that fails, because another secret is missing or the program is older, one `secretspec get` per secret, in parallel.

use deaddrop_core::near::items::near;
use deaddrop_core::secret::Secret;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{REPLACED, Tool, side_by_side};
use crate::error::{item, shown};
use crate::input::child::ChildError;
use crate::input::context::Context;
use crate::items::replaced;
use crate::kinds::Kind;
use crate::spec::ProgramSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Hint for a failed call.
pub(super) const HINT: &str =
    "`secretspec check` says which secrets are there; profile and provider: SECRETSPEC_PROFILE, SECRETSPEC_PROVIDER";

/// A source of kind `secretspec`.
pub(crate) struct Secretspec<'m> {
    tool: Tool<'m>,
}

impl<'m> Secretspec<'m> {
    pub(super) fn new(tool: Tool<'m>) -> Self {
        Self { tool }
    }

    fn export(&self) -> Result<Map<String, Value>, OpenError> {
        let output = self.tool.run(&["export", "--format", "json"], &[]).map_err(|error| self.tool.failed(error))?;
        serde_json::from_slice(&output).map_err(|_| self.tool.unexpected("what it printed is not one JSON object"))
    }

    fn get_each(&self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let outputs = side_by_side(wanted, |reference| self.tool.run(&["get", &reference.item], &[]));
        let answer = |(reference, output): (&&Reference, Result<Zeroizing<Vec<u8>>, ChildError>)| match output {
            Ok(mut value) => {
                // secretspec ends its output with a newline.
                if value.last() == Some(&b'\n') {
                    value.pop();
                }
                replaced::check(reference, Secret::new(std::mem::take(&mut *value)), REPLACED)
            }
            Err(error) => Err(self.tool.refused(reference, format!("secretspec {error}"))),
        };
        Ok(wanted.iter().zip(outputs).map(answer).collect())
    }
}

impl Kind for Secretspec<'_> {
    type Spec = ProgramSpec;

    const HAS_FIELDS: bool = false;

    fn open<'m>(spec: &'m ProgramSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Secretspec::new(Tool::new("secretspec", HINT, spec, context)))
    }
}

impl Source for Secretspec<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        if let Some(reference) = wanted.iter().find(|reference| reference.field.is_some()) {
            let (field, whole) = (shown(reference.field.as_deref().unwrap_or_default()), item(reference));
            let no_fields = || LookupError::NoFields { field: field.clone(), kind: "secretspec", whole: whole.clone() };
            return Ok(wanted.iter().map(|_| Err(no_fields())).collect());
        }
        let mut values = match self.export() {
            Ok(values) => values,
            Err(OpenError::Program { error: ChildError::Status(_), .. }) => return self.get_each(wanted),
            Err(error) => return Err(error),
        };
        let names: Vec<String> = values.keys().cloned().collect();
        let answer = |reference: &&Reference| match values.remove(&reference.item) {
            Some(Value::String(text)) => replaced::check(reference, Secret::from(text), REPLACED),
            Some(_) => Err(LookupError::NotText { item: item(reference), field: "value".to_owned() }),
            None => {
                let near =
                    near(&reference.item, names.iter().map(String::as_str)).iter().map(|name| shown(name)).collect();
                Err(LookupError::NoItem { item: item(reference), near, bad_lines: Vec::new() })
            }
        };
        Ok(wanted.iter().map(answer).collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let values = self.export()?;
        let mut names: Vec<String> = values.keys().map(|name| shown(name)).collect();
        names.sort_unstable();
        Ok(names.into_iter().map(Listed::without_fields).collect())
    }
}
