//! The keys of a source. Doc comments here are the descriptions that an editor shows.

use schemars::JsonSchema;
use serde::Deserialize;

use super::DataFormat;
use crate::manifest::field::{Entries, Field};

/// A place where values are kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "a source", rename_all = "lowercase")]
#[schemars(rename = "source", tag = "type")]
pub(in crate::manifest) enum RawSource {
    /// Environment variables.
    Env(RawEnv),
    /// Files, each a value.
    File(RawDirectory),
    /// A file of NAME=VALUE lines.
    Dotenv(RawFile),
    /// An export of Bitwarden or Vaultwarden: JSON, password-protected JSON, or ZIP with attachments.
    Bitwarden(RawFile),
    /// A 1Password export, `.1pux`.
    OnePassword(RawFile),
    /// A KeePass database, KDBX 3.1 or 4.
    KeePass(RawKeePass),
    /// A Proton Pass export: ZIP, with or without a passphrase.
    #[serde(rename = "proton-pass")]
    ProtonPass(RawFile),
    /// A LastPass export, CSV.
    LastPass(RawFile),
    /// A CSV file whose first line names its columns.
    Csv(RawCsv),
    /// A store of pass, opened by gpg.
    Pass(RawStore),
    /// A store of gopass, opened by gpg.
    Gopass(RawStore),
    /// A store of passage.
    Passage(RawPassage),
    /// A file encrypted by age: to identities, SSH keys, or a passphrase.
    Age(RawAge),
    /// A file encrypted by sops, opened by the program `sops`.
    Sops(RawSops),
    /// A program that prints JSON; an item is a JSON pointer into it.
    Exec(RawExec),
    /// Bitwarden's program `bw`, unlocked.
    Bw(RawProgram),
    /// The program `rbw`, unlocked.
    Rbw(RawProgram),
    /// 1Password's program `op`, signed in.
    Op(RawProgram),
    /// The program `secretspec`.
    Secretspec(RawProgram),
    /// The program `vals`; an item is an expression of it, `ref+…`.
    Vals(RawProgram),
    /// Systemd's credentials: files in $CREDENTIALS_DIRECTORY.
    Credentials(RawNothing),
}

/// Environment variables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "an env source", default, deny_unknown_fields)]
#[schemars(rename = "env-source")]
pub(in crate::manifest) struct RawEnv {
    /// Put before each item's name: with `HOMELAB_`, the item `TOKEN` is the variable HOMELAB_TOKEN.
    #[schemars(extend("default" = ""))]
    pub prefix: Field<String>,
}

/// Files, each a value.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a file source", default, deny_unknown_fields)]
#[schemars(rename = "file-source")]
pub(in crate::manifest) struct RawDirectory {
    /// The directory where items' paths start; it starts at the manifest's own, which is the default.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
}

/// A file that holds values.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "this source", default, deny_unknown_fields)]
#[schemars(rename = "file-of-values", extend("required" = ["path"]))]
pub(in crate::manifest) struct RawFile {
    /// The file, or `-` for standard input; a relative path starts at the manifest's directory. One that ends in `.age` is
    /// decrypted first.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// What opens the file, if it is encrypted; with `identity`, what opens the file inside the `.age`.
    pub password: Field<RawPassword>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
}

/// A KeePass database.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a keepass source", default, deny_unknown_fields)]
#[schemars(rename = "keepass-source", extend("required" = ["path"]))]
pub(in crate::manifest) struct RawKeePass {
    /// The database, or `-` for standard input; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// The database's password. None where a key file alone opens it.
    pub password: Field<RawPassword>,
    /// The database's key file.
    #[schemars(length(min = 1))]
    pub key_file: Field<String>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
}

/// A CSV file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a csv source", default, deny_unknown_fields)]
#[schemars(rename = "csv-source", extend("required" = ["path", "columns"]))]
pub(in crate::manifest) struct RawCsv {
    /// The file, or `-` for standard input; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// Which column is what: `item` is the column that names items, `password` and every other key a field of that name.
    #[schemars(extend("required" = ["item"]))]
    pub columns: Field<Entries<String>>,
    /// What opens the file, for a path that ends in `.age`.
    pub password: Field<RawPassword>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
}

