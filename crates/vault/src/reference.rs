//! What is wanted of which source.

use std::fmt;

/// `from`: SOURCE:ITEM[#FIELD]. In the item and the field, [`HOST`] stands for the host's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// A named source, or `env`, or `file`.
    pub source: String,
    /// The item inside it: an id, a name, folder/name, a variable, a file.
    pub item: String,
    /// The field; the password when there is none.
    pub field: Option<String>,
}

/// What stands for the host's name in a reference.
pub const HOST: &str = "{host}";

impl Reference {
    /// True when the host's name is to be put into it.
    #[must_use]
    pub fn names_host(&self) -> bool {
        self.item.contains(HOST) || self.field.as_ref().is_some_and(|field| field.contains(HOST))
    }

    /// The reference for one host, with its name put in; as it is without a host.
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
