//! Files encrypted by the real `age` to real keys of `age-keygen` and `ssh-keygen`; and the same files damaged.

use age::secrecy::SecretString;

use crate::testing::{Place, exports};

/// The passphrase of the files in tests/exports/age.
const PASSPHRASE: &str = "correct horse ünïcödé";
/// Start of an encrypted SSH key: magic, cipher, KDF, salt, 16 rounds.
const LOCKED: &str = "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEA==";
const DOCUMENT: &str =
    "{\"token\": \"planted-täg ☃ $HOME \\\"q\\\"\\n\", \"db\": {\"password\": \"planted-db\", \"port\": 5432}}";

/// Encrypts with the real `age`.
fn age(place: &Place, args: &[&str], content: impl AsRef<[u8]>) {
    place.write("plain", content);
    place.run("age", &[args, &["plain"]].concat());
}

/// A directory with identities in `id`, others in `other`; and the recipient of the first.
fn keys() -> (Place, String) {
    let place = Place::new();
    place.run("age-keygen", &["-o", "id"]);
    place.run("age-keygen", &["-o", "other"]);
    let recipient = String::from_utf8(place.run("age-keygen", &["-y", "id"])).unwrap().trim().to_owned();
    (place, recipient)
}

#[test]
fn a_document_is_read_from_binary_and_armored_files_with_any_of_several_identities() {
    let (place, recipient) = keys();
    age(&place, &["-r", &recipient, "-o", "x.age"], DOCUMENT);
    age(&place, &["-a", "-r", &recipient, "-o", "armored"], DOCUMENT);
    let several = [std::fs::read(place.path().join("other")).unwrap(), std::fs::read(place.path().join("id")).unwrap()];
    place.write("several", several.concat());
    for (file, identity) in [("x.age", "id"), ("armored", "id"), ("x.age", "several")] {
        let source = format!("{{ s: {{ type: age, path: {file}, identity: {identity}, format: json }} }}");
        assert_eq!(place.one(&source, "s:token").unwrap(), "planted-täg ☃ $HOME \"q\"\n", "{file} {identity}");
        assert_eq!(place.one(&source, "s:db#port").unwrap(), "5432");
        assert_eq!(place.one(&source, "s:/db/password").unwrap(), "planted-db");
        assert_eq!(place.list(&source, "s"), ["|db|password,port", "|token|"]);
    }
}

#[test]
fn every_format_is_read_byte_for_byte() {
    let (place, recipient) = keys();
    let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    age(&place, &["-r", &recipient, "-o", "value"], &bytes);
    age(&place, &["-r", &recipient, "-o", "empty"], "");
    age(&place, &["-r", &recipient, "-o", "yaml"], "a: 'planted $x'\nb: &b {c: 0x1F, d: yes}\ne: *b\n");
    age(&place, &["-r", &recipient, "-o", "env"], "A='planted $x'\nB\n");
    let source =
        |file: &str, format: &str| format!("{{ s: {{ type: age, path: {file}, identity: id, format: {format} }} }}");
    assert!(place.get(&source("value", "value"), &["s:value"]).unwrap()[0] == bytes);
    assert_eq!(place.one(&source("empty", "value"), "s:value").unwrap(), "");
    assert!(place.fails(&source("value", "value"), "s:valu").contains("did you mean `s:value`?"));
    assert_eq!(place.one(&source("yaml", "yaml"), "s:e#c").unwrap(), "0x1F");
    assert_eq!(place.one(&source("yaml", "yaml"), "s:a").unwrap(), "planted $x");
    assert_eq!(place.one(&source("env", "dotenv"), "s:A").unwrap(), "planted $x");
    assert!(place.fails(&source("env", "dotenv"), "s:B").contains("has no value: its last line has no `=`"));
    assert_eq!(place.fails(&source("env", "json"), "s:A"), "s: DIR/env: line 1, column 1: this is not JSON (for s)");
}

