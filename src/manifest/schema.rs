//! The keys of a manifest: the types that it is decoded into, and the source of its JSON schema. Conditions that types
//! cannot express (names that must exist, paths that must not collide) are checked afterwards.
//!
//! Doc comments here become descriptions in docs/manifest.schema.json.

use std::fmt;

use deaddrop_core::keys::{Entries, Field, NodeId};
use deaddrop_core::privilege::Become;
use deaddrop_vault::SourceKeys;
use schemars::{JsonSchema, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::generate::RawGenerate;
use super::rotation::{self, Output, SecretKind};
use crate::derive::encoding::Encoding;
use crate::derive::expect;
use crate::derive::format::Format;
use crate::derive::newline::Newline;
use crate::derive::password::HashScheme;

/// The version of the manifest's format that this program reads.
pub(super) const VERSION: u64 = 1;

/// A deaddrop manifest: which secret belongs into which file of which host. It never contains a value.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a manifest", default, deny_unknown_fields)]
#[schemars(rename = "deaddrop manifest", extend(
    "required" = ["version"],
    "if" = { "properties": { "defaults": {
        "type": "object",
        "properties": { "mode": { "pattern": WORLD_READABLE } },
        "required": ["mode"],
    } }, "required": ["defaults"] },
    "then" = { "properties": { "secrets": { "additionalProperties": { "anyOf": [
        { "required": ["mode"] },
        { "properties": { "allow_world_readable": { "const": true } }, "required": ["allow_world_readable"] },
        { "properties": { "absent": { "const": true } }, "required": ["absent"] },
    ] } } } },
))]
pub(super) struct RawManifest {
    /// The version of the format: 1.
    #[schemars(extend("const" = VERSION))]
    pub version: Field<u64>,
    /// Sources of values, by a name of your choice. `env` and `file` are predeclared.
    #[schemars(extend("propertyNames" = name_schema()))]
    pub sources: Field<Entries<SourceKeys>>,
    /// Defaults of all secrets.
    pub defaults: Field<RawDefaults>,
    /// The files to write, by a name of your choice. At most 10,000.
    #[schemars(extend("maxProperties" = super::tree::MAX_SECRETS, "propertyNames" = label_schema()))]
    pub secrets: Field<Entries<RawSecret>>,
    /// The nodes, by name. At most 100,000.
    #[schemars(extend("maxProperties" = super::tree::MAX_HOSTS, "propertyNames" = name_schema()))]
    pub hosts: Field<Entries<RawHost>>,
    /// Tags whose hosts are rotated one at a time, stopping after the first failure among them: the members of a
    /// cluster.
    pub serial: Field<OneOrMany>,
    /// Findings that are accepted on all hosts, by their code, each with the reason.
    #[schemars(extend("propertyNames" = allow_schema()))]
    pub allow: Field<Entries<Reason>>,
}

/// Defaults of all secrets.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "`defaults`", default, deny_unknown_fields)]
#[schemars(rename = "defaults", extend("type" = ["object", "null"]))]
pub(super) struct RawDefaults {
    /// Owning user: a number, or a name in the target's own /etc/passwd.
    #[schemars(extend("default" = "root"))]
    pub owner: Field<NameOrNumber>,
    /// Owning group: a number, or a name in the target's own /etc/group.
    #[schemars(extend("default" = "root"))]
    pub group: Field<NameOrNumber>,
    /// Permission bits, octal, in quotes.
    #[schemars(extend("pattern" = MODE_PATTERN, "default" = "0400"))]
    pub mode: Field<String>,
    /// How long the units of a changed secret are watched on a running node, in seconds.
    #[schemars(extend("default" = rotation::DEFAULT_SETTLE, "maximum" = rotation::LONGEST))]
    pub settle: Field<u64>,
    /// Where a file is written whose own path does not persist on NixOS: below this directory, such as `/persist`.
    /// `tree` without `--closure` writes every file there.
    #[schemars(extend("pattern" = "^/", "maxLength" = 4095))]
    pub persist_root: Field<String>,
}

