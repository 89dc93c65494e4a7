//! tests/exports/proton*, encrypted by gpg; complete and damaged.

use crate::testing::{
    PASSWORD, check, check_errors, check_values, error, exports, listing, locked, long, nul, one, values,
};
use crate::{FileSpec, SourceSpec};

fn plain() -> SourceSpec {
    SourceSpec::ProtonPass(FileSpec::plain("proton.zip"))
}

fn encrypted(name: &str, password: &str) -> SourceSpec {
    SourceSpec::ProtonPass(locked(name, password))
}

/// A directory with a file `x` of these bytes.
fn made(bytes: &[u8]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), bytes).unwrap();
    directory
}

#[test]
fn every_value_is_had_byte_for_byte_from_each_kind_of_export() {
    let values: Vec<_> = values().into_iter().chain([nul(), long()]).collect();
    check_values(&exports(), &plain(), "", &values);
    check_values(&exports(), &plain(), "#notes", &values);
    check_values(&exports(), &plain(), "#custom", &values);
    for name in ["proton-encrypted.zip", "proton-around.pgp", "proton-json.pgp"] {
        check_values(&exports(), &encrypted(name, PASSWORD), "", &values);
    }
    // An unneeded password is allowed.
    assert_eq!(one(&exports(), encrypted("proton.zip", "x"), "Router"), b"planted-router");
}

#[test]
fn every_kind_of_item_and_field_is_read() {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted-private\nYWJj\n-----END OPENSSH PRIVATE KEY-----";
    let wanted = [
        ("Router", "planted-router"),
        ("Personal/Router#username", "admin"),
        ("item-001==#password", "planted-router"),
        ("Router#email", "me@planted.example"),
        ("Router#totp", "otpauth://planted"),
        ("Router#second factor", "otpauth://second"),
        ("Router#uri", "https://planted.example"),
        ("Router#notes", "planted note\nsecond"),
        ("Router#pin", "planted-pin"),
        ("Router#blank", ""),
        ("By mail#username", "me@planted.example"),
        ("By mail#totp", "otpauth://code"),
        ("Old#username", "planted-old"),
        ("Note#notes", "planted text"),
        ("Alias#username", "planted.alias@example"),
        ("Alias#email", "planted.alias@example"),
        ("Card#number", "4111planted"),
        ("Card#verificationNumber", "123"),
        ("Card#pin", "0000"),
        ("Identity#fullName", "A. Planted"),
        ("Identity#shoe", "42"),
        ("Identity#passphrase", "planted-passphrase"),
        ("Wifi", "planted-wifi"),
        ("Wifi#ssid", "planted-net"),
        ("Key#private_key", key),
        ("Key#public_key", "ssh-ed25519 planted"),
        ("Key#passphrase", "planted-passphrase"),
        ("Custom#token", "planted-token"),
        ("Deep", "planted-deep"),
        ("Personal/Deep", "planted-deep"),
        ("Personal/Rack/Shelf/Deep", "planted-deep"),
        ("Personal/Twin", "planted-1"),
        ("Shared/Twin", "planted-2"),
        ("Files#file:kubeconfig.AbCdEf0123456789xyz_-A==.yaml", "planted: yaml\n"),
        ("Files#file:kubeconfig.yaml", "planted: yaml\n"),
        ("Files#file:plain.txt", "planted plain"),
        ("Files#file:old.key", "planted old"),
    ];
    check(&exports(), plain(), &wanted);
    let binary: Vec<u8> = (0..1024).map(|at| u8::try_from(at % 256).unwrap()).collect();
    for spec in [plain(), encrypted("proton-encrypted.zip", PASSWORD), encrypted("proton-around.pgp", PASSWORD)] {
        assert_eq!(one(&exports(), spec, "Files#file:a_b.bin"), binary);
    }
}

