//! Searches the files of a target that others can read for the values of the manifest.
//!
//! ```text
//! values: what the sources have ──> forms: raw, base64, hex ──> finder
//!         what stands at the paths ─┘                            │
//! place: every exposed file, piece by piece ─────────────────────┴─> findings
//! ```
//!
//! Values stay in memory that is locked and wiped; a finding names the file, the secret and the form.

mod finder;
mod forms;
mod users;
mod values;

use std::collections::{BTreeSet, HashMap};

use deaddrop_core::tree::Stat;
use deaddrop_image::progress::{Progress, Watch, Work};

use self::finder::{Finder, Pattern, Stream};
use self::users::UsersJson;
use self::values::{Collected, Known};
use crate::derive::generate;
use crate::manifest::Manifest;
use crate::place::exposed::shown_path;
use crate::place::{Change, OwnFile, PlaceError, Reader, SystemChoice, Unread};
use crate::run::part::{HostPart, Values};

pub use self::forms::Form;
pub use self::values::parts;

/// Maximum number of findings that are listed.
const MOST_FINDINGS: usize = 10_000;

/// How much is searched between two reports of progress, in bytes.
const REPORT: u64 = 4 << 20;

/// A value in a file that others can read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file; safe for a terminal. A part of it that holds a value is left out.
    pub path: String,
    /// The secret whose value it is.
    pub secret: String,
    /// How the file holds it.
    pub form: Form,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct Scanned {
    /// The findings, by path: the first `MOST_FINDINGS`.
    pub findings: Vec<Finding>,
    /// The number of all findings.
    pub total: usize,
    /// The number of values.
    pub values: usize,
    /// The number of those that were too short to be searched for.
    pub skipped: usize,
    /// The number of files that were searched.
    pub files: u64,
    /// Their data, in bytes.
    pub bytes: u64,
    /// What could not be read.
    pub unread: Unread,
    /// The number of comparisons of a value with a password hash that were not made.
    pub unchecked: usize,
}

/// Searches a place for the values of these parts.
///
/// # Errors
/// If the place cannot be read at all.
pub fn scan(
    manifest: &Manifest,
    parts: &[HostPart<'_>],
    sources: &Values,
    place: &mut dyn Change,
    choice: &SystemChoice,
    watch: Watch<'_>,
) -> Result<Scanned, PlaceError> {
    let mut collected = Collected::new(manifest);
    collected.add_of_sources(parts, sources);
    let meant: BTreeSet<&str> = parts.iter().flat_map(|part| &part.secrets).map(|spec| spec.name.as_str()).collect();
    let specs: Vec<_> = manifest.secrets.iter().enumerate().collect();
    let paths: Vec<_> = specs
        .iter()
        .map(|(_, spec)| (spec.path.as_str(), meant.contains(spec.name.as_str()) && values::is_of_target(spec)))
        .collect();
    let mut unread = Unread::default();
    let own = place.own_files(&paths, generate::READ_LIMIT, &mut unread, choice)?;
    let mut owners = Owners::default();
    for ((index, spec), own) in specs.iter().zip(own) {
        let Some(own) = own else { continue };
        collected.add_of_target(spec, &own);
        owners.add(*index, own);
    }
    let values = collected.into_values();
    let mut search = Search::new(&values, &owners, watch);
    unread.append(place.read_exposed(&mut search)?);
    Ok(search.finish(manifest, unread))
}

/// Which secrets' files the files of a target are.
#[derive(Default)]
struct Owners {
    paths: HashMap<Vec<u8>, Vec<usize>>,
    /// By inode number: other names of a file that others can read at its declared path.
    names: HashMap<u64, Vec<usize>>,
}

impl Owners {
    fn add(&mut self, secret: usize, own: OwnFile) {
        self.paths.entry(own.physical.into_bytes()).or_default().push(secret);
        if let Some(inode) = own.shared {
            self.names.entry(inode).or_default().push(secret);
        }
    }

    /// The secrets whose file this is.
    fn of(&self, path: &[u8], stat: &Stat) -> &[usize] {
        let by_inode = || self.names.get(&stat.inode).filter(|_| stat.links > 1);
        self.paths.get(path).or_else(by_inode).map_or(&[], Vec::as_slice)
    }
}

/// A scan while files arrive.
struct Search<'a> {
    values: &'a [Known],
    finder: Finder,
    owners: &'a Owners,
    users: UsersJson<'a>,
    watch: Watch<'a>,
    /// The current file.
    path: Vec<u8>,
    stream: Stream,
    /// The secrets whose file it is.
    own: &'a [usize],
    /// Values in it, by index, and their forms.
    found: BTreeSet<(usize, Form)>,
    /// Its path, for each file with findings; and the secret, by index.
    findings: Vec<(Vec<u8>, usize, Form)>,
    total: usize,
    files: u64,
    bytes: u64,
    /// When the watch is told next.
    next_report: u64,
}

