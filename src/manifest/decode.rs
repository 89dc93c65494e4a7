//! Decodes the tree into the schema's types with serde, so that the types in `schema.rs` are the only list of keys.
//!
//! serde stops at the first error, but all errors of a manifest are wanted. So unknown and duplicate keys are reported
//! here and skipped; a [`Field`] whose value is wrong reports it and becomes [`Field::Bad`]; decoding continues.
//!
//! Conventions for the types:
//! - An enum with the variants `scalar`, `mapping`, `sequence` is chosen by the kind of the value.
//! - Any other enum is chosen by the key `type` of a mapping, or by the text of a scalar.
//! - An enum with the variants `true`, `false` and a word is a switch with a third position.
//! - A struct without a value (`node1:`) has no keys.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt;

use deaddrop_core::keys::{FIELD, Field, NodeId};
use deaddrop_core::near;
use deaddrop_core::shown::quoted;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::access::{EntryAccess, FieldAccess, FieldsAccess, ItemAccess, Variant};
use super::problem::Problems;
use super::scalar::{Meaning, meaning};
use super::tree::{MAX_NODES, NodeKind, Tree, section_limit};
use super::{shape, values, veil};

/// Budget for decoding, with aliases followed: a node costs 1, and 1 for each 64 bytes of text. A manifest without
/// aliases never exceeds it.
const BUDGET: usize = MAX_NODES + (16 << 20) / 64;

/// Message for an exceeded budget.
const SPENT: &str = "aliases repeat over 2,000,000 keys and values, the limit of a manifest";

/// State that the decoders share: the tree, the problems, and the remaining budget.
pub(super) struct Context<'t> {
    pub tree: &'t Tree<'t>,
    pub problems: RefCell<Problems>,
    budget: Cell<usize>,
}

impl<'t> Context<'t> {
    pub(super) fn new(tree: &'t Tree<'t>, problems: Problems) -> Self {
        Self { tree, problems: RefCell::new(problems), budget: Cell::new(BUDGET) }
    }

    /// Decodes the whole document. WrongValue parts are reported and omitted.
    pub(super) fn decode<T: Deserialize<'t>>(&'t self) -> Field<T> {
        Field::deserialize(NodeDecoder::new(self, self.tree.root(), "a manifest")).unwrap_or(Field::Bad)
    }

    pub(super) fn report(&self, error: DecodeError, fallback: NodeId) {
        let DecodeError(error) = error;
        if error.message.is_empty() {
            return; // the way out after the budget's end, which is reported
        }
        let mark = self.tree.mark(error.at.unwrap_or(fallback));
        self.problems.borrow_mut().push(mark, error.message, error.hint);
    }

    /// True if the budget is spent.
    pub(super) fn is_spent(&self) -> bool {
        self.budget.get() == 0
    }

    /// Charges the budget for a node.
    fn spend(&self, id: NodeId) -> Result<(), DecodeError> {
        let text = self.tree.text(id).map_or(0, str::len);
        let left = self.budget.get().checked_sub(text / 64).and_then(|left| left.checked_sub(1));
        self.budget.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or_else(|| DecodeError::new(id, SPENT, None))
    }
}

/// The reason why a value is wrong.
#[derive(Debug)]
pub(super) struct DecodeError(Box<WrongValue>);

#[derive(Debug)]
struct WrongValue {
    at: Option<NodeId>,
    message: String,
    hint: Option<String>,
}

impl DecodeError {
    fn new(at: NodeId, message: impl Into<String>, hint: Option<String>) -> Self {
        Self(Box::new(WrongValue { at: Some(at), message: message.into(), hint }))
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Box::new(WrongValue { at: None, message: message.to_string(), hint: None }))
    }
}

/// True for a mapping whose key is nearly that of a section, which is no value: `secret:` for `secrets:`.
fn is_near_section(tree: &Tree<'_>, value: NodeId, key: &str, fields: &[&str]) -> bool {
    matches!(tree.resolve(value).kind, NodeKind::Mapping(_))
        && fields.contains(&"secrets")
        && !near::near(key, fields.iter().copied()).is_empty()
}

/// Decodes one node.
#[derive(Clone, Copy)]
pub(super) struct NodeDecoder<'t> {
    pub context: &'t Context<'t>,
    pub id: NodeId,
    /// How messages name the value: a key in backquotes, or a noun.
    pub label: Label,
    /// True for the key of a section, which may be any scalar, even `1`.
    pub is_key: bool,
    /// True for a mapping whose key `type` has already chosen the enum variant.
    pub is_tagged: bool,
}