#[test]
fn what_cannot_be_had_is_told() {
    let wanted = [
        ("Trashed", "item \"Trashed\" is in the trash, and no value is taken from there"),
        (
            "Twin",
            "two items are called \"Twin\" (for s)\n   Personal/Twin   item-014==   changed 2026-01-17\n   \
            Shared/Twin     item-050==",
        ),
        ("Note", "item \"Note\" has no password; it has: notes"),
        (
            "Card",
            "item \"Card\" has no password; it has: notes, cardholderName, number, verificationNumber, \
            expirationDate, pin",
        ),
        ("Custom#same", "item \"Custom\" has 2 fields called \"same\""),
        ("Files#file:missing.txt", "\"Files#file:missing.txt\": this file is not in the export"),
        ("Wifi#security", "item \"Wifi\" has no field \"security\"; it has: password, notes, ssid"),
    ];
    check_errors(&exports(), plain(), &wanted);
    let told = error(&exports(), encrypted("proton-json.pgp", PASSWORD), "Files#file:plain.txt");
    assert!(told.contains("this file is not in the export"), "{told}");
}

#[test]
fn a_listing_names_vaults_folders_items_and_fields() {
    let items = listing(&exports(), plain());
    assert_eq!(items.len(), 24);
    for want in [
        "Personal,Personal/Rack/Shelf|Deep|item-012==|password,username,totp,notes",
        "Personal|Router|item-001==|password,username,totp,uri,notes,email,pin,second factor,blank",
        "Personal|Key|item-009==|notes,private_key,public_key,passphrase",
        "Shared|Twin|item-050==|password,username,totp,notes",
        "Personal||item-015==|",
    ] {
        assert!(items.iter().any(|item| item == want), "{want}: {items:#?}");
    }
}

#[test]
fn a_wrong_passphrase_and_a_damaged_file_are_told_apart() {
    for name in ["proton-encrypted.zip", "proton-around.pgp", "proton-json.pgp"] {
        let told = error(&exports(), encrypted(name, "planted"), "Router");
        assert!(told.contains("its password is wrong (for s)\nit is the passphrase of the export"), "{name}: {told}");
        let none = SourceSpec::ProtonPass(FileSpec::plain(name));
        let told = error(&exports(), none, "Router");
        assert!(
            told.contains("encrypted with a passphrase, and the source has no `password` (for s)\nsay where"),
            "{told}"
        );
    }
    let good = std::fs::read(exports().join("proton-json.pgp")).unwrap();
    let middle = good.len() / 2;
    let mut flipped = good.clone();
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let line = good[middle..].iter().position(|byte| *byte == b'\n').unwrap() + middle;
    let without_a_line = [&good[..line - 64], &good[line + 1..]].concat();
    for (name, bytes) in [("a letter", flipped), ("a line less", without_a_line), ("half", good[..middle].to_vec())] {
        let told = error(made(&bytes).path(), encrypted("x", PASSWORD), "Router");
        assert!(told.contains("is damaged"), "{name}: {told}");
    }
    for end in [0, 1, 20, 27, 30, 60, 90, 100, 200] {
        error(made(&good[..end]).path(), encrypted("x", PASSWORD), "Router");
    }
}

#[test]
fn what_is_no_export_is_called_what_it_is() {
    let zip = std::fs::read(exports().join("bitwarden.zip")).unwrap();
    let zip = zip.iter().map(|byte| if *byte == b'.' { b'-' } else { *byte }).collect::<Vec<_>>();
    for (name, bytes, want) in [
        ("empty", &b""[..], "the file is empty"),
        (
            "CSV",
            b"type,name,url,email,username,password\nplanted",
            "this is Proton Pass's CSV export (for s)\nit can be read as `type: csv`",
        ),
        ("text", b"planted", "this is not a Proton Pass export: neither a ZIP file, nor OpenPGP, nor JSON"),
        (
            "another ZIP file",
            &zip,
            "this ZIP file is not a Proton Pass export: it has no `data.json` and no `data.pgp`",
        ),
        ("other JSON", b"{\"items\": [\"planted\"]}", "this is JSON, but not a Proton Pass export: it has no `vaults`"),
        (
            "a list of vaults",
            b"{\"vaults\": [\"planted\"]}",
            "line 1, column 13: this is JSON, but a Proton Pass export has something else",
        ),
        (
            "an item is text",
            b"{\"vaults\": {\"a\": {\"items\":\n[\"planted\"]}}}",
            "line 2, column 10: this is JSON, but",
        ),
        ("cut", b"{\"vaults\": {\"a\": {\"items\": [", "the file ends in the middle of the export"),
    ] {
        let told = error(made(bytes).path(), SourceSpec::ProtonPass(FileSpec::plain("x")), "Router");
        assert!(told.contains(want) && !told.contains("planted"), "{name}: {told}");
    }
    let loops = b"{\"vaults\":{\"a\":{\"name\":\"v\",\
    \"folders\":[{\"folderId\":\"1\",\"parentFolderId\":\"2\",\"name\":\"x\"},\
                  {\"folderId\":\"2\",\"parentFolderId\":\"1\",\"name\":\"y\"}],\"items\":[]}}}";
    let told = error(made(loops).path(), SourceSpec::ProtonPass(FileSpec::plain("x")), "Router");
    assert!(told.contains("no item \"Router\""), "folders inside each other: {told}");
}

