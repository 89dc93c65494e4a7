//! `dotenv`: a file of `KEY=value` lines, with the syntax of python-dotenv 1.2.4 and never an expansion.
//!
//! The facts: a statement is `[export ]KEY[=value][ # comment]`. A key may stand in single quotes. A value in single or
//! double quotes may go over several lines; a backslash then keeps the character after it from ending the value.
//! Escapes that mean something are `\\` and `\'` in single quotes, and also `\" \a \b \f \n \r \t \v` in double quotes;
//! any other backslash is itself. An unquoted value ends before white space and `#`, or at the end of the line, without
//! white space around it; `\` and quotes in it are themselves. The last of several lines for one key counts. What cannot
//! be understood is skipped up to the end of the line. Line ends are read as `\n`, also inside values.
//! `tests/dotenv/table.json` holds what the real one makes of many files.

use std::collections::{BTreeSet, HashMap};

use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::near_items::near;
use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::error::{item, shown};
use crate::input::Input;
use crate::input::context::Context;
use crate::keys::{Declared, FileKeys};
use crate::kinds::Kind;
use crate::spec::FileSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// How many lines that were not understood an error names.
const NAMED_LINES: usize = 5;

/// How many keys are kept to find near names in.
const KEPT_KEYS: usize = 1000;

/// The longest key that is offered as a near name, in bytes.
const LONGEST_NAME: usize = 64;

/// How many missing items get near names: comparing costs time.
const WITH_NEAR: usize = 20;

/// A dotenv file.
pub(crate) struct Dotenv<'m> {
    input: Input<'m>,
}

impl<'m> Dotenv<'m> {
    pub(crate) fn new(input: Input<'m>) -> Self {
        Self { input }
    }
}

impl Kind for Dotenv<'_> {
    type Keys = FileKeys;
    type Spec = FileSpec;

    const HAS_FIELDS: bool = false;

    fn check(declared: &Declared<'_>, keys: FileKeys) -> Option<FileSpec> {
        declared.file(keys, false)
    }

    fn open<'m>(spec: &'m FileSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Dotenv::new(Input::new(name, spec, context)))
    }

    fn file(spec: &FileSpec) -> Option<&FileSpec> {
        Some(spec)
    }
}

impl Source for Dotenv<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let bytes = self.input.read(MAX_VALUE)?;
        let text = text(&bytes).map_err(|line| OpenError::NotUtf8 { path: self.input.name().to_owned(), line })?;

        let keys: HashMap<&str, ()> = wanted.iter().map(|reference| (reference.item.as_str(), ())).collect();
        let mut values: HashMap<&str, Option<Raw<'_>>> = HashMap::new();
        let mut others: Vec<&str> = Vec::new();
        let mut bad_lines = Vec::new();
        let mut parser = Parser::new(&text);
        while let Some(statement) = parser.next() {
            match statement {
                Statement::Binding(key, value) if keys.contains_key(key) => {
                    values.insert(key, value);
                }
                Statement::Binding(key, Some(_)) if others.len() < KEPT_KEYS && looks_like_a_name(key) => {
                    others.push(key)
                }
                Statement::Bad(line) if bad_lines.len() < NAMED_LINES => bad_lines.push(line),
                Statement::Binding(..) | Statement::Bad(_) | Statement::Nothing => {}
            }
        }
        // Wanted by name: what a person wrote into the manifest is no secret.
        others.extend(values.keys());
        others.sort_unstable();

        let mut missing = 0;
        Ok(wanted
            .iter()
            .map(|reference| {
                if let Some(field) = &reference.field {
                    let (field, whole) = (shown(field), item(reference));
                    return Err(LookupError::NoFields { field, kind: "a dotenv file", whole });
                }
                match values.get(reference.item.as_str()) {
                    Some(Some(raw)) => Ok(raw.decode()),
                    Some(None) => Err(LookupError::NoValue { item: item(reference) }),
                    None => {
                        missing += 1;
                        let near = if missing > WITH_NEAR {
                            Vec::new()
                        } else {
                            near(&reference.item, others.iter().copied()).iter().map(|key| shown(key)).collect()
                        };
                        Err(LookupError::NoItem { item: item(reference), near, bad_lines: bad_lines.clone() })
                    }
                }
            })
            .collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let bytes = self.input.read(MAX_VALUE)?;
        let text = text(&bytes).map_err(|line| OpenError::NotUtf8 { path: self.input.name().to_owned(), line })?;
        let mut parser = Parser::new(&text);
        let mut keys = BTreeSet::new();
        while let Some(statement) = parser.next() {
            if let Statement::Binding(key, Some(_)) = statement
                && looks_like_a_name(key)
            {
                keys.insert(key.to_owned());
            }
        }
        Ok(keys.into_iter().map(Listed::without_fields).collect())
    }
}

/// All of a file.
pub(crate) struct All {
    /// Each key once, with the value of its last line; `None` without `=`.
    pub values: Vec<(String, Option<Zeroizing<Vec<u8>>>)>,
    /// The first lines that could not be understood, 1-based.
    pub bad_lines: Vec<usize>,
}

