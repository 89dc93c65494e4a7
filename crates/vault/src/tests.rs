//! Sources of every kind through [`fetch()`], and mistakes that a user can make.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use deaddrop_core::limits::MAX_VALUE;

use super::*;
use crate::testing::{PASSWORD, Place, Shown, Specs, exports, locked, one, reference};

/// The values of references for secrets called `s0`, `s1`, …, which must not be empty; or all errors.
fn get(specs: &Specs, wanted: &[&str]) -> Result<Vec<Vec<u8>>, Vec<Shown>> {
    let wanted: Vec<(String, Reference)> =
        wanted.iter().enumerate().map(|(index, text)| (format!("s{index}"), reference(text))).collect();
    specs.fetch(&wanted, false)
}

/// The one error.
fn fails(specs: &Specs, wanted: &str) -> Shown {
    let mut errors = get(specs, &[wanted]).unwrap_err();
    assert_eq!(errors.len(), 1, "{wanted}");
    errors.pop().unwrap()
}

#[test]
fn a_file_is_read_byte_for_byte_from_the_manifests_directory_or_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::create_dir(path.join("keys")).unwrap();
    std::fs::write(path.join("keys/a#b"), b"\xff\0\r\n").unwrap();
    let specs = Specs::new(path, &[("keys", SourceSpec::File(DirectorySpec { path: Some("keys".into()) }))]);
    let odd = Reference { source: "file".into(), item: "keys/a#b".into(), field: None };
    let in_keys = Reference { source: "keys".into(), item: "a#b".into(), field: None };
    let absolute = Reference { item: path.join("keys/a#b").to_str().unwrap().into(), ..odd.clone() };
    let wanted = [&odd, &in_keys, &absolute].map(|reference| Wanted { reference, secret: "s", allow_empty: false });
    let values = fetch(&specs.sources(), &wanted).unwrap().values;
    assert_eq!(values.len(), 3);
    assert!(values.values().all(|value| value.expose() == b"\xff\0\r\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let specs = Specs::new(path, &[]);
    std::fs::create_dir(path.join("directory")).unwrap();
    std::fs::write(path.join("empty"), "").unwrap();
    std::fs::write(path.join("file"), "planted").unwrap();
    std::fs::File::create(path.join("longest")).unwrap().set_len(16 << 20).unwrap();
    std::fs::File::create(path.join("long")).unwrap().set_len((16 << 20) + 1).unwrap();
    let at = path.display();
    for (wanted, want, hint) in [
        (
            "file:none",
            format!("file: {at}/none: there is no such file (for s0)"),
            "a relative path starts at the manifest's",
        ),
        ("file:~/x", format!("file: {at}/~/x: there is no such file (for s0)"), "`~` is not expanded"),
        ("file:directory", format!("file: {at}/directory: this is a directory, not a file (for s0)"), ""),
        ("file:/dev/zero", "file: /dev/zero: this is a device, not a file (for s0)".into(), ""),
        ("file:empty", "file: \"empty\" is empty (for s0)".into(), "if that is meant, say `allow_empty: true`"),
        ("file:long", format!("file: {at}/long: over 16 MiB, the longest that is read (for s0)"), ""),
        ("file:a\0b", format!("file: {at}/a\u{fffd}b: file name contained an unexpected NUL byte (for s0)"), ""),
        ("file:file/x", format!("file: {at}/file/x: Not a directory (os error 20) (for s0)"), ""),
        (
            "file:file#password",
            "file: `#password`: a file has no fields (for s0)".into(),
            "leave it out; for a name that holds `#` write `from: { source: file, item: \"file#password\" }`",
        ),
    ] {
        let (got, got_hint) = fails(&specs, wanted);
        assert_eq!(got, want, "{wanted}");
        assert!(got_hint.starts_with(hint) && (hint.is_empty() == got_hint.is_empty()), "{wanted}: {got_hint}");
    }
    assert_eq!(get(&specs, &["file:longest"]).unwrap()[0].len(), MAX_VALUE);

    // Root may read everything, so there is no error to test.
    std::fs::set_permissions(path.join("file"), std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(path.join("file")).is_err() {
        assert_eq!(fails(&specs, "file:file").0, format!("file: {at}/file: permission denied (for s0)"));
    }
}

/// The tests of `env` run in a child process: setting a variable here would disturb other tests.
#[test]
fn environment_variables_are_read_byte_for_byte_and_missing_ones_named_whole() {
    if std::env::var_os("DEADDROP_TEST_CHILD").is_none() {
        let name = "tests::environment_variables_are_read_byte_for_byte_and_missing_ones_named_whole";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env("DEADDROP_TEST_CHILD", "1")
            .env("LAB_TOKEN", OsStr::from_bytes(b"planted \xff\n"))
            .env("LAB_EMPTY", "")
            .env("LAB_HASH#1", "planted")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let specs = Specs::new(Path::new("/"), &[("lab", SourceSpec::Env(EnvSpec { prefix: "LAB_".into() }))]);
    assert_eq!(get(&specs, &["lab:TOKEN", "env:LAB_TOKEN"]).unwrap(), vec![b"planted \xff\n"; 2]);
    let hash = Reference { source: "lab".into(), item: "HASH#1".into(), field: None };
    let wanted = Wanted { reference: &hash, secret: "s", allow_empty: false };
    assert_eq!(fetch(&specs.sources(), &[wanted]).unwrap().values[&hash].expose(), b"planted");
    for (wanted, want, hint) in [
        ("lab:K3S_TOKEN", "lab: $LAB_K3S_TOKEN is not set (for s0)", "set it for this run only"),
        ("env:TOKEN", "env: $TOKEN is not set (for s0)", "set it for this run only"),
        ("lab:EMPTY", "lab: \"EMPTY\" is empty (for s0)", "if that is meant, say `allow_empty: true`"),
        ("lab:A=B", "lab: \"LAB_A=B\" cannot be the name of an environment variable: it holds `=` (for s0)", ""),
        (
            "lab:A\0",
            "lab: \"LAB_A\u{fffd}\" cannot be the name of an environment variable: it holds a NUL byte (for s0)",
            "",
        ),
        ("lab:", "lab: \"LAB_\" cannot be the name of an environment variable: it is empty (for s0)", ""),
        ("lab:TOKEN#x", "lab: `#x`: the environment has no fields (for s0)", "leave it out"),
    ] {
        let (got, got_hint) = fails(&specs, wanted);
        assert_eq!(got, want, "{wanted}");
        assert!(got_hint.starts_with(hint) && (hint.is_empty() == got_hint.is_empty()), "{wanted}: {got_hint}");
    }
}

#[test]
fn a_dotenv_file_gives_what_python_dotenv_would() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let text = "export K3S_TOKEN=\"planted\\n1\" # c\nWIFI='planted 2'\nEMPTY=\nBARE\n=planted\nB=\"planted\n";
    std::fs::write(path.join("env"), text).unwrap();
    std::fs::write(path.join("bad"), b"A=1\nB=planted\xff\n").unwrap();
    let file = |name: &str| SourceSpec::Dotenv(FileSpec::plain(name));
    let specs =
        Specs::new(path, &[("ci", file("env")), ("bad", file("bad")), ("none", file("none")), ("dir", file("."))]);
    let values = get(&specs, &["ci:K3S_TOKEN", "ci:WIFI"]).unwrap();
    assert_eq!(values, [b"planted\n1".to_vec(), b"planted 2".to_vec()]);
    let at = path.display();
    for (wanted, want, hint) in [
        ("ci:K3S_TOKN", "ci: no item \"K3S_TOKN\" (for s0)".to_owned(), "did you mean `ci:K3S_TOKEN`?"),
        ("ci:wifi", "ci: no item \"wifi\" (for s0)".into(), "did you mean `ci:WIFI`?"),
        ("ci:SOMETHING", "ci: no item \"SOMETHING\" (for s0)".into(), "lines 5, 6 of the file could not be understood"),
        ("ci:EMPTY", "ci: \"EMPTY\" is empty (for s0)".into(), "if that is meant, say `allow_empty: true`"),
        ("ci:BARE", "ci: \"BARE\" has no value: its last line has no `=` (for s0)".into(), ""),
        ("ci:WIFI#x", "ci: `#x`: a dotenv file has no fields (for s0)".into(), "leave it out"),
        ("bad:A", format!("bad: {at}/bad:2: this is not UTF-8 (for s0)"), ""),
        ("none:A", format!("none: {at}/none: there is no such file (for s0)"), "a relative path starts"),
        ("dir:A", format!("dir: {at}/.: this is a directory, not a file (for s0)"), ""),
    ] {
        let (got, got_hint) = fails(&specs, wanted);
        assert_eq!(got, want, "{wanted}");
        assert!(got_hint.starts_with(hint) && (hint.is_empty() == got_hint.is_empty()), "{wanted}: {got_hint}");
    }
}

#[test]
fn every_error_of_every_source_is_told_at_once_in_the_manifests_order() {
    let export = |name: &str| SourceSpec::Bitwarden(FileSpec::plain(name));
    let specs = Specs::new(
        &exports(),
        &[
            ("vault", export("personal.json")),
            ("gone", export("gone.json")),
            ("own", export("account-restricted.json")),
            ("locked", export("password-protected.json")),
        ],
    );
    let wanted = [
        "gone:a",
        "vault:Rooter",
        "vault:NAS",
        "locked:x",
        "file:none",
        "gone:b",
        "nowhere:x",
        "vault:Router",
        "own:x",
        "vault:Empty password",
        "vault:Rooter",
    ];
    let errors = get(&specs, &wanted).unwrap_err();
    let at = exports();
    let at = at.display();
    let want = [
        format!("gone: {at}/gone.json: there is no such file (for s0, s5)"),
        "vault: no item \"Rooter\" (for s1, s10)".into(),
        format!(
            "locked: {at}/password-protected.json: this export is protected by a password, and the source has none \
            (for s3)"
        ),
        format!("file: {at}/none: there is no such file (for s4)"),
        "nowhere: there is no such source (for s6)".into(),
        "vault: two items are called \"Router\" (for s7)\n   \
         home/Router   6f1c2a7e-0000-4000-8000-000000000002   changed 2025-03-02\n   \
         work/Router   6f1c2a7e-0000-4000-8000-000000000003   changed 2026-01-17"
            .into(),
        format!(
            "own: {at}/account-restricted.json: this export is encrypted for your account only, and cannot be opened \
             outside Bitwarden (for s8)"
        ),
        "vault: \"Empty password\" is empty (for s9)".into(),
    ];
    let got: Vec<&String> = errors.iter().map(|(message, _)| message).collect();
    assert_eq!(got, want.iter().collect::<Vec<_>>());
    let hint = |index: usize| errors[index].1.as_str();
    assert_eq!(hint(1), "did you mean `vault:home/Router` or `vault:work/Router`?");
    assert!(hint(2).starts_with("say where the password comes from: `password: { env: NAME }`"), "{}", hint(2));
    assert_eq!(hint(5), "write `vault:home/Router`, or the id");
    assert!(hint(6).starts_with("export again with \"Password protected\""), "{}", hint(6));
}

#[test]
fn a_source_that_nobody_wants_is_not_opened() {
    let missing = SourceSpec::Bitwarden(FileSpec::plain("gone.json"));
    let specs = Specs::new(&exports(), &[("gone", missing)]);
    assert!(get(&specs, &[]).unwrap().is_empty());
    assert_eq!(get(&specs, &["file:homelab.json"]).unwrap().len(), 1);
}

#[test]
fn an_empty_value_is_for_those_who_ask_for_it() {
    let export = SourceSpec::Bitwarden(FileSpec::plain("personal.json"));
    let specs = Specs::new(&exports(), &[("vault", export)]);
    let reference = reference("vault:Empty password");
    let wanted = |secret, allow_empty| Wanted { reference: &reference, secret, allow_empty };
    let values = fetch(&specs.sources(), &[wanted("a", true), wanted("b", true)]).unwrap().values;
    assert!(values[&reference].is_empty());
    let errors = fetch(&specs.sources(), &[wanted("a", true), wanted("b", false), wanted("c", false)]).unwrap_err();
    assert_eq!(errors.to_string(), "vault: \"Empty password\" is empty (for b, c)");
}

#[test]
fn many_secrets_of_one_broken_source_are_counted() {
    let missing = SourceSpec::Bitwarden(FileSpec::plain("gone.json"));
    let specs = Specs::new(&exports(), &[("gone", missing)]);
    let wanted: Vec<String> = (0..12).map(|index| format!("gone:{index}")).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let errors = get(&specs, &wanted).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].0.ends_with("there is no such file (for s0, s1, s2, s3, s4 and 7 more)"), "{}", errors[0].0);
}

