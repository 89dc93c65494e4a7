//! NX006, NX007, NX008, NX102, NX103, NX104: where a path of the booted system lies in the file system that is open.
//!
//! Above a path there may be other mounts, binds, an overlay over /etc, or a root that is empty at each boot. Mounts
//! are those of the closure. Nothing is mapped on a guess: if a file cannot be where the booted system sees it, it is
//! refused.

mod running;

use std::collections::BTreeMap;

use super::Finding;
use super::closure::wants::Want;
use super::closure::{Accounts, Closure, Etc, Mount};
use super::open_file_system::OpenFileSystem;
use super::paths::is_at_or_below;

/// Where a mutable overlay of /etc keeps what is written to it (nixpkgs, `system.etc.overlay`).
pub const UPPER: &str = "/.rw-etc/upper";

/// Maximum number of binds that lead to one another.
const MOST_BINDS: usize = 16;

/// Where a file is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The path in the booted system. It differs from the declared one below `persist_root`, at the source of a bind,
    /// and in the upper directory of an overlay.
    pub path: String,
    /// The path in the open file system.
    pub in_tree: String,
    /// Refusals and warnings, the first refusal first.
    pub findings: Vec<Finding>,
}

/// Where a file of the booted system lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// In the open file system, at this path of it.
    At(String),
    /// On another file system.
    Elsewhere,
    /// Nowhere: the place is empty at each boot, or read-only.
    Nowhere,
}

/// What a system reads, to be asked for many paths.
#[derive(Debug, Default)]
pub struct Readers<'c> {
    by_path: BTreeMap<&'c str, Vec<&'c Want>>,
    by_place: BTreeMap<String, Vec<&'c Want>>,
}

impl Readers<'_> {
    /// What reads the file that is declared at `declared` and lies at `in_tree` of the open file system.
    #[must_use]
    pub fn of(&self, declared: &str, in_tree: &str) -> Vec<Want> {
        let found = self.by_place.get(in_tree).or_else(|| self.by_path.get(declared));
        found.into_iter().flatten().map(|want| (*want).clone()).collect()
    }
}

/// The places of one system.
#[derive(Debug, Clone, Copy)]
pub struct Places<'c> {
    closure: &'c Closure,
    /// Where the open file system is mounted.
    open: &'c str,
    /// All file systems of the booted system are there, each at its place.
    is_whole: bool,
    persist_root: Option<&'c str>,
}

impl<'c> Places<'c> {
    /// `is_below_nix`: the open file system has `store/` at its top.
    #[must_use]
    pub fn new(closure: &'c Closure, open: &OpenFileSystem, is_below_nix: bool, persist_root: Option<&'c str>) -> Self {
        Self { closure, open: place_of(closure, open, is_below_nix), is_whole: false, persist_root }
    }

    /// The places in a tree that has every file system of the system mounted, as an installer has them. What is bound
    /// late is not bound there yet.
    #[must_use]
    pub fn of_all(closure: &'c Closure, persist_root: Option<&'c str>) -> Self {
        Self { closure, open: "/", is_whole: true, persist_root }
    }

