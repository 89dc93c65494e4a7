//! Databases written by KeePassXC and pykeepass (tests/exports/keepass), and malicious ones built here.

use std::time::{Duration, Instant};

use crate::KdfLimit;
use crate::testing::{Place, exports};
use writer::database;

#[path = "../../../../../tests/exports/keepass/writer.rs"]
mod writer;

const PASSWORD: &str = "correct horse ünïcödé";
/// The databases with the same entries, and the settings that open them in addition to the password.
const SAME: [(&str, &str); 6] = [
    ("argon2d-aes", ""),
    ("argon2id-chacha20", ""),
    ("aeskdf-twofish", ""),
    ("version3", ""),
    ("version3-twofish", ", key_file: random.key"),
    ("keepassxc3", ""),
];

/// A directory with all committed databases and key files, and the password in `pw`.
fn place() -> Place {
    let place = Place::new();
    for entry in std::fs::read_dir(exports().join("keepass")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    place.write("pw", format!("{PASSWORD}\n"));
    place.write("wrong", "correct horse");
    place
}

fn source(name: &str, key_file: &str) -> String {
    format!("{{ s: {{ type: keepass, path: {name}.kdbx, password: {{ file: pw }}{key_file} }} }}")
}

#[test]
fn every_database_gives_its_values_byte_for_byte() {
    let place = place();
    for (name, key_file) in SAME {
        let source = source(name, key_file);
        for (wanted, want) in [
            ("home/Homelab admin", "planted-admin"),
            ("Homelab admin#username", "admin"),
            ("Homelab admin#uri", "https://planted.example/"),
            ("Homelab admin#notes", "planted notes\nsecond line"),
            ("Homelab admin#totp", "otpauth://totp/planted?secret=PLANTED"),
            ("Homelab admin#otp", "otpauth://totp/planted?secret=PLANTED"),
            ("Homelab admin#pin", "planted-pin"),
            ("Homelab admin#colour", "planted <blue> & \"green\" 'x'"),
            ("Homelab admin#file:zweite Datei ☃.txt", "planted second"),
            ("work/Router", "planted-router-work"),
            ("NAS", "planted $HOME `x` \\n \"q\" 'q' ünïcödé 🔑"),
            ("home/rack/NAS#username", "root"),
            ("a/b/c", "planted-a-b-c"),
            ("Top", "planted-top"),
            ("Empty", ""),
            ("Changed", "planted-new"),
            ("After", "planted-after"),
            ("Refers", "<planted $HOME `x` \\n \"q\" 'q' ünïcödé 🔑>t"),
            ("Refers#username", "root"),
            ("work/Refers on", "<planted $HOME `x` \\n \"q\" 'q' ünïcödé 🔑>t"),
        ] {
            assert_eq!(place.one(&source, &format!("s:{wanted}")).as_deref(), Ok(want), "{name} {wanted}");
        }
        let file = place.get(&source, &["s:Homelab admin#file:key.bin"]).unwrap().remove(0);
        assert_eq!(file, b"planted\0file\xff\r\n".repeat(3), "{name}");
        if name != "aeskdf-twofish" && name != "version3-twofish" {
            let long = place.one(&source, "s:Long#notes").unwrap();
            assert!(long == format!("planted{}", "x".repeat(1 << 20)), "{name}");
        }
        let uuid = place.one(&source, "s:Refers on#username").unwrap();
        let dashed = format!("{}-{}-{}-{}-{}", &uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]);
        for id in [uuid.to_lowercase(), uuid, dashed.to_lowercase(), dashed] {
            assert_eq!(place.one(&source, &format!("s:{id}#username")).as_deref(), Ok("root"), "{name} {id}");
        }
    }
    assert_eq!(place.one(&source("keepassxc3", ""), "s:home/By KeePassXC").as_deref(), Ok("planted-xc3"));
}

#[test]
fn keepassxcs_own_databases_open_with_its_key_files() {
    let place = place();
    let xc = source("keepassxc", ", key_file: keepassxc.keyx");
    // All references in one run: the key takes two million rounds.
    let wanted = ["s:home/Homelab admin", "s:Homelab admin#notes", "s:Homelab admin#file:key.bin"];
    let values = place.get(&xc, &wanted).unwrap();
    let file = std::fs::read(place.path().join("random.key")).unwrap();
    assert_eq!(values, ["planted-xc $x ü".as_bytes(), b"planted notes", &file]);
    let listed = place.list(&xc, "s");
    assert_eq!(
        listed,
        ["home|Homelab admin|password,username,uri,notes,file:key.bin"],
        "and not the one in the recycle bin"
    );
    let only = "{ s: { type: keepass, path: keyfile-only.kdbx, key_file: keyfile-only.keyx } }";
    assert_eq!(place.one(only, "s:Only").as_deref(), Ok("planted-only"));
}

