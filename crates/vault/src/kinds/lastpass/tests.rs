//! tests/exports/lastpass*.csv, complete and damaged.

use super::note;
use crate::testing::{check, check_errors, check_values, error, exports, get, listing, nul, values};
use crate::{FileSpec, SourceSpec};

const EXPORTS: [&str; 2] = ["lastpass.csv", "lastpass-old.csv"];

fn export(name: &str) -> SourceSpec {
    SourceSpec::LastPass(FileSpec::plain(name))
}

fn error_text(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), text).unwrap();
    let told = error(directory.path(), export("x"), "Router");
    assert!(!told.contains("planted"), "{told}");
    told
}

#[test]
fn every_value_is_had_byte_for_byte() {
    let values: Vec<_> = values().into_iter().chain([nul()]).collect();
    for name in EXPORTS {
        check_values(&exports(), &export(name), "", &values);
    }
    let notes: Vec<_> = values.into_iter().filter(|(name, _)| *name != "empty").collect();
    check_values(&exports(), &export("lastpass.csv"), "#notes", &notes);
}

#[test]
fn every_kind_of_item_and_field_is_read() {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted-private\nYWJj\n-----END OPENSSH PRIVATE KEY-----";
    let rsa = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,planted\n\nYWJj\n\
               -----END RSA PRIVATE KEY-----";
    let putty =
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 1\nplanted\nPrivate-MAC: 00";
    for name in EXPORTS {
        check(
            &exports(),
            export(name),
            &[
                ("Router", "planted-router"),
                ("Homelab/Rack/Router#username", "admin"),
                ("Router#uri", "https://planted.example"),
                ("Router#notes", "planted note\nNoteType:no"),
                ("Note#notes", "planted text"),
                ("Key#private_key", key),
                ("Homelab/Key#Private Key", key),
                ("Key#public_key", "ssh-ed25519 planted-public"),
                ("Key#Passphrase", "planted: pass"),
                ("Key#Hostname", "nas:22"),
                ("Key#Bit Strength", ""),
                ("Key#notes", "line: one\nHostname:not this\n"),
                ("RSA#private_key", rsa),
                ("RSA#Hostname", "nas:22"),
                ("PuTTY#private_key", putty),
                ("PuTTY#public_key", "ssh-ed25519 planted-public"),
                ("Server", "planted: server\nhttps://planted"),
                ("Server#username", "root"),
                ("Server#Hostname", "nas"),
                ("Server#notes", ""),
                ("Wifi", "planted-wifi"),
                ("Wifi#SSID", "net"),
                ("Wifi#Use 802.1X", "No"),
                ("Bare", ""),
                ("Homelab/Twin", "planted-2"),
            ],
        );
    }
    check(&exports(), export("lastpass.csv"), &[("Router#totp", "PLANTEDTOTP")]);
}

#[test]
fn what_cannot_be_had_is_told() {
    check_errors(
        &exports(),
        export("lastpass.csv"),
        &[
            ("Twin", "two items are called \"Twin\" (for s)\n   Twin\n   Homelab/Twin\nwrite `vault:Homelab/Twin`"),
            ("Note", "item \"Note\" has no password; it has: notes"),
            ("Rack/Router", "no item \"Rack/Router\""),
            ("Homelab\\Rack/Router", "no item"),
            (
                "Server#Notetype",
                "item \"Server\" has no field \"Notetype\"; it has: username, password, notes, Language, Hostname, \
                Username, Password, Notes",
            ),
        ],
    );
}

#[test]
fn a_listing_names_folders_items_and_fields() {
    let items = listing(&exports(), export("lastpass.csv"));
    assert_eq!(items.len(), 18);
    for want in [
        "Homelab/Rack|Router||password,username,totp,uri,notes",
        "|Note||notes",
        "|Bare||password,username",
        "|Wifi||password,SSID,Password,Use 802.1X",
    ] {
        assert!(items.iter().any(|item| item == want), "{want}: {items:#?}");
    }
}

#[test]
fn the_header_says_where_what_stands() {
    let directory = tempfile::tempdir().unwrap();
    let text =
        "\u{feff}fav,grouping,name,extra,other,password,username,url\r\n0,G,Router,n,o,planted-p,u,https://x\r\n";
    std::fs::write(directory.path().join("x"), text).unwrap();
    let got = get(directory.path(), export("x"), &["G/Router", "Router#username", "Router#notes"]).unwrap();
    assert_eq!(got, [&b"planted-p"[..], b"u", b"n"]);

    assert!(error_text("name,url,username,password\nplanted,planted,planted,planted\n").contains(
        "this is not a LastPass export: it has no column \"extra\", \"grouping\"; there are: name, url, username, \
        password (for s)\n\
         in LastPass: Advanced Options, Export"
    ));
    let headerless = error_text("planted-a,planted-b,planted-c\n");
    assert!(
        headerless.contains("its first line, which must be the header, has no column \"url\", \"username\""),
        "{headerless}"
    );
    assert!(error_text("").contains("the file is empty"));
}

#[test]
fn a_note_of_a_type_is_taken_apart() {
    for (text, want) in [
        ("planted", None),
        ("notetype:x\nA:b", None),
        ("NoteType:x", Some(&[][..])),
        ("NoteType:x\nA:b", Some(&[("A", "b")])),
        ("NoteType:x\r\nA:b\r\nB:c\r\n", Some(&[("A", "b"), ("B", "c")])),
        ("NoteType:x\nA:b\nc d\n\ne", Some(&[("A", "b\nc d\n\ne")])),
        ("NoteType:x\nA:\nB:", Some(&[("A", ""), ("B", "")])),
        ("NoteType:x\nA:b\n:c\n 1:d\n9:e\nF :g", Some(&[("A", "b\n:c\n 1:d\n9:e\nF :g")])),
        ("NoteType:x\nNotes:a\nB:c\n", Some(&[("Notes", "a\nB:c\n")])),
        ("NoteType:x\nK:-----BEGIN A-----\nB:c", Some(&[("K", "-----BEGIN A-----\nB:c")])),
        (
            "NoteType:x\nK:-----BEGIN A----- -----END A-----\nB:c",
            Some(&[("K", "-----BEGIN A----- -----END A-----"), ("B", "c")]),
        ),
        ("NoteType:x\nSchlüssel:ü", Some(&[("Schlüssel", "ü")])),
    ] {
        assert_eq!(note::fields(text).as_deref(), want, "{text:?}");
    }
}
