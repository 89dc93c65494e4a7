//! The table of the kinds of sources.
//!
//! A new kind is a file or folder here, with an `impl` of [`Kind`] and of [`Source`] (or [`Vault`], for a password
//! manager's items), and one line in the table. If it has keys of its own, its folder also has their struct, its spec,
//! and an `impl` of [`Spec`].
//!
//! [`Vault`]: crate::items::reader::Vault

pub(crate) mod age;
pub(crate) mod bitwarden;
pub(crate) mod credentials;
pub(crate) mod csv;
pub(crate) mod dotenv;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod keepass;
pub(crate) mod lastpass;
pub(crate) mod onepassword;
pub(crate) mod programs;
pub(crate) mod proton;
pub(crate) mod sops;
pub(crate) mod store;

use deaddrop_core::keys::{NodeId, Report};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Source;
use crate::input::context::Context;
use crate::keys::{Declared, FileKeys, NoKeys, ProgramKeys, StoreKeys};
use crate::spec::{FileSpec, PasswordSpec, ProgramSpec, Spec, StoreSpec};

/// A kind of source: its settings in the manifest, and how it is opened.
pub(crate) trait Kind {
    /// Its settings.
    type Spec: Spec;

    /// False if its items are single values, without fields.
    const HAS_FIELDS: bool = true;

    /// True if the format of its file can be encrypted with a password.
    const TAKES_PASSWORD: bool = false;

    /// Creates the source called `name`, without reading anything.
    fn open<'m>(spec: &'m Self::Spec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm>;

    /// True if a value may be a whole file, with its final newline, rather than a form field or a line.
    fn keeps_files(_: &Self::Spec) -> bool {
        false
    }

    /// The environment variable that `item` reads; no child process inherits it.
    fn variable(_: &Self::Spec, _item: &str) -> Option<String> {
        None
    }
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident($name:literal, $kind:ty): $keys:ty => $spec:ty,)+) => {
        /// A place where values are kept.
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(rename = "a source")]
        #[schemars(rename = "source", tag = "type")]
        pub enum SourceKeys {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant($keys),)+
        }

        /// The kind and the checked settings of a named source. Relative paths start at the manifest's directory.
        #[derive(Debug, Clone)]
        pub enum SourceSpec {
            $($(#[doc = $doc])+ $variant($spec),)+
        }

        impl SourceKeys {
            /// Its `type` in the manifest.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            /// False if its items are single values, without fields.
            #[must_use]
            pub fn has_fields(&self) -> bool {
                match self { $(Self::$variant(_) => <$kind as Kind>::HAS_FIELDS,)+ }
            }

            /// Checks the keys of the source whose name is the node `key`, and whose value is the node `mapping`.
            /// `None` if any is wrong (reported).
            pub fn check(self, key: NodeId, mapping: NodeId, report: &dyn Report) -> Option<SourceSpec> {
                let kind = self.kind();
                match self {
                    $(Self::$variant(keys) => {
                        let takes_password = <$kind as Kind>::TAKES_PASSWORD;
                        let declared = Declared { kind, takes_password, key, mapping, report };
                        <$spec as Spec>::check(&declared, keys).map(SourceSpec::$variant)
                    })+
                }
            }
        }

        impl SourceSpec {
            /// Its `type` in the manifest.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            /// The password that opens it, if it has one.
            #[must_use]
            pub fn password(&self) -> Option<&PasswordSpec> {
                match self { $(Self::$variant(spec) => Spec::password(spec),)+ }
            }

            /// True if it reads standard input.
            #[must_use]
            pub fn reads_standard_input(&self) -> bool {
                let file = match self { $(Self::$variant(spec) => Spec::file(spec),)+ };
                file.is_some_and(FileSpec::is_standard_input)
            }

            /// True if a value may be a whole file, with its final newline, rather than a form field or a line.
            #[must_use]
            pub fn keeps_files(&self) -> bool {
                match self { $(Self::$variant(spec) => <$kind as Kind>::keeps_files(spec),)+ }
            }

            /// The environment variable that `item` reads.
            pub(crate) fn variable(&self, item: &str) -> Option<String> {
                match self { $(Self::$variant(spec) => <$kind as Kind>::variable(spec, item),)+ }
            }

            /// Creates the source called `name`, without reading anything.
            pub(crate) fn open<'m>(&'m self, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
                match self { $(Self::$variant(spec) => <$kind as Kind>::open(spec, name, context),)+ }
            }
        }
    };
}

kinds! {
    /// Environment variables.
    Env("env", env::Env): env::EnvKeys => env::EnvSpec,
    /// Files, each a value.
    File("file", file::File): file::DirectoryKeys => file::DirectorySpec,
    /// A file of NAME=VALUE lines.
    Dotenv("dotenv", dotenv::Dotenv): FileKeys => FileSpec,
    /// An export of Bitwarden or Vaultwarden: JSON, password-protected JSON, or ZIP with attachments.
    Bitwarden("bitwarden", bitwarden::Bitwarden): FileKeys => FileSpec,
    /// A 1Password export, `.1pux`.
    OnePassword("onepassword", onepassword::OnePassword): FileKeys => FileSpec,
    /// A KeePass database, KDBX 3.1 or 4.
    KeePass("keepass", keepass::Keepass): keepass::KeePassKeys => keepass::KeePassSpec,
    /// A Proton Pass export: ZIP, with or without a passphrase.
    ProtonPass("proton-pass", proton::ProtonPass): FileKeys => FileSpec,
    /// A LastPass export, CSV.
    LastPass("lastpass", lastpass::LastPass): FileKeys => FileSpec,
    /// A CSV file whose first line names its columns.
    Csv("csv", csv::Table): csv::CsvKeys => csv::CsvSpec,
    /// A store of pass, opened by gpg.
    Pass("pass", store::PassStore): StoreKeys => StoreSpec,
    /// A store of gopass, opened by gpg, or with age identities.
    Gopass("gopass", store::GopassStore): store::AgeStoreKeys => store::AgeStoreSpec,
    /// A store of passage.
    Passage("passage", store::PassageStore): store::AgeStoreKeys => store::AgeStoreSpec,
    /// A file encrypted by age: to identities, SSH keys, or a passphrase.
    Age("age", age::Age): age::AgeKeys => age::AgeSpec,
    /// A file encrypted by sops, opened by the program `sops`.
    Sops("sops", sops::Sops): sops::SopsKeys => sops::SopsSpec,
    /// A program that prints JSON; an item is a JSON pointer into it.
    Exec("exec", exec::Exec): exec::ExecKeys => exec::ExecSpec,
    /// Bitwarden's program `bw`, unlocked.
    Bw("bw", programs::Bw): ProgramKeys => ProgramSpec,
    /// The program `rbw`, unlocked.
    Rbw("rbw", programs::Rbw): ProgramKeys => ProgramSpec,
    /// 1Password's program `op`, signed in.
    Op("op", programs::Op): ProgramKeys => ProgramSpec,
    /// The program `secretspec`.
    Secretspec("secretspec", programs::Secretspec): ProgramKeys => ProgramSpec,
    /// The program `vals`; an item is an expression of it, `ref+…`.
    Vals("vals", programs::Vals): ProgramKeys => ProgramSpec,
    /// Systemd's credentials: files in $CREDENTIALS_DIRECTORY.
    Credentials("credentials", credentials::Credentials): NoKeys => (),
}
