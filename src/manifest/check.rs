//! Turns the decoded keys into the checked manifest: names exist, values are valid, secrets do not collide. Every
//! problem is reported with its place, and the check continues.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use deaddrop_core::keys::{self, Entries, Entry, Field, NodeId, Refusal};
use deaddrop_core::path::TargetPath;
use deaddrop_core::shown::quoted;
use deaddrop_core::warning::Warning;

use super::allow::Allow;
use super::collide::{self, PlacedSecret};
use super::decode::Context;
use super::model::{DirectoryOwner, Host, Manifest, Owner, SecretSpec, ValueSpec};
use super::overlap::{Population, TooManySteps};
use super::problem::Mark;
use super::read::is_standard_input;
use super::schema::{NameOrNumber, OneOrMany, RawDefaults, RawHost, RawManifest, RawSecret, VERSION};
use super::templates::Templates;
use super::value_spec::ValueKeys;
use super::{rotation, values};
use crate::nixos;

/// Predeclared sources.
pub(super) const BUILT_IN: [&str; 2] = ["env", "file"];

/// Checks the decoded manifest. The result is complete only if no problem was reported.
pub(super) fn check(context: &Context<'_>, raw: RawManifest, file: &Path) -> Manifest {
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut checker = Checker::new(context, &raw, directory.clone());
    checker.version(&raw.version);
    let sources = checker.sources(raw.sources, is_standard_input(file));
    let allow = checker.allow(raw.allow).unwrap_or_default();
    let hosts = checker.hosts(raw.hosts);
    checker.allowed = allow.keys().chain(hosts.values().flat_map(|host| host.allow.keys())).cloned().collect();
    let serial = checker.serial(raw.serial);
    let defaults = checker.defaults(raw.defaults);
    let secrets = raw.secrets.good().map(|(_, entries)| entries.0).unwrap_or_default();
    let secrets: Vec<SecretSpec> = secrets.into_iter().filter_map(|entry| checker.secret(entry, &defaults)).collect();
    let mut problems = context.problems.borrow_mut();
    if collide::report(&checker.placed, &checker.population, &mut problems) == Err(TooManySteps) {
        let mark = context.tree.mark(context.tree.root());
        problems.push(mark, "secrets at the same paths are for too many hosts to be compared", None);
    }
    Manifest {
        file: file.to_owned(),
        directory,
        sources,
        secrets,
        hosts,
        serial,
        persist_root: defaults.persist_root,
        allow,
        warnings: checker.warnings,
    }
}

/// The defaults of all secrets.
struct Defaults {
    owner: Owner,
    group: Owner,
    mode: u32,
    settle: Duration,
    persist_root: Option<TargetPath>,
}

/// The state of the check.
pub(super) struct Checker<'c, 't> {
    pub context: &'c Context<'t>,
    /// Sources by name. True if their items have fields; `None` if the source is wrong (reported).
    pub sources: HashMap<String, Option<bool>>,
    /// Indexes of hosts and of tags, by name.
    pub hosts: HashMap<String, usize>,
    pub tags: HashMap<String, usize>,
    pub population: Population,
    /// False if an entry of `sources` (of `hosts`) is wrong. Then an unknown name is not reported, because the wrong
    /// entry may be its declaration.
    pub sources_are_complete: bool,
    pub hosts_are_complete: bool,
    pub tags_are_complete: bool,
    pub placed: Vec<PlacedSecret>,
    pub warnings: Vec<Warning>,
    /// Codes that are allowed at the top or on a host.
    pub allowed: HashSet<String>,
    /// Start of relative paths.
    pub directory: PathBuf,
    pub templates: RefCell<Templates>,
}

impl<'c, 't> Checker<'c, 't> {
    /// Collects the names that secrets can refer to.
    fn new(context: &'c Context<'t>, raw: &RawManifest, directory: PathBuf) -> Self {
        let mut checker = Self {
            context,
            sources: BUILT_IN.iter().map(|name| ((*name).to_owned(), Some(false))).collect(),
            hosts: HashMap::new(),
            tags: HashMap::new(),
            population: Population::default(),
            sources_are_complete: !raw.sources.is_bad(),
            hosts_are_complete: !raw.hosts.is_bad(),
            tags_are_complete: !raw.hosts.is_bad(),
            placed: Vec::new(),
            warnings: Vec::new(),
            allowed: HashSet::new(),
            directory,
            templates: RefCell::default(),
        };
        if let Field::Good(_, entries) = &raw.sources {
            for entry in &entries.0 {
                let has_fields = match &entry.value {
                    Field::Good(_, source) => Some(source.has_fields()),
                    _ => None,
                };
                checker.sources.insert(entry.name.clone(), has_fields);
            }
        }
        if let Field::Good(_, entries) = &raw.hosts {
            entries.0.iter().for_each(|entry| checker.note_host(entry));
        }
        checker
    }

