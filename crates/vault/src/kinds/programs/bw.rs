//! `bw`, Bitwarden's own program. `bw list items` gives all items with their values, in the shape of an export; folders and
//! collections are asked for only where a reference names one. `bw get attachment` for each attachment that is wanted.

use std::collections::HashMap;
use std::io::Cursor;

use deaddrop_core::secret::Secret;
use serde::Deserialize;

use super::{Tool, side_by_side};
use crate::input::context::Context;
use crate::items::item::{Entry, Limit, Sink};
use crate::items::reader::Listing;
use crate::items::search::Search;
use crate::keys::{Declared, ProgramKeys};
use crate::kinds::{Kind, bitwarden};
use crate::spec::ProgramSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// What to do when it fails.
pub(super) const HINT: &str =
    "is it unlocked? `export BW_SESSION=$(bw unlock --raw)`; after a change elsewhere: `bw sync`";

/// The program.
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

/// Hands items on, and notes whether one is in a collection or folder that is not known.
struct Watch<'s> {
    sink: &'s mut dyn Sink,
    folders: HashMap<String, String>,
    has_others: bool,
}

impl Sink for Watch<'_> {
    fn folder(&mut self, id: &str, name: &str) -> Result<(), Limit> {
        self.sink.folder(id, name)
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), Limit> {
        self.has_others |= item.places().iter().any(|place| !self.folders.contains_key(*place));
        self.sink.item(item)
    }
}

impl<'m> Bw<'m> {
    pub(super) fn new(tool: Tool<'m>) -> Self {
        Self { tool }
    }

    /// Feeds everything to `sink`; `with_folders` says whether the names of folders matter.
    fn feed(&self, sink: &mut dyn Sink, with_folders: bool) -> Result<(), OpenError> {
        let calls: &[&[&str]] =
            if with_folders { &[&["list", "items"], &["list", "folders"]] } else { &[&["list", "items"]] };
        let mut outputs = side_by_side(calls, |call| self.tool.run(call, &[])).into_iter();
        let mut next = || match outputs.next() {
            Some(output) => output.map_err(|error| self.tool.failed(error)),
            None => Err(self.tool.odd("it gave no answer")),
        };
        let items = next()?;
        let folders = if with_folders { self.folders(&next()?)? } else { HashMap::new() };
        let limit = |limit: Limit| self.tool.odd(limit.to_string());
        folders.iter().try_for_each(|(id, name)| sink.folder(id, name)).map_err(limit)?;
        let mut watch = Watch { sink: &mut *sink, folders, has_others: false };
        bitwarden::read_items(Cursor::new(items), &mut watch).map_err(|what| self.tool.odd(what))?;
        if with_folders && watch.has_others {
            let output = self.tool.run(&["list", "collections"], &[]).map_err(|error| self.tool.failed(error))?;
            self.folders(&output)?.iter().try_for_each(|(id, name)| sink.folder(id, name)).map_err(limit)?;
        }
        Ok(())
    }

    fn folders(&self, output: &[u8]) -> Result<HashMap<String, String>, OpenError> {
        let folders: Vec<Folder> =
            serde_json::from_slice(output).map_err(|_| self.tool.odd("its list of folders is not its JSON"))?;
        Ok(folders.into_iter().filter_map(|folder| folder.id.zip(folder.name)).collect())
    }
}

impl Kind for Bw<'_> {
    type Keys = ProgramKeys;
    type Spec = ProgramSpec;

    fn check(declared: &Declared<'_>, keys: ProgramKeys) -> Option<ProgramSpec> {
        declared.program(keys)
    }

    fn open<'m>(spec: &'m ProgramSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Bw::new(Tool {
            // Without it bw would ask for the master password on standard input, where there is none.
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
