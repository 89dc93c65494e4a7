//! Which partition is the root: as the design says, and why it was that one.
//!
//! Called with a table that is read, by `inspect` and by every command that opens the root. What a file system looks like
//! is answered by the caller, who has the readers; [`Look::of`] is how.

use std::fmt;

use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use deaddrop_core::tree::{self, Tree, walk};
use serde::Serialize;

use super::probe::ContentKind;
use crate::table::{Partition, Table, TableKind};

/// Labels that nixpkgs gives to a root: make-disk-image's and sd-image's.
const LABELS: [&str; 2] = ["nixos", "NIXOS_SD"];

/// Who writes a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// We do.
    #[default]
    Native,
    /// The kernel does, through a mount.
    Mount,
}

impl Backend {
    /// True for the file systems that it writes.
    #[must_use]
    pub fn writes(self, kind: ContentKind) -> bool {
        kind.is_ext() || self == Self::Mount && matches!(kind, ContentKind::Btrfs | ContentKind::Xfs)
    }

    /// The one that a file system needs; none when nobody writes it.
    #[must_use]
    pub fn of(kind: ContentKind) -> Option<Self> {
        [Self::Native, Self::Mount].into_iter().find(|backend| backend.writes(kind))
    }
}

/// Why a partition is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// `--root-partition` named it.
    Asked,
    /// Its label is `nixos` or `NIXOS_SD`.
    Label,
    /// No other holds `/nix/store`.
    Store,
    /// No other has the type of a root in the GPT.
    Type,
    /// No other is a Linux file system.
    Only,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "chosen by --root-partition",
            Self::Label => "chosen by its label",
            Self::Store => "the only one that holds /nix/store",
            Self::Type => "the only one with the type of a root",
            Self::Only => "the only Linux file system",
        })
    }
}

/// What a file system looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It holds `/nix/store`.
    Store,
    /// It has `/etc`, and `/usr` or `/bin`; or it is one that a deployment of OSTree is booted from.
    Root,
    /// None of these.
    Other,
    /// It cannot be told: nobody here can read it.
    Unknown,
}

impl Look {
    /// Looks into a tree.
    pub fn of<T: Tree>(tree: &T) -> Self {
        let Ok(_) = tree.root() else { return Self::Unknown };
        let is_directory = |path: &str| {
            // What cannot be read does not make it look like a root: then it is refused, or named by a person.
            let found = walk::resolve(tree, path).ok().and_then(|walked| walked.found);
            found.is_some_and(|(_, stat)| stat.kind == tree::FileKind::Directory)
        };
        if is_directory("/nix/store") {
            Self::Store
        } else if is_directory("/etc") && (is_directory("/usr") || is_directory("/bin")) || is_directory(OSTREE) {
            Self::Root
        } else {
            Self::Other
        }
    }
}

/// Where OSTree keeps the roots that it boots.
pub const OSTREE: &str = "/ostree/deploy";

/// What the caller finds when it looks into a partition; the error is why it is not written to, if that is all there is to
/// say of it.
pub type LookInto<'l> = &'l dyn Fn(&Partition) -> Result<Look, StorageError>;

/// The partition that is the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The partition. It lies in the image, and holds a file system that the back end writes.
    pub partition: Partition,
    /// Which one.
    pub kind: ContentKind,
    /// Why this one.
    pub reason: Reason,
    /// True for a file system that is the whole image, was not asked for, and does not look like a root.
    pub doubtful: bool,
}