/// A directory of encrypted files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a store", default, deny_unknown_fields)]
#[schemars(rename = "store")]
pub(in crate::manifest) struct RawStore {
    /// The store's directory. Default: the program's own.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
}

/// A store of passage.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a passage source", default, deny_unknown_fields)]
#[schemars(rename = "passage-source")]
pub(in crate::manifest) struct RawPassage {
    /// The store's directory. Default: passage's own.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// A file of age identities, or an SSH key. Default: passage's own.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
    /// The passphrase of the store's files, or of the identity file.
    pub password: Field<RawPassword>,
}

/// A file encrypted by age.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "an age source", default, deny_unknown_fields)]
#[schemars(rename = "age-source", extend("required" = ["path", "format"]))]
pub(in crate::manifest) struct RawAge {
    /// The file, or `-` for standard input; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// What the file holds: JSON, YAML, NAME=VALUE lines, or one value, the item `value`.
    pub format: Field<DataFormat>,
    /// A file of age identities, or an SSH key.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
    /// The passphrase, where the file is encrypted to one.
    pub password: Field<RawPassword>,
}

/// A file encrypted by sops.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a sops source", default, deny_unknown_fields)]
#[schemars(rename = "sops-source", extend("required" = ["path"]))]
pub(in crate::manifest) struct RawSops {
    /// The file; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// How long the program may take, in seconds.
    #[schemars(extend("default" = super::check::DEFAULT_TIMEOUT, "minimum" = 1, "maximum" = super::check::LONGEST_TIMEOUT))]
    pub timeout: Field<u64>,
}

/// A program that prints JSON.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "an exec source", default, deny_unknown_fields)]
#[schemars(rename = "exec-source", extend("required" = ["argv"]))]
pub(in crate::manifest) struct RawExec {
    /// The program and its arguments, without a shell. It runs once, in the manifest's directory.
    #[schemars(length(min = 1))]
    pub argv: Field<Vec<Field<String>>>,
    /// How long it may take, in seconds.
    #[schemars(extend("default" = super::check::DEFAULT_TIMEOUT, "minimum" = 1, "maximum" = super::check::LONGEST_TIMEOUT))]
    pub timeout: Field<u64>,
}

/// A password manager's program.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "this source", default, deny_unknown_fields)]
#[schemars(rename = "program")]
pub(in crate::manifest) struct RawProgram {
    /// How long one call may take, in seconds.
    #[schemars(extend("default" = super::check::DEFAULT_TIMEOUT, "minimum" = 1, "maximum" = super::check::LONGEST_TIMEOUT))]
    pub timeout: Field<u64>,
}

/// A source without settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "this source", default, deny_unknown_fields)]
#[schemars(rename = "no-settings")]
pub(in crate::manifest) struct RawNothing {}

/// Where a password comes from: `ask`, or a mapping.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "a password")]
#[schemars(rename = "password", untagged)]
pub(in crate::manifest) enum RawPassword {
    /// `ask`: asked for on the terminal.
    #[serde(rename = "scalar")]
    Word(#[schemars(extend("const" = "ask"))] String),
    /// One of `env`, `file` and `exec`.
    #[serde(rename = "mapping")]
    From(RawPasswordFrom),
}

/// Where a password comes from: one of these keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a password", default, deny_unknown_fields)]
#[schemars(rename = "password-from", extend("minProperties" = 1, "maxProperties" = 1))]
pub(in crate::manifest) struct RawPasswordFrom {
    /// An environment variable.
    #[schemars(length(min = 1))]
    pub env: Field<String>,
    /// A file, less one final newline; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub file: Field<String>,
    /// A program and its arguments, without a shell: what it prints, less one final newline.
    #[schemars(length(min = 1))]
    pub exec: Field<Vec<Field<String>>>,
}
