//! `env`: environment variables. An item is a variable's name, without the source's prefix.

use std::os::unix::ffi::OsStringExt;

use deaddrop_core::keys::Field;
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::shown;
use crate::input::context::Context;
use crate::keys::Declared;
use crate::kinds::Kind;
use crate::spec::Spec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Variables whose names start with a prefix.
pub(crate) struct Env {
    prefix: String,
}

impl Env {
    /// `prefix` is put before each item; it is empty for the predeclared source `env`.
    pub(crate) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    fn get(&self, reference: &Reference) -> Result<Secret, LookupError> {
        if let Some(field) = &reference.field {
            return Err(LookupError::NoFields {
                field: shown(field),
                kind: "the environment",
                whole: crate::error::item(reference),
            });
        }
        let variable = format!("{}{}", self.prefix, reference.item);
        // `var_os` would report each of these as "not set".
        let reason = match () {
            () if reference.item.is_empty() => Some("it is empty"),
            () if variable.contains('=') => Some("it holds `=`"),
            () if variable.contains('\0') => Some("it holds a NUL byte"),
            () => None,
        };
        if let Some(reason) = reason {
            let name = shown(&variable);
            let message = format!("\"{name}\" cannot be the name of an environment variable: {reason}");
            return Err(LookupError::Other { message, hint: None });
        }
        match std::env::var_os(&variable) {
            Some(value) => Ok(Secret::new(value.into_vec())),
            None => {
                let name = shown(&variable);
                let hint =
                    format!("set it for this run only, from a file or a prompt: `read -rs {name}; export {name}`");
                Err(LookupError::Other { message: format!("${name} is not set"), hint: Some(hint) })
            }
        }
    }
}

/// Environment variables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "an env source", default, deny_unknown_fields)]
#[schemars(rename = "env-source")]
pub struct EnvKeys {
    /// Prefix of all items: with `HOMELAB_`, the item `TOKEN` is the variable HOMELAB_TOKEN.
    #[schemars(extend("default" = ""))]
    pub prefix: Field<String>,
}

/// Environment variables whose names start with `prefix`; items are named without it.
#[derive(Debug, Clone, Default)]
pub struct EnvSpec {
    /// Prefix of all items. May be empty.
    pub prefix: String,
}

impl Spec for EnvSpec {
    type Keys = EnvKeys;

    fn check(declared: &Declared<'_>, keys: EnvKeys) -> Option<Self> {
        let prefix = declared.report.optional(keys.prefix, deaddrop_core::keys::variable)?;
        Some(EnvSpec { prefix: prefix.unwrap_or_default() })
    }
}

impl Kind for Env {
    type Spec = EnvSpec;

    const HAS_FIELDS: bool = false;

    fn open<'m>(spec: &'m EnvSpec, _: &'m str, _: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Env::new(spec.prefix.clone()))
    }

    fn variable(spec: &EnvSpec, item: &str) -> Option<String> {
        Some(format!("{}{item}", spec.prefix))
    }
}

impl Source for Env {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        Ok(wanted.iter().map(|reference| self.get(reference)).collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut items: Vec<String> = names
            .filter_map(|name| name.strip_prefix(&self.prefix).filter(|item| !item.is_empty()).map(shown))
            .collect();
        items.sort_unstable();
        Ok(items.into_iter().map(Listed::without_fields).collect())
    }
}
