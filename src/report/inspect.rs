//! `inspect`: container, table, partitions, file systems, and which one is the root.

use std::fmt::Write;

use deaddrop_core::error::StorageError;
use deaddrop_core::text::size;
use deaddrop_core::tree::walk;
use deaddrop_image::ext4::{JournalState, Summary};
use deaddrop_image::journal::replay::Pending;
use deaddrop_image::open::disk::Layer;
use deaddrop_image::table::Partition;
use deaddrop_image::table::root::Backend;
use serde_json::{Value, json};

use crate::nixos::closure::Found;
use crate::run::remedy;
use crate::run::style::{self, paint};

/// The results of `inspect`.
pub struct Inspection<'a> {
    /// The image as on the command line.
    pub name: &'a str,
    /// Outermost first; the last one is the raw disk.
    pub layers: &'a [Layer],
    /// Size of the file, in bytes.
    pub file_size: u64,
    /// Size of the disk, in bytes.
    pub disk_size: u64,
    /// The partition table.
    pub table: &'a deaddrop_image::table::Table,
    /// The root and the reason for the choice; or why there is none, and a hint.
    pub root: Result<(Partition, String), (String, String)>,
    /// The root's ext2, ext3 or ext4, and `Ok` if it can be written.
    pub ext4: Option<(Summary, Result<(), StorageError>)>,
    /// The NixOS in it; none if the root is not ext.
    pub nixos: Found,
}

impl Inspection<'_> {
    /// The object of `--json`.
    #[must_use]
    pub fn json(&self) -> Value {
        let partitions: Vec<Value> = self
            .table
            .partitions
            .iter()
            .map(|partition| {
                let mut entry = json!(partition);
                entry["root"] = json!(self.is_root(partition));
                entry
            })
            .collect();
        let root = self
            .root
            .as_ref()
            .ok()
            .map(|(partition, reason)| {
                json!({ "partition": partition.number, "reason": reason, "backend": backend(partition) })
            });
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| json!({ "kind": layer.kind, "size": layer.size })).collect();
        json!({
            "version": 1,
            "command": "inspect",
            "target": self.name,
            "container": {
                "kind": self.layers.first().map_or("raw", |layer| layer.kind),
                "file_size": self.file_size,
                "size": self.disk_size,
            },
            "layers": layers,
            "table": {
                "kind": self.table.kind,
                "sector_size": self.table.sector_size,
                "id": self.table.id,
                "notes": self.table.notes,
            },
            "partitions": partitions,
            "root": root,
            "root_problem": self.root.as_ref().err().map(|(reason, _)| reason),
            "ext4": self.ext4.as_ref().map(|(summary, writable)| ext4_json(summary, writable)),
            "tar": null,
            "nixos": nixos_json(&self.nixos),
        })
    }

    /// The table for people; `with_ids` adds the long fields (types, UUIDs). In a terminal of few `columns` the
    /// partitions' names are omitted.
    #[must_use]
    pub fn text(&self, with_ids: bool, columns: Option<usize>) -> String {
        let kinds: Vec<&str> = self.layers.iter().map(|layer| layer.kind).collect();
        let packed = format!("{} disk image", kinds.join(" → "));
        let mut text = format!(
            "{}    {packed}, {} ({} in the file), {}, {}-byte sectors\n\n",
            self.name,
            size(self.disk_size),
            size(self.file_size),
            self.table.kind.name(),
            self.table.sector_size,
        );
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(self.table.partitions.iter().map(row));
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let reason = self.root.as_ref().map_or(0, |(_, reason)| reason.chars().count().saturating_add(8));
        let all = widths.iter().fold(reason, |sum, width| sum.saturating_add(width.saturating_add(2)));
        let is_narrow = columns.is_some_and(|columns| all > columns);
        let notes = std::iter::once(None).chain(self.table.partitions.iter().map(Some));
        for (cells, partition) in rows.iter().zip(notes) {
            let is_root = partition.is_some_and(|partition| self.is_root(partition));
            let mut line = String::from(if is_root { "→" } else { " " });
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                // A column that is empty for every partition is omitted.
                let is_omitted = is_narrow && COLUMNS[column] == "NAME";
                if !is_omitted && rows.iter().skip(1).any(|row| !row[column].is_empty()) {
                    let _ = write!(line, " {cell:<width$} ");
                }
            }
            if let (true, Ok((_, reason))) = (is_root, &self.root) {
                let _ = write!(line, "  root: {reason}");
            }
            if let Some(problem) = partition.and_then(|partition| partition.problem.as_ref()) {
                let _ = write!(line, "  {problem}");
            }
            let line = line.trim_end();
            let _ = writeln!(text, "{}", if is_root { paint(style::CREATE, line) } else { line.to_owned() });
        }
        if with_ids {
            text.push_str(&self.ids());
        }
        for note in &self.table.notes {
            let _ = write!(text, "\n{}", paint(style::WARNING, note));
        }
        match (&self.root, &self.ext4) {
            (Err((reason, hint)), _) => {
                let _ = write!(text, "\nno root: {reason}");
                if !hint.is_empty() {
                    let _ = write!(text, "\n{} {hint}", paint(style::HINT, "hint:"));
                }
            }
            (Ok(_), Some((summary, writable))) => text.push_str(&ext4_text(summary, writable)),
            (Ok((partition, _)), None) => {
                if let (Some(probe), Some(Backend::Mount)) = (&partition.file_system, backend(partition)) {
                    let _ = write!(
                        text,
                        "\n{}: written by the kernel: --backend mount (Linux, as root; for an image that you trust)",
                        probe.kind.name()
                    );
                }
            }
        }
        text.push_str(&nixos_text(&self.nixos));
        text.trim_end_matches('\n').to_owned()
    }

    /// The long fields, which would make the table too wide: one line per partition.
    fn ids(&self) -> String {
        let mut text = format!("\ndisk {}\n", self.table.id.as_deref().unwrap_or("without an id"));
        for partition in &self.table.partitions {
            let mut fields = Vec::new();
            fields.extend(partition.type_id.as_ref().map(|id| format!("type {id}")));
            fields.extend(partition.uuid.as_ref().map(|id| format!("PARTUUID {id}")));
            let uuid = partition.file_system.as_ref().and_then(|probe| probe.uuid.as_ref());
            fields.extend(uuid.map(|id| format!("UUID {id}")));
            let number = partition.number.map_or("-".into(), |number| number.to_string());
            let _ = writeln!(text, "  {number}  {}", fields.join(", "));
        }
        text
    }

    fn is_root(&self, partition: &Partition) -> bool {
        self.root.as_ref().is_ok_and(|(root, _)| root.start == partition.start && root.number == partition.number)
    }
}

