//! The text of a typed secure note: `Field:value` lines, where a value may span several.

/// Names of note fields that are built-in fields.
pub(super) const BUILT_IN: [(&str, &str); 5] = [
    ("Password", "password"),
    ("Username", "username"),
    ("Notes", "notes"),
    ("Private Key", "private_key"),
    ("Public Key", "public_key"),
];

/// Start of the first line of such a note.
const TYPE: &str = "NoteType:";

/// The last field: everything after it is its value.
const NOTES: &str = "Notes";

/// Maximum length of a field's name, in bytes. A longer text before a colon is part of a value.
const LONGEST_NAME: usize = 64;

/// First and last line of blocks that belong to one value although they may contain colons: PEM, and PuTTY keys.
const BLOCKS: [(&str, &str); 2] = [("-----BEGIN ", "-----END "), ("PuTTY-User-Key-File-", "Private-MAC:")];

/// The fields of a typed note in order; `None` for any other text. A value extends to the next line that starts with a
/// name and a colon, without the final line end.
pub(super) fn fields(text: &str) -> Option<Vec<(&str, &str)>> {
    if !text.starts_with(TYPE) {
        return None;
    }
    let mut fields: Vec<(&str, &str)> = Vec::new();
    // Start of the current value, and end of the block that is open in it.
    let (mut current, mut block) = (None, None);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        if let Some(end) = block {
            block = (!line.starts_with(end)).then_some(end);
            continue;
        }
        let name = field_name(line).filter(|_| current.is_none_or(|(name, _)| name != NOTES));
        let value = name.map_or(start, |name| start + name.len() + 1);
        if let Some(name) = name {
            fields.extend(current.map(|(name, from)| (name, without_end(&text[from..start]))));
            current = Some((name, value));
        }
        let opened =
            BLOCKS.iter().find(|(begin, end)| text[value..at].starts_with(begin) && !text[value..at].contains(end));
        block = opened.map(|(_, end)| *end);
    }
    let last =
        |(name, from): (_, usize)| (name, if name == NOTES { &text[from..] } else { without_end(&text[from..]) });
    fields.extend(current.map(last));
    fields.retain(|(name, _)| *name != TYPE.trim_end_matches(':'));
    Some(fields)
}

/// The name of the field that starts on this line, if one does.
fn field_name(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(':')?;
    let letters = |c: char| c.is_alphanumeric() || " '/.,()&#_-".contains(c);
    let is_name = name.len() <= LONGEST_NAME
        && name.starts_with(char::is_alphabetic)
        && !name.ends_with(' ')
        && name.chars().all(letters);
    // `https://…` is not a field.
    (is_name && !rest.starts_with("//")).then_some(name)
}

/// `value` without its final line end.
fn without_end(value: &str) -> &str {
    let value = value.strip_suffix('\n').unwrap_or(value);
    value.strip_suffix('\r').unwrap_or(value)
}
