//! serde access types of the decoder: the parts of a field, the items of a list, the entries of a mapping, a variant.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use deaddrop_core::keys::NodeId;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::decode::{DecodeError, Label, NodeDecoder};

/// Passes the two elements of a `Field` to serde, and reports the second one if it is wrong.
pub(super) struct FieldAccess<'t> {
    pub decoder: NodeDecoder<'t>,
    pub step: u8,
}

impl<'t> SeqAccess<'t> for FieldAccess<'t> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        self.step = self.step.saturating_add(1);
        if self.step == 1 {
            return seed.deserialize(self.decoder.id.index().into_deserializer()).map(Some);
        }
        match seed.deserialize(self.decoder) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                self.decoder.context.report(error, self.decoder.id);
                // The budget is spent: stop decoding at every level.
                if self.decoder.context.is_spent() { Err(de::Error::custom("")) } else { Ok(None) }
            }
        }
    }
}

/// The items of a list.
pub(super) struct ItemAccess<'t> {
    pub decoder: NodeDecoder<'t>,
    pub items: std::slice::Iter<'t, NodeId>,
}

impl<'t> SeqAccess<'t> for ItemAccess<'t> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let Some(id) = self.items.next() else { return Ok(None) };
        let label = match self.decoder.label {
            Label::Key("hosts") => Label::Thing("a host or tag"),
            Label::Key("serial") => Label::Thing("a tag"),
            Label::Key("tags") => Label::Thing("a tag"),
            Label::Key("used_by") => Label::Thing("an option's name"),
            Label::Key("restart" | "reload" | "try_restart") => Label::Thing("a unit's name"),
            Label::Key("run_after") => Label::Thing("a program with its arguments"),
            Label::Key("ssh_options") => Label::Thing("an option"),
            _ => Label::Thing("an item of this list"),
        };
        seed.deserialize(NodeDecoder { id: *id, label, ..self.decoder }).map(Some)
    }
}

/// The entries of a section.
pub(super) struct EntryAccess<'t> {
    pub decoder: NodeDecoder<'t>,
    pub entries: std::slice::Iter<'t, (NodeId, NodeId)>,
    pub seen: HashMap<&'t str, NodeId>,
    pub value: Option<NodeId>,
}

impl<'t> MapAccess<'t> for EntryAccess<'t> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        for &(key, value) in self.entries.by_ref() {
            let Some(text) = self.decoder.key(key) else { continue };
            match self.seen.entry(text) {
                Slot::Occupied(first) => self.decoder.duplicate(key, *first.get(), text),
                Slot::Vacant(slot) => {
                    slot.insert(key);
                    self.value = Some(value);
                    let decoder = NodeDecoder::new(self.decoder.context, key, "a name");
                    return seed.deserialize(NodeDecoder { is_key: true, ..decoder }).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value before its key"))?;
        seed.deserialize(NodeDecoder::new(self.decoder.context, value, "an entry"))
    }
}

/// The known keys of a struct.
pub(super) struct FieldsAccess<'t> {
    pub decoder: NodeDecoder<'t>,
    pub known: std::vec::IntoIter<(&'static str, NodeId)>,
    pub value: Option<(&'static str, NodeId)>,
}

impl<'t> MapAccess<'t> for FieldsAccess<'t> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        self.value = self.known.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let (key, id) = self.value.take().ok_or_else(|| de::Error::custom("a value before its key"))?;
        let decoder = NodeDecoder::new(self.decoder.context, id, "");
        seed.deserialize(NodeDecoder { label: Label::Key(key), ..decoder })
    }
}

/// A chosen variant of an enum.
pub(super) struct Variant<'t> {
    pub name: &'static str,
    pub content: NodeDecoder<'t>,
}

impl<'t> de::EnumAccess<'t> for Variant<'t> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), DecodeError> {
        Ok((seed.deserialize(StrDeserializer::new(self.name))?, self))
    }
}

impl<'t> VariantAccess<'t> for Variant<'t> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, DecodeError> {
        seed.deserialize(self.content)
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, _: V) -> Result<V::Value, DecodeError> {
        Err(de::Error::custom("no type of the schema has tuples"))
    }

    fn struct_variant<V: Visitor<'t>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, DecodeError> {
        Err(de::Error::custom("variants of the schema hold structs of their own"))
    }
}
