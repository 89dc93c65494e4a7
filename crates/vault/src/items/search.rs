//! Finds the wanted items in a stream of folders and items that may come in any order, and keeps nothing else.
//!
//! A reference means an item by its id, by its exact name, or by folder/name, where a folder's own name may hold `/`.
//! An item that matches in two ways is one item; two items that match are an error.

use std::borrow::Cow;
use std::collections::HashMap;

use deaddrop_core::near_items::near;

use super::item::{self, Answer, Entry, Limit, Sink};
use crate::error::{Match, shown};
use crate::{LookupError, Reference};

/// What is kept of an export, in bytes: wanted values, names of folders, and what an entry costs besides.
const MAX_KEPT: usize = 128 << 20;

/// What an entry of a table costs besides its text, in bytes; about right is enough.
const ENTRY: usize = 128;

/// How many items that certainly match are kept for one reference. Two are an error already: the rest is for the list.
const MAX_MATCHES: usize = 10;

/// How many items are kept for one reference whose folder is not known yet.
const MAX_PENDING: usize = 1000;

/// How often a reference is compared with an item before the export is given up as hostile.
const MAX_COMPARED: usize = 100_000_000;

/// How many items' names are kept to find near ones in.
const KEPT_NAMES: usize = 10_000;

/// Names longer than this, in bytes, are not kept for that.
const LONGEST_NAME: usize = 256;

/// How many missing items get near names: comparing costs time.
const WITH_NEAR: usize = 20;

/// A search that is going on.
pub(crate) struct Search<'w> {
    wanted: &'w [&'w Reference],
    /// References by their whole item, which may be an id.
    by_id: HashMap<Cow<'w, str>, Vec<usize>>,
    /// References by what stands after the last `/` of their item: an item's name ends like that, or does not match.
    by_last_part: HashMap<&'w str, Vec<usize>>,
    /// Names of folders and collections by id.
    folders: HashMap<String, String>,
    /// What was found for each reference.
    found: Vec<Found>,
    /// Names of some items, and the ids of the places where they are.
    names: Vec<(String, Vec<String>)>,
    kept: usize,
    compared: usize,
}

/// What was found for one reference.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    /// Certain matches that were only counted.
    more: usize,
}

/// An item that matches, or may match.
struct Candidate {
    id: String,
    name: String,
    /// The item's folder and collections.
    places: Vec<String>,
    changed: Option<String>,
    /// False as long as it depends on the name of a folder that has not come yet.
    certain: bool,
    value: Result<Answer, LookupError>,
}

impl<'w> Search<'w> {
    /// A search for `wanted`.
    pub(crate) fn new(wanted: &'w [&'w Reference]) -> Self {
        let mut by_id = HashMap::<Cow<'_, str>, Vec<usize>>::new();
        let mut by_last_part = HashMap::<&str, Vec<usize>>::new();
        for (index, reference) in wanted.iter().enumerate() {
            by_id.entry(Cow::Borrowed(&reference.item)).or_default().push(index);
            if let Some(uuid) = uuid(&reference.item) {
                by_id.entry(Cow::Owned(uuid)).or_default().push(index);
            }
            by_last_part.entry(last_part(&reference.item)).or_default().push(index);
        }
        let found = wanted.iter().map(|_| Found::default()).collect();
        Self { wanted, by_id, by_last_part, folders: HashMap::new(), found, names: Vec::new(), kept: 0, compared: 0 }
    }

    /// Keeps `item` for reference `index`.
    fn candidate(&mut self, index: usize, item: &dyn Entry, certain: bool) -> Result<(), Limit> {
        let found = &mut self.found[index];
        let same = found.candidates.iter().filter(|candidate| candidate.certain == certain).count();
        if certain && same >= MAX_MATCHES {
            found.more = found.more.saturating_add(1);
            return Ok(());
        }
        if !certain && same >= MAX_PENDING {
            return Err(Limit::Candidates);
        }
        let value = item::select(item.fields(), self.wanted[index]);
        let places: Vec<String> = item.places().into_iter().map(str::to_owned).collect();
        let names = item.id().len().saturating_add(item.name().len());
        let value_size = value.as_ref().map_or(ENTRY, Answer::len);
        self.keep(value_size.saturating_add(names).saturating_add(cost(&places)))?;
        self.found[index].candidates.push(Candidate {
            id: item.id().to_owned(),
            name: item.name().to_owned(),
            places,
            changed: item.changed().and_then(day),
            certain,
            value,
        });
        Ok(())
    }

    /// Accounts for something that is kept.
    fn keep(&mut self, bytes: usize) -> Result<(), Limit> {
        self.kept = self.kept.saturating_add(bytes).saturating_add(ENTRY);
        if self.kept > MAX_KEPT { Err(Limit::Kept) } else { Ok(()) }
    }

    /// One answer for each reference, now that everything has been seen.
    pub(crate) fn finish(mut self) -> Vec<Result<Answer, LookupError>> {
        for (reference, found) in self.wanted.iter().zip(&mut self.found) {
            found.candidates.retain(|candidate| {
                let folder = folder_of(&reference.item, &candidate.name).flatten();
                let in_it = |place: &String| folder.is_some() && self.folders.get(place).map(String::as_str) == folder;
                candidate.certain || candidate.places.iter().any(in_it)
            });
        }
        let mut missing = self.wanted.iter().zip(&self.found).filter(|(_, found)| found.candidates.is_empty());
        let labels = if missing.next().is_some() { self.labels() } else { Vec::new() };
        let mut with_near = 0..WITH_NEAR;
        let answer = |(reference, Found { mut candidates, more }): (&&Reference, Found)| {
            let item = shown(&reference.item);
            if candidates.len() > 1 || more > 0 {
                let more = more.saturating_add(candidates.len().saturating_sub(MAX_MATCHES));
                let listed = candidates.iter().take(MAX_MATCHES);
                let found = listed.map(|candidate| candidate.describe(&self.folders)).collect();
                return Err(LookupError::Ambiguous { item, found, more });
            }
            if let Some(candidate) = candidates.pop() {
                return candidate.value;
            }
            let labels = labels.iter().filter(|_| with_near.start < WITH_NEAR).map(String::as_str);
            let near = near(&reference.item, labels).iter().map(|name| shown(name)).collect();
            with_near.next();
            Err(LookupError::NoItem { item, near, bad_lines: Vec::new() })
        };
        self.wanted.iter().zip(self.found).map(answer).collect()
    }

    /// What the items could be called in a manifest: folder/name, and the name where it is the only one.
    fn labels(&self) -> Vec<String> {
        let mut times: HashMap<&str, usize> = HashMap::new();
        for (name, _) in &self.names {
            let times = times.entry(name).or_default();
            *times = times.saturating_add(1);
        }
        let mut labels = Vec::new();
        for (name, places) in &self.names {
            if times.get(name.as_str()) == Some(&1) {
                labels.push(name.clone());
            }
            let folders = places.iter().filter_map(|place| self.folders.get(place));
            let folders = folders.filter(|folder| folder.len() <= LONGEST_NAME);
            labels.extend(folders.map(|folder| format!("{folder}/{name}")));
            if labels.len() > KEPT_NAMES {
                break;
            }
        }
        labels
    }
}