#[test]
fn ssh_keys_open_files_too() {
    let place = Place::new();
    place.write("pw", PASSPHRASE);
    for (name, kind, bits, passphrase) in
        [("ed", "ed25519", "256", ""), ("rsa", "rsa", "2048", ""), ("locked", "ed25519", "256", PASSPHRASE)]
    {
        place.run("ssh-keygen", &["-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "x", "-f", name]);
        age(&place, &["-R", &format!("{name}.pub"), "-o", "x.age"], DOCUMENT);
        let password = if passphrase.is_empty() { "" } else { ", password: { file: pw }" };
        let source = format!("{{ s: {{ type: age, path: x.age, identity: {name}, format: json{password} }} }}");
        assert_eq!(place.one(&source, "s:db#password").unwrap(), "planted-db", "{name}");
        let public = format!("{{ s: {{ type: age, path: x.age, identity: {name}.pub, format: json }} }}");
        assert!(place.fails(&public, "s:x").contains("line 1 is a recipient (a public key), not an identity"));
    }
    place.write("pw", "wrong");
    let source = "{ s: { type: age, path: x.age, identity: locked, format: json, password: { file: pw } } }";
    assert!(place.fails(source, "s:x").contains("locked: the password does not open this SSH key"));
    let text = std::fs::read_to_string(place.path().join("ed")).unwrap();
    place.write("damaged", text.replacen("b3B", "x3B", 1));
    place.run("ssh-keygen", &["-q", "-t", "ecdsa", "-N", "", "-f", "ecdsa"]);
    // The key of `ssh-keygen -a 16`, changed to 1001 rounds.
    let mut key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, LOCKED).unwrap();
    let rounds = key.windows(4).position(|window| window == [0, 0, 0, 16].as_slice()).unwrap() + 20;
    assert_eq!(key[rounds..rounds + 4], [0, 0, 0, 16]);
    key[rounds + 2..rounds + 4].copy_from_slice(&1001_u16.to_be_bytes());
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &key);
    place.write("slow", format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{key}\n-----END OPENSSH PRIVATE KEY-----\n"));
    for (identity, want) in [
        ("slow", "its key is derived in 1001 rounds of bcrypt, over 1000, the most that is taken"),
        ("damaged", "this is no SSH key that age takes (ed25519 or RSA), or it is damaged"),
        ("ecdsa", "this SSH key is of a type that cannot decrypt"),
    ] {
        let source = format!("{{ s: {{ type: age, path: x.age, identity: {identity}, format: json }} }}");
        assert!(place.fails(&source, "s:x").contains(want), "{}", place.fails(&source, "s:x"));
    }
}

#[test]
fn a_passphrase_opens_a_file_and_an_identity() {
    let place = Place::new();
    for name in ["passphrase.age", "identity.age", "document.age"] {
        std::fs::copy(exports().join("age").join(name), place.path().join(name)).unwrap();
    }
    place.write("pw", format!("{PASSPHRASE}\n"));
    place.write("wrong", "correct horse");
    let source = "{ s: { type: age, path: passphrase.age, password: { file: pw }, format: json } }";
    assert_eq!(place.one(source, "s:db#password").unwrap(), "planted-db");
    let source =
        "{ s: { type: age, path: document.age, identity: identity.age, password: { file: pw }, format: json } }";
    assert_eq!(place.one(source, "s:db#password").unwrap(), "planted-db");
    for (keys, want) in [
        ("path: passphrase.age, password: { file: wrong }", "passphrase.age: the password does not open it (for s)"),
        (
            "path: document.age, identity: identity.age, password: { file: wrong }",
            "identity.age: the password does not open it (for s)",
        ),
        (
            "path: passphrase.age, identity: id",
            "it is encrypted to a passphrase, not to an identity (for s)\nsay `password`",
        ),
        (
            "path: document.age, password: { file: pw }",
            "it is encrypted to identities, not to a passphrase (for s)\nsay `identity",
        ),
    ] {
        place.write("id", std::fs::read(exports().join("age/identity.txt")).unwrap());
        let told = place.fails(&format!("{{ s: {{ type: age, {keys}, format: json }} }}"), "s:token");
        assert!(told.contains(want), "{keys}: {told}");
    }
}

#[test]
fn white_space_may_stand_before_and_after_an_armored_file() {
    let (place, recipient) = keys();
    age(&place, &["-a", "-r", &recipient, "-o", "armored"], DOCUMENT);
    let armored = std::fs::read_to_string(place.path().join("armored")).unwrap();
    let identity = std::fs::read_to_string(exports().join("age/identity.age")).unwrap();
    place.write("pw", PASSPHRASE);
    for (before, after) in [("\n", ""), (" \t\r\n\n", "\n\n  \n"), ("", " "), (&*" ".repeat(1000), &*"\n".repeat(1000))]
    {
        for text in [armored.clone(), armored.replace('\n', "\r\n"), armored.trim_end().to_owned()] {
            place.write("x", format!("{before}{text}{after}"));
            let source = "{ s: { type: age, path: x, identity: id, format: json } }";
            assert_eq!(place.one(source, "s:db#password").as_deref(), Ok("planted-db"), "{before:?} {after:?}");
        }
    }
    // Also around a file of identities that has a passphrase.
    place.write("id.age", format!("\n {identity} \n"));
    std::fs::copy(exports().join("age/document.age"), place.path().join("y")).unwrap();
    let source = "{ s: { type: age, path: y, identity: id.age, password: { file: pw }, format: json } }";
    assert_eq!(place.one(source, "s:db#password").as_deref(), Ok("planted-db"));
}

#[test]
fn a_file_around_another_source_is_opened_first() {
    let (place, recipient) = keys();
    age(&place, &["-r", &recipient, "-o", "env.age"], "A=planted-env\n");
    age(&place, &["-r", &recipient, "-o", "vault.age"], include_str!("../../../../../tests/exports/homelab.json"));
    let source =
        "{ e: { type: dotenv, path: env.age, identity: id }, v: { type: bitwarden, path: vault.age, identity: id } }";
    assert_eq!(place.one(source, "e:A").unwrap(), "planted-env");
    assert!(!place.list(source, "v").is_empty());
}

#[test]
fn what_does_not_open_is_told_by_its_reason() {
    let (place, recipient) = keys();
    let content: Vec<u8> = DOCUMENT.bytes().chain([b' '; 200_000]).collect();
    age(&place, &["-r", &recipient, "-o", "good"], &content);
    age(&place, &["-a", "-r", &recipient, "-o", "armored"], &content);
    let good = std::fs::read(place.path().join("good")).unwrap();
    let armored = std::fs::read_to_string(place.path().join("armored")).unwrap();
    let header = good.windows(4).position(|window| window == b"--- ").unwrap() + 48;
    let chunk = 16 + (64 << 10) + 16;
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    // A different letter of the same alphabet, so that the header still parses.
    let relettered = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        bytes
    };
    let long_line = format!("-----BEGIN AGE ENCRYPTED FILE-----\n{}", "A".repeat(3 << 20));
    let recipients = format!("age-encryption.org/v1\n{}", "-> a\n\n".repeat(50_000));
    for (name, bytes, want) in [
        ("empty", vec![], "the file is empty"),
        ("other", b"{\"token\": \"planted\"}".to_vec(), "this is not an age file"),
        ("cut in the header", good[..header - 20].to_vec(), "the file is cut off in its header"),
        ("cut after the header", good[..header].to_vec(), "the file is cut off"),
        ("cut in a chunk", good[..header + 1000].to_vec(), "the file is cut off, or its last part is damaged"),
        ("cut between chunks", good[..header + chunk].to_vec(), "the file is cut off"),
        ("damaged recipient", relettered(80), "no identity in DIR/id opens it"),
        ("damaged mac", relettered(header - 10), "its header is damaged"),
        ("damaged chunk", flipped(header + 5000), "the file is damaged"),
        ("damaged end", flipped(good.len() - 1), "the file is cut off, or its last part is damaged"),
        ("version", b"age-encryption.org/v2\n--- x\n".to_vec(), "this version of the age format is not known"),
        ("no version", b"age-encryption.org/w1\n--- x\n".to_vec(), "its header is damaged"),
        ("damaged version", flipped(19), "its header is damaged"),
        ("damaged arrow", flipped(23), "its header is damaged"),
        ("damaged stanza", b"age-encryption.org/v1\n-> X25519 \x01\n--- x\n".to_vec(), "its header is damaged"),
        ("white space before a binary file", [b"\n", good.as_slice()].concat(), "this is not an age file"),
        ("white space only", b" \n\n".to_vec(), "the file is empty"),
        ("more white space", [" ".repeat(2000), armored.clone()].concat().into_bytes(), "this is not an age file"),
        ("text after the armor", [armored.as_str(), "\nx"].concat().into_bytes(), "the file is damaged"),
        (
            "much white space after it",
            [armored.as_str(), &" ".repeat(2000)].concat().into_bytes(),
            "the file is damaged",
        ),
        (
            "armor cut",
            armored.as_bytes()[..armored.len() / 2].to_vec(),
            "the file is cut off, or its last part is damaged",
        ),
        ("armor damaged", armored.replacen("\nYWdl", "\nYW!l", 1).into_bytes(), "the file is damaged"),
        ("armor of one line", long_line.into_bytes(), "the file is damaged"),
        ("long header", recipients.into_bytes(), "its header is over 256 KiB"),
    ] {
        place.write("bad", bytes);
        let told = place.fails("{ s: { type: age, path: bad, identity: id, format: json } }", "s:token");
        assert!(told.starts_with(&format!("s: DIR/bad: {want}")), "{name}: {told}");
    }
    let told = place.fails("{ s: { type: age, path: good, identity: other, format: json } }", "s:token");
    assert_eq!(told, "s: DIR/good: no identity in DIR/other opens it (for s)\nwas it encrypted to another one?");
    for (content, want) in [
        ("# nothing\n\n", "there is no identity in it"),
        ("planted secret\n", "line 1 is no identity of age"),
        (recipient.as_str(), "line 1 is a recipient (a public key), not an identity"),
        ("AGE-PLUGIN-YUBIKEY-1QQQQ\n", "deaddrop runs no plugin"),
        ("AGE-SECRET-KEY-PQ-1QQQQ\n", "post-quantum"),
    ] {
        place.write("ids", content);
        let told = place.fails("{ s: { type: age, path: good, identity: ids, format: json } }", "s:token");
        assert!(told.starts_with("s: DIR/ids: ") && told.contains(want), "{content}: {told}");
    }
}

