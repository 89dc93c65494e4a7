//! Structured text with values: JSON, YAML, dotenv, or the whole text as one value. Used for `age`, `sops` and
//! programs.
//!
//! An item that starts with `/` is a JSON pointer (RFC 6901); any other item is a key of the top level. `#FIELD` is a
//! member of the object that the item names. A text has its bytes as the value, a number or boolean its spelling.

mod json;
mod yaml;

use std::path::Path;

use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::near::items::near;
use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::error::{item as shown_item, shown, shown_path};
use crate::finding::Finding;
use crate::items::dotenv;
use crate::{DataFormat, Listed, LookupError, Reference};

/// Maximum number of nodes (values, lists, objects) of a document.
const MAX_NODES: usize = 1_000_000;
/// Maximum nesting depth.
const MAX_DEPTH: usize = 32;
/// Maximum number of keys that an error names.
const NAMED_KEYS: usize = 30;
/// Maximum length of a key that is suggested or listed, in bytes.
const LONGEST_NAME: usize = 256;
/// Maximum number of keys that are searched for similar ones, and of missing items that get them.
const KEPT_NAMES: usize = 10_000;
const WITH_NEAR: usize = 20;
/// Maximum number of items that are listed, and of nodes visited for it: an alias may repeat many.
const MAX_LISTED: usize = 100_000;

/// Maximum length of a text in `format`, in bytes.
pub(crate) fn longest(format: DataFormat) -> usize {
    match format {
        DataFormat::Json => 64 << 20,
        DataFormat::Yaml | DataFormat::Dotenv | DataFormat::Value => MAX_VALUE,
    }
}

/// A parsed document. Its values are zeroized on drop.
pub(crate) struct Document {
    nodes: Vec<Node>,
    root: NodeId,
    /// For dotenv: what is odd about it.
    dotenv: Option<DotenvFile>,
}

/// What is odd about a dotenv file.
struct DotenvFile {
    /// The numbers of lines that could not be parsed.
    bad_lines: Vec<usize>,
    /// Keys whose value opens with a backquote, and their lines.
    backquoted: Vec<(String, usize)>,
}

/// Index of a node in its document.
type NodeId = usize;

/// A value, list or object.
enum Node {
    /// `null`, and a dotenv key without `=`.
    Null,
    /// A text, or the spelling of a number or boolean.
    Text(Zeroizing<Vec<u8>>),
    List(Vec<NodeId>),
    /// The members in order, duplicates included.
    Object(Vec<(Zeroizing<String>, NodeId)>),
}

/// A parse error. Contains no part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotADocument {
    /// 1-based; 0 if it concerns the whole text.
    pub line: usize,
    /// 1-based; 0 if unknown.
    pub column: usize,
    /// The message.
    pub what: &'static str,
}

impl std::fmt::Display for NotADocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, self.column) {
            (0, _) => f.write_str(self.what),
            (line, 0) => write!(f, "line {line}: {}", self.what),
            (line, column) => write!(f, "line {line}, column {column}: {}", self.what),
        }
    }
}

/// A document under construction.
struct Builder {
    nodes: Vec<Node>,
}

/// The limit [`MAX_NODES`] is exceeded.
struct TooMany;

impl TooMany {
    const WHAT: &'static str = "over 1,000,000 values, the most of a document";
}

impl Builder {
    fn add(&mut self, node: Node) -> Result<NodeId, TooMany> {
        if self.nodes.len() >= MAX_NODES {
            return Err(TooMany);
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }
}

impl Node {
    /// A text. Exact capacity: the buffer never moves, so no copy remains.
    fn text(text: &[u8]) -> Self {
        Self::Text(Zeroizing::new(text.to_vec()))
    }
}

/// The reason why an item has no value.
enum Missing {
    /// The key, index or item does not exist.
    NotThere,
    /// The key is duplicated.
    Twice(String),
    /// The top level is not an object.
    NoKeys,
}

impl Document {
    /// Parses all of `bytes`.
    ///
    /// # Errors
    /// They are not in `format`, or exceed a limit.
    pub(crate) fn parse(bytes: &[u8], format: DataFormat) -> Result<Self, NotADocument> {
        let too_many = |_| NotADocument { line: 0, column: 0, what: TooMany::WHAT };
        let mut builder = Builder { nodes: Vec::new() };
        let mut dotenv_file = None;
        let root = match format {
            DataFormat::Json => json::read(utf8(bytes)?, &mut builder)?,
            DataFormat::Yaml => yaml::read(utf8(bytes)?, &mut builder)?,
            DataFormat::Dotenv => {
                let file = dotenv::read(bytes).map_err(not_utf8)?;
                dotenv_file = Some(DotenvFile { bad_lines: file.bad_lines, backquoted: file.backquoted });
                let mut keys = Vec::new();
                for (key, value) in file.values {
                    let node = value.map_or(Node::Null, Node::Text);
                    keys.push((Zeroizing::new(key), builder.add(node).map_err(too_many)?));
                }
                builder.add(Node::Object(keys)).map_err(too_many)?
            }
            DataFormat::Value => return Ok(Self::of_one("value", bytes)),
        };
        Ok(Self { nodes: builder.nodes, root, dotenv: dotenv_file })
    }

