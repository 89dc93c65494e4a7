//! Which partition is the root: as the design says, and why it was that one.
//!
//! Called with a table that is read, by `inspect` and by every command that opens the root. Whether a file system
//! holds `/nix/store` is answered by the caller, who has the readers.

use std::fmt;

use serde::Serialize;

use super::error::ImageError;
use super::probe::Kind;
use super::table::{Partition, Table, TableKind};
use super::text;

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
    pub fn writes(self, kind: Kind) -> bool {
        kind.is_ext() || self == Self::Mount && matches!(kind, Kind::Btrfs | Kind::Xfs)
    }

    /// The one that a file system needs; none when nobody writes it.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
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
    /// No other is a Linux file system.
    Only,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "chosen by --root-partition",
            Self::Label => "chosen by its label",
            Self::Store => "the only one that holds /nix/store",
            Self::Only => "the only Linux file system",
        })
    }
}

/// The partition that is the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The partition. It lies in the image, and holds a file system that the back end writes.
    pub partition: Partition,
    /// Which one.
    pub kind: Kind,
    /// Why this one.
    pub reason: Reason,
}

/// Chooses the root: `asked` (a partition's number, a file system's label, or a GPT name) if given, else by label,
/// by `/nix/store`, or because there is no other. `holds_store` is asked only about file systems that `backend` writes
/// and that lie in the image. `name` is the image's, for messages.
///
/// # Errors
/// `Refused` when there is none, or more than one, with a list of what there is; `Corrupt` when the one is not wholly
/// in the image; `Unsupported` when it is of a kind that `backend` does not write.
pub fn choose(
    table: &Table,
    asked: Option<&str>,
    backend: Backend,
    holds_store: &dyn Fn(&Partition) -> bool,
    name: &str,
) -> Result<Root, ImageError> {
    let (partition, reason) = match asked {
        Some(asked) => (by_name(table, asked, name)?, Reason::Asked),
        None => by_itself(table, backend, holds_store, name)?,
    };
    if let Some(problem) = &partition.problem {
        return Err(ImageError::corrupt(format!("{name}: {} cannot be used: {problem}", partition.title())));
    }
    match &partition.file_system {
        Some(probe) if backend.writes(probe.kind) => {
            Ok(Root { partition: partition.clone(), kind: probe.kind, reason })
        }
        Some(probe) => Err(ImageError::unsupported(
            format!("{name}: the root is {}, and {} cannot be written", partition.title(), probe.kind.name()),
            way_out(probe.kind),
        )),
        None => Err(ImageError::refused(
            format!("{name}: {} holds no file system that is known", partition.title()),
            hint(table),
        )),
    }
}

/// The partition that a person named.
fn by_name<'a>(table: &'a Table, asked: &str, name: &str) -> Result<&'a Partition, ImageError> {
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
        [] => Err(ImageError::refused(
            format!("{name}: there is no partition `{}`\n{}", printable(asked), list(table)),
            hint(table),
        )),
        _ => Err(ImageError::refused(
            format!("{name}: {} partitions are called `{}`\n{}", found.len(), printable(asked), list(table)),
            "name it by its number: --root-partition N",
        )),
    }
}

/// The partition that stands out.
fn by_itself<'a>(
    table: &'a Table,
    backend: Backend,
    holds_store: &dyn Fn(&Partition) -> bool,
    name: &str,
) -> Result<(&'a Partition, Reason), ImageError> {
    let linux: Vec<(&Partition, Kind, Option<&str>)> = table
        .partitions
        .iter()
        .filter_map(|p| p.file_system.as_ref().map(|fs| (p, fs.kind, fs.label.as_deref())))
        .filter(|(_, kind, _)| kind.can_hold_root())
        .collect();
    let labelled: Vec<&Partition> =
        linux.iter().filter(|(.., label)| label.is_some_and(|label| LABELS.contains(&label))).map(|c| c.0).collect();
    match labelled[..] {
        [one] => return Ok((one, Reason::Label)),
        [] => {}
        _ => {
            return Err(ImageError::refused(
                format!("{name}: {} partitions have the label of a NixOS root\n{}", labelled.len(), list(table)),
                hint(table),
            ));
        }
    }
    let stores: Vec<&Partition> = linux
        .iter()
        .filter(|(p, kind, _)| backend.writes(*kind) && p.problem.is_none() && holds_store(p))
        .map(|candidate| candidate.0)
        .collect();
    match (&stores[..], &linux[..]) {
        ([one], _) => Ok((one, Reason::Store)),
        ([], [(one, ..)]) => Ok((one, Reason::Only)),
        ([], []) => Err(ImageError::refused(
            format!("{name}: no root found: no Linux file system\n{}", list(table)),
            "is this the image of a NixOS system? (if a partition is encrypted or damaged, nothing can be told of it)",
        )),
        ([], _) => Err(ImageError::refused(
            format!(
                "{name}: no root found: {} Linux file systems, none of them with a label of NixOS or with /nix/store\n{}",
                linux.len(),
                list(table)
            ),
            match linux.iter().any(|(_, kind, _)| Backend::of(*kind).is_some_and(|needed| needed != Backend::Native)) {
                true if backend == Backend::Native => {
                    format!("{}; `--backend mount` (root) looks into btrfs and xfs", hint(table))
                }
                _ => hint(table),
            },
        )),
        _ => Err(ImageError::refused(
            format!("{name}: {} partitions hold /nix/store\n{}", stores.len(), list(table)),
            hint(table),
        )),
    }
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
fn way_out(kind: Kind) -> &'static str {
    match kind {
        Kind::Luks => {
            "it is encrypted, and would have to be unlocked first: build the image unencrypted, or put the secrets in when it runs"
        }
        Kind::Zfs => "no Linux kernel writes ZFS without its module: put the secrets in when the system runs",
        Kind::Squashfs | Kind::Erofs => "it is read-only by design: build an image whose root is ext4",
        Kind::Lvm | Kind::Raid => {
            "the file system lies in a layer that has to be put together first: build an image whose root is a partition"
        }
        Kind::Btrfs | Kind::Xfs => {
            "`deaddrop inject --backend mount` lets the kernel write it (Linux, as root, and only for an image that you trust)"
        }
        _ => "build the image with an ext4 root, or mount it and inject into the directory",
    }
}

#[cfg(test)]
mod tests;
