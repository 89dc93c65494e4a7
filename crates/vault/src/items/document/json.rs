//! Parses JSON (RFC 8259); numbers keep their spelling.
//!
//! serde_json finds the start and end of each value; the first character determines its type. Each level is scanned
//! once more than its parent, so the depth limit bounds the work.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{Builder, MAX_DEPTH, MAX_NODES, Node, NodeId, NotADocument, TooMany};

/// Parses one document; returns its root.
///
/// # Errors
/// It is not JSON, or exceeds a limit.
pub(crate) fn read(text: &str, builder: &mut Builder) -> Result<NodeId, NotADocument> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let what = match error.classify() {
            Category::Eof if text.trim().is_empty() => "the document is empty",
            Category::Eof => "the document ends in the middle",
            Category::Io | Category::Syntax | Category::Data => "this is not JSON",
        };
        NotADocument { line: error.line(), column: error.column().max(1), what }
    })?;
    JsonReader { text, builder }.value(raw, 0)
}

struct JsonReader<'t, 'b> {
    text: &'t str,
    builder: &'b mut Builder,
}

impl<'t> JsonReader<'t, '_> {
    fn value(&mut self, raw: &'t RawValue, depth: usize) -> Result<NodeId, NotADocument> {
        let text = raw.get();
        if depth > MAX_DEPTH {
            return Err(self.at(text, "nested over 32 deep, the limit of a document"));
        }
        let deeper = depth.saturating_add(1);
        let node = match text.as_bytes().first() {
            Some(b'n') => Node::Null,
            Some(b'"') => Node::text(self.string(text)?.as_bytes()),
            Some(b'[') => {
                let raw: Elements<'t> = serde_json::from_str(text).map_err(|_| self.at(text, TooMany::WHAT))?;
                let items = raw.0.into_iter().map(|raw| self.value(raw, deeper)).collect::<Result<_, _>>()?;
                Node::List(items)
            }
            Some(b'{') => {
                let raw: Members<'t> = serde_json::from_str(text).map_err(|_| self.at(text, TooMany::WHAT))?;
                let mut members = Vec::with_capacity(raw.0.len());
                for (key, raw) in raw.0 {
                    let key = self.string(key.get())?;
                    members.push((key, self.value(raw, deeper)?));
                }
                Node::Object(members)
            }
            // A number, `true` or `false`.
            _ => Node::text(text.as_bytes()),
        };
        self.builder.add(node).map_err(|TooMany| self.at(text, TooMany::WHAT))
    }

    /// The content of a string literal.
    fn string(&self, literal: &str) -> Result<Zeroizing<String>, NotADocument> {
        let text: Result<String, _> = serde_json::from_str(literal);
        text.map(Zeroizing::new).map_err(|_| self.at(literal, "half of a surrogate pair (`\\ud800` to `\\udfff`)"))
    }

    /// An error at `part`, which is a slice of the text.
    fn at(&self, part: &str, what: &'static str) -> NotADocument {
        let offset = part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let column = offset.saturating_sub(before.rfind('\n').map_or(0, |at| at.saturating_add(1))).saturating_add(1);
        NotADocument { line, column, what }
    }
}

/// The elements of an array, unparsed.
struct Elements<'t>(Vec<&'t RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ElementsVisitor)
    }
}

struct ElementsVisitor;

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            if elements.len() >= MAX_NODES {
                return Err(A::Error::custom(TooMany::WHAT));
            }
            elements.push(element);
        }
        Ok(Elements(elements))
    }
}

/// The members of an object in order, unparsed.
struct Members<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            if members.len() >= MAX_NODES {
                return Err(A::Error::custom(TooMany::WHAT));
            }
            members.push(member);
        }
        Ok(Members(members))
    }
}
