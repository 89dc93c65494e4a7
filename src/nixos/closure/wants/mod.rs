//! The files that a system reads and that no store path gives: what it wants.
//!
//! ten kinds of places ──> path, reader, whether it may be missing
//!
//! ```text
//! units ──> settings, words of commands, variables
//!   └─> scripts that they start ──┐
//!   └─> configuration they name <─┴─ /etc of the system
//! users JSON, secrets of the initrd, nix.conf, fstab
//! ```
//!
//! systemd.exec(5), systemd.service(5); docs/lint.md. Files that sops-nix and agenix make are
//! no part of it: they are wanted by those who read them, and given by them.

mod config;
mod path;
mod script;
mod unit;

use std::collections::{BTreeMap, BTreeSet};

use deaddrop_core::tree::{FileKind, Tree};

use super::mounts::MOST_UNITS;
use super::units::{self, Entry};
use super::view::View;
use super::{Accounts, Mount};

pub use self::path::may_be_secret;

/// Maximum number of service units that are read.
const MOST_SERVICES: usize = 2000;
/// Maximum number of files that units, scripts and /etc name and that are read.
const MOST_FILES: usize = 4000;
/// Maximum size of such a file, in bytes: a script or a configuration, no program.
const FILE_LIMIT: u64 = 256 << 10;
/// Maximum size of all units and files together, in bytes: those of a large system have 4 MiB.
const MOST_BYTES: usize = 16 << 20;
/// Maximum number of paths that are wanted.
const MOST_WANTS: usize = 5000;
/// Maximum number of paths that are only named.
const MOST_NAMED: usize = 100_000;
/// Maximum depth of the directories of /etc.
const DEPTH: usize = 4;

/// What a system reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// One for each path and reader, by path.
    pub list: Vec<Want>,
    /// Every other path that the same texts name.
    pub named: BTreeSet<String>,
    /// Patterns of paths, with `*`.
    pub patterns: BTreeSet<String>,
    /// Secrets in clear.
    pub clear: Vec<InClear>,
}

/// A path that a system reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// The path in the booted system.
    pub path: String,
    /// What says it: an option of NixOS for users, `k3s.service`, `nix.conf`.
    pub by: String,
    /// The kind of place that says it.
    pub kind: Kind,
    /// It may be missing.
    pub optional: bool,
    /// The user that reads it; `None` for root.
    pub user: Option<String>,
    /// Further groups of that user, by name.
    pub groups: Vec<String>,
}

/// The kind of place that says a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `hashedPasswordFile` of a user.
    Password,
    /// A source of `boot.initrd.secrets`.
    Initrd,
    /// `EnvironmentFile=`.
    EnvironmentFile,
    /// `LoadCredential=`, or a directory of credentials.
    Credential,
    /// A word of a command.
    Word,
    /// A word after `--token-file` or `--agent-token-file` of k3s or rke2, which wait for it.
    ClusterToken,
    /// A variable.
    Variable,
    /// A command of a script.
    Script,
    /// A configuration in the store.
    Configuration,
    /// nix.conf.
    NixConf,
    /// `credentials=` of a mount.
    MountOption,
}

/// A secret that the store holds in clear.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InClear {
    /// The file of the store.
    pub file: String,
    /// What it is: `the token of k3s.service`, never the value.
    pub what: String,
    /// The option that takes a file instead.
    pub instead: &'static str,
}

/// Who reads what a text names.
#[derive(Debug, Clone, Default)]
struct Reader {
    by: String,
    user: Option<String>,
    groups: Vec<String>,
    /// Directories whose files it makes itself.
    own: Vec<String>,
}

impl Reader {
    fn root(by: &str) -> Self {
        Self { by: by.to_owned(), ..Self::default() }
    }

    fn want(&self, path: &str, kind: Kind, optional: bool) -> Want {
        let (path, by, user, groups) = (path.to_owned(), self.by.clone(), self.user.clone(), self.groups.clone());
        Want { path, by, kind, optional, user, groups }
    }

    /// True for a path in a directory of its own.
    fn makes(&self, path: &str) -> bool {
        self.own.iter().any(|own| path.strip_prefix(own.as_str()).is_some_and(|rest| rest.starts_with('/')))
    }
}

/// What was found so far.
struct Collector<'v, 't, T: Tree> {
    view: &'v View<'t, T>,
    wants: Vec<Want>,
    /// Paths that a script makes.
    made: BTreeSet<String>,
    named: BTreeSet<String>,
    patterns: BTreeSet<String>,
    clear: BTreeSet<InClear>,
    /// The etc tree.
    etc: String,
    /// Files that were read, and by whom: one may be named by several.
    seen: BTreeSet<(String, String)>,
    files: usize,
    most_files: usize,
    bytes: usize,
    unread: Vec<String>,
}

