//! The right form of a value that has the wrong one, made of what is written: `hosts: node1` is `hosts: [node1]`. Of a
//! command only its program is shown, because an argument may be a value.

use deaddrop_core::keys::NodeId;

use super::scalar::{Meaning, meaning};
use super::tree::{NodeKind, Tree};

/// Maximum number of programs or names in a form; the others are `…`.
const MAX_SHOWN: usize = 3;
/// Maximum length of a word that is shown, in bytes.
const MAX_WORD: usize = 64;

/// A right form.
pub(super) struct Form {
    /// The hint.
    pub hint: String,
    /// True if what is written may hold a value.
    pub hides: bool,
}

/// The form of a node that is text, or a list of texts, in place of what `key` wants; `None` for other nodes and keys.
pub(super) fn form(tree: &Tree<'_>, id: NodeId, key: &str) -> Option<Form> {
    let texts = texts(tree, id)?;
    let hint = match key {
        "run_after" => format!("write `run_after: {}`: no shell runs it", programs(&texts)),
        "health" => format!("write `health: {{ command: {} }}`: no shell runs it", program(&texts.join(" "))),
        "command" | "argv" | "exec" => format!("write `{key}: {}`: no shell runs it", program(&texts.join(" "))),
        "hosts" | "tags" | "ssh_options" => {
            return Some(Form { hint: format!("write `{key}: [{}]`", names(&texts)), hides: false });
        }
        _ => return None,
    };
    Some(Form { hint, hides: true })
}

/// The form of a `run_after` that is a list of texts; `None` if it is none.
pub(super) fn of_programs(tree: &Tree<'_>, id: NodeId) -> Option<String> {
    let NodeKind::Sequence(items) = &tree.resolve(id).kind else { return None };
    let is_text = !items.is_empty() && items.iter().all(|item| text(tree, *item).is_some());
    form(tree, id, "run_after").filter(|_| is_text).map(|form| form.hint)
}

/// A text, or the texts of a list.
fn texts<'t>(tree: &'t Tree<'_>, id: NodeId) -> Option<Vec<&'t str>> {
    match &tree.resolve(id).kind {
        NodeKind::Scalar { .. } => text(tree, id).map(|text| vec![text]),
        NodeKind::Sequence(items) => items.iter().map(|item| text(tree, *item)).collect(),
        _ => None,
    }
}

fn text<'t>(tree: &'t Tree<'_>, id: NodeId) -> Option<&'t str> {
    match &tree.resolve(id).kind {
        NodeKind::Scalar { text, plain } if meaning(text, *plain) != Meaning::Null => Some(text),
        _ => None,
    }
}

/// `[[echo, …]]`: each text is a program with its arguments, unless none has an argument: then they are one program.
fn programs(texts: &[&str]) -> String {
    if !texts.iter().any(|text| text.contains(char::is_whitespace)) {
        return format!("[{}]", program(&texts.join(" ")));
    }
    let mut programs: Vec<String> = texts.iter().take(MAX_SHOWN).map(|text| program(text)).collect();
    if texts.len() > MAX_SHOWN {
        programs.push("…".to_owned());
    }
    format!("[{}]", programs.join(", "))
}

/// `[test, …]`, or `[sh, -c, …]` for what only a shell understands.
fn program(command: &str) -> String {
    let mut words = command.split_whitespace();
    let first = words.next().unwrap_or_default();
    if command.contains(['|', '&', ';', '<', '>', '$', '`']) {
        return "[sh, -c, …]".to_owned();
    }
    match words.next() {
        // A word alone may be a value in the wrong place.
        None if is_command_name(first) => format!("[{first}]"),
        Some(_) if is_shown(first, "/._-+") => format!("[{first}, …]"),
        _ => "[PROGRAM, …]".to_owned(),
    }
}

/// True for a path, and for lower-case letters alone, which no generated password is.
fn is_command_name(word: &str) -> bool {
    let is_lower = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_shown(word, "/._-+") && (word.starts_with('/') || is_lower)
}

/// `node1, node2`.
fn names(texts: &[&str]) -> String {
    let words = texts.iter().flat_map(|text| text.split([',', ' '])).filter(|word| !word.is_empty());
    let mut shown: Vec<&str> = words
        .map(|word| if is_shown(word, "._-:=~/@") { word } else { "…" })
        .take(MAX_SHOWN.saturating_add(1))
        .collect();
    if let Some(last) = shown.get_mut(MAX_SHOWN) {
        *last = "…";
    }
    shown.join(", ")
}

/// True for a short word of letters, digits and these characters.
fn is_shown(word: &str, others: &str) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || others.contains(character);
    !word.is_empty() && word.len() <= MAX_WORD && word.chars().all(fits)
}
