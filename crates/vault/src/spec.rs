//! Specs that several kinds of source share: checked settings of a source. A spec of one kind only is in its folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::keys::{Declared, FileKeys, NoKeys, ProgramKeys, StoreKeys};

/// The checked settings of a source.
pub(crate) trait Spec: Sized {
    /// The keys in the manifest that it is made from.
    type Keys;

    /// Checks the keys. `None` if any is wrong (reported).
    fn check(declared: &Declared<'_>, keys: Self::Keys) -> Option<Self>;

    /// The file that the source reads.
    fn file(&self) -> Option<&FileSpec> {
        None
    }

    /// The password that opens the source.
    fn password(&self) -> Option<&PasswordSpec> {
        self.file()?.password.as_ref()
    }
}

/// A source without settings.
impl Spec for () {
    type Keys = NoKeys;

    fn check(_: &Declared<'_>, _: NoKeys) -> Option<Self> {
        Some(())
    }
}

/// A file of values, and how to decrypt it.
#[derive(Debug, Clone)]
pub struct FileSpec {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// A file of age identities (or an SSH key) that decrypts `path`.
    pub identity: Option<PathBuf>,
    /// The file's password; with `identity`, the password of the file inside the age file.
    pub password: Option<PasswordSpec>,
    /// How much deriving a key from the password may cost.
    pub kdf_limit: KdfLimit,
}

impl FileSpec {
    /// A file that is not encrypted.
    #[must_use]
    pub fn plain(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), identity: None, password: None, kdf_limit: KdfLimit::Bounded }
    }

    /// True if the file's name says that age has encrypted it.
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

impl Spec for FileSpec {
    type Keys = FileKeys;

    fn check(declared: &Declared<'_>, keys: FileKeys) -> Option<Self> {
        declared.file(keys)
    }

    fn file(&self) -> Option<&FileSpec> {
        Some(self)
    }
}

/// True if `path` ends in `.age`, in any case.
fn is_age(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("age"))
}

/// A directory of encrypted files.
#[derive(Debug, Clone, Default)]
pub struct StoreSpec {
    /// The directory. `None`: the program's default.
    pub path: Option<PathBuf>,
}

impl Spec for StoreSpec {
    type Keys = StoreKeys;

    fn check(declared: &Declared<'_>, keys: StoreKeys) -> Option<Self> {
        Some(Self { path: declared.path(keys.path)? })
    }
}

/// The origin of a password that opens a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSpec {
    /// An environment variable.
    Env(String),
    /// A file, less one final newline.
    File(PathBuf),
    /// The output of a program, less one final newline. Program and arguments; never empty.
    Exec(Vec<String>),
    /// A question on the terminal.
    Ask,
}

/// How much deriving a key from a password may cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KdfLimit {
    /// At most what the manual says for the kind of file.
    #[default]
    Bounded,
    /// Anything.
    Lifted,
}

/// The format of a decrypted file.
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

/// Default time limit of a program, in seconds.
pub(crate) const DEFAULT_TIMEOUT: u64 = 60;
/// Maximum time limit of a program, in seconds.
pub(crate) const LONGEST_TIMEOUT: u64 = 3600;

/// A program with a time limit.
#[derive(Debug, Clone)]
pub struct ProgramSpec {
    /// Time limit of one call.
    pub timeout: Duration,
}

impl Spec for ProgramSpec {
    type Keys = ProgramKeys;

    fn check(declared: &Declared<'_>, keys: ProgramKeys) -> Option<Self> {
        Some(Self { timeout: declared.timeout(keys.timeout)? })
    }
}