/// How messages name a value.
#[derive(Clone, Copy)]
pub(super) enum Label {
    Key(&'static str),
    Thing(&'static str),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "`{key}`"),
            Self::Thing(thing) => f.write_str(thing),
        }
    }
}

impl<'t> NodeDecoder<'t> {
    pub(super) fn new(context: &'t Context<'t>, id: NodeId, thing: &'static str) -> Self {
        Self { context, id, label: Label::Thing(thing), is_key: false, is_tagged: false }
    }

    fn kind(&self) -> &'t NodeKind<'t> {
        &self.context.tree.resolve(self.id).kind
    }

    fn error(&self, message: String, hint: Option<String>) -> DecodeError {
        DecodeError::new(self.id, message, hint)
    }

    /// "`mode` is text, and this is a number". Quotes only numbers and booleans, because a text may be a value.
    fn mismatch(&self, want: &str) -> DecodeError {
        let (found, hint) = match self.kind() {
            NodeKind::Mapping(_) => ("a mapping", None),
            NodeKind::Sequence(_) => ("a list", None),
            NodeKind::Alias(_) => ("an alias", None),
            NodeKind::Scalar { text, plain } => match meaning(text, *plain) {
                Meaning::Null => return self.error(format!("{} has no value", self.label), None),
                Meaning::Text => ("text", None),
                Meaning::Number => ("a number", Some(text)),
                Meaning::Bool(_) => ("true or false", Some(text)),
            },
        };
        let hint = match (hint, self.label) {
            (Some(text), _) if want.starts_with("text") => Some(format!("put it in quotes: \"{text}\"")),
            (None, Label::Key("ssh")) => Some(values::ADDRESS_IN_PARTS.to_owned()),
            _ => None,
        };
        self.error(format!("{} is {want}, and this is {found}", self.label), hint)
    }

    /// The same for text or a list in place of a list or of `health`: the hint is its right form.
    fn wrong_shape(&self, want: &str) -> DecodeError {
        let mut error = self.mismatch(want);
        let tree = self.context.tree;
        if let Label::Key(key) = self.label
            && let Some(form) = shape::form(tree, self.id, key)
        {
            if form.hides {
                veil::below(tree, self.id, &mut self.context.problems.borrow_mut());
            }
            error.0.hint = Some(form.hint);
        }
        error
    }

