//! Documents, age files, KeePass databases and entries of stores: what is inside is changed before it is encrypted, and
//! the encrypted file itself. They are read or refused.

use std::iter;

use age::x25519;
use deaddrop_vault::{
    AgeSpec, AgeStoreSpec, DataFormat, FileSpec, KdfLimit, KeePassSpec, PasswordSpec, SourceSpec, StoreSpec,
};

use super::engine::Target;
use super::input::Input;
use super::rng::Rng;
use super::source::{CANARY, Place, holds_value};
use super::text::edits;

#[path = "../../exports/keepass/writer.rs"]
mod writer;

/// What a case's bytes become.
#[derive(Clone, Copy, PartialEq)]
enum Around {
    /// Encrypted by age.
    Age,
    /// Nothing: they are the file.
    Nothing,
    /// A database of KeePass, compressed or not.
    KeePass,
}

/// One kind of file.
struct Kind {
    base: Vec<u8>,
    words: &'static [&'static str],
    around: Around,
    place: Place,
}

/// See above.
pub struct Stores {
    kinds: Vec<Kind>,
    recipient: x25519::Recipient,
}

impl Stores {
    pub fn new() -> Self {
        let identity = x25519::Identity::generate();
        let recipient = identity.to_public();
        let identity = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
        let age = || FileSpec { identity: Some("identity".into()), ..FileSpec::plain("file") };
        let document = |format| SourceSpec::Age(AgeSpec { file: age(), format });
        let keepass = || {
            SourceSpec::KeePass(KeePassSpec {
                file: FileSpec { password: Some(PasswordSpec::File("pw".into())), ..FileSpec::plain("file") },
                key_file: None,
            })
        };
        let passage = SourceSpec::Passage(AgeStoreSpec {
            store: StoreSpec { path: Some(".".into()) },
            identity: Some("identity".into()),
            password: None,
            kdf_limit: KdfLimit::Bounded,
        });
        let kinds = vec![
            (JSON, JSON_WORDS, Around::Age, document(DataFormat::Json), ITEMS),
            (YAML, YAML_WORDS, Around::Age, document(DataFormat::Yaml), ITEMS),
            (DOTENV, DOTENV_WORDS, Around::Age, document(DataFormat::Dotenv), ITEMS),
            (XML, XML_WORDS, Around::KeePass, keepass(), ENTRIES),
            (ENTRY, YAML_WORDS, Around::Age, passage, STORED),
            (JSON, BYTES, Around::Nothing, document(DataFormat::Json), ITEMS),
            (XML, BYTES, Around::Nothing, keepass(), ENTRIES),
        ];
        let kinds = kinds.into_iter().map(|(base, words, around, spec, wanted)| {
            let is_keepass = matches!(spec, SourceSpec::KeePass(_));
            let place = Place::new(spec, wanted);
            place.write("identity", identity.as_bytes());
            place.write("pw", b"x");
            let mut base = base.replace("CANARY", CANARY).into_bytes();
            if around == Around::Nothing {
                base = if is_keepass { writer::database(&base, false) } else { encrypted(&recipient, &base) };
            }
            Kind { base, words, around, place }
        });
        Self { kinds: kinds.collect(), recipient }
    }
}

fn encrypted(recipient: &x25519::Recipient, bytes: &[u8]) -> Vec<u8> {
    let recipient: &dyn age::Recipient = recipient;
    let mut file = Vec::new();
    let encryptor = age::Encryptor::with_recipients(iter::once(recipient)).expect("one recipient");
    let mut writer = encryptor.wrap_output(&mut file).expect("memory");
    std::io::Write::write_all(&mut writer, bytes).expect("memory");
    writer.finish().expect("memory");
    file
}

impl Target for Stores {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let base = rng.below(self.kinds.len());
        let kind = &self.kinds[base];
        if kind.around != Around::Nothing && rng.one_in(40) {
            let made = rng.pick(kind.words).repeat([10, 200, 5_000, 100_000][rng.below(4)]);
            return Input { base, made: Input::made(made.into_bytes()).made, ..Input::default() };
        }
        Input { base, edits: edits(rng, &kind.base, kind.words), choice: rng.below(2) as u64, ..Input::default() }
    }

    fn run(&mut self, input: &Input) -> String {
        let kind = &self.kinds[input.base];
        let bytes = input.bytes(&kind.base);
        // What stands where a key belongs is a name: before `:`, in YAML also after `?` and in `{…}`, in dotenv
        // before `=`.
        let is_name = String::from_utf8_lossy(&bytes).lines().any(|line| {
            let key = line.rfind(':').map_or("", |colon| &line[..colon]);
            let start = line.split('=').next().unwrap_or_default();
            holds_value(key)
                || kind.words == YAML_WORDS && line.contains(['?', '{']) && holds_value(line)
                || kind.words == DOTENV_WORDS && holds_value(start)
                || kind.words == XML_WORDS
        });
        let file = match kind.around {
            Around::Nothing => bytes,
            Around::Age => encrypted(&self.recipient, &bytes),
            Around::KeePass => writer::database(&bytes, input.choice == 1),
        };
        // The store's one entry.
        kind.place.write("entry.age", &file);
        kind.place.ask(&file, is_name)
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        input.bytes(&self.kinds[input.base].base)
    }
}

