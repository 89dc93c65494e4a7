//! The export in tests/exports, complete and damaged.

use std::io::Read;

use deaddrop_core::secret::Secret;

use super::error::WrongExport;
use super::shape;
use super::stream::{self, ExportError};
use crate::input::meter::ExportLimit;
use crate::items::item::{self, Answer, Sink};
use crate::items::json;
use crate::items::search::Search;
use crate::{LookupError, Reference};

const PERSONAL: &str = include_str!("../../../../../tests/exports/personal.json");
const ORGANISATION: &str = include_str!("../../../../../tests/exports/organisation.json");

fn reference(item: &str, field: Option<&str>) -> Reference {
    Reference { source: "vault".into(), item: item.into(), field: field.map(str::to_owned) }
}

/// `ITEM` or `ITEM#FIELD`.
fn parse(text: &str) -> Reference {
    match text.split_once('#') {
        Some((item, field)) => reference(item, Some(field)),
        None => reference(text, None),
    }
}

fn look_up(export: impl Read, wanted: &[Reference]) -> Result<Vec<Result<Secret, LookupError>>, ExportError> {
    let wanted: Vec<&Reference> = wanted.iter().collect();
    let mut search = Search::new(&wanted);
    stream::read(export, &mut search)?;
    let value = |answer| match answer {
        Answer::Value(value) => value,
        Answer::Attachment(_) => unreachable!("a JSON export has none"),
    };
    Ok(search.finish().into_iter().map(|answer| answer.map(value)).collect())
}

/// The value of one reference, or its error with the hint.
fn one(export: &str, wanted: Reference) -> Result<String, String> {
    let answer = look_up(export.as_bytes(), &[wanted]).map_err(text_of)?.pop().unwrap();
    answer.map(|value| String::from_utf8(value.expose().to_vec()).unwrap()).map_err(say_lookup)
}

fn text_of(failure: ExportError) -> String {
    let error = failure.at(std::path::Path::new("x.json"));
    let error = crate::SourceError { name: "vault".into(), secrets: vec![], cause: error.into() };
    format!("{error}\n{}\n{error:?}", error.hint().unwrap_or_default())
}

fn say_lookup(error: LookupError) -> String {
    let error = crate::SourceError { name: "vault".into(), secrets: vec![], cause: error.into() };
    format!("{error}\n{}\n{error:?}", error.hint().unwrap_or_default())
}

#[test]
fn an_item_is_found_by_id_by_name_and_by_folder_and_name() {
    for (wanted, want) in [
        ("Homelab admin", "planted-admin"),
        ("home/Homelab admin", "planted-admin"),
        ("6f1c2a7e-0000-4000-8000-000000000002", "planted-router-home"),
        ("home/Router", "planted-router-home"),
        ("work/Router", "planted-router-work"),
        ("home/rack/NAS", "planted-nas"),
        ("NAS", "planted-nas"),
        ("b/c", "planted-a-bc"),
        ("c", "planted-a-b-c"),
        ("Empty password", ""),
        ("Homelab admin#password", "planted-admin"),
        ("Homelab admin#username", "admin"),
        ("Homelab admin#totp", "otpauth://totp/planted?secret=PLANTED"),
        ("Homelab admin#notes", "planted notes\nsecond line"),
        ("Homelab admin#uri", "https://planted.example/"),
        ("Homelab admin#pin", "planted-pin"),
        ("Homelab admin#colour", "planted-text"),
        ("Homelab admin#enabled", "true"),
        ("Homelab admin#disabled", "false"),
        ("Homelab admin#unset", "false"),
        ("Homelab admin#blank", ""),
        ("Homelab admin#linked user", "admin"),
        ("Homelab admin#linked password", "planted-admin"),
        ("Wifi note#notes", "planted-note"),
        ("Wifi note#password", "planted-note-password"),
        ("Deploy key#public_key", "ssh-ed25519 planted-public"),
        (
            "Deploy key#private_key",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted-private\n-----END OPENSSH PRIVATE KEY-----\n",
        ),
    ] {
        assert_eq!(one(PERSONAL, parse(wanted)).as_deref(), Ok(want), "{wanted}");
    }
    assert_eq!(one(PERSONAL, reference("Grüße: 日本 #1", None)).unwrap(), "planted-ünïcödé 🔑");
}

