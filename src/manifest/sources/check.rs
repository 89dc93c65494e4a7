//! From the decoded keys of a source to its meaning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::schema::{RawAge, RawCsv, RawFile, RawKeePass, RawPassage, RawPassword, RawSource, RawStore};
use super::{ExecSpec, FileSpec, PasswordSpec, Program, SourceSpec, StoreSpec, is_age};
use crate::manifest::check::Checker;
use crate::manifest::field::{Entries, Entry, Field};
use crate::manifest::problem::quoted;
use crate::manifest::tree::NodeId;
use crate::manifest::{values, veil};

/// How long a program may take unless the manifest says otherwise, in seconds.
pub(super) const DEFAULT_TIMEOUT: u64 = 60;
/// The longest time that it can be given, in seconds.
pub(super) const LONGEST_TIMEOUT: u64 = 3600;

/// The most arguments of a program.
const MAX_ARGUMENTS: usize = 1000;

/// Whether the items of a source have fields.
pub(in crate::manifest) fn has_fields(source: &RawSource) -> bool {
    !matches!(
        source,
        RawSource::Env(_)
            | RawSource::File(_)
            | RawSource::Dotenv(_)
            | RawSource::Secretspec(_)
            | RawSource::Credentials(_)
    )
}

/// A source that is being checked: its name's place, and its value's.
#[derive(Clone, Copy)]
struct Place {
    key: NodeId,
    id: NodeId,
}

impl Checker<'_, '_> {
    pub(in crate::manifest) fn sources(&self, raw: Field<Entries<RawSource>>) -> BTreeMap<String, SourceSpec> {
        let entries = raw.good().map(|(_, entries)| entries.0).unwrap_or_default();
        let mut from_input: Option<String> = None;
        let mut sources = BTreeMap::new();
        for entry in entries {
            let key = entry.key;
            let Some((name, spec)) = self.source(entry) else { continue };
            if reads_standard_input(&spec) {
                if let Some(first) = &from_input {
                    let message =
                        format!("standard input (`-`) can be read once, and {} reads it already", quoted(first));
                    self.push(self.mark(key), message, Some("give one of them a path".to_owned()));
                }
                from_input.get_or_insert_with(|| name.clone());
            }
            sources.insert(name, spec);
        }
        sources
    }

