//! Fixtures for tests: sources in a directory, and values that a format could change.
//!
//! Tests of one source, called `vault`, use the functions; tests of several sources, or of files that they write, use
//! [`Place`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{
    AgeSpec, DataFormat, Fetched, FileSpec, KdfLimit, KeePassSpec, Listed, PasswordSpec, Reference, SourceSpec,
    Sources, Wanted, fetch, list,
};

/// The password of all exports in tests/exports that have one.
pub(crate) const PASSWORD: &str = "correct \"horse\" $battery ünïcödé";

/// Values of all sorts, by the name of their item. The same as in tests/exports/make.py.
pub(crate) fn values() -> Vec<(&'static str, String)> {
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

/// An item whose value contains a NUL byte.
pub(crate) fn nul() -> (&'static str, String) {
    ("nul", "a\0b".to_owned())
}

/// An item whose value has 1 MiB.
pub(crate) fn long() -> (&'static str, String) {
    ("long", "0123456789abcdef".repeat(65536))
}

/// The directory of the committed exports.
pub(crate) fn exports() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/exports")
}

/// A file with this password.
pub(crate) fn locked(path: impl Into<PathBuf>, password: &str) -> FileSpec {
    let password = PasswordSpec::Exec(["printf", "%s", password].map(str::to_owned).into());
    FileSpec { password: Some(password), ..FileSpec::plain(path) }
}

/// An error as the user sees it: the message, and the hint (empty if there is none).
pub(crate) type Shown = (String, String);

/// Specs of sources, and the directory where their paths start.
pub(crate) struct Specs {
    directory: PathBuf,
    specs: BTreeMap<String, SourceSpec>,
}

impl Specs {
    pub(crate) fn new(directory: &Path, sources: &[(&str, SourceSpec)]) -> Self {
        let specs = sources.iter().map(|(name, spec)| ((*name).to_owned(), spec.clone())).collect();
        Self { directory: directory.to_owned(), specs }
    }

    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources { directory: &self.directory, specs: &self.specs, references: Vec::new(), tell: None }
    }

    /// The values for these pairs of secret and reference, in their order, or all errors. Panics if an error contains
    /// `planted`, which only values do.
    pub(crate) fn fetch(&self, wanted: &[(String, Reference)], allow_empty: bool) -> Result<Vec<Vec<u8>>, Vec<Shown>> {
        let all: Vec<Wanted<'_>> =
            wanted.iter().map(|(secret, reference)| Wanted { reference, secret, allow_empty }).collect();
        match fetch(&self.sources(), &all) {
            Ok(Fetched { values, warnings }) => {
                let shown = format!("{warnings:?}");
                assert!(!shown.to_lowercase().contains("planted"), "{shown}");
                Ok(wanted.iter().map(|(_, reference)| values[reference].expose().to_vec()).collect())
            }
            Err(errors) => {
                let shown: Vec<Shown> =
                    errors.iter().map(|error| (error.to_string(), error.hint().unwrap_or_default())).collect();
                let all = format!("{errors} {errors:?} {shown:?}");
                assert!(!all.to_lowercase().contains("planted"), "{all}");
                Err(shown)
            }
        }
    }

    /// The same for one secret called `s`, which may be empty.
    fn fetch_for_s(&self, references: impl Iterator<Item = Reference>) -> Result<Vec<Vec<u8>>, Vec<Shown>> {
        let wanted: Vec<(String, Reference)> = references.map(|reference| ("s".to_owned(), reference)).collect();
        self.fetch(&wanted, true)
    }

    fn list(&self, name: &str) -> Vec<Listed> {
        list(&self.sources(), name).unwrap_or_else(|error| panic!("{error}")).0
    }
}

/// Parses `SOURCE:ITEM[#FIELD]`.
pub(crate) fn reference(text: &str) -> Reference {
    let (source, item) = text.split_once(':').unwrap();
    let (item, field) = item.split_once('#').map_or((item, None), |(item, field)| (item, Some(field.to_owned())));
    Reference { source: source.into(), item: item.into(), field }
}

/// The values of items `ITEM[#FIELD]` of one source, or all errors, each as message, newline, hint.
pub(crate) fn get(directory: &Path, spec: SourceSpec, wanted: &[&str]) -> Result<Vec<Vec<u8>>, Vec<String>> {
    let references = wanted.iter().map(|item| reference(&format!("vault:{item}")));
    let values = Specs::new(directory, &[("vault", spec)]).fetch_for_s(references);
    values.map_err(|errors| errors.iter().map(|(message, hint)| format!("{message}\n{hint}")).collect())
}

/// The one value.
#[track_caller]
pub(crate) fn one(directory: &Path, spec: SourceSpec, wanted: &str) -> Vec<u8> {
    get(directory, spec, &[wanted]).unwrap_or_else(|errors| panic!("{wanted}: {errors:?}")).remove(0)
}

