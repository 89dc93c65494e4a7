//! What `sources` in a manifest says: the kinds, after validation. `schema` holds the keys, `check` their meaning.

mod check;
pub(super) mod schema;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use check::has_fields;

/// A named source's kind and settings. Paths are as written: relative ones start at the manifest's directory.
#[derive(Debug, Clone)]
pub enum SourceSpec {
    /// Environment variables whose names start with `prefix`; items are named without it.
    Env {
        /// Put before each item's name.
        prefix: String,
    },
    /// Files; items are paths, relative to `path` if given.
    File {
        /// A directory; the manifest's when absent.
        path: Option<PathBuf>,
    },
    /// A dotenv file.
    Dotenv(FileSpec),
    /// An export of Bitwarden or Vaultwarden: JSON, password-protected JSON, or ZIP.
    Bitwarden(FileSpec),
    /// A 1Password export, `.1pux`.
    OnePassword(FileSpec),
    /// A KeePass database, KDBX 3.1 or 4.
    KeePass {
        /// The database, and its password.
        file: FileSpec,
        /// Its key file.
        key_file: Option<PathBuf>,
    },
    /// A Proton Pass export.
    ProtonPass(FileSpec),
    /// A LastPass export, CSV.
    LastPass(FileSpec),
    /// A CSV file with a header.
    Csv {
        /// The file.
        file: FileSpec,
        /// The header's name of the column that names items.
        item: String,
        /// Fields, `password` among them, and the header's names of their columns.
        fields: BTreeMap<String, String>,
    },
    /// A store of pass.
    Pass(StoreSpec),
    /// A store of gopass.
    Gopass(StoreSpec),
    /// A store of passage.
    Passage {
        /// The store.
        store: StoreSpec,
        /// A file of identities; passage's own when there is neither this nor a password.
        identity: Option<PathBuf>,
        /// What opens the identities, or the store's files.
        password: Option<PasswordSpec>,
    },
    /// A file encrypted by age.
    Age {
        /// The file, and what opens it.
        file: FileSpec,
        /// What it holds.
        format: DataFormat,
    },
    /// A file encrypted by sops, opened by the `sops` program.
    Sops {
        /// The file.
        path: PathBuf,
        /// How long the program may take.
        timeout: Duration,
    },
    /// A program that prints JSON.
    Exec(ExecSpec),
    /// A password manager's program.
    Program {
        /// Which.
        program: Program,
        /// How long one call may take.
        timeout: Duration,
    },
    /// Systemd's credentials, files in `$CREDENTIALS_DIRECTORY`.
    Credentials,
}

impl SourceSpec {
    /// Its `type` in the manifest.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Env { .. } => "env",
            Self::File { .. } => "file",
            Self::Dotenv(_) => "dotenv",
            Self::Bitwarden(_) => "bitwarden",
            Self::OnePassword(_) => "onepassword",
            Self::KeePass { .. } => "keepass",
            Self::ProtonPass(_) => "proton-pass",
            Self::LastPass(_) => "lastpass",
            Self::Csv { .. } => "csv",
            Self::Pass(_) => "pass",
            Self::Gopass(_) => "gopass",
            Self::Passage { .. } => "passage",
            Self::Age { .. } => "age",
            Self::Sops { .. } => "sops",
            Self::Exec(_) => "exec",
            Self::Program { program, .. } => program.name(),
            Self::Credentials => "credentials",
        }
    }

    /// The password that opens it, if it has one.
    #[must_use]
    pub fn password(&self) -> Option<&PasswordSpec> {
        match self {
            Self::Dotenv(file)
            | Self::Bitwarden(file)
            | Self::OnePassword(file)
            | Self::KeePass { file, .. }
            | Self::ProtonPass(file)
            | Self::LastPass(file)
            | Self::Csv { file, .. }
            | Self::Age { file, .. } => file.password.as_ref(),
            Self::Passage { password, .. } => password.as_ref(),
            Self::Env { .. }
            | Self::File { .. }
            | Self::Pass(_)
            | Self::Gopass(_)
            | Self::Sops { .. }
            | Self::Exec(_)
            | Self::Program { .. }
            | Self::Credentials => None,
        }
    }
}

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

/// A program and how its output is read.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// The program and its arguments; no shell. They may hold what is not to be shown.
    pub argv: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// The password managers' programs that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Bitwarden's.
    Bw,
    /// The unofficial one for Bitwarden, with an agent.
    Rbw,
    /// 1Password's.
    Op,
    /// secretspec.
    Secretspec,
    /// vals.
    Vals,
}

impl Program {
    /// Its name: the `type` in the manifest, and the program's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bw => "bw",
            Self::Rbw => "rbw",
            Self::Op => "op",
            Self::Secretspec => "secretspec",
            Self::Vals => "vals",
        }
    }
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
