//! Checks sections and keys, in the common syntax of wg-quick(8), systemd.syntax(7), NetworkManager's keyfiles,
//! nix.conf(5) and AWS's credentials: a line is `[SECTION]`, `KEY = VALUE`, empty, or a comment that starts with `#` or
//! `;`. Keys may precede the first section, and be repeated. Values are not checked, because each program has its own
//! syntax.

use super::{SyntaxFault, fault_at};

/// Checks every line.
pub(super) fn check(text: &str) -> Result<(), SyntaxFault> {
    let mut start: usize = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let trimmed = content.trim_start_matches([' ', '\t']);
        let indent = content.len().saturating_sub(trimmed.len());
        let fault = |offset: usize, what| {
            Err(fault_at(
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