/// The back end that can write the partition's file system.
fn backend(partition: &Partition) -> Option<Backend> {
    partition.file_system.as_ref().and_then(|probe| Backend::of(probe.kind))
}

/// The table's columns. `*` follows the number of a partition that is marked as bootable.
const COLUMNS: [&str; 8] = ["PART", "START", "SIZE", "TYPE", "FILE SYSTEM", "LABEL", "NAME", "USED"];

fn row(partition: &Partition) -> [String; 8] {
    let file_system = partition.file_system.as_ref();
    let used = file_system.and_then(|probe| {
        let percent = u128::from(probe.used?).checked_mul(100)?.checked_div(u128::from(probe.size?))?;
        Some(format!("{percent} %"))
    });
    [
        format!(
            "{}{}",
            partition.number.map_or("-".into(), |number| number.to_string()),
            if partition.bootable { "*" } else { "" }
        ),
        size(partition.start),
        size(partition.size),
        partition.type_name.map(str::to_owned).or_else(|| partition.type_id.clone()).unwrap_or_default(),
        file_system.map_or("-".into(), |probe| probe.kind.name().to_owned()),
        file_system.and_then(|probe| probe.label.clone()).unwrap_or_default(),
        partition.name.clone().unwrap_or_default(),
        used.unwrap_or_default(),
    ]
}