#[test]
fn an_item_of_an_organisation_is_found_in_each_of_its_collections() {
    for (wanted, want) in [
        ("servers/K3s token", "planted-k3s"),
        ("servers/k3s/K3s token", "planted-k3s"),
        ("K3s token", "planted-k3s"),
        ("servers/Backup", "planted-backup"),
        ("servers/k3s/Backup#username", "restic"),
    ] {
        assert_eq!(one(ORGANISATION, parse(wanted)).as_deref(), Ok(want), "{wanted}");
    }
    assert!(one(ORGANISATION, parse("Backup")).unwrap_err().contains("servers/k3s/Backup"));
}

#[test]
fn what_cannot_be_looked_up_is_told_with_what_to_do() {
    let has_notes = "it has: notes, password\nname the field, as in `vault:Wifi note#notes`";
    for (wanted, want) in [
        ("NSA", "vault: no item \"NSA\"\n"),
        ("Wifi note2", "vault: no item \"Wifi note2\"\ndid you mean `vault:Wifi note` or `vault:home/Wifi note`?"),
        ("office/Router", "vault: no item \"office/Router\"\ndid you mean `vault:home/Router` or `vault:work/Router`?"),
        ("Old token", "vault: item \"Old token\" is in the trash, and no value is taken from there\n"),
        ("home/NAS", "vault: no item \"home/NAS\"\ndid you mean `vault:NAS` or `vault:home/rack/NAS`?"),
        (
            "Router",
            "vault: two items are called \"Router\"\n   \
             home/Router   6f1c2a7e-0000-4000-8000-000000000002   changed 2025-03-02\n   \
             work/Router   6f1c2a7e-0000-4000-8000-000000000003   changed 2026-01-17\n\
             write `vault:home/Router`, or the id\n",
        ),
        (
            "work/Twin",
            "vault: two items are called \"work/Twin\"\n   \
             work/Twin   6f1c2a7e-0000-4000-8000-000000000016   changed 2026-01-17\n   \
             work/Twin   6f1c2a7e-0000-4000-8000-000000000017   changed 2026-01-17\n\
             write the id, as in `vault:6f1c2a7e-0000-4000-8000-000000000016`\n",
        ),
        ("a/b/c", "vault: two items are called \"a/b/c\"\n   a/b/c   6f1c2a7e-0000-4000-8000-000000000005"),
        ("home/Wifi note#notes", "vault: two items are called \"home/Wifi note\"\n"),
        ("6f1c2a7e-0000-4000-8000-000000000001", "vault: two items are called \"6f1c2a7e-"),
        ("No password", "vault: item \"No password\" has no password; it has: username\nname the field"),
        ("Bare note", "vault: item \"Bare note\" has no password; it has no fields\n"),
        ("Card#code", "vault: item \"Card\" has no field \"code\"; it has: number\n"),
        (
            "Deploy key",
            "vault: item \"Deploy key\" has no password; it has: private_key, public_key\n\
             name the field, as in `vault:Deploy key#private_key`",
        ),
        ("Wifi note", &format!("vault: item \"Wifi note\" has no password; {has_notes}")),
        ("Wifi note#pin", &format!("vault: item \"Wifi note\" has no field \"pin\"; {has_notes}")),
        (
            "NAS#Password",
            "vault: item \"NAS\" has no field \"Password\"; it has: password, username\n\
             did you mean `vault:NAS#password`?",
        ),
        ("Homelab admin#same", "vault: item \"Homelab admin\" has 2 fields called \"same\"\nrename one"),
        ("Homelab admin#linked else", "vault: field \"linked else\" of item \"Homelab admin\" is linked"),
        ("Odd", "vault: field \"password\" of item \"Odd\" is not text\n"),
        ("Odd#list", "vault: field \"list\" of item \"Odd\" is not text\n"),
        ("Bell\u{7}\u{202e}", "vault: item \"Bell\u{fffd}\u{fffd}\" has no password; it has no fields\n"),
    ] {
        let got = one(PERSONAL, parse(wanted)).unwrap_err();
        assert!(got.starts_with(want), "{wanted}:\n{got}");
        assert!(!got.to_lowercase().contains("planted"), "{wanted}:\n{got}");
    }
}

#[test]
fn a_list_of_items_alone_will_do_as_bw_list_items_prints_it() {
    let list = "[{\"object\":\"item\",\
    \"id\":\"1\",\"folderId\":\"f\",\"name\":\"a\",\"login\":{\"password\":\"planted\"},\
                \"attachments\":[{\"id\":\"x\",\"fileName\":\"y\"}]},\
                {\"id\":\"2\",\"name\":\"a\",\"deletedDate\":\"2026-01-17T08:30:00.000Z\"}]";
    assert_eq!(one(list, parse("a")).unwrap(), "planted");
    assert_eq!(one(list, parse("1#password")).unwrap(), "planted");
    assert!(one(list, parse("2")).unwrap_err().contains("item \"2\" is in the trash"));
    assert!(one("[]", parse("a")).unwrap_err().contains("no item"));
}