/// Chooses the root: `asked` (a partition's number, a file system's label, or a GPT name) if given, else by label,
/// by `/nix/store`, by its type, or because there is no other. `look` is asked only about file systems that `backend` writes
/// and that lie in the image. `name` is the image's, for messages.
///
/// # Errors
/// `Refused` when there is none, or more than one, with a list of what there is, or when the one does not look like a root;
/// `Corrupt` when it is not wholly in the image; `Unsupported` when it is of a kind that `backend` does not write; what
/// `look` says of it.
pub fn choose(
    table: &Table,
    asked: Option<&str>,
    backend: Backend,
    look: LookInto<'_>,
    name: &str,
) -> Result<Root, StorageError> {
    let (partition, reason, look) = match asked {
        Some(asked) => (by_name(table, asked, name)?, Reason::Asked, Ok(Look::Unknown)),
        None => by_itself(table, backend, look, name)?,
    };
    if let Some(problem) = &partition.problem {
        return Err(StorageError::corrupt(format!("{name}: {} cannot be used: {problem}", partition.title())));
    }
    match &partition.file_system {
        Some(probe) if backend.writes(probe.kind) => {
            let asked_for_its_look = matches!(reason, Reason::Type | Reason::Only);
            let doubtful = asked_for_its_look && look? == Look::Other;
            if doubtful && table.kind != TableKind::None {
                return Err(StorageError::refused(
                    format!(
                        "{name}: {} ({reason}) does not look like a root: it has neither /nix/store, nor /etc with /usr or \
                         /bin\n{}",
                        partition.title(),
                        list(table)
                    ),
                    format!(
                        "if it is the root all the same, say so: --root-partition {}",
                        partition.number.map_or("N".to_owned(), |number| number.to_string())
                    ),
                ));
            }
            Ok(Root { partition: partition.clone(), kind: probe.kind, reason, doubtful })
        }
        Some(probe) => Err(StorageError::unsupported(
            format!("{name}: the root is {}, and {} cannot be written", partition.title(), probe.kind.name()),
            way_out(probe.kind),
        )),
        None => Err(StorageError::refused(
            format!("{name}: {} holds no file system that is known", partition.title()),
            hint(table),
        )),
    }
}

/// The partition that a person named.
fn by_name<'a>(table: &'a Table, asked: &str, name: &str) -> Result<&'a Partition, StorageError> {
    let number = asked.parse::<u32>().ok();
    if let Some(found) = table.partitions.iter().find(|p| number.is_some() && p.number == number) {
        return Ok(found);
    }
    let labelled = |p: &&Partition| p.file_system.as_ref().is_some_and(|fs| fs.label.as_deref() == Some(asked));
    let named = |p: &&Partition| p.name.as_deref() == Some(asked);
    let mut found: Vec<&Partition> = table.partitions.iter().filter(labelled).collect();
    if found.is_empty() {
        found = table.partitions.iter().filter(named).collect();
    }
    match found[..] {
        [one] => Ok(one),
        [] => Err(StorageError::refused(
            format!("{name}: there is no partition `{}`\n{}", printable(asked), list(table)),
            hint(table),
        )),
        _ => Err(StorageError::refused(
            format!("{name}: {} partitions are called `{}`\n{}", found.len(), printable(asked), list(table)),
            "name it by its number: --root-partition N",
        )),
    }
}

/// The partition that stands out, why, and what it looks like where that was seen.
#[allow(clippy::type_complexity)] // One caller, which takes it apart.
fn by_itself<'a>(
    table: &'a Table,
    backend: Backend,
    look: LookInto<'_>,
    name: &str,
) -> Result<(&'a Partition, Reason, Result<Look, StorageError>), StorageError> {
    let whole = table.kind == TableKind::None;
    // What is unknown counts: a root that nobody recognises must not make another one "the only one".
    let candidates: Vec<&Partition> =
        table.partitions.iter().filter(|p| p.may_be_root() && !(whole && p.file_system.is_none())).collect();
    let has_label = |p: &Partition| {
        let label = p.file_system.as_ref().and_then(|fs| fs.label.as_deref());
        label.is_some_and(|label| LABELS.contains(&label))
    };
    let labelled: Vec<&Partition> = candidates.iter().copied().filter(|p| has_label(p)).collect();
    match labelled[..] {
        [one] => return Ok((one, Reason::Label, Ok(Look::Unknown))),
        [] => {}
        _ => {
            return Err(StorageError::refused(
                format!("{name}: {} partitions have the label of a NixOS root\n{}", labelled.len(), list(table)),
                hint(table),
            ));
        }
    }
    let read = |p: &Partition| {
        let writes = p.file_system.as_ref().is_some_and(|fs| backend.writes(fs.kind));
        if writes && p.problem.is_none() { look(p) } else { Ok(Look::Unknown) }
    };
    let mut looks: Vec<(&Partition, Result<Look, StorageError>)> =
        candidates.iter().map(|partition| (*partition, read(partition))).collect();
    let mut only = |is: &dyn Fn(&Partition, &Result<Look, StorageError>) -> bool| {
        let mut found = (0..looks.len()).filter(|place| is(looks[*place].0, &looks[*place].1));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(looks.swap_remove(one)),
            (None, _) => Err(0),
            (Some(_), Some(_)) => Err(found.count() + 2),
        }
    };
    match only(&|_, look| matches!(look, Ok(Look::Store))) {
        Ok((one, look)) => return Ok((one, Reason::Store, look)),
        Err(0) => {}
        Err(stores) => {
            return Err(StorageError::refused(
                format!("{name}: {stores} partitions hold /nix/store\n{}", list(table)),
                hint(table),
            ));
        }
    }
    // None of that type, or several: then all of them count.
    if let Ok((one, look)) = only(&|p, _| p.is_typed_root()) {
        return Ok((one, Reason::Type, look));
    }
    match only(&|_, _| true) {
        Ok((one, look)) => Ok((one, Reason::Only, look)),
        Err(0) => Err(StorageError::refused(
            format!("{name}: no root found: no Linux file system\n{}", list(table)),
            "is this the image of a NixOS system? (if a partition is encrypted or damaged, nothing can be told of it)",
        )),
        Err(all) => Err(StorageError::refused(
            format!(
                "{name}: no root found: {all} partitions may hold it, none of them with a label of NixOS, with /nix/store, or \
                 alone with the type of a root\n{}",
                list(table)
            ),
            match candidates.iter().any(|p| needs_mount(p)) && backend == Backend::Native {
                true => format!("{}; `--backend mount` (root) looks into btrfs and xfs", hint(table)),
                false => hint(table),
            },
        )),
    }
}

