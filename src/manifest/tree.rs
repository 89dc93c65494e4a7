//! Parses YAML into a tree of nodes with their places, bounded in size and depth. Independent of the schema, except for
//! the two sections whose length is limited.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use deaddrop_core::contain::contain;
use deaddrop_core::keys::NodeId;
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::problem::{Mark, Problems, clamp, wide};
use super::scalar::{Meaning, meaning};
use super::{position, syntax};

/// Maximum number of nodes (keys, values, lists, mappings) of a manifest. 10,000 secrets and 100,000 hosts with every
/// key need about half of it.
pub(super) const MAX_NODES: usize = 2_000_000;
/// Maximum nesting depth, of lists and of mappings. The schema needs 4.
const MAX_DEPTH: usize = 32;
/// Maximum number of secrets.
pub(super) const MAX_SECRETS: usize = 10_000;
/// Maximum number of hosts.
pub(super) const MAX_HOSTS: usize = 100_000;

/// The maximum number of entries of a top-level section, if it has one.
pub(super) fn section_limit(section: &str) -> Option<(usize, &'static str)> {
    match section {
        "secrets" => Some((MAX_SECRETS, "over 10,000 secrets, the limit of a manifest")),
        "hosts" => Some((MAX_HOSTS, "over 100,000 hosts, the limit of a manifest")),
        _ => None,
    }
}

/// A value or key, and its place.
#[derive(Debug)]
pub(super) struct Node<'t> {
    pub mark: Mark,
    pub kind: NodeKind<'t>,
}

/// The content of a node.
#[derive(Debug)]
pub(super) enum NodeKind<'t> {
    /// A text; `plain` if it has neither quotes nor a block style, so that it may be a number or a boolean.
    Scalar {
        text: Cow<'t, str>,
        plain: bool,
    },
    Sequence(Vec<NodeId>),
    /// Keys and values in the file's order, duplicates included.
    Mapping(Vec<(NodeId, NodeId)>),
    /// `*name`. The target is complete and has a smaller index, so chains end.
    Alias(NodeId),
}

/// A parsed document.
#[derive(Debug)]
pub(super) struct Tree<'t> {
    source: &'t str,
    nodes: Vec<Node<'t>>,
    root: NodeId,
}

impl<'t> Tree<'t> {
    /// Parses one document. Reports problems; `None` if there is no usable tree.
    pub(super) fn parse(text: &'t str, problems: &mut Problems) -> Option<Self> {
        let mut builder = Builder { nodes: Vec::new(), open: Vec::new(), anchors: HashMap::new(), root: None };
        let options = granit_parser::options! { block_nesting_limit: MAX_DEPTH, flow_nesting_limit: MAX_DEPTH };
        let mut parser = Parser::new_from_str_with_options(text, options);
        loop {
            let Some(event) = contain(|| parser.next()) else {
                problems.push_file("makes the YAML parser fail: it is no manifest".to_owned(), None);
                return None;
            };
            let Some(event) = event else { break };
            let taken = match event {
                Ok((event, span)) => builder.take(event, &span, problems),
                Err(error) => {
                    syntax::report(text, &error, problems);
                    return None;
                }
            };
            if let Err(Fatal { mark, message, hint }) = taken {
                problems.push(mark, message, hint.map(str::to_owned));
                return None;
            }
        }
        let root = builder.root;
        let tree = root.map(|root| Tree { source: text, nodes: builder.nodes, root });
        match tree {
            Some(tree) if tree.is_empty() => None,
            tree => tree,
        }
        .or_else(|| {
            let hint = "begin with `version: 1` and `secrets:`; docs/manifest.md has an example";
            problems.push_file("is empty".to_owned(), Some(hint.to_owned()));
            None
        })
    }

    /// True for a document with only comments.
    fn is_empty(&self) -> bool {
        match &self.get(self.root).kind {
            NodeKind::Scalar { text, plain } => meaning(text, *plain) == Meaning::Null,
            _ => false,
        }
    }

