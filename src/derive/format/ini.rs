//! Sections and keys, as wg-quick(8), systemd.syntax(7), keyfiles of NetworkManager, nix.conf(5) and AWS's credentials have
//! them: a line is `[SECTION]`, `KEY = VALUE`, empty, or a comment that begins with `#` or `;`. Keys may stand before the first
//! section, and twice. What a value is, each program knows for itself.

use super::{Fault, at};

/// Whether every line is one of these.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    let mut start: usize = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let trimmed = content.trim_start_matches([' ', '\t']);
        let indent = content.len().saturating_sub(trimmed.len());
        let fault = |offset: usize, what| {
            Err(at(
                text,
                start.saturating_add(indent).saturating_add(offset),
                what,
                "a line is [SECTION], KEY = VALUE, or a comment",
            ))
        };
        if let Some(nul) = trimmed.find('\0') {
            return fault(nul, "a NUL byte");
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let Some(end) = rest.find(']') else { return fault(0, "a section's name is never closed") };
            if rest[..end].trim().is_empty() {
                return fault(0, "a section has no name");
            }
            let after = rest[end..].trim_start_matches(']').trim_start_matches([' ', '\t']);
            if !after.is_empty() {
                return fault(trimmed.len().saturating_sub(after.len()), "something stands after a section's name");
            }
        } else if !trimmed.is_empty() && !trimmed.starts_with(['#', ';']) {
            match trimmed.split_once('=') {
                None => return fault(0, "neither a section, a key with `=`, nor a comment"),
                Some((key, _)) if key.trim().is_empty() => return fault(0, "there is no key before the `=`"),
                Some(_) => {}
            }
        }
        start = start.saturating_add(line.len());
    }
    Ok(())
}
