//! Sources of a manifest in a directory of its own, for tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Listed, Wanted, fetch, list};
use crate::manifest::{Manifest, Reference};

/// A directory with a manifest.
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

    /// The manifest with these `sources`, YAML of one line.
    fn manifest(&self, sources: &str) -> Manifest {
        let text = format!("version: 1\nsources: {sources}\nsecrets: {{}}\n");
        Manifest::parse(&text, &self.path().join("secrets.yaml")).unwrap_or_else(|errors| panic!("{sources}: {errors}"))
    }

    /// The values of references, or what a person is told, with hints; that holds nothing with `planted` in it.
    pub(super) fn get(&self, sources: &str, wanted: &[&str]) -> Result<Vec<Vec<u8>>, String> {
        let manifest = self.manifest(sources);
        let references: Vec<Reference> = wanted.iter().map(|text| reference(text)).collect();
        let wanted: Vec<Wanted<'_>> =
            references.iter().map(|reference| Wanted { reference, secret: "s", allow_empty: true }).collect();
        match fetch(&manifest, &wanted) {
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
        let mut lines: Vec<String> = list(&self.manifest(sources), name)
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

/// `SOURCE:ITEM[#FIELD]`.
fn reference(text: &str) -> Reference {
    let (source, item) = text.split_once(':').unwrap();
    let (item, field) = item.split_once('#').map_or((item, None), |(item, field)| (item, Some(field.to_owned())));
    Reference { source: source.into(), item: item.into(), field }
}

/// The path of a committed export.
pub(super) fn export(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports").join(name)
}
