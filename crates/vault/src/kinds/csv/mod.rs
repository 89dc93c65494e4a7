//! Tables: CSV files with a header (RFC 4180), read row by row. The kind `csv`; `lastpass` uses the same reader.
//!
//! The `csv` crate does not report a file that ends inside quotes. So a line is appended to the file: if it is not
//! returned as a separate row, a quote was not closed.

mod columns;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder};
use deaddrop_core::keys::{self, Entries};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use crate::input::Input;
use crate::input::context::Context;
use crate::input::meter::{ExportLimit, Meter, Metered};
use crate::input::read::ReadError;
use crate::items::item::{self, Entry, Field, Sink, Value};
use crate::items::reader::Vault;
use crate::keys::{Declared, FileKeys, KdfLimitKeys, PasswordKeys};
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

/// A row, all of it UTF-8.
pub(crate) struct Row<'r>(&'r ByteRecord);

impl Row<'_> {
    /// The field of a column; empty if the row ends before it.
    pub(crate) fn get(&self, column: usize) -> &str {
        self.field(column).unwrap_or_default()
    }

    /// The field of a column; `None` if the row ends before it.
    fn field(&self, column: usize) -> Option<&str> {
        // `rows` has checked UTF-8.
        self.0.get(column).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Reads a table: passes the header to `columns`, then its result with each row to `take`. `exact`: every row has as
/// many fields as the header.
///
/// # Errors
/// The reason why reading stopped.
pub(crate) fn read<C>(
    file: impl Read,
    exact: bool,
    columns: impl Fn(&Header) -> Result<C, CsvError>,
    mut take: impl FnMut(&C, &Row<'_>) -> Result<(), item::SinkLimit>,
) -> Result<(), CsvError> {
    let mut found: Option<(C, usize)> = None;
    rows(file, |row| match &found {
        None if row.len() > MAX_COLUMNS => {
            let what = format!("the header has over {MAX_COLUMNS} columns, the most that are read");
            Err(CsvError::refused(what, ""))
        }
        None => {
            found = Some((columns(&Header::new(row, row.len()))?, row.len()));
            Ok(())
        }
        Some((_, count)) if exact && row.len() != *count => {
            let what = format!("line {}: {} fields, and the header has {count}", line(row.0), row.len());
            Err(CsvError::refused(what, QUOTES))
        }
        Some((columns, _)) => take(columns, row).map_err(|limit| CsvError::Limit(ExportLimit::Sink(limit))),
    })
}

/// Passes every row to `take`, the first line among them.
///
/// # Errors
/// The reason why reading stopped; also if there is no row.
fn rows(file: impl Read, mut take: impl FnMut(&Row<'_>) -> Result<(), CsvError>) -> Result<(), CsvError> {
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
    take(&Row(&record))?;
    while next(&mut record)? {
        take(&Row(&record))?;
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
    spec: &'m CsvSpec,
}

impl<'m> Table<'m> {
    /// The table in `input`, with the columns of `spec`.
    pub(crate) fn new(input: Input<'m>, spec: &'m CsvSpec) -> Self {
        Self { input, spec }
    }
}

/// The columns' indexes.
struct Columns<'m> {
    item: usize,
    folder: Option<usize>,
    fields: Vec<(&'m str, usize)>,
    /// Number of columns of the header; `None` without a header.
    count: Option<usize>,
}

impl<'m> Columns<'m> {
    /// `indexes`: of the columns of `spec`: the items' names, then the fields in their order.
    fn new(spec: &'m CsvSpec, indexes: &[usize], count: Option<usize>) -> Self {
        let fields = spec.fields.keys().map(String::as_str).zip(indexes.iter().skip(1).copied());
        let (folder, fields) = fields.partition::<Vec<_>, _>(|(name, _)| *name == FOLDER);
        let item = indexes.first().copied().unwrap_or_default();
        Self { item, folder: folder.first().map(|(_, column)| *column), fields, count }
    }

    /// The value of a column in a row; `None` if the row ends before it.
    fn value(&self, row: &Row<'_>, column: usize) -> Option<Value> {
        let text = row.field(column)?;
        let is_last = self.count.is_some_and(|count| column.checked_add(1) == Some(count) && row.len() > count);
        Some(if is_last {
            // A comma in it that should be in quotes would cut it off.
            let what = "its row has more fields than the header, and this is the last column: it may be cut off";
            Value::Refused(what.to_owned(), "name the columns that follow in the file's first line".to_owned())
        } else {
            Value::text(text)
        })
    }
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
    /// For a table without a header their numbers, counted from 1.
    #[schemars(extend("required" = ["item"], "anyOf" = [
        { "additionalProperties": { "type": "string" } },
        { "additionalProperties": { "type": "integer" } },
    ]))]
    pub columns: keys::Field<Entries<ColumnKey>>,
    /// The password of the file, for a path that ends in `.age`.
    pub password: keys::Field<PasswordKeys>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: keys::Field<String>,
    /// `none`: deriving the key from the password may cost anything. Without it, time and memory are bounded.
    pub kdf_limit: keys::Field<KdfLimitKeys>,
}

