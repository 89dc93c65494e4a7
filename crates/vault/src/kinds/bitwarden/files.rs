//! Tests of whole files: encrypted exports, and exports with attachments.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::testing::{PASSWORD, check_values, error, exports, get, listing, locked, long, nul, one, values};
use crate::{FileSpec, SourceSpec};

fn bitwarden(name: &str, password: &str) -> SourceSpec {
    SourceSpec::Bitwarden(locked(name, password))
}

/// An export with some of its text replaced, in its own directory.
fn changed(name: &str, changes: &[(&str, &str)]) -> tempfile::TempDir {
    let mut text = std::fs::read_to_string(exports().join(name)).unwrap();
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.json"), text).unwrap();
    directory
}

#[test]
fn protected_exports_give_every_value_byte_for_byte() {
    let values: Vec<_> = values().into_iter().chain([nul()]).collect();
    for name in ["bitwarden-pbkdf2.json", "bitwarden-argon2.json"] {
        check_values(&exports(), &bitwarden(name, PASSWORD), "", &values);
        check_values(&exports(), &bitwarden(name, PASSWORD), "#custom", &values);
    }
    assert_eq!(one(&exports(), bitwarden("bitwarden-pbkdf2.json", PASSWORD), "odd values/dollar#username"), b"admin");
}

#[test]
fn a_zip_export_gives_values_and_attachments_byte_for_byte() {
    let zip = || SourceSpec::Bitwarden(FileSpec::plain("bitwarden.zip"));
    let values: Vec<_> = values().into_iter().chain([nul(), long()]).collect();
    check_values(&exports(), &zip(), "", &values);
    let binary: Vec<u8> = (0..1024).map(|at| u8::try_from(at % 256).unwrap()).collect();
    let key: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----\nplanted-private\nYWJj\n-----END OPENSSH PRIVATE KEY-----";
    for (wanted, want) in [
        ("unicode#file:binary", &binary[..]),
        ("odd values/unicode#file:id_ed25519", key),
        ("unicode#file:ünï cödé", b"x"),
        ("unicode#file:empty", b""),
        ("unicode#file:../../etc/passwd", b"planted-up"),
    ] {
        assert_eq!(one(&exports(), zip(), wanted), want, "{wanted}");
    }
    let items = listing(&exports(), zip());
    let fields = "username,password,custom,file:binary";
    let fields = fields.replace("username,password", "password,username,notes");
    assert!(
        items.contains(&format!(
            "odd values|unicode|6f1c2a7e-0000-4000-8000-000000000100|{fields},file:id_ed25519,file:ünï \
            cödé,file:empty,\
         file:../../etc/passwd"
        )),
        "{items:?}"
    );
    let told = error(&exports(), zip(), "unicode#file:nothing");
    assert!(
        told.contains("has no field \"file:nothing\"; it has: password, username, notes, custom, file:binary"),
        "{told}"
    );
    assert!(error(&exports(), zip(), "dollar#file:binary").contains("no field"), "another item's");
}

#[test]
fn an_export_may_come_through_a_pipe() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["bitwarden-pbkdf2.json", "bitwarden.zip", "personal.json"] {
        let pipe = directory.path().join(name);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Opened for reading and writing, so that neither side blocks.
        let held = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let bytes = std::fs::read(exports().join(name)).unwrap();
        let writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        let (bytes, mut writer) = (bytes, writer);
        let thread = std::thread::spawn(move || {
            std::io::Write::write_all(&mut writer, &bytes).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            drop((writer, held));
        });
        let (item, want) =
            if name == "personal.json" { ("NAS", "planted-nas") } else { ("dollar", "$HOME ${X} $(id) $$ %d {{x}}") };
        assert_eq!(one(directory.path(), bitwarden(name, PASSWORD), item), want.as_bytes(), "{name}");
        thread.join().unwrap();
    }
}

#[test]
fn a_password_is_not_asked_for_where_there_is_no_need() {
    let none =
        FileSpec { password: Some(crate::PasswordSpec::File("/nowhere".into())), ..FileSpec::plain("personal.json") };
    assert_eq!(one(&exports(), SourceSpec::Bitwarden(none.clone()), "NAS"), b"planted-nas");
    let zip = FileSpec { path: "bitwarden.zip".into(), ..none };
    assert_eq!(one(&exports(), SourceSpec::Bitwarden(zip), "spaces"), b"  before and after \t");
}

