//! Finds the wanted items in a stream of folders and items in any order, keeping only those.
//!
//! A reference names an item by its id, its exact name, or folder/name; a folder's name may contain `/`. An item that
//! matches in two ways counts once; two matching items are an error.

use std::borrow::Cow;
use std::collections::HashMap;

use deaddrop_core::near::items::near;

use super::item::{self, Answer, Entry, LeftOut, Sink, SinkLimit};
use crate::error::{Match, shown};
use crate::{LookupError, Reference};

/// Maximum memory kept for an export, in bytes: wanted values, folder names, and [`ENTRY`] for each.
const MAX_KEPT: usize = 128 << 20;

/// Estimated overhead of one table entry, in bytes.
const ENTRY: usize = 128;

/// Maximum number of certain matches kept per reference. Two are already an error; the rest is for its list.
const MAX_MATCHES: usize = 10;

/// Maximum number of items kept per reference whose folder is not known yet.
const MAX_PENDING: usize = 1000;

/// Maximum number of comparisons, after which an export is refused as hostile.
const MAX_COMPARED: usize = 100_000_000;

/// Maximum number of item names kept to find similar ones.
const KEPT_NAMES: usize = 10_000;

/// Maximum length of such a name, in bytes.
const LONGEST_NAME: usize = 256;

/// Maximum number of missing items with similar names: the comparison is expensive.
const WITH_NEAR: usize = 20;

/// A search in progress.
pub(crate) struct Search<'w> {
    wanted: &'w [&'w Reference],
    /// References by their whole item, which may be an id.
    by_id: HashMap<Cow<'w, str>, Vec<usize>>,
    /// References by the part after the last `/` of their item. An item matches only if its name ends in the same part.
    by_last_part: HashMap<&'w str, Vec<usize>>,
    /// Folder and collection names by id.
    folders: HashMap<String, String>,
    /// The matches of each reference.
    found: Vec<Matches>,
    /// Names of some items, and the ids of their folders.
    names: Vec<(String, Vec<String>)>,
    kept: usize,
    compared: usize,
}

/// The matches of one reference.
#[derive(Default)]
struct Matches {
    candidates: Vec<Candidate>,
    /// Number of further certain matches.
    more: usize,
    /// Where items are that would match, but from which no value is taken.
    left_out: Vec<(LeftOut, Option<InFolder>)>,
}

/// The folder that an item must be in, and the ids of its folders, whose names may come later.
type InFolder = (String, Vec<String>);

