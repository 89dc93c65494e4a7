//! `rbw`, an unofficial client of Bitwarden with an agent. `rbw list` lists names; then one `rbw get --raw` runs per
//! wanted item, in parallel. The JSON is that of `rbw get --raw` 1.13: id, folder, name, data, fields, notes.

use std::collections::{BTreeSet, HashMap};

use deaddrop_core::secret::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Tool, side_by_side};
use crate::input::child::ChildError;
use crate::input::context::Context;
use crate::items::item::{Answer, Entry, Field, Sink, SinkLimit, Value, select};
use crate::items::reader::{Listing, find_ids};
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
#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    data: Option<Data>,
    fields: Vec<CustomField>,
    notes: Option<Zeroizing<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    username: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
    totp: Option<Zeroizing<String>>,
    uris: Option<Vec<Uri>>,
    private_key: Option<Zeroizing<String>>,
    public_key: Option<Zeroizing<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Uri {
    uri: Option<Zeroizing<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CustomField {
    name: Option<String>,
    value: Option<Zeroizing<String>>,
}

impl Item {
    fn fields(&self) -> Vec<Field> {
        let data = self.data.as_ref();
        let uri = data.and_then(|data| data.uris.as_ref()?.first()?.uri.as_ref());
        let built_in = [
            ("password", data.and_then(|data| data.password.as_ref())),
            ("username", data.and_then(|data| data.username.as_ref())),
            ("totp", data.and_then(|data| data.totp.as_ref())),
            ("uri", uri),
            ("notes", self.notes.as_ref()),
            ("private_key", data.and_then(|data| data.private_key.as_ref())),
            ("public_key", data.and_then(|data| data.public_key.as_ref())),
        ];
        let built_in = built_in.into_iter().filter_map(|(name, text)| Some(Field::built_in(name, text?)));
        let custom = self.fields.iter().filter_map(|field| {
            let text = field.value.as_ref().map_or("", |text| text.as_str());
            Some(Field::custom(field.name.as_deref()?, Value::text(text)))
        });
        built_in.chain(custom).collect()
    }
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
            Answer::Value(secret) => Ok(secret),
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
