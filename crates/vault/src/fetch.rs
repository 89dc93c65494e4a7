//! Reads the values of many secrets: each source is opened at most once, and each reference is read once.

use std::collections::{HashMap, HashSet};

use deaddrop_core::limits::{MAX_TOTAL, MAX_VALUE};
use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;

use crate::error::item;
use crate::finding;
use crate::input::context::Context;
use crate::{Cause, LookupError, Reference, SourceError, SourceErrors, Sources, Wanted, open};

/// The result of [`fetch`].
#[derive(Debug, Default)]
pub struct Fetched {
    /// The value of each wanted reference.
    pub values: HashMap<Reference, Secret>,
    /// Warnings about sources as a whole, and about values, for each secret that takes them. Each once.
    pub warnings: Vec<Warning>,
}

/// Reads every wanted value. A reference that several secrets need is read once.
///
/// # Errors
/// All errors of all sources and items, in the order of `wanted`. An empty value is an error for each secret that does
/// not allow one.
pub fn fetch(sources: &Sources<'_>, wanted: &[Wanted<'_>]) -> Result<Fetched, SourceErrors> {
    let context = Context::new(sources);
    let mut fetch = Fetch::new(wanted);
    for (name, references) in by_source(wanted) {
        match open(sources, name, &context).and_then(|mut source| source.fetch(&references)) {
            Ok(results) => {
                for (reference, result) in references.into_iter().zip(results) {
                    fetch.add(reference, result);
                }
            }
            Err(error) => {
                let mut users: Vec<usize> =
                    references.iter().flat_map(|reference| &fetch.users[reference]).copied().collect();
                users.sort_unstable();
                fetch.fail(name, &users, error.into());
            }
        }
    }
    fetch.finish(context.findings())
}

/// The distinct references of each source, both in the order of `wanted`.
fn by_source<'w>(wanted: &[Wanted<'w>]) -> Vec<(&'w str, Vec<&'w Reference>)> {
    let mut groups: Vec<(&str, Vec<&Reference>)> = Vec::new();
    let mut group_of: HashMap<&str, usize> = HashMap::new();
    let mut seen: HashSet<&Reference> = HashSet::new();
    for Wanted { reference, .. } in wanted {
        if !seen.insert(reference) {
            continue;
        }
        let name = reference.source.as_str();
        let group = *group_of.entry(name).or_insert_with(|| {
            groups.push((name, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(reference);
    }
    groups
}

/// The values and errors so far.
struct Fetch<'w> {
    wanted: &'w [Wanted<'w>],
    /// Indexes in `wanted` by reference, in ascending order.
    users: HashMap<&'w Reference, Vec<usize>>,
    values: HashMap<Reference, Secret>,
    /// Total length of `values`, in bytes.
    total: usize,
    /// Errors, each with the lowest index in `wanted` that it affects.
    errors: Vec<(usize, SourceError)>,
}

impl<'w> Fetch<'w> {
    fn new(wanted: &'w [Wanted<'w>]) -> Self {
        let mut users: HashMap<&Reference, Vec<usize>> = HashMap::new();
        for (index, want) in wanted.iter().enumerate() {
            users.entry(want.reference).or_default().push(index);
        }
        Self { wanted, users, values: HashMap::new(), total: 0, errors: Vec::new() }
    }

    /// Adds the result for one reference, after checking the value's length.
    fn add(&mut self, reference: &Reference, result: Result<Secret, LookupError>) {
        let users = self.users[reference].clone();
        let item = || item(reference);
        let value = match result {
            Err(error) => return self.fail(&reference.source, &users, error.into()),
            Ok(value) if value.len() > MAX_VALUE => {
                return self.fail(&reference.source, &users, LookupError::TooLong { item: item() }.into());
            }
            Ok(value) if self.total.saturating_add(value.len()) > MAX_TOTAL => {
                return self.fail(&reference.source, &users, LookupError::TooMuch { item: item() }.into());
            }
            Ok(value) => value,
        };
        self.total = self.total.saturating_add(value.len());
        if value.is_empty() {
            let strict: Vec<usize> = users.into_iter().filter(|&user| !self.wanted[user].allow_empty).collect();
            if !strict.is_empty() {
                self.fail(&reference.source, &strict, LookupError::Empty { item: item() }.into());
            }
        }
        self.values.insert(reference.clone(), value);
    }

    /// Adds an error of the source called `name` that affects `users`, which are indexes in `wanted`.
    fn fail(&mut self, name: &str, users: &[usize], cause: Cause) {
        let first = users.first().copied().unwrap_or(0);
        let secrets = users.iter().map(|&user| self.wanted[user].secret.to_owned()).collect();
        self.errors.push((first, SourceError { name: name.to_owned(), secrets, cause }));
    }

    fn finish(mut self, findings: Vec<finding::Finding>) -> Result<Fetched, SourceErrors> {
        if self.errors.is_empty() {
            let users = |reference: &Reference| {
                let users = self.users.get(reference).into_iter().flatten();
                users.map(|&user| self.wanted[user].secret.to_owned()).collect()
            };
            let warnings = finding::warnings(findings, users);
            return Ok(Fetched { values: self.values, warnings });
        }
        self.errors.sort_by_key(|(first, _)| *first);
        Err(SourceErrors(self.errors.into_iter().map(|(_, error)| error).collect()))
    }
}
