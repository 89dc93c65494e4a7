//! Keys of a document with their positions: a key that may be missing or wrong, and a section of named entries. Schema
//! types are built from these two; both ask the decoder for the node of their value.
//!
//! A spec and its keys are defined next to the code that carries them out. The parser is used here only through
//! [`Report`].

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// The newtype name with which [`Field`] asks the decoder for its node; no schema type has this name.
pub const FIELD: &str = "\0field";

/// Index of a node in its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(usize);

impl NodeId {
    /// The index, to carry it through serde.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }

    /// The node of an index that [`Self::index`] returned.
    #[must_use]
    pub fn new(index: usize) -> Self {
        Self(index)
    }
}

/// A key's value: missing, wrong (and reported), or valid.
#[derive(Debug, Default)]
pub enum Field<T> {
    /// The key is missing.
    #[default]
    Missing,
    /// The value is wrong, and the problem is reported.
    Bad,
    /// The value and its node.
    Good(NodeId, T),
}

impl<T> Field<T> {
    /// The value and its node, if the key is present and valid.
    #[must_use]
    pub fn good(self) -> Option<(NodeId, T)> {
        match self {
            Self::Good(id, value) => Some((id, value)),
            _ => None,
        }
    }

    /// The value's node, if the key is present and valid.
    #[must_use]
    pub fn place(&self) -> Option<NodeId> {
        match self {
            Self::Good(id, _) => Some(*id),
            _ => None,
        }
    }

    /// True if the key is missing.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }

    /// True if the value is wrong.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Bad)
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Reads two elements: the node's index, and the value, which is absent if it was wrong.
        struct FieldVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
            type Value = (usize, Option<T>);

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let index = seq.next_element()?.unwrap_or_default();
                Ok((index, seq.next_element()?))
            }
        }

        let (index, value) = deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))?;
        Ok(value.map_or(Self::Bad, |value| Self::Good(NodeId::new(index), value)))
    }
}

/// A section: names and their values, in the order of the file, each name once.
#[derive(Debug)]
pub struct Entries<T>(pub Vec<Entry<T>>);

/// One entry of a section.
#[derive(Debug)]
pub struct Entry<T> {
    /// The node of the name.
    pub key: NodeId,
    /// The name.
    pub name: String,
    /// The named value.
    pub value: Field<T>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}s", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entry = generator.subschema_for::<T>();
        json_schema!({ "type": ["object", "null"], "additionalProperties": entry })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<Field<String>, Field<T>>()? {
                    if let Field::Good(key, name) = key {
                        entries.push(Entry { key, name, value });
                    }
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

/// How checks of keys report to the parser, which knows the position of each node.
pub trait Report {
    /// Reports a problem at a node.
    fn problem(&self, at: NodeId, message: String, hint: Option<String>);

    /// Reports why the scalar `at` is refused, at the part that the refusal names.
    fn refuse(&self, at: NodeId, refusal: Refusal);

    /// The value of a key of the mapping `at`.
    fn child(&self, at: NodeId, key: &str) -> Option<NodeId>;

    /// Keeps everything below a node out of messages: it may be a value.
    fn hide(&self, at: NodeId);
}

/// Maximum number of arguments of a program, the program included.
const MAX_ARGUMENTS: usize = 1000;

impl dyn Report + '_ {
    /// The value of an optional key, checked by `check`; a refusal is reported. `Some(None)` if the key is missing,
    /// `None` if the value is wrong.
    pub fn optional(
        &self,
        field: Field<String>,
        check: impl Fn(&str) -> Result<(), Refusal>,
    ) -> Option<Option<String>> {
        match field {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, text) => match check(&text) {
                Ok(()) => Some(Some(text)),
                Err(refusal) => {
                    self.refuse(id, refusal);
                    None
                }
            },
        }
    }

    /// A program and its arguments. No message shows them: an argument may be a value.
    pub fn argv(&self, node: Option<NodeId>, field: Field<Vec<Field<String>>>) -> Option<Vec<String>> {
        if let Some(node) = node {
            self.hide(node);
        }
        let (id, items) = field.good()?;
        let refuse = |message: &str, hint: &str| {
            self.problem(id, message.to_owned(), Some(hint.to_owned()));
            None
        };
        if items.len() > MAX_ARGUMENTS {
            return refuse("over 1000 arguments", "let the program read them from a file");
        }
        let argv: Vec<String> =
            items.into_iter().map(|item| item.good().map(|(_, text)| text)).collect::<Option<_>>()?;
        if argv.first().is_none_or(String::is_empty) {
            return refuse("there is no program in this list", "the program comes first, then its arguments");
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return refuse("an argument cannot hold a NUL byte", "remove it");
        }
        Some(argv)
    }
}

/// Maximum length of an item, field, option or SSH address, in bytes.
const MAX_TEXT: usize = 4096;

/// The reason for refusing a value.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The problem.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The bytes of the text that are wrong; all of them if `None`.
    pub part: Option<Range<usize>>,
}

/// A refusal with a hint.
#[must_use]
pub fn refusal(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal { message: message.into(), hint: Some(hint.to_owned()), part: None }
}

/// A refusal without a hint.
#[must_use]
pub fn plain(message: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), hint: None, part: None }
}

/// Checks the text of an item, a field or an option name: one line, not empty, not too long. `what` names it in
/// messages.
///
/// # Errors
/// If the text is refused.
pub fn text(text: &str, what: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Err(plain(format!("{what} is empty")));
    }
    if text.chars().any(char::is_control) {
        return Err(plain(format!("{what} cannot hold a control character")));
    }
    if text.len() > MAX_TEXT {
        return Err(plain(format!("{what} is over 4096 bytes")));
    }
    Ok(())
}

/// Checks the path of a source's file or directory on this machine.
///
/// # Errors
/// If the path is refused.
pub fn local_path(path: &str) -> Result<(), Refusal> {
    text(path, "`path`")
}

/// Checks the name of an environment variable, or a prefix of one.
///
/// # Errors
/// If the name is refused.
pub fn variable(prefix: &str) -> Result<(), Refusal> {
    if prefix.chars().any(|character| character == '=' || character.is_control() || character.is_whitespace()) {
        let hint = "letters, digits and `_`";
        return Err(refusal("the name of an environment variable cannot hold this", hint));
    }
    Ok(())
}