/// One file to write, and its value; or, with `absent`, a file that must not exist.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a secret", default, deny_unknown_fields)]
#[schemars(rename = "secret", extend(
    "required" = ["path"],
    "if" = { "properties": { "absent": { "const": true } }, "required": ["absent"] },
    "then" = without_a_file(),
    "else" = { "oneOf": one_of_the_values() },
    "allOf" = combinations(),
))]
pub(super) struct RawSecret {
    /// The file's path in the target: absolute, without `.`, `..` or `//`.
    #[schemars(extend("pattern" = "^/", "maxLength" = 4095, "not" = { "pattern": not_a_path() }))]
    pub path: Field<String>,
    /// The origin of the value: `SOURCE:ITEM` or `SOURCE:ITEM#FIELD`.
    pub from: Field<RawReference>,
    /// The file's text, with `{{ secret('SOURCE:ITEM') }}` in place of a value. Instead of `from`.
    pub template: Field<String>,
    /// A file with such a text; a relative path starts at the manifest's directory. Instead of `from`.
    #[schemars(length(min = 1))]
    pub template_file: Field<String>,
    /// The encoding of the value in its source; it is decoded. Only with `from`.
    pub encoding: Field<Encoding>,
    /// Conditions on the value; a value that does not fulfil them is refused, and never shown.
    pub expect: Field<RawExpect>,
    /// The format that the file must have. Not together with `hash`.
    pub format: Field<Format>,
    /// A key that is generated for the target once, and kept. Instead of `from`.
    pub generate: Field<RawGenerate>,
    /// The file must not exist: it is removed. Instead of `from` and all keys that describe the file.
    #[schemars(extend("default" = false))]
    pub absent: Field<bool>,
    /// Write a crypt(3) hash of the value, one line, as `hashedPasswordFile` requires it.
    pub hash: Field<HashScheme>,
    /// Owning user: a number, or a name in the target's own /etc/passwd. Default: that of `defaults`, or root.
    pub owner: Field<NameOrNumber>,
    /// Owning group: a number, or a name in the target's own /etc/group. Default: that of `defaults`, or root.
    pub group: Field<NameOrNumber>,
    /// Permission bits, octal, in quotes. Default: that of `defaults`, or "0400".
    #[schemars(extend("pattern" = MODE_PATTERN))]
    pub mode: Field<String>,
    /// Permission bits of the file's directory, octal, in quotes, if it is created.
    #[schemars(extend("pattern" = DIRECTORY_MODE_PATTERN))]
    pub directory_mode: Field<String>,
    /// Owner of the file's directory, if it is created: USER or USER:GROUP, names or numbers. Default: root, and below
    /// a home directory its user.
    #[schemars(extend("anyOf" = directory_owner_schema()))]
    pub directory_owner: Field<NameOrNumber>,
    /// Write a newline after the value; `ensure`: if it does not end in one. Not together with `hash`, which has one.
    /// Default: no, except for an SSH private key without its last newline.
    pub newline: Field<Newline>,
    /// Only for these hosts: names, or `tag:NAME`. Default: every host.
    #[schemars(length(min = 1))]
    pub hosts: Field<Vec<Field<String>>>,
    /// The NixOS options that read the file, such as `users.users.admin.hashedPasswordFile`.
    pub used_by: Field<OneOrMany>,
    /// What a change needs on a running node besides the file: the token of a cluster is rotated in the cluster too.
    pub kind: Field<SecretKind>,
    /// Where the servers of a cluster keep the token before the last rotation, which older snapshots need. Only with
    /// `kind: k3s-token` and `rke2-token`.
    #[schemars(extend("pattern" = "^/", "maxLength" = 4095, "not" = { "pattern": not_a_path() }))]
    pub keep_old: Field<String>,
    /// Units to restart on a running node, once, after all files are in place, if this one changed. A unit that is not
    /// running is started.
    #[schemars(extend("pattern" = UNIT_PATTERN, "items" = { "pattern": UNIT_PATTERN }))]
    pub restart: Field<OneOrMany>,
    /// Units to reload instead.
    #[schemars(extend("pattern" = UNIT_PATTERN, "items" = { "pattern": UNIT_PATTERN }))]
    pub reload: Field<OneOrMany>,
    /// Units to restart only if they are running.
    #[schemars(extend("pattern" = UNIT_PATTERN, "items" = { "pattern": UNIT_PATTERN }))]
    pub try_restart: Field<OneOrMany>,
    /// Programs and their arguments, without a shell, to run on a running node after the units, if this file changed.
    pub run_after: Field<Vec<Field<Vec<Field<String>>>>>,
    /// A command that must succeed on a running node after that, instead of the units being active for `settle`
    /// seconds.
    pub health: Field<RawHealth>,
    /// How long the units are watched after that, in seconds. Default: that of `defaults`, or 5.
    #[schemars(extend("maximum" = rotation::LONGEST))]
    pub settle: Field<u64>,
    /// `hide`: the output of units and programs on a running node is not shown when this file changed. Default: it is
    /// shown, except for lines that contain a value.
    pub output: Field<Output>,
    /// True to put the hash into the user's line of the image's shadow file as well, where NixOS would keep that line
    /// and never read the file.
    #[schemars(extend("default" = false))]
    pub apply_password: Field<bool>,
    /// True if the value may be empty.
    #[schemars(extend("default" = false))]
    pub allow_empty: Field<bool>,
    /// True if the mode may allow everybody on the node to read the file.
    #[schemars(extend("default" = false))]
    pub allow_world_readable: Field<bool>,
    /// Findings that are accepted for this secret, by their code, each with the reason: a warning is not shown, a
    /// refusal becomes a warning.
    #[schemars(extend("propertyNames" = allow_schema()))]
    pub allow: Field<Entries<Reason>>,
}

