//! Keys that several kinds of source share, and their checks. Their doc comments become descriptions in
//! docs/manifest.schema.json.

use std::path::PathBuf;
use std::time::Duration;

use deaddrop_core::keys::{Field, NodeId, Report, local_path, text, variable};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::{DEFAULT_TIMEOUT, FileSpec, KdfLimit, LONGEST_TIMEOUT, PasswordSpec};

/// A file that holds values.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "this source", default, deny_unknown_fields)]
#[schemars(rename = "file-of-values", extend("required" = ["path"]))]
pub struct FileKeys {
    /// The file, or `-` for standard input; a relative path starts at the manifest's directory. A file whose name ends
    /// in `.age` is decrypted first.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// The password of the file, if it is encrypted; with `identity`, the password of the file inside the `.age`.
    pub password: Field<PasswordKeys>,
    /// A file of age identities, or an SSH key, for a path that ends in `.age`.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
    /// `none`: deriving the key from the password may cost anything. Without it, time and memory are bounded.
    pub kdf_limit: Field<KdfLimitKeys>,
}

/// The limit on the cost of a key derivation.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "kdf-limit")]
pub enum KdfLimitKeys {
    /// There is none.
    None,
}

/// A directory of encrypted files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a store", default, deny_unknown_fields)]
#[schemars(rename = "store")]
pub struct StoreKeys {
    /// The store's directory. Default: the program's own.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
}

/// A password manager's program.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "this source", default, deny_unknown_fields)]
#[schemars(rename = "program")]
pub struct ProgramKeys {
    /// How long one call may take, in seconds.
    #[schemars(extend("default" = DEFAULT_TIMEOUT, "minimum" = 1, "maximum" = LONGEST_TIMEOUT))]
    pub timeout: Field<u64>,
}

/// A source without settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "this source", default, deny_unknown_fields)]
#[schemars(rename = "no-settings")]
pub struct NoKeys {}

/// Where a password comes from: `ask`, or a mapping.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "a password")]
#[schemars(rename = "password", untagged)]
pub enum PasswordKeys {
    /// `ask`: asked for on the terminal.
    #[serde(rename = "scalar")]
    Word(#[schemars(extend("const" = "ask"))] String),
    /// One of `env`, `file` and `exec`.
    #[serde(rename = "mapping")]
    From(PasswordFromKeys),
}

/// Where a password comes from: one of these keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a password", default, deny_unknown_fields)]
#[schemars(rename = "password-from", extend("minProperties" = 1, "maxProperties" = 1))]
pub struct PasswordFromKeys {
    /// An environment variable.
    #[schemars(length(min = 1))]
    pub env: Field<String>,
    /// A file, less one final newline; a relative path starts at the manifest's directory.
    #[schemars(length(min = 1))]
    pub file: Field<String>,
    /// A program and its arguments, run without a shell: its output, less one final newline.
    #[schemars(length(min = 1))]
    pub exec: Field<Vec<Field<String>>>,
}

/// A source while its keys are checked.
#[derive(Clone, Copy)]
pub struct Declared<'r> {
    /// Its `type` in the manifest.
    pub kind: &'static str,
    /// The format of its file can be encrypted with a password.
    pub takes_password: bool,
    /// The node of its name.
    pub key: NodeId,
    /// The node of its mapping.
    pub mapping: NodeId,
    /// Receives the problems.
    pub report: &'r dyn Report,
}

