//! Parses PEM: blocks of base64 between `-----BEGIN LABEL-----` and `-----END LABEL-----` (RFC 7468), with the headers
//! of older keys (RFC 1421). Text outside of blocks is explanatory, and ignored.

use deaddrop_core::secret::Secret;

use super::kinds::WrongKind;
use crate::derive::encoding;

/// One block.
pub(super) struct Block<'t> {
    /// The label after BEGIN.
    pub label: &'t str,
    /// The decoded base64.
    pub bytes: Secret,
    /// True if the headers contain `Proc-Type: 4,ENCRYPTED`.
    pub is_encrypted: bool,
}

/// All blocks of a text; at least one.
///
/// # Errors
/// The fault, without any of the text.
pub(super) fn blocks(text: &str) -> Result<Vec<Block<'_>>, WrongKind> {
    if is_on_one_line(text) {
        return Err(ONE_LINE);
    }
    let mut blocks = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        let line = line.trim_end();
        match (boundary(line, "BEGIN"), boundary(line, "END"), &mut open) {
            (Some(label), _, None) => open = Some((label, Vec::new())),
            (Some(_), _, Some(_)) => return Err("a block begins inside another one".into()),
            (_, Some(label), Some((begun, _))) if label != *begun => {
                return Err("a block ends as another one than it began".into());
            }
            (_, Some(_), Some((label, lines))) => {
                blocks.push(block(label, lines)?);
                open = None;
            }
            (_, Some(_), None) => return Err("a block ends that did not begin".into()),
            (None, None, Some((_, lines))) => lines.push(line),
            (None, None, None) => {}
        }
    }
    match (open, blocks.is_empty()) {
        (Some(_), _) => Err("a block begins and never ends".into()),
        (None, true) => Err("it has no line `-----BEGIN …-----`".into()),
        (None, false) => Ok(blocks),
    }
}

/// The fault of a block that was pasted into a field of one line.
const ONE_LINE: WrongKind = WrongKind {
    reason: "it is on one line, and its line breaks are lost",
    hint: "store it again with its line breaks: in a note, an attachment or a file, because a password field holds one \
           line; or store the output of `base64 -w0 FILE`, and add `encoding: base64`",
};

/// True if a block begins and ends on the same line, also with its line breaks written as `\n`.
fn is_on_one_line(text: &str) -> bool {
    text.lines().any(|line| line.contains("-----BEGIN ") && line.contains("-----END "))
}

fn boundary<'t>(line: &'t str, word: &str) -> Option<&'t str> {
    line.strip_prefix("-----")?.strip_prefix(word)?.strip_prefix(' ')?.strip_suffix("-----")
}

fn block<'t>(label: &'t str, lines: &[&str]) -> Result<Block<'t>, &'static str> {
    // Headers end at the first empty line.
    let (headers, body) = match lines.iter().position(|line| line.is_empty()) {
        Some(at) if lines[..at].iter().any(|line| line.contains(':')) => lines.split_at(at),
        _ => (&[][..], lines),
    };
    let is_encrypted = headers.iter().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"));
    let mut letters = zeroize::Zeroizing::new(Vec::with_capacity(body.iter().map(|line| line.len()).sum()));
    body.iter().for_each(|line| letters.extend(line.bytes().filter(|byte| !byte.is_ascii_whitespace())));
    match encoding::base64(&letters) {
        Ok(bytes) if !bytes.is_empty() => Ok(Block { label, bytes, is_encrypted }),
        Ok(_) => Err("a block is empty"),
        Err(_) => Err("a block is not base64"),
    }
}