impl RawSecret {
    /// The keys that describe the file, with the nodes of their values.
    pub(super) fn file_keys(&self) -> [(&'static str, Option<NodeId>); 19] {
        [
            ("from", self.from.place()),
            ("template", self.template.place()),
            ("template_file", self.template_file.place()),
            ("generate", self.generate.place()),
            ("encoding", self.encoding.place()),
            ("expect", self.expect.place()),
            ("format", self.format.place()),
            ("hash", self.hash.place()),
            ("owner", self.owner.place()),
            ("group", self.group.place()),
            ("mode", self.mode.place()),
            ("directory_mode", self.directory_mode.place()),
            ("directory_owner", self.directory_owner.place()),
            ("newline", self.newline.place()),
            ("kind", self.kind.place()),
            ("keep_old", self.keep_old.place()),
            ("apply_password", self.apply_password.place()),
            ("allow_empty", self.allow_empty.place()),
            ("allow_world_readable", self.allow_world_readable.place()),
        ]
    }
}

/// The origin of a value: `SOURCE:ITEM` or `SOURCE:ITEM#FIELD`, or its long form.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "a reference")]
#[schemars(rename = "reference", untagged)]
pub(super) enum RawReference {
    /// `SOURCE:ITEM` or `SOURCE:ITEM#FIELD`.
    #[serde(rename = "scalar")]
    Short(#[schemars(extend("pattern" = "^[^:]+:[^#]+(#[^#]+)?$"))] String),
    /// The long form, for names with `:` or `#`.
    #[serde(rename = "mapping")]
    Long(RawLongReference),
}

/// A reference in parts, for names with `:` or `#`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a reference", default, deny_unknown_fields)]
#[schemars(rename = "long-reference", extend("required" = ["source", "item"]))]
pub(super) struct RawLongReference {
    /// A name under `sources`, `env` or `file`.
    #[schemars(length(min = 1))]
    pub source: Field<String>,
    /// An id, a name or folder/name in a password manager; a variable; a file.
    #[schemars(length(min = 1))]
    pub item: Field<String>,
    /// A field of the item. Default: its password.
    #[schemars(length(min = 1))]
    pub field: Field<String>,
}

/// Conditions on a value: a kind, or several conditions that must all hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "`expect`")]
#[schemars(rename = "expect", untagged)]
pub(super) enum RawExpect {
    /// A kind alone.
    #[serde(rename = "scalar")]
    Kind(expect::ValueKind),
    /// Conditions.
    #[serde(rename = "mapping")]
    All(RawConditions),
}

/// Conditions that a value must fulfil, all of them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "`expect`", default, deny_unknown_fields)]
#[schemars(rename = "conditions", extend("minProperties" = 1))]
pub(super) struct RawConditions {
    /// A regular expression for the whole value, in the syntax of Rust's `regex`; classes such as `\w` are ASCII.
    #[schemars(length(max = expect::MAX_PATTERN))]
    pub regex: Field<String>,
    /// The minimum number of characters.
    #[schemars(range(min = 1, max = deaddrop_core::limits::MAX_VALUE))]
    pub min_length: Field<u64>,
    /// A kind of value with its own form.
    pub kind: Field<expect::ValueKind>,
}

/// One text or a list of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "one-or-more", untagged)]
pub(super) enum OneOrMany {
    /// One.
    #[serde(rename = "scalar")]
    One(String),
    /// Any number.
    #[serde(rename = "sequence")]
    Many(Vec<Field<String>>),
}

/// A host.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a host", default, deny_unknown_fields)]
#[schemars(rename = "host", extend(
    "type" = ["object", "null"],
    "if" = { "required": ["become_password"] },
    "then" = { "properties": { "become": { "const": "sudo" } }, "required": ["become"] },
))]
pub(super) struct RawHost {
    /// Its SSH address: `user@address`, `ssh://user@address:port`, or a name from your ssh configuration.
    #[schemars(extend("pattern" = SSH_PATTERN))]
    pub ssh: Field<String>,
    /// Names that select several hosts as `tag:NAME`.
    pub tags: Field<Vec<Field<String>>>,
    /// How the login user becomes root. Not needed if it is root.
    #[serde(rename = "become")]
    pub becomes: Field<Become>,
    /// The password for sudo: `ask`, or its origin. Without it, sudo must not require one.
    pub become_password: Field<RawBecomePassword>,
    /// Options for ssh's `-o`, such as `Port=2222`.
    pub ssh_options: Field<Vec<Field<String>>>,
    /// Where a file is written whose own path does not persist on this host; by `tree` without `--closure` every file.
    /// Default: that of `defaults`.
    #[schemars(extend("pattern" = "^/", "maxLength" = 4095))]
    pub persist_root: Field<String>,
    /// Findings that are accepted on this host, by their code, each with the reason.
    #[schemars(extend("propertyNames" = allow_schema()))]
    pub allow: Field<Entries<Reason>>,
}

