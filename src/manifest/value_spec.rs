//! The keys of a secret that determine its file's content, of which exactly one is required, and the conditions on the
//! value.

use deaddrop_core::keys::{Field, NodeId, refusal};
use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::shown::quoted;

use super::check::Checker;
use super::generate::RawGenerate;
use super::model::ValueSpec;
use super::problem::Mark;
use super::schema::{RawConditions, RawExpect, RawReference, RawSecret};
use crate::derive::expect::{Expect, Pattern};
use crate::derive::newline::Newline;

/// The keys of which a secret has exactly one.
pub(super) struct ValueKeys {
    pub from: Field<RawReference>,
    pub template: Field<String>,
    pub template_file: Field<String>,
    pub generate: Field<RawGenerate>,
    pub absent: Field<bool>,
}

impl ValueKeys {
    /// The names of the present keys that describe an existing file, with the nodes of their values (`None` if the
    /// value is wrong).
    fn present(&self) -> Vec<(&'static str, Option<NodeId>)> {
        let keys = [
            ("from", self.from.is_missing(), self.from.place()),
            ("template", self.template.is_missing(), self.template.place()),
            ("template_file", self.template_file.is_missing(), self.template_file.place()),
            ("generate", self.generate.is_missing(), self.generate.place()),
        ];
        keys.into_iter().filter(|(_, missing, _)| !missing).map(|(key, _, place)| (key, place)).collect()
    }
}

impl Checker<'_, '_> {
    /// Checks these keys of the secret `name`, whose own key is at `key`. Their absence with `absent: true` is checked
    /// elsewhere.
    pub(super) fn value_spec(&self, keys: ValueKeys, key: Mark, name: &str) -> Option<ValueSpec> {
        match keys.absent {
            Field::Good(_, true) => {
                // The key is one too many, but its own problems are reported too.
                keys.from.good().and_then(|(id, from)| self.reference(id, from));
                return Some(ValueSpec::Absent);
            }
            // Reported, and possibly intended as true.
            Field::Bad => return None,
            Field::Good(_, false) | Field::Missing => {}
        }
        match keys.present().as_slice() {
            [] => {
                let hint = "say where the value comes from, such as `from: SOURCE:ITEM`, or what is made of values, \
                with \
                            `template`, or `generate: KIND` to have a key made; or `absent: true` to have the file \
                            removed";
                self.push(key, format!("secret {} has no `from`", quoted(name)), Some(hint.to_owned()));
                return None;
            }
            [_] => {}
            [(first, _), others @ ..] => {
                for (other, place) in others {
                    let hint = format!("a secret has one of them: remove `{first}` or `{other}`");
                    let mark = place.map_or(key, |id| self.mark(id));
                    self.push(mark, format!("`{first}` and `{other}` do not go together"), Some(hint));
                }
                return None;
            }
        }
        if let Some((id, from)) = keys.from.good() {
            return self.reference(id, from).map(ValueSpec::From);
        }
        if let Some((id, generate)) = keys.generate.good() {
            return self.generate(id, generate).map(ValueSpec::Generate);
        }
        if let Some((id, text)) = keys.template.good() {
            return self.template(id, &text).map(ValueSpec::Template);
        }
        let (id, file) = keys.template_file.good()?;
        self.template_file(id, &file).map(ValueSpec::Template)
    }

    /// Reports keys that have no meaning together.
    pub(super) fn combinations(&self, raw: &RawSecret) {
        let template = match (&raw.template, &raw.template_file) {
            (Field::Missing, Field::Missing) => None,
            (Field::Missing, _) => Some("template_file"),
            _ => Some("template"),
        };
        if let Some(template) = template {
            for (other, place, hint) in [
                ("hash", raw.hash.place(), "a hash is made of one value: write `from`"),
                ("newline", raw.newline.place(), "write the last newline into the template"),
                ("encoding", raw.encoding.place(), "it says how one value is written: write `from`"),
            ] {
                if let Some(id) = place {
                    self.push(
                        self.mark(id),
                        format!("`{other}` and `{template}` do not go together"),
                        Some(hint.to_owned()),
                    );
                }
            }
        }
        if let (Field::Good(id, format), false) = (&raw.format, raw.hash.is_missing()) {
            let hint = "remove `format`: a hash is written as one line already";
            self.push(
                self.mark(*id),
                format!("`format: {}` and `hash` do not go together", format.name()),
                Some(hint.to_owned()),
            );
        }
        if let (Field::Good(id, Newline::Always | Newline::Ensure), false) = (&raw.newline, raw.hash.is_missing()) {
            let hint = "remove `newline`: a hash is written as one line already";
            self.push(self.mark(*id), "`newline` and `hash` do not go together", Some(hint.to_owned()));
        }
    }

    /// Checks `expect`.
    pub(super) fn expect(&self, raw: Field<RawExpect>) -> Option<Expect> {
        let (id, raw) = match raw {
            Field::Missing => return Some(Expect::default()),
            Field::Bad => return None,
            Field::Good(id, raw) => (id, raw),
        };
        let RawConditions { regex, min_length, kind } = match raw {
            RawExpect::Kind(kind) => return Some(Expect { kind: Some(kind), ..Expect::default() }),
            RawExpect::All(conditions) => conditions,
        };
        if regex.is_missing() && min_length.is_missing() && kind.is_missing() {
            let hint = "say what the value must be, with `regex`, `min_length` or `kind`";
            self.push(self.mark(id), "`expect` is empty", Some(hint.to_owned()));
            return None;
        }
        let regex = match regex {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, pattern) => {
                const HINT: &str =
                    "it is matched against the whole value; the syntax: https://docs.rs/regex/latest/regex/#syntax";
                self.accept(id, Pattern::new(&pattern).map(Some).map_err(|reason| refusal(reason, HINT)))
            }
        };
        let min_length = match min_length {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, least) => {
                let checked = usize::try_from(least).ok().filter(|least| (1..=MAX_VALUE).contains(least)).map(Some);
                self.accept(
                    id,
                    checked.ok_or_else(|| {
                        refusal("`min_length` is a number from 1 to 16777216", "0 asks for nothing: remove it")
                    }),
                )
            }
        };
        let kind = match kind {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(_, kind) => Some(Some(kind)),
        };
        Some(Expect { regex: regex?, min_length: min_length?, kind: kind? })
    }
}