    /// The keys and values of a mapping; none for an absent value.
    fn entries(&self, want: &str) -> Result<&'t [(NodeId, NodeId)], DecodeError> {
        match self.kind() {
            NodeKind::Mapping(entries) => Ok(entries),
            NodeKind::Scalar { text, plain } if meaning(text, *plain) == Meaning::Null => Ok(&[]),
            _ => Err(self.mismatch(want)),
        }
    }

    /// The text of a mapping's key. A key that is not a scalar is reported.
    pub(super) fn key(&self, key: NodeId) -> Option<&'t str> {
        let tree = self.context.tree;
        let mut problems = self.context.problems.borrow_mut();
        match (&tree.resolve(key).kind, tree.text(key)) {
            (NodeKind::Scalar { plain: true, .. }, Some("<<")) => {
                problems.push(tree.mark(key), "YAML merge keys (`<<`) have no meaning in a manifest", None);
                None
            }
            (_, Some(text)) => Some(text),
            _ => {
                problems.push(tree.mark(key), "a key is text, and this is a list or a mapping", None);
                None
            }
        }
    }

    pub(super) fn duplicate(&self, key: NodeId, first: NodeId, text: &str) {
        let tree = self.context.tree;
        let message = format!("duplicate key {}, first on {}", quoted(text), tree.mark(first));
        self.context.problems.borrow_mut().push(tree.mark(key), message, None);
    }

    fn unknown(&self, key: NodeId, value: NodeId, text: &str, fields: &'static [&'static str]) {
        let tree = self.context.tree;
        let mut problems = self.context.problems.borrow_mut();
        if problems.is_full() {
            return problems.push(tree.mark(key), "unknown key", None);
        }
        let hint = if let Some(hint) = values::part_of_an_address(text).filter(|_| fields.contains(&"ssh")) {
            Some(hint.to_owned())
        } else if is_near_section(tree, value, text, fields) {
            veil::below(tree, value, &mut problems);
            problems.hint(text, fields.iter().copied(), "")
        } else if veil::is_value_like(text) {
            veil::below(tree, value, &mut problems);
            let hint = "a manifest never holds a value: keep it in a source, and name it with `from: SOURCE:ITEM`";
            Some(hint.to_owned())
        } else {
            let keys = format!("keys here: {}", near::list(fields.iter().copied()));
            problems.hint(text, fields.iter().copied(), &keys)
        };
        problems.push(tree.mark(key), format!("unknown key {}", quoted(text)), hint);
    }

    /// The known keys of a struct, each once, with their values; all others are reported.
    fn known_keys(
        &self,
        fields: &'static [&'static str],
        want: &str,
    ) -> Result<Vec<(&'static str, NodeId)>, DecodeError> {
        let mut seen: HashMap<&str, NodeId> = HashMap::new();
        let mut known = Vec::new();
        for &(key, value) in self.entries(want)? {
            let Some(text) = self.key(key) else { continue };
            match seen.entry(text) {
                Slot::Occupied(first) => {
                    self.duplicate(key, *first.get(), text);
                    continue;
                }
                Slot::Vacant(slot) => slot.insert(key),
            };
            match fields.iter().find(|field| **field == text) {
                Some(field) => known.push((*field, value)),
                None if self.is_tagged && text == "type" => {}
                None => self.unknown(key, value, text, fields),
            }
        }
        Ok(known)
    }

    /// "`newline` is `true` or `false`, and this is `yes`".
    fn not_a_switch(&self, want: &str, text: &str) -> DecodeError {
        let hint = match text.to_ascii_lowercase().as_str() {
            "yes" | "y" | "on" | "true" | "1" => Some("write `true`".to_owned()),
            "no" | "n" | "off" | "false" | "0" => Some("write `false`".to_owned()),
            _ => None,
        };
        self.error(format!("{} is {want}, and this is {}", self.label, quoted(text)), hint)
    }

    /// The variant of an enum of `true`, `false` and a word.
    fn switch(&self, variants: &[&'static str; 3]) -> Result<&'static str, DecodeError> {
        let [yes, no, word] = *variants;
        let want = format!("`{yes}`, `{no}` or `{word}`");
        let NodeKind::Scalar { text, plain } = self.kind() else { return Err(self.mismatch(&want)) };
        match meaning(text, *plain) {
            Meaning::Bool(true) => Ok(yes),
            Meaning::Bool(false) => Ok(no),
            Meaning::Text if text.as_ref() == word => Ok(word),
            Meaning::Null => Err(self.mismatch(&want)),
            Meaning::Text | Meaning::Number => Err(self.not_a_switch(&want, text)),
        }
    }

    /// "unknown hash `md5`", with the choices as the hint.
    fn unknown_choice(&self, at: NodeId, what: &str, text: &str, choices: &'static [&'static str]) -> DecodeError {
        let there_are = format!("there are: {}", near::list(choices.iter().copied()));
        let hint = self.context.problems.borrow_mut().hint(text, choices.iter().copied(), &there_are);
        DecodeError::new(at, format!("unknown {what} {}", quoted(text)), hint)
    }
}

