//! tests/exports/onepassword.1pux, complete and damaged.

use std::io::{Cursor, Write};

use zip::write::{SimpleFileOptions, ZipWriter};

use crate::testing::{check, check_errors, check_values, error, exports, listing, long, nul, one, values};
use crate::{FileSpec, SourceSpec};

fn export() -> SourceSpec {
    SourceSpec::OnePassword(FileSpec::plain("onepassword.1pux"))
}

/// A directory with an export whose `export.data` is `data`.
fn made(data: &[u8]) -> tempfile::TempDir {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("export.data", SimpleFileOptions::default()).unwrap();
    zip.write_all(data).unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("onepassword.1pux"), zip.finish().unwrap().into_inner()).unwrap();
    directory
}

#[test]
fn every_value_is_had_byte_for_byte() {
    let values: Vec<_> = values().into_iter().chain([nul(), long()]).collect();
    for field in ["", "#password", "#notes", "#custom"] {
        check_values(&exports(), &export(), field, &values);
    }
}

#[test]
fn every_kind_of_item_and_field_is_read() {
    let binary: Vec<u8> = (0..1024).map(|at| u8::try_from(at % 256).unwrap()).collect();
    assert_eq!(one(&exports(), export(), "Restic#file:backup key.bin"), binary);
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted-private\nYWJj\n-----END OPENSSH PRIVATE KEY-----\n";
    let wanted = [
        ("Router", "planted-router"),
        ("Private/Router#username", "admin"),
        ("routeraaaaaaaaaaaaaa000001#password", "planted-router"),
        ("Router#uri", "https://planted.example"),
        ("Router#notes", "planted note\nsecond"),
        ("Router#pin", "planted-pin"),
        ("Router#email", "me@planted.example"),
        ("Backup", "planted-backup"),
        ("Server", "planted-server"),
        ("Server#username", "root"),
        ("Server#URL", "ssh://planted"),
        ("Token", "planted-token"),
        ("Token#credential", "planted-token"),
        ("Deploy key#private_key", key),
        ("Deploy key#private key", key),
        ("Deploy key#public_key", "ssh-ed25519 planted-public"),
        ("Old key#private_key", "-----BEGIN PRIVATE KEY-----\nplanted-pkcs8\n-----END PRIVATE KEY-----\n"),
        ("Wifi", "planted-wifi"),
        ("Bare note#notes", "planted bare"),
        ("Shared/Twin", "planted-shared"),
        ("Private/Twin", "planted-twin"),
        ("Kinds#text", "planted-text"),
        ("Kinds#secret", "planted-concealed"),
        ("Kinds#totp", "otpauth://totp/planted?secret=PLANTED"),
        ("Kinds#one-time password", "otpauth://totp/planted?secret=PLANTED"),
        ("Kinds#uri", "https://planted.example/kinds"),
        ("Kinds#mail", "planted@example"),
        ("Kinds#old mail", "planted2@example"),
        ("Kinds#phone", "+49 123"),
        ("Kinds#day", "2021-02-26"),
        ("Kinds#month", "2026-12"),
        ("Kinds#menu", "left"),
        ("Kinds#card", "4111planted"),
        ("Kinds#brand", "visa"),
        ("Kinds#home/street", "1 Rack\nRow"),
        ("Kinds#home/country", "de"),
        ("Kinds#see", "otheritemotheritemother1"),
        ("Kinds#file:wg0.conf", "[Wg]\n"),
        ("Kinds#a20", "by its id"),
    ];
    check(&exports(), export(), &wanted);
}

