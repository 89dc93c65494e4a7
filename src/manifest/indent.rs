//! Lines that are indented too little or too much. They make sound YAML of another meaning, or none at all, and the
//! errors that follow say little. So they are reported alone, each once, at the line.

use std::fmt;

use deaddrop_core::keys::NodeId;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::problem::{Mark, Problems, clamp};
use super::scalar::{Meaning, meaning};
use super::schema::{RawHost, RawManifest, RawSecret};
use super::tree::{NodeKind, Tree};

const TOO_LITTLE: &str = "is this line indented too little?";
const TOO_MUCH: &str = "is this line indented too much?";
const HINT: &str = "the keys of one mapping begin in the same column, further in than the mapping's own key";

/// A section of named entries.
struct Section {
    name: &'static str,
    /// The keys of an entry.
    keys: &'static [&'static str],
    /// A mapping with one of these is an entry.
    marks: &'static [&'static str],
}

fn sections() -> [Section; 3] {
    [
        Section { name: "secrets", keys: keys_of::<RawSecret>(), marks: &["path"] },
        Section { name: "hosts", keys: keys_of::<RawHost>(), marks: &["ssh", "tags"] },
        Section { name: "sources", keys: &["type", "path", "password", "key_file", "prefix"], marks: &["type"] },
    ]
}

/// Reports lines that are indented too little or too much; true if there is one. A manifest that is otherwise right has
/// none: each is a key that is unknown at its place, or a value where an entry should be.
pub(super) fn report(tree: &Tree<'_>, problems: &mut Problems) -> bool {
    let NodeKind::Mapping(roots) = &tree.resolve(tree.root()).kind else { return false };
    let (top, sections) = (keys_of::<RawManifest>(), sections());
    let mut found = Vec::new();
    let mut last: Option<&Section> = None;
    for (key, value) in roots {
        let Some(name) = tree.text(*key) else { continue };
        if top.contains(&name) {
            last = sections.iter().find(|section| section.name == name);
            found.extend(last.and_then(|section| in_section(tree, section, top, *value)));
        } else if last.is_some_and(|section| belongs_into(tree, section, name, *value)) {
            found.push((*key, TOO_LITTLE));
            // The lines after it probably belong to the same entry.
            break;
        }
    }
    for (key, message) in &found {
        problems.push(tree.mark(*key), *message, Some(HINT.to_owned()));
    }
    !found.is_empty()
}

/// True if a key of the top level is an entry of the section above it, or a key of one.
fn belongs_into(tree: &Tree<'_>, section: &Section, name: &str, value: NodeId) -> bool {
    match is_plain(tree, value) {
        true => section.keys.contains(&name),
        false => has_one_of(tree, value, section.marks),
    }
}

/// The first such line of a section.
fn in_section(tree: &Tree<'_>, section: &Section, top: &[&str], id: NodeId) -> Option<(NodeId, &'static str)> {
    let NodeKind::Mapping(entries) = &tree.resolve(id).kind else { return None };
    for (at, (key, value)) in entries.iter().enumerate() {
        let Some(name) = tree.text(*key) else { continue };
        if is_plain(tree, *value) {
            if at > 0 && section.keys.contains(&name) {
                return Some((*key, TOO_LITTLE));
            }
            continue;
        }
        let NodeKind::Mapping(inner) = &tree.resolve(*value).kind else { continue };
        if top.contains(&name) && !inner.is_empty() && !has_one_of(tree, *value, section.keys) {
            return Some((*key, TOO_MUCH));
        }
        let is_entry = |(key, value): &&(NodeId, NodeId)| {
            let is_unknown = tree.text(*key).is_some_and(|name| !section.keys.contains(&name));
            is_unknown && has_one_of(tree, *value, section.marks)
        };
        if let Some((key, _)) = inner.iter().find(is_entry) {
            return Some((*key, TOO_MUCH));
        }
    }
    None
}

/// True for text, a number or a list.
fn is_plain(tree: &Tree<'_>, id: NodeId) -> bool {
    match &tree.resolve(id).kind {
        NodeKind::Scalar { text, plain } => meaning(text, *plain) != Meaning::Null,
        NodeKind::Sequence(_) => true,
        _ => false,
    }
}

/// True for a mapping with one of these keys.
fn has_one_of(tree: &Tree<'_>, id: NodeId, keys: &[&str]) -> bool {
    let NodeKind::Mapping(entries) = &tree.resolve(id).kind else { return false };
    entries.iter().any(|(key, _)| tree.text(*key).is_some_and(|key| keys.contains(&key)))
}

/// For a syntax error at byte `at`: the place and the message, if its line is indented otherwise than the line before
/// it, and is a key or an item of a list. `continues`: the parser took the line for a part of the value before it.
pub(super) fn guess(text: &str, at: usize, continues: bool) -> Option<(Mark, &'static str)> {
    let before = text.get(..at)?;
    let start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
    let line = text[start..].lines().next()?;
    let number = before.matches('\n').count().saturating_add(1);
    let is_written = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let above = text[..start].lines().rev().find(is_written)?;
    let (own, other) = (width(line), width(above));
    let word = line.trim_start();
    let key = word.split_once(':').map_or(word, |(key, _)| key);
    if !is_key(key) && !word.starts_with("- ") {
        return None;
    }
    let message = match own.cmp(&other) {
        // A value in quotes, or one that ends in a colon, does not continue.
        std::cmp::Ordering::Greater if !continues || above.contains(": ") => TOO_MUCH,
        std::cmp::Ordering::Less if !continues => {
            // A line that ends in a colon opens an entry, which is further out than its keys.
            if word.trim_end().ends_with(':') { TOO_MUCH } else { TOO_LITTLE }
        }
        _ => return None,
    };
    let first = start.saturating_add(own);
    let mut mark = Mark::at(first, number, own.saturating_add(1));
    mark.end = clamp(first.saturating_add(if word.starts_with("- ") { 1 } else { key.len() }));
    Some((mark, message))
}

/// The hint of [`guess`].
pub(super) fn hint() -> &'static str {
    HINT
}

/// True for one word, possibly in quotes.
fn is_key(key: &str) -> bool {
    !key.is_empty() && !key.contains([' ', '{', '[', '}', ']', ','])
}

fn width(line: &str) -> usize {
    line.bytes().take_while(|byte| *byte == b' ').count()
}

/// The keys of a struct of the schema.
fn keys_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    match T::deserialize(FieldNames) {
        Err(Names(keys)) => keys,
        Ok(_) => &[],
    }
}

/// A deserializer that only learns the names of a struct's fields, and fails with them.
struct FieldNames;

/// The names.
#[derive(Debug)]
struct Names(&'static [&'static str]);

impl std::error::Error for Names {}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names of fields")
    }
}

impl de::Error for Names {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for FieldNames {
    type Error = Names;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