    fn source(&self, entry: Entry<RawSource>) -> Option<(String, SourceSpec)> {
        self.accept(entry.key, values::name(&entry.name, "a source"));
        let (id, raw) = entry.value.good()?;
        let built_in = match entry.name.as_str() {
            "env" => Some(matches!(raw, RawSource::Env(_))),
            "file" => Some(matches!(raw, RawSource::File(_))),
            _ => None,
        };
        if built_in == Some(false) {
            let message = format!("{} always is a source of type `{}`", quoted(&entry.name), entry.name);
            self.push(self.mark(entry.key), message, Some("give this source another name".to_owned()));
            return None;
        }
        let place = Place { key: entry.key, id };
        let program = |program, timeout| Some(SourceSpec::Program { program, timeout: self.timeout(timeout)? });
        let spec = match raw {
            RawSource::Env(raw) => {
                SourceSpec::Env { prefix: self.optional(raw.prefix, values::prefix)?.unwrap_or_default() }
            }
            RawSource::File(raw) => {
                SourceSpec::File { path: self.optional(raw.path, values::local_path)?.map(PathBuf::from) }
            }
            RawSource::Dotenv(raw) => SourceSpec::Dotenv(self.file(place, raw, false)?),
            RawSource::Bitwarden(raw) => SourceSpec::Bitwarden(self.file(place, raw, true)?),
            RawSource::OnePassword(raw) => SourceSpec::OnePassword(self.file(place, raw, false)?),
            RawSource::ProtonPass(raw) => SourceSpec::ProtonPass(self.file(place, raw, true)?),
            RawSource::LastPass(raw) => SourceSpec::LastPass(self.file(place, raw, false)?),
            RawSource::KeePass(raw) => self.keepass(place, raw)?,
            RawSource::Csv(raw) => self.csv(place, raw)?,
            RawSource::Pass(raw) => SourceSpec::Pass(self.store(raw)?),
            RawSource::Gopass(raw) => SourceSpec::Gopass(self.store(raw)?),
            RawSource::Passage(raw) => self.passage(raw)?,
            RawSource::Age(raw) => self.age(place, raw)?,
            RawSource::Sops(raw) => {
                SourceSpec::Sops { path: self.source_path(place, raw.path)?, timeout: self.timeout(raw.timeout)? }
            }
            RawSource::Exec(raw) => {
                let argv = match raw.argv {
                    Field::Missing => {
                        let hint = "the program and its arguments, such as `argv: [my-tool, dump, --json]`";
                        self.push(self.mark(place.key), "an exec source needs an `argv`", Some(hint.to_owned()));
                        None
                    }
                    field => self.argv(self.context.tree.child(id, "argv"), field),
                };
                SourceSpec::Exec(ExecSpec { argv: argv?, timeout: self.timeout(raw.timeout)? })
            }
            RawSource::Bw(raw) => program(Program::Bw, raw.timeout)?,
            RawSource::Rbw(raw) => program(Program::Rbw, raw.timeout)?,
            RawSource::Op(raw) => program(Program::Op, raw.timeout)?,
            RawSource::Secretspec(raw) => program(Program::Secretspec, raw.timeout)?,
            RawSource::Vals(raw) => program(Program::Vals, raw.timeout)?,
            RawSource::Credentials(_) => SourceSpec::Credentials,
        };
        Some((entry.name, spec))
    }

    /// A file, with what opens it. `takes_password` says whether the format itself can be encrypted with a password.
    fn file(&self, place: Place, raw: RawFile, takes_password: bool) -> Option<FileSpec> {
        let path = self.source_path(place, raw.path);
        let identity_id = raw.identity.place();
        let password_id = raw.password.place();
        let identity = self.optional(raw.identity, values::local_path);
        let password = self.password(self.context.tree.child(place.id, "password"), raw.password);
        let (path, identity, password) = (path?, identity?.map(PathBuf::from), password?);
        let is_age = is_age(&path);
        if let Some(id) = identity_id.filter(|_| !is_age) {
            let hint = "`identity` opens what age has encrypted; remove it, or name the `.age` file";
            self.push(self.mark(id), "`identity` is for a path that ends in `.age`", Some(hint.to_owned()));
            return None;
        }
        if is_age && identity.is_none() && password.is_none() {
            let hint = "add `identity: FILE` (age identities, or an SSH key), or `password` if it is encrypted to one";
            self.push(self.mark(place.key), "nothing is said that opens the `.age` file", Some(hint.to_owned()));
            return None;
        }
        if let Some(id) = password_id.filter(|_| !takes_password && (!is_age || identity.is_some())) {
            let message = format!("a {} file is not encrypted: it takes no `password`", self.kind(place));
            self.push(self.mark(id), message, Some("remove `password`".to_owned()));
            return None;
        }
        Some(FileSpec { path, identity, password })
    }

    fn keepass(&self, place: Place, raw: RawKeePass) -> Option<SourceSpec> {
        let neither = raw.password.is_missing() && raw.key_file.is_missing();
        if neither {
            let hint = "`password: { env: NAME }`, `password: ask`, or `key_file: FILE`; both if it needs both";
            let message = "a keepass source needs a `password` or a `key_file`";
            self.push(self.mark(place.key), message, Some(hint.to_owned()));
        }
        let key_file = self.optional(raw.key_file, values::local_path);
        let file = RawFile { path: raw.path, password: raw.password, identity: raw.identity };
        let file = self.file(place, file, true)?;
        let key_file = key_file?.map(PathBuf::from);
        (!neither).then_some(SourceSpec::KeePass { file, key_file })
    }

