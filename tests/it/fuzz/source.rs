//! Exports and dotenv files. Values are planted everywhere, and no error may hold a piece of one.

use std::collections::BTreeMap;

use deaddrop::manifest::Manifest;
use deaddrop_vault::{FileSpec, Reference, SourceSpec, Wanted, fetch};
use tempfile::TempDir;

use super::engine::{Target, write_anew};
use super::input::Input;
use super::rng::Rng;
use super::text::edits;

/// The values that are planted. Pieces of this length are looked for: shorter ones could stand anywhere.
pub const CANARY: &str = "Qz7-vXk9_wJ4+pLm2=Rt8";
const PIECE: usize = 6;

/// A directory with one source file in it.
pub struct Place {
    directory: TempDir,
    manifest: Manifest,
    references: Vec<Reference>,
}

impl Place {
    pub fn new(spec: SourceSpec, wanted: &[(&str, Option<&str>)]) -> Self {
        let directory = TempDir::new().expect("making a directory");
        let manifest = Manifest {
            file: "secrets.yaml".into(),
            directory: directory.path().to_owned(),
            sources: BTreeMap::from([("vault".to_owned(), spec)]),
            secrets: Vec::new(),
            hosts: BTreeMap::new(),
            serial: Vec::new(),
            persist_root: None,
            allow: Default::default(),
            warnings: Vec::new(),
        };
        let reference = |(item, field): &(&str, Option<&str>)| Reference {
            source: "vault".into(),
            item: (*item).into(),
            field: field.map(str::to_owned),
        };
        Self { directory, manifest, references: wanted.iter().map(reference).collect() }
    }

    /// Writes another file beside the source's.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        write_anew(&self.directory.path().join(name), bytes);
    }

    /// Asks for everything, each alone and all at once.
    pub fn ask(&self, bytes: &[u8], is_name: bool) -> String {
        write_anew(&self.directory.path().join("file"), bytes);
        let wanted: Vec<Wanted<'_>> = self
            .references
            .iter()
            .map(|reference| Wanted { reference, secret: "a-secret", allow_empty: false })
            .collect();
        let mut found = 0;
        for wanted in wanted.chunks(1).chain([wanted.as_slice()]) {
            match fetch(&self.manifest.vaults(), wanted) {
                Ok(fetched) => {
                    assert_eq!(fetched.values.len(), wanted.len());
                    found += fetched.values.len();
                    let shown = format!("{fetched:?}");
                    assert!(!holds_value(&shown), "Debug shows a value");
                }
                Err(errors) => {
                    let mut shown = format!("{errors}\n{errors:?}\n");
                    for error in &errors {
                        shown += &error.hint().unwrap_or_default();
                        shown += &format!("\n{error}\n{error:?}\n");
                    }
                    assert!(shown.len() < 1 << 20, "{} bytes of errors", shown.len());
                    // What stands where a name belongs is one.
                    assert!(is_name || !holds_value(&shown), "an error holds a piece of a value");
                }
            }
        }
        format!("{found} found")
    }
}

pub fn holds_value(text: &str) -> bool {
    CANARY.as_bytes().windows(PIECE).any(|piece| text.contains(std::str::from_utf8(piece).expect("it is ASCII")))
}

/// Plain Bitwarden exports.
pub struct Exports {
    base: String,
    place: Place,
}

impl Exports {
    pub fn new() -> Self {
        let base = EXPORT.replace("CANARY", CANARY);
        let wanted = [
            ("Node admin", None),
            ("11111111-0000-4000-8000-000000000001", Some("notes")),
            ("Homelab/K3s", Some("token")),
            ("K3s", Some("totp")),
            ("Twice", None),
            ("Key", Some("private_key")),
            ("Nowhere", None),
            ("Nodeadmin", Some("tokn")),
        ];
        Self { base, place: Place::new(SourceSpec::Bitwarden(FileSpec::plain("file")), &wanted) }
    }
}

impl Target for Exports {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        if rng.one_in(60) {
            let what = rng.pick(&[
                "[",
                "{\"a\":",
                "{\"items\":[",
                "{\"items\":[{\"login\":",
                "{\"items\":[{\"fields\":[",
                "\"\\u0041",
                "9",
            ]);
            let count = [10, 200, 5_000, 200_000][rng.below(4)];
            let before = rng.pick(&["", "{\"items\":", "{\"items\":[{\"name\":\"x\",\"login\":", "{\"folders\":"]);
            return Input::made(format!("{before}{}", what.repeat(count)).into_bytes());
        }
        Input { edits: edits(rng, self.base.as_bytes(), JSON), ..Input::default() }
    }

    fn run(&mut self, input: &Input) -> String {
        let bytes = self.bytes(input);
        let text = String::from_utf8_lossy(&bytes);
        // Texts behind these keys are names, which errors may offer. JSON that is broken has none that a person wrote.
        let names = ["name", "id", "folderId", "collectionIds", "revisionDate"];
        let is_name = names.iter().any(|name| {
            text.match_indices(&format!("\"{name}\"")).any(|(at, found)| {
                let rest: String = text[at + found.len()..].chars().take(400).collect();
                let value = rest.trim_start_matches([' ', ':', '\n', '[']);
                let end = value.char_indices().skip(1).find(|(_, c)| *c == '"').map_or(value.len(), |(end, _)| end);
                holds_value(&value[..end])
            })
        });
        self.place.ask(&bytes, is_name)
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        input.bytes(self.base.as_bytes())
    }
}

