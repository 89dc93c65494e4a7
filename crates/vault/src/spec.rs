//! What a manifest says of a source: what several kinds of it have in common. What only one kind has is beside that kind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// A file that holds values, and what opens it.
#[derive(Debug, Clone)]
pub struct FileSpec {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// A file of age identities (or an SSH key) that opens `path`, which is encrypted by age.
    pub identity: Option<PathBuf>,
    /// What opens the file; with `identity`, what opens the file inside the age file.
    pub password: Option<PasswordSpec>,
}

impl FileSpec {
    /// A file that is not encrypted.
    #[must_use]
    pub fn plain(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), identity: None, password: None }
    }

    /// True when the file is encrypted by age, as its name says.
    #[must_use]
    pub fn is_age(&self) -> bool {
        is_age(&self.path)
    }

    /// True for `-`.
    #[must_use]
    pub fn is_standard_input(&self) -> bool {
        self.path == Path::new("-")
    }
}

/// True for a path that ends in `.age`.
fn is_age(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("age"))
}

/// A directory of encrypted files.
#[derive(Debug, Clone, Default)]
pub struct StoreSpec {
    /// The directory; the program's own when absent.
    pub path: Option<PathBuf>,
}

/// Where a password to open a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSpec {
    /// An environment variable.
    Env(String),
    /// A file, less one final newline.
    File(PathBuf),
    /// What a program prints, less one final newline.
    Exec(Vec<String>),
    /// Asked for on the terminal.
    Ask,
}

/// What a decrypted file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "format")]
pub enum DataFormat {
    /// A JSON document.
    Json,
    /// A YAML document.
    Yaml,
    /// NAME=VALUE lines.
    Dotenv,
    /// One value, all of it: the item `value`.
    Value,
}

/// How long a program may take unless the manifest says otherwise, in seconds.
pub(crate) const DEFAULT_TIMEOUT: u64 = 60;
/// The longest time that it can be given, in seconds.
pub(crate) const LONGEST_TIMEOUT: u64 = 3600;

/// A program that may take only so long.
#[derive(Debug, Clone)]
pub struct ProgramSpec {
    /// How long one call may take.
    pub timeout: Duration,
}