#[test]
fn an_entry_is_found_below_the_root_group_or_with_its_name_and_never_in_the_recycle_bin() {
    let place = place();
    let source = source("argon2d-aes", "");
    assert_eq!(place.one(&source, "s:Root/Top").as_deref(), Ok("planted-top"));
    assert!(place.one(&source, "s:Root/home/rack/NAS").is_ok());
    for (wanted, want) in [
        ("Trashed", "s: no item \"Trashed\" (for s)"),
        ("Recycle Bin/Trashed", "s: no item \"Recycle Bin/Trashed\""),
        ("rack/NAS", "s: no item \"rack/NAS\" (for s)\ndid you mean `s:NAS`"),
        ("Router", "s: two items are called \"Router\" (for s)\n   home/Router   "),
        ("Top#nothing", "s: item \"Top\" has no field \"nothing\"; it has: password, username (for s)"),
        ("Homelab admin#file:no", "has no field \"file:no\"; it has: password, username, totp, uri, notes, "),
    ] {
        let told = place.fails(&source, &format!("s:{wanted}"));
        assert!(told.contains(want), "{wanted}: {told}");
    }
    let listed = place.list(&source, "s");
    for line in [
        "home|Router|password,username",
        "home/rack|NAS|password,username",
        "a/b|c|password,username",
        "|Top|password,username",
    ] {
        assert!(listed.iter().any(|own| own == line), "{line}: {listed:#?}");
    }
    assert!(!listed.iter().any(|line| line.contains("Trashed")));
}

#[test]
fn a_reference_that_leads_nowhere_is_told() {
    let place = place();
    let source = source("argon2d-aes", "");
    for (wanted, want) in [
        ("Circle", "\"Circle\": its {REF:…} lead in a circle, or over 10 steps on"),
        ("Lost", "\"Lost\": its {REF:…} refers to an entry that is not there"),
        ("Lost#username", "\"Lost#username\": its {REF:…} cannot be understood"),
        ("Lost#notes", "\"Lost#notes\": its {REF:…} refers to several entries"),
    ] {
        assert_eq!(place.fails(&source, &format!("s:{wanted}")), format!("s: {want} (for s)"), "{wanted}");
    }
}

#[test]
fn a_wrong_key_and_a_damaged_file_are_told_apart() {
    let place = place();
    let error_text =
        |keys: &str| place.fails(&format!("{{ s: {{ type: keepass, {keys} }} }}"), "s:Top").replace("s: DIR/", "");
    for (keys, want) in [
        (
            "path: argon2d-aes.kdbx, password: { file: wrong }",
            "argon2d-aes.kdbx: the password does not open it (for s)\nif it also has a key file",
        ),
        ("path: version3.kdbx, password: { file: wrong }", "version3.kdbx: the password does not open it"),
        (
            "path: argon2d-aes.kdbx, password: { file: pw }, key_file: random.key",
            "argon2d-aes.kdbx: the password and the key file do not open it together",
        ),
        ("path: keyfile-only.kdbx, key_file: random.key", "keyfile-only.kdbx: the key file does not open it"),
        ("path: keepassxc.kdbx, password: { file: pw }, key_file: none", "none: there is no such file"),
        ("path: pw, password: { file: pw }", "pw: this is not a KeePass database"),
    ] {
        assert!(error_text(keys).starts_with(want), "{keys}: {}", error_text(keys));
    }
    let inside = "{ s: { type: keepass, path: x.age, password: { file: x } } }";
    std::fs::copy(exports().join("age/passphrase.age"), place.path().join("x.age")).unwrap();
    place.write("x", PASSWORD);
    assert!(place.fails(inside, "s:Top").starts_with("s: DIR/x.age: this is not a KeePass database"));
    for name in ["argon2d-aes", "argon2id-chacha20", "aeskdf-twofish", "version3"] {
        let good = std::fs::read(place.path().join(name).with_extension("kdbx")).unwrap();
        let header = super::header::Header::read(&good, KdfLimit::Bounded).unwrap().length;
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let four = !name.starts_with("version3");
        for (what, bytes, want) in [
            ("empty", vec![], "the file is empty"),
            ("cut in the header", good[..header - 1].to_vec(), "the file is cut off in its header"),
            ("cut after the header", good[..header].to_vec(), "the file is cut off"),
            ("cut at its end", good[..good.len() - 100].to_vec(), "the file is "),
            ("cut by a byte", good[..good.len() - 1].to_vec(), if four { "the file is cut off" } else { "" }),
            ("seed", flipped(header - 40), if four { "its header is damaged" } else { "" }),
            ("block", flipped(header + 2000), "the file is damaged"),
            ("KeePass 1", [&good[..4], b"\x65\xfb\x4b\xb5", &good[8..]].concat(), "this is a database of KeePass 1"),
            ("version", [&good[..10], b"\x05\0", &good[12..]].concat(), "this is a KDBX file of version 5"),
        ] {
            place.write("bad.kdbx", bytes);
            // The last byte of version 3 is padding, and version 3 has no hash of its header.
            if want.is_empty() {
                continue;
            }
            let told = error_text("path: bad.kdbx, password: { file: pw }");
            assert!(told.starts_with(&format!("bad.kdbx: {want}")), "{name} {what}: {told}");
        }
    }
}