/// An item that matches, or might.
struct Candidate {
    id: String,
    name: String,
    /// Ids of the item's folders and collections.
    places: Vec<String>,
    changed: Option<String>,
    /// False if the match depends on a folder whose name is not known yet.
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
        let found = wanted.iter().map(|_| Matches::default()).collect();
        Self { wanted, by_id, by_last_part, folders: HashMap::new(), found, names: Vec::new(), kept: 0, compared: 0 }
    }

    /// Records `item` as a match of reference `index`.
    fn candidate(&mut self, index: usize, item: &dyn Entry, certain: bool) -> Result<(), SinkLimit> {
        let found = &mut self.found[index];
        let same = found.candidates.iter().filter(|candidate| candidate.certain == certain).count();
        if certain && same >= MAX_MATCHES {
            found.more = found.more.saturating_add(1);
            return Ok(());
        }
        if !certain && same >= MAX_PENDING {
            return Err(SinkLimit::Candidates);
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

    /// Records an item from which no value is taken as a match of reference `index`, in this folder if one is named.
    fn add_left_out(&mut self, index: usize, place: LeftOut, in_folder: Option<InFolder>) -> Result<(), SinkLimit> {
        if self.found[index].left_out.len() < MAX_MATCHES {
            self.keep(in_folder.as_ref().map_or(0, |(folder, places)| folder.len().saturating_add(cost(places))))?;
            self.found[index].left_out.push((place, in_folder));
        }
        Ok(())
    }

    /// The references that name the id of `item`, and those that end in the last part of its name; both sorted, because
    /// they are built in the order of `wanted`.
    fn named(&mut self, item: &dyn Entry) -> Result<(Vec<usize>, Vec<usize>), SinkLimit> {
        // The clones end the borrow of the tables; the lists nearly always have one entry.
        let by_id = Some(item.id()).filter(|id| !id.is_empty()).and_then(|id| self.by_id.get(id));
        let by_id = by_id.cloned().unwrap_or_default();
        let by_name = self.by_last_part.get(last_part(item.name())).cloned().unwrap_or_default();
        self.compared = self.compared.saturating_add(by_id.len()).saturating_add(by_name.len());
        if self.compared > MAX_COMPARED { Err(SinkLimit::Candidates) } else { Ok((by_id, by_name)) }
    }

    /// Adds `bytes` to the memory that is accounted for.
    fn keep(&mut self, bytes: usize) -> Result<(), SinkLimit> {
        self.kept = self.kept.saturating_add(bytes).saturating_add(ENTRY);
        if self.kept > MAX_KEPT { Err(SinkLimit::Kept) } else { Ok(()) }
    }

    /// The results, one per reference. Called after the last item.
    pub(crate) fn finish(mut self) -> Vec<Result<Answer, LookupError>> {
        for (reference, found) in self.wanted.iter().zip(&mut self.found) {
            found.candidates.retain(|candidate| {
                let folder = folder_of(&reference.item, &candidate.name).flatten();
                let in_it = |place: &String| folder.is_some() && self.folders.get(place).map(String::as_str) == folder;
                candidate.certain || candidate.places.iter().any(in_it)
            });
            found.left_out.retain(|(_, in_folder)| {
                let is_in =
                    |(folder, places): &InFolder| places.iter().any(|own| self.folders.get(own) == Some(folder));
                in_folder.as_ref().is_none_or(is_in)
            });
        }
        let mut missing = self.wanted.iter().zip(&self.found).filter(|(_, found)| found.candidates.is_empty());
        let labels = if missing.next().is_some() { self.labels() } else { Vec::new() };
        let mut with_near = 0..WITH_NEAR;
        let answer = |(reference, Matches { mut candidates, more, left_out }): (&&Reference, Matches)| {
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
            if let Some(&(place, _)) = left_out.first() {
                return Err(LookupError::LeftOut { item, place });
            }
            let labels = labels.iter().filter(|_| with_near.start < WITH_NEAR).map(String::as_str);
            let near = near(&reference.item, labels).iter().map(|name| shown(name)).collect();
            with_near.next();
            Err(LookupError::NoItem { item, near, bad_lines: Vec::new() })
        };
        self.wanted.iter().zip(self.found).map(answer).collect()
    }

    /// The texts by which a manifest could name the items: folder/name, and the name alone if it is unique.
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
    fn folder(&mut self, id: &str, name: &str) -> Result<(), SinkLimit> {
        self.keep(id.len().saturating_add(name.len()))?;
        self.folders.insert(id.to_owned(), name.to_owned());
        Ok(())
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), SinkLimit> {
        let name = item.name();
        if self.names.len() < KEPT_NAMES && name.len() <= LONGEST_NAME {
            let places: Vec<String> = item.places().into_iter().map(str::to_owned).collect();
            self.keep(name.len().saturating_add(cost(&places)))?;
            self.names.push((name.to_owned(), places));
        }
        let (by_id, by_name) = self.named(item)?;
        for &index in &by_id {
            self.candidate(index, item, true)?;
        }
        for index in by_name {
            // An item that matches in two ways counts once.
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

    fn left_out(&mut self, item: &dyn Entry, place: LeftOut) -> Result<(), SinkLimit> {
        let (by_id, by_name) = self.named(item)?;
        for index in by_id {
            self.add_left_out(index, place, None)?;
        }
        for index in by_name {
            let Some(folder) = folder_of(&self.wanted[index].item, item.name()) else { continue };
            let places = || item.places().into_iter().map(str::to_owned).collect();
            let in_folder = folder.map(|folder| (folder.to_owned(), places()));
            self.add_left_out(index, place, in_folder)?;
        }
        Ok(())
    }
}

impl Candidate {
    /// The candidate as an error lists it.
    fn describe(&self, folders: &HashMap<String, String>) -> Match {
        let label = match self.places.iter().find_map(|place| folders.get(place)) {
            Some(folder) => shown(&format!("{folder}/{}", self.name)),
            None => shown(&self.name),
        };
        Match { label, id: shown(&self.id), changed: self.changed.clone() }
    }
}

/// Memory of a list of texts, in bytes.
fn cost(texts: &[String]) -> usize {
    texts.iter().fold(0, |sum: usize, text| sum.saturating_add(text.len()).saturating_add(ENTRY))
}

/// The normal form (lower case, with dashes) of a UUID written in another way; `None` for anything else.
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

/// The part after the last `/`.
fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The folder that must contain an item called `name` for it to match `wanted`: `Some(None)` if its name suffices,
/// `None` if the item cannot match.
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
