//! `proton-pass`: exports of Proton Pass: a ZIP file of `Proton Pass/data.json`, or with a passphrase `Proton
//! Pass/data.pgp`, and `Proton Pass/files/`. Earlier versions encrypted the whole ZIP file, or the JSON alone.
//!
//! Format: ProtonMail/WebClients, `packages/pass/lib/export/` (`archive.ts`, `types.ts`) and
//! `packages/pass/lib/import/providers/protonpass/`. `shape` has the types of an item, `field` lists its fields.

mod field;
mod shape;

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Cursor, Read};

use deaddrop_core::secret::Secret;
use serde::de::{IgnoredAny, MapAccess};

use crate::input::archive::{self, Archive};
use crate::input::context::Context;
use crate::input::meter::{Meter, Metered};
use crate::input::{Input, openpgp, read};
use crate::items::item::Sink;
use crate::items::json::{Feed, JsonError, Keyed, List, Object, Text, parse};
use crate::items::reader::Vault;
use crate::kinds::Kind;
use crate::spec::FileSpec;
use crate::{OpenError, Source};
use field::{Files, PlacedItem};
use shape::{Folder, Item};

const SHAPE: &str = "this is JSON, but a Proton Pass export has something else here";

const HINT: &str =
    "in Proton Pass: Settings, Export, file format PGP-encrypted or ZIP; see docs/sources.md#proton-pass";

/// Number of bytes that are read to detect the format.
const HEAD: usize = 256;

/// Maximum nesting depth of folders.
const MAX_DEPTH: usize = 32;

/// A source of kind `proton-pass`.
pub(crate) struct ProtonPass<'m> {
    input: Input<'m>,
    /// The ZIP file, once it is open.
    archive: Option<Archive>,
}

impl<'m> ProtonPass<'m> {
    pub(crate) fn new(input: Input<'m>) -> Self {
        Self { input, archive: None }
    }

    fn refused(&self, what: impl Into<String>) -> OpenError {
        self.input.refused(what, HINT)
    }

    /// Decrypts an OpenPGP file.
    fn decrypt(&self, file: zeroize::Zeroizing<Vec<u8>>) -> Result<Cursor<zeroize::Zeroizing<Vec<u8>>>, OpenError> {
        let Some(mut passphrase) = self.input.password()? else {
            let hint = "say where the passphrase comes from: `password: { env: NAME }`, `{ file: PATH }`, `{ exec: \
            [PROGRAM, …] }` \
                        or `ask`";
            return Err(self
                .input
                .refused("this export is encrypted with a passphrase, and the source has no `password`", hint));
        };
        let plain = openpgp::decrypt(file, &mut passphrase);
        plain.map(Cursor::new).map_err(|openpgp::OpenPgpError(what, hint)| self.input.refused(what, hint))
    }

    fn json(&self, json: impl Read, files: &Files, sink: &mut dyn Sink) -> Result<(), OpenError> {
        read(json, files, sink).map_err(|failure| match failure {
            Some(failure) => failure.refused(&self.input, HINT),
            None => self.refused("this is JSON, but not a Proton Pass export: it has no `vaults`"),
        })
    }

    /// Reads a ZIP file. `is_decrypted`: it was inside an encrypted one.
    fn zip(
        &mut self,
        file: Box<dyn archive::ReadSeek>,
        is_decrypted: bool,
        sink: &mut dyn Sink,
    ) -> Result<(), OpenError> {
        let mut archive = Archive::open(file).map_err(|what| self.refused(what))?;
        let (mut json, mut encrypted, mut files) = (None, None, Files::default());
        for (index, name) in archive.names() {
            let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
            match file {
                _ if folder == "files" || folder.ends_with("/files") => files.add(file, index),
                "data.json" => json = Some(index),
                "data.pgp" => encrypted = Some(index),
                _ => {}
            }
        }
        match (json, encrypted) {
            (Some(json), _) => {
                if !is_decrypted {
                    self.input.holds_clear_text();
                }
                let entry = archive.entry(json).map_err(|what| self.refused(what))?;
                self.json(entry, &files, sink)?;
            }
            (None, Some(encrypted)) => {
                let entry = archive.entry(encrypted).map_err(|what| self.refused(what))?;
                let bytes =
                    read::to_end(entry, 0, openpgp::MAX_ENCRYPTED).map_err(|problem| self.input.failed(problem))?;
                let plain = self.decrypt(bytes)?;
                self.json(plain, &files, sink)?;
            }
            (None, None) => {
                return Err(
                    self.refused("this ZIP file is not a Proton Pass export: it has no `data.json` and no `data.pgp`")
                );
            }
        }
        self.archive = Some(archive);
        Ok(())
    }
}

impl Kind for ProtonPass<'_> {
    type Spec = FileSpec;

    const TAKES_PASSWORD: bool = true;

    fn open<'m>(spec: &'m FileSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(ProtonPass::new(Input::new(name, spec, context)))
    }
}