#[test]
fn very_many_items_are_read_in_little_memory() {
    let count = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    let items: Vec<String> = (0..count)
        .map(|at| {
            format!(
                "{{\"itemId\":\"{at}\",\"state\":1,\"data\":{{\"metadata\":{{\"name\":\"Item \
                {at}\",\"note\":\"\"}},\"extraFields\":[],\
                 \"type\":\"login\",\"content\":{{\"itemUsername\":\"u\",\"password\":\"value {at}\",\"urls\":[]}}}}}}"
            )
        })
        .collect();
    let directory =
        made(format!("{{\"vaults\":{{\"s\":{{\"name\":\"v\",\"items\":[{}]}}}}}}", items.join(",")).as_bytes());
    let started = std::time::Instant::now();
    let last = count - 1;
    let spec = SourceSpec::ProtonPass(FileSpec::plain("x"));
    assert_eq!(one(directory.path(), spec, &format!("v/Item {last}")), format!("value {last}").as_bytes());
    println!("{count} items: {:?}", started.elapsed());
}

/// A custom item with equal names in two sections.
const SECTIONS: &str = r#"{"vaults": {"V": {"name": "home", "items": [{"itemId": "1", "state": 1, "data": {
    "metadata": {"name": "API", "note": ""}, "type": "custom", "content": {"sections": [
        {"sectionName": "prod", "sectionFields": [
            {"fieldName": "token", "type": "hidden", "data": {"content": "made-up-prod"}}]},
        {"sectionName": "staging", "sectionFields": [
            {"fieldName": "token", "type": "hidden", "data": {"content": "made-up-staging"}}]}]}}}]}}}"#;

#[test]
fn equal_names_in_two_sections_are_told_apart_by_the_section() {
    let directory = made(SECTIONS.as_bytes());
    let export = || SourceSpec::ProtonPass(FileSpec::plain("x"));
    check(directory.path(), export(), &[("API#prod/token", "made-up-prod"), ("API#staging/token", "made-up-staging")]);
    let told = error(directory.path(), export(), "API#token");
    assert!(told.ends_with("write `vault:API#prod/token` or `vault:API#staging/token`"), "{told}");
}

#[test]
fn the_address_is_found_where_only_the_new_list_has_one() {
    let item = |content: &str| {
        format!(
            r#"{{"vaults": {{"V": {{"name": "home", "items": [{{"itemId": "1", "state": 1, "data": {{
            "metadata": {{"name": "NAS", "note": ""}}, "type": "login",
            "content": {{"password": "x", {content}}}}}}}]}}}}}}"#
        )
    };
    let both = r#""urls": ["https://a"], "autofillUrls": [{"url": "https://b", "mode": 1}]"#;
    let only = r#""urls": [], "autofillUrls": [{"url": "https://b", "mode": 1}, {"url": "https://c", "mode": 3}]"#;
    for (content, want) in [(both, "https://a"), (only, "https://b")] {
        let directory = made(item(content).as_bytes());
        check(directory.path(), SourceSpec::ProtonPass(FileSpec::plain("x")), &[("NAS#uri", want)]);
    }
}