/// Why a finding is accepted; not empty.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct Reason(#[schemars(extend("pattern" = "\\S"))] pub String);

/// A check that a host works with its new files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "`health`", default, deny_unknown_fields)]
#[schemars(rename = "health", extend("required" = ["command"]))]
pub(super) struct RawHealth {
    /// A program and its arguments, without a shell; repeated until it succeeds.
    #[schemars(length(min = 1))]
    pub command: Field<Vec<Field<String>>>,
    /// Time limit, in seconds.
    #[schemars(extend("default" = rotation::DEFAULT_TIMEOUT, "minimum" = 1, "maximum" = rotation::LONGEST))]
    pub timeout: Field<u64>,
}

/// The password for sudo: `ask`, `SOURCE:ITEM`, or the long form of a reference.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "a password")]
#[schemars(rename = "become-password", untagged)]
pub(super) enum RawBecomePassword {
    /// `ask`: asked for on the terminal, once; or `SOURCE:ITEM`, or `SOURCE:ITEM#FIELD`.
    #[serde(rename = "scalar")]
    Short(#[schemars(extend("pattern" = "^(ask|[^:]+:[^#]+(#[^#]+)?)$"))] String),
    /// The long form, for names with `:` or `#`.
    #[serde(rename = "mapping")]
    Long(RawLongReference),
}

/// An owner as written: a number, or a name.
#[derive(Debug)]
pub(super) enum NameOrNumber {
    Number(u64),
    Name(String),
}

impl<'de> Deserialize<'de> for NameOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumberVisitor;

        impl Visitor<'_> for NameOrNumberVisitor {
            type Value = NameOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<NameOrNumber, E> {
                Ok(NameOrNumber::Name(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<NameOrNumber, E> {
                Ok(NameOrNumber::Number(number))
            }
        }

        deserializer.deserialize_any(NameOrNumberVisitor)
    }
}

impl JsonSchema for NameOrNumber {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "owner".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": super::values::MAX_ID },
            { "type": "string", "pattern": super::values::USER_PATTERN, "maxLength": 255 },
        ] })
    }
}

/// The keys of a secret that describe its file, and so have no meaning with `absent: true`.
fn without_a_file() -> serde_json::Value {
    let keys = RawSecret::default().file_keys().map(|(key, _)| (key.to_owned(), false.into()));
    serde_json::json!({ "properties": serde_json::Map::from_iter(keys) })
}

/// The keys of which a secret without `absent: true` has exactly one.
fn one_of_the_values() -> serde_json::Value {
    ["from", "template", "template_file", "generate"]
        .into_iter()
        .map(|key| serde_json::json!({ "required": [key] }))
        .collect()
}