const EXPORT: &str = r#"{
  "encrypted": false,
  "folders": [ { "id": "22222222-0000-4000-8000-000000000001", "name": "Homelab" } ],
  "items": [
    { "id": "11111111-0000-4000-8000-000000000001", "folderId": "22222222-0000-4000-8000-000000000001", "type": 1,
      "name": "Node admin", "notes": "CANARY\nmore", "revisionDate": "2026-01-17T08:30:00.000Z", "deletedDate": null,
      "login": { "uris": [ { "match": null, "uri": "ssh://CANARY" } ], "username": "CANARY",
"password": "CANARY", "totp": "CANARY" },
      "fields": null, "collectionIds": null },
    { "id": "11111111-0000-4000-8000-000000000002", "folderId": "22222222-0000-4000-8000-000000000001", "type": 1,
      "name": "K3s", "fields": [ { "name": "token", "value": "CANARY", "type": 1 },
{ "name": "token2", "value": "CANARY" } ],
      "login": { "username": null, "password": "", "totp": null } },
    { "id": "11111111-0000-4000-8000-000000000003", "type": 1, "name": "Twice", "login": { "password": "CANARY" } },
    { "id": "11111111-0000-4000-8000-000000000004", "type": 1, "name": "Twice", "login": { "password": "other" } },
    { "id": "11111111-0000-4000-8000-000000000005", "type": 5, "name": "Key",
      "sshKey": { "privateKey": "CANARY", "publicKey": "ssh-ed25519 x" } }
  ]
}
"#;

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "\\u0000",
    "null",
    "true",
    "0",
    "-",
    "1e999",
    "\"encrypted\": true,",
    "\"items\": [",
    "\"items\": [],",
    "\"folders\": null,",
    "\"login\": null,",
    "\"password\": ",
    "\"fields\": [",
    "\"deletedDate\": \"x\",",
    "\"type\": 9,",
    "\u{0}",
    "\u{feff}",
    "é",
    "\n",
    "\t",
    " ",
    "//",
    "NaN",
    "\"passwordProtected\": true,",
    "\"data\": \"",
    "{}",
    "[]",
    "\"\"",
    "\u{7f}",
];

/// Files of `KEY=value` lines.
pub struct Dotenvs {
    base: String,
    place: Place,
}

impl Dotenvs {
    pub fn new() -> Self {
        let wanted = [("A", None), ("B", None), ("LONG", None), ("Q", None), ("NOT_THERE", None), ("A", Some("field"))];
        Self {
            base: ENV.replace("CANARY", CANARY),
            place: Place::new(SourceSpec::Dotenv(FileSpec::plain("file")), &wanted),
        }
    }
}

impl Target for Dotenvs {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        if rng.one_in(100) {
            let what = rng.pick(&["A", "\n", "A='", "\"", "\\", "A=\n", "export ", "A=\"\\", "#", " ", "\r"]);
            return Input::made(what.repeat([10, 1000, 100_000, 1_000_000][rng.below(4)]).into_bytes());
        }
        Input { edits: edits(rng, self.base.as_bytes(), DOTENV), ..Input::default() }
    }

    fn run(&mut self, input: &Input) -> String {
        let bytes = self.bytes(input);
        let text = String::from_utf8_lossy(&bytes);
        // A piece of a value that starts a line is taken for a key, if it looks like one.
        let is_name = text.split(['\n', '\r']).any(|line| {
            let start: String = line.trim_start().chars().take_while(|c| *c != '=').collect();
            holds_value(&start)
        });
        self.place.ask(&bytes, is_name)
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        input.bytes(self.base.as_bytes())
    }
}

const ENV: &str = "# a comment\nA=CANARY\nexport B='CANARY' # said\nLONG=\"CANARY\n# still\nCANARY\\n\"\n\nQ = CANARY\n\
                   EMPTY=\nNOVALUE\n";

const DOTENV: &[&str] = &[
    "=", "'", "\"", "\\", "#", " #", "\n", "\r", "\r\n", "export ", "export", "A=", "\nA=", "\\n", "\\\"", "\\'", "$",
    "${A}", " ", "\t", "\u{0}", "\u{feff}", "\u{a0}", "\u{85}", "\u{2028}", "é", "A", "B='", "C=\"", "''", "\"\"",
    "\u{b}", "\u{1c}",
];
