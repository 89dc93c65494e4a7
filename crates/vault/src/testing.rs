//! What the tests of several kinds of source share: sources in a directory, and values that a format could get wrong.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Listed, Sources, Wanted, fetch, list};
use crate::{AgeSpec, DataFormat, FileSpec, KeePassSpec, PasswordSpec, Reference, SourceSpec};

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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/exports")
}

/// A file that is opened by `password`.
pub(super) fn locked(path: impl Into<PathBuf>, password: &str) -> FileSpec {
    let password = PasswordSpec::Exec(["printf", "%s", password].map(str::to_owned).into());
    FileSpec { password: Some(password), ..FileSpec::plain(path) }
}

/// The specs of some sources, and the directory where their paths start.
pub(super) struct Specs {
    directory: PathBuf,
    specs: BTreeMap<String, SourceSpec>,
}

impl Specs {
    pub(super) fn new(directory: &Path, sources: &[(&str, SourceSpec)]) -> Self {
        let specs = sources.iter().map(|(name, spec)| ((*name).to_owned(), spec.clone())).collect();
        Self { directory: directory.to_owned(), specs }
    }

    pub(super) fn sources(&self) -> Sources<'_> {
        Sources { directory: &self.directory, specs: &self.specs, references: Vec::new() }
    }
}

fn specs(directory: &Path, spec: SourceSpec) -> Specs {
    Specs::new(directory, &[("vault", spec)])
}

/// `SOURCE:ITEM[#FIELD]`.
pub(super) fn full_reference(text: &str) -> Reference {
    let (source, item) = text.split_once(':').unwrap();
    Reference { source: source.into(), ..reference(item) }
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
    match fetch(&specs(directory, spec).sources(), &wanted) {
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
    let items = list(&specs(directory, spec).sources(), "vault").unwrap_or_else(|error| panic!("{error}"));
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

/// A directory with files of sources.
pub(super) struct Place {
    directory: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file; returns its path.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The sources that are written as in a manifest, on one line: `{ NAME: { type: age, path: x, password: { file: pw } } }`.
    fn specs(&self, sources: &str) -> Specs {
        let inside = sources.trim().trim_start_matches('{');
        let mut specs = Vec::new();
        for source in inside.split("type: ").skip(1).zip(inside.split(": { type: ")) {
            let (keys, name) = source;
            let name = name.rsplit([' ', ',']).next().unwrap();
            specs.push((name, spec(keys)));
        }
        Specs::new(self.path(), &specs)
    }

    /// The values of references, or what a person is told, with hints; that holds nothing with `planted` in it.
    pub(super) fn get(&self, sources: &str, wanted: &[&str]) -> Result<Vec<Vec<u8>>, String> {
        let specs = self.specs(sources);
        let references: Vec<Reference> = wanted.iter().map(|text| full_reference(text)).collect();
        let wanted: Vec<Wanted<'_>> =
            references.iter().map(|reference| Wanted { reference, secret: "s", allow_empty: true }).collect();
        match fetch(&specs.sources(), &wanted) {
            Ok(values) => Ok(references.iter().map(|reference| values[reference].expose().to_vec()).collect()),
            Err(errors) => {
                let told: Vec<String> = errors
                    .iter()
                    .map(|error| format!("{error}\n{}", error.hint().unwrap_or_default()).trim_end().to_owned())
                    .collect();
                let all = format!("{} {errors:?}", told.join("\n"));
                assert!(!all.to_lowercase().contains("planted"), "{all}");
                Err(told.join("\n"))
            }
        }
    }

    /// The value of one reference as text.
    pub(super) fn one(&self, sources: &str, wanted: &str) -> Result<String, String> {
        self.get(sources, &[wanted]).map(|mut values| String::from_utf8(values.remove(0)).unwrap())
    }

    /// What is told about one reference, whose value is not had.
    pub(super) fn fails(&self, sources: &str, wanted: &str) -> String {
        match self.get(sources, &[wanted]) {
            Ok(_) => panic!("{wanted}: there is a value"),
            Err(told) => told.replace(self.path().to_str().unwrap(), "DIR"),
        }
    }

    /// What `sources list` shows: folders, name and fields of each item in one line, sorted.
    pub(super) fn list(&self, sources: &str, name: &str) -> Vec<String> {
        let line = |item: Listed| format!("{}|{}|{}", item.folders.join(","), item.name, item.fields.join(","));
        let mut lines: Vec<String> = list(&self.specs(sources).sources(), name)
            .unwrap_or_else(|error| panic!("{error}"))
            .into_iter()
            .map(line)
            .collect();
        lines.sort();
        lines
    }

    /// Runs a program here, which must succeed; returns what it prints.
    pub(super) fn run<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Vec<u8> {
        let output = Command::new(program).args(args).current_dir(self.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// A spec from `KIND, KEY: VALUE, …`, as it stands behind `type:`.
fn spec(text: &str) -> SourceSpec {
    let (text, password) = match text.split_once("password: { file: ") {
        Some((before, rest)) => {
            let (file, after) = rest.split_once('}').unwrap();
            (format!("{before}{after}"), Some(PasswordSpec::File(file.trim().into())))
        }
        None => (text.to_owned(), None),
    };
    let words = |part: &'_ str| part.trim_matches([' ', '{', '}']).to_owned();
    let parts: Vec<String> = text.split(',').map(words).collect();
    let key = |name: &str| parts.iter().find_map(|part| part.strip_prefix(name)?.strip_prefix(": ").map(PathBuf::from));
    let file = FileSpec { path: key("path").unwrap(), identity: key("identity"), password };
    match parts[0].as_str() {
        "age" => {
            let format = match key("format").unwrap().to_str().unwrap() {
                "json" => DataFormat::Json,
                "yaml" => DataFormat::Yaml,
                "dotenv" => DataFormat::Dotenv,
                _ => DataFormat::Value,
            };
            SourceSpec::Age(AgeSpec { file, format })
        }
        "keepass" => SourceSpec::KeePass(KeePassSpec { file, key_file: key("key_file") }),
        "dotenv" => SourceSpec::Dotenv(file),
        "bitwarden" => SourceSpec::Bitwarden(file),
        other => panic!("{other}"),
    }
}

/// The path of a committed export.
pub(super) fn export(name: &str) -> PathBuf {
    exports().join(name)
}
