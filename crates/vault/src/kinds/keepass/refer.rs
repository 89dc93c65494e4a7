//! Field references, `{REF:P@I:0123…}`: the field of another entry, as a value or as a part of one.
//!
//! Format: keepass.info, "Field References". The wanted field is T title, U user name, P password, A URL, N notes or I
//! UUID; the entry is found by one of these, or by O, the values of custom strings. A referenced value may contain
//! further references.

use std::collections::HashMap;

use deaddrop_core::limits::MAX_VALUE;
use zeroize::Zeroizing;

use super::entry::Entry;

/// Start of a reference, in any case.
const START: &[u8] = b"{REF:";
/// Maximum length of a reference, in bytes.
const LONGEST: usize = 4096;
/// Maximum number of values with references, and maximum total length of them in bytes.
const MOST: usize = 100_000;
const MOST_BYTES: usize = 64 << 20;
/// Maximum number of distinct references.
const MOST_EXPRESSIONS: usize = 10_000;
/// Maximum depth of references.
pub(super) const MOST_STEPS: usize = 10;

/// True if `value` contains a reference.
pub(super) fn has_reference(value: &[u8]) -> bool {
    find(value).is_some()
}

fn find(value: &[u8]) -> Option<usize> {
    value.windows(START.len()).position(|window| window.eq_ignore_ascii_case(START))
}

/// Values with references, until they are resolved.
#[derive(Default)]
pub(super) struct Templates {
    values: Vec<Zeroizing<Vec<u8>>>,
    bytes: usize,
}

impl Templates {
    /// Stores a value; returns its location for [`Value::Attachment`](crate::items::item::Value). `None` if there are
    /// too many.
    pub(super) fn add(&mut self, value: &[u8]) -> Option<String> {
        self.bytes = self.bytes.saturating_add(value.len());
        if self.values.len() >= MOST || self.bytes > MOST_BYTES {
            return None;
        }
        self.values.push(Zeroizing::new(value.to_vec()));
        Some(format!("ref:{}", self.values.len() - 1))
    }

    /// All values, in the order of their locations.
    pub(super) fn take(&mut self) -> Vec<Zeroizing<Vec<u8>>> {
        std::mem::take(&mut self.values)
    }
}

/// A search for an entry: the letter of the string to compare, and its text.
type Search = (u8, Vec<u8>);

/// A parsed reference.
struct Expression {
    /// The letter of the wanted string.
    wanted: u8,
    search: Search,
}

impl Expression {
    /// Parses the text between `{REF:` and `}`.
    fn parse(text: &[u8]) -> Option<Self> {
        let [wanted, b'@', by, b':', text @ ..] = text else { return None };
        let (wanted, by) = (wanted.to_ascii_uppercase(), by.to_ascii_uppercase());
        let known = b"TUPANI".contains(&wanted) && b"TUPANIO".contains(&by) && !text.is_empty();
        let text = match by {
            b'I' => text.iter().filter(|byte| **byte != b'-').map(u8::to_ascii_lowercase).collect(),
            _ => text.to_vec(),
        };
        known.then_some(Self { wanted, search: (by, text) })
    }
}

const STRINGS: [(u8, &str); 5] =
    [(b'T', "Title"), (b'U', "UserName"), (b'P', "Password"), (b'A', "URL"), (b'N', "Notes")];

/// An entry's string by its letter.
fn string(entry: &Entry, letter: u8) -> Zeroizing<Vec<u8>> {
    let value = match STRINGS.iter().find(|(own, _)| *own == letter) {
        None => entry.uuid().replace('-', "").to_ascii_uppercase().into_bytes(),
        // KeePass inserts nothing for a string that the entry does not have.
        Some((_, name)) => entry.string(name).unwrap_or_default().to_vec(),
    };
    Zeroizing::new(value)
}