#[test]
fn a_built_in_field_wins_over_a_custom_one_of_its_name() {
    assert_eq!(one(PERSONAL, parse("Homelab admin#username")).unwrap(), "admin");
}

#[test]
fn the_order_of_keys_does_not_matter() {
    let order = |export: &str, keys: &[&str]| {
        let value: serde_json::Value = serde_json::from_str(export).unwrap();
        let parts: Vec<String> =
            keys.iter().filter_map(|key| value.get(key).map(|part| format!("\"{key}\": {part}"))).collect();
        format!("{{{}}}", parts.join(","))
    };
    for wanted in ["home/Router", "home/rack/NAS", "Router", "a/b/c", "work/Twin", "home/NAS", "office/Router"] {
        let forwards = one(&order(PERSONAL, &["encrypted", "folders", "items"]), parse(wanted));
        let backwards = one(&order(PERSONAL, &["items", "folders", "encrypted"]), parse(wanted));
        assert_eq!(forwards, backwards, "{wanted}");
    }
    for wanted in ["servers/k3s/K3s token", "servers/Backup", "Backup"] {
        let backwards = one(&order(ORGANISATION, &["items", "collections"]), parse(wanted));
        assert_eq!(one(ORGANISATION, parse(wanted)), backwards, "{wanted}");
    }
}

#[test]
fn one_reading_answers_many_references_in_their_order() {
    let wanted: Vec<Reference> =
        ["NAS", "nothing", "Homelab admin#pin", "home/rack/NAS", "Router"].into_iter().map(parse).collect();
    let answers = look_up(PERSONAL.as_bytes(), &wanted).map_err(text_of).unwrap();
    assert_eq!(answers.len(), 5);
    assert_eq!(answers[0].as_ref().unwrap().expose(), b"planted-nas");
    assert!(matches!(answers[1], Err(LookupError::NoItem { .. })));
    assert_eq!(answers[2].as_ref().unwrap().expose(), b"planted-pin");
    assert_eq!(answers[3].as_ref().unwrap().expose(), b"planted-nas");
    assert!(matches!(answers[4], Err(LookupError::Ambiguous { .. })));
}

#[test]
fn a_file_that_is_something_else_is_called_what_it_is() {
    use WrongExport::{AccountRestricted, Csv, Empty, NoItems, PasswordProtected, Utf16, Zip};
    let protected = include_bytes!("../../../../../tests/exports/password-protected.json");
    let restricted = include_bytes!("../../../../../tests/exports/account-restricted.json");
    let protected_and_long =
        format!("{{\"encrypted\":true,\"passwordProtected\":true,\"data\":\"{}", "x".repeat(40 << 20));
    for (name, export, want) in [
        ("protected", &protected[..], PasswordProtected),
        ("protected, longer than an item may be", protected_and_long.as_bytes(), PasswordProtected),
        ("restricted", restricted, AccountRestricted),
        ("flags last", b"{\"items\":[],\"passwordProtected\":true,\"encrypted\":true}", PasswordProtected),
        ("csv", b"folder,favorite,type,name,notes,fields,reprompt,login_uri\nplanted", Csv),
        ("csv of an organisation", b"collections,type,name,notes\nplanted", Csv),
        ("zip", b"PK\x03\x04planted", Zip),
        ("utf-16", b"\xff\xfe{\0}\0", Utf16),
        ("empty", b"", Empty),
        ("only a mark", b"\xef\xbb\xbf", Empty),
        ("other JSON", b"{\"planted\": \"planted\"}", NoItems),
    ] {
        match look_up(export, &[parse("x")]) {
            Err(ExportError::Wrong(kind)) => assert_eq!(kind, want, "{name}"),
            Err(other) => panic!("{name}: {}", text_of(other)),
            Ok(_) => panic!("{name}: taken"),
        }
        assert!(!text_of(ExportError::Wrong(want)).contains("planted"));
    }
    let marked = format!("\u{feff}{PERSONAL}");
    assert_eq!(one(&marked, parse("NAS")).unwrap(), "planted-nas");
}

