//! Password hashes in the store's descriptions of users: each is compared with the values, since a hash with another
//! salt cannot be found by its text.

use std::time::{Duration, Instant};

use deaddrop_core::secret::{Secret, Wiped};

use super::values::Known;
use crate::derive::password::{self, Verdict};

/// Files in the store that describe users, by the ends of their names: nixpkgs, users-groups.nix (for the perl script)
/// and userborn.nix.
const NAMES: [&[u8]; 2] = [b"-users-groups.json", b"-userborn.json"];

/// Maximum size of such a file, in bytes.
const MOST_BYTES: usize = 16 << 20;

/// Maximum number of comparisons of a hash with a value, and their maximum time: each takes a twentieth of a second
/// with usual parameters, and about a second with the most expensive ones.
const MOST_CHECKS: usize = 100;
const MOST_TIME: Duration = Duration::from_secs(8);

/// The descriptions of users, as they arrive.
pub struct UsersJson<'a> {
    /// What may be a password: index and bytes. First the values of which the target has hashes.
    passwords: Vec<(usize, &'a Secret)>,
    /// The current file, if it is one; `None` if it is not, or too large.
    file: Option<Wiped>,
    /// The hashes that were compared, and the values that they are of.
    known: Vec<(Vec<u8>, Vec<usize>)>,
    checks: usize,
    time: Duration,
    unchecked: usize,
}

impl<'a> UsersJson<'a> {
    /// To be compared with these values.
    #[must_use]
    pub fn new(values: &'a [Known]) -> Self {
        let may_be = |known: &&Known| password::check(known.bytes.expose()).is_ok();
        let passwords = values.iter().enumerate().filter(|(_, known)| may_be(known));
        let mut passwords: Vec<_> = passwords.collect();
        passwords.sort_by_key(|(_, known)| !known.is_password);
        let passwords = passwords.into_iter().map(|(index, known)| (index, &known.bytes)).collect();
        Self { passwords, file: None, known: Vec::new(), checks: 0, time: Duration::ZERO, unchecked: 0 }
    }

    /// A file begins.
    pub fn begin(&mut self, path: &[u8]) {
        let in_store = path.strip_prefix(b"/nix/store/").or_else(|| path.strip_prefix(b"/store/"));
        let name = in_store.filter(|name| !name.contains(&b'/')).unwrap_or_default();
        self.file = NAMES.iter().any(|end| name.ends_with(end)).then(Wiped::default);
    }

    /// True if the current file is one.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.file.is_some()
    }

    /// A piece of the current file.
    pub fn piece(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if file.len().saturating_add(bytes.len()) > MOST_BYTES {
            self.file = None;
            self.unchecked = self.unchecked.saturating_add(1);
            return;
        }
        file.extend_from_slice(bytes);
    }

    /// The current file ends: the values of which it has a hash, by index.
    pub fn end(&mut self) -> Vec<usize> {
        let Some(file) = self.file.take() else { return Vec::new() };
        let mut found = Vec::new();
        // Nix writes no escapes into the texts of hashes, so what is between quotes is all of one.
        for text in file.split(|byte| *byte == b'"').filter(|text| password::recognise(text).is_some()) {
            found.extend(self.values_of(text));
        }
        found
    }

    /// The values that a hash is of.
    fn values_of(&mut self, text: &[u8]) -> Vec<usize> {
        if let Some((_, values)) = self.known.iter().find(|(known, _)| known == text) {
            return values.clone();
        }
        let mut values = Vec::new();
        for (index, password) in &self.passwords {
            if self.checks >= MOST_CHECKS || self.time >= MOST_TIME {
                self.unchecked = self.unchecked.saturating_add(1);
                continue;
            }
            let started = Instant::now();
            let verdict = password::verify_any(text, password);
            self.checks = self.checks.saturating_add(1);
            self.time = self.time.saturating_add(started.elapsed());
            match verdict {
                Verdict::Matches => values.push(*index),
                Verdict::Differs => {}
                Verdict::Unknown => self.unchecked = self.unchecked.saturating_add(1),
            }
        }
        self.known.push((text.to_vec(), values.clone()));
        values
    }

    /// The number of comparisons that were not made: there were too many, or the hash is of a kind that is not
    /// computed here.
    #[must_use]
    pub fn unchecked(&self) -> usize {
        self.unchecked
    }
}
