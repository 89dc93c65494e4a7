//! Keys of a document that know where they stand: a key that may be missing or wrong, and a section of names. The types of a
//! schema are made of these two; both ask the decoder for the node of what they hold.
//!
//! A spec and the keys that it is made of live beside what carries it out; the parser is known here only as a [`Report`].

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// The name by which [`Field`] asks for its node; no type of the schema is called so.
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

    /// Takes back what [`Self::index`] gave, and nothing else.
    #[must_use]
    pub fn new(index: usize) -> Self {
        Self(index)
    }
}

/// A key's value: missing, wrong (and reported), or there.
#[derive(Debug, Default)]
pub enum Field<T> {
    /// The key is not there.
    #[default]
    Missing,
    /// The value is wrong, and that is in the list of problems.
    Bad,
    /// The value, and where it stands.
    Good(NodeId, T),
}

impl<T> Field<T> {
    /// The value and its place, if it is there and right.
    #[must_use]
    pub fn good(self) -> Option<(NodeId, T)> {
        match self {
            Self::Good(id, value) => Some((id, value)),
            _ => None,
        }
    }

    /// Where the value stands, if it is there and right.
    #[must_use]
    pub fn place(&self) -> Option<NodeId> {
        match self {
            Self::Good(id, _) => Some(*id),
            _ => None,
        }
    }

    /// True when the key is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }

    /// True when the value is wrong.
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
        /// Takes two elements: the node's index, and the value, which is absent when it was wrong.
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

/// A section: names and what they stand for, in the file's order, each name once.
#[derive(Debug)]
pub struct Entries<T>(pub Vec<Entry<T>>);

/// One entry of a section.
#[derive(Debug)]
pub struct Entry<T> {
    /// Where the name stands.
    pub key: NodeId,
    /// The name.
    pub name: String,
    /// What it stands for.
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

/// What the check of keys says to the parser, which knows where each node stands.
pub trait Report {
    /// Reports a problem at a node.
    fn problem(&self, at: NodeId, message: String, hint: Option<String>);

    /// Reports what is refused in the scalar `at`, at its own part of it.
    fn refuse(&self, at: NodeId, refusal: Refusal);

    /// The value of a key of the mapping `at`.
    fn child(&self, at: NodeId, key: &str) -> Option<NodeId>;

    /// Keeps all that stands below a node out of messages: it may be a value.
    fn hide(&self, at: NodeId);
}

/// The most arguments of a program.
const MAX_ARGUMENTS: usize = 1000;

impl dyn Report + '_ {
    /// A value that `judge` accepts; what it refuses is reported. `Some(None)` when it is missing, `None` when it is wrong.
    pub fn optional(
        &self,
        field: Field<String>,
        judge: impl Fn(&str) -> Result<(), Refusal>,
    ) -> Option<Option<String>> {
        match field {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, text) => match judge(&text) {
                Ok(()) => Some(Some(text)),
                Err(refusal) => {
                    self.refuse(id, refusal);
                    None
                }
            },
        }
    }

    /// A program and its arguments, the node's value. No message shows them: an argument may be a value.
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

/// The longest item, field, option or SSH address, in bytes.
const MAX_TEXT: usize = 4096;

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Which bytes of the text are meant; all when `None`.
    pub part: Option<Range<usize>>,
}

/// A refusal with a hint.
#[must_use]
pub fn refusal(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal { message: message.into(), hint: Some(hint.to_owned()), part: None }
}

/// A refusal that speaks for itself.
#[must_use]
pub fn plain(message: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), hint: None, part: None }
}

/// An item, a field, an option's name: something to find, on one line.
///
/// # Errors
/// Why it is refused.
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

/// The path of a source's file or directory on this machine.
///
/// # Errors
/// Why it is refused.
pub fn local_path(path: &str) -> Result<(), Refusal> {
    text(path, "`path`")
}

/// The name of an environment variable, or its beginning.
///
/// # Errors
/// Why it is refused.
pub fn variable(prefix: &str) -> Result<(), Refusal> {
    if prefix.chars().any(|character| character == '=' || character.is_control() || character.is_whitespace()) {
        let hint = "letters, digits and `_`";
        return Err(refusal("the name of an environment variable cannot hold this", hint));
    }
    Ok(())
}