/// A column in the manifest: its name, or its number, counted from 1.
#[derive(Debug)]
pub enum ColumnKey {
    /// Its name.
    Name(String),
    /// Its number.
    Number(u64),
}

impl<'de> Deserialize<'de> for ColumnKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ColumnVisitor;

        impl Visitor<'_> for ColumnVisitor {
            type Value = ColumnKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_str<E>(self, text: &str) -> Result<ColumnKey, E> {
                Ok(ColumnKey::Name(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<ColumnKey, E> {
                Ok(ColumnKey::Number(number))
            }
        }

        deserializer.deserialize_any(ColumnVisitor)
    }
}

impl JsonSchema for ColumnKey {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "column".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "integer", "minimum": 1, "maximum": MAX_COLUMNS },
            ]
        })
    }
}

/// A CSV file, and the meaning of its columns.
#[derive(Debug, Clone)]
pub struct CsvSpec {
    /// The file.
    pub file: FileSpec,
    /// The column with the items' names.
    pub item: Column,
    /// Names of fields, `password` among them, and their columns: names if `item` is one, otherwise indexes.
    pub fields: BTreeMap<String, Column>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// Its name in the header.
    Name(String),
    /// Its index, from 0, in a table without a header.
    Index(usize),
}

impl Column {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Index(_) => None,
        }
    }

    fn index(&self) -> Option<usize> {
        match self {
            Self::Name(_) => None,
            Self::Index(index) => Some(*index),
        }
    }
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
        let CsvKeys { path, password, identity, kdf_limit, .. } = keys;
        let file = FileKeys { path, password, identity, kdf_limit };
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
            let (column_id, column) = entry.value.good()?;
            let column = match column {
                ColumnKey::Name(name) => {
                    accept(column_id, keys::text(&name, "a column's name"));
                    Column::Name(name)
                }
                ColumnKey::Number(number) => match usize::try_from(number).ok().and_then(|own| own.checked_sub(1)) {
                    Some(index) if index < MAX_COLUMNS => Column::Index(index),
                    _ => {
                        let hint = format!("columns are counted from 1, up to {MAX_COLUMNS}; a name stands in quotes");
                        declared.problem_at(column_id, "no column has this number", &hint);
                        return None;
                    }
                },
            };
            fields.insert(entry.name, column);
        }
        let Some(item) = fields.remove("item") else {
            declared.problem_at(id, "`columns` needs an `item`: the column that names items", HINT);
            return None;
        };
        if fields.values().any(|column| column.name().is_some() != item.name().is_some()) {
            let hint = "numbers are for a table without a header; a name that is a number stands in quotes";
            declared.problem_at(id, "`columns` are all names, or all numbers", hint);
            return None;
        }
        Some(CsvSpec { file: file?, item, fields })
    }

    fn file(&self) -> Option<&FileSpec> {
        Some(&self.file)
    }
}

impl Kind for Table<'_> {
    type Spec = CsvSpec;

    fn open<'m>(spec: &'m CsvSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Table::new(Input::new(name, &spec.file, context), spec))
    }
}

impl Vault for Table<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let mut file = self.input.opened()?;
        self.input.holds_clear_text();
        let mut folders = Folders::default();
        let mut take = |columns: &Columns<'_>, row: &Row<'_>| {
            let folder = columns.folder.map(|column| row.get(column)).filter(|folder| !folder.is_empty());
            if let Some(folder) = folder {
                folders.pass_on(folder, sink)?;
            }
            sink.item(&Item { columns, row, folder })
        };
        let spec = self.spec;
        let wanted = || [&spec.item].into_iter().chain(spec.fields.values());
        let indexes: Option<Vec<usize>> = wanted().map(Column::index).collect();
        let result = match indexes {
            Some(indexes) => {
                let columns = Columns::new(spec, &indexes, None);
                rows(file.reader(), |row| {
                    take(&columns, row).map_err(|limit| CsvError::Limit(ExportLimit::Sink(limit)))
                })
            }
            None => {
                let names: Vec<&str> = wanted().filter_map(Column::name).collect();
                let columns = |header: &Header| Ok(Columns::new(spec, &header.find(&names)?, Some(header.len())));
                read(file.reader(), false, columns, take)
            }
        };
        result.map_err(|problem| problem.at(&self.input))
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
        let value = |column| self.columns.value(self.row, column);
        let built_in = built_in.into_iter().filter_map(|(name, at)| Some(Field::built_in_value(name, value(at)?)));
        let custom = custom.into_iter().filter_map(|(name, at)| Some(Field::custom(name, value(at)?)));
        built_in.chain(custom).collect()
    }
}

#[cfg(test)]
mod tests;