    /// The findings for `wanted` about the document in the file at `path`.
    pub(crate) fn findings(&self, path: &Path, wanted: &[&Reference]) -> Vec<Finding> {
        let Some(DotenvFile { bad_lines, backquoted }) = &self.dotenv else { return Vec::new() };
        let name = shown_path(path);
        let line = |reference: &Reference| backquoted.iter().find(|(key, _)| *key == reference.item);
        let of_values = wanted.iter().filter_map(|own| Some(dotenv::backquoted(&name, line(own)?.1, own)));
        dotenv::unread_lines(&name, bad_lines).into_iter().chain(of_values).collect()
    }

    /// A document with one item, `name`, whose value is `bytes`.
    pub(crate) fn of_one(name: &str, bytes: &[u8]) -> Self {
        let object = Node::Object(vec![(Zeroizing::new(name.to_owned()), 0)]);
        Self { nodes: vec![Node::text(bytes), object], root: 1, dotenv: None }
    }

    /// The results, one per reference.
    pub(crate) fn fetch(&self, wanted: &[&Reference]) -> Vec<Result<Secret, LookupError>> {
        let mut with_near = 0..WITH_NEAR;
        wanted.iter().map(|reference| self.get(reference, || with_near.next().is_some())).collect()
    }

    /// The value of a reference. `offers`: similar names are searched, which is expensive.
    fn get(&self, reference: &Reference, offers: impl FnOnce() -> bool) -> Result<Secret, LookupError> {
        let refused = |what: &str, hint: &str| LookupError::Refused {
            item: shown_item(reference),
            what: what.to_owned(),
            hint: Some(hint.to_owned()),
        };
        let twice = |key: String| refused(&format!("the key \"{key}\" comes twice"), "remove one of the two");
        let item = match self.find(&reference.item) {
            Ok(node) => node,
            Err(Missing::Twice(key)) => return Err(twice(key)),
            Err(Missing::NoKeys) => {
                let hint = "write a JSON pointer, such as `/0/password`";
                return Err(refused("the top level has no keys", hint));
            }
            Err(Missing::NotThere) => {
                let near = if offers() { self.near(&reference.item) } else { Vec::new() };
                let bad_lines = self.dotenv.as_ref().map_or_else(Vec::new, |file| file.bad_lines.clone());
                return Err(LookupError::NoItem { item: shown(&reference.item), near, bad_lines });
            }
        };
        let node = match &reference.field {
            None => self.node(item),
            Some(field) => match self.node(item) {
                Node::Object(members) => match member(members, field) {
                    Ok(node) => self.node(node),
                    Err(Missing::Twice(key)) => return Err(twice(key)),
                    Err(_) => {
                        let fields = names(members).take(NAMED_KEYS).map(shown).collect();
                        let (item, field) = (shown(&reference.item), Some(shown(field)));
                        return Err(LookupError::NoField { item, field, fields, unnamed: 0 });
                    }
                },
                other => {
                    let what = format!("the item is {}, and only an object has fields", other.kind());
                    return Err(refused(&what, "leave `#…` out, or name the object"));
                }
            },
        };
        match node {
            Node::Text(bytes) => Ok(Secret::new(bytes.to_vec())),
            Node::Null if self.dotenv.is_some() => Err(LookupError::NoValue { item: shown_item(reference) }),
            Node::Null => Err(refused("this is null, and no value", "give it a value, or remove the secret")),
            Node::List(_) => Err(refused("this is a list, and no value", "name one of its values with a JSON pointer")),
            Node::Object(members) => {
                let fields: Vec<String> = names(members).take(NAMED_KEYS).map(shown).collect();
                let what = match fields.as_slice() {
                    [] => "this is an empty object, and no value".to_owned(),
                    fields => format!("this is an object, and no value; it has: {}", fields.join(", ")),
                };
                Err(refused(&what, "name one of its members, as `#NAME` or with a JSON pointer"))
            }
        }
    }

    /// The items: the keys of the top level, and below it, by JSON pointer, every item with values. Only one level has
    /// fields.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let mut listing = Listing { document: self, items: Vec::new(), seen: 0 };
        match self.node(self.root) {
            Node::Object(members) => {
                for (key, node) in members.iter().filter(|(key, _)| self.is_name(key)) {
                    listing.add(shown(key), &format!("/{}", escaped(key)), *node, 1);
                }
            }
            _ => listing.add(String::new(), "", self.root, 1),
        }
        listing.items
    }

