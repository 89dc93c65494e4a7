//! The rules about places on a running node: NX007, NX008, NX103, NX104.

use super::{Etc, Finding, Places, UPPER, read_only_etc};

impl Places<'_> {
    /// What of these rules holds on the running system for a file that is declared at `declared` and written to `path`:
    /// its mounts stand, so that only what happens at a boot is left.
    #[must_use]
    pub fn judge_running(&self, declared: &str, path: &str, by_activation: bool) -> Vec<Finding> {
        let below_etc = path.strip_prefix("/etc/");
        let mut findings = Vec::new();
        match (below_etc, self.closure.etc) {
            (Some(_), Etc::OverlayImmutable | Etc::Confext { kept: false }) => findings.push(read_only_etc(declared)),
            (Some(below), Etc::OverlayMutable) => {
                self.resolve(&format!("{UPPER}/{below}"), declared, &mut findings);
            }
            _ => {
                self.resolve(path, declared, &mut findings);
            }
        }
        findings.retain(|finding| finding.code != "NX006");
        for finding in &mut findings {
            finding.reason = finding.reason.replace("the first boot", "the next boot");
        }
        let is_refused = !findings.is_empty();
        if by_activation {
            findings.extend(self.too_late(declared, path));
        }
        if !is_refused && self.persist_root.is_none() {
            findings.extend(self.rolled_back(declared, path));
        }
        findings
    }
}