#[test]
fn a_wrong_password_and_a_damaged_export_are_told_apart() {
    let text = std::fs::read_to_string(exports().join("bitwarden-pbkdf2.json")).unwrap();
    let data = text.split("\"data\": \"").nth(1).unwrap();
    let inside = &data[200..240];
    let flipped: String = inside.chars().rev().collect();
    let (iv, mac) = (&data[2..10], &data[data.len() - 20..data.len() - 8]);
    for (name, changes, password, want) in [
        ("wrong password", &[][..], "planted", "its password is wrong (for s)\nit is the export's own password"),
        (
            "a byte of data",
            &[(inside, flipped.as_str())],
            PASSWORD,
            "the encrypted export is damaged: its password is right",
        ),
        ("its IV", &[(iv, "AAAAAAAA")], PASSWORD, "its password is wrong"),
        ("its MAC", &[(mac, "AAAAAAAAAAAA")], PASSWORD, "the encrypted export is damaged: its password is right"),
        (
            "no base64",
            &[(inside, "*")],
            PASSWORD,
            "the encrypted export is damaged: it holds something else than base64",
        ),
        ("a bar less", &[("|", "")], PASSWORD, "the encrypted export is damaged: this is not how Bitwarden writes"),
        ("another type", &[("\"2.", "\"7.")], PASSWORD, "it is encrypted in a way that is not known"),
        ("no salt", &[("\"salt\"", "\"s\"")], PASSWORD, "this is JSON, but a Bitwarden export has something else here"),
        ("two salts", &[("\"salt\"", "\"data\": \"\", \"salt\"")], PASSWORD, "this is JSON, but a Bitwarden export"),
    ] {
        let directory = changed("bitwarden-pbkdf2.json", changes);
        let told = error(directory.path(), bitwarden("x.json", password), "dollar");
        assert!(told.contains(&format!("x.json: {want}")) || told.contains(want), "{name}: {told}");
    }
    for end in (0..text.len()).step_by(501) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x.json"), &text[..end]).unwrap();
        error(directory.path(), bitwarden("x.json", PASSWORD), "dollar");
    }
}

#[test]
fn a_key_derivation_beyond_the_bounds_is_refused_before_it_is_done() {
    let argon2 = "bitwarden-argon2.json";
    let started = Instant::now();
    for (name, export, old, new, want) in [
        (
            "few",
            "bitwarden-pbkdf2.json",
            "\"kdfIterations\": 5000",
            "\"kdfIterations\": 4999",
            "`kdfIterations` 4999, and Bitwarden takes 5000 to 2000000",
        ),
        ("many", "bitwarden-pbkdf2.json", "5000", "2000001", "`kdfIterations` 2000001"),
        ("very many", "bitwarden-pbkdf2.json", "5000", "4294967295", "`kdfIterations` 4294967295"),
        ("beyond number", "bitwarden-pbkdf2.json", "5000", "99999999999999999999", "`kdfIterations` that is no number"),
        ("below zero", "bitwarden-pbkdf2.json", "5000", "-1", "`kdfIterations` -1"),
        ("a part", "bitwarden-pbkdf2.json", "5000", "5000.5", "`kdfIterations` that is no number"),
        ("text", "bitwarden-pbkdf2.json", "5000", "\"5000\"", "`kdfIterations` that is no number"),
        (
            "passes",
            argon2,
            "\"kdfIterations\": 2",
            "\"kdfIterations\": 11",
            "`kdfIterations` 11, and Bitwarden takes 2 to 10",
        ),
        (
            "memory",
            argon2,
            "\"kdfMemory\": 16",
            "\"kdfMemory\": 1025",
            "`kdfMemory` 1025, and Bitwarden takes 16 to 1024",
        ),
        ("little memory", argon2, "\"kdfMemory\": 16", "\"kdfMemory\": 15", "`kdfMemory` 15"),
        ("no memory", argon2, "\"kdfMemory\": 16", "\"kdfMemory\": null", "`kdfMemory` that is no number"),
        (
            "lanes",
            argon2,
            "\"kdfParallelism\": 3",
            "\"kdfParallelism\": 17",
            "`kdfParallelism` 17, and Bitwarden takes 1 to 16",
        ),
        ("no lanes", argon2, "\"kdfParallelism\": 3", "\"kdfParallelism\": 0", "`kdfParallelism` 0"),
        (
            "another",
            argon2,
            "\"kdfType\": 1",
            "\"kdfType\": 2",
            "its key derivation (`kdfType`) is one that is not known",
        ),
    ] {
        let directory = changed(export, &[(old, new)]);
        let told = error(directory.path(), bitwarden("x.json", PASSWORD), "dollar");
        assert!(told.contains(want), "{name}: {told}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn the_order_of_keys_and_escapes_in_a_protected_export_do_not_matter() {
    let export = std::fs::read_to_string(exports().join("bitwarden-pbkdf2.json")).unwrap();
    let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&export).unwrap();
    let mut keys: Vec<_> = value.into_iter().collect();
    keys.reverse();
    let backwards = serde_json::Value::Object(keys.into_iter().collect()).to_string();
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("backwards", backwards),
        ("escaped", export.replace('/', "\\/").replace('+', "\\u002b")),
        ("with a mark", format!("\u{feff}{export}")),
    ] {
        std::fs::write(directory.path().join("x.json"), text).unwrap();
        assert_eq!(one(directory.path(), bitwarden("x.json", PASSWORD), "spaces"), b"  before and after \t", "{name}");
    }
}

