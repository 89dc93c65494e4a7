//! The exports in tests/exports that are archives, encrypted, or tables: changed anywhere, they are read or refused.

use std::collections::BTreeMap;
use std::path::Path;

use deaddrop_vault::{Column, CsvSpec, FileSpec, PasswordSpec, SourceSpec};

use super::engine::Target;
use super::input::Input;
use super::rng::Rng;
use super::source::Place;
use super::text::edits;

/// One kind of export: a good one, what its format is made of, and a source that reads it.
struct Kind {
    base: Vec<u8>,
    words: &'static [&'static str],
    place: Place,
}

pub struct Vaults {
    kinds: Vec<Kind>,
}

impl Vaults {
    pub fn new() -> Self {
        let password = PasswordSpec::File("password".into());
        let locked = || FileSpec { password: Some(password.clone()), ..FileSpec::plain("file") };
        let plain = || FileSpec::plain("file");
        let columns = [("password", "password"), ("notes", "note"), ("folder", "url")];
        let columns: BTreeMap<String, Column> =
            columns.map(|(field, column)| (field.to_owned(), Column::Name(column.to_owned()))).into();
        let wanted = [
            ("Router", None),
            ("dollar", Some("custom")),
            ("unicode", Some("file:binary")),
            ("Homelab/Key", Some("private_key")),
            ("Files", Some("file:plain.txt")),
            ("Kinds", Some("file:wg0.conf")),
            ("Nowhere", None),
        ];
        let kind = |name: &str, words, spec| {
            let base = std::fs::read(Path::new("tests/exports").join(name)).expect("an export of ours");
            let place = Place::new(spec, &wanted);
            place.write("password", "correct \"horse\" $battery ünïcödé".as_bytes());
            Kind { base, words, place }
        };
        Self {
            kinds: vec![
                kind("bitwarden-pbkdf2.json", PROTECTED, SourceSpec::Bitwarden(locked())),
                kind("bitwarden-argon2.json", PROTECTED, SourceSpec::Bitwarden(locked())),
                kind("bitwarden.zip", ZIP, SourceSpec::Bitwarden(plain())),
                kind("onepassword.1pux", ZIP, SourceSpec::OnePassword(plain())),
                kind("proton.zip", ZIP, SourceSpec::ProtonPass(plain())),
                kind("proton-around.pgp", PGP, SourceSpec::ProtonPass(locked())),
                kind("lastpass.csv", TABLE, SourceSpec::LastPass(plain())),
                kind(
                    "chrome.csv",
                    TABLE,
                    SourceSpec::Csv(CsvSpec { file: plain(), item: Column::Name("name".to_owned()), fields: columns }),
                ),
            ],
        }
    }
}

impl Target for Vaults {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let base = rng.below(self.kinds.len());
        let kind = &self.kinds[base];
        Input { base, edits: edits(rng, &kind.base, kind.words), ..Input::default() }
    }

    fn run(&mut self, input: &Input) -> String {
        // An edit can make a name of a value, and names may be offered: what holds is that nothing breaks.
        let bytes = self.bytes(input);
        self.kinds[input.base].place.ask(&bytes, true)
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        input.bytes(&self.kinds[input.base].base)
    }
}

const PROTECTED: &[&str] = &[
    "\"kdfType\": 1,",
    "\"kdfIterations\": 5000,",
    "\"kdfMemory\": 16,",
    "\"salt\": \"\",",
    "\"data\": \"",
    "2.",
    "|",
    "=",
    "==",
    "\\/",
    "\\u002b",
    "null",
    "-1",
    "99999999999",
    "\"",
    "{",
    "}",
    ",",
    "\n",
    "A",
    "\u{feff}",
    "é",
];

const ZIP: &[&str] = &[
    "PK\u{3}\u{4}",
    "PK\u{1}\u{2}",
    "PK\u{5}\u{6}",
    "PK\u{6}\u{7}",
    "\u{0}\u{0}",
    "\u{7f}\u{7f}",
    "data.json",
    "/",
    "../",
    "\u{8}",
];

const PGP: &[&str] = &[
    "-----BEGIN PGP MESSAGE-----",
    "-----END PGP MESSAGE-----",
    "\n",
    "\n\n",
    "=",
    "==",
    "AAAA",
    "/",
    "+",
    ": ",
    "jA0E",
    "\u{0}",
];

const TABLE: &[&str] = &[
    "\"",
    "\"\"",
    ",",
    "\n",
    "\r\n",
    "\r",
    ",,,,,,,",
    "NoteType:",
    "Notes:",
    ":",
    "-----BEGIN ",
    "-----END ",
    "http://sn",
    "\\",
    "\u{0}",
    "\u{feff}",
    "é",
];