#[test]
fn a_header_of_version_3_that_was_changed_later_is_refused() {
    let place = place();
    let good = std::fs::read(place.path().join("header-hash.kdbx")).unwrap();
    place.write("pw", "made-up-pw");
    assert!(place.one(&source("header-hash", ""), "s:node1").is_ok());
    let header = super::header::Header::read(&good, KdfLimit::Bounded).unwrap().length;
    // The key of the protected values, and the cipher that uses it. Nothing else depends on them.
    let key = good.windows(3).position(|field| field == [8, 32, 0]).unwrap() + 3;
    let id = good.windows(7).position(|field| field == [10, 4, 0, 2, 0, 0, 0]).unwrap() + 3;
    assert!(key < header && id < header);
    for (at, bits) in [(key, 1), (key + 31, 0x80), (id, 2 ^ 3), (id, 2)] {
        let mut bytes = good.clone();
        bytes[at] ^= bits;
        place.write("bad.kdbx", bytes);
        let told = place.fails(&source("bad", ""), "s:node1");
        let want = "s: DIR/bad.kdbx: its header is damaged: it does not have the hash that the document inside says";
        assert!(told.starts_with(want), "{at}: {told}");
    }
}

#[test]
fn what_a_header_asks_for_beyond_the_bounds_is_refused_before_it_costs_anything() {
    let place = place();
    let entry = |kind: u8, name: &str, length: u8| [&[kind, 1, 0, 0, 0], name.as_bytes(), &[length, 0, 0, 0]].concat();
    let memory = "deriving its key takes 1024 MiB of memory, over 1024 MiB, the most that is taken";
    for (file, field, value, want) in [
        ("argon2d-aes", entry(5, "M", 8), (1_u64 << 30) + 1, memory),
        ("argon2d-aes", entry(5, "M", 8), u64::MAX, "deriving its key takes 17592186044415 MiB of memory"),
        (
            "argon2id-chacha20",
            entry(5, "I", 8),
            102_401,
            "deriving its key fills 1 MiB of memory 102401 times, 101 GiB in all, over 100 GiB, the most",
        ),
        (
            "argon2id-chacha20",
            entry(5, "I", 8),
            u64::MAX,
            "deriving its key fills 1 MiB of memory 18446744073709551615",
        ),
        ("argon2id-chacha20", entry(5, "I", 8), 0, "its header is damaged"),
        ("argon2d-aes", entry(4, "P", 4), 65, "its key is derived in 65 lanes of Argon2, over 64"),
        ("argon2d-aes", entry(4, "P", 4), 0, "its header is damaged"),
        (
            "aeskdf-twofish",
            entry(5, "R", 8),
            1_000_000_001,
            "its key is derived in 1000000001 rounds of AES-KDF, over 1000000000, the most that is taken",
        ),
        ("version3", vec![6, 8, 0], u64::MAX, "its key is derived in 18446744073709551615 rounds of AES-KDF"),
    ] {
        let mut bytes = std::fs::read(place.path().join(file).with_extension("kdbx")).unwrap();
        let at = bytes.windows(field.len()).position(|window| window == field).unwrap() + field.len();
        let width = if field.ends_with(&[4, 0, 0, 0]) { 4 } else { 8 };
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        place.write("bad.kdbx", bytes);
        let start = Instant::now();
        let told = place.fails(&source("bad", ""), "s:Top");
        assert!(told.starts_with(&format!("s: DIR/bad.kdbx: {want}")), "{file}: {told}");
        let says_how = told.contains("`kdf_limit: none` at this source lifts the limit");
        assert_eq!(says_how, !want.contains("damaged"), "{file}: {told}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn what_costs_little_is_derived_and_a_lifted_limit_takes_the_rest() {
    let place = place();
    place.write("pw", "made-up-pw");
    // 300 iterations over 1 MiB, as KeePass 2 chooses for a second of work.
    assert_eq!(place.one(&source("argon2-300", ""), "s:node1").as_deref(), Ok("s3cr3t-one"));
    // 156 million rounds, as `keepassxc-cli db-create -t 5000` has written them, and the most: too slow for a test.
    let mut bytes = std::fs::read(place.path().join("version3.kdbx")).unwrap();
    let at = bytes.windows(3).position(|field| field == [6, 8, 0]).unwrap() + 3;
    for rounds in [156_250_000_u64, 1_000_000_000] {
        bytes[at..at + 8].copy_from_slice(&rounds.to_le_bytes());
        let header = super::header::Header::read(&bytes, KdfLimit::Bounded).unwrap();
        assert_eq!(header.kdf.cost(), format!("{rounds} rounds of AES-KDF"));
    }
    // 65 lanes are over the limit; the key of the database is another one then.
    let mut bytes = std::fs::read(place.path().join("argon2d-aes.kdbx")).unwrap();
    let lanes = [&[4, 1, 0, 0, 0][..], b"P", &[4, 0, 0, 0]].concat();
    let at = bytes.windows(lanes.len()).position(|window| window == lanes).unwrap() + lanes.len();
    bytes[at] = 65;
    let header = super::header::Header::read(&bytes, KdfLimit::Lifted).unwrap().length;
    let hash: [u8; 32] =
        sha2::Digest::finalize(sha2::Digest::chain_update(sha2::Sha256::default(), &bytes[..header])).into();
    bytes[header..header + 32].copy_from_slice(&hash);
    place.write("lanes.kdbx", bytes);
    assert!(place.fails(&source("lanes", ""), "s:Top").contains("in 65 lanes of Argon2, over 64"));
    let lifted = source("lanes", ", kdf_limit: none");
    assert!(place.fails(&lifted, "s:Top").contains("lanes.kdbx: the password does not open it"));
}

#[test]
fn an_empty_password_beside_a_key_file_is_tried_as_a_part_of_the_key_and_as_none() {
    let place = place();
    place.write("empty", "");
    place.write("other", "planted");
    let source = |name: &str, key: &str, password: &str| {
        format!("{{ s: {{ type: keepass, path: {name}.kdbx, key_file: {key}{password} }} }}")
    };
    let empty = ", password: { file: empty }";
    for password in ["", empty] {
        let with_empty = source("empty-and-key", "empty-and-key.key", password);
        assert_eq!(place.one(&with_empty, "s:node1").as_deref(), Ok("s3cr3t-three"), "{password}");
        let without = source("keyfile-only", "keyfile-only.keyx", password);
        assert_eq!(place.one(&without, "s:Only").as_deref(), Ok("planted-only"), "{password}");
    }
    for (password, want) in [
        (
            "",
            "the key file does not open it, without a password or with an empty one (for s)\nif it has another password",
        ),
        (
            empty,
            "the password is empty, and the key file does not open it, with an empty password or without one (for s)",
        ),
    ] {
        let told = place.fails(&source("empty-and-key", "random.key", password), "s:node1");
        assert!(told.contains(want), "{told}");
    }
    // Alone it opens nothing: no program makes such a database.
    let alone = "{ s: { type: keepass, path: argon2d-aes.kdbx, password: { file: empty } } }";
    assert!(place.fails(alone, "s:Top").contains("its password is empty"));
}

#[test]
fn an_attachment_without_a_byte_is_empty_though_it_is_called_compressed() {
    let place = place();
    place.write("pw", "made-up-pw");
    let values = place.get(&source("empty-attachment", ""), &["s:node1#file:empty.conf", "s:node1#file:full.conf"]);
    assert_eq!(values.unwrap(), [b"".as_slice(), b"hello"]);
    // The same inside an entry, as KDBX 3 allows it.
    let inline = "<Binary><Key>f</Key><Value Compressed=\"True\"/></Binary>";
    place.write("pw", "x");
    place.write("inline.kdbx", database(document(&entry(1, &(string("Title", "Top") + inline))).as_bytes(), true));
    assert_eq!(place.one(&source("inline", ""), "s:Top#file:f").as_deref(), Ok(""));
}

fn entry(number: usize, strings: &str) -> String {
    let uuid = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, number.to_be_bytes().repeat(2));
    format!("<Entry><UUID>{uuid}</UUID>{strings}</Entry>")
}

fn string(key: &str, value: &str) -> String {
    format!("<String><Key>{key}</Key><Value>{value}</Value></String>")
}

fn document(inside: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><KeePassFile><Meta><Generator>t</Generator></Meta><Root>\
         <Group><UUID>AAAAAAAAAAAAAAAAAAAAAQ==</UUID><Name>R</Name>{inside}</Group></Root></KeePassFile>"
    )
}

