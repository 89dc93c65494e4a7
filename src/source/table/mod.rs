//! Tables: CSV files with a header (RFC 4180), read row by row. `csv` is the source of that type; LastPass's export is read
//! by the same reader.
//!
//! The `csv` crate does not say that a file has ended inside quotes, so a line of ours stands behind the file: where it
//! does not come back as a row of its own, quotes are open.

mod columns;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder};

use super::OpenError;
use super::input::Input;
use super::item::{self, Entry, Field, Sink, Value};
use super::meter::{Limit, Meter, Metered};
use super::read::ReadError;
use super::vault::Vault;

pub(super) use columns::Header;

/// The line behind the file.
const LAST: &[u8] = b"\x1e end of the file by deaddrop \x1e";

/// The most columns. Password managers write up to thirty.
const MAX_COLUMNS: usize = 1000;

/// Fields that all password managers have: `columns` may name them.
const BUILT_IN: [&str; 7] = ["password", "username", "totp", "notes", "uri", "public_key", "private_key"];

/// The key of `columns` that gives an item's folder.
const FOLDER: &str = "folder";

/// What to do about a row that cannot be right.
const QUOTES: &str =
    "a field that holds a comma, a quote or a line end stands in double quotes, and a quote in it is doubled";

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Problem {
    /// The system says no.
    Io(io::Error),
    /// Over a limit.
    Limit(Limit),
    /// What is wrong, and what to do. Names of columns may be in it, and no part of a row.
    Refused(String, String),
}

impl Problem {
    pub(super) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused(what.into(), hint.into())
    }

    /// The error for the file `input`.
    pub(super) fn at(self, input: &Input<'_>) -> OpenError {
        let path = input.name().to_owned();
        match self {
            Self::Io(error) => OpenError::Read { path, problem: ReadError::Io(error) },
            Self::Limit(limit) => OpenError::Limit { path, limit: limit.to_string() },
            Self::Refused(what, hint) => input.refused(what, hint),
        }
    }
}

/// A row: as many fields as the header has, all UTF-8.
pub(super) struct Row<'r>(&'r ByteRecord);

impl Row<'_> {
    /// The field of a column.
    pub(super) fn get(&self, column: usize) -> &str {
        // All fields have been checked.
        self.0.get(column).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// Reads a table: the header goes to `columns`, and what that makes of it to `take`, with each row.
///
/// # Errors
/// What stopped it.
pub(super) fn read<C>(
    file: impl Read,
    columns: impl FnOnce(&Header) -> Result<C, Problem>,
    mut take: impl FnMut(&C, &Row<'_>) -> Result<(), item::Limit>,
) -> Result<(), Problem> {
    let meter = Meter::default();
    let metered = Metered::new(file, &meter).map_err(|error| failed(&meter, error))?;
    if metered.ahead().starts_with(b"\xff\xfe") || metered.ahead().starts_with(b"\xfe\xff") {
        return Err(Problem::refused("this is UTF-16, and a CSV file is UTF-8", "save it again as UTF-8"));
    }
    let behind = io::Cursor::new([b"\n", LAST].concat());
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(metered.chain(behind));
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| -> Result<bool, Problem> {
        let read = reader.read_byte_record(record).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) => failed(&meter, error),
            // The others are about a record's length and about types, which are not asked for.
            _ => Problem::refused("this is not a CSV file", QUOTES),
        })?;
        meter.restart();
        let is_last = record.len() == 1 && record.get(0) == Some(LAST);
        if read && !is_last && record.iter().next_back().is_some_and(|field| field.ends_with(LAST)) {
            return Err(Problem::refused(
                "the file ends inside quotes: it is cut off, or a quote is not closed",
                QUOTES,
            ));
        }
        check_utf8(record)?;
        Ok(read && !is_last)
    };

    if !next(&mut record)? {
        return Err(Problem::refused("the file is empty", "its first line is the header, the names of its columns"));
    }
    let count = record.len();
    if count > MAX_COLUMNS {
        return Err(Problem::refused(format!("the header has over {MAX_COLUMNS} columns, the most that are read"), ""));
    }
    let columns = columns(&Header::new(&Row(&record), count))?;
    while next(&mut record)? {
        if record.len() != count {
            let what = format!("line {}: {} fields, and the header has {count}", line(&record), record.len());
            return Err(Problem::refused(what, QUOTES));
        }
        take(&columns, &Row(&record)).map_err(|limit| Problem::Limit(Limit::Sink(limit)))?;
    }
    Ok(())
}