/// True for a file system that the native back end does not write, and the kernel does.
fn needs_mount(partition: &Partition) -> bool {
    let kind = partition.file_system.as_ref().map(|fs| fs.kind);
    kind.and_then(Backend::of).is_some_and(|needed| needed != Backend::Native)
}

/// What is in the image, a line a partition.
fn list(table: &Table) -> String {
    let line = |p: &Partition| {
        let (kind, label) = match &p.file_system {
            Some(fs) => (fs.kind.name(), fs.label.as_deref().unwrap_or("")),
            None => ("-", ""),
        };
        let number = p.number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let type_name = p.type_name.or(p.type_id.as_deref()).unwrap_or("whole disk");
        let mut line = format!("  {number:<4}{:>9}  {type_name:<22} {kind:<10} {label}", text::size(p.size));
        if let Some(problem) = &p.problem {
            line = format!("{line}  ({problem})");
        }
        line.trim_end().to_owned()
    };
    if table.partitions.is_empty() {
        return format!("  the {} is empty", table.kind.name());
    }
    // A hostile table may have a thousand entries, and a person reads a page.
    const MOST: usize = 32;
    let mut lines: Vec<String> = table.partitions.iter().take(MOST).map(line).collect();
    if let Some(more) = table.partitions.len().checked_sub(MOST).filter(|more| *more > 0) {
        lines.push(format!("  … and {more} more"));
    }
    lines.join("\n")
}

fn hint(table: &Table) -> String {
    match table.kind {
        TableKind::None => "the image has no partition table: all of it would have to be one ext4".to_owned(),
        TableKind::Gpt | TableKind::Mbr => "say which one: --root-partition N, or its label".to_owned(),
    }
}

/// What a person typed, fit to be shown.
fn printable(asked: &str) -> String {
    text::shown_text(asked).unwrap_or_default()
}

/// What to do about a root that cannot be written.
fn way_out(kind: ContentKind) -> &'static str {
    match kind {
        ContentKind::Luks => {
            "it is encrypted, and would have to be unlocked first: build the image unencrypted, or put the secrets in when it runs"
        }
        ContentKind::Zfs => "no Linux kernel writes ZFS without its module: put the secrets in when the system runs",
        ContentKind::Squashfs | ContentKind::Erofs => "it is read-only by design: build an image whose root is ext4",
        member if member.is_member() => {
            "it is one of several disks that belong together, and written alone it would differ from the others: put them \
             together, and name the device that comes out"
        }
        ContentKind::Lvm
        | ContentKind::Bcache
        | ContentKind::Stratis
        | ContentKind::Vdo
        | ContentKind::Integrity
        | ContentKind::Bluestore
        | ContentKind::SnapshotCow
        | ContentKind::Ubi => {
            "the file system lies in a layer that has to be put together first: build an image whose root is a partition"
        }
        ContentKind::Btrfs | ContentKind::Xfs => {
            "`deaddrop inject --backend mount` lets the kernel write it (Linux, as root, and only for an image that you trust)"
        }
        _ => "build the image with an ext4 root, or mount it and inject into the directory",
    }
}

#[cfg(test)]
mod tests;
