//! The two shapes of which the schema's types are made: a key that may be missing or wrong, and a section of names.
//!
//! Both ask the decoder for the places of what they hold.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::tree::NodeId;

/// The name by which [`Field`] asks for its node; no type of the schema is called so.
pub(super) const FIELD: &str = "\0field";

/// A key's value: missing, wrong (and reported), or there.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
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
    pub(super) fn good(self) -> Option<(NodeId, T)> {
        match self {
            Self::Good(id, value) => Some((id, value)),
            _ => None,
        }
    }

    /// Where the value stands, if it is there and right.
    pub(super) fn place(&self) -> Option<NodeId> {
        match self {
            Self::Good(id, _) => Some(*id),
            _ => None,
        }
    }

    /// True when the key is not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }

    /// True when the value is wrong.
    pub(super) fn is_bad(&self) -> bool {
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
pub(super) struct Entries<T>(pub Vec<Entry<T>>);

/// One entry of a section.
#[derive(Debug)]
pub(super) struct Entry<T> {
    /// Where the name stands.
    pub key: NodeId,
    pub name: String,
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