/// The root's file system on two lines: its properties, and whether it can be written.
fn ext4_text(summary: &Summary, writable: &Result<(), StorageError>) -> String {
    let notable =
        ["metadata_csum", "64bit", "orphan_file", "inline_data", "meta_bg", "bigalloc", "encrypt", "casefold"];
    let features: Vec<&str> =
        notable.into_iter().filter(|name| summary.features.iter().any(|has| has == name)).collect();
    let features = if features.is_empty() { String::new() } else { format!(", {}", features.join(", ")) };
    let mut text =
        format!("\n{}: {} blocks{features}; {}", summary.kind, size(summary.block_size), journal_text(summary));
    match writable {
        Ok(()) => text.push_str("; written natively"),
        Err(error) => {
            let _ = write!(text, "\n{} {error}", paint(style::WARNING, "not written to:"));
            let hint = remedy::hint(error);
            if !hint.is_empty() {
                let _ = write!(text, "\n{} {hint}", paint(style::HINT, "hint:"));
            }
        }
    }
    text
}

/// The system's name and generation.
pub(super) fn nixos_json(nixos: &Found) -> Value {
    match nixos {
        Found::System(closure) => json!({ "name": closure.name, "generation": closure.generation }),
        Found::None | Found::Unreadable(_) => Value::Null,
    }
}

/// The system's name and generation on one line; what is not NixOS has none.
pub(super) fn nixos_text(nixos: &Found) -> String {
    match nixos {
        Found::None => String::new(),
        Found::Unreadable(why) => format!("\n{} {why}", paint(style::WARNING, "NixOS, not read:")),
        Found::System(closure) => {
            let generation = closure.generation.map_or(String::new(), |number| format!(", generation {number}"));
            format!("\nNixOS: {}{generation}", walk::shown(&closure.name))
        }
    }
}

fn journal_text(summary: &Summary) -> String {
    let sized = |bytes: Option<u64>| bytes.map_or("journal".to_owned(), |bytes| format!("journal {}", size(bytes)));
    match (summary.journal, summary.pending.map(pending_text)) {
        (JournalState::None, _) => "no journal".to_owned(),
        (JournalState::External, _) => "journal on another device".to_owned(),
        (JournalState::Clean { size }, None) => format!("{}, clean", sized(size)),
        (JournalState::NeedsRecovery { size }, None) => format!("{}, to be replayed", sized(size)),
        // A pending transaction contradicts the mark "clean": one of the two is wrong.
        (JournalState::Clean { size }, Some(pending)) => format!("{}, not replayed ({pending})", sized(size)),
        (JournalState::NeedsRecovery { size }, Some(pending)) => format!("{}, to be replayed ({pending})", sized(size)),
    }
}

/// The number of pending transactions and fast commits.
fn pending_text(pending: Pending) -> String {
    let counted = |count: u32, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (pending.transactions, pending.fast_commits) {
        (0, None) => "nothing to replay".to_owned(),
        (transactions, None) => counted(transactions, "transaction"),
        (transactions, Some(0)) => format!("{}, part of a fast commit", counted(transactions, "transaction")),
        (transactions, Some(fast)) => {
            format!("{}, {}", counted(transactions, "transaction"), counted(fast, "fast commit"))
        }
    }
}

fn ext4_json(summary: &Summary, writable: &Result<(), StorageError>) -> Value {
    let (journal, journal_size) = match summary.journal {
        JournalState::None => ("none", None),
        JournalState::External => ("external", None),
        JournalState::Clean { size } => ("clean", size),
        JournalState::NeedsRecovery { size } => ("needs-recovery", size),
    };
    json!({
        "kind": summary.kind,
        "block_size": summary.block_size,
        "blocks": summary.blocks,
        "free_blocks": summary.free_blocks,
        "inodes": summary.inodes,
        "free_inodes": summary.free_inodes,
        "features": summary.features,
        "journal": {
            "state": journal,
            "size": journal_size,
            "transactions": summary.pending.map(|pending| pending.transactions),
            "fast_commits": summary.pending.map(|pending| pending.fast_commits.unwrap_or(0)),
            "fast_commit_cut_off": summary.pending.map(|pending| pending.fast_commits == Some(0)),
        },
        "clean": summary.clean,
        "writable": writable.is_ok(),
        "problem": writable.as_ref().err().map(ToString::to_string),
    })
}
