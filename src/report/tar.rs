//! `inspect` of a root file system in a tar.

use deaddrop_core::text::size;
use deaddrop_image::open::disk::Layer;
use serde_json::{Value, json};

use super::inspect::{nixos_json, nixos_text};
use crate::nixos::closure::Found;

/// The results of `inspect`.
pub struct TarInspection<'a> {
    /// The tar as on the command line.
    pub name: &'a str,
    /// Outermost first; the last one is the tar.
    pub layers: &'a [Layer],
    /// Number of entries.
    pub entries: u64,
    /// The form of the headers.
    pub form: &'static str,
    /// The NixOS in it.
    pub nixos: Found,
}

impl TarInspection<'_> {
    /// The object of `--json`: that of an image, without a disk.
    #[must_use]
    pub fn json(&self) -> Value {
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| json!({ "kind": layer.kind, "size": layer.size })).collect();
        json!({
            "version": 1,
            "command": "inspect",
            "target": self.name,
            "container": {
                "kind": self.layers.first().map_or("tar", |layer| layer.kind),
                "file_size": self.file_size(),
                "size": self.size(),
            },
            "layers": layers,
            "table": null,
            "partitions": [],
            "root": { "partition": null, "reason": "a tar of a root", "backend": "native" },
            "root_problem": null,
            "ext4": null,
            "tar": { "form": self.form, "entries": self.entries },
            "nixos": nixos_json(&self.nixos),
        })
    }

    /// The text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let kinds: Vec<&str> = self.layers.iter().map(|layer| layer.kind).collect();
        let text = format!(
            "{}    {} of a root file system, {} ({} in the file), {} headers, {} entries\n",
            self.name,
            kinds.join(" → "),
            size(self.size()),
            size(self.file_size()),
            self.form,
            self.entries,
        );
        format!("{text}{}", nixos_text(&self.nixos)).trim_end_matches('\n').to_owned()
    }

    fn size(&self) -> u64 {
        self.layers.last().map_or(0, |layer| layer.size)
    }

    fn file_size(&self) -> u64 {
        self.layers.first().map_or(0, |layer| layer.size)
    }
}