/// Every search that finds `entry`.
fn searches(entry: &Entry) -> Vec<Search> {
    let own = STRINGS.iter().filter_map(|(letter, name)| Some((*letter, entry.string(name)?.to_vec())));
    let custom = entry.strings.iter().filter(|(name, _)| !STRINGS.iter().any(|(_, own)| own == name));
    let custom = custom.map(|(_, value)| (b'O', value.to_vec()));
    let uuid = (b'I', entry.uuid().replace('-', "").into_bytes());
    let mut searches: Vec<Search> = own.chain(custom).chain([uuid]).collect();
    searches.sort_unstable();
    searches.dedup();
    searches
}

/// The results of all references.
#[derive(Default)]
pub(super) struct Answers {
    found: HashMap<Search, Answer>,
    bytes: usize,
}

/// The result of one search.
#[derive(Default)]
struct Answer {
    /// Number of entries found.
    count: usize,
    /// The wanted strings of the first entry, by letter.
    strings: Vec<(u8, Zeroizing<Vec<u8>>)>,
}

impl Answers {
    /// Records the references in `value`.
    ///
    /// # Errors
    /// A message: a reference is malformed, or there are too many.
    pub(super) fn ask(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for piece in pieces(value)? {
            let Piece::Reference(Expression { wanted, search }) = piece else { continue };
            if self.found.len() >= MOST_EXPRESSIONS && !self.found.contains_key(&search) {
                return Err("there are over 10,000 different {REF:…} in it, the most that are resolved");
            }
            let strings = &mut self.found.entry(search).or_default().strings;
            if !strings.iter().any(|(own, _)| *own == wanted) {
                strings.push((wanted, Zeroizing::default()));
            }
        }
        Ok(())
    }

    /// Stores an entry's strings if a reference finds it.
    pub(super) fn offer(&mut self, entry: &Entry) {
        for search in searches(entry) {
            let Some(answer) = self.found.get_mut(&search) else { continue };
            answer.count = answer.count.saturating_add(1);
            if answer.count > 1 {
                continue;
            }
            for (letter, value) in &mut answer.strings {
                *value = string(entry, *letter);
                self.bytes = self.bytes.saturating_add(value.len());
            }
            if self.bytes > MOST_BYTES {
                // Treated as not found: no legitimate reference finds so much.
                *answer = Answer::default();
            }
        }
    }

    /// `value` with its references replaced.
    ///
    /// # Errors
    /// A message: an entry is missing or ambiguous, or the value becomes too long.
    pub(super) fn fill(&self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let pieces = pieces(value)?;
        let mut parts: Vec<&[u8]> = Vec::new();
        for piece in &pieces {
            parts.push(match piece {
                Piece::Text(text) => text,
                Piece::Reference(expression) => match self.found.get(&expression.search) {
                    Some(Answer { count: 1, strings }) => {
                        let wanted = strings.iter().find(|(letter, _)| *letter == expression.wanted);
                        let (_, value) = wanted.ok_or("its {REF:…} was not looked for")?;
                        value.as_slice()
                    }
                    Some(Answer { count: 2.., .. }) => return Err("its {REF:…} refers to several entries"),
                    Some(_) | None => return Err("its {REF:…} refers to an entry that is not there"),
                },
            });
        }
        let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if length > MAX_VALUE {
            return Err("what its {REF:…} lead to is over 16 MiB, the longest value that is taken");
        }
        let mut out = Zeroizing::new(Vec::with_capacity(length));
        parts.iter().for_each(|part| out.extend_from_slice(part));
        Ok(out)
    }
}

/// A part of a value.
enum Piece<'v> {
    Text(&'v [u8]),
    Reference(Expression),
}

fn pieces(value: &[u8]) -> Result<Vec<Piece<'_>>, &'static str> {
    let mut pieces = Vec::new();
    let mut rest = value;
    while let Some(at) = find(rest) {
        let (text, reference) = rest.split_at(at);
        let inside = reference.get(START.len()..).unwrap_or_default();
        let end = inside.iter().take(LONGEST).position(|&byte| byte == b'}');
        let end = end.ok_or("its {REF:…} has no end")?;
        let expression = inside.get(..end).and_then(Expression::parse).ok_or("its {REF:…} cannot be understood")?;
        pieces.push(Piece::Text(text));
        pieces.push(Piece::Reference(expression));
        rest = inside.get(end.saturating_add(1)..).unwrap_or_default();
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}