    /// The toplevel of the system.
    #[must_use]
    pub fn toplevel(&self) -> &'c str {
        &self.closure.toplevel
    }

    /// True if a file of the root's own /etc shows in place of the system's own name: a configuration extension that
    /// keeps changes.
    #[must_use]
    pub fn own_etc_wins(&self) -> bool {
        self.closure.etc == Etc::Confext { kept: true }
    }

    /// The users and groups that it declares.
    #[must_use]
    pub fn accounts(&self) -> &'c Accounts {
        &self.closure.accounts
    }

    /// True for a file that is read while the system is activated.
    #[must_use]
    pub fn is_read_by_activation(&self, path: &str) -> bool {
        self.closure.is_read_by_activation(path)
    }

    /// True if sops-nix or agenix makes a user's password.
    #[must_use]
    pub fn makes_passwords(&self) -> bool {
        self.closure.made_passwords().next().is_some()
    }

    /// Where the file at `declared` is to be written. `by_activation`: activation reads it.
    #[must_use]
    pub fn locate(&self, declared: &str, by_activation: bool) -> Location {
        let path = self.persisting(declared);
        let mut findings = Vec::new();
        let mut location = self.resolve(&path, declared, &mut findings);
        if let Some(below) = path.strip_prefix("/etc/") {
            match self.closure.etc {
                Etc::OverlayMutable => {
                    let upper = format!("{UPPER}/{below}");
                    findings.clear();
                    location = self.resolve(&upper, declared, &mut findings);
                    findings.push(warn(
                        "NX102",
                        format!("/etc is an overlay here: {declared} is written to {upper}, which shows there"),
                        "that is the right place; nothing is to be done".to_owned(),
                    ));
                }
                Etc::OverlayImmutable | Etc::Confext { kept: false } => findings.push(read_only_etc(declared)),
                Etc::Plain | Etc::Confext { kept: true } => {}
            }
        }
        if self.closure.deletes_host_keys && is_host_key(declared) {
            findings.push(refuse(
                "NX115",
                format!("cloud-init deletes {declared} at the first boot of an instance"),
                "set services.cloud-init.settings.ssh_deletekeys = false, or give services.openssh.hostKeys another path"
                    .to_owned(),
            ));
        }
        let is_refused = findings.iter().any(|finding| finding.refuse);
        if by_activation {
            findings.extend(self.too_late(declared, &path));
        }
        if !is_refused && self.persist_root.is_none() {
            findings.extend(self.rolled_back(declared, &location.0));
        }
        findings.sort_by_key(|finding| !finding.refuse);
        let (path, in_tree) = location;
        Location { path, in_tree, findings }
    }

    /// NX103: what is written to `path` is on a root that looks rolled back at boot.
    fn rolled_back(&self, declared: &str, path: &str) -> Option<Finding> {
        if !self.looks_rolled_back(path) {
            return None;
        }
        let persist = self.persistent().map_or("/persist", |mount| mount.place.as_str());
        Some(warn(
            "NX103",
            format!(
                "{persist} is mounted for what persists, so the root may be rolled back at boot, and {declared} with it"
            ),
            format!("declare {persist}{declared}, or set `persist_root: {persist}`"),
        ))
    }

    /// NX104: what activation reads does not show at its path yet. `path` is where it is written.
    fn too_late(&self, declared: &str, path: &str) -> Option<Finding> {
        if let Some(late) = self.late_mount(path) {
            let place = &late.place;
            return Some(warn(
                "NX104",
                format!("activation reads {declared}, and {place} is mounted after it: the file is not found then"),
                format!("set fileSystems.\"{place}\".neededForBoot = true, or move the secret to /etc/secrets"),
            ));
        }
        // What is written below `persist_root` shows at its own path by a late bind: with an early one, that path
        // would persist by itself.
        (path != declared).then(|| {
            warn(
                "NX104",
                format!(
                    "activation reads {declared}, and it is written to {path}: it shows at its own path only after that"
                ),
                format!("name {path} in the configuration, and declare that path"),
            )
        })
    }

    /// Where the directory `path` of the booted system lies in the open file system, as far as it is there at all.
    #[must_use]
    pub fn in_tree(&self, path: &str) -> String {
        self.resolve(&self.persisting(path), path, &mut Vec::new()).1
    }

    /// Where the file lies that the booted system sees at `path`. Binds that come late count too, and `persist_root`
    /// does not.
    #[must_use]
    pub fn seen(&self, path: &str) -> Seen {
        let mut path = path.to_owned();
        if let Some(below) = path.strip_prefix("/etc/") {
            match self.closure.etc {
                Etc::OverlayMutable => path = format!("{UPPER}/{below}"),
                Etc::OverlayImmutable | Etc::Confext { kept: false } => return Seen::Nowhere,
                Etc::Plain | Etc::Confext { kept: true } => {}
            }
        }
        for _ in 0..MOST_BINDS {
            let Some(mount) = self.mount_above(&path) else {
                return if self.open == "/" { Seen::At(path) } else { Seen::Elsewhere };
            };
            let below = if mount.place == "/" { path.as_str() } else { &path[mount.place.len()..] };
            if mount.is_bind() {
                path = format!("{}{below}", mount.what.trim_end_matches('/'));
            } else if self.is_whole && !mount.is_tmpfs() {
                return Seen::At(path);
            } else if mount.place == self.open && !self.is_whole {
                return Seen::At(if below.is_empty() { "/".to_owned() } else { below.to_owned() });
            } else {
                return if mount.is_tmpfs() { Seen::Nowhere } else { Seen::Elsewhere };
            }
        }
        Seen::Elsewhere
    }

    /// What the system reads, by where it lies.
    #[must_use]
    pub fn readers(&self) -> Readers<'c> {
        let mut readers = Readers::default();
        for want in &self.closure.wants.list {
            readers.by_path.entry(&want.path).or_default().push(want);
            if let Seen::At(at) = self.seen(&want.path) {
                readers.by_place.entry(at).or_default().push(want);
            }
        }
        readers
    }

    /// NX116: the system names another device for the file system that holds its store than the open one.
    #[must_use]
    pub fn other_device(&self, open: &OpenFileSystem) -> Option<Finding> {
        let mount = self.closure.mounts.iter().rfind(|mount| mount.place == self.open && !mount.is_bind())?;
        let is_image = open.uuid.is_some() || open.label.is_some();
        if !is_image || open.is_named(&mount.what) != Some(false) {
            return None;
        }
        let name = open
            .label
            .as_ref()
            .map_or_else(|| open.uuid.clone().unwrap_or_default(), |label| format!("the label {label}"));
        Some(warn(
            "NX116",
            format!(
                "the system mounts {} at {}, and this file system has {name}: what an automatic upgrade builds from its \
                 configuration may not boot here",
                mount.what, mount.place
            ),
            "declare the image's fileSystems and boot loader in the configuration itself, not in the image's module alone"
                .to_owned(),
        ))
    }

    /// The path below `persist_root`, if it is set and `path` does not persist where it is.
    fn persisting(&self, path: &str) -> String {
        match self.persist_root {
            Some(root) if !is_at_or_below(path, root) && !self.persists(path) => format!("{root}{path}"),
            _ => path.to_owned(),
        }
    }

    /// True on a mount that persists. The root does not count, nor a late bind of what is below `persist_root`: the
    /// file is written there.
    fn persists(&self, path: &str) -> bool {
        match self.mount_above(path) {
            None => false,
            Some(mount) if mount.is_bind() && !mount.in_initrd() => {
                let source = format!("{}{}", mount.what.trim_end_matches('/'), &path[mount.place.len()..]);
                self.persist_root.is_none_or(|root| source != format!("{root}{path}"))
            }
            Some(mount) if mount.is_bind() => true,
            Some(mount) => mount.place != "/" && !mount.is_tmpfs(),
        }
    }

    /// The path in the booted system where the file is written, and that in the open file system.
    fn resolve(&self, path: &str, declared: &str, findings: &mut Vec<Finding>) -> (String, String) {
        let mut path = path.to_owned();
        for _ in 0..MOST_BINDS {
            let Some(mount) = self.mount_above(&path) else { break };
            let below = if mount.place == "/" { path.as_str() } else { &path[mount.place.len()..] };
            if mount.is_bind() {
                let source = format!("{}{below}", mount.what.trim_end_matches('/'));
                if !mount.in_initrd() {
                    findings.push(self.late_bind(declared, mount, &source));
                    break;
                }
                path = source;
                continue;
            }
            if self.is_whole && !mount.is_tmpfs() {
                return (path.clone(), path);
            }
            if mount.place == self.open && !self.is_whole {
                let in_tree = if below.is_empty() { "/" } else { below };
                return (path.clone(), in_tree.to_owned());
            }
            findings.push(if mount.place == "/" && mount.is_tmpfs() {
                self.on_tmpfs(declared)
            } else if self.is_whole {
                refuse(
                    "NX006",
                    format!("{declared} is on a tmpfs, which is mounted at {}: it is empty at each boot", mount.place),
                    "declare a path on a mount that persists".to_owned(),
                )
            } else {
                refuse(
                    "NX006",
                    format!(
                        "{declared} is on the file system that is mounted at {} ({}), which is not the one that is open: \
                         what is written here is hidden by it",
                        mount.place, mount.what
                    ),
                    "open that partition (--root-partition), or declare a path on this file system".to_owned(),
                )
            });
            break;
        }
        if self.open != "/" && findings.is_empty() && self.mount_above(&path).is_none() {
            findings.push(refuse(
                "NX006",
                format!("{declared} is on the root, and the file system that is open is mounted at {}", self.open),
                "open the root's partition (--root-partition), or declare a path on this file system".to_owned(),
            ));
        }
        let in_tree = path.strip_prefix(self.open).filter(|rest| self.open != "/" && rest.starts_with('/'));
        let in_tree = in_tree.unwrap_or(&path).to_owned();
        (path, in_tree)
    }

    fn late_bind(&self, declared: &str, mount: &Mount, source: &str) -> Finding {
        refuse(
            "NX006",
            format!(
                "{declared} is below {}, where {} is mounted at boot, after activation: what is written here is hidden",
                mount.place, mount.what
            ),
            format!("declare {source}, which shows there{}", self.persist_hint(declared, source)),
        )
    }

    fn on_tmpfs(&self, declared: &str) -> Finding {
        let instead = self.persistent().map_or_else(
            || "declare a path on a mount that persists".to_owned(),
            |mount| {
                let place = &mount.place;
                format!("declare {place}/secrets, or set `persist_root: {place}`, which writes it to {place}{declared}")
            },
        );
        refuse("NX007", format!("{declared} is on the root, which is a tmpfs: it is gone at the first boot"), instead)
    }

    /// ", or set `persist_root: /persist`", where that would write the file to `source`.
    fn persist_hint(&self, declared: &str, source: &str) -> String {
        let root = source.strip_suffix(declared).filter(|root| root.starts_with('/'));
        root.map_or(String::new(), |root| format!(", or set `persist_root: {root}`"))
    }

    /// The innermost mount above a path; of several at one place the last.
    fn mount_above(&self, path: &str) -> Option<&'c Mount> {
        let above = |mount: &&Mount| mount.place == "/" || is_at_or_below(path, &mount.place);
        self.closure.mounts.iter().filter(above).max_by_key(|mount| mount.place.len())
    }

    /// The mount above a path, if it comes after activation.
    fn late_mount(&self, path: &str) -> Option<&'c Mount> {
        self.mount_above(path).filter(|mount| !mount.in_initrd())
    }

    /// A mount for what persists: by its name, which is what people use.
    fn persistent(&self) -> Option<&'c Mount> {
        let named = |mount: &&Mount| mount.place.contains("persist") && mount.in_initrd() && !mount.is_tmpfs();
        self.closure.mounts.iter().find(named)
    }

    /// True for a path on a root that is no tmpfs, beside a mount for what persists.
    fn looks_rolled_back(&self, path: &str) -> bool {
        let root = self.closure.mounts.iter().find(|mount| mount.place == "/");
        let is_on_root = self.mount_above(path).is_none_or(|mount| mount.place == "/");
        is_on_root && root.is_some_and(|root| !root.is_tmpfs()) && self.persistent().is_some()
    }
}

