//! References of a manifest to items of sources.

use std::fmt;

/// The value of `from`: SOURCE:ITEM[#FIELD]. In the item and the field, [`HOST`] is replaced by the host's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The name of a source: a declared one, `env` or `file`.
    pub source: String,
    /// The item: an id, a name, folder/name, a variable, a file; its kind of source decides.
    pub item: String,
    /// The field. `None`: the password, or the whole item if the source's items have no fields.
    pub field: Option<String>,
}

/// Placeholder for the host's name in a reference.
pub const HOST: &str = "{host}";

impl Reference {
    /// True if the reference contains [`HOST`].
    #[must_use]
    pub fn names_host(&self) -> bool {
        self.item.contains(HOST) || self.field.as_ref().is_some_and(|field| field.contains(HOST))
    }

    /// The reference with `host` in place of [`HOST`]; unchanged if `host` is `None`.
    #[must_use]
    pub fn for_host(&self, host: Option<&str>) -> Self {
        let Some(host) = host.filter(|_| self.names_host()) else { return self.clone() };
        Self {
            source: self.source.clone(),
            item: self.item.replace(HOST, host),
            field: self.field.as_ref().map(|field| field.replace(HOST, host)),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.item)?;
        match &self.field {
            Some(field) => write!(f, "#{field}"),
            None => Ok(()),
        }
    }
}
