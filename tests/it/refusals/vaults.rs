//! Exports made to hurt, through the whole program: each is refused within 10 seconds and 600 MB of address space.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use zip::write::{SimpleFileOptions, ZipWriter};

use crate::kit::Scratch;
use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;

const PASSWORD: &str = "correct \"horse\" $battery ünïcödé";

/// An archive of one file, of `pieces` times `piece`.
fn zip(name: &str, head: &[u8], piece: &[u8], pieces: usize) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(name, SimpleFileOptions::default()).unwrap();
    zip.write_all(head).unwrap();
    (0..pieces).for_each(|_| zip.write_all(piece).unwrap());
    zip.finish().unwrap().into_inner()
}

/// One of the exports in tests/exports, with some of its text replaced.
fn changed(name: &str, old: &str, new: &str) -> Vec<u8> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports").join(name)).unwrap();
    assert!(text.contains(old), "{old}");
    text.replace(old, new).into_bytes()
}

/// OpenPGP: a key with an Argon2 S2K (t, p, m), and data.
fn pgp(cost: [u8; 3]) -> Vec<u8> {
    let key = [&[4, 9, 4][..], &[1; 16], &cost].concat();
    [&[0xc3, 22][..], &key, &[0xd2, 61, 1], &[7; 60]].concat()
}

#[test]
fn hostile_exports_are_refused_within_bounds() {
    let zeros = vec![0; 1 << 20];
    let spaces = vec![b' '; 1 << 20];
    let cases = [
        ("a bomb", "bitwarden", zip("data.json", b"", &zeros, 100), "unpacks to over 250 times"),
        ("a bomb of space", "onepassword", zip("export.data", b"{", &spaces, 100), "unpacks to over 250 times"),
        ("a bomb", "proton-pass", zip("Proton Pass/data.json", b"", &zeros, 100), "unpacks to over 250 times"),
        ("a bomb", "proton-pass", zip("Proton Pass/data.pgp", b"", &zeros, 100), "unpacks to over 250 times"),
        (
            "memory",
            "bitwarden",
            changed("bitwarden-argon2.json", "\"kdfMemory\": 16", "\"kdfMemory\": 1024"),
            "takes 1024 MiB of memory, more than this process may have",
        ),
        (
            "too much memory",
            "bitwarden",
            changed("bitwarden-argon2.json", "\"kdfMemory\": 16", "\"kdfMemory\": 4194304"),
            "`kdfMemory` 4194304, and Bitwarden takes 16 to 1024",
        ),
        (
            "iterations",
            "bitwarden",
            changed("bitwarden-pbkdf2.json", "\"kdfIterations\": 5000", "\"kdfIterations\": 2147483647"),
            "`kdfIterations` 2147483647, and Bitwarden takes 5000 to 2000000",
        ),
        ("memory", "proton-pass", pgp([1, 4, 20]), "there is no memory for its key derivation, which takes 1024 MiB"),
        ("too much memory", "proton-pass", pgp([1, 4, 31]), "its key derivation asks for 2^31 KiB of memory (Argon2)"),
        ("commas", "lastpass", vec![b','; 40 << 20], "one item in it is over 32 MiB"),
        ("a quote", "lastpass", [&b"\""[..], &vec![b'x'; 40 << 20]].concat(), "one item in it is over 32 MiB"),
        ("line ends", "lastpass", vec![b'\n'; 40 << 20], "over 32 MiB"),
        (
            "a long file",
            "lastpass",
            b"url,username,password,extra,name,grouping\n,,,,x,\n".repeat(100),
            "two of its columns",
        ),
    ];
    for (name, kind, export, want) in cases {
        let scratch = Scratch::new();
        scratch.write("export", export);
        scratch.write(
            "secrets.yaml",
            format!(
                "version: 1\nsources:\n  v: {{ type: {kind}, path: export{} }}\nsecrets:\n  \
                 a: {{ path: /etc/a, from: v:x }}\n",
                if matches!(kind, "bitwarden" | "proton-pass") { ", password: { env: EXPORT_PASSWORD }" } else { "" }
            ),
        );
        let password = Canary::of("password", PASSWORD.as_bytes());
        let run = Deaddrop::new(&scratch).args(["check", "--values"]).env("EXPORT_PASSWORD", PASSWORD).plant(&password);
        let run = run.limited().run();
        if name == "a long file" {
            // Nothing is wrong with it but that the same name comes often.
            run.expect_refusal(name, 1, &["100 items are called"]);
        } else {
            run.expect_refusal(&format!("{name}, {kind}"), 1, &[want]);
        }
    }
}
