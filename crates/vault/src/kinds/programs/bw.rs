//! `bw`, Bitwarden's own program. `bw list items` prints all items with their values, in the form of an export. Folders
//! and collections are listed only if a reference names one. `bw get attachment` runs once per wanted attachment.

use std::collections::HashMap;
use std::io::Cursor;

use deaddrop_core::secret::Secret;
use serde::Deserialize;

use super::{Tool, side_by_side};
use crate::input::context::Context;
use crate::items::item::{Entry, LeftOut, Sink, SinkLimit};
use crate::items::reader::Listing;
use crate::items::search::Search;
use crate::kinds::{Kind, bitwarden};
use crate::spec::ProgramSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Hint for a failed call.
pub(super) const HINT: &str =
    "is it unlocked? `export BW_SESSION=$(bw unlock --raw)`; after a change elsewhere: `bw sync`";

/// A source of kind `bw`.
pub(crate) struct Bw<'m> {
    tool: Tool<'m>,
}

/// A folder or collection, as `bw list` prints it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Folder {
    /// `null` for "No Folder".
    id: Option<String>,
    name: Option<String>,
}

/// Passes items on, and records whether one is in an unknown collection or folder.
struct Watch<'s> {
    sink: &'s mut dyn Sink,
    folders: HashMap<String, String>,
    has_others: bool,
}

impl Sink for Watch<'_> {
    fn folder(&mut self, id: &str, name: &str) -> Result<(), SinkLimit> {
        self.sink.folder(id, name)
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), SinkLimit> {
        self.has_others |= item.places().iter().any(|place| !self.folders.contains_key(*place));
        self.sink.item(item)
    }

    fn left_out(&mut self, item: &dyn Entry, place: LeftOut) -> Result<(), SinkLimit> {
        self.sink.left_out(item, place)
    }
}

impl<'m> Bw<'m> {
    pub(super) fn new(tool: Tool<'m>) -> Self {
        Self { tool }
    }

    /// Passes everything to `sink`. `with_folders`: the names of folders are needed.
    fn feed(&self, sink: &mut dyn Sink, with_folders: bool) -> Result<(), OpenError> {
        let calls: &[&[&str]] =
            if with_folders { &[&["list", "items"], &["list", "folders"]] } else { &[&["list", "items"]] };
        let mut outputs = side_by_side(calls, |call| self.tool.run(call, &[])).into_iter();
        let mut next = || match outputs.next() {
            Some(output) => output.map_err(|error| self.tool.failed(error)),
            None => Err(self.tool.unexpected("it gave no answer")),
        };
        let items = next()?;
        let folders = if with_folders { self.folders(&next()?)? } else { HashMap::new() };
        let limit = |limit: SinkLimit| self.tool.unexpected(limit.to_string());
        folders.iter().try_for_each(|(id, name)| sink.folder(id, name)).map_err(limit)?;
        let mut watch = Watch { sink: &mut *sink, folders, has_others: false };
        bitwarden::read_items(Cursor::new(items), &mut watch).map_err(|what| self.tool.unexpected(what))?;
        if with_folders && watch.has_others {
            let output = self.tool.run(&["list", "collections"], &[]).map_err(|error| self.tool.failed(error))?;
            self.folders(&output)?.iter().try_for_each(|(id, name)| sink.folder(id, name)).map_err(limit)?;
        }
        Ok(())
    }

    fn folders(&self, output: &[u8]) -> Result<HashMap<String, String>, OpenError> {
        let folders: Vec<Folder> =
            serde_json::from_slice(output).map_err(|_| self.tool.unexpected("its list of folders is not its JSON"))?;
        Ok(folders.into_iter().filter_map(|folder| folder.id.zip(folder.name)).collect())
    }
}

impl Kind for Bw<'_> {
    type Spec = ProgramSpec;

    fn open<'m>(spec: &'m ProgramSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Bw::new(Tool {
            // Otherwise bw asks for the master password on standard input.
            variables: &[("BW_NOINTERACTION", "true")],
            ..Tool::new("bw", HINT, spec, context)
        }))
    }
}

impl Source for Bw<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let mut search = Search::new(wanted);
        self.feed(&mut search, wanted.iter().any(|reference| reference.item.contains('/')))?;
        Ok(self.tool.values(wanted, search.finish(), |place| {
            let (item, attachment) = place.split_once('/').unwrap_or((place, ""));
            self.tool.run(&["get", "attachment", attachment, "--itemid", item, "--raw"], &[])
        }))
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let mut listing = Listing::default();
        self.feed(&mut listing, true)?;
        Ok(listing.finish())
    }
}
