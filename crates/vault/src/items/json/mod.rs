//! Types for the JSON of password managers. A value of an unexpected type does not stop the parser: it is an error only
//! if it is wanted.
//!
//! `stream` parses a file with one item in memory at a time.

mod stream;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

pub(crate) use stream::{Each, Feed, JsonError, Keyed, Object, Objects, parse};

/// Maximum length of a list inside one item (custom fields, URIs, collections).
const LONGEST_LIST: usize = 1000;

/// A value that should be text. Its content is zeroized on drop.
#[derive(Default)]
pub(crate) enum Text {
    /// Absent, or `null`.
    #[default]
    Absent,
    /// Text, `true` or `false`.
    Is(Zeroizing<String>),
    /// An integer.
    Number(i64),
    /// Another number, a list or an object.
    Other,
}

impl Text {
    /// The text, if it is text.
    pub(crate) fn get(&self) -> Option<&str> {
        match self {
            Self::Is(text) => Some(text),
            Self::Absent | Self::Number(_) | Self::Other => None,
        }
    }

    /// The number, if it is an integer.
    pub(crate) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Absent | Self::Is(_) | Self::Other => None,
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        // Exact capacity: the buffer never moves, so no copy remains.
        Self::Is(Zeroizing::new(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text::from(text))
    }
    fn visit_bool<E>(self, is: bool) -> Result<Text, E> {
        Ok(Text::from(if is { "true" } else { "false" }))
    }
    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::Absent)
    }
    fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
        Ok(i64::try_from(number).map_or(Text::Other, Text::Number))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
        Ok(Text::Number(number))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
}

/// A small non-negative integer; `None` for everything else.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) Option<u64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or null")
    }
    fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
        Ok(Number(Some(number)))
    }
    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number(None))
    }
}

/// A list of at most [`LONGEST_LIST`] elements; `null` is an empty one.
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }
    fn visit_unit<E>(self) -> Result<List<T>, E> {
        Ok(List::default())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
        let mut out = Vec::new();
        while let Some(element) = list.next_element()? {
            if out.len() == LONGEST_LIST {
                return Err(A::Error::custom("list too long"));
            }
            out.push(element);
        }
        Ok(List(out))
    }
}
