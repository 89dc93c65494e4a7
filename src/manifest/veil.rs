//! Keeps values out of error messages. A manifest should contain none, but users make mistakes.

use deaddrop_core::keys::NodeId;
use deaddrop_core::near;

use super::problem::{Mark, Problems};
use super::tree::{NodeKind, Tree};

/// Words in a key that suggest that its value is a secret.
const WORDS: &[&str] = &[
    "value",
    "values",
    "password",
    "passwords",
    "passwd",
    "pass",
    "passphrase",
    "pw",
    "pwd",
    "pin",
    "secret",
    "secrets",
    "token",
    "tokens",
    "content",
    "contents",
    "text",
    "data",
    "psk",
    "key",
    "keys",
    "apikey",
    "privatekey",
    "private",
    "credential",
    "credentials",
    "inline",
    "literal",
    "plaintext",
    "cert",
    "auth",
];

/// True if the value of this key may be a secret: one of the key's words is in the list, or is similar to one.
pub(super) fn is_value_like(key: &str) -> bool {
    // Split at all other characters, and before an upper-case letter (`apiKey`).
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for character in key.chars().take(200) {
        if !character.is_alphabetic() || (was_lower && character.is_uppercase()) {
            words.push(String::new());
        }
        if character.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_lowercase());
        }
        was_lower = character.is_lowercase();
    }
    words.iter().any(|word| {
        WORDS.contains(&word.as_str())
            // Matches `pasword` for `password`, but not `test` for `text`.
            || (word.len() >= 5 && !near::near(word, WORDS.iter().copied().filter(|known| known.len() >= 5)).is_empty())
    })
}

/// Veils the values of such keys, and scalars in place of a secret's mapping.
pub(super) fn sweep(tree: &Tree<'_>, problems: &mut Problems) {
    for node in tree.nodes() {
        let NodeKind::Mapping(entries) = &node.kind else { continue };
        for (key, value) in entries {
            if tree.text(*key).is_some_and(is_value_like) {
                scalars(tree, *value, problems);
            }
        }
    }
    // A scalar in place of a mapping: `secrets: {db: hunter2}`.
    if let NodeKind::Mapping(sections) = &tree.resolve(tree.root()).kind {
        for (key, section) in sections {
            if tree.text(*key) != Some("secrets") {
                continue;
            }
            scalars(tree, *section, problems);
            if let NodeKind::Mapping(secrets) = &tree.resolve(*section).kind {
                for (_, secret) in secrets {
                    scalars(tree, *secret, problems);
                }
            }
        }
    }
}

/// Veils a scalar, or the scalars of a list. Aliases of lists are not followed, because many could repeat one long
/// list.
fn scalars(tree: &Tree<'_>, id: NodeId, problems: &mut Problems) {
    let mut veil = |id| {
        let node = tree.resolve(id);
        if matches!(node.kind, NodeKind::Scalar { .. }) {
            problems.veil(node.mark);
        }
    };
    match &tree.get(id).kind {
        NodeKind::Sequence(items) => items.iter().copied().for_each(veil),
        _ => veil(id),
    }
}

/// Veils all scalars below a node: the value of an unknown key that may be a secret. Each at most once; aliases are not
/// followed.
pub(super) fn below(tree: &Tree<'_>, id: NodeId, problems: &mut Problems) {
    let mut rest = vec![id];
    while let Some(id) = rest.pop() {
        let node = tree.get(id);
        match &node.kind {
            NodeKind::Scalar { .. } => problems.veil(node.mark),
            NodeKind::Sequence(items) => rest.extend(items),
            NodeKind::Mapping(entries) => rest.extend(entries.iter().map(|(_, value)| value)),
            NodeKind::Alias(_) => {}
        }
    }
}

/// After a syntax error there is no tree: guesses from the lines around byte `at` what to veil of its line.
pub(super) fn guess(text: &str, at: usize) -> Option<Mark> {
    let before = text.get(..at)?;
    let line_start = before.rfind(['\n', '\r']).map_or(0, |at| at.saturating_add(1));
    let line_end = text[line_start..].find(['\n', '\r']).map_or(text.len(), |length| line_start.saturating_add(length));
    let broken = &text[line_start..line_end];
    if let Some(colon) = value_like_colon(broken) {
        return Some(range(line_start.saturating_add(colon).saturating_add(1), line_end));
    }
    // The line may be inside a value that started further up, at a key with less indentation.
    let mut indent = indentation(broken);
    for line in before[..line_start].lines().rev().take(1000).filter(|line| !line.trim().is_empty()) {
        let own = indentation(line);
        if own < indent || (own == 0 && value_like_colon(line).is_some()) {
            if value_like_colon(line).is_some_and(|colon| !is_key_line(broken) || opens_a_value(&line[colon..])) {
                return Some(range(line_start, line_end));
            }
            indent = own;
        }
        if own == 0 {
            break;
        }
    }
    None
}

/// True if the text after such a key and its colon starts a block scalar, or a text that continues below; false for a
/// mapping.
fn opens_a_value(rest: &str) -> bool {
    !rest.trim_start_matches(':').trim().is_empty()
}

/// True for a line that starts with one word and a colon, like a key of a mapping.
fn is_key_line(line: &str) -> bool {
    line.split_once(':').is_some_and(|(key, _)| !key.trim().is_empty() && !key.trim().contains(' '))
}

/// The position of the colon after the line's first key that may be a secret.
fn value_like_colon(line: &str) -> Option<usize> {
    line.match_indices(':').map(|(at, _)| at).take(100).find(|at| {
        // OK to slice: a match starts at a character boundary.
        let key = line[..*at].trim_end_matches([' ', '"', '\'']);
        let word = key.rfind(|character: char| !character.is_alphanumeric() && !"-_.".contains(character));
        is_value_like(word.map_or(key, |before| &key[before..]))
    })
}

fn indentation(line: &str) -> usize {
    line.bytes().take_while(|byte| *byte == b' ').count()
}

fn range(start: usize, end: usize) -> Mark {
    let mut mark = Mark::at(start, 1, 1);
    mark.end = super::problem::clamp(end);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_hold_values_are_known_by_their_words() {
        for key in
            ["value", "password", "adminPassword", "wifi_psk", "api-key", "TOKEN", "pasword", "secret1", "private_key"]
        {
            assert!(is_value_like(key), "{key}");
        }
        for key in [
            "mode", "owner", "path", "from", "hash", "ssh", "monkey", "test", "version", "sources", "defaults",
            "used_by", "template", "restart", "generate", "absent",
        ] {
            assert!(!is_value_like(key), "{key}");
        }
    }

    #[test]
    fn a_syntax_error_near_a_value_does_not_show_it() {
        for (text, broken, want) in [
            ("a:\n  password: \"hunter2\n", "\"hunter2", Some(" \"hunter2")),
            ("a: {path: /x, value: hunter2, mode: }]\n", "]", Some(" hunter2, mode: }]")),
            ("value: |\n  hunter2\n \thunter3\n", "hunter3", Some(" \thunter3")),
            ("a:\n  path: [x\n", "[", None),
            ("k3s-token:\n  path: [x\n", "[", None),
            ("password:\n  - x\n  - a: b: c\n", ": c", Some("  - a: b: c")),
            ("password:\n  hunter2 [a: b\n", "[", Some("  hunter2 [a: b")),
        ] {
            let veiled = guess(text, text.find(broken).unwrap()).map(|mark| &text[mark.bytes().0..mark.bytes().1]);
            assert_eq!(veiled, want, "{text:?}");
        }
    }
}