/// NX008.
fn read_only_etc(declared: &str) -> Finding {
    refuse(
        "NX008",
        format!("{declared} is in /etc, which is a read-only overlay here: a file of the root does not show in it"),
        "use /var/lib/secrets".to_owned(),
    )
}

/// True for a key that cloud-init deletes: `/etc/ssh/ssh_host_*key*` (cloud-init, `cc_ssh`).
fn is_host_key(path: &str) -> bool {
    path.strip_prefix("/etc/ssh/ssh_host_").is_some_and(|name| name.contains("key") && !name.contains('/'))
}

/// Where the open file system is mounted: where its label or UUID is, else at the place of the root or of /nix.
fn place_of<'c>(closure: &'c Closure, open: &OpenFileSystem, is_below_nix: bool) -> &'c str {
    let mounts = || closure.mounts.iter().filter(|mount| !mount.is_bind() && !mount.is_tmpfs());
    if let Some(mount) = mounts().find(|mount| open.is_named(&mount.what) == Some(true)) {
        return &mount.place;
    }
    let root = closure.mounts.iter().find(|mount| mount.place == "/");
    if !is_below_nix && root.is_none_or(|root| !root.is_tmpfs()) {
        return "/";
    }
    if let Some(nix) = mounts().find(|mount| mount.place == "/nix") {
        return &nix.place;
    }
    // The root is a tmpfs, and /nix is bound from another mount.
    let bind = closure.mounts.iter().find(|mount| mount.is_bind() && mount.place == "/nix");
    let source = bind.and_then(|bind| mounts().rfind(|mount| is_at_or_below(&bind.what, &mount.place)));
    source.map_or(if is_below_nix { "/nix" } else { "/" }, |mount| &mount.place)
}

fn refuse(code: &'static str, reason: String, instead: String) -> Finding {
    Finding { code, refuse: true, reason, instead }
}

fn warn(code: &'static str, reason: String, instead: String) -> Finding {
    Finding { code, refuse: false, reason, instead }
}

#[cfg(test)]
mod tests;