impl<'t> Deserializer<'t> for NodeDecoder<'t> {
    type Error = DecodeError;

    /// For values that may be text or a number.
    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        match self.kind() {
            NodeKind::Scalar { text, plain } => match meaning(text, *plain) {
                Meaning::Text => visitor.visit_str(text),
                Meaning::Number => match text.parse::<u64>() {
                    // Readers of YAML disagree whether `010` is 8 or 10.
                    Ok(number) if number.to_string() == text.as_ref() => visitor.visit_u64(number),
                    _ => Err(self.error(format!("{} is no decimal number from 0 upward", quoted(text)), None)),
                },
                Meaning::Null | Meaning::Bool(_) => Err(self.mismatch("text or a number")),
            },
            _ => Err(self.mismatch("text or a number")),
        }
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        match self.kind() {
            NodeKind::Scalar { text, plain } => match meaning(text, *plain) {
                Meaning::Bool(value) => visitor.visit_bool(value),
                Meaning::Null => Err(self.mismatch("true or false")),
                _ => Err(self.not_a_switch("`true` or `false`", text)),
            },
            _ => Err(self.mismatch("`true` or `false`")),
        }
    }

    fn deserialize_u64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        match self.kind() {
            NodeKind::Scalar { text, plain } if meaning(text, *plain) == Meaning::Number => match text.parse() {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => Err(self.error(format!("{} is not {}", self.label, quoted(text)), None)),
            },
            _ => Err(self.mismatch("a number")),
        }
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        match self.kind() {
            NodeKind::Scalar { text, plain } if self.is_key || meaning(text, *plain) == Meaning::Text => {
                visitor.visit_str(text)
            }
            _ => Err(self.mismatch("text")),
        }
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        match self.kind() {
            NodeKind::Sequence(items) => {
                if let Label::Key("run_after") = self.label
                    && let Some(hint) = shape::of_programs(self.context.tree, self.id)
                {
                    veil::below(self.context.tree, self.id, &mut self.context.problems.borrow_mut());
                    return Err(self.error("`run_after` is a list of programs, each a list itself".into(), Some(hint)));
                }
                visitor.visit_seq(ItemAccess { decoder: self, items: items.iter() })
            }
            _ => Err(self.wrong_shape("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        let entries = self.entries("a mapping of names")?;
        if let Label::Key(section) = self.label
            && let Some((most, message)) = section_limit(section)
            && let Some((key, _)) = entries.get(most)
        {
            // The tree enforces the limit for a section itself; this one is an alias.
            return Err(DecodeError::new(*key, message, None));
        }
        visitor.visit_map(EntryAccess { decoder: self, entries: entries.iter(), seen: HashMap::new(), value: None })
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        let want = format!("a mapping ({})", near::list(fields.iter().copied()));
        let known = match self.label {
            Label::Key("health") if !matches!(self.kind(), NodeKind::Mapping(_)) => {
                self.entries(&want).map_err(|_| self.wrong_shape(&want))?;
                Vec::new()
            }
            Label::Key(_) => self.known_keys(fields, &want)?,
            Label::Thing(_) => Self { label: Label::Thing(name), ..self }.known_keys(fields, &want)?,
        };
        visitor.visit_map(FieldsAccess { decoder: self, known: known.into_iter(), value: None })
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.context.spend(self.id)?;
        if let Ok(variants @ ["true", "false", _]) = <&[&'static str; 3]>::try_from(variants) {
            return visitor.visit_enum(Variant { name: self.switch(variants)?, content: self });
        }
        let kind = self.kind();
        let shape = match kind {
            NodeKind::Mapping(_) => "mapping",
            NodeKind::Sequence(_) => "sequence",
            NodeKind::Scalar { .. } | NodeKind::Alias(_) => "scalar",
        };
        let by_shape = variants.iter().any(|variant| matches!(*variant, "scalar" | "mapping" | "sequence"));
        if by_shape {
            let Some(variant) = variants.iter().find(|variant| **variant == shape) else {
                let words = variants.iter().map(|variant| match *variant {
                    "scalar" => "text",
                    "sequence" => "a list",
                    _ => "a mapping",
                });
                return Err(self.mismatch(&words.collect::<Vec<_>>().join(" or ")));
            };
            return visitor.visit_enum(Variant { name: variant, content: self });
        }
        match kind {
            NodeKind::Mapping(entries) if matches!(self.label, Label::Thing(_)) => {
                let tree = self.context.tree;
                let Some((_, tag)) = entries.iter().find(|(key, _)| tree.text(*key) == Some("type")) else {
                    let hint = format!("`type` is one of: {}", near::list(variants.iter().copied()));
                    return Err(self.error(format!("{name} needs a `type`"), Some(hint)));
                };
                let Some(text) = tree.text(*tag) else {
                    let decoder = Self { id: *tag, label: Label::Key("type"), ..self };
                    return Err(decoder.mismatch("text"));
                };
                match variants.iter().find(|variant| **variant == text) {
                    Some(variant) => {
                        visitor.visit_enum(Variant { name: variant, content: Self { is_tagged: true, ..self } })
                    }
                    None => Err(self.unknown_choice(*tag, "type of source", text, variants)),
                }
            }
            NodeKind::Scalar { text, plain } if meaning(text, *plain) == Meaning::Text => {
                match (variants.iter().find(|variant| **variant == text.as_ref()), self.label) {
                    (Some(variant), Label::Key(_)) => visitor.visit_enum(Variant { name: variant, content: self }),
                    (None, Label::Key(key)) => Err(self.unknown_choice(self.id, key, text, variants)),
                    (_, Label::Thing(_)) => Err(Self { label: Label::Thing(name), ..self }.mismatch("a mapping")),
                }
            }
            _ => match self.label {
                Label::Key(_) => Err(self.mismatch("text")),
                Label::Thing(_) => Err(Self { label: Label::Thing(name), ..self }.mismatch("a mapping")),
            },
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name == FIELD {
            visitor.visit_seq(FieldAccess { decoder: self, step: 0 })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    forward_to_deserialize_any! {
        <W: Visitor<'t>>
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf option unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}
