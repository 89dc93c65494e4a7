//! References of secrets: to sources in `from`, to hosts and tags in `hosts`.

use std::collections::HashMap;

use deaddrop_core::keys::{self, Field, NodeId, Refusal, refusal};
use deaddrop_core::near;
use deaddrop_core::shown::quoted;
use deaddrop_vault::Reference;

use super::check::{BUILT_IN, Checker};
use super::model::HostSelector;
use super::overlap::Selector;
use super::problem::Mark;
use super::schema::RawReference;
use super::values;

/// Maximum number of names that are sorted for a hint, which shows only a dozen.
const MAX_SORTED: usize = 100;

/// The names sorted, as a hint shows them.
fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    near::list(names.into_iter())
}

/// The wrong part of a reference.
#[derive(Debug, Clone, Copy)]
pub(super) enum ReferencePart {
    Source,
    Item,
    Field,
}

impl Checker<'_, '_> {
    /// Checks `from`.
    pub(super) fn reference(&self, id: NodeId, raw: RawReference) -> Option<Reference> {
        match raw {
            RawReference::Short(text) => {
                let parts = match values::reference(&text) {
                    Ok(parts) => parts,
                    Err(refusal) => {
                        // Without a colon this may be the value itself, by mistake.
                        if !text.contains(':') && !self.sources.contains_key(&text) {
                            self.context.problems.borrow_mut().veil(self.context.tree.resolve(id).mark);
                        }
                        self.refuse(id, refusal);
                        return None;
                    }
                };
                let tree = self.context.tree;
                let reference = Reference {
                    source: text[parts.source.clone()].to_owned(),
                    item: text[parts.item.clone()].to_owned(),
                    field: parts.field.clone().map(|field| text[field].to_owned()),
                };
                let field = parts.field.map(|field| tree.part(id, field));
                self.referred(reference, tree.part(id, parts.source), tree.part(id, parts.item), field)
            }
            RawReference::Long(long) => {
                for (missing, key) in [(long.source.is_missing(), "source"), (long.item.is_missing(), "item")] {
                    if missing {
                        self.push(self.mark(id), format!("the long form of a reference needs `{key}`"), None);
                    }
                }
                let field = match long.field {
                    Field::Missing => None,
                    Field::Bad => return None,
                    Field::Good(id, field) => Some((id, field)),
                };
                let source = long.source.good();
                let item = long.item.good();
                let (source_id, source) = source?;
                let (item_id, item) = item?;
                let field_mark = field.as_ref().map(|(id, _)| self.mark(*id));
                let reference = Reference { source, item, field: field.map(|(_, field)| field) };
                self.referred(reference, self.mark(source_id), self.mark(item_id), field_mark)
            }
        }
    }

    /// Checks that a reference's source exists, and that it can have the item and the field.
    fn referred(&self, reference: Reference, source: Mark, item: Mark, field: Option<Mark>) -> Option<Reference> {
        match self.check_reference(&reference) {
            Ok(()) => Some(reference),
            Err((wrong, refusal)) => {
                let mark = match wrong {
                    ReferencePart::Source => source,
                    ReferencePart::Item => item,
                    ReferencePart::Field => field.unwrap_or(item),
                };
                self.push(mark, refusal.message, refusal.hint);
                None
            }
        }
    }

    /// The same for a reference at any place: the wrong part, and the refusal.
    pub(super) fn check_reference(&self, reference: &Reference) -> Result<(), (ReferencePart, Refusal)> {
        keys::text(&reference.item, "the item").map_err(|refusal| (ReferencePart::Item, refusal))?;
        if let Some(field) = &reference.field {
            keys::text(field, "the field").map_err(|refusal| (ReferencePart::Field, refusal))?;
        }
        match self.sources.get(&reference.source) {
            None if self.sources_are_complete => Err((ReferencePart::Source, self.unknown_source(&reference.source))),
            Some(Some(false)) if reference.field.is_some() => {
                let hint = "only items of a password manager have fields; write the long form if `#` is part of the \
                            name: {source: …, item: …}";
                let message = format!("what {} holds has no fields", quoted(&reference.source));
                Err((ReferencePart::Field, refusal(message, hint)))
            }
            _ => Ok(()),
        }
    }

    fn unknown_source(&self, name: &str) -> Refusal {
        let named = || self.sources.keys().map(String::as_str).filter(|name| !BUILT_IN.contains(name));
        let there_are = match self.sources.len().saturating_sub(BUILT_IN.len()) {
            0 => "sources here: env and file; others are named under `sources`".to_owned(),
            count if count <= MAX_SORTED => format!("sources here: {} (and always env, file)", sorted(named())),
            _ => String::new(),
        };
        let mut problems = self.context.problems.borrow_mut();
        let hint = problems.hint(name, named().chain(BUILT_IN), &there_are);
        Refusal { message: format!("unknown source {}", quoted(name)), hint, part: None }
    }

    /// The secret's hosts, as names and as indexes; both empty for every host. `None` if one is wrong.
    pub(super) fn selectors(&self, field: Field<Vec<Field<String>>>) -> Option<(Vec<HostSelector>, Vec<Selector>)> {
        let (id, raw) = match field {
            Field::Missing => return Some((Vec::new(), Vec::new())),
            Field::Bad => return None,
            Field::Good(id, raw) => (id, raw),
        };
        if raw.is_empty() {
            let hint = "name hosts or tags, or leave `hosts` out to mean every host";
            self.push(self.mark(id), "`hosts` is an empty list", Some(hint.to_owned()));
            return None;
        }
        let mut good = true;
        let mut names = Vec::new();
        let mut numbers = Vec::new();
        for item in raw {
            match item.good().and_then(|(id, text)| self.selector(id, &text)) {
                Some((name, number)) => {
                    names.push(name);
                    numbers.push(number);
                }
                None => good = false,
            }
        }
        good.then_some((names, numbers))
    }

    fn selector(&self, id: NodeId, text: &str) -> Option<(HostSelector, Selector)> {
        let (found, kind, name, all, whole) = match text.strip_prefix("tag:") {
            Some(tag) => {
                let found =
                    self.tags.get(tag).map(|number| (HostSelector::Tag(tag.to_owned()), Selector::Tag(*number)));
                (found, "tag", tag, &self.tags, self.tags_are_complete)
            }
            None => {
                let found =
                    self.hosts.get(text).map(|number| (HostSelector::Host(text.to_owned()), Selector::Host(*number)));
                (found, "host", text, &self.hosts, self.hosts_are_complete)
            }
        };
        if found.is_none() && whole {
            let hint = self.unknown_selector_hint(kind, name, all);
            self.push(self.mark(id), format!("unknown {kind} {}", quoted(name)), hint);
        }
        found
    }

    pub(super) fn unknown_selector_hint(&self, kind: &str, name: &str, all: &HashMap<String, usize>) -> Option<String> {
        if all.is_empty() {
            return Some(match kind {
                "tag" => "no host here has tags; they are given as `tags` of a host under `hosts`".to_owned(),
                _ => "there are no hosts here; they are named under `hosts`".to_owned(),
            });
        }
        if kind == "host" && self.tags.contains_key(name) {
            return Some(format!("{} is a tag: write `tag:{name}`", quoted(name)));
        }
        let names = all.keys().map(String::as_str);
        let there_are =
            if all.len() <= MAX_SORTED { format!("{kind}s here: {}", sorted(names)) } else { String::new() };
        self.context.problems.borrow_mut().hint(name, all.keys().map(String::as_str), &there_are)
    }
}
