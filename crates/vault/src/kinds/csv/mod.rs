//! Tables: CSV files with a header (RFC 4180), read row by row. `csv` is the source of that type; LastPass's export is read
//! by the same reader.
//!
//! The `csv` crate does not say that a file has ended inside quotes, so a line of ours stands behind the file: where it
//! does not come back as a row of its own, quotes are open.

mod columns;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder};
use deaddrop_core::keys::{self, Entries};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::input::Input;
use crate::input::context::Context;
use crate::input::meter::{Limit, Meter, Metered};
use crate::input::read::ReadError;
use crate::items::item::{self, Entry, Field, Sink, Value};
use crate::items::reader::Vault;
use crate::keys::{Declared, FileKeys, PasswordKeys};
use crate::kinds::Kind;
use crate::spec::FileSpec;
use crate::{OpenError, Source};

pub(crate) use columns::Header;

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
pub(crate) enum Problem {
    /// The system says no.
    Io(io::Error),
    /// Over a limit.
    Limit(Limit),
    /// What is wrong, and what to do. Names of columns may be in it, and no part of a row.
    Refused(String, String),
}

impl Problem {
    pub(crate) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused(what.into(), hint.into())
    }

    /// The error for the file `input`.
    pub(crate) fn at(self, input: &Input<'_>) -> OpenError {
        let path = input.name().to_owned();
        match self {
            Self::Io(error) => OpenError::Read { path, problem: ReadError::Io(error) },
            Self::Limit(limit) => OpenError::Limit { path, limit: limit.to_string() },
            Self::Refused(what, hint) => input.refused(what, hint),
        }
    }
}

/// A row: as many fields as the header has, all UTF-8.
pub(crate) struct Row<'r>(&'r ByteRecord);

impl Row<'_> {
    /// The field of a column.
    pub(crate) fn get(&self, column: usize) -> &str {
        // All fields have been checked.
        self.0.get(column).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// Reads a table: the header goes to `columns`, and what that makes of it to `take`, with each row.
///
/// # Errors
/// What stopped it.
pub(crate) fn read<C>(
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
pub(crate) struct Folders(HashSet<String>);

impl Folders {
    /// Hands on a folder, unless that was done.
    pub(crate) fn hand_on(&mut self, name: &str, sink: &mut dyn Sink) -> Result<(), item::Limit> {
        if self.0.contains(name) {
            return Ok(());
        }
        self.0.insert(name.to_owned());
        sink.folder(name, name)
    }
}

/// A `csv` source.
pub(crate) struct Table<'m> {
    input: Input<'m>,
    /// The name of the column that names items.
    item: &'m str,
    /// Fields, and the names of their columns.
    fields: &'m BTreeMap<String, String>,
}

impl<'m> Table<'m> {
    /// The table in `input`, with what the manifest says of its columns.
    pub(crate) fn new(input: Input<'m>, item: &'m str, fields: &'m BTreeMap<String, String>) -> Self {
        Self { input, item, fields }
    }
}

/// Where everything stands.
struct Columns<'m> {
    item: usize,
    folder: Option<usize>,
    fields: Vec<(&'m str, usize)>,
}

/// A CSV file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a csv source", default, deny_unknown_fields)]
#[schemars(rename = "csv-source", extend("required" = ["path", "columns"]))]
pub struct CsvKeys {
    /// The file, or `-` for standard input; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: keys::Field<String>,
    /// Which column is what: `item` is the column that names items, `password` and every other key a field of that name.
    #[schemars(extend("required" = ["item"]))]
    pub columns: keys::Field<Entries<String>>,
    /// What opens the file, for a path that ends in `.age`.
    pub password: keys::Field<PasswordKeys>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: keys::Field<String>,
}

/// A CSV file, and what its columns are.
#[derive(Debug, Clone)]
pub struct CsvSpec {
    /// The file.
    pub file: FileSpec,
    /// The header's name of the column that names items.
    pub item: String,
    /// Fields, `password` among them, and the header's names of their columns.
    pub fields: BTreeMap<String, String>,
}

impl Kind for Table<'_> {
    type Keys = CsvKeys;
    type Spec = CsvSpec;

    fn check(declared: &Declared<'_>, keys: CsvKeys) -> Option<CsvSpec> {
        const HINT: &str = "such as `columns: { item: name, password: password, username: username }`";
        let columns = match keys.columns {
            keys::Field::Missing => {
                declared.problem("a csv source needs `columns`", HINT);
                None
            }
            field => field.good(),
        };
        let file = FileKeys { path: keys.path, password: keys.password, identity: keys.identity };
        let file = declared.file(file, false);
        let (id, columns) = columns?;
        let accept = |at, judged: Result<(), keys::Refusal>| {
            if let Err(refusal) = judged {
                declared.report.refuse(at, refusal);
            }
        };
        let mut fields = BTreeMap::new();
        for entry in columns.0 {
            accept(entry.key, keys::text(&entry.name, "a field's name"));
            let Some((column_id, column)) = entry.value.good() else { continue };
            accept(column_id, keys::text(&column, "a column's name"));
            fields.insert(entry.name, column);
        }
        let Some(item) = fields.remove("item") else {
            declared.problem_at(id, "`columns` needs an `item`: the column that names items", HINT);
            return None;
        };
        Some(CsvSpec { file: file?, item, fields })
    }

    fn open<'m>(spec: &'m CsvSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Table::new(Input::new(name, &spec.file, context), &spec.item, &spec.fields))
    }

    fn file(spec: &CsvSpec) -> Option<&FileSpec> {
        Some(&spec.file)
    }
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
