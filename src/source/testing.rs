//! What the tests of several kinds of source share: a source in a directory, and values that a format could get wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Wanted, fetch, list};
use crate::manifest::{FileSpec, Manifest, PasswordSpec, Reference, SourceSpec};

/// The password of all exports in tests/exports that have one.
pub(super) const PASSWORD: &str = "correct \"horse\" $battery ünïcödé";

/// What may stand in a value, by the name of its item. tests/exports/make.py has the same.
pub(super) fn values() -> Vec<(&'static str, String)> {
    [
        ("unicode", "grüße 日本 🔑 \u{202e}\u{301}x"),
        ("quotes", "\"double\" 'single' \\back\\slash `tick` ,;"),
        ("dollar", "$HOME ${X} $(id) $$ %d {{x}}"),
        ("newlines", "one\ntwo\r\nthree\n\n"),
        ("spaces", "  before and after \t"),
        ("html", "&lt;a &amp; b&gt; &quot;"),
        ("empty", ""),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

/// An item whose value holds a NUL byte.
pub(super) fn nul() -> (&'static str, String) {
    ("nul", "a\0b".to_owned())
}

/// An item whose value has a MiB.
pub(super) fn long() -> (&'static str, String) {
    ("long", "0123456789abcdef".repeat(65536))
}

/// Where the exports are.
pub(super) fn exports() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports")
}

/// A file that is opened by `password`.
pub(super) fn locked(path: impl Into<PathBuf>, password: &str) -> FileSpec {
    let password = PasswordSpec::Exec(["printf", "%s", password].map(str::to_owned).into());
    FileSpec { password: Some(password), ..FileSpec::plain(path) }
}

fn manifest(directory: &Path, spec: SourceSpec) -> Manifest {
    Manifest {
        file: directory.join("secrets.yaml"),
        directory: directory.to_owned(),
        sources: BTreeMap::from([("vault".to_owned(), spec)]),
        secrets: Vec::new(),
        hosts: BTreeMap::new(),
        serial: Vec::new(),
        warnings: Vec::new(),
    }
}

/// `ITEM` or `ITEM#FIELD` of a source called `vault`.
pub(super) fn reference(text: &str) -> Reference {
    let (item, field) = text.split_once('#').map_or((text, None), |(item, field)| (item, Some(field.to_owned())));
    Reference { source: "vault".into(), item: item.into(), field }
}

/// The values of `wanted`, or all errors, each as a person sees it: message, newline, hint. Empty values are taken.
pub(super) fn get(directory: &Path, spec: SourceSpec, wanted: &[&str]) -> Result<Vec<Vec<u8>>, Vec<String>> {
    let references: Vec<Reference> = wanted.iter().map(|text| reference(text)).collect();
    let wanted: Vec<Wanted<'_>> =
        references.iter().map(|reference| Wanted { reference, secret: "s", allow_empty: true }).collect();
    match fetch(&manifest(directory, spec), &wanted) {
        Ok(values) => Ok(references.iter().map(|reference| values[reference].expose().to_vec()).collect()),
        Err(errors) => {
            let told = format!("{errors} {errors:?}");
            assert!(!told.to_lowercase().contains("planted"), "{told}");
            Err(errors.iter().map(|error| format!("{error}\n{}", error.hint().unwrap_or_default())).collect())
        }
    }
}

/// The one value.
#[track_caller]
pub(super) fn one(directory: &Path, spec: SourceSpec, wanted: &str) -> Vec<u8> {
    get(directory, spec, &[wanted]).unwrap_or_else(|errors| panic!("{wanted}: {errors:?}")).remove(0)
}

/// The one error.
#[track_caller]
pub(super) fn error(directory: &Path, spec: SourceSpec, wanted: &str) -> String {
    let mut errors = get(directory, spec, &[wanted]).expect_err(wanted);
    assert_eq!(errors.len(), 1, "{wanted}: {errors:?}");
    errors.remove(0)
}

/// Checks that each of `wanted` is what stands beside it, all in one reading.
#[track_caller]
pub(super) fn check(directory: &Path, spec: SourceSpec, wanted: &[(&str, &str)]) {
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let got = get(directory, spec, &names).unwrap_or_else(|errors| panic!("{errors:?}"));
    for ((name, want), got) in wanted.iter().zip(got) {
        assert_eq!(String::from_utf8(got).as_deref(), Ok(*want), "{name}");
    }
}

/// Checks that what is said of each of `wanted` holds what stands beside it, all in one reading.
#[track_caller]
pub(super) fn check_errors(directory: &Path, spec: SourceSpec, wanted: &[(&str, &str)]) {
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let told = get(directory, spec, &names).expect_err("all of these are errors");
    assert_eq!(told.len(), names.len(), "{told:?}");
    for ((name, want), told) in wanted.iter().zip(told) {
        assert!(told.contains(want), "{name}: {told}");
    }
}

/// What there is, a line an item: `FOLDERS NAME ID FIELDS`, joined by `|`.
pub(super) fn listing(directory: &Path, spec: SourceSpec) -> Vec<String> {
    let items = list(&manifest(directory, spec), "vault").unwrap_or_else(|error| panic!("{error}"));
    items
        .iter()
        .map(|item| {
            [&item.folders.join(","), &item.name, &item.id, &item.fields.join(",")].map(String::as_str).join("|")
        })
        .collect()
}

/// Checks that each of `values` is had byte for byte as the field of the item of its name.
#[track_caller]
pub(super) fn check_values(directory: &Path, spec: &SourceSpec, field: &str, values: &[(&str, String)]) {
    let wanted: Vec<String> = values.iter().map(|(name, _)| format!("{name}{field}")).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let got = get(directory, spec.clone(), &wanted).unwrap_or_else(|errors| panic!("{errors:?}"));
    for ((name, want), got) in values.iter().zip(got) {
        assert!(got == want.as_bytes(), "{name}{field}: {:?}", String::from_utf8_lossy(&got[..got.len().min(200)]));
    }
}