impl Declared<'_> {
    /// Reports a problem of the source as a whole. `hint` may be empty.
    pub(crate) fn problem(&self, message: &str, hint: &str) {
        self.report.problem(self.key, message.to_owned(), Some(hint.to_owned()));
    }

    /// Reports a problem of one value. `hint` may be empty.
    pub(crate) fn problem_at(&self, at: NodeId, message: &str, hint: &str) {
        self.report.problem(at, message.to_owned(), Some(hint.to_owned()));
    }

    /// The node of the value of one of its keys.
    pub(crate) fn child(&self, key: &str) -> Option<NodeId> {
        self.report.child(self.mapping, key)
    }

    /// A local path: `Some(None)` if the key is absent, `None` if the value is wrong (reported).
    pub(crate) fn path(&self, field: Field<String>) -> Option<Option<PathBuf>> {
        Some(self.report.optional(field, local_path)?.map(PathBuf::from))
    }

    /// The path of a source that requires one. `None` if it is absent or wrong (reported).
    pub(crate) fn needed_path(&self, path: Field<String>) -> Option<PathBuf> {
        if path.is_missing() {
            self.report.problem(self.key, format!("a {} source needs a `path`", self.kind), None);
        }
        self.path(path)?
    }

    /// The time limit of one call of a program. `None` if it is out of range (reported).
    pub(crate) fn timeout(&self, field: Field<u64>) -> Option<Duration> {
        match field {
            Field::Missing => Some(Duration::from_secs(DEFAULT_TIMEOUT)),
            Field::Bad => None,
            Field::Good(_, seconds) if (1..=LONGEST_TIMEOUT).contains(&seconds) => Some(Duration::from_secs(seconds)),
            Field::Good(id, _) => {
                let hint = format!("seconds, from 1 to {LONGEST_TIMEOUT}; {DEFAULT_TIMEOUT} without it");
                self.problem_at(id, "no program can be given this time", &hint);
                None
            }
        }
    }

    /// A file with its identity and password.
    pub(crate) fn file(&self, keys: FileKeys) -> Option<FileSpec> {
        let path = self.needed_path(keys.path);
        let identity_id = keys.identity.place();
        let password_id = keys.password.place();
        let identity = self.path(keys.identity);
        let password = self.password(self.child("password"), keys.password);
        let limit_id = keys.kdf_limit.place();
        let kdf_limit = self.kdf_limit(keys.kdf_limit);
        let (path, identity, password, kdf_limit) = (path?, identity?, password?, kdf_limit?);
        let spec = FileSpec { path, identity, password, kdf_limit };
        let is_age = spec.is_age();
        if let Some(id) = identity_id.filter(|_| !is_age) {
            let hint = "`identity` opens what age has encrypted; remove it, or name the `.age` file";
            self.problem_at(id, "`identity` is for a path that ends in `.age`", hint);
            return None;
        }
        if is_age && spec.identity.is_none() && spec.password.is_none() {
            let hint = "add `identity: FILE` (age identities, or an SSH key), or `password` if it is encrypted to one";
            self.problem("nothing is said that opens the `.age` file", hint);
            return None;
        }
        if let Some(id) = password_id.filter(|_| !self.takes_password && (!is_age || spec.identity.is_some())) {
            let message = format!("a {} file is not encrypted: it takes no `password`", self.kind);
            self.problem_at(id, &message, "remove `password`");
            return None;
        }
        if let Some(id) = limit_id.filter(|_| !self.takes_password && !is_age) {
            let message = format!("a {} file is not encrypted: it takes no `kdf_limit`", self.kind);
            self.problem_at(id, &message, "remove `kdf_limit`");
            return None;
        }
        Some(spec)
    }

    /// The limit on key derivations. `None` if it is wrong (reported).
    pub(crate) fn kdf_limit(&self, field: Field<KdfLimitKeys>) -> Option<KdfLimit> {
        match field {
            Field::Missing => Some(KdfLimit::Bounded),
            Field::Bad => None,
            Field::Good(_, KdfLimitKeys::None) => Some(KdfLimit::Lifted),
        }
    }

    /// A password's origin: `Some(None)` if the key is absent, `None` if it is wrong (reported). `node` is its value.
    pub(crate) fn password(&self, node: Option<NodeId>, keys: Field<PasswordKeys>) -> Option<Option<PasswordSpec>> {
        const HINT: &str = "`password: { env: NAME }`, `{ file: PATH }`, `{ exec: [PROGRAM, …] }`, or `ask`";
        let (id, keys) = match keys {
            Field::Missing => return Some(None),
            Field::Bad => {
                if let Some(node) = node {
                    self.report.hide(node);
                }
                return None;
            }
            Field::Good(id, keys) => (id, keys),
        };
        let from = match keys {
            PasswordKeys::Word(word) if word == "ask" => return Some(Some(PasswordSpec::Ask)),
            PasswordKeys::Word(_) => {
                // A wrong value here may be the password itself, so messages must not quote it.
                self.report.hide(id);
                self.problem_at(id, "a manifest never holds a password: say where it comes from", HINT);
                return None;
            }
            PasswordKeys::From(from) => from,
        };
        let given = [from.env.is_missing(), from.file.is_missing(), from.exec.is_missing()];
        if given.iter().filter(|missing| !**missing).count() != 1 {
            self.problem_at(id, "`password` needs one of `env`, `file` and `exec`", HINT);
            return None;
        }
        if !from.env.is_missing() {
            let check = |name: &str| text(name, "`env`").and_then(|()| variable(name));
            return self.report.optional(from.env, check)?.map(|name| Some(PasswordSpec::Env(name)));
        }
        if !from.file.is_missing() {
            return self.path(from.file)?.map(|path| Some(PasswordSpec::File(path)));
        }
        self.report.argv(self.report.child(id, "exec"), from.exec).map(|argv| Some(PasswordSpec::Exec(argv)))
    }
}