/// What the system with this etc tree wants. What cannot be read is added to `unread`.
pub fn find<T: Tree>(
    view: &View<'_, T>,
    toplevel: &str,
    activate: Option<&str>,
    accounts: &Accounts,
    mounts: &[Mount],
    unread: &mut Vec<String>,
) -> Wants {
    let mut collector = Collector {
        view,
        wants: Vec::new(),
        made: BTreeSet::new(),
        named: BTreeSet::new(),
        patterns: BTreeSet::new(),
        clear: BTreeSet::new(),
        etc: format!("{toplevel}/etc"),
        seen: BTreeSet::new(),
        files: 0,
        bytes: 0,
        most_files: view.patience(MOST_FILES),
        unread: Vec::new(),
    };
    let etc = collector.etc.clone();
    collector.users(accounts);
    collector.initrd(toplevel);
    collector.units(&etc);
    collector.etc_entries(&etc, "", DEPTH);
    collector.mounts(mounts);
    if let Some(activate) = activate {
        collector.made.extend(script::made(activate));
        collector.name_all(activate);
    }
    let wants = collector.wants.len();
    if wants > MOST_WANTS {
        collector.unread.push(format!("{etc}: it reads {wants} files, and only {MOST_WANTS} of them are judged"));
        collector.wants.truncate(MOST_WANTS);
    }
    if collector.files >= collector.most_files || collector.bytes > MOST_BYTES {
        let why = "they are too many or too large";
        collector.unread.push(format!("{etc}: not all files that its units name were read: {why}"));
    }
    unread.append(&mut collector.unread);
    collector.finish(&etc)
}

impl<T: Tree> Collector<'_, '_, T> {
    fn finish(mut self, etc: &str) -> Wants {
        let mut managed = BTreeMap::new();
        let view = self.view;
        let mut is_managed = |path: &str| {
            let Some(below) = path.strip_prefix("/etc/") else { return false };
            *managed
                .entry(path.to_owned())
                .or_insert_with(|| view.find(&format!("{etc}/{below}")).is_ok_and(|found| found.is_some()))
        };
        let made = &self.made;
        self.wants.retain(|want| !made.contains(&want.path) && !is_managed(&want.path));
        self.wants.sort();
        self.wants.dedup_by(|later, first| {
            let is_same = later.path == first.path && later.by == first.by;
            if is_same {
                first.optional &= later.optional;
            }
            is_same
        });
        Wants { list: self.wants, named: self.named, patterns: self.patterns, clear: self.clear.into_iter().collect() }
    }

    fn users(&mut self, accounts: &Accounts) {
        for user in &accounts.users {
            let option = format!("users.users.{}.hashedPasswordFile", user.name);
            if let Some(path) = user.hashed_password_file.as_deref().filter(|path| may_be_secret(path)) {
                self.wants.push(Reader::root(&option).want(path, Kind::Password, false));
            }
        }
    }

    /// `append-initrd-secrets` copies the sources of boot.initrd.secrets: nixpkgs,
    /// `nixos/modules/system/boot/stage-1.nix`.
    fn initrd(&mut self, toplevel: &str) {
        let Some(text) = self.text(&format!("{toplevel}/append-initrd-secrets")) else { return };
        for source in script::copied(&text) {
            self.wants.push(Reader::root("boot.initrd.secrets").want(&source, Kind::Initrd, false));
        }
    }

    fn mounts(&mut self, mounts: &[Mount]) {
        for mount in mounts {
            for path in mount.options.iter().filter_map(|option| option.strip_prefix("credentials=")) {
                if may_be_secret(path) {
                    let by = format!("fileSystems.{:?}", mount.place);
                    self.wants.push(Reader::root(&by).want(path, Kind::MountOption, false));
                }
            }
        }
    }

    fn units(&mut self, etc: &str) {
        let directory = format!("{etc}/systemd/system");
        let names = match self.view.names(&directory, MOST_UNITS) {
            Ok(names) => names.unwrap_or_default(),
            // The reader of mounts has said it.
            Err(_) => return,
        };
        let mut services: Vec<String> = names.into_iter().filter(|name| name.ends_with(".service")).collect();
        services.sort_unstable();
        let most = self.view.patience(MOST_SERVICES);
        if services.len() > most {
            self.unread.push(format!("{directory}: only {most} of its services were read"));
            services.truncate(most);
        }
        let mut seen = BTreeSet::new();
        for name in services {
            // An alias is a link to the unit.
            let place = self.view.find(&format!("{directory}/{name}")).ok().flatten();
            if place.is_some_and(|place| !seen.insert(place.physical)) {
                continue;
            }
            if self.bytes > MOST_BYTES || self.wants.len() > MOST_WANTS {
                return;
            }
            match units::read(self.view, &directory, &name) {
                Ok(Entry::Unit(unit)) => self.unit(&directory, &name, &unit),
                Ok(Entry::Masked | Entry::Missing) => {}
                Err(why) => self.unread.push(why),
            }
        }
    }