    fn csv(&self, place: Place, raw: RawCsv) -> Option<SourceSpec> {
        const HINT: &str = "such as `columns: { item: name, password: password, username: username }`";
        let columns = match raw.columns {
            Field::Missing => {
                self.push(self.mark(place.key), "a csv source needs `columns`", Some(HINT.to_owned()));
                None
            }
            field => field.good(),
        };
        let file = self.file(place, RawFile { path: raw.path, password: raw.password, identity: raw.identity }, false);
        let (id, columns) = columns?;
        let mut fields = BTreeMap::new();
        for entry in columns.0 {
            self.accept(entry.key, values::text(&entry.name, "a field's name"));
            let Some((column_id, column)) = entry.value.good() else { continue };
            self.accept(column_id, values::text(&column, "a column's name"));
            fields.insert(entry.name, column);
        }
        let Some(item) = fields.remove("item") else {
            self.push(self.mark(id), "`columns` needs an `item`: the column that names items", Some(HINT.to_owned()));
            return None;
        };
        Some(SourceSpec::Csv { file: file?, item, fields })
    }

    fn store(&self, raw: RawStore) -> Option<StoreSpec> {
        Some(StoreSpec { path: self.optional(raw.path, values::local_path)?.map(PathBuf::from) })
    }

    fn passage(&self, raw: RawPassage) -> Option<SourceSpec> {
        let path = self.optional(raw.path, values::local_path);
        let identity = self.optional(raw.identity, values::local_path);
        let password = self.password(raw.password.place(), raw.password);
        Some(SourceSpec::Passage {
            store: StoreSpec { path: path?.map(PathBuf::from) },
            identity: identity?.map(PathBuf::from),
            password: password?,
        })
    }

    fn age(&self, place: Place, raw: RawAge) -> Option<SourceSpec> {
        let path = self.source_path(place, raw.path);
        let (no_identity, no_password) = (raw.identity.is_missing(), raw.password.is_missing());
        let identity = self.optional(raw.identity, values::local_path);
        let password = self.password(self.context.tree.child(place.id, "password"), raw.password);
        if no_identity && no_password {
            let hint = "`identity: FILE` (age identities, or an SSH key), or `password` if it is encrypted to one";
            let message = "an age source needs an `identity` or a `password`";
            self.push(self.mark(place.key), message, Some(hint.to_owned()));
        }
        let format = match raw.format {
            Field::Missing => {
                let hint = "one of json, yaml, dotenv and value (all of it is one value)";
                self.push(self.mark(place.key), "an age source needs a `format`", Some(hint.to_owned()));
                None
            }
            field => field.good().map(|(_, format)| format),
        };
        let file = FileSpec { path: path?, identity: identity?.map(PathBuf::from), password: password? };
        Some(SourceSpec::Age { file, format: format? })
    }

    /// Where a password comes from: `Some(None)` when nothing is said, `None` when it is wrong. `node` is its value.
    fn password(&self, node: Option<NodeId>, raw: Field<RawPassword>) -> Option<Option<PasswordSpec>> {
        const HINT: &str = "`password: { env: NAME }`, `{ file: PATH }`, `{ exec: [PROGRAM, …] }`, or `ask`";
        let (id, raw) = match raw {
            Field::Missing => return Some(None),
            Field::Bad => {
                self.veil(node);
                return None;
            }
            Field::Good(id, raw) => (id, raw),
        };
        let from = match raw {
            RawPassword::Word(word) if word == "ask" => return Some(Some(PasswordSpec::Ask)),
            RawPassword::Word(_) => {
                // This may be the password itself.
                self.veil(Some(id));
                let message = "a manifest never holds a password: say where it comes from";
                self.push(self.mark(id), message, Some(HINT.to_owned()));
                return None;
            }
            RawPassword::From(from) => from,
        };
        let given = [from.env.is_missing(), from.file.is_missing(), from.exec.is_missing()];
        if given.iter().filter(|missing| !**missing).count() != 1 {
            let message = "`password` needs one of `env`, `file` and `exec`";
            self.push(self.mark(id), message, Some(HINT.to_owned()));
            return None;
        }
        if !from.env.is_missing() {
            let judge = |name: &str| values::text(name, "`env`").and_then(|()| values::prefix(name));
            return self.optional(from.env, judge)?.map(|name| Some(PasswordSpec::Env(name)));
        }
        if !from.file.is_missing() {
            return self.optional(from.file, values::local_path)?.map(|path| Some(PasswordSpec::File(path.into())));
        }
        self.argv(self.context.tree.child(id, "exec"), from.exec).map(|argv| Some(PasswordSpec::Exec(argv)))
    }

