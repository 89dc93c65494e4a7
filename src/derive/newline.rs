//! `newline`: whether a newline is appended to a value.

use deaddrop_core::secret::Secret;
use schemars::{JsonSchema, json_schema};
use serde::Deserialize;
use zeroize::Zeroizing;

/// What `newline` says. Without the key nothing is appended, except to an SSH private key that lacks its last newline
/// (docs/templates.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Newline {
    /// One is appended.
    #[serde(rename = "true")]
    Always,
    /// None is appended, not even to an SSH private key.
    #[serde(rename = "false")]
    Never,
    /// One is appended to a value that does not end in one.
    #[serde(rename = "ensure")]
    Ensure,
}

impl Newline {
    /// True if one is appended to this value.
    #[must_use]
    pub fn is_added_to(self, value: &[u8]) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Ensure => !value.ends_with(b"\n"),
        }
    }
}

impl JsonSchema for Newline {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "newline".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        json_schema!({ "enum": [true, false, "ensure"] })
    }
}

/// The value with a newline after it.
#[must_use]
pub fn with_newline(value: &Secret) -> Secret {
    let mut bytes = Zeroizing::new(Vec::with_capacity(value.len().saturating_add(1)));
    bytes.extend_from_slice(value.expose());
    bytes.push(b'\n');
    Secret::new(std::mem::take(&mut *bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensure_adds_a_newline_only_where_there_is_none() {
        for (newline, of_a_word, of_a_line) in
            [(Newline::Always, true, true), (Newline::Never, false, false), (Newline::Ensure, true, false)]
        {
            assert_eq!((newline.is_added_to(b"a"), newline.is_added_to(b"a\n")), (of_a_word, of_a_line), "{newline:?}");
        }
        assert_eq!(with_newline(&"a".to_owned().into()).expose(), b"a\n");
    }
}