    fn note_host(&mut self, entry: &Entry<RawHost>) {
        let host = self.population.hosts;
        self.population.hosts = host.saturating_add(1);
        self.hosts.insert(entry.name.clone(), host);
        let Field::Good(_, raw) = &entry.value else {
            self.tags_are_complete = false;
            return;
        };
        let tags = match &raw.tags {
            Field::Good(_, tags) => tags.as_slice(),
            Field::Bad => {
                self.tags_are_complete = false;
                &[]
            }
            Field::Missing => &[],
        };
        for tag in tags {
            let Field::Good(_, tag) = tag else {
                self.tags_are_complete = false;
                continue;
            };
            let number = match self.tags.get(tag) {
                Some(number) => *number,
                None => {
                    let number = self.population.tags.len();
                    self.tags.insert(tag.clone(), number);
                    self.population.tags.push(Vec::new());
                    number
                }
            };
            if let Some(hosts) = self.population.tags.get_mut(number)
                && hosts.last() != Some(&host)
            {
                hosts.push(host);
            }
        }
    }

    pub(super) fn mark(&self, id: NodeId) -> Mark {
        self.context.tree.mark(id)
    }

    pub(super) fn push(&self, mark: Mark, message: impl Into<String>, hint: Option<String>) {
        self.context.problems.borrow_mut().push(mark, message, hint);
    }

    /// Reports a refusal at its place in the scalar `id`.
    pub(super) fn refuse(&self, id: NodeId, refusal: Refusal) {
        let mark = refusal.part.map_or_else(|| self.mark(id), |part| self.context.tree.part(id, part));
        self.push(mark, refusal.message, refusal.hint);
    }

    /// Unwraps a result of `values`, and reports a refusal at the scalar `id`.
    pub(super) fn accept<T>(&self, id: NodeId, checked: Result<T, Refusal>) -> Option<T> {
        checked.map_err(|refusal| self.refuse(id, refusal)).ok()
    }

    fn version(&self, version: &Field<u64>) {
        match version {
            Field::Missing => {
                let hint = format!("write `version: {VERSION}` at the top");
                self.push(Mark::at(0, 1, 1), "`version` is missing", Some(hint));
            }
            Field::Good(id, version) if *version != VERSION => {
                let message = format!("version {version} of the manifest is not known");
                self.push(self.mark(*id), message, Some(format!("this deaddrop reads version {VERSION}")));
            }
            _ => {}
        }
    }

    fn hosts(&self, raw: Field<Entries<RawHost>>) -> BTreeMap<String, Host> {
        let entries = raw.good().map(|(_, entries)| entries.0).unwrap_or_default();
        entries.into_iter().filter_map(|entry| self.host(entry)).collect()
    }

    fn host(&self, entry: Entry<RawHost>) -> Option<(String, Host)> {
        self.accept(entry.key, values::name(&entry.name, "a host"));
        let (_, raw) = entry.value.good()?;
        let ssh = self.keys().optional(raw.ssh, values::ssh);
        let mut tags = Vec::new();
        for tag in raw.tags.good().map(|(_, tags)| tags).unwrap_or_default() {
            let Some((id, tag)) = tag.good() else { continue };
            self.accept(id, values::name(&tag, "a tag"));
            tags.push(tag);
        }
        let ssh_options = self.ssh_options(raw.ssh_options);
        let becomes = optional(raw.becomes);
        let become_password = self.become_password(raw.become_password, becomes);
        let allow = self.allow(raw.allow);
        let persist_root = self.persist_root(raw.persist_root);
        Some((
            entry.name,
            Host {
                ssh: ssh?,
                tags,
                becomes: becomes?,
                become_password: become_password?,
                ssh_options: ssh_options?,
                persist_root: persist_root?,
                allow: allow?,
            },
        ))
    }

    fn defaults(&self, raw: Field<RawDefaults>) -> Defaults {
        let raw = raw.good().map(|(_, raw)| raw).unwrap_or_default();
        let root = || Owner::Name("root".to_owned());
        Defaults {
            owner: self.owner(raw.owner).flatten().unwrap_or_else(root),
            group: self.owner(raw.group).flatten().unwrap_or_else(root),
            mode: self.mode(raw.mode, values::file_mode).flatten().map_or(0o400, |(mode, _)| mode),
            persist_root: self.persist_root(raw.persist_root).flatten(),
            settle: self.settle(raw.settle).flatten().unwrap_or(Duration::from_secs(rotation::DEFAULT_SETTLE)),
        }
    }

