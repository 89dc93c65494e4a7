//! `env`: environment variables. An item is a variable's name without the source's prefix.

use std::os::unix::ffi::OsStringExt;

use super::error::shown;
use super::{Listed, LookupError, OpenError, Source};
use crate::manifest::Reference;
use crate::secret::Secret;

/// Variables whose names start with a prefix.
pub(super) struct Env {
    prefix: String,
}

impl Env {
    /// `prefix` is put before each item; empty for the source that is always there.
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    fn get(&self, reference: &Reference) -> Result<Secret, LookupError> {
        if let Some(field) = &reference.field {
            return Err(LookupError::NoFields {
                field: shown(field),
                kind: "the environment",
                whole: super::error::item(reference),
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