#[test]
fn work_beyond_the_bound_is_refused_at_once() {
    let place = Place::new();
    place.write("pw", "x");
    for (factor, want) in [
        ("21", "its scrypt work factor is 21: deriving its key takes 2048 MiB of memory, over 1024 MiB, the most"),
        ("53", "its scrypt work factor is 53: deriving its key takes 8796093022208 MiB of memory, over 1024 MiB"),
        ("63", "its scrypt work factor is 63: deriving its key takes"),
        ("255", "its scrypt work factor is 255: deriving its key takes"),
        ("999", "its header is damaged"),
    ] {
        let mac = "A".repeat(43);
        let body = "A".repeat(43);
        let salt = "A".repeat(22);
        place.write(
            "bad",
            format!("age-encryption.org/v1\n-> scrypt {salt} {factor}\n{body}\n--- {mac}\n0123456789abcdef"),
        );
        let start = std::time::Instant::now();
        let told = place.fails("{ s: { type: age, path: bad, password: { file: pw }, format: json } }", "s:token");
        assert!(told.starts_with(&format!("s: DIR/bad: {want}")), "{told}");
        assert_eq!(told.contains("`kdf_limit: none`"), factor != "999", "{told}");
        assert!(start.elapsed().as_secs() < 2);
    }
    // A low work factor is within the limit.
    let mut recipient = age::scrypt::Recipient::new(SecretString::from("x".to_owned()));
    recipient.set_work_factor(2);
    let mut bytes = Vec::new();
    let encryptor = age::Encryptor::with_recipients(std::iter::once::<&dyn age::Recipient>(&recipient)).unwrap();
    let mut writer = encryptor.wrap_output(&mut bytes).unwrap();
    std::io::Write::write_all(&mut writer, DOCUMENT.as_bytes()).unwrap();
    writer.finish().unwrap();
    place.write("good", bytes);
    let source = "{ s: { type: age, path: good, password: { file: pw }, format: json } }";
    assert_eq!(place.one(source, "s:db#password").unwrap(), "planted-db");
}