#[test]
fn a_broken_export_is_told_with_line_and_column_and_never_with_a_piece_of_it() {
    let shape = "this is JSON, but a Bitwarden export has something else here";
    for (name, export, want) in [
        ("not JSON", "planted-secret", "1:1: this is not JSON"),
        ("a list of texts", "[\"planted\"]", &format!("1:10: {shape}")),
        ("a string", "\"planted\"", &format!("1:9: {shape}")),
        ("a number", "4711", &format!("1:4: {shape}")),
        ("items is a string", "{\"items\": \"planted\"}", &format!("1:19: {shape}")),
        ("items is an object", "{\"items\": {\"planted\": 1}}", &format!("1:12: {shape}")),
        ("an item is a string", "{\n\"items\": [\n\"planted\"]}", &format!("3:9: {shape}")),
        ("login is a string", "{\"items\": [{\"login\": \"planted\"}]}", &format!("1:30: {shape}")),
        ("fields is a string", "{\"items\": [{\"fields\": \"planted\"}]}", &format!("1:31: {shape}")),
        ("type is a string", "{\"items\": [{\"fields\": [{\"type\": \"planted\"}]}]}", &format!("1:41: {shape}")),
        ("a key twice", "{\"items\": [{\"name\": \"planted\", \"name\": \"x\"}]}", &format!("1:38: {shape}")),
        ("items twice", "{\"items\": [], \"items\": []}", &format!("1:22: {shape}")),
        ("text after it", "{\"items\": []} planted", "1:15: this is not JSON"),
        ("two of them", "{\"items\": []}{\"items\": []}", "1:14: this is not JSON"),
        ("a missing quote", "{\"items\": [{\"name\": \"planted}]}", "1:31: the file ends in the middle"),
        ("a control character", "{\"items\": [{\"name\": \"planted\n\"}]}", "2:1: this is not JSON"),
        ("half a character", "{\"items\": [{\"name\": \"planted\\ud800\"}]}", "1:35: this is not JSON"),
        ("only an opening", "{", "1:1: the file ends in the middle of the export"),
        ("deep", "{\"items\":[{\"login\":{\"password\":", "1:31: the file ends"),
        ("very deep", &format!("{{\"items\":[{{\"name\":{}", "[".repeat(1000)), "1:"),
        ("very deep and skipped", &format!("{{\"x\":{}", "[".repeat(1000)), "1:1005: the file ends"),
    ] {
        let got = match look_up(export.as_bytes(), &[parse("x")]) {
            Err(failure) => text_of(failure),
            Ok(_) => panic!("{name}: taken"),
        };
        assert!(got.starts_with(&format!("vault: x.json:{want}")), "{name}:\n{got}");
        assert!(!got.contains("planted") && !got.contains("4711"), "{name}:\n{got}");
    }
    let not_utf8 = b"{\"items\": [{\"name\": \"planted\xff\"}]}";
    let got = look_up(&not_utf8[..], &[parse("x")]).err().map(text_of).unwrap();
    assert!(got.starts_with("vault: x.json:1:") && !got.contains("planted"), "{got}");
}

#[test]
fn cut_or_changed_anywhere_an_export_neither_panics_nor_tells_a_value() {
    let wanted: Vec<Reference> =
        ["Homelab admin", "Router", "Odd", "Deploy key#private_key", "Nothing"].into_iter().map(parse).collect();
    let tell = |bytes: &[u8], name: &str| {
        let told = match look_up(bytes, &wanted) {
            Err(failure) => text_of(failure),
            Ok(answers) => answers.into_iter().filter_map(Result::err).map(say_lookup).collect(),
        };
        // Messages may show names, and no name here contains "planted".
        assert!(!told.to_lowercase().contains("planted"), "{name}:\n{told}");
    };
    let export = PERSONAL.as_bytes();
    for end in (0..export.len()).step_by(151) {
        tell(&export[..end], &format!("cut at {end}"));
    }
    for at in (0..export.len()).step_by(173) {
        for byte in [b'"', b'{', b']', b'5', b'\\', 0, 0xff] {
            let mut changed = export.to_vec();
            changed[at] = byte;
            tell(&changed, &format!("{byte} at {at}"));
        }
    }
}

/// Generates an export while it is read: `head`, the results of `piece(0..count)`, `tail`.
struct Made<F> {
    piece: F,
    next: usize,
    count: usize,
    tail: &'static str,
    buffer: Vec<u8>,
    at: usize,
}

impl<F: Fn(usize) -> String> Made<F> {
    fn new(head: &str, count: usize, piece: F, tail: &'static str) -> Self {
        Self { piece, next: 0, count, tail, buffer: head.as_bytes().to_vec(), at: 0 }
    }
}

