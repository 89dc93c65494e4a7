//! What is made of a password manager's reader: a [`Source`] that finds the wanted items, or lists what there is.

use super::error::{item, shown};
use super::item::{Answer, Entry, Limit, Sink};
use super::search::Search;
use super::{Listed, LookupError, MAX_VALUE, OpenError, Source};
use crate::manifest::Reference;
use crate::secret::Secret;

/// The most items that are listed.
const MAX_LISTED: usize = 1_000_000;

/// A reader of a password manager's file or store. One `impl` a file.
pub(super) trait Vault {
    /// Hands every folder and item to `sink`; those in the trash and the archive are left out.
    ///
    /// # Errors
    /// What is wrong with the source as a whole.
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError>;

    /// Reads an attachment that a field named as its value: `place` is what the reader put there. Called after `read`.
    ///
    /// # Errors
    /// What is wrong with it, in words without a value.
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

/// Keeps names, and no value.
#[derive(Default)]
struct Listing {
    folders: std::collections::HashMap<String, String>,
    items: Vec<(Vec<String>, Listed)>,
}

impl Listing {
    fn finish(self) -> Vec<Listed> {
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
    fn folder(&mut self, id: &str, name: &str) -> Result<(), Limit> {
        if self.folders.len() >= MAX_LISTED {
            return Err(Limit::Kept);
        }
        self.folders.insert(id.to_owned(), name.to_owned());
        Ok(())
    }

    fn alias(&mut self, _: &str, _: &str) -> Result<(), Limit> {
        Ok(())
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), Limit> {
        if self.items.len() >= MAX_LISTED {
            return Err(Limit::Kept);
        }
        let fields = item.fields().iter().map(|field| shown(&field.name)).collect();
        let listed = Listed { folders: Vec::new(), name: shown(item.name()), id: shown(item.id()), fields };
        self.items.push((item.places().into_iter().map(str::to_owned).collect(), listed));
        Ok(())
    }
}
