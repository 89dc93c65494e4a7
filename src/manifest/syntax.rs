//! Syntax errors of YAML: the parser's errors with our messages.

use granit_parser::{ErrorKind, ScanError};

use super::problem::{Mark, Problems};
use super::{indent, veil};

/// Reports a syntax error.
pub(super) fn report(text: &str, error: &ScanError, problems: &mut Problems) {
    let marker = error.marker();
    let byte = marker.byte_offset().unwrap_or(0);
    let mark = Mark::at(byte, marker.line(), marker.col().saturating_add(1));
    let (message, hint) = message_and_hint(error.kind());
    let (mark, message, hint) = match indented(text, byte, error.kind()) {
        Some((mark, message)) => (mark, message.to_owned(), Some(indent::hint())),
        None => (mark, message, hint),
    };
    if let Some(mark) = veil::guess(text, byte) {
        problems.veil(mark);
    }
    problems.push(mark, message, hint.map(str::to_owned));
}

/// The place and the message, if the error may come from a line's indentation.
fn indented(text: &str, byte: usize, kind: &ErrorKind) -> Option<(Mark, &'static str)> {
    match kind {
        ErrorKind::MappingValueNotAllowed => indent::guess(text, byte, true),
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::ExpectedDocumentStart
        | ErrorKind::InvalidIndentation => indent::guess(text, byte, false),
        _ => None,
    }
}

/// The message for a syntax error, with a hint for the most frequent mistakes.
fn message_and_hint(kind: &ErrorKind) -> (String, Option<&'static str>) {
    match kind {
        ErrorKind::MappingValueNotAllowed => (
            "a second `: ` in one value".into(),
            Some("put the value in quotes if it holds `: `; a key stands on its own line"),
        ),
        ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation | ErrorKind::TabNotAllowed => {
            ("a tab indents this line".into(), Some("YAML is indented with spaces"))
        }
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => (
            format!("`{}` cannot stand in a manifest", character.escape_default()),
            Some(r"write `\u` and its four hexadecimal digits instead, in double quotes"),
        ),
        ErrorKind::UnexpectedCharacter { character } => {
            (format!("a value cannot begin with `{}`", character.escape_default()), Some("put the value in quotes"))
        }
        ErrorKind::UnclosedQuotedScalar => ("this quote is never closed".into(), None),
        ErrorKind::UnclosedFlowCollection { open } => (format!("this `{open}` is never closed"), None),
        ErrorKind::UnknownAnchor => ("no `&` above defines this alias".into(), None),
        ErrorKind::RecursionLimitExceeded => ("nested over 32 deep, the limit of a manifest".into(), None),
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => {
            ("a key was expected here".into(), Some("keys of one mapping begin in the same column"))
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            ("this is neither a key with `:` nor part of the value above".into(), None)
        }
        ErrorKind::BlockSequenceEntryNotAllowed => {
            ("a list cannot begin here".into(), Some("begin it on a line of its own, or write [a, b]"))
        }
        _ => (format!("not YAML: {kind}"), None),
    }
}