#[test]
fn a_hostile_document_ends_in_an_error_or_in_its_values() {
    let place = Place::new();
    place.write("pw", "x");
    let good =
        entry(1, &(string("Title", "Top") + &string("Password", "planted &#x41;&lt;&#10;\r\n&amp;<![CDATA[<x>]]>")));
    let group = |inside: &str| format!("<Group><UUID>AAAAAAAAAAAAAAAAAAAAAg==</UUID><Name>g</Name>{inside}</Group>");
    let deep = |depth| (0..depth).fold(String::new(), |inside, _| group(&inside));
    place.write("bad.kdbx", database(document(&good).as_bytes(), false));
    assert_eq!(place.one(&source("bad", ""), "s:Top").as_deref(), Ok("planted A<\n\n&<x>"));
    let damaged = "the document inside is damaged";
    for (name, text, want) in [
        ("nothing", String::new(), "the document inside is empty"),
        ("another document", "<a/>".to_owned(), "the document inside is not KeePass's"),
        ("cut off", document(&good)[..300].to_owned(), damaged),
        ("an end too many", document("</Group>"), damaged),
        ("an entity", document(&entry(1, &string("Title", "&planted;"))), damaged),
        ("a document type", format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{}", document(&good)), damaged),
        ("a UUID", document("<Entry><UUID>AA==</UUID></Entry>"), damaged),
        ("no UUID", document("<Entry></Entry>"), damaged),
        ("deep groups", document(&deep(100)), "its groups are nested over 100 deep"),
        (
            "deep others",
            document(&format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000))),
            "its groups are nested over",
        ),
        ("many fields", document(&entry(1, &string("a", "b").repeat(1001))), "an entry has over 1000 fields"),
        (
            "not base64",
            document(&entry(1, "<String><Key>Title</Key><Value Protected=\"True\">!</Value></String>")),
            damaged,
        ),
        (
            "no attachment",
            document(&entry(1, &(string("Title", "Top") + "<Binary><Key>f</Key><Value Ref=\"7\"/></Binary>"))),
            "\"Top#file:f\": the database does not have the attachment that the entry names",
        ),
    ] {
        for gzip in [false, true] {
            place.write("bad.kdbx", database(text.as_bytes(), gzip));
            let told = place.fails(&source("bad", ""), "s:Top#file:f");
            assert!(told.contains(want), "{name} {gzip}: {told}");
        }
    }
    place.write("bad.kdbx", database(document(&deep(90)).as_bytes(), true));
    assert!(place.fails(&source("bad", ""), "s:Top").starts_with("s: no item \"Top\""));
}