/// The keys of a secret that have no meaning together: `value_spec::combinations`, `not_of_generate`, `secret_mode`.
fn combinations() -> serde_json::Value {
    let has = |key: &str| serde_json::json!({ "required": [key] });
    let without = |keys: &[&str]| {
        let keys = keys.iter().map(|key| ((*key).to_owned(), false.into()));
        serde_json::json!({ "properties": serde_json::Map::from_iter(keys) })
    };
    let is_token = serde_json::json!({ "properties": { "generate": { "anyOf": [
        { "const": "token" },
        { "type": "object", "properties": { "kind": { "const": "token" } }, "required": ["kind"] },
    ] } } });
    let is_world_readable =
        serde_json::json!({ "properties": { "mode": { "pattern": WORLD_READABLE } }, "required": ["mode"] });
    let is_allowed = serde_json::json!({
        "properties": { "allow_world_readable": { "const": true } }, "required": ["allow_world_readable"],
    });
    serde_json::json!([
        { "if": has("hash"), "then": without(&["format", "generate", "template", "template_file"]) },
        { "if": has("hash"), "then": { "properties": { "newline": { "const": false } } } },
        { "if": { "anyOf": [has("template"), has("template_file")] }, "then": without(&["newline", "encoding"]) },
        { "if": has("generate"), "then": without(&["encoding", "expect", "format", "allow_empty", "keep_old"]) },
        { "if": has("keep_old"), "then": has("kind") },
        { "if": { "allOf": [has("generate"), { "not": is_token }] }, "then": without(&["newline"]) },
        { "if": is_world_readable, "then": is_allowed },
    ])
}

/// What no path has: a component `.`, `..` or of over 255 characters, `//`, a `/` at its end, a control character; and
/// places where `allow` accepts no file.
fn not_a_path() -> String {
    format!("(^|/)\\.{{1,2}}(/|$)|//|/$|/[^/]{{256}}|[\\x00-\\x1f\\x7f]|{}", crate::nixos::paths::never())
}

/// The names that `values::unit` accepts: no pattern, and no template without an instance.
const UNIT_PATTERN: &str = "^[A-Za-z0-9:_\\\\]([A-Za-z0-9:_.\\\\-]|@[A-Za-z0-9:_\\\\@-])*$";
/// The modes that let everybody read.
const WORLD_READABLE: &str = "4$";

/// The modes that `values::file_mode` accepts, including world-readable ones.
const MODE_PATTERN: &str = "^0?[0246][04][04]$";
/// The modes that `values::directory_mode` accepts.
const DIRECTORY_MODE_PATTERN: &str = "^0?[0-7][0145][0145]$";

/// An URL; or text without a port: no `:`, or several, as in an IPv6 address.
const SSH_PATTERN: &str = "^(ssh://\\S+|[^\\s:\\[\\]-][^\\s:\\[\\]]*(:[^\\s:\\[\\]]*:[^\\s\\[\\]]*)?|::[^\\s\\[\\]]*)$";

/// What `values::directory_owner` accepts: an owner, or two of them, where digits are a number.
fn directory_owner_schema() -> serde_json::Value {
    let name = super::values::USER_PATTERN.trim_start_matches('^').trim_end_matches('$');
    serde_json::json!([
        { "type": "integer", "minimum": 0, "maximum": super::values::MAX_ID },
        { "type": "string", "pattern": format!("^({name}|({name}|[0-9]+):({name}|[0-9]+))$"), "maxLength": 511 },
    ])
}

/// The names that `values::name` accepts.
fn name_schema() -> serde_json::Value {
    serde_json::json!({ "pattern": "^[^:#\\x00-\\x1f\\x7f]+$", "maxLength": 255 })
}

/// The codes that `values::allowed` accepts.
fn allow_schema() -> serde_json::Value {
    let codes: Vec<&str> = deaddrop_core::warning::allowable().collect();
    serde_json::json!({ "enum": codes })
}

/// The names that `values::label` accepts.
fn label_schema() -> serde_json::Value {
    serde_json::json!({ "pattern": "^[^\\x00-\\x1f\\x7f]+$", "maxLength": 255 })
}

/// The JSON schema (draft 2020-12) of a manifest: indented, with a final newline. Equal to docs/manifest.schema.json.
#[must_use]
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(RawManifest);
    format!("{:#}\n", schema.as_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_json_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/manifest.schema.json");
        if std::env::var_os("DEADDROP_BLESS").is_some() {
            std::fs::write(path, json_schema()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == json_schema(), "out of date: run DEADDROP_BLESS=1 cargo test json_schema");
    }
}
