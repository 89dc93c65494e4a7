//! `dotenv`: a file of `KEY=value` lines ([`crate::items::dotenv`]), without expansion.

use std::collections::{BTreeSet, HashMap};

use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::near::items::near;
use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::error::{item, shown, shown_path};
use crate::input::Input;
use crate::input::context::Context;
use crate::items::dotenv::{NAMED_LINES, Parser, Raw, Statement, backquoted, looks_like_a_name, text, unread_lines};
use crate::kinds::Kind;
use crate::spec::FileSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Maximum number of keys that are searched for similar ones.
const KEPT_KEYS: usize = 1000;

/// Maximum number of missing items with similar names: the comparison is expensive.
const WITH_NEAR: usize = 20;

/// A dotenv file.
pub(crate) struct Dotenv<'m> {
    input: Input<'m>,
}

impl<'m> Dotenv<'m> {
    pub(crate) fn new(input: Input<'m>) -> Self {
        Self { input }
    }

    /// The file's text, of its `bytes`.
    fn text(&self, bytes: &[u8]) -> Result<Zeroizing<String>, OpenError> {
        text(bytes).map_err(|line| OpenError::Syntax {
            path: self.input.name().to_owned(),
            line,
            column: None,
            problem: "this is not UTF-8",
            hint: String::new(),
        })
    }
}

impl Kind for Dotenv<'_> {
    type Spec = FileSpec;

    const HAS_FIELDS: bool = false;

    fn open<'m>(spec: &'m FileSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Dotenv::new(Input::new(name, spec, context)))
    }
}

impl Source for Dotenv<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let bytes = self.input.read(MAX_VALUE)?;
        self.input.holds_clear_text();
        let text = self.text(&bytes)?;

        let keys: HashMap<&str, ()> = wanted.iter().map(|reference| (reference.item.as_str(), ())).collect();
        let mut values: HashMap<&str, (Option<Raw<'_>>, usize)> = HashMap::new();
        let mut others: Vec<&str> = Vec::new();
        let mut bad_lines = Vec::new();
        let mut parser = Parser::new(&text);
        while let Some(statement) = parser.next() {
            match statement {
                Statement::Binding(key, value) if keys.contains_key(key) => {
                    values.insert(key, (value, parser.line_of_last()));
                }
                Statement::Binding(key, Some(_)) if others.len() < KEPT_KEYS && looks_like_a_name(key) => {
                    others.push(key)
                }
                Statement::Bad(line) if bad_lines.len() < NAMED_LINES => bad_lines.push(line),
                Statement::Binding(..) | Statement::Bad(_) | Statement::Nothing => {}
            }
        }
        // The manifest names these keys, so they may be shown.
        others.extend(values.keys());
        others.sort_unstable();

        let name = shown_path(self.input.name());
        let report = |finding| self.input.context().report(finding);
        if let Some(finding) = unread_lines(&name, &bad_lines) {
            report(finding);
        }
        let mut missing = 0;
        Ok(wanted
            .iter()
            .map(|reference| {
                if let Some(field) = &reference.field {
                    let (field, whole) = (shown(field), item(reference));
                    return Err(LookupError::NoFields { field, kind: "a dotenv file", whole });
                }
                match values.get(reference.item.as_str()) {
                    Some((Some(raw), line)) => {
                        if raw.is_backquoted() {
                            report(backquoted(&name, *line, reference));
                        }
                        Ok(raw.decode())
                    }
                    Some((None, _)) => Err(LookupError::NoValue { item: item(reference) }),
                    None => {
                        missing += 1;
                        let near = if missing > WITH_NEAR {
                            Vec::new()
                        } else {
                            near(&reference.item, others.iter().copied()).iter().map(|key| shown(key)).collect()
                        };
                        Err(LookupError::NoItem { item: item(reference), near, bad_lines: bad_lines.clone() })
                    }
                }
            })
            .collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let bytes = self.input.read(MAX_VALUE)?;
        self.input.holds_clear_text();
        let text = self.text(&bytes)?;
        let mut parser = Parser::new(&text);
        let mut keys = BTreeSet::new();
        let mut bad_lines = Vec::new();
        while let Some(statement) = parser.next() {
            match statement {
                Statement::Binding(key, Some(_)) if looks_like_a_name(key) => drop(keys.insert(key.to_owned())),
                Statement::Bad(line) if bad_lines.len() < NAMED_LINES => bad_lines.push(line),
                Statement::Binding(..) | Statement::Bad(_) | Statement::Nothing => {}
            }
        }
        if let Some(finding) = unread_lines(&shown_path(self.input.name()), &bad_lines) {
            self.input.context().report(finding);
        }
        Ok(keys.into_iter().map(Listed::without_fields).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_value_that_looks_like_a_key_is_not_offered_as_a_near_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        let wanted = Reference { source: "d".into(), item: "TOKN".into(), field: None };
        let offered = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let specs = std::collections::BTreeMap::new();
            let sources =
                crate::Sources { directory: directory.path(), specs: &specs, references: Vec::new(), tell: None };
            let context = Context::new(&sources);
            let file = FileSpec::plain(&path);
            match Dotenv::new(Input::new("d", &file, &context)).fetch(&[&wanted]).unwrap().remove(0) {
                Err(LookupError::NoItem { near, .. }) => near,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(offered("TOKEN=x\n"), ["TOKEN"]);
        // An unclosed quote makes one key of everything up to the next quote.
        assert!(offered("' #\nTOKN=\"the value\"\nB='x'\n").is_empty());
        assert!(offered("A=first line\nTOKEN\n").is_empty());
    }
}