    /// The root node.
    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    /// The node itself; an alias is not followed.
    pub(super) fn get(&self, id: NodeId) -> &Node<'t> {
        // OK to index: ids come from `Builder::add` for this tree, also those that pass through `NodeId::new`.
        &self.nodes[id.index()]
    }

    /// The node with its content; aliases are followed.
    pub(super) fn resolve(&self, mut id: NodeId) -> &Node<'t> {
        // Ends, because an alias' target has a smaller index.
        while let NodeKind::Alias(target) = self.get(id).kind {
            id = target;
        }
        self.get(id)
    }

    /// The place of a node; of an alias, not of its target.
    pub(super) fn mark(&self, id: NodeId) -> Mark {
        self.get(id).mark
    }

    /// The text of a scalar; aliases are followed.
    pub(super) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.resolve(id).kind {
            NodeKind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The value of a mapping's key.
    pub(super) fn child(&self, id: NodeId, key: &str) -> Option<NodeId> {
        match &self.resolve(id).kind {
            NodeKind::Mapping(entries) => {
                entries.iter().find(|(own, _)| self.text(*own) == Some(key)).map(|(_, value)| *value)
            }
            _ => None,
        }
    }

    /// The place of the byte range `part` of a scalar's text. The whole scalar if it is unknown, as for a text folded
    /// from several lines.
    pub(super) fn part(&self, id: NodeId, part: Range<usize>) -> Mark {
        let whole = self.mark(id);
        self.exact_part(id, part).unwrap_or(whole)
    }

    /// The same; `None` if it is unknown.
    pub(super) fn exact_part(&self, id: NodeId, part: Range<usize>) -> Option<Mark> {
        let Node { mark, kind: NodeKind::Scalar { text, .. } } = self.get(id) else { return None };
        let (first, end) = mark.bytes();
        let raw = self.source.get(first..end)?;
        let at = |byte| position::in_source(raw, text, byte).map(|byte| first.saturating_add(byte));
        let start = at(part.start)?;
        let before = self.source.get(first..start)?;
        let line = wide(mark.line).saturating_add(before.matches('\n').count());
        let column = match before.rfind('\n') {
            Some(newline) => before.get(newline..)?.chars().count(),
            None => wide(mark.column).saturating_add(before.chars().count()),
        };
        let mut mark = Mark::at(start, line, column);
        // A part that continues on the next line is marked up to the end of this one.
        mark.end = clamp(at(part.end).filter(|end| *end >= start).unwrap_or(start));
        Some(mark)
    }

    /// All nodes, in the order of their starts.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node<'t>> {
        self.nodes.iter()
    }
}

/// A problem that leaves no usable tree.
struct Fatal {
    mark: Mark,
    message: &'static str,
    hint: Option<&'static str>,
}

/// A list or mapping whose end has not been reached.
struct Open {
    id: NodeId,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<NodeId>),
    Mapping { entries: Vec<(NodeId, NodeId)>, key: Option<NodeId>, limit: Option<(usize, &'static str)> },
}

struct Builder<'t> {
    nodes: Vec<Node<'t>>,
    open: Vec<Open>,
    /// Complete nodes by the parser's number of their anchor.
    anchors: HashMap<usize, NodeId>,
    root: Option<NodeId>,
}

impl<'t> Builder<'t> {
    fn take(&mut self, event: Event<'t>, span: &Span, problems: &mut Problems) -> Result<(), Fatal> {
        let mark = mark(span);
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(Fatal {
                mark,
                message: "a manifest is one YAML document, and here a second one begins",
                hint: Some("remove the `---`, or keep each document in its own file"),
            }),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.as_deref(), span, problems);
                let plain = style == ScalarStyle::Plain;
                // The parser returns `~` for an absent value.
                let text = if mark.start == mark.end && plain { Cow::Borrowed("") } else { text };
                let id = self.add(mark, NodeKind::Scalar { text, plain })?;
                self.close(id, anchor)
            }
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor).copied() else {
                    return Err(Fatal { mark, message: "an alias inside what it stands for", hint: None });
                };
                let id = self.add(mark, NodeKind::Alias(target))?;
                self.close(id, 0)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), span, problems);
                let id = self.add(mark, NodeKind::Sequence(Vec::new()))?;
                self.open.push(Open { id, anchor, content: Content::Sequence(Vec::new()) });
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), span, problems);
                let limit = self.section().and_then(section_limit);
                let id = self.add(mark, NodeKind::Mapping(Vec::new()))?;
                let content = Content::Mapping { entries: Vec::new(), key: None, limit };
                self.open.push(Open { id, anchor, content });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let kind = match open.content {
                    Content::Sequence(items) => NodeKind::Sequence(items),
                    Content::Mapping { entries, .. } => NodeKind::Mapping(entries),
                };
                if let Some(node) = self.nodes.get_mut(open.id.index()) {
                    node.kind = kind;
                }
                self.close(open.id, open.anchor)
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, mark: Mark, kind: NodeKind<'t>) -> Result<NodeId, Fatal> {
        if self.nodes.len() >= MAX_NODES {
            let message = "over 2,000,000 keys and values, the limit of a manifest";
            return Err(Fatal { mark, message, hint: None });
        }
        let id = NodeId::new(self.nodes.len());
        self.nodes.push(Node { mark, kind });
        Ok(id)
    }

    /// The key of the top-level section whose value comes next.
    fn section(&self) -> Option<&str> {
        let [Open { content: Content::Mapping { key: Some(key), .. }, .. }] = self.open.as_slice() else { return None };
        match &self.nodes.get(key.index())?.kind {
            NodeKind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Adds a complete node to its parent: the innermost open list or mapping, or the root.
    fn close(&mut self, id: NodeId, anchor: usize) -> Result<(), Fatal> {
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(id),
            Some(Content::Sequence(items)) => items.push(id),
            Some(Content::Mapping { entries, key, limit }) => match key.take() {
                None => {
                    if let Some((most, message)) = *limit
                        && entries.len() >= most
                        && let Some(node) = self.nodes.get(id.index())
                    {
                        return Err(Fatal { mark: node.mark, message, hint: None });
                    }
                    *key = Some(id);
                }
                Some(key) => entries.push((key, id)),
            },
        }
        Ok(())
    }
}

