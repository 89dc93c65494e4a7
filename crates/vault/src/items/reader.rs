//! Implements [`Source`] for every password manager's reader: finds the wanted items, or lists all.

use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::secret::Secret;

use super::item::{Answer, Entry, Field, LeftOut, Sink, SinkLimit, Value, names};
use super::search::Search;
use crate::error::{item, shown};
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Maximum number of items that are listed.
const MAX_LISTED: usize = 1_000_000;

/// A reader of a password manager's file or store.
pub(crate) trait Vault {
    /// Passes every folder and item to `sink`; those in the trash and the archive as left out.
    ///
    /// # Errors
    /// The source as a whole cannot be read, or `sink` refuses more.
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError>;

    /// Reads an attachment; `place` is from [`Value::Attachment`]. Called after `read`.
    ///
    /// # Errors
    /// A message without a part of a value.
    fn attachment(&mut self, place: &str) -> Result<Secret, String> {
        Err(format!("{} cannot be read", shown(place)))
    }
}

impl<V: Vault> Source for V {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let mut search = Search::new(wanted);
        self.read(&mut search)?;
        let answers = wanted.iter().zip(search.finish()).map(|(reference, answer)| match answer? {
            Answer::Value(secret) => Ok(secret),
            Answer::Attachment(place) => match self.attachment(&place) {
                Ok(secret) if secret.len() > MAX_VALUE => Err(LookupError::TooLong { item: item(reference) }),
                Ok(secret) => Ok(secret),
                Err(what) => Err(LookupError::Refused { item: item(reference), what, hint: None }),
            },
        });
        Ok(answers.collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let mut listing = Listing::default();
        self.read(&mut listing)?;
        Ok(listing.finish())
    }
}

/// The ids of the wanted items, for a program that lists names first and returns values by id. `feed` passes every item
/// to the sink; their fields are not used.
///
/// # Errors
/// The error of `feed`.
pub(crate) fn find_ids(
    wanted: &[&Reference],
    feed: impl FnOnce(&mut dyn Sink) -> Result<(), OpenError>,
) -> Result<Vec<Result<String, LookupError>>, OpenError> {
    let items: Vec<Reference> =
        wanted.iter().map(|&reference| Reference { field: None, ..reference.clone() }).collect();
    let items: Vec<&Reference> = items.iter().collect();
    let mut search = Search::new(&items);
    feed(&mut IdSink(&mut search))?;
    let id = |answer| match answer {
        Answer::Attachment(id) => id,
        Answer::Value(_) => String::new(),
    };
    Ok(search.finish().into_iter().map(|answer| answer.map(id)).collect())
}

/// Passes items on with the id in place of the password.
struct IdSink<'s>(&'s mut dyn Sink);

struct IdEntry<'e>(&'e dyn Entry);

impl Sink for IdSink<'_> {
    fn folder(&mut self, id: &str, name: &str) -> Result<(), SinkLimit> {
        self.0.folder(id, name)
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), SinkLimit> {
        self.0.item(&IdEntry(item))
    }

    fn left_out(&mut self, item: &dyn Entry, place: LeftOut) -> Result<(), SinkLimit> {
        self.0.left_out(item, place)
    }
}

impl Entry for IdEntry<'_> {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn places(&self) -> Vec<&str> {
        self.0.places()
    }

    fn changed(&self) -> Option<&str> {
        self.0.changed()
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::built_in_value("password", Value::Attachment(self.id().to_owned()))]
    }
}

/// Collects names, and no values.
#[derive(Default)]
pub(crate) struct Listing {
    folders: std::collections::HashMap<String, String>,
    items: Vec<(Vec<String>, Listed)>,
}

impl Listing {
    /// The items, sorted by folder, name and id.
    pub(crate) fn finish(self) -> Vec<Listed> {
        let folders = self.folders;
        let mut items: Vec<Listed> = self
            .items
            .into_iter()
            .map(|(places, listed)| {
                let folder = places.iter().filter_map(|place| folders.get(place)).map(|name| shown(name)).collect();
                Listed { folders: folder, ..listed }
            })
            .collect();
        items.sort_by(|a, b| (&a.folders, &a.name, &a.id).cmp(&(&b.folders, &b.name, &b.id)));
        items
    }
}

impl Sink for Listing {
    fn folder(&mut self, id: &str, name: &str) -> Result<(), SinkLimit> {
        if self.folders.len() >= MAX_LISTED {
            return Err(SinkLimit::Kept);
        }
        self.folders.insert(id.to_owned(), name.to_owned());
        Ok(())
    }

    fn alias(&mut self, _: &str, _: &str) -> Result<(), SinkLimit> {
        Ok(())
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), SinkLimit> {
        if self.items.len() >= MAX_LISTED {
            return Err(SinkLimit::Kept);
        }
        let fields = names(&item.fields());
        let listed = Listed { folders: Vec::new(), name: shown(item.name()), id: shown(item.id()), fields };
        self.items.push((item.places().into_iter().map(str::to_owned).collect(), listed));
        Ok(())
    }
}