#[test]
fn what_cannot_be_had_is_told() {
    let wanted = [
        ("Archived", "item \"Archived\" is in the archive, and no value is taken from there"),
        ("Trashed", "item \"Trashed\" is in the trash, and no value is taken from there"),
        (
            "Twin",
            "two items are called \"Twin\" (for s)\n   Private/Twin   twinaaaaaaaaaaaaaaaa000013   changed \
            2026-01-17\n   Shared/Twin",
        ),
        ("Bare note", "item \"Bare note\" has no password; it has: notes"),
        ("Restic", "item \"Restic\" has no password; it has: notes, file:backup key.bin"),
        ("Kinds#same", "item \"Kinds\" has 2 fields called \"same\""),
        ("Kinds#sso", "field \"sso\" of item \"Kinds\" is not text"),
        ("Kinds#number", "field \"number\" of item \"Kinds\" is not text"),
        ("Kinds#nothing", "item \"Kinds\" has no field \"nothing\""),
        ("Kinds#file:gone.txt", "\"Kinds#file:gone.txt\": this file is not in the export"),
        ("Router#file:wg0.conf", "has no field \"file:wg0.conf\"; it has: password, username, uri, notes, pin, email"),
    ];
    check_errors(&exports(), export(), &wanted);
}

#[test]
fn a_listing_names_vaults_items_and_fields() {
    let items = listing(&exports(), export());
    assert_eq!(items.len(), 22);
    for want in [
        "Private|Deploy key|deploykeyaaaaaaaaaaa000005|notes,private_key,public_key,private key",
        "Private|Server|serveraaaaaaaaaaaaaa000003|password,username,notes,URL",
        "Private|Wifi|wifiaaaaaaaaaaaaaaaa000009|password,notes,base station password,wireless password",
        "Shared|Twin|twinaaaaaaaaaaaaaaaa000050|password,username,notes",
        "Private||oddoddoddoddoddoddoddodd14|",
    ] {
        assert!(items.iter().any(|item| item == want), "{want}: {items:#?}");
    }
}

#[test]
fn what_is_no_export_is_called_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("onepassword.1pux");
    let good = std::fs::read(exports().join("onepassword.1pux")).unwrap();
    for (name, bytes, want) in [
        ("empty", &b""[..], "this is not a ZIP file, and a 1Password export (.1pux) is one"),
        ("1PIF", b"{\"uuid\":\"planted\"}", "this is not a ZIP file"),
        ("cut", &good[..good.len() / 2], "the ZIP file has no end"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let told = error(directory.path(), export(), "Router");
        assert!(told.contains(want) && told.contains("file format 1PUX"), "{name}: {told}");
    }
    std::fs::copy(exports().join("bitwarden.zip"), &file).unwrap();
    let told = error(directory.path(), export(), "Router");
    assert!(told.contains("this ZIP file is not a 1Password export: it has no `export.data`"), "{told}");
    for (name, data, want) in [
        ("no accounts", "{\"planted\": 1}", "this is JSON, but not a 1Password export: it has no `accounts`"),
        ("null", "null", "it has no `accounts`"),
        ("a list", "[1]", "line 1, column 2: this is JSON, but a 1Password export has something else here"),
        ("accounts is text", "{\"accounts\": \"planted\"}", "line 1, column 22: this is JSON, but"),
        (
            "an item is text",
            "{\"accounts\":[{\"vaults\":[{\"items\":[\n\"planted\"]}]}]}",
            "line 2, column 9: this is JSON, but",
        ),
        ("cut", "{\"accounts\":[{\"vaults\":[{\"items\":[", "the file ends in the middle of the export"),
        ("no JSON", "planted", "line 1, column 1: this is not JSON"),
    ] {
        let directory = made(data.as_bytes());
        let told = error(directory.path(), export(), "Router");
        assert!(told.contains(want) && !told.contains("planted"), "{name}: {told}");
    }
    for fine in [
        "{\"accounts\": null}",
        "{\"accounts\": [null, {\"vaults\": null}]}",
        "{\"accounts\":[{\"vaults\":[{\"items\":[{}]}]}]}",
    ] {
        let directory = made(fine.as_bytes());
        assert!(error(directory.path(), export(), "Router").contains("no item \"Router\""), "{fine}");
    }
}

