//! The sum of a run over hosts.

use std::time::Duration;

use deaddrop_core::text;
use serde_json::{Value, json};

use super::{HostReport, RunKind, status_name};
use crate::rotate::HostStatus;

/// The number of hosts with each result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// All of them.
    pub hosts: usize,
    /// Changed; in a run that writes nothing: that differ.
    pub done: usize,
    /// Nothing to do.
    pub unchanged: usize,
    /// Failed.
    pub failed: usize,
    /// Failed, with the old files restored.
    pub rolled_back: usize,
    /// Not connected.
    pub unreachable: usize,
    /// Not started.
    pub skipped: usize,
    /// Files were changed, and the result is failed or unknown.
    pub changed_and_failed: usize,
}

impl HostCounts {
    /// Of all rows.
    #[must_use]
    pub fn of(rows: &[HostReport]) -> Self {
        let count = |status| rows.iter().filter(|row| row.status == status).count();
        Self {
            hosts: rows.len(),
            done: count(HostStatus::Done),
            unchanged: count(HostStatus::Unchanged),
            failed: count(HostStatus::Failed),
            rolled_back: count(HostStatus::RolledBack),
            unreachable: count(HostStatus::Unreachable),
            skipped: count(HostStatus::Skipped),
            changed_and_failed: rows
                .iter()
                .filter(|row| row.changed_anything && row.status != HostStatus::Done)
                .count(),
        }
    }

    /// True if every host is as declared.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.done.saturating_add(self.unchanged) == self.hosts
    }

    /// The closing line: "2 of 3 hosts done, 1 failed and was rolled back".
    #[must_use]
    pub fn line(&self, kind: RunKind, elapsed: Duration) -> String {
        let good = self.done.saturating_add(self.unchanged);
        let plural = if self.hosts == 1 { "" } else { "s" };
        let mut parts = match kind {
            RunKind::Rotate if good == self.hosts && self.done > 0 && self.unchanged > 0 => {
                vec![format!(
                    "{good} of {} host{plural} done: {} changed, {} unchanged",
                    self.hosts, self.done, self.unchanged
                )]
            }
            RunKind::Rotate => vec![format!("{good} of {} host{plural} done", self.hosts)],
            RunKind::Inject => vec![format!("{good} of {} image{plural} done", self.hosts)],
            RunKind::DryRun | RunKind::Plan => {
                vec![format!("{} of {} host{plural} to change", self.done, self.hosts)]
            }
            RunKind::Verify => vec![format!("{} of {} host{plural} as declared", self.unchanged, self.hosts)],
        };
        if kind == RunKind::Verify && self.done > 0 {
            parts.push(format!("{} not", self.done));
        }
        let was = |count: usize| if count == 1 { "was" } else { "were" };
        for (count, result) in [
            (self.failed, "failed".to_owned()),
            (self.rolled_back, format!("failed and {} rolled back", was(self.rolled_back))),
            (self.unreachable, "unreachable".to_owned()),
            (self.skipped, "not begun".to_owned()),
        ] {
            if count > 0 {
                parts.push(format!("{count} {result}"));
            }
        }
        let nothing = if kind == RunKind::DryRun || kind == RunKind::Plan { ". Nothing was written." } else { "" };
        format!("{} ({}){nothing}", parts.join(", "), text::duration(elapsed))
    }

    pub(super) fn json(&self, kind: RunKind) -> Value {
        let done = status_name(HostStatus::Done, kind);
        json!({
            done: self.done,
            HostStatus::Unchanged.name(): self.unchanged,
            HostStatus::Failed.name(): self.failed,
            HostStatus::RolledBack.name(): self.rolled_back,
            HostStatus::Unreachable.name(): self.unreachable,
            HostStatus::Skipped.name(): self.skipped,
        })
    }
}