impl Vault for ProtonPass<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let mut file = self.input.opened()?;
        let head = file.peek(HEAD).map_err(|error| JsonError::Io(error).refused(&self.input, HINT))?;
        if head.starts_with(archive::MAGIC) {
            let file = file.seekable().map_err(|problem| self.input.failed(problem))?;
            return self.zip(file, false, sink);
        }
        if openpgp::is_encrypted(&head) {
            let bytes = file.bytes_up_to(openpgp::MAX_ENCRYPTED).map_err(|problem| self.input.failed(problem))?;
            let plain = self.decrypt(bytes)?;
            return match plain.get_ref().starts_with(archive::MAGIC) {
                true => self.zip(Box::new(plain), true, sink),
                false => self.json(plain, &Files::default(), sink),
            };
        }
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start();
        match text.first() {
            Some(b'{') => {
                self.input.holds_clear_text();
                self.json(file.reader(), &Files::default(), sink)
            }
            None => Err(self.refused("the file is empty")),
            Some(_) if text.starts_with(b"type,name,") => {
                let hint = "it can be read as `type: csv`, without its extra fields; better export it again: ";
                Err(self.input.refused("this is Proton Pass's CSV export", format!("{hint}{HINT}")))
            }
            Some(_) => Err(self.refused("this is not a Proton Pass export: neither a ZIP file, nor OpenPGP, nor JSON")),
        }
    }

    fn attachment(&mut self, place: &str) -> Result<Secret, String> {
        Archive::attachment_at(self.archive.as_mut(), place)
    }
}

/// Passes every vault, folder and item to `sink`.
///
/// # Errors
/// The reason why parsing stopped; `None` if there are no vaults.
fn read(json: impl Read, files: &Files, sink: &mut dyn Sink) -> Result<(), Option<JsonError>> {
    let meter = Meter::default();
    let metered = Metered::new(json, &meter).map_err(|error| Some(JsonError::Io(error)))?;
    let feed = Feed::new(&meter, sink);
    let mut export = Export { feed: &feed, files, seen: false };
    parse(metered, SHAPE, Keyed(&mut export)).map_err(Some)?;
    if export.seen { Ok(()) } else { Err(None) }
}

/// Parses the top level.
struct Export<'r> {
    feed: &'r Feed<'r>,
    files: &'r Files,
    seen: bool,
}

impl Object for Export<'_> {
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        if key != "vaults" {
            return map.next_value::<IgnoredAny>().map(drop);
        }
        self.seen = true;
        map.next_value_seed(Keyed(&mut Vaults { feed: self.feed, files: self.files, count: Cell::new(0) }))
    }
}

/// Parses the vaults, by id.
struct Vaults<'r> {
    feed: &'r Feed<'r>,
    files: &'r Files,
    /// Number of vaults so far. It serves as the vault's id, because the real one can be long.
    count: Cell<usize>,
}

impl Object for Vaults<'_> {
    fn value<'de, A: MapAccess<'de>>(&mut self, _: &str, map: &mut A) -> Result<(), A::Error> {
        self.count.set(self.count.get().saturating_add(1));
        let mut vault = OneVault {
            feed: self.feed,
            files: self.files,
            place: self.count.get().to_string(),
            name: None,
            folders: Vec::new(),
        };
        map.next_value_seed(Keyed(&mut vault))
    }
}

struct OneVault<'r> {
    feed: &'r Feed<'r>,
    files: &'r Files,
    place: String,
    name: Option<String>,
    folders: Vec<Folder>,
}

impl Object for OneVault<'_> {
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "name" => {
                self.name = map.next_value::<Text>()?.get().map(str::to_owned);
                // Pass the folder before its items, so that the search need not keep them as pending.
                self.name.as_deref().map_or(Ok(()), |name| self.feed.folder(&self.place, name))
            }
            "folders" => {
                self.folders = map.next_value::<List<Folder>>()?.0;
                Ok(())
            }
            "items" => map.next_value_seed(self.feed.each(|item: Item| {
                let placed = PlacedItem::new(&item, &self.place, self.files);
                match item.left_out() {
                    None => self.feed.item(&placed),
                    Some(place) => self.feed.left_out(&placed, place),
                }
            })),
            _ => map.next_value::<IgnoredAny>().map(drop),
        }
    }

    /// The name of a folder includes that of its vault.
    fn end<E: serde::de::Error>(&mut self) -> Result<(), E> {
        let Some(vault) = &self.name else { return Ok(()) };
        let by_id: HashMap<&str, &Folder> =
            self.folders.iter().filter_map(|folder| Some((folder.folder_id.get()?, folder))).collect();
        for (id, folder) in &by_id {
            let (mut names, mut next) = (Vec::new(), Some(*folder));
            while let Some(folder) = next.filter(|_| names.len() < MAX_DEPTH) {
                names.push(folder.name.get().unwrap_or_default());
                next = folder.parent_folder_id.get().and_then(|id| by_id.get(id).copied());
            }
            names.push(vault);
            names.reverse();
            self.feed.folder(&shape::place(&self.place, id), &names.join("/"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