impl<F: Fn(usize) -> String> Read for Made<F> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.buffer.len() {
            self.at = 0;
            self.buffer = match self.next {
                next if next < self.count => (self.piece)(next).into_bytes(),
                next if next == self.count => self.tail.as_bytes().to_vec(),
                _ => Vec::new(),
            };
            self.next += 1;
        }
        let count = out.len().min(self.buffer.len() - self.at);
        out[..count].copy_from_slice(&self.buffer[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// One item of a large export.
fn piece(index: usize) -> String {
    let comma = if index == 0 { "" } else { "," };
    format!(
        "{comma}{{\"id\":\"id-{index}\",\"folderId\":\"f{}\",\"type\":1,\"name\":\"Item {index}\",\"notes\":null,\
         \"login\":{{\"uris\":[{{\"match\":null,\"uri\":\"https://{index}.example\"}}],\"username\":\"u\",\
         \"password\":\"value {index}\",\"totp\":null}},\"collectionIds\":null}}",
        index % 100
    )
}

#[test]
fn the_last_of_very_many_items_is_found() {
    // Unoptimised parsing is thirty times slower.
    let count = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let export = Made::new(
        "{\"encrypted\":false,\"items\":[",
        count,
        piece,
        "],\"folders\":[{\"id\":\"f99\",\"name\":\"last\"}]}",
    );
    let wanted: Vec<Reference> =
        [&format!("last/Item {}", count - 1), "id-0", "Item 40000#username", "Item x"].map(parse).into();
    let answers = look_up(export, &wanted).map_err(text_of).unwrap();
    assert_eq!(answers[0].as_ref().unwrap().expose(), format!("value {}", count - 1).as_bytes());
    assert_eq!(answers[1].as_ref().unwrap().expose(), b"value 0");
    assert_eq!(answers[2].as_ref().unwrap().expose(), b"u");
    assert!(matches!(answers[3], Err(LookupError::NoItem { .. })));
}

#[test]
fn an_export_without_measure_is_refused_at_the_limit_that_it_breaks() {
    let mib = "x".repeat(1 << 20);
    let long = |_: usize| mib.clone();
    let same = |index: usize| format!("{{\"id\":\"{index}\",\"name\":\"x\",\"folderId\":\"f\"}},");
    let fields = |_: usize| "{},".to_owned();
    let spaces = |_: usize| " ".repeat(1 << 20);
    let nested = |_: usize| "[".repeat(1 << 20);
    let cases: [(&str, &mut dyn Read, ExportLimit); 4] = [
        ("a name", &mut Made::new("{\"items\":[{\"name\":\"", 33, long, "\"}]}"), ExportLimit::Item),
        ("depth", &mut Made::new("{\"x\":", 33, nested, ""), ExportLimit::Item),
        ("space", &mut Made::new("{", 33, spaces, "}"), ExportLimit::Item),
        (
            "candidates",
            &mut Made::new("{\"items\":[", 2000, same, "{}]}"),
            ExportLimit::Sink(item::SinkLimit::Candidates),
        ),
    ];
    for (name, export, want) in cases {
        match look_up(export, &[parse("a/x")]) {
            Err(ExportError::Read(json::JsonError::Limit(limit))) => assert_eq!(limit, want, "{name}"),
            Err(other) => panic!("{name}: {}", text_of(other)),
            Ok(_) => panic!("{name}: taken"),
        }
    }
    let many = Made::new("{\"items\":[{\"fields\":[", 20_000, fields, "{}]}]}");
    assert!(
        matches!(look_up(many, &[parse("x")]), Err(ExportError::Read(json::JsonError::Json(..)))),
        "a list without end"
    );
}

#[test]
fn what_is_kept_of_an_export_has_a_measure() {
    let text = |text: String| shape::Text::Is(zeroize::Zeroizing::new(text));
    let wanted = parse("n#notes");
    let wanted = [&wanted];
    let mut search = Search::new(&wanted);
    let name = "x".repeat(1 << 20);
    let kept = (0..200).take_while(|index| search.folder(&index.to_string(), &name).is_ok()).count();
    assert_eq!(kept, 127, "128 MiB with what the entries cost");

    let mut search = Search::new(&wanted);
    let item = || shape::Item { name: text("n".into()), notes: text("x".repeat(16 << 20)), ..Default::default() };
    assert_eq!((0..20).take_while(|_| search.item(&item()).is_ok()).count(), 7);
}

#[test]
fn many_items_of_one_name_are_counted_and_a_few_of_them_listed() {
    let same = |index: usize| format!("{{\"id\":\"id-{index}\",\"name\":\"x\"}},");
    let answer = look_up(Made::new("{\"items\":[", 5000, same, "{}]}"), &[parse("x")]).map_err(text_of).unwrap().pop();
    let told = say_lookup(answer.unwrap().unwrap_err());
    assert!(told.starts_with("vault: 5000 items are called \"x\"\n   x   id-0\n"), "{told}");
    assert!(told.contains("\n   and 4990 more\n"), "{told}");
}

#[test]
fn a_value_of_sixteen_mebibytes_is_read() {
    let mib = "x".repeat(1 << 20);
    let export = Made::new("{\"items\":[{\"name\":\"n\",\"notes\":\"", 16, |_| mib.clone(), "\"}]}");
    let answer = look_up(export, &[parse("n#notes")]).map_err(text_of).unwrap().pop().unwrap().unwrap();
    assert_eq!(answer.len(), 16 << 20);
}

#[test]
fn an_item_in_the_archive_or_the_trash_is_not_taken_and_its_place_is_told() {
    let export = |items: &str| format!("{{\"folders\":[{{\"id\":\"f\",\"name\":\"home\"}}],\"items\":[{items}]}}");
    let item = |id: &str, name: &str, rest: &str| {
        format!("{{\"id\":\"{id}\",\"name\":\"{name}\",\"folderId\":\"f\",\"login\":{{\"password\":\"{id}\"}}{rest}}}")
    };
    const ARCHIVED: &str = ",\"archivedDate\":\"2026-01-17T08:30:00.000Z\"";
    const DELETED: &str = ",\"deletedDate\":\"2026-01-17T08:30:00.000Z\"";
    let only = export(&[item("1", "nas", ARCHIVED), item("2", "old", DELETED)].join(","));
    for (wanted, place) in
        [("nas", "the archive"), ("home/nas", "the archive"), ("1", "the archive"), ("old", "the trash")]
    {
        let told = one(&only, reference(wanted, None)).unwrap_err();
        assert!(told.contains(&format!("item \"{wanted}\" is in {place}, and no value is taken from there")), "{told}");
        assert!(told.contains("restore it, or name another item"), "{told}");
    }
    assert!(one(&only, reference("work/nas", None)).unwrap_err().starts_with("vault: no item"), "of another folder");
    for archived in [ARCHIVED, DELETED] {
        let both = export(&[item("1", "nas", archived), item("2", "nas", ",\"archivedDate\":null")].join(","));
        assert_eq!(one(&both, reference("nas", None)).as_deref(), Ok("2"));
    }
}

#[test]
fn cards_and_identities_have_the_fields_of_bitwardens_names() {
    let export = r#"{"items": [
        {"id": "1", "type": 3, "name": "Card", "notes": "n", "fields": [{"name": "code", "value": "mine"}],
         "card": {"cardholderName": "A B", "brand": "Visa", "number": "4111", "expMonth": "1", "expYear": "2030",
                  "code": "made-up"}},
        {"id": "2", "type": 4, "name": "Me", "login": null,
         "identity": {"title": null, "firstName": "Ä", "lastName": "B", "username": "ab", "ssn": "made-up",
                      "passportNumber": "P1", "postalCode": "12345", "address1": "Street"}}]}"#;
    for (wanted, want) in [
        ("Card#number", "4111"),
        ("Card#code", "made-up"),
        ("Card#cardholderName", "A B"),
        ("Card#expMonth", "1"),
        ("Card#expYear", "2030"),
        ("Card#brand", "Visa"),
        ("Card#notes", "n"),
        ("Me#firstName", "Ä"),
        ("Me#username", "ab"),
        ("Me#passportNumber", "P1"),
        ("Me#address1", "Street"),
    ] {
        assert_eq!(one(export, parse(wanted)).as_deref(), Ok(want), "{wanted}");
        let list = export.trim_start_matches("{\"items\": ").strip_suffix('}').unwrap();
        assert_eq!(one(list, parse(wanted)).as_deref(), Ok(want), "`bw list items`: {wanted}");
    }
    let told = one(export, parse("Me")).unwrap_err();
    assert!(told.starts_with("vault: item \"Me\" has no password; it has: firstName, lastName, username"), "{told}");
    let told = one(export, parse("Me#title")).unwrap_err();
    assert!(told.starts_with("vault: item \"Me\" has no field \"title\""), "{told}");
}
