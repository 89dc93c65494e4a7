//! `rbw`, an unofficial client of Bitwarden with an agent. `rbw list` lists names; then one `rbw get --raw` runs per
//! wanted item, in parallel. The JSON is that of `rbw get --raw` 1.13: id, folder, name, data, fields, notes.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use deaddrop_core::secret::Secret;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::{REPLACED, Tool, side_by_side};
use crate::input::child::ChildError;
use crate::input::context::Context;
use crate::items::item::{Answer, Entry, Field, Sink, SinkLimit, Value, select};
use crate::items::json::Text;
use crate::items::reader::{Listing, find_ids};
use crate::items::replaced;
use crate::kinds::Kind;
use crate::spec::ProgramSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Hint for a failed call.
pub(super) const HINT: &str = "is it unlocked? `rbw unlock`; after a change elsewhere: `rbw sync`";

/// A source of kind `rbw`.
pub(crate) struct Rbw<'m> {
    tool: Tool<'m>,
}

/// An item as `rbw list` prints it.
struct Line {
    id: String,
    name: String,
    folder: String,
}

impl Entry for Line {
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn places(&self) -> Vec<&str> {
        if self.folder.is_empty() { Vec::new() } else { vec![&self.folder] }
    }
    fn changed(&self) -> Option<&str> {
        None
    }
    fn fields(&self) -> Vec<Field> {
        Vec::new()
    }
}

/// The output of `rbw get --raw`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Item {
    data: Option<Data>,
    fields: Vec<CustomField>,
    notes: Option<Zeroizing<String>>,
}

/// The object of a login, an SSH key, a card or an identity.
#[derive(Default)]
struct Data {
    /// Its texts by rbw's names: Bitwarden's, but in snake case.
    texts: Vec<(String, Zeroizing<String>)>,
    uris: Vec<Uri>,
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DataVisitor;

        impl<'de> Visitor<'de> for DataVisitor {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
                let mut data = Data::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "uris" {
                        data.uris = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else if let Text::Is(text) = map.next_value()? {
                        data.texts.push((key, text));
                    }
                }
                Ok(data)
            }
        }

        deserializer.deserialize_map(DataVisitor)
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Uri {
    uri: Option<Zeroizing<String>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct CustomField {
    name: Option<String>,
    value: Option<Zeroizing<String>>,
}

impl Item {
    fn fields(&self) -> Vec<Field> {
        let texts = self.data.iter().flat_map(|data| &data.texts);
        let built_in = texts.map(|(name, text)| match name.as_str() {
            "private_key" | "public_key" => Field::built_in(name, text),
            name => Field::built_in(&camel_case(name), text),
        });
        let uri = self.data.iter().flat_map(|data| &data.uris).next().and_then(|uri| uri.uri.as_ref());
        let others = [("uri", uri), ("notes", self.notes.as_ref())];
        let others = others.into_iter().filter_map(|(name, text)| Some(Field::built_in(name, text?)));
        let built_in = built_in.chain(others);
        let custom = self.fields.iter().filter_map(|field| {
            let text = field.value.as_ref().map_or("", |text| text.as_str());
            Some(Field::custom(field.name.as_deref()?, Value::text(text)))
        });
        built_in.chain(custom).collect()
    }
}

/// `cardholder_name` as `cardholderName`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at_checked(1).unwrap_or((word, ""));
        name + &head.to_ascii_uppercase() + tail
    })
}

impl<'m> Rbw<'m> {
    pub(super) fn new(tool: Tool<'m>) -> Self {
        Self { tool }
    }

    /// The value of a reference, from the output of `rbw get --raw` for its item.
    fn value(
        &self,
        reference: &Reference,
        output: Option<&Result<Zeroizing<Vec<u8>>, ChildError>>,
    ) -> Result<Secret, LookupError> {
        let refused = |what: String| self.tool.refused(reference, what);
        let output = match output {
            Some(Ok(output)) => output,
            Some(Err(error)) => return Err(refused(format!("rbw {error}"))),
            None => return Err(refused("rbw gave no answer".to_owned())),
        };
        let found: Item =
            serde_json::from_slice(output).map_err(|_| refused("what rbw printed is not its JSON".to_owned()))?;
        match select(found.fields(), reference)? {
            Answer::Value(secret) => replaced::check(reference, secret, REPLACED),
            Answer::Attachment(_) => Err(refused("rbw has no attachments".to_owned())),
        }
    }

    fn lines(&self) -> Result<Vec<Line>, OpenError> {
        let output = self.tool.run(&["list", "--fields", "id,name,folder"], &[]);
        let output = output.map_err(|error| self.tool.failed(error))?;
        let text = std::str::from_utf8(&output).map_err(|_| self.tool.unexpected("what it printed is not UTF-8"))?;
        let line = |line: &str| {
            let (id, rest) = line.split_once('\t')?;
            // A name may contain a tab; the folder is the last part.
            let (name, folder) = rest.rsplit_once('\t')?;
            Some(Line { id: id.to_owned(), name: name.to_owned(), folder: folder.to_owned() })
        };
        text.lines()
            .map(line)
            .collect::<Option<_>>()
            .ok_or_else(|| self.tool.unexpected("a line of its list has no tabs"))
    }

    fn feed(&self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let lines = self.lines()?;
        let fed = lines.iter().try_for_each(|line| {
            if !line.folder.is_empty() {
                sink.folder(&line.folder, &line.folder)?;
            }
            sink.item(line)
        });
        fed.map_err(|limit: SinkLimit| self.tool.unexpected(limit.to_string()))
    }
}

impl Kind for Rbw<'_> {
    type Spec = ProgramSpec;

    fn open<'m>(spec: &'m ProgramSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Rbw::new(Tool::new("rbw", HINT, spec, context)))
    }
}

impl Source for Rbw<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let ids = find_ids(wanted, |sink| self.feed(sink))?;
        let unique: Vec<String> = ids.iter().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let outputs = side_by_side(&unique, |id| self.tool.run(&["get", "--raw", id], &[]));
        let items: HashMap<String, Result<Zeroizing<Vec<u8>>, ChildError>> = unique.into_iter().zip(outputs).collect();
        Ok(wanted.iter().zip(ids).map(|(reference, id)| self.value(reference, items.get(id?.as_str()))).collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let mut listing = Listing::default();
        self.feed(&mut listing)?;
        Ok(listing.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_and_identities_have_bitwardens_names() {
        let text = r#"{"id": "1", "name": "x", "notes": null, "fields": [], "data": {"cardholder_name": "A B",
            "number": "4111", "brand": null, "exp_month": "1", "code": "123", "address1": "Street 1"}}"#;
        let item: Item = serde_json::from_str(text).unwrap();
        let fields: Vec<String> = item.fields().into_iter().map(|field| field.name).collect();
        assert_eq!(fields, ["cardholderName", "number", "expMonth", "code", "address1"]);
        let text = r#"{"data": {"username": "u", "password": "p", "totp": null, "uris": null}, "notes": "n"}"#;
        let item: Item = serde_json::from_str(text).unwrap();
        let fields: Vec<String> = item.fields().into_iter().map(|field| field.name).collect();
        assert_eq!(fields, ["username", "password", "notes"]);
    }
}
