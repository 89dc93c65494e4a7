//! Chooses the root partition, and gives the reason for the choice. The order of the rules is in docs/images.md.
//!
//! Used by `inspect` and by every command that opens the root, after the table was read. The caller, which has the
//! readers, inspects the file systems; [`TreeKind::of`] inspects a tree.

mod inspect;
mod unwritable;

use std::fmt;

use deaddrop_core::error::{Hint, Remedy, StorageError};
use deaddrop_core::text;
use deaddrop_core::tree::{self, Tree, walk};
use serde::Serialize;

pub use self::inspect::{choose_root, choose_root_for};
use super::probe::ContentKind;
use crate::table::{Partition, Table, TableKind};

/// Labels of root file systems made by nixpkgs: make-disk-image's and sd-image's.
const LABELS: [&str; 2] = ["nixos", "NIXOS_SD"];

/// The code that writes a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// deaddrop's own writer.
    #[default]
    Native,
    /// The kernel, through a mount.
    Mount,
}

impl Backend {
    /// True for the file systems that this back end writes.
    #[must_use]
    pub fn writes(self, kind: ContentKind) -> bool {
        kind.is_ext() || self == Self::Mount && matches!(kind, ContentKind::Btrfs | ContentKind::Xfs)
    }

    /// The back end for a file system; `None` if neither writes it.
    #[must_use]
    pub fn of(kind: ContentKind) -> Option<Self> {
        [Self::Native, Self::Mount].into_iter().find(|backend| backend.writes(kind))
    }
}

/// The reason for choosing a partition as the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The user named it.
    Asked,
    /// Its label is `nixos` or `NIXOS_SD`.
    Label,
    /// It is the only one with `/nix/store`.
    Store,
    /// It is the only one with the type of a root in the GPT.
    Type,
    /// It is the only Linux file system.
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

/// The kind of tree in a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// It has `/nix/store`.
    Store,
    /// It has `store` at its top, with a path of nix in it: it is mounted at `/nix`.
    BelowNix,
    /// It has `/etc`, and `/usr` or `/bin`; or a deployment of OSTree is booted from it.
    Root,
    /// None of these.
    Other,
    /// Unknown: this program cannot read it here.
    Unknown,
}

impl TreeKind {
    /// Inspects a tree.
    pub fn of<T: Tree>(tree: &T) -> Self {
        let Ok(_) = tree.root() else { return Self::Unknown };
        let is_directory = |path: &str| {
            // An unreadable path does not make it look like a root: then it is refused, or the user names it.
            let found = walk::resolve(tree, path).ok().and_then(|walked| walked.found);
            found.is_some_and(|(_, stat)| stat.kind == tree::FileKind::Directory)
        };
        if is_directory("/nix/store") {
            Self::Store
        } else if is_directory("/etc") && (is_directory("/usr") || is_directory("/bin")) || is_directory(OSTREE) {
            Self::Root
        } else if holds_store_paths(tree) {
            Self::BelowNix
        } else {
            Self::Other
        }
    }
}

/// True if `store` at the top has a name of nix: a hash of 32 characters, and `-`.
fn holds_store_paths<T: Tree>(tree: &T) -> bool {
    const MOST_NAMES: usize = 100;
    const HASH: usize = 32;
    let found = walk::walk(tree, "/store").ok().and_then(|walked| walked.found);
    let Some((node, _)) = found.filter(|(_, stat)| stat.kind == tree::FileKind::Directory) else { return false };
    let is_store_path = |name: &Vec<u8>| {
        let hash = name.get(..HASH).unwrap_or_default();
        name.get(HASH) == Some(&b'-') && hash.iter().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
    };
    // A store that cannot be listed does not look like one.
    tree.names(&node, MOST_NAMES).is_ok_and(|names| names.iter().any(is_store_path))
}

/// The directory of OSTree's bootable roots.
pub const OSTREE: &str = "/ostree/deploy";

/// Inspects a partition for the choice; the error is the reason why it is not written to, if that is all there is to
/// report about it.
pub type InspectPartition<'l> = &'l dyn Fn(&Partition) -> Result<TreeKind, StorageError>;

/// The root partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The partition. It is inside the image, and has a file system that the back end writes.
    pub partition: Partition,
    /// The kind of its file system.
    pub kind: ContentKind,
    /// The reason for the choice.
    pub reason: Reason,
    /// True for a file system that is the whole image, was not named by the user, and does not look like a root.
    pub doubtful: bool,
}

/// Chooses the root: `asked` (a partition's number, a file system's label, or a GPT name) if given, otherwise by label,
/// by `/nix/store`, by its type, or because there is no other. `inspect` is called only for file systems that `backend`
/// writes and that are inside the image. `name` is the image's, for messages.
///
/// # Errors
/// `Refused` if there is none, or more than one, with a list of the partitions, or if the chosen one does not look like
/// a root; `Corrupt` if it is not completely in the image; `Unsupported` if `backend` does not write its kind; the
/// error of `inspect`.
pub fn choose(
    table: &Table,
    asked: Option<&str>,
    backend: Backend,
    inspect: InspectPartition<'_>,
    name: &str,
) -> Result<Root, StorageError> {
    let (partition, reason, tree) = match asked {
        Some(asked) => (by_name(table, asked, name)?, Reason::Asked, Ok(TreeKind::Unknown)),
        None => by_rules(table, backend, inspect, name)?,
    };
    if let Some(problem) = &partition.problem {
        return Err(StorageError::corrupt(format!("{name}: {} cannot be used: {problem}", partition.title())));
    }
    match &partition.file_system {
        Some(probe) if backend.writes(probe.kind) => {
            let is_checked = matches!(reason, Reason::Type | Reason::Only);
            let doubtful = is_checked && tree? == TreeKind::Other;
            if doubtful && table.kind != TableKind::None {
                return Err(StorageError::refused(
                    format!(
                        "{name}: {} ({reason}) does not look like a root: it has neither /nix/store, nor /etc with \
                         /usr or /bin\n{}",
                        partition.title(),
                        list(table)
                    ),
                    Remedy::ConfirmRoot { number: partition.number },
                ));
            }
            if reason != Reason::Asked {
                unwritable::refuse_verity(table, partition, name)?;
            }
            Ok(Root { partition: partition.clone(), kind: probe.kind, reason, doubtful })
        }
        Some(probe) => Err(StorageError::unsupported(
            format!("{name}: the root is {}, and {} cannot be written", partition.title(), probe.kind.name()),
            unwritable::hint(probe.kind),
        )),
        None => Err(StorageError::refused(
            format!("{name}: {} holds no file system that is known", partition.title()),
            hint(table),
        )),
    }
}