#[test]
fn the_references_of_the_example_have_values() {
    let export = SourceSpec::Bitwarden(FileSpec::plain("tests/exports/homelab.json"));
    let specs = Specs::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), &[("vault", export)]);
    let example = include_str!("../../../secrets.example.yaml");
    let wanted: Vec<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix("    from: "))
        .map(|rest| rest.split_once("  ").map_or(rest, |(reference, _)| reference).trim())
        .collect();
    assert_eq!(wanted.len(), 3);
    assert!(get(&specs, &wanted).unwrap().iter().all(|value| !value.is_empty()));
}

/// The warnings for these references of the secrets `s0`, `s1`, …: code, secret and message, with `DIR` for the
/// directory.
fn warnings(specs: &Specs, directory: &Path, wanted: &[&str]) -> Vec<String> {
    let references: Vec<(String, Reference)> =
        wanted.iter().enumerate().map(|(index, text)| (format!("s{index}"), reference(text))).collect();
    let wanted: Vec<Wanted<'_>> =
        references.iter().map(|(secret, reference)| Wanted { reference, secret, allow_empty: true }).collect();
    let warnings = fetch(&specs.sources(), &wanted).unwrap_or_else(|errors| panic!("{errors}")).warnings;
    let line = |warning: &Warning| {
        let message = warning.message.replace(directory.to_str().unwrap(), "DIR");
        format!("{} {} {message}", warning.code, warning.secret.as_deref().unwrap_or("-"))
    };
    warnings.iter().map(line).collect()
}

