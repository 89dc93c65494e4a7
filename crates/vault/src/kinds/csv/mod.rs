//! Tables: CSV files with a header (RFC 4180), read row by row. The kind `csv`; `lastpass` uses the same reader.
//!
//! The `csv` crate does not report a file that ends inside quotes. So a line is appended to the file: if it is not
//! returned as a separate row, a quote was not closed.

mod columns;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder};
use deaddrop_core::keys::{self, Entries};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::input::Input;
use crate::input::context::Context;
use crate::input::meter::{ExportLimit, Meter, Metered};
use crate::input::read::ReadError;
use crate::items::item::{self, Entry, Field, Sink, Value};
use crate::items::reader::Vault;
use crate::keys::{Declared, FileKeys, PasswordKeys};
use crate::kinds::Kind;
use crate::spec::{FileSpec, Spec};
use crate::{OpenError, Source};

pub(crate) use columns::Header;

/// The appended line.
const LAST: &[u8] = b"\x1e end of the file by deaddrop \x1e";

/// Maximum number of columns. Password managers write up to thirty.
const MAX_COLUMNS: usize = 1000;

/// Fields common to all password managers, which `columns` may name.
const BUILT_IN: [&str; 7] = ["password", "username", "totp", "notes", "uri", "public_key", "private_key"];

/// The key of `columns` for an item's folder.
const FOLDER: &str = "folder";

/// Hint for a malformed row.
const QUOTES: &str =
    "a field that holds a comma, a quote or a line end stands in double quotes, and a quote in it is doubled";

/// The reason why reading stopped.
#[derive(Debug)]
pub(crate) enum CsvError {
    /// A read failed.
    Io(io::Error),
    /// A limit is exceeded.
    Limit(ExportLimit),
    /// The message and a hint. They may contain names of columns, but no part of a row.
    Refused(String, String),
}

impl CsvError {
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

/// A row: as many fields as the header, all of them UTF-8.
pub(crate) struct Row<'r>(&'r ByteRecord);

impl Row<'_> {
    /// The field of a column.
    pub(crate) fn get(&self, column: usize) -> &str {
        // `read` has checked the number of fields, and UTF-8.
        self.0.get(column).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// Reads a table: passes the header to `columns`, then its result with each row to `take`.
///
/// # Errors
/// The reason why reading stopped.
pub(crate) fn read<C>(
    file: impl Read,
    columns: impl FnOnce(&Header) -> Result<C, CsvError>,
    mut take: impl FnMut(&C, &Row<'_>) -> Result<(), item::SinkLimit>,
) -> Result<(), CsvError> {
    let meter = Meter::default();
    let metered = Metered::new(file, &meter).map_err(|error| failed(&meter, error))?;
    if metered.ahead().starts_with(b"\xff\xfe") || metered.ahead().starts_with(b"\xfe\xff") {
        return Err(CsvError::refused("this is UTF-16, and a CSV file is UTF-8", "save it again as UTF-8"));
    }
    let behind = io::Cursor::new([b"\n", LAST].concat());
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(metered.chain(behind));
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| -> Result<bool, CsvError> {
        let read = reader.read_byte_record(record).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) => failed(&meter, error),
            // The other errors concern record lengths and types, which are not enabled.
            _ => CsvError::refused("this is not a CSV file", QUOTES),
        })?;
        meter.restart();
        let is_last = record.len() == 1 && record.get(0) == Some(LAST);
        if read && !is_last && record.iter().next_back().is_some_and(|field| field.ends_with(LAST)) {
            return Err(CsvError::refused(
                "the file ends inside quotes: it is cut off, or a quote is not closed",
                QUOTES,
            ));
        }
        check_utf8(record)?;
        Ok(read && !is_last)
    };

    if !next(&mut record)? {
        return Err(CsvError::refused("the file is empty", "its first line is the header, the names of its columns"));
    }
    let count = record.len();
    if count > MAX_COLUMNS {
        return Err(CsvError::refused(
            format!("the header has over {MAX_COLUMNS} columns, the most that are read"),
            "",
        ));
    }
    let columns = columns(&Header::new(&Row(&record), count))?;
    while next(&mut record)? {
        if record.len() != count {
            let what = format!("line {}: {} fields, and the header has {count}", line(&record), record.len());
            return Err(CsvError::refused(what, QUOTES));
        }
        take(&columns, &Row(&record)).map_err(|limit| CsvError::Limit(ExportLimit::Sink(limit)))?;
    }
    Ok(())
}