type Wanted = &'static [(&'static str, Option<&'static str>)];

const ITEMS: Wanted = &[
    ("token", None),
    ("/db/password", None),
    ("db", Some("password")),
    ("/list/1", None),
    ("db", None),
    ("tokn", None),
    ("number", None),
    ("A", None),
];

const ENTRIES: Wanted = &[
    ("Top", None),
    ("g/In", Some("username")),
    ("R/Top", Some("pin")),
    ("refers", None),
    ("Top", Some("file:f")),
    ("Twice", None),
    ("01010101-0101-0101-0101-010101010101", None),
];

const STORED: Wanted = &[("entry", None), ("entry", Some("user")), ("entry", Some("notes")), ("entri", None)];

const JSON: &str = "{\n \"token\": \"CANARY\",\n \"db\": {\"password\":\n \"CANARY\"},\n \
                    \"number\": -1.50e3, \"list\": [null, true,\n \"CANARY\"]\n}\n";

const JSON_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\ud800",
    "\\u0000",
    "null",
    "true",
    "0",
    "1e999",
    "\"token\": ",
    "\"db\": {",
    "\u{feff}",
    "é",
    "\n",
    " ",
    "{\"a\":",
    "[[",
];

const YAML: &str = "token: 'CANARY'\ndb: &db\n  password: CANARY\nlist:\n- ~\n- |\n  CANARY\nnumber: 0x1F\n\
                    more: {<<: *db, a: [*db]}\n";

const YAML_WORDS: &[&str] = &[
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "'",
    "\"",
    "&a ",
    "*a",
    "*db",
    "!!str ",
    "!x ",
    "|",
    ">-",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    "~",
    "---\n",
    "...\n",
    "%",
    "\t",
    "? ",
    "<<: *db",
    "\u{feff}",
    "é",
    "otpauth://",
    "login: ",
];

const DOTENV: &str = "token='CANARY'\nA=CANARY\nnumber=\"CANARY\\n\nCANARY\"\n";

const DOTENV_WORDS: &[&str] = &["=", "'", "\"", "\\", "#", "\n", "export ", "token=", " ", "\u{0}", "é"];

const XML: &str = "<?xml version=\"1.0\"?>\n<KeePassFile><Meta><RecycleBinEnabled>True</RecycleBinEnabled>\
  <RecycleBinUUID>AAAAAAAAAAAAAAAAAAAAAw==</RecycleBinUUID></Meta><Root>\
  <Group><UUID>AAAAAAAAAAAAAAAAAAAAAQ==</UUID><Name>R</Name>\
  <Entry><UUID>AQEBAQEBAQEBAQEBAQEBAQ==</UUID><Times><LastModificationTime>AAAAAAAAAAA=</LastModificationTime></Times>\
  <String><Key>Title</Key><Value>Top</Value></String>\
  <String><Key>Password</Key><Value>CANARY&amp;&#65;</Value></String>\
  <String><Key>pin</Key><Value Protected=\"True\">Q0FOQVJZ</Value></String>\
  <Binary><Key>f</Key><Value Ref=\"0\"/></Binary>\
  <History><Entry><UUID>AQEBAQEBAQEBAQEBAQEBAQ==</UUID></Entry></History></Entry>\
  <Entry><UUID>AQEBAQEBAQEBAQEBAQEBAg==</UUID><String><Key>Title</Key><Value>refers</Value></String>\
  <String><Key>Password</Key><Value>{REF:P@T:Top}{REF:U@I:01010101010101010101010101010101}</Value></String></Entry>\
  <Group><UUID>AAAAAAAAAAAAAAAAAAAAAg==</UUID><Name>g</Name>\
  <Entry><UUID>AQEBAQEBAQEBAQEBAQEBAw==</UUID><String><Key>Title</Key><Value>In</Value></String>\
  <String><Key>UserName</Key><Value>CANARY</Value></String></Entry></Group>\
  <Group><UUID>AAAAAAAAAAAAAAAAAAAAAw==</UUID><Name>bin</Name></Group></Group></Root></KeePassFile>\n";

const XML_WORDS: &[&str] = &[
    "<",
    ">",
    "/",
    "</",
    "/>",
    "&",
    "&#0;",
    "&#x110000;",
    "&lt;",
    "<![CDATA[",
    "]]>",
    "<!--",
    "<!DOCTYPE a>",
    "<Group>",
    "</Group>",
    "<Entry>",
    "</Entry>",
    "<String>",
    "<Key>",
    "<Value>",
    "<Value Protected=\"True\">",
    "<UUID>",
    "{REF:",
    "{REF:P@T:refers}",
    "}",
    "@",
    "AAAA",
    "=",
    "\"",
    "\u{0}",
    "<History>",
    "<Binary>",
    "<Value Ref=\"",
];

const ENTRY: &str = "CANARY\nlogin: CANARY\nuser: CANARY\notpauth://CANARY\nfree\n---\na: CANARY\n";

const BYTES: &[&str] =
    &["\u{0}", "\u{1}", "-> X25519 ", "-> scrypt ", "--- ", "\n", "age-encryption.org/v1\n", "AAAA", "\u{7f}"];