#[test]
fn odd_lines_of_a_dotenv_file_are_told_by_their_number() {
    let place = Place::new();
    let dotenv = SourceSpec::Dotenv(FileSpec::plain("env"));
    let specs = Specs::new(place.path(), &[("d", dotenv)]);
    let text = "A=1\nKEY=`planted one\nplanted two\nplanted`\nB='`planted`'\nC=2\nE=`planted`\nC= ` ok\n";
    for (text, wanted, want) in [
        ("A=1\n", &["d:A"][..], vec![]),
        ("planted is this\nA=1\n", &["d:A"], vec!["DD305 - DIR/env:1: this line cannot be understood and was skipped"]),
        (text, &["d:A", "d:B"], vec!["DD305 - DIR/env:3: this line cannot be understood and was skipped"]),
        (
            text,
            &["d:KEY", "d:C", "d:KEY"],
            vec![
                "DD305 - DIR/env:3: this line cannot be understood and was skipped",
                "DD306 s0 DIR/env:2: the value opens with a backquote, which is no quote here: it is this line only",
                "DD306 s2 DIR/env:2: the value opens with a backquote, which is no quote here: it is this line only",
                "DD306 s1 DIR/env:8: the value opens with a backquote, which is no quote here: it is this line only",
            ],
        ),
        (
            "= 1\n= 2\n= 3\n= 4\n= 5\n= 6\nA=1\n",
            &["d:A"],
            vec!["DD305 - DIR/env:1: lines 1, 2, 3, 4, 5 cannot be understood and were skipped"],
        ),
    ] {
        place.write("env", text);
        assert_eq!(warnings(&specs, place.path(), wanted), want, "{text}");
    }
}