/// The partition that the user named.
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
            Remedy::NameRootByNumber,
        )),
    }
}

/// The partition chosen by the rules, the reason, and its kind of tree if it was inspected.
#[allow(clippy::type_complexity)] // One caller, which takes it apart.
fn by_rules<'a>(
    table: &'a Table,
    backend: Backend,
    inspect: InspectPartition<'_>,
    name: &str,
) -> Result<(&'a Partition, Reason, Result<TreeKind, StorageError>), StorageError> {
    let whole = table.kind == TableKind::None;
    // Unknown content counts: an unrecognised root must not make another partition "the only one".
    let candidates: Vec<&Partition> =
        table.partitions.iter().filter(|p| p.may_be_root() && !(whole && p.file_system.is_none())).collect();
    let has_label = |p: &Partition| {
        let label = p.file_system.as_ref().and_then(|fs| fs.label.as_deref());
        label.is_some_and(|label| LABELS.contains(&label))
    };
    let labelled: Vec<&Partition> = candidates.iter().copied().filter(|p| has_label(p)).collect();
    match labelled[..] {
        [one] => return Ok((one, Reason::Label, Ok(TreeKind::Unknown))),
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
        if writes && p.problem.is_none() { inspect(p) } else { Ok(TreeKind::Unknown) }
    };
    let mut inspected: Vec<(&Partition, Result<TreeKind, StorageError>)> =
        candidates.iter().map(|partition| (*partition, read(partition))).collect();
    // One that may be the root: then what is mounted at /nix is not.
    let may_be_root = |tree: &Result<TreeKind, StorageError>| !matches!(tree, Ok(TreeKind::BelowNix | TreeKind::Other));
    let is_beside_a_root = inspected.iter().any(|(_, tree)| may_be_root(tree));
    let mut only = |is: &dyn Fn(&Partition, &Result<TreeKind, StorageError>) -> bool| {
        let mut found = (0..inspected.len()).filter(|place| is(inspected[*place].0, &inspected[*place].1));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(inspected.swap_remove(one)),
            (None, _) => Err(0),
            (Some(_), Some(_)) => Err(found.count() + 2),
        }
    };
    match only(&|_, tree| matches!(tree, Ok(TreeKind::Store))) {
        Ok((one, tree)) => return Ok((one, Reason::Store, tree)),
        Err(0) => {}
        Err(stores) => {
            return Err(StorageError::refused(
                format!("{name}: {stores} partitions hold /nix/store\n{}", list(table)),
                hint(table),
            ));
        }
    }
    // None of that type, or several: then all candidates count.
    if let Ok((one, tree)) = only(&|p, _| p.is_typed_root()) {
        return Ok((one, Reason::Type, tree));
    }
    if !is_beside_a_root && let Ok((one, tree)) = only(&|_, tree| matches!(tree, Ok(TreeKind::BelowNix))) {
        return Ok((one, Reason::Store, tree));
    }
    match only(&|_, _| true) {
        Ok((one, tree)) => Ok((one, Reason::Only, tree)),
        Err(0) => Err(StorageError::refused(
            format!("{name}: no root found: no Linux file system\n{}", list(table)),
            "is this the image of a NixOS system? (if a partition is encrypted or damaged, nothing can be told of it)",
        )),
        Err(all) => Err(StorageError::refused(
            format!(
                "{name}: no root found: {all} partitions may hold it, none of them with a label of NixOS, with \
                 /nix/store, or alone with the type of a root\n{}",
                list(table)
            ),
            match candidates.iter().any(|p| needs_mount(p)) && backend == Backend::Native {
                true => Remedy::InspectByKernel { otherwise: Box::new(hint(table)) }.into(),
                false => hint(table),
            },
        )),
    }
}

/// True for a file system that only the mount back end writes.
fn needs_mount(partition: &Partition) -> bool {
    let kind = partition.file_system.as_ref().map(|fs| fs.kind);
    kind.and_then(Backend::of).is_some_and(|needed| needed != Backend::Native)
}

/// The partitions of the image, one per line.
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
    // A hostile table may have a thousand entries, and the message must stay readable.
    const MOST: usize = 32;
    let mut lines: Vec<String> = table.partitions.iter().take(MOST).map(line).collect();
    if let Some(more) = table.partitions.len().checked_sub(MOST).filter(|more| *more > 0) {
        lines.push(format!("  … and {more} more"));
    }
    lines.join("\n")
}

fn hint(table: &Table) -> Hint {
    match table.kind {
        TableKind::None => "the image has no partition table: all of it would have to be one ext4".into(),
        TableKind::Gpt | TableKind::Mbr => Remedy::NameRoot.into(),
    }
}

/// The user's input, safe for a terminal.
fn printable(asked: &str) -> String {
    text::shown_text(asked).unwrap_or_default()
}

#[cfg(test)]
mod tests;