#[test]
fn what_becomes_large_when_it_is_decompressed_is_refused() {
    let place = Place::new();
    place.write("pw", "x");
    let long = string("Title", &"x".repeat(200 << 20));
    place.write("one.kdbx", database(document(&entry(1, &long)).as_bytes(), true));
    drop(long);
    assert!(place.fails(&source("one", ""), "s:Top").contains("one.kdbx: an entry in it is over 64 MiB"));
    let comments = format!("<!--{}-->", "x".repeat(1 << 20)).repeat(513);
    place.write("all.kdbx", database(document(&comments).as_bytes(), true));
    drop(comments);
    assert!(std::fs::metadata(place.path().join("all.kdbx")).unwrap().len() < 16 << 20);
    let start = Instant::now();
    let told = place.fails(&source("all", ""), "s:Top");
    assert!(told.contains("all.kdbx: the document inside is over 512 MiB, the longest that is read"), "{told}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn references_are_resolved_within_bounds() {
    let place = Place::new();
    place.write("pw", "x");
    // Each entry refers to the next one ten times: 10^9 values in total.
    let bomb: String = (0..9)
        .map(|n| {
            entry(
                n,
                &(string("Title", &format!("t{n}"))
                    + &string("Password", &format!("{{REF:P@T:t{}}}", n + 1).repeat(10))),
            )
        })
        .chain([entry(9, &(string("Title", "t9") + &string("Password", &"planted".repeat(10))))])
        .collect();
    place.write("bad.kdbx", database(document(&bomb).as_bytes(), true));
    let told = place.fails(&source("bad", ""), "s:t0");
    assert!(told.contains("what its {REF:…} lead to is over 16 MiB"), "{told}");
    assert_eq!(place.one(&source("bad", ""), "s:t8").unwrap(), "planted".repeat(100));
}