#[test]
fn odd_lines_of_a_dotenv_file_in_an_age_file_are_told_too() {
    let place = Place::new();
    place.run("age-keygen", &["-o", "key"]);
    place.write("env", "A=`planted\nplanted two`\n");
    let recipient = String::from_utf8(place.run("age-keygen", &["-y", "key"])).unwrap();
    place.run("age", &["-r", recipient.trim(), "-o", "env.age", "env"]);
    let file = FileSpec { identity: Some("key".into()), ..FileSpec::plain("env.age") };
    let specs = Specs::new(place.path(), &[("d", SourceSpec::Age(AgeSpec { file, format: DataFormat::Dotenv }))]);
    let want = [
        "DD305 - DIR/env.age:2: this line cannot be understood and was skipped",
        "DD306 s0 DIR/env.age:1: the value opens with a backquote, which is no quote here: it is this line only",
    ];
    assert_eq!(warnings(&specs, place.path(), &["d:A"]), want);
}

#[test]
fn every_kind_of_file_in_clear_text_is_told_if_others_can_read_it_and_no_encrypted_one() {
    let place = Place::new();
    let copy = |name: &str| place.write(name, std::fs::read(exports().join(name)).unwrap());
    let names = [
        "homelab.json",
        "bitwarden.zip",
        "bitwarden-pbkdf2.json",
        "onepassword.1pux",
        "proton.zip",
        "proton-encrypted.zip",
        "proton-json.pgp",
        "lastpass.csv",
        "chrome.csv",
    ];
    names.iter().for_each(|name| drop(copy(name)));
    place.write("env", "A=1\n");
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let locked = |name: &str| crate::testing::locked(name, crate::testing::PASSWORD);
    let table = CsvSpec {
        file: FileSpec::plain("chrome.csv"),
        item: Column::Name("name".into()),
        fields: [("password".to_owned(), Column::Name("password".into()))].into(),
    };
    for (name, spec, is_clear) in [
        ("homelab.json", SourceSpec::Bitwarden(FileSpec::plain("homelab.json")), true),
        ("bitwarden.zip", SourceSpec::Bitwarden(FileSpec::plain("bitwarden.zip")), true),
        ("bitwarden-pbkdf2.json", SourceSpec::Bitwarden(locked("bitwarden-pbkdf2.json")), false),
        ("onepassword.1pux", SourceSpec::OnePassword(FileSpec::plain("onepassword.1pux")), true),
        ("proton.zip", SourceSpec::ProtonPass(FileSpec::plain("proton.zip")), true),
        ("proton-encrypted.zip", SourceSpec::ProtonPass(locked("proton-encrypted.zip")), false),
        ("proton-json.pgp", SourceSpec::ProtonPass(locked("proton-json.pgp")), false),
        ("lastpass.csv", SourceSpec::LastPass(FileSpec::plain("lastpass.csv")), true),
        ("chrome.csv", SourceSpec::Csv(table), true),
        ("env", SourceSpec::Dotenv(FileSpec::plain("env")), true),
    ] {
        let specs = Specs::new(place.path(), &[("v", spec)]);
        let (_, warnings) = list(&specs.sources(), "v").unwrap_or_else(|error| panic!("{name}: {error}"));
        let codes: Vec<(&str, Option<&str>)> =
            warnings.iter().map(|warning| (warning.code, warning.secret.as_deref())).collect();
        assert_eq!(codes, if is_clear { vec![("DD308", None)] } else { vec![] }, "{name}");
    }
}