impl<'a> Search<'a> {
    fn new(values: &'a [Known], owners: &'a Owners, watch: Watch<'a>) -> Self {
        let patterns = values.iter().enumerate().flat_map(|(value, known)| {
            let forms = forms::of(known.bytes.expose()).into_iter();
            forms.map(move |(form, text)| Pattern { text, form: known.form(form), value })
        });
        Self {
            values,
            finder: Finder::new(patterns.collect()),
            owners,
            users: UsersJson::new(values),
            watch,
            path: Vec::new(),
            stream: Stream::new(0),
            own: &[],
            found: BTreeSet::new(),
            findings: Vec::new(),
            total: 0,
            files: 0,
            bytes: 0,
            next_report: 0,
        }
    }

    fn finish(self, manifest: &Manifest, mut unread: Unread) -> Scanned {
        // A reason names the file.
        unread.reasons.retain(|reason| !self.holds_value(reason.as_bytes()));
        (self.watch)(Progress { work: Work::Search, done: self.bytes, total: self.bytes });
        let finding = |(path, secret, form): &(Vec<u8>, usize, Form)| {
            let secret = manifest.secrets.get(*secret).map_or(String::new(), |spec| spec.name.clone());
            Finding { path: self.without_values(path), secret, form: *form }
        };
        let mut findings: Vec<Finding> = self.findings.iter().map(finding).collect();
        findings.sort();
        let skipped = self.values.iter().filter(|known| known.bytes.len() < forms::SHORTEST).count();
        Scanned {
            findings,
            total: self.total,
            values: self.values.len(),
            skipped,
            files: self.files,
            bytes: self.bytes,
            unread,
            unchecked: self.users.unchecked(),
        }
    }

    fn holds_value(&self, text: &[u8]) -> bool {
        let mut holds = false;
        self.finder.search(text, &mut |_| holds = true);
        holds
    }

    /// The path for people, cut before a name that holds a value.
    fn without_values(&self, path: &[u8]) -> String {
        if !self.holds_value(path) {
            return shown_path(path);
        }
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let mut parents = (1..names.len()).rev().map(|count| names[..count].join(&b'/'));
        format!("{}/…", shown_path(&parents.find(|path| !self.holds_value(path)).unwrap_or_default()))
    }
}

impl Reader for Search<'_> {
    fn begin(&mut self, path: &[u8], stat: &Stat) -> bool {
        self.users.begin(path);
        if self.finder.is_empty() && !self.users.is_wanted() {
            return false;
        }
        self.path.clear();
        self.path.extend_from_slice(path);
        self.stream = Stream::new(stat.size);
        self.own = self.owners.of(path, stat);
        self.files = self.files.saturating_add(1);
        true
    }

    fn piece(&mut self, offset: u64, bytes: &[u8]) {
        let found = &mut self.found;
        self.stream.piece(&self.finder, offset, bytes, &mut |pattern| {
            found.insert((pattern.value, pattern.form));
        });
        self.users.piece(bytes);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.bytes >= self.next_report {
            self.next_report = self.bytes.saturating_add(REPORT);
            (self.watch)(Progress { work: Work::Search, done: self.bytes, total: u64::MAX });
        }
    }

    fn end(&mut self) {
        let found = &mut self.found;
        self.stream.end(&self.finder, &mut |pattern| {
            found.insert((pattern.value, pattern.form));
        });
        found.extend(self.users.end().into_iter().map(|value| (value, Form::Hash)));
        let mut findings = BTreeSet::new();
        for (value, form) in std::mem::take(&mut self.found) {
            let secrets = self.values.get(value).map_or(&[][..], |known| &known.secrets);
            if !secrets.iter().any(|secret| self.own.contains(secret)) {
                findings.extend(secrets.iter().map(|secret| (*secret, form)));
            }
        }
        self.total = self.total.saturating_add(findings.len());
        let room = MOST_FINDINGS.saturating_sub(self.findings.len());
        self.findings.extend(findings.into_iter().take(room).map(|(secret, form)| (self.path.clone(), secret, form)));
    }
}