#[test]
fn very_many_items_are_read_in_little_memory() {
    let count = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    let items: Vec<String> = (0..count)
        .map(|at| {
            format!(
                "{{\"uuid\":\"{at:026}\",\
                \"updatedAt\":1768638600,\"state\":\"active\",\"details\":{{\"loginFields\":[{{\"value\":\"value \
                {at}\",\
                 \"designation\":\"password\"}}]}},\"overview\":{{\"title\":\"Item {at}\"}}}}"
            )
        })
        .collect();
    let directory = made(format!("{{\"accounts\":[{{\"vaults\":[{{\"items\":[{}]}}]}}]}}", items.join(",")).as_bytes());
    let started = std::time::Instant::now();
    let last = count - 1;
    assert_eq!(one(directory.path(), export(), &format!("Item {last}")), format!("value {last}").as_bytes());
    println!("{count} items: {:?}", started.elapsed());
}

/// Fields of equal names in two sections, as in 1Password's own template "Email Account".
const SECTIONS: &str = r#"{"accounts": [{"vaults": [{"attrs": {"name": "home"}, "items": [
    {"uuid": "1", "overview": {"title": "Relay"}, "details": {"sections": [
        {"title": "", "fields": [
            {"title": "username", "id": "pop_username", "value": {"string": "in@example.org"}},
            {"title": "password", "id": "pop_password", "value": {"concealed": "made-up-incoming"}}]},
        {"title": "SMTP", "fields": [
            {"title": "username", "id": "smtp_username", "value": {"string": "out@example.org"}},
            {"title": "password", "id": "smtp_password", "value": {"concealed": "made-up-outgoing"}}]}]}},
    {"uuid": "2", "overview": {"title": "API"}, "details": {"sections": [
        {"title": "prod", "fields": [{"title": "token", "id": "t1", "value": {"concealed": "made-up-prod"}}]},
        {"title": "staging", "fields": [{"title": "token", "id": "t2", "value": {"concealed": "made-up-staging"}}]}]}},
    {"uuid": "3", "overview": {"title": "Shop"}, "details": {
        "loginFields": [{"designation": "password", "value": "made-up-login"}],
        "sections": [{"title": "Admin", "fields": [
            {"title": "password", "id": "a1", "value": {"concealed": "made-up-admin"}}]}]}}
]}]}]}"#;

#[test]
fn equal_labels_in_two_sections_are_told_apart_by_section_or_id() {
    let directory = made(SECTIONS.as_bytes());
    check(
        directory.path(),
        export(),
        &[
            ("Relay#smtp_password", "made-up-outgoing"),
            ("Relay#SMTP/password", "made-up-outgoing"),
            ("Relay#pop_password", "made-up-incoming"),
            ("API#prod/token", "made-up-prod"),
            ("API#staging/token", "made-up-staging"),
            ("API#t2", "made-up-staging"),
            ("Shop", "made-up-login"),
            ("Shop#password", "made-up-login"),
            ("Shop#Admin/password", "made-up-admin"),
            ("Shop#a1", "made-up-admin"),
        ],
    );
    let relay = "item \"Relay\" has 2 fields called \"password\" (for s)\n\
                 write `vault:Relay#pop_password` or `vault:Relay#SMTP/password`";
    check_errors(
        directory.path(),
        export(),
        &[
            ("Relay", relay),
            ("Relay#password", relay),
            (
                "API#token",
                "item \"API\" has 2 fields called \"token\" (for s)\nwrite `vault:API#prod/token` or \
                 `vault:API#staging/token`",
            ),
            ("API", "item \"API\" has no password; it has: prod/token, staging/token"),
            ("Relay#SMTP/port", "has no field \"SMTP/port\"; it has: pop_username, pop_password, SMTP/username, SMTP"),
        ],
    );
    let listed = listing(directory.path(), export());
    assert!(listed.contains(&"home|API|2|prod/token,staging/token".to_owned()), "{listed:?}");
    assert!(listed.contains(&"home|Shop|3|password,Admin/password".to_owned()), "{listed:?}");
}