#[test]
fn a_bit_that_was_changed_in_a_file_with_a_checksum_or_mac_never_gives_another_value() {
    // Values without one: CSV, plain JSON, dotenv; and version 3 of KDBX as KeePass before 2.20 and pykeepass write it.
    const KEEPASS: &str = "correct horse ünïcödé";
    let place = Place::new();
    let export = |name: &str| std::fs::read(exports().join(name)).unwrap();
    std::fs::copy(exports().join("age/identity.txt"), place.path().join("id")).unwrap();
    let file = |password: &str| match password {
        "" => FileSpec::plain("x"),
        "id" => FileSpec { identity: Some("id".into()), ..FileSpec::plain("x") },
        password => locked("x", password),
    };
    let keepass = || SourceSpec::KeePass(KeePassSpec { file: file(KEEPASS), key_file: None });
    let age = |file: FileSpec| SourceSpec::Age(AgeSpec { file, format: DataFormat::Json });
    for (name, spec, wanted) in [
        ("bitwarden-pbkdf2.json", SourceSpec::Bitwarden(file(PASSWORD)), "odd values/dollar"),
        ("bitwarden.zip", SourceSpec::Bitwarden(file("")), "unicode#file:binary"),
        ("bitwarden.zip", SourceSpec::Bitwarden(file("")), "odd values/dollar"),
        ("onepassword.1pux", SourceSpec::OnePassword(file("")), "Router"),
        ("proton.zip", SourceSpec::ProtonPass(file("")), "Router"),
        ("proton-around.pgp", SourceSpec::ProtonPass(file(PASSWORD)), "Router"),
        ("proton-json.pgp", SourceSpec::ProtonPass(file(PASSWORD)), "Router"),
        ("proton-encrypted.zip", SourceSpec::ProtonPass(file(PASSWORD)), "Router"),
        ("keepass/argon2d-aes.kdbx", keepass(), "home/Homelab admin"),
        ("keepass/argon2id-chacha20.kdbx", keepass(), "home/Homelab admin"),
        ("keepass/keepassxc3.kdbx", keepass(), "home/Homelab admin"),
        ("age/document.age", age(file("id")), "token"),
    ] {
        let good = export(name);
        place.write("x", &good);
        let value = one(place.path(), spec.clone(), wanted);
        let mut refused = 0;
        for at in (0..good.len()).step_by(good.len().div_ceil(12)) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            place.write("x", bytes);
            match crate::testing::get(place.path(), spec.clone(), &[wanted]) {
                Ok(values) => assert!(values == std::slice::from_ref(&value), "{name} {wanted}: byte {at}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "{name}");
    }
}