impl Sink for Search<'_> {
    fn folder(&mut self, id: &str, name: &str) -> Result<(), Limit> {
        self.keep(id.len().saturating_add(name.len()))?;
        self.folders.insert(id.to_owned(), name.to_owned());
        Ok(())
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), Limit> {
        let name = item.name();
        if self.names.len() < KEPT_NAMES && name.len() <= LONGEST_NAME {
            let places: Vec<String> = item.places().into_iter().map(str::to_owned).collect();
            self.keep(name.len().saturating_add(cost(&places)))?;
            self.names.push((name.to_owned(), places));
        }
        // Cloning the lists of indexes ends the borrow of the tables; they have one entry nearly always.
        let by_id = Some(item.id()).filter(|id| !id.is_empty()).and_then(|id| self.by_id.get(id));
        let by_id = by_id.cloned().unwrap_or_default();
        let by_name = self.by_last_part.get(last_part(name)).cloned().unwrap_or_default();
        self.compared = self.compared.saturating_add(by_id.len()).saturating_add(by_name.len());
        if self.compared > MAX_COMPARED {
            return Err(Limit::Candidates);
        }
        for &index in &by_id {
            self.candidate(index, item, true)?;
        }
        for index in by_name {
            // The lists are in the order of `wanted`. An item that matches in two ways is one item.
            if by_id.binary_search(&index).is_ok() {
                continue;
            }
            let wanted = &self.wanted[index].item;
            let Some(folder) = folder_of(wanted, name) else { continue };
            let known = |place: &str| self.folders.get(place).map(|known| Some(known.as_str()) == folder);
            let places = item.places();
            if folder.is_none() || places.iter().any(|place| known(place) == Some(true)) {
                self.candidate(index, item, true)?;
            } else if places.iter().any(|place| known(place).is_none()) {
                self.candidate(index, item, false)?;
            }
        }
        Ok(())
    }
}

impl Candidate {
    /// How the candidate is listed in an error.
    fn describe(&self, folders: &HashMap<String, String>) -> Match {
        let label = match self.places.iter().find_map(|place| folders.get(place)) {
            Some(folder) => shown(&format!("{folder}/{}", self.name)),
            None => shown(&self.name),
        };
        Match { label, id: shown(&self.id), changed: self.changed.clone() }
    }
}

/// What keeping a list of texts costs, in bytes.
fn cost(texts: &[String]) -> usize {
    texts.iter().fold(0, |sum: usize, text| sum.saturating_add(text.len()).saturating_add(ENTRY))
}

/// A UUID that is not written as the readers write it, with dashes and in lower case: as they would.
fn uuid(item: &str) -> Option<String> {
    if !matches!(item.len(), 32 | 36) {
        return None;
    }
    let digits: String = item.chars().filter(|c| *c != '-').collect();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let parts: Option<Vec<&str>> = parts.iter().map(|(start, end)| digits.get(*start..*end)).collect();
    let uuid = parts?.join("-").to_ascii_lowercase();
    let right = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let dashes = item.len() == 32 || item.eq_ignore_ascii_case(&uuid);
    (right && dashes && uuid != item).then_some(uuid)
}

/// What stands after the last `/`.
fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The folder that an item called `name` must be in to be `wanted`: `Some(None)` when its name alone is enough, `None`
/// when no folder would do.
fn folder_of<'a>(wanted: &'a str, name: &str) -> Option<Option<&'a str>> {
    let before = wanted.strip_suffix(name)?;
    if before.is_empty() { Some(None) } else { before.strip_suffix('/').map(Some) }
}

/// The day of an RFC 3339 time.
fn day(time: &str) -> Option<String> {
    let day = time.get(..10)?;
    let right = day.bytes().enumerate().all(|(index, byte)| match index {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    right.then(|| day.to_owned())
}