/// The one error.
#[track_caller]
pub(crate) fn error(directory: &Path, spec: SourceSpec, wanted: &str) -> String {
    let mut errors = get(directory, spec, &[wanted]).expect_err(wanted);
    assert_eq!(errors.len(), 1, "{wanted}: {errors:?}");
    errors.remove(0)
}

/// Checks pairs of item and value, in one run.
#[track_caller]
pub(crate) fn check(directory: &Path, spec: SourceSpec, wanted: &[(&str, &str)]) {
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let got = get(directory, spec, &names).unwrap_or_else(|errors| panic!("{errors:?}"));
    for ((name, want), got) in wanted.iter().zip(got) {
        assert_eq!(String::from_utf8(got).as_deref(), Ok(*want), "{name}");
    }
}

/// Checks pairs of item and part of its error, in one run.
#[track_caller]
pub(crate) fn check_errors(directory: &Path, spec: SourceSpec, wanted: &[(&str, &str)]) {
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let errors = get(directory, spec, &names).expect_err("all of these are errors");
    assert_eq!(errors.len(), names.len(), "{errors:?}");
    for ((name, want), error) in wanted.iter().zip(errors) {
        assert!(error.contains(want), "{name}: {error}");
    }
}

/// A listing, one line per item: folders, name, id and fields, joined by `|`.
pub(crate) fn listing(directory: &Path, spec: SourceSpec) -> Vec<String> {
    let items = Specs::new(directory, &[("vault", spec)]).list("vault");
    let line = |item: &Listed| {
        [&item.folders.join(","), &item.name, &item.id, &item.fields.join(",")].map(String::as_str).join("|")
    };
    items.iter().map(line).collect()
}

/// Checks that the item called by the name of each of `values` has that value in `field`, byte for byte.
#[track_caller]
pub(crate) fn check_values(directory: &Path, spec: &SourceSpec, field: &str, values: &[(&str, String)]) {
    let wanted: Vec<String> = values.iter().map(|(name, _)| format!("{name}{field}")).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let got = get(directory, spec.clone(), &wanted).unwrap_or_else(|errors| panic!("{errors:?}"));
    for ((name, want), got) in values.iter().zip(got) {
        assert!(got == want.as_bytes(), "{name}{field}: {:?}", String::from_utf8_lossy(&got[..got.len().min(200)]));
    }
}

/// A temporary directory with files of sources. Its methods take sources as in a manifest, on one line:
/// `{ NAME: { type: age, path: x, password: { file: pw } } }`, and references as `SOURCE:ITEM[#FIELD]`.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    /// An empty directory that others cannot enter.
    pub(crate) fn new() -> Self {
        let private = std::fs::Permissions::from_mode(0o700);
        Self { directory: tempfile::Builder::new().permissions(private).tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file; returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn specs(&self, sources: &str) -> Specs {
        let inside = sources.trim().trim_start_matches('{');
        let mut specs = Vec::new();
        for (keys, name) in inside.split("type: ").skip(1).zip(inside.split(": { type: ")) {
            specs.push((name.rsplit([' ', ',']).next().unwrap(), spec(keys)));
        }
        Specs::new(self.path(), &specs)
    }

    /// The values, or all errors as one text, each with its hint.
    pub(crate) fn get(&self, sources: &str, wanted: &[&str]) -> Result<Vec<Vec<u8>>, String> {
        let values = self.specs(sources).fetch_for_s(wanted.iter().map(|text| reference(text)));
        let line = |(message, hint): &Shown| format!("{message}\n{hint}").trim_end().to_owned();
        values.map_err(|errors| errors.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// The one value, as text.
    pub(crate) fn one(&self, sources: &str, wanted: &str) -> Result<String, String> {
        self.get(sources, &[wanted]).map(|mut values| String::from_utf8(values.remove(0)).unwrap())
    }

    /// The one error, with `DIR` for the path of this directory.
    pub(crate) fn fails(&self, sources: &str, wanted: &str) -> String {
        match self.get(sources, &[wanted]) {
            Ok(_) => panic!("{wanted}: there is a value"),
            Err(errors) => errors.replace(self.path().to_str().unwrap(), "DIR"),
        }
    }

    /// A listing, one line per item: folders, name and fields, joined by `|`; sorted.
    pub(crate) fn list(&self, sources: &str, name: &str) -> Vec<String> {
        let line = |item: &Listed| format!("{}|{}|{}", item.folders.join(","), item.name, item.fields.join(","));
        let mut lines: Vec<String> = self.specs(sources).list(name).iter().map(line).collect();
        lines.sort();
        lines
    }

    /// Runs a program in this directory, which must succeed; returns its standard output.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Vec<u8> {
        let output = Command::new(program).args(args).current_dir(self.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// Parses the text after `type: ` in a source of [`Place`]: `KIND, KEY: VALUE, …`.
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
    let kdf_limit = if key("kdf_limit").is_some() { KdfLimit::Lifted } else { KdfLimit::Bounded };
    let file = FileSpec { path: key("path").unwrap(), identity: key("identity"), password, kdf_limit };
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
