//! Parses one YAML document. Aliases share nodes instead of copying them, so they cannot multiply its size.

use std::collections::HashMap;

use deaddrop_core::contain::contain;
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use zeroize::Zeroizing;

use super::{Builder, MAX_DEPTH, Node, NodeId, NotADocument, TooMany};

/// The prefix of YAML's own tags (YAML 1.2.2, chapter 10).
const CORE: &str = "tag:yaml.org,2002:";

/// Parses one document; returns its root.
///
/// # Errors
/// It is not YAML, or exceeds a limit.
pub(crate) fn read(text: &str, builder: &mut Builder) -> Result<NodeId, NotADocument> {
    let options = granit_parser::options! { block_nesting_limit: MAX_DEPTH, flow_nesting_limit: MAX_DEPTH };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut reader = YamlReader { builder, open: Vec::new(), anchors: HashMap::new(), root: None };
    loop {
        let failed = NotADocument { line: 0, column: 0, what: "this makes the YAML parser fail" };
        match contain(|| parser.next()).ok_or(failed)? {
            None => break,
            Some(Ok((event, span))) => reader.take(event, &span)?,
            Some(Err(error)) => {
                let marker = error.marker();
                let what = "this is not YAML";
                return Err(NotADocument { line: marker.line(), column: marker.col().saturating_add(1), what });
            }
        }
    }
    reader.root.ok_or(NotADocument { line: 0, column: 0, what: "the document is empty" })
}

struct YamlReader<'b> {
    builder: &'b mut Builder,
    open: Vec<Open>,
    /// Complete nodes by the parser's number of their anchor.
    anchors: HashMap<usize, NodeId>,
    root: Option<NodeId>,
}

/// A list or mapping whose end has not been reached.
struct Open {
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<NodeId>),
    Object { members: Vec<(Zeroizing<String>, NodeId)>, key: Option<Zeroizing<String>> },
}

impl YamlReader<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), NotADocument> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(at(span, "a second document begins here")),
            Event::Scalar(text, style, anchor, tag) => {
                let text = Zeroizing::new(text.into_owned());
                let kind = core_kind(tag.as_deref()).ok_or(at(span, "this YAML tag (`!…`) has no meaning here"))?;
                if let Some(Open { content: Content::Object { key: key @ None, .. }, .. }) = self.open.last_mut()
                    && anchor == 0
                {
                    *key = Some(text);
                    return Ok(());
                }
                let plain = style == ScalarStyle::Plain && kind != Some("str");
                let absent = span.is_empty() || matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
                let is_null = (plain && absent) || kind == Some("null");
                let node = if is_null { Node::Null } else { Node::text(text.as_bytes()) };
                self.close(node, anchor, span)
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied();
                let target = target.ok_or(at(span, "an alias inside what it stands for"))?;
                self.put(target, span)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(anchor, tag.as_deref(), "seq", Content::List(Vec::new()), span)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.begin(anchor, tag.as_deref(), "map", Content::Object { members: Vec::new(), key: None }, span)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { anchor, content }) = self.open.pop() else { return Ok(()) };
                let node = match content {
                    Content::List(items) => Node::List(items),
                    Content::Object { members, .. } => Node::Object(members),
                };
                self.close(node, anchor, span)
            }
            _ => Ok(()),
        }
    }

    fn begin(
        &mut self,
        anchor: usize,
        tag: Option<&Tag>,
        own: &str,
        content: Content,
        span: &Span,
    ) -> Result<(), NotADocument> {
        match core_kind(tag) {
            Some(kind) if kind.is_none_or(|kind| kind == own) => {}
            _ => return Err(at(span, "this YAML tag (`!…`) has no meaning here")),
        }
        self.open.push(Open { anchor, content });
        Ok(())
    }

    /// Stores a complete node, and adds it to its parent.
    fn close(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), NotADocument> {
        let id = self.builder.add(node).map_err(|TooMany| at(span, TooMany::WHAT))?;
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
        self.put(id, span)
    }

    fn put(&mut self, id: NodeId, span: &Span) -> Result<(), NotADocument> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(id),
            Some(Content::List(items)) => items.push(id),
            Some(Content::Object { members, key }) => match key.take() {
                Some(key) => members.push((key, id)),
                // The key has an anchor, or is an alias.
                None => match self.builder.nodes.get(id) {
                    Some(Node::Text(bytes)) => {
                        let text = std::str::from_utf8(bytes).map_err(|_| at(span, "a key here is no text"))?;
                        *key = Some(Zeroizing::new(text.to_owned()));
                    }
                    _ => return Err(at(span, "a key here is a list, a mapping or null")),
                },
            },
        }
        Ok(())
    }
}

/// The name of a YAML core tag: `Some(None)` without a tag, `None` for any other tag.
fn core_kind(tag: Option<&Tag>) -> Option<Option<&'static str>> {
    let Some(tag) = tag else { return Some(None) };
    let (handle, suffix) = (tag.handle(), tag.suffix());
    if handle == "!" && suffix.is_empty() {
        return Some(Some("str"));
    }
    let core = ["str", "int", "float", "bool", "null", "seq", "map"];
    core.into_iter().find(|kind| handle == CORE && suffix == *kind).map(Some)
}

/// An error at `span`. The parser's columns count from 0.
fn at(span: &Span, what: &'static str) -> NotADocument {
    NotADocument { line: span.start.line(), column: span.start.col().saturating_add(1), what }
}