    /// A program and its arguments. No message shows them: an argument may be a value.
    pub(in crate::manifest) fn argv(
        &self,
        node: Option<NodeId>,
        field: Field<Vec<Field<String>>>,
    ) -> Option<Vec<String>> {
        self.veil(node);
        let (id, items) = field.good()?;
        let refuse = |message: &str, hint: &str| {
            self.push(self.mark(id), message, Some(hint.to_owned()));
            None
        };
        if items.len() > MAX_ARGUMENTS {
            return refuse("over 1000 arguments", "let the program read them from a file");
        }
        let argv: Vec<String> =
            items.into_iter().map(|item| item.good().map(|(_, text)| text)).collect::<Option<_>>()?;
        if argv.first().is_none_or(String::is_empty) {
            return refuse("there is no program in this list", "the program comes first, then its arguments");
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return refuse("an argument cannot hold a NUL byte", "remove it");
        }
        Some(argv)
    }

    /// Keeps all that stands below a node out of messages.
    fn veil(&self, node: Option<NodeId>) {
        if let Some(node) = node {
            veil::below(self.context.tree, node, &mut self.context.problems.borrow_mut());
        }
    }

    fn timeout(&self, field: Field<u64>) -> Option<Duration> {
        match field {
            Field::Missing => Some(Duration::from_secs(DEFAULT_TIMEOUT)),
            Field::Bad => None,
            Field::Good(_, seconds) if (1..=LONGEST_TIMEOUT).contains(&seconds) => Some(Duration::from_secs(seconds)),
            Field::Good(id, _) => {
                let hint = format!("seconds, from 1 to {LONGEST_TIMEOUT}; {DEFAULT_TIMEOUT} without it");
                self.push(self.mark(id), "no program can be given this time", Some(hint));
                None
            }
        }
    }

    /// The file of a source that needs one.
    fn source_path(&self, place: Place, path: Field<String>) -> Option<PathBuf> {
        if path.is_missing() {
            let message = format!("a {} source needs a `path`", self.kind(place));
            self.push(self.mark(place.key), message, None);
        }
        self.optional(path, values::local_path)?.map(PathBuf::from)
    }

    /// The `type` of a source, as it is written.
    fn kind(&self, place: Place) -> &str {
        let tree = self.context.tree;
        tree.child(place.id, "type").and_then(|kind| tree.text(kind)).unwrap_or("named")
    }
}

/// True for a source whose path is `-`.
fn reads_standard_input(spec: &SourceSpec) -> bool {
    match spec {
        SourceSpec::Dotenv(file)
        | SourceSpec::Bitwarden(file)
        | SourceSpec::OnePassword(file)
        | SourceSpec::KeePass { file, .. }
        | SourceSpec::ProtonPass(file)
        | SourceSpec::LastPass(file)
        | SourceSpec::Csv { file, .. }
        | SourceSpec::Age { file, .. } => file.is_standard_input(),
        SourceSpec::Sops { path, .. } => path == Path::new("-"),
        _ => false,
    }
}