/// Reads all of a file's keys.
///
/// # Errors
/// The 1-based line that is not UTF-8.
pub(crate) fn read(bytes: &[u8]) -> Result<All, usize> {
    let text = text(bytes)?;
    let mut parser = Parser::new(&text);
    let mut values: HashMap<&str, Option<Raw<'_>>> = HashMap::new();
    let mut bad_lines = Vec::new();
    while let Some(statement) = parser.next() {
        match statement {
            // The last line of a key counts, as for a shell.
            Statement::Binding(key, value) => drop(values.insert(key, value)),
            Statement::Bad(line) if bad_lines.len() < NAMED_LINES => bad_lines.push(line),
            Statement::Bad(_) | Statement::Nothing => {}
        }
    }
    let mut values: Vec<_> = values.into_iter().map(|(key, raw)| (key.to_owned(), raw.map(Raw::bytes))).collect();
    values.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(All { values, bad_lines })
}

/// True for what may be offered as a near name. After a quote that is never closed, or of a value on several lines without
/// quotes, what looks like a key is a piece of a value.
pub(crate) fn looks_like_a_name(key: &str) -> bool {
    key.len() <= LONGEST_NAME && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// The file's text without a byte order mark and with `\n` as the only line end, or the 1-based line that is not UTF-8.
fn text(bytes: &[u8]) -> Result<Zeroizing<String>, usize> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        good.iter().filter(|&&byte| byte == b'\n').count().saturating_add(1)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '\r' {
            characters.next_if_eq(&'\n');
            out.push('\n');
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// One step through the file.
enum Statement<'t> {
    /// A key, and its value if there is a `=`.
    Binding(&'t str, Option<Raw<'t>>),
    /// A comment.
    Nothing,
    /// Something else, on this 1-based line.
    Bad(usize),
}

/// A value as it stands in the file.
#[derive(Clone, Copy)]
enum Raw<'t> {
    /// Taken as it is.
    Plain(&'t str),
    /// What stands between single quotes.
    Single(&'t str),
    /// What stands between double quotes.
    Double(&'t str),
}

impl Raw<'_> {
    fn decode(self) -> Secret {
        Secret::new(std::mem::take(&mut *self.bytes()))
    }

    fn bytes(self) -> Zeroizing<Vec<u8>> {
        let (text, double) = match self {
            Self::Plain(text) => return Zeroizing::new(text.as_bytes().to_vec()),
            Self::Single(text) => (text, false),
            Self::Double(text) => (text, true),
        };
        // Decoding never makes it longer, so the buffer never moves.
        let mut out = Zeroizing::new(String::with_capacity(text.len()));
        let mut characters = text.chars().peekable();
        while let Some(c) = characters.next() {
            let escaped = match characters.peek() {
                Some(next) if c == '\\' => unescape(*next, double),
                _ => None,
            };
            match escaped {
                Some(meant) => {
                    characters.next();
                    out.push(meant);
                }
                None => out.push(c),
            }
        }
        Zeroizing::new(out.as_bytes().to_vec())
    }
}

/// What a backslash and `c` mean together; `None` when the backslash is itself.
fn unescape(c: char, double: bool) -> Option<char> {
    match c {
        '\\' | '\'' => Some(c),
        _ if !double => None,
        '"' => Some('"'),
        'a' => Some('\u{07}'),
        'b' => Some('\u{08}'),
        'f' => Some('\u{0c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\u{0b}'),
        _ => None,
    }
}

/// White space as Python's `\s` has it: Unicode's, and the four separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// The same without line ends.
fn is_blank(c: char) -> bool {
    is_space(c) && c != '\n'
}

/// Walks over a file's statements. `rest` is always what has not been read yet.
struct Parser<'t> {
    rest: &'t str,
    /// 1-based line of `rest`'s start.
    line: usize,
}

/// The statement does not follow the grammar.
struct Bad;

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        Self { rest: text, line: 1 }
    }

    /// The next statement, `None` at the end.
    fn next(&mut self) -> Option<Statement<'t>> {
        self.take_while(is_space);
        if self.rest.is_empty() {
            return None;
        }
        let line = self.line;
        Some(self.statement().unwrap_or_else(|Bad| {
            self.take_while(|c| c != '\n');
            self.take("\n");
            Statement::Bad(line)
        }))
    }

    fn statement(&mut self) -> Result<Statement<'t>, Bad> {
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with(is_blank)
        {
            self.take("export");
            self.take_while(is_blank);
        }
        let key = match self.rest.chars().next() {
            Some('#') => None,
            Some('\'') => {
                let end = self.rest[1..].find('\'').filter(|&end| end > 0).ok_or(Bad)?;
                let key = &self.rest[1..=end];
                self.skip(end + 2);
                Some(key)
            }
            _ => {
                let key = self.take_while(|c| c != '=' && c != '#' && !is_space(c));
                Some(key).filter(|key| !key.is_empty()).map(Some).ok_or(Bad)?
            }
        };
        self.take_while(is_blank);
        let value = if self.take("=") {
            let blanks = self.take_while(is_blank);
            // `KEY= # comment` has an empty value, `KEY=#x` has the value `#x`.
            let comment = !blanks.is_empty() && self.rest.starts_with('#');
            Some(if comment { Raw::Plain("") } else { self.value()? })
        } else {
            None
        };
        self.take_while(is_blank);
        if self.rest.starts_with('#') {
            self.take_while(|c| c != '\n');
        }
        if !self.take("\n") && !self.rest.is_empty() {
            return Err(Bad);
        }
        Ok(key.map_or(Statement::Nothing, |key| Statement::Binding(key, value)))
    }

    fn value(&mut self) -> Result<Raw<'t>, Bad> {
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                let mut escaped = false;
                let end = self.rest[1..].find(|c| {
                    let ends = !escaped && c == quote;
                    escaped = !escaped && c == '\\';
                    ends
                });
                let end = end.ok_or(Bad)?;
                // OK to slice: the quote is one byte, and `end` is where `find` saw a character.
                let inside = &self.rest[1..=end];
                self.skip(end + 2);
                Ok(if quote == '"' { Raw::Double(inside) } else { Raw::Single(inside) })
            }
            _ => {
                let line = self.take_while(|c| c != '\n');
                let mut after_space = false;
                let end = line.find(|c| {
                    let comment = after_space && c == '#';
                    after_space = is_space(c);
                    comment
                });
                Ok(Raw::Plain(line[..end.unwrap_or(line.len())].trim_end_matches(is_space)))
            }
        }
    }

    /// Takes characters as long as they are `wanted`.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let taken = &self.rest[..end];
        self.skip(end);
        taken
    }

    /// Takes `text` if it is next.
    fn take(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            self.skip(text.len());
        }
        found
    }

    /// Goes on by `bytes`, which end at a character's end.
    fn skip(&mut self, bytes: usize) {
        let (over, rest) = self.rest.split_at(bytes);
        self.line = self.line.saturating_add(over.bytes().filter(|&byte| byte == b'\n').count());
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileSpec;
    use crate::input::context::Context;

    /// What the real python-dotenv made of each text: see tests/dotenv/make-table.py.
    const TABLE: &str = include_str!("../../../../tests/dotenv/table.json");

    fn parse(text_of_file: &str) -> HashMap<String, Option<Vec<u8>>> {
        let text = text(text_of_file.as_bytes()).unwrap();
        let mut parser = Parser::new(&text);
        let mut values = HashMap::new();
        while let Some(statement) = parser.next() {
            if let Statement::Binding(key, value) = statement {
                values.insert(key.to_owned(), value.map(|raw| raw.decode().expose().to_vec()));
            }
        }
        values
    }

    #[test]
    fn every_file_means_what_it_means_to_python_dotenv() {
        let table: serde_json::Value = serde_json::from_str(TABLE).unwrap();
        let cases = table["cases"].as_array().unwrap();
        assert!(cases.len() > 100, "{} cases", cases.len());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let want: HashMap<String, Option<Vec<u8>>> = case["values"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| (key.clone(), value.as_str().map(|value| value.as_bytes().to_vec())))
                .collect();
            assert_eq!(parse(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_utf8_is_refused_with_its_line() {
        assert_eq!(text(b"A=1\nB=2\nC=\xff").unwrap_err(), 3);
        assert_eq!(text("\u{feff}A=1\r\nB=2\rC=3".as_bytes()).unwrap().as_str(), "A=1\nB=2\nC=3");
    }

    #[test]
    fn a_piece_of_a_value_that_looks_like_a_key_is_not_offered_as_a_near_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        let wanted = Reference { source: "d".into(), item: "TOKN".into(), field: None };
        let offered = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let specs = std::collections::BTreeMap::new();
            let sources = crate::Sources { directory: directory.path(), specs: &specs, references: Vec::new() };
            let context = Context::new(&sources);
            let file = FileSpec::plain(&path);
            match Dotenv::new(Input::new("d", &file, &context)).fetch(&[&wanted]).unwrap().remove(0) {
                Err(LookupError::NoItem { near, .. }) => near,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(offered("TOKEN=x\n"), ["TOKEN"]);
        // A quote that is never closed makes one key of everything up to the next.
        assert!(offered("' #\nTOKN=\"the value\"\nB='x'\n").is_empty());
        assert!(offered("A=first line\nTOKEN\n").is_empty());
    }

    #[test]
    fn a_statement_that_makes_no_sense_is_told_with_its_line() {
        let mut parser = Parser::new("A=1\n\n  =oops\nB=\"open\nC=3\n");
        let mut bad = Vec::new();
        while let Some(statement) = parser.next() {
            if let Statement::Bad(line) = statement {
                bad.push(line);
            }
        }
        assert_eq!(bad, [3, 4]);
    }
}