    fn unit(&mut self, directory: &str, name: &str, unit: &units::Unit) {
        self.bytes = self.bytes.saturating_add(unit.size());
        let mut found = unit::read(name, unit);
        found.wants.sort();
        found.wants.dedup();
        self.wants.extend(found.wants);
        let (patterns, named): (Vec<_>, Vec<_>) = found.named.into_iter().partition(|path| path.contains('*'));
        self.named.extend(named);
        self.patterns.extend(patterns);
        for (what, instead) in found.clear {
            self.clear.insert(InClear { file: format!("{directory}/{name}"), what, instead });
        }
        for (program, reader) in found.programs {
            self.file(&program, &reader, true, 2);
        }
        for (file, reader) in found.files {
            self.file(&file, &reader, false, 2);
        }
    }

    /// The entries of /etc that are files of the store.
    fn etc_entries(&mut self, directory: &str, below: &str, depth: usize) {
        let Ok(Some(names)) = self.view.names(directory, MOST_UNITS) else { return };
        for name in names {
            let (path, at) = (format!("{directory}/{name}"), format!("{below}{name}"));
            if self.files >= self.most_files || matches!(at.as_str(), "systemd/system" | "systemd/user" | "fstab") {
                continue;
            }
            let is_link = self.view.link(&path).is_ok_and(|link| link.is_some());
            let Ok(Some(place)) = self.view.find(&path) else { continue };
            match place.kind {
                // A link to a directory of the store: fonts, time zones, and files that name none of the system's.
                FileKind::Directory if depth > 1 && (!is_link || at == "systemd/network") => {
                    self.etc_entries(&path, &format!("{at}/"), depth.saturating_sub(1));
                }
                FileKind::File => self.etc_file(&path, &at),
                _ => {}
            }
        }
    }

    fn etc_file(&mut self, path: &str, at: &str) {
        self.files = self.files.saturating_add(1);
        // Whoever names it reads it.
        let range = (path.to_owned(), String::new())..;
        if self.seen.range(range).next().is_some_and(|(seen, _)| seen == path) {
            return;
        }
        let Some(text) = self.text(path) else { return };
        self.name_all(&text);
        if at == "nix/nix.conf" {
            for (included, optional) in config::included(&text) {
                self.wants.push(Reader::root("nix.conf").want(&included, Kind::NixConf, optional));
            }
            return;
        }
        let by = format!("/etc/{at}");
        // It drops its rights before it reads keys (systemd.netdev(5)).
        let reader = match at.starts_with("systemd/network/") {
            true => Reader { user: Some("systemd-network".to_owned()), ..Reader::root(&by) },
            false => Reader::root(&by),
        };
        self.configuration(path, &text, &reader);
    }

    /// A file of the store or of the system's /etc that a unit or a script names. `depth`: how many more files name
    /// others.
    fn file(&mut self, path: &str, reader: &Reader, is_program: bool, depth: usize) {
        let of_etc = path.strip_prefix("/etc/").map(|below| format!("{}/{below}", self.etc));
        let path = of_etc.as_deref().unwrap_or(path);
        if depth == 0 || self.files >= self.most_files || !self.seen.insert((path.to_owned(), reader.by.clone())) {
            return;
        }
        self.files = self.files.saturating_add(1);
        let Some(text) = self.text(path) else { return };
        let is_script = text.starts_with("#!");
        if is_program && !is_script {
            return;
        }
        self.name_all(&text);
        if is_script {
            let found = script::read(&text);
            self.made.extend(found.made);
            let wants = found.wants.into_iter().filter(|want| !reader.makes(&want.path));
            self.wants.extend(wants.map(|want| reader.want(&want.path, want.kind, want.optional)));
            for file in found.files {
                self.file(&file, reader, false, depth.saturating_sub(1));
            }
        } else {
            self.configuration(path, &text, reader);
        }
    }

    fn configuration(&mut self, path: &str, text: &str, reader: &Reader) {
        for wanted in config::paths(text) {
            if !reader.makes(&wanted) {
                self.wants.push(reader.want(&wanted, Kind::Configuration, false));
            }
        }
        if config::has_clear_psk(text) {
            self.clear.insert(InClear {
                file: path.to_owned(),
                what: "a Wi-Fi key (psk)".to_owned(),
                instead: "networking.wireless.secretsFile, with pskRaw = \"ext:NAME\"",
            });
        }
    }

    fn name_all(&mut self, text: &str) {
        if self.named.len() < MOST_NAMED {
            self.named.extend(path::all(text));
        }
    }

    /// The text of a small file; `None` for a directory, a program, or what cannot be read.
    fn text(&mut self, path: &str) -> Option<String> {
        if self.bytes > MOST_BYTES || self.wants.len() > MOST_WANTS {
            return None;
        }
        let content = self.view.content(path, FILE_LIMIT).ok().flatten()?;
        self.bytes = self.bytes.saturating_add(content.len());
        let text = std::str::from_utf8(content.expose()).ok()?;
        (!text.contains('\0')).then(|| text.to_owned())
    }
}