#[test]
fn what_is_missing_in_a_zip_export_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(exports().join("bitwarden.zip")).unwrap();
    let write = |bytes: &[u8]| std::fs::write(directory.path().join("x.zip"), bytes).unwrap();
    let zip = || SourceSpec::Bitwarden(FileSpec::plain("x.zip"));
    write(&bytes[..bytes.len() - 1]);
    assert!(error(directory.path(), zip(), "dollar").contains("x.zip: the ZIP file has no end: it is cut off"));
    let other = String::from_utf8_lossy(&bytes).contains("data.json");
    assert!(other);
    let renamed: Vec<u8> = replace(&bytes, b"data.json", b"date.json");
    write(&renamed);
    assert!(
        error(directory.path(), zip(), "dollar")
            .contains("this ZIP file is not a Bitwarden export: it has no `data.json`")
    );
}

fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(old.len()).position(|window| window == old) {
        bytes[at..at + old.len()].copy_from_slice(new);
    }
    bytes
}

/// A key is derived once for all references: `cargo test --release a_key_is_derived_once -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn a_key_is_derived_once_for_a_thousand_references() {
    let (text, wanted) = big(1000, 600_000);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.json"), text).unwrap();
    let time = |wanted: &[&str]| {
        let started = Instant::now();
        get(directory.path(), bitwarden("x.json", "p"), wanted).unwrap();
        started.elapsed()
    };
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let best = |wanted: &[&str]| (0..5).map(|_| time(wanted)).min().unwrap();
    let (single, thousand) = (best(&wanted[..1]), best(&wanted));
    println!("1 reference {single:?}, 1000 references {thousand:?}");
    assert!(thousand < single.mul_f64(1.2), "{single:?} {thousand:?}");
}

/// A protected export of 50 MB: `cargo test --release a_large_export -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn a_large_export_is_read_within_a_second() {
    let (text, wanted) = big(200_000, 5_000);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.json"), &text).unwrap();
    let started = Instant::now();
    one(directory.path(), bitwarden("x.json", "p"), &wanted[199_999]);
    let peak = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = peak.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
    println!("{} bytes: {:?}, {peak} with the test's own copies", text.len(), started.elapsed());
}

/// A protected export of `count` items, password `p`, and references to all of them.
fn big(count: usize, iterations: u32) -> (String, Vec<String>) {
    use aes::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
    use base64::Engine;
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::Sha256;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let hmac = |key: &[u8], parts: &[&[u8]]| {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        parts.iter().for_each(|part| mac.update(part));
        <[u8; 32]>::from(mac.finalize().into_bytes())
    };
    let items: Vec<String> = (0..count)
        .map(|at| {
            format!(
                "{{\"id\":\"6f1c2a7e-0000-4000-8000-{at:012}\",\"folderId\":null,\"type\":1,\"name\":\"Item \
                {at}\",\"notes\":null,\
                 \"login\":{{\"uris\":[{{\"match\":null,\"uri\":\"https://{at}.example\"}}],\"username\":\"u\",\
                 \"password\":\"value {at}\",\"totp\":null}},\"collectionIds\":null}}"
            )
        })
        .collect();
    let inner = format!("{{\"encrypted\":false,\"folders\":[],\"items\":[{}]}}", items.join(","));
    let mut key = [0; 32];
    pbkdf2::pbkdf2::<Hmac<Sha256>>(b"p", b"salt", iterations, &mut key).unwrap();
    let (enc, mac) = (hmac(&key, &[b"enc\x01"]), hmac(&key, &[b"mac\x01"]));
    let iv = [7; 16];
    let seal = |text: &str| {
        let encryptor = cbc::Encryptor::<aes::Aes256>::new((&enc).into(), (&iv).into());
        let mut data = text.as_bytes().to_vec();
        data.resize(text.len() + 16, 0);
        let data = encryptor.encrypt_padded::<Pkcs7>(&mut data, text.len()).unwrap();
        format!("2.{}|{}|{}", base64(&iv), base64(data), base64(&hmac(&mac, &[&iv, data])))
    };
    let text = format!(
        "{{\"encrypted\":true,\
        \"passwordProtected\":true,\"salt\":\"salt\",\"kdfType\":0,\"kdfIterations\":{iterations},\
         \"encKeyValidation_DO_NOT_EDIT\":\"{}\",\"data\":\"{}\"}}",
        seal("x"),
        seal(&inner)
    );
    (text, (0..count).map(|at| format!("Item {at}")).collect())
}

#[test]
fn a_protected_export_of_many_items_is_read() {
    let (text, wanted) = big(5000, 5000);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.json"), text).unwrap();
    assert_eq!(one(Path::new(directory.path()), bitwarden("x.json", "p"), &wanted[4999]), b"value 4999");
}

#[test]
fn a_lifted_limit_takes_a_key_that_costs_more_than_bitwardens() {
    let directory = changed("bitwarden-pbkdf2.json", &[("\"kdfIterations\": 5000", "\"kdfIterations\": 2000001")]);
    let file = |kdf_limit| FileSpec { kdf_limit, ..locked("x.json", PASSWORD) };
    let told = |limit| error(directory.path(), SourceSpec::Bitwarden(file(limit)), "x");
    let bounded = told(crate::KdfLimit::Bounded);
    assert!(bounded.contains("takes 5000 to 2000000") && bounded.contains("`kdf_limit: none`"), "{bounded}");
    // The key is another one now.
    assert!(told(crate::KdfLimit::Lifted).contains("its password is wrong"));
}
