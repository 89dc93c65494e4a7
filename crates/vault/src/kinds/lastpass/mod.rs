//! `lastpass`: the CSV export of LastPass.
//!
//! Format, from bitwarden/clients, `libs/importer/src/importers/lastpass/lastpass-csv-importer.ts`: the header is
//! `url,username,password,totp,extra,name,grouping,fav`, in earlier versions without `totp`; columns are found by name.
//! A folder inside another is `outer\inner`. A secure note has the URL `http://sn`; one with a type starts with
//! `NoteType:` and has `Field:value` lines (`note`).

mod note;

use crate::input::Input;
use crate::input::context::Context;
use crate::items::item::{Entry, Field, Sink, Value};
use crate::items::reader::Vault;
use crate::kinds::Kind;
use crate::kinds::csv::{self, CsvError, Folders, Header, Row};
use crate::spec::FileSpec;
use crate::{OpenError, Source};

const HINT: &str = "in LastPass: Advanced Options, Export; see docs/sources.md#lastpass";

/// The URL of a secure note.
const NOTE: &str = "http://sn";

/// Another way in which LastPass writes "no folder".
const NO_FOLDER: &str = "(none)";

/// A source of kind `lastpass`.
pub(crate) struct LastPass<'m> {
    input: Input<'m>,
}

impl<'m> LastPass<'m> {
    pub(crate) fn new(input: Input<'m>) -> Self {
        Self { input }
    }
}

/// The columns' indexes.
struct Columns {
    url: usize,
    username: usize,
    password: usize,
    totp: Option<usize>,
    extra: usize,
    name: usize,
    grouping: usize,
}

impl Columns {
    fn new(header: &Header) -> Result<Self, CsvError> {
        let found = header.find(&["url", "username", "password", "extra", "name", "grouping"]);
        let found = found.map_err(|problem| match problem {
            CsvError::Refused(what, _) => CsvError::refused(format!("this is not a LastPass export: {what}"), HINT),
            problem => problem,
        })?;
        match found[..] {
            [url, username, password, extra, name, grouping] => {
                Ok(Self { url, username, password, totp: header.get("totp"), extra, name, grouping })
            }
            // `find` returns as many indexes as names.
            _ => Err(CsvError::refused("this is not a LastPass export", HINT)),
        }
    }
}

impl Kind for LastPass<'_> {
    type Spec = FileSpec;

    fn open<'m>(spec: &'m FileSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(LastPass::new(Input::new(name, spec, context)))
    }
}

impl Vault for LastPass<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let mut file = self.input.opened()?;
        self.input.holds_clear_text();
        let mut folders = Folders::default();
        let take = |columns: &Columns, row: &Row<'_>| {
            let folder = row.get(columns.grouping);
            let folder = (!matches!(folder, "" | NO_FOLDER)).then(|| folder.replace('\\', "/"));
            if let Some(folder) = &folder {
                folders.pass_on(folder, sink)?;
            }
            sink.item(&Item { columns, row, folder: folder.as_deref() })
        };
        csv::read(file.reader(), true, Columns::new, take).map_err(|problem| problem.at(&self.input))
    }
}

/// A row as an [`Entry`].
struct Item<'r> {
    columns: &'r Columns,
    row: &'r Row<'r>,
    folder: Option<&'r str>,
}

impl Entry for Item<'_> {
    fn id(&self) -> &str {
        ""
    }

    fn name(&self) -> &str {
        self.row.get(self.columns.name)
    }

    fn places(&self) -> Vec<&str> {
        self.folder.into_iter().collect()
    }

    fn changed(&self) -> Option<&str> {
        None
    }

    fn fields(&self) -> Vec<Field> {
        let (columns, row) = (self.columns, self.row);
        let is_note = row.get(columns.url) == NOTE;
        let extra = row.get(columns.extra);
        let typed = is_note.then(|| note::fields(extra)).flatten();

        let mut fields = Vec::new();
        // A login always has these fields, even if empty; a note has only the non-empty ones.
        let columns = [
            ("password", Some(columns.password), !is_note),
            ("username", Some(columns.username), !is_note),
            ("totp", columns.totp, false),
            ("uri", Some(columns.url).filter(|_| !is_note), false),
            ("notes", Some(columns.extra).filter(|_| typed.is_none()), is_note),
        ];
        for (name, column, always) in columns {
            let text = column.map(|column| row.get(column)).filter(|text| always || !text.is_empty());
            fields.extend(text.map(|text| Field::built_in(name, text)));
        }
        for (name, value) in typed.iter().flatten() {
            let built_in = note::BUILT_IN.iter().find(|(known, _)| known == name).map(|(_, built_in)| *built_in);
            let built_in = built_in.filter(|built_in| !fields.iter().any(|field| field.name == *built_in));
            fields.extend(built_in.map(|built_in| Field::built_in(built_in, value)));
        }
        fields.extend(typed.iter().flatten().map(|(name, value)| Field::of_free_text(name, Value::text(value))));
        fields
    }
}

#[cfg(test)]
mod tests;