    /// The keys of the top level that have a value, and the values.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let members = match self.node(self.root) {
            Node::Object(members) => members.as_slice(),
            _ => &[],
        };
        members.iter().filter_map(|(key, node)| match self.node(*node) {
            Node::Text(value) => Some((key.as_str(), value.as_slice())),
            _ => None,
        })
    }

    fn node(&self, id: NodeId) -> &Node {
        // Every id comes from `Builder::add` for this document.
        self.nodes.get(id).unwrap_or(&Node::Null)
    }

    /// True if `key` may be shown. After an unclosed quote, a part of a dotenv file's value may parse as a key.
    fn is_name(&self, key: &str) -> bool {
        key.len() <= LONGEST_NAME && (self.dotenv.is_none() || dotenv::looks_like_a_name(key))
    }

    fn find(&self, item: &str) -> Result<NodeId, Missing> {
        let Some(pointer) = item.strip_prefix('/') else {
            return match self.node(self.root) {
                Node::Object(members) => member(members, item),
                _ => Err(Missing::NoKeys),
            };
        };
        let mut at = self.root;
        for token in pointer.split('/') {
            at = match self.node(at) {
                Node::Object(members) => member(members, &token.replace("~1", "/").replace("~0", "~"))?,
                Node::List(items) => {
                    let canonical = token == "0" || !token.starts_with(['0', '+']);
                    let index = token.parse::<usize>().ok().filter(|_| canonical).ok_or(Missing::NotThere)?;
                    *items.get(index).ok_or(Missing::NotThere)?
                }
                Node::Text(_) | Node::Null => return Err(Missing::NotThere),
            };
        }
        Ok(at)
    }

    /// The keys similar to `item`.
    fn near(&self, item: &str) -> Vec<String> {
        let Node::Object(members) = self.node(self.root) else { return Vec::new() };
        let keys = names(members).take(KEPT_NAMES).filter(|key| self.is_name(key));
        near(item, keys).iter().map(|name| shown(name)).collect()
    }
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Text(_) => "one value",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// The member called `key`.
fn member(members: &[(Zeroizing<String>, NodeId)], key: &str) -> Result<NodeId, Missing> {
    let mut found = members.iter().filter(|(own, _)| own.as_str() == key);
    let Some((_, node)) = found.next() else { return Err(Missing::NotThere) };
    if found.next().is_some() { Err(Missing::Twice(shown(key))) } else { Ok(*node) }
}

fn names(members: &[(Zeroizing<String>, NodeId)]) -> impl Iterator<Item = &str> {
    members.iter().map(|(key, _)| key.as_str())
}

/// A key escaped as a token of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Collects items by name.
struct Listing<'d> {
    document: &'d Document,
    items: Vec<Listed>,
    seen: usize,
}

impl Listing<'_> {
    /// Adds the node called `name` at `pointer`, and its descendants.
    fn add(&mut self, name: String, pointer: &str, node: NodeId, depth: usize) {
        self.seen = self.seen.saturating_add(1);
        if self.seen > MAX_LISTED || depth > MAX_DEPTH {
            return;
        }
        let document = self.document;
        match document.node(node) {
            Node::Null => {}
            Node::Text(_) => self.items.push(Listed::without_fields(name)),
            Node::List(items) => {
                for (index, node) in items.iter().enumerate() {
                    let pointer = format!("{pointer}/{index}");
                    self.add(shown(&pointer), &pointer, *node, depth.saturating_add(1));
                }
            }
            Node::Object(members) => {
                let short = || members.iter().filter(|(key, _)| key.len() <= LONGEST_NAME);
                let has_value = |node: &NodeId| matches!(document.node(*node), Node::Text(_));
                let fields: Vec<String> =
                    short().filter(|(_, node)| has_value(node)).map(|(key, _)| shown(key)).collect();
                self.seen = self.seen.saturating_add(fields.len());
                if !fields.is_empty() {
                    self.items.push(Listed { fields, ..Listed::without_fields(name) });
                }
                for (key, node) in short().filter(|(_, node)| !has_value(node)) {
                    let pointer = format!("{pointer}/{}", escaped(key));
                    self.add(shown(&pointer), &pointer, *node, depth.saturating_add(1));
                }
            }
        }
    }
}

/// `bytes` as UTF-8, without a byte order mark.
fn utf8(bytes: &[u8]) -> Result<&str, NotADocument> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        not_utf8(good.iter().filter(|&&byte| byte == b'\n').count().saturating_add(1))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn not_utf8(line: usize) -> NotADocument {
    NotADocument { line, column: 0, what: "this is not UTF-8" }
}

#[cfg(test)]
mod tests;
