//! `onepassword`: the export of 1Password 8, `.1pux`: a ZIP file of `export.data` (JSON) and `files/ID__NAME`.
//!
//! Format: 1Password's "1Password Unencrypted Export (1PUX) format" (support.1password.com/1pux-format), and the types
//! in bitwarden/clients, `libs/importer/src/importers/onepassword/types/`. `shape` has the types of an item, `field`
//! lists its fields.

mod field;
mod shape;

use std::cell::Cell;
use std::collections::HashMap;

use deaddrop_core::secret::Secret;
use serde::de::{IgnoredAny, MapAccess};

use crate::input::Input;
use crate::input::archive::{self, Archive};
use crate::input::context::Context;
use crate::input::meter::{Meter, Metered};
use crate::items::item::Sink;
use crate::items::json::{Feed, JsonError, Keyed, Object, Objects, parse};
use crate::items::reader::Vault;
use crate::kinds::Kind;
use crate::spec::FileSpec;
use crate::{OpenError, Source};
use field::PlacedItem;
use shape::{Attributes, Item};

const SHAPE: &str = "this is JSON, but a 1Password export has something else here";

const HINT: &str = "in 1Password: File, Export, and the account; file format 1PUX; see docs/sources.md#onepassword";

/// A source of kind `onepassword`.
pub(crate) struct OnePassword<'m> {
    input: Input<'m>,
    /// The ZIP file, once it is open.
    archive: Option<Archive>,
}

impl<'m> OnePassword<'m> {
    pub(crate) fn new(input: Input<'m>) -> Self {
        Self { input, archive: None }
    }
}

impl Kind for OnePassword<'_> {
    type Spec = FileSpec;

    fn open<'m>(spec: &'m FileSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(OnePassword::new(Input::new(name, spec, context)))
    }
}

impl Vault for OnePassword<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let input = &self.input;
        let refused = |what: String| input.refused(what, HINT);
        let mut file = input.opened()?;
        let head = file.peek(archive::MAGIC.len()).map_err(|error| JsonError::Io(error).refused(input, HINT))?;
        if *head != archive::MAGIC {
            return Err(refused("this is not a ZIP file, and a 1Password export (.1pux) is one".to_owned()));
        }
        let file = file.seekable().map_err(|problem| input.failed(problem))?;
        let mut archive = Archive::open(file).map_err(refused)?;
        let (mut data, mut files) = (None, HashMap::new());
        for (index, name) in archive.names() {
            if name == "export.data" {
                data = Some(index);
            } else if let Some(file) = name.strip_prefix("files/") {
                let id = file.split_once("__").map_or(file, |(id, _)| id);
                files.insert(id.to_owned(), index);
            }
        }
        let Some(data) = data else {
            return Err(refused("this ZIP file is not a 1Password export: it has no `export.data`".to_owned()));
        };
        let entry = archive.entry(data).map_err(refused)?;
        input.holds_clear_text();
        read(entry, &files, sink).map_err(|failure| match failure {
            Some(failure) => failure.refused(input, HINT),
            None => refused("this is JSON, but not a 1Password export: it has no `accounts`".to_owned()),
        })?;
        self.archive = Some(archive);
        Ok(())
    }

    fn attachment(&mut self, place: &str) -> Result<Secret, String> {
        Archive::attachment_at(self.archive.as_mut(), place)
    }
}

/// Passes every vault and item to `sink`. `files`: indexes in the archive by document id.
///
/// # Errors
/// The reason why parsing stopped; `None` if there are no accounts.
fn read(
    file: impl std::io::Read,
    files: &HashMap<String, usize>,
    sink: &mut dyn Sink,
) -> Result<(), Option<JsonError>> {
    let meter = Meter::default();
    let metered = Metered::new(file, &meter).map_err(|error| Some(JsonError::Io(error)))?;
    let feed = Feed::new(&meter, sink);
    let mut export = Export { feed: &feed, files, vaults: &Cell::new(0), seen: false };
    parse(metered, SHAPE, Keyed(&mut export)).map_err(Some)?;
    if export.seen { Ok(()) } else { Err(None) }
}

/// Parses the top level.
struct Export<'r> {
    feed: &'r Feed<'r>,
    files: &'r HashMap<String, usize>,
    /// Number of vaults so far. It serves as the vault's id, because its name may come after its items.
    vaults: &'r Cell<usize>,
    seen: bool,
}

impl Object for Export<'_> {
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        if key != "accounts" {
            return map.next_value::<IgnoredAny>().map(drop);
        }
        self.seen = true;
        let &mut Self { feed, files, vaults, .. } = self;
        map.next_value_seed(Objects::new(feed, || Account { feed, files, vaults }))
    }
}

struct Account<'r> {
    feed: &'r Feed<'r>,
    files: &'r HashMap<String, usize>,
    vaults: &'r Cell<usize>,
}

impl Object for Account<'_> {
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        if key != "vaults" {
            return map.next_value::<IgnoredAny>().map(drop);
        }
        let &mut Self { feed, files, vaults } = self;
        map.next_value_seed(Objects::new(feed, || {
            vaults.set(vaults.get().saturating_add(1));
            OneVault { feed, files, place: vaults.get().to_string() }
        }))
    }
}

struct OneVault<'r> {
    feed: &'r Feed<'r>,
    files: &'r HashMap<String, usize>,
    place: String,
}

impl Object for OneVault<'_> {
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "attrs" => {
                match map.next_value::<Option<Attributes>>()?.as_ref().and_then(|attributes| attributes.name.get()) {
                    Some(name) => self.feed.folder(&self.place, name),
                    None => Ok(()),
                }
            }
            "items" => map.next_value_seed(self.feed.each(|item: Item| {
                let placed = PlacedItem::new(&item, &self.place, self.files);
                match item.left_out() {
                    None => self.feed.item(&placed),
                    Some(place) => self.feed.left_out(&placed, place),
                }
            })),
            _ => map.next_value::<IgnoredAny>().map(drop),
        }
    }
}

#[cfg(test)]
mod tests;