/// The line where a row starts, 1-based.
fn line(record: &ByteRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

fn check_utf8(record: &ByteRecord) -> Result<(), CsvError> {
    let mut line = line(record);
    for field in record {
        let lines = |bytes: &[u8]| u64::try_from(bytes.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(0);
        if let Err(error) = std::str::from_utf8(field) {
            line = line.saturating_add(lines(&field[..error.valid_up_to()]));
            return Err(CsvError::refused(format!("line {line}: this is not UTF-8"), "save it again as UTF-8"));
        }
        line = line.saturating_add(lines(field));
    }
    Ok(())
}

fn failed(meter: &Meter, error: io::Error) -> CsvError {
    meter.limit().map_or(CsvError::Io(error), CsvError::Limit)
}

/// Folders passed on so far: each is passed once.
#[derive(Default)]
pub(crate) struct Folders(HashSet<String>);

impl Folders {
    /// Passes a folder on, unless that was done before.
    pub(crate) fn pass_on(&mut self, name: &str, sink: &mut dyn Sink) -> Result<(), item::SinkLimit> {
        if self.0.contains(name) {
            return Ok(());
        }
        self.0.insert(name.to_owned());
        sink.folder(name, name)
    }
}

/// A source of kind `csv`.
pub(crate) struct Table<'m> {
    input: Input<'m>,
    /// The name of the column with the items' names.
    item: &'m str,
    /// Names of fields, and of their columns.
    fields: &'m BTreeMap<String, String>,
}

impl<'m> Table<'m> {
    /// The table in `input`; `item` and `fields` as in [`CsvSpec`].
    pub(crate) fn new(input: Input<'m>, item: &'m str, fields: &'m BTreeMap<String, String>) -> Self {
        Self { input, item, fields }
    }
}

/// The columns' indexes.
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
    /// The names of the columns: `item` is the column with the items' names; `password` and every other key is a field.
    #[schemars(extend("required" = ["item"]))]
    pub columns: keys::Field<Entries<String>>,
    /// The password of the file, for a path that ends in `.age`.
    pub password: keys::Field<PasswordKeys>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: keys::Field<String>,
}

/// A CSV file, and the meaning of its columns.
#[derive(Debug, Clone)]
pub struct CsvSpec {
    /// The file.
    pub file: FileSpec,
    /// Name of the column with the items' names.
    pub item: String,
    /// Names of fields, `password` among them, and of their columns.
    pub fields: BTreeMap<String, String>,
}

impl Spec for CsvSpec {
    type Keys = CsvKeys;

    fn check(declared: &Declared<'_>, keys: CsvKeys) -> Option<Self> {
        const HINT: &str = "such as `columns: { item: name, password: password, username: username }`";
        let columns = match keys.columns {
            keys::Field::Missing => {
                declared.problem("a csv source needs `columns`", HINT);
                None
            }
            field => field.good(),
        };
        let file = FileKeys { path: keys.path, password: keys.password, identity: keys.identity };
        let file = declared.file(file);
        let (id, columns) = columns?;
        let accept = |at, checked: Result<(), keys::Refusal>| {
            if let Err(refusal) = checked {
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

    fn file(&self) -> Option<&FileSpec> {
        Some(&self.file)
    }
}

impl Kind for Table<'_> {
    type Spec = CsvSpec;

    fn open<'m>(spec: &'m CsvSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Table::new(Input::new(name, &spec.file, context), &spec.item, &spec.fields))
    }
}

impl Vault for Table<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let mut file = self.input.opened()?;
        self.input.holds_clear_text();
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
                folders.pass_on(folder, sink)?;
            }
            sink.item(&Item { columns, row, folder })
        };
        read(file.reader(), columns, take).map_err(|problem| problem.at(&self.input))
    }
}

/// A row as an [`Entry`].
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