/// The line where a row begins, from 1.
fn line(record: &ByteRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

fn check_utf8(record: &ByteRecord) -> Result<(), Problem> {
    let mut line = line(record);
    for field in record {
        let lines = |bytes: &[u8]| u64::try_from(bytes.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(0);
        if let Err(error) = std::str::from_utf8(field) {
            line = line.saturating_add(lines(&field[..error.valid_up_to()]));
            return Err(Problem::refused(format!("line {line}: this is not UTF-8"), "save it again as UTF-8"));
        }
        line = line.saturating_add(lines(field));
    }
    Ok(())
}

fn failed(meter: &Meter, error: io::Error) -> Problem {
    meter.limit().map_or(Problem::Io(error), Problem::Limit)
}

/// Folders that have been handed on: each is handed on once.
#[derive(Default)]
pub(super) struct Folders(HashSet<String>);

impl Folders {
    /// Hands on a folder, unless that was done.
    pub(super) fn hand_on(&mut self, name: &str, sink: &mut dyn Sink) -> Result<(), item::Limit> {
        if self.0.contains(name) {
            return Ok(());
        }
        self.0.insert(name.to_owned());
        sink.folder(name, name)
    }
}

/// A `csv` source.
pub(super) struct Table<'m> {
    input: Input<'m>,
    /// The name of the column that names items.
    item: &'m str,
    /// Fields, and the names of their columns.
    fields: &'m BTreeMap<String, String>,
}

impl<'m> Table<'m> {
    /// The table in `input`, with what the manifest says of its columns.
    pub(super) fn new(input: Input<'m>, item: &'m str, fields: &'m BTreeMap<String, String>) -> Self {
        Self { input, item, fields }
    }
}

/// Where everything stands.
struct Columns<'m> {
    item: usize,
    folder: Option<usize>,
    fields: Vec<(&'m str, usize)>,
}

impl Vault for Table<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let mut file = self.input.opened()?;
        let columns = |header: &Header| {
            let wanted: Vec<&str> = [self.item].into_iter().chain(self.fields.values().map(String::as_str)).collect();
            let found = header.find(&wanted)?;
            let fields = self.fields.keys().map(String::as_str).zip(found[1..].iter().copied());
            let (folder, fields) = fields.partition::<Vec<_>, _>(|(name, _)| *name == FOLDER);
            Ok(Columns { item: found[0], folder: folder.first().map(|(_, column)| *column), fields })
        };
        let mut folders = Folders::default();
        let take = |columns: &Columns<'_>, row: &Row<'_>| {
            let folder = columns.folder.map(|column| row.get(column)).filter(|folder| !folder.is_empty());
            if let Some(folder) = folder {
                folders.hand_on(folder, sink)?;
            }
            sink.item(&Item { columns, row, folder })
        };
        read(file.reader(), columns, take).map_err(|problem| problem.at(&self.input))
    }
}

/// A row as an item.
struct Item<'r> {
    columns: &'r Columns<'r>,
    row: &'r Row<'r>,
    folder: Option<&'r str>,
}

impl Entry for Item<'_> {
    fn id(&self) -> &str {
        ""
    }

    fn name(&self) -> &str {
        self.row.get(self.columns.item)
    }

    fn places(&self) -> Vec<&str> {
        self.folder.into_iter().collect()
    }

    fn changed(&self) -> Option<&str> {
        None
    }

    fn fields(&self) -> Vec<Field> {
        let (built_in, custom): (Vec<_>, Vec<_>) =
            self.columns.fields.iter().copied().partition(|(name, _)| BUILT_IN.contains(name));
        let built_in = built_in.into_iter().map(|(name, column)| Field::built_in(name, self.row.get(column)));
        let custom = custom.into_iter().map(|(name, column)| Field::custom(name, Value::text(self.row.get(column))));
        built_in.chain(custom).collect()
    }
}

#[cfg(test)]
mod tests;