/// Refuses tags (`!!str`, `!include`, …): the schema determines types, and nothing is included.
fn refuse_tag(tag: Option<&Tag>, span: &Span, problems: &mut Problems) {
    if tag.is_some() {
        let mark = span.tag_span().map_or_else(|| mark(span), |span| mark(&span));
        problems.push(mark, "YAML tags (`!…`) have no meaning in a manifest", Some("leave it out".to_owned()));
    }
}

/// The place of a parser's span, whose columns count from 0.
fn mark(span: &Span) -> Mark {
    let start = span.start.byte_offset().unwrap_or(0);
    let mut mark = Mark::at(start, span.start.line(), span.start.col().saturating_add(1));
    mark.end = clamp(span.end.byte_offset().unwrap_or(start)).max(mark.start);
    mark
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The problems of a text, each as `line:column: message`.
    fn complaints(text: &str) -> Vec<String> {
        let mut problems = Problems::default();
        Tree::parse(text, &mut problems);
        let errors = problems.finish(Path::new("m"), text);
        let place = |location: Option<crate::manifest::Location>| {
            location.map_or(String::new(), |at| format!("{}:{}: ", at.line, at.column))
        };
        errors.problems().iter().map(|problem| place(problem.location) + &problem.message).collect()
    }

    #[test]
    fn what_cannot_be_a_tree_is_told_with_its_place() {
        for (text, want) in [
            ("", "is empty"),
            ("# only a comment\n", "is empty"),
            ("---\n", "is empty"),
            ("~\n", "is empty"),
            ("a: b: c", "1:5: a second `: ` in one value"),
            ("a:\n\tb: c", "2:2: a tab indents this line"),
            ("a: @x", "1:4: a value cannot begin with `@`"),
            ("a: `x", "1:4: a value cannot begin with ```"),
            ("{ \"a\": \"x\u{7f}\" }", "1:10: `\\u{7f}` cannot stand in a manifest"),
            ("a: 'x\nb: c\n", "1:4: this quote is never closed"),
            ("a: [x\n", "1:4: this `[` is never closed"),
            ("a: *x\n", "1:4: no `&` above defines this alias"),
            ("a: &x [*x]\n", "1:8: an alias inside what it stands for"),
            ("a: b\n- c", "2:3: a key was expected here"),
            ("a: 1\n---\nb: 2\n", "2:1: a manifest is one YAML document, and here a second one begins"),
            ("a: !!str 1\n", "1:4: YAML tags (`!…`) have no meaning in a manifest"),
            ("a: !x {}\n", "1:4: YAML tags (`!…`) have no meaning in a manifest"),
            ("a: - b", "1:4: a list cannot begin here"),
        ] {
            assert_eq!(complaints(text), [want], "{text:?}");
        }
    }

    #[test]
    fn a_tree_knows_where_everything_stands() {
        let mut problems = Problems::default();
        let text = "# ü\nversion: 1\r\nsecrets:\n  ü: {path: '/x', l: [a, \"b\"]}\n  z:\n";
        let tree = Tree::parse(text, &mut problems).unwrap();
        assert!(problems.is_empty());
        let scalars: Vec<String> = tree
            .nodes()
            .filter_map(|node| match &node.kind {
                NodeKind::Scalar { text, .. } => Some(format!("{}:{} {text}", node.mark.line, node.mark.column)),
                _ => None,
            })
            .collect();
        let want = [
            "2:1 version",
            "2:10 1",
            "3:1 secrets",
            "4:3 ü",
            "4:7 path",
            "4:13 /x",
            "4:19 l",
            "4:23 a",
            "4:26 b",
            "5:3 z",
            "5:4 ",
        ];
        assert_eq!(scalars, want);
    }

    #[test]
    fn thirty_two_levels_are_read_and_one_more_is_refused() {
        for (depth, want) in
            [(31, vec![]), (32, vec![]), (33, vec!["1:33: nested over 32 deep, the limit of a manifest"])]
        {
            assert_eq!(complaints(&format!("{}{}", "[".repeat(depth), "]".repeat(depth))), want, "{depth}");
        }
    }

    #[test]
    fn sections_stop_at_their_limit_without_reading_on() {
        for (section, most) in [("secrets", MAX_SECRETS), ("hosts", MAX_HOSTS)] {
            let (_, message) = section_limit(section).unwrap();
            for (count, fits) in [(most - 1, true), (most, true), (most + 1, false)] {
                let entries: String = (0..count).map(|n| format!("  n{n}:\n")).collect();
                let text = format!("{section}:\n{entries}");
                let want: Vec<String> = if fits { vec![] } else { vec![format!("{}:3: {message}", most + 2)] };
                assert_eq!(complaints(&text), want, "{section} {count}");
            }
        }
    }

    #[test]
    fn two_million_nodes_are_read_and_one_more_is_refused() {
        // The list itself is a node too.
        for (count, fits) in [(MAX_NODES - 1, true), (MAX_NODES, false)] {
            let complaints = complaints(&format!("[{}]", "a,".repeat(count)));
            assert_eq!(complaints.is_empty(), fits, "{complaints:?}");
        }
    }
}
