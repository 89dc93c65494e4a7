//! What a secret's file holds: exactly one of the keys that say so.

use super::check::Checker;
use super::field::Field;
use super::generate::RawGenerate;
use super::model::ValueSpec;
use super::problem::{Mark, quoted};
use super::schema::RawReference;

/// The keys of a secret of which exactly one stands.
pub(super) struct ValueKeys {
    pub from: Field<RawReference>,
    pub generate: Field<RawGenerate>,
    pub absent: Field<bool>,
}

impl Checker<'_, '_> {
    /// Checks these keys of the secret `name`, whose own key stands at `key`. That none stands with `absent: true` is checked
    /// elsewhere.
    pub(super) fn value_spec(&self, keys: ValueKeys, key: Mark, name: &str) -> Option<ValueSpec> {
        match keys.absent {
            Field::Good(_, true) => {
                // It is one too many, and what is wrong with it is told all the same.
                keys.from.good().and_then(|(id, from)| self.reference(id, from));
                return Some(ValueSpec::Absent);
            }
            // Reported, and may have been meant to be true.
            Field::Bad => return None,
            Field::Good(_, false) | Field::Missing => {}
        }
        match keys.generate {
            Field::Good(id, generate) => return self.generate(id, generate).map(ValueSpec::Generate),
            Field::Bad => return None,
            Field::Missing => {}
        }
        if keys.from.is_missing() {
            let hint = "say where the value comes from, such as `from: SOURCE:ITEM`, or `generate: KIND` to have a key made; or \
                        `absent: true` to have the file removed";
            self.push(key, format!("secret {} has no `from`", quoted(name)), Some(hint.to_owned()));
        }
        let (id, from) = keys.from.good()?;
        self.reference(id, from).map(ValueSpec::From)
    }
}
