//! `bitwarden`: exports of Bitwarden and Vaultwarden, personal and of an organisation: JSON, plain or protected by a
//! password, and ZIP with attachments. Also the output of `bw list items`.
//!
//! `shape` has the types of an export, `stream` parses it item by item, `field` lists the fields of an item,
//! `protected` decrypts, `error` has the messages.

mod error;
mod field;
mod protected;
mod shape;
mod stream;

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::path::Path;

use deaddrop_core::secret::Secret;

use crate::input::Input;
use crate::input::archive::{self, Archive};
use crate::input::context::Context;
use crate::input::opened::Opened;
use crate::items::item::{Entry, Field, LeftOut, Sink, SinkLimit, Value};
use crate::items::reader::Vault;
use crate::kinds::Kind;
use crate::spec::FileSpec;
use crate::{OpenError, Source};
use error::WrongExport;
use stream::ExportError;

/// Number of bytes that are read to detect the format: the keys that declare it come first.
const HEAD: usize = 16 << 10;

/// A source of kind `bitwarden`.
pub(crate) struct Bitwarden<'m> {
    input: Input<'m>,
    /// The ZIP file, once it is open.
    archive: Option<Archive>,
}

impl<'m> Bitwarden<'m> {
    pub(crate) fn new(input: Input<'m>) -> Self {
        Self { input, archive: None }
    }

    /// Parses the JSON of a ZIP export, adding to each item the attachments in the directory of its id.
    fn archive(&mut self, file: Opened, sink: &mut dyn Sink) -> Result<(), OpenError> {
        const HINT: &str = "export it again: in Bitwarden, Tools, Export vault, file format `.zip`";
        let refused = |what: String| self.input.refused(what, HINT);
        let file = file.seekable().map_err(|problem| self.input.failed(problem))?;
        let mut archive = Archive::open(file).map_err(refused)?;
        let mut json = None;
        let mut files: HashMap<String, Vec<(String, usize)>> = HashMap::new();
        for (index, name) in archive.names() {
            if name == "data.json" {
                json = Some(index);
            } else if let Some((id, file)) = name.strip_prefix("attachments/").and_then(|name| name.split_once('/')) {
                files.entry(id.to_owned()).or_default().push((file.to_owned(), index));
            }
        }
        let Some(json) = json else {
            return Err(refused("this ZIP file is not a Bitwarden export: it has no `data.json`".to_owned()));
        };
        let entry = archive.entry(json).map_err(refused)?;
        self.input.holds_clear_text();
        stream::read(entry, &mut WithFiles { sink, files }).map_err(|failure| failure.at(self.input.name()))?;
        self.archive = Some(archive);
        Ok(())
    }

    /// Decrypts a password-protected export and parses the JSON in it.
    fn protected(&self, mut file: Opened, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let path = self.input.name();
        let Some(mut password) = self.input.password()? else {
            return Err(WrongExport::PasswordProtected.at(path));
        };
        let bytes = file.bytes().map_err(|problem| self.input.failed(problem))?;
        let plain = protected::open(bytes, &mut password).map_err(|problem| match problem {
            protected::ProtectedError::Json(line, column) => error::malformed(path, line, column, stream::SHAPE),
            protected::ProtectedError::Refused(what, hint) => self.input.refused(what, hint),
        })?;
        stream::read(Cursor::new(plain), sink).map_err(|failure| failure.at(self.input.name()))
    }
}

/// Passes every item of the output of `bw list items` to `sink`.
///
/// # Errors
/// A message without a value.
pub(crate) fn read_items(output: impl Read, sink: &mut dyn Sink) -> Result<(), String> {
    let path = Path::new("what it printed");
    stream::read(output, sink).map_err(|failure| failure.at(path).to_string())
}

impl Kind for Bitwarden<'_> {
    type Spec = FileSpec;

    const TAKES_PASSWORD: bool = true;

    fn open<'m>(spec: &'m FileSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Bitwarden::new(Input::new(name, spec, context)))
    }
}

impl Vault for Bitwarden<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let mut file = self.input.opened()?;
        let failed = |failure: ExportError| failure.at(self.input.name());
        let head = file.peek(HEAD).map_err(|error| failed(error.into()))?;
        if head.starts_with(archive::MAGIC) {
            return self.archive(file, sink);
        }
        if stream::begins_protected(&head) {
            return self.protected(file, sink);
        }
        match stream::read(file.reader(), sink) {
            // The key that declares it is after the data. No Bitwarden program writes that, and only a file can be read
            // again.
            Err(ExportError::Wrong(WrongExport::PasswordProtected)) if file.rewind() => self.protected(file, sink),
            result => {
                self.input.holds_clear_text();
                result.map_err(failed)
            }
        }
    }

    fn attachment(&mut self, place: &str) -> Result<Secret, String> {
        let archive = self.archive.as_mut().zip(place.parse().ok());
        let (archive, index) = archive
            .ok_or_else(|| "the export does not hold it: only the file format `.zip` has attachments".to_owned())?;
        archive.attachment(index)
    }
}

/// A sink that adds attachments to each item.
struct WithFiles<'s> {
    sink: &'s mut dyn Sink,
    /// By the item's id: names, and indexes in the archive.
    files: HashMap<String, Vec<(String, usize)>>,
}

impl Sink for WithFiles<'_> {
    fn folder(&mut self, id: &str, name: &str) -> Result<(), SinkLimit> {
        self.sink.folder(id, name)
    }

    fn item(&mut self, item: &dyn Entry) -> Result<(), SinkLimit> {
        match self.files.get(item.id()) {
            Some(files) => self.sink.item(&WithAttachments { item, files }),
            None => self.sink.item(item),
        }
    }

    fn left_out(&mut self, item: &dyn Entry, place: LeftOut) -> Result<(), SinkLimit> {
        self.sink.left_out(item, place)
    }
}

/// An item with attachments.
struct WithAttachments<'i> {
    item: &'i dyn Entry,
    files: &'i [(String, usize)],
}

impl Entry for WithAttachments<'_> {
    fn id(&self) -> &str {
        self.item.id()
    }

    fn name(&self) -> &str {
        self.item.name()
    }

    fn places(&self) -> Vec<&str> {
        self.item.places()
    }

    fn changed(&self) -> Option<&str> {
        self.item.changed()
    }

    fn fields(&self) -> Vec<Field> {
        let mut fields = self.item.fields();
        // The attachments that the item itself names are the same ones.
        fields.retain(|field| !matches!(field.value, Value::Attachment(_)));
        fields.extend(self.files.iter().map(|(name, index)| Field::attachment(name, index.to_string())));
        fields
    }
}

#[cfg(test)]
mod files;
#[cfg(test)]
mod tests;
