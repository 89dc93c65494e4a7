//! The text of a secure note of a type: `Field:value` lines, of which some go on over several.

/// Fields of notes that all password managers have.
pub(super) const BUILT_IN: [(&str, &str); 5] = [
    ("Password", "password"),
    ("Username", "username"),
    ("Notes", "notes"),
    ("Private Key", "private_key"),
    ("Public Key", "public_key"),
];

/// How the first line of such a note begins.
const TYPE: &str = "NoteType:";

/// The field that is the last, whatever stands in it.
const NOTES: &str = "Notes";

/// The longest name of a field, in bytes. What is longer before a colon is text.
const LONGEST_NAME: usize = 64;

/// What lines begin and end with that belong together, whatever colons stand between: a key in PEM, and one of PuTTY.
const BLOCKS: [(&str, &str); 2] = [("-----BEGIN ", "-----END "), ("PuTTY-User-Key-File-", "Private-MAC:")];

/// The fields of a note of a type, in their order; `None` for another text. A value goes on in the lines below it, up to
/// the next line that begins with a name and a colon, and has no line end of its own behind it.
pub(super) fn fields(text: &str) -> Option<Vec<(&str, &str)>> {
    if !text.starts_with(TYPE) {
        return None;
    }
    let mut fields: Vec<(&str, &str)> = Vec::new();
    // Where the last field's value begins, and how the block ends that is open in it.
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

/// The name of the field that begins with this line.
fn field_name(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(':')?;
    let letters = |c: char| c.is_alphanumeric() || " '/.,()&#_-".contains(c);
    let is_name = name.len() <= LONGEST_NAME
        && name.starts_with(char::is_alphabetic)
        && !name.ends_with(' ')
        && name.chars().all(letters);
    // `https://…` is no field.
    (is_name && !rest.starts_with("//")).then_some(name)
}

/// A value less the line end that parts it from the next.
fn without_end(value: &str) -> &str {
    let value = value.strip_suffix('\n').unwrap_or(value);
    value.strip_suffix('\r').unwrap_or(value)
}