    /// `Some(None)` if it is absent, `None` if it is wrong (reported).
    fn persist_root(&self, field: Field<String>) -> Option<Option<TargetPath>> {
        match field {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, path) => self.target_path(id, &path).map(Some),
        }
    }

    /// `Some(None)` if it is absent, `None` if it is wrong.
    fn owner(&self, field: Field<NameOrNumber>) -> Option<Option<Owner>> {
        match field {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, value) => self.accept(id, values::owner(value)).map(Some),
        }
    }

    /// `Some(None)` if it is absent, `None` if it is wrong.
    fn directory_owner(&self, field: Field<NameOrNumber>) -> Option<Option<(DirectoryOwner, NodeId)>> {
        match field {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, value) => self.accept(id, values::directory_owner(value)).map(|owner| Some((owner, id))),
        }
    }

    /// `Some(None)` if it is absent, `None` if it is wrong.
    fn mode(
        &self,
        field: Field<String>,
        convert: impl Fn(&str) -> Result<u32, Refusal>,
    ) -> Option<Option<(u32, NodeId)>> {
        match field {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(id, text) => self.accept(id, convert(&text)).map(|mode| Some((mode, id))),
        }
    }

    fn secret(&mut self, entry: Entry<RawSecret>, defaults: &Defaults) -> Option<SecretSpec> {
        self.accept(entry.key, values::label(&entry.name, "a secret"));
        let (id, mut raw) = entry.value.good()?;
        let on_change = self.on_change(id, &mut raw, defaults.settle);
        let key = self.mark(entry.key);
        let name = entry.name;
        let is_absent = matches!(raw.absent, Field::Good(_, true));
        if is_absent {
            self.not_of_absent(&raw);
        } else {
            self.combinations(&raw);
        }
        if raw.path.is_missing() {
            let hint = "say where the file belongs, such as `path: /etc/secrets/NAME`";
            self.push(key, format!("secret {} has no `path`", quoted(&name)), Some(hint.to_owned()));
        }
        if !raw.generate.is_missing() {
            self.not_of_generate(&raw);
        }
        let allow = self.allow(raw.allow);
        let path = raw.path.good().and_then(|(id, path)| self.path(id, &path, allow.as_ref()));
        let is_kept = !raw.keep_old.is_missing();
        if let (Field::Good(id, _), Field::Missing) = (&raw.keep_old, &raw.kind) {
            let hint = "add `kind: k3s-token` or `rke2-token`, or remove it";
            self.push(self.mark(*id), "`keep_old` is for the token of a cluster", Some(hint.to_owned()));
        }
        let keep_old = raw.keep_old.good().and_then(|(id, path)| self.path(id, &path, allow.as_ref()));
        let RawSecret { from, template, template_file, generate, absent, .. } = raw;
        let value = self.value_spec(ValueKeys { from, template, template_file, generate, absent }, key, &name);
        let expect = self.expect(raw.expect);
        let hosts = self.selectors(raw.hosts);
        let directory_mode = self.mode(raw.directory_mode, values::directory_mode);
        let directory_owner = self.directory_owner(raw.directory_owner);
        if let (Some((path, path_id)), Some(hosts), Some(directory_mode), Some(directory_owner)) =
            (&path, &hosts, &directory_mode, &directory_owner)
        {
            let placed = PlacedSecret {
                name: name.clone(),
                path: path.clone(),
                path_mark: self.mark(*path_id),
                selectors: (!hosts.0.is_empty()).then(|| hosts.1.clone()),
                directory_mode: directory_mode.map(|(mode, id)| (format!("{mode:04o}"), self.mark(id))),
                directory_owner: directory_owner.as_ref().map(|(owner, id)| (owner.to_string(), self.mark(*id))),
                part: None,
            };
            let kept = keep_old.as_ref().map(|(path, id)| PlacedSecret {
                name: name.clone(),
                path: path.clone(),
                path_mark: self.mark(*id),
                selectors: placed.selectors.clone(),
                directory_mode: None,
                directory_owner: None,
                part: Some("the old token"),
            });
            if let Some(ValueSpec::Generate(generate)) = &value {
                self.place_public_part(generate, &placed, *path_id);
                self.warn_of_a_shared_token(&name, generate, &hosts.1);
            }
            self.placed.push(placed);
            self.placed.extend(kept);
        }
        let mode = match is_absent {
            true => Some(defaults.mode),
            false => self.secret_mode(raw.mode, raw.allow_world_readable, defaults, key),
        };
        let owner = self.owner(raw.owner);
        let group = self.owner(raw.group);
        let used_by = self.used_by(raw.used_by);
        Some(SecretSpec {
            name,
            location: key.location(),
            path: path?.0,
            value: value?,
            encoding: optional(raw.encoding)?,
            expect: expect?,
            format: optional(raw.format)?,
            hash: optional(raw.hash)?,
            owner: owner?.unwrap_or_else(|| defaults.owner.clone()),
            group: group?.unwrap_or_else(|| defaults.group.clone()),
            mode: mode?,
            directory_mode: directory_mode?.map(|(mode, _)| mode),
            directory_owner: directory_owner?.map(|(owner, _)| owner),
            newline: optional(raw.newline)?,
            hosts: hosts?.0,
            used_by: used_by?,
            kind: optional(raw.kind)?,
            keep_old: if is_kept { Some(keep_old?.0) } else { None },
            on_change: on_change?,
            apply_password: flag(raw.apply_password)?,
            allow_empty: flag(raw.allow_empty)?,
            allow: allow?,
        })
    }

    /// Reports the keys that describe a file if the secret declares that the file must not exist.
    fn not_of_absent(&self, raw: &RawSecret) {
        for (key, id) in raw.file_keys() {
            if let Some(id) = id {
                let hint = format!("remove `{key}`, or `absent` if the file is to be there");
                self.push(self.mark(id), format!("`{key}` and `absent: true` do not go together"), Some(hint));
            }
        }
    }

    /// A path in the target, checked for its form. `None` if it is wrong (reported).
    fn target_path(&self, id: NodeId, path: &str) -> Option<TargetPath> {
        if path.chars().any(|character| character.is_control() && character != '\0') {
            self.push(self.mark(id), "a path cannot hold a control character", None);
            return None;
        }
        TargetPath::parse(path).map_err(|message| self.push(self.mark(id), message, None)).ok()
    }

    /// The path, checked for its form and for where it is, with its node.
    fn path(&self, id: NodeId, path: &str, allow: Option<&Allow>) -> Option<(TargetPath, NodeId)> {
        let path = self.target_path(id, path)?;
        // An `allow` that is wrong may have been meant for it.
        let is_allowed = |code| self.allowed.contains(code) || allow.is_none_or(|allow| allow.contains_key(code));
        match nixos::paths::judge(path.as_str()) {
            Some(finding) if finding.refuse && !is_allowed(finding.code) => {
                self.push(self.mark(id), format!("{}: {}", finding.code, finding.reason), Some(finding.advice()));
                None
            }
            _ => Some((path, id)),
        }
    }

    fn secret_mode(&self, mode: Field<String>, allow: Field<bool>, defaults: &Defaults, key: Mark) -> Option<u32> {
        const HINT: &str = "if that is meant, add `allow_world_readable: true` to the secret";
        let own = self.mode(mode, values::file_mode)?;
        let allowed = flag(allow)?;
        let (mode, mark, whose) = match own {
            Some((mode, id)) => (mode, self.mark(id), ""),
            None => (defaults.mode, key, ", from `defaults`,"),
        };
        if mode & 0o004 != 0 && !allowed {
            self.push(
                mark,
                format!("mode {mode:04o}{whose} lets everybody on the host read the file"),
                Some(HINT.to_owned()),
            );
            return None;
        }
        Some(mode)
    }

    fn used_by(&self, field: Field<OneOrMany>) -> Option<Vec<String>> {
        self.one_or_many(field, |text| keys::text(&text, "the name of an option").map(|()| text))
    }

    /// One text or a list, each converted by `convert`; empty if the key is absent. `None` if one is wrong.
    pub(super) fn one_or_many(
        &self,
        field: Field<OneOrMany>,
        convert: impl Fn(String) -> Result<String, Refusal>,
    ) -> Option<Vec<String>> {
        let convert = |id, text| self.accept(id, convert(text));
        match field {
            Field::Missing => Some(Vec::new()),
            Field::Bad => None,
            Field::Good(id, OneOrMany::One(text)) => Some(vec![convert(id, text)?]),
            Field::Good(_, OneOrMany::Many(texts)) => {
                // Check all entries, so that every problem is reported.
                let checked: Vec<Option<String>> =
                    texts.into_iter().map(|text| text.good().and_then(|(id, text)| convert(id, text))).collect();
                checked.into_iter().collect()
            }
        }
    }
}

/// `Some(None)` if it is absent, `None` if it is wrong.
pub(super) fn optional<T>(field: Field<T>) -> Option<Option<T>> {
    match field {
        Field::Missing => Some(None),
        Field::Bad => None,
        Field::Good(_, value) => Some(Some(value)),
    }
}

/// False if it is absent, `None` if it is wrong.
pub(super) fn flag(field: Field<bool>) -> Option<bool> {
    match field {
        Field::Missing => Some(false),
        Field::Bad => None,
        Field::Good(_, value) => Some(value),
    }
}
