//! `env`: environment variables. An item is a variable's name without the source's prefix.

use std::os::unix::ffi::OsStringExt;

use deaddrop_core::keys::Field;
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::shown;
use crate::input::context::Context;
use crate::keys::Declared;
use crate::kinds::Kind;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Variables whose names start with a prefix.
pub(crate) struct Env {
    prefix: String,
}

impl Env {
    /// `prefix` is put before each item; empty for the source that is always there.
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
        // `var_os` would say "not set" for all of these.
        let reason = match () {
            () if reference.item.is_empty() => Some("it is empty"),
            () if variable.contains('=') => Some("it holds `=`"),
            () if variable.contains('\0') => Some("it holds a NUL byte"),
            () => None,
        };
        if let Some(reason) = reason {
            return Err(LookupError::VariableName { variable: shown(&variable), reason });
        }
        match std::env::var_os(&variable) {
            Some(value) => Ok(Secret::new(value.into_vec())),
            None => Err(LookupError::NotSet { variable: shown(&variable) }),
        }
    }
}

/// Environment variables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "an env source", default, deny_unknown_fields)]
#[schemars(rename = "env-source")]
pub struct EnvKeys {
    /// Put before each item's name: with `HOMELAB_`, the item `TOKEN` is the variable HOMELAB_TOKEN.
    #[schemars(extend("default" = ""))]
    pub prefix: Field<String>,
}

/// Environment variables whose names start with `prefix`; items are named without it.
#[derive(Debug, Clone, Default)]
pub struct EnvSpec {
    /// Put before each item's name.
    pub prefix: String,
}

impl Kind for Env {
    type Keys = EnvKeys;
    type Spec = EnvSpec;

    const HAS_FIELDS: bool = false;

    fn check(declared: &Declared<'_>, keys: EnvKeys) -> Option<EnvSpec> {
        let prefix = declared.report.optional(keys.prefix, deaddrop_core::keys::variable)?;
        Some(EnvSpec { prefix: prefix.unwrap_or_default() })
    }

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
