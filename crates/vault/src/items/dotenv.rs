//! Parses files of `KEY=value` lines with the syntax of python-dotenv 1.2.4, without expansion. For the kind `dotenv`,
//! and for documents in this format.
//!
//! Syntax: a statement is `[export ]KEY[=value][ # comment]`. A key may be in single quotes. A value in single or
//! double quotes may span several lines; in it, a backslash escapes the closing quote. The escapes are `\\` and `\'` in
//! single quotes, and also `\" \a \b \f \n \r \t \v` in double quotes; any other backslash is literal. An unquoted
//! value ends before white space and `#`, or at the end of the line; white space around it is not part of it, `\` and
//! quotes are literal. Of several lines for one key, the last is used. A line that does not parse is skipped. Line ends
//! are normalised to `\n`, also inside values. `tests/dotenv/table.json` has the results of the real python-dotenv for
//! many files.

use std::collections::HashMap;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::Reference;
use crate::finding::Finding;

/// Maximum number of lines that an error names.
pub(crate) const NAMED_LINES: usize = 5;

/// Maximum length of a key that is suggested, in bytes.
const LONGEST_NAME: usize = 64;

/// A parsed file.
pub(crate) struct All {
    /// Each key once, with the value of its last line; `None` without `=`.
    pub values: Vec<(String, Option<Zeroizing<Vec<u8>>>)>,
    /// Numbers of the first lines that do not parse, 1-based.
    pub bad_lines: Vec<usize>,
    /// Keys whose value opens with a backquote, and their 1-based lines.
    pub backquoted: Vec<(String, usize)>,
}

/// Parses all statements of a file.
///
/// # Errors
/// The 1-based number of the line that is not UTF-8.
pub(crate) fn read(bytes: &[u8]) -> Result<All, usize> {
    let text = text(bytes)?;
    let mut parser = Parser::new(&text);
    let mut values: HashMap<&str, (Option<Raw<'_>>, usize)> = HashMap::new();
    let mut bad_lines = Vec::new();
    while let Some(statement) = parser.next() {
        match statement {
            // The last line of a key is used, as in a shell.
            Statement::Binding(key, value) => drop(values.insert(key, (value, parser.line_of_last()))),
            Statement::Bad(line) if bad_lines.len() < NAMED_LINES => bad_lines.push(line),
            Statement::Bad(_) | Statement::Nothing => {}
        }
    }
    let opens_with_backquote = |(_, (raw, _)): &(&&str, &(Option<Raw<'_>>, usize))| raw.is_some_and(Raw::is_backquoted);
    let backquoted = values.iter().filter(opens_with_backquote).map(|(key, (_, line))| ((*key).to_owned(), *line));
    let backquoted = backquoted.collect();
    let mut values: Vec<_> = values.into_iter().map(|(key, (raw, _))| (key.to_owned(), raw.map(Raw::bytes))).collect();
    values.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(All { values, bad_lines, backquoted })
}

/// DD305: lines of the file called `name`, which is safe for a terminal, do not parse. `None` without `lines`.
pub(crate) fn unread_lines(name: &str, lines: &[usize]) -> Option<Finding> {
    let (first, rest) = lines.split_first()?;
    let rest: String = rest.iter().map(|line| format!(", {line}")).collect();
    let lines = if rest.is_empty() {
        "this line cannot be understood and was skipped".to_owned()
    } else {
        format!("lines {first}{rest} cannot be understood and were skipped")
    };
    let hint = "is it the rest of a value of several lines? those stand in double quotes; a comment begins with `#`";
    Some(Finding { code: "DD305", reference: None, message: format!("{name}:{first}: {lines}"), hint: hint.to_owned() })
}

/// DD306: the value that `reference` names, on this line of the file called `name`, opens with a backquote.
pub(crate) fn backquoted(name: &str, line: usize, reference: &Reference) -> Finding {
    Finding {
        code: "DD306",
        reference: Some(reference.clone()),
        message: format!(
            "{name}:{line}: the value opens with a backquote, which is no quote here: it is this line only"
        ),
        hint: "a value of several lines stands in double quotes, one that has a backquote in single quotes".to_owned(),
    }
}

/// True if `key` may be shown as a suggestion. After an unclosed quote, or in a multi-line value without quotes, a part
/// of a value may parse as a key.
pub(crate) fn looks_like_a_name(key: &str) -> bool {
    key.len() <= LONGEST_NAME && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// The file's text without a byte order mark and with `\n` line ends; or the 1-based number of the line that is not
/// UTF-8.
pub(crate) fn text(bytes: &[u8]) -> Result<Zeroizing<String>, usize> {
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

/// A statement of the file.
pub(crate) enum Statement<'t> {
    /// A key, and its value if there is a `=`.
    Binding(&'t str, Option<Raw<'t>>),
    /// A comment.
    Nothing,
    /// A syntax error on this 1-based line.
    Bad(usize),
}

/// A value as written.
#[derive(Clone, Copy)]
pub(crate) enum Raw<'t> {
    /// Unquoted.
    Plain(&'t str),
    /// The text between single quotes.
    Single(&'t str),
    /// The text between double quotes.
    Double(&'t str),
}

impl Raw<'_> {
    /// True if it is unquoted and opens with a backquote, which is a quote to some other readers.
    pub(crate) fn is_backquoted(self) -> bool {
        matches!(self, Self::Plain(text) if text.starts_with('`'))
    }

    pub(crate) fn decode(self) -> Secret {
        Secret::new(std::mem::take(&mut *self.bytes()))
    }

    fn bytes(self) -> Zeroizing<Vec<u8>> {
        let (text, double) = match self {
            Self::Plain(text) => return Zeroizing::new(text.as_bytes().to_vec()),
            Self::Single(text) => (text, false),
            Self::Double(text) => (text, true),
        };
        // Decoding never makes the text longer, so the buffer never moves.
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

/// The character for the escape `\c`; `None` if the backslash is literal.
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

/// White space of Python's `\s`: Unicode's, and the separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// White space except line ends.
fn is_blank(c: char) -> bool {
    is_space(c) && c != '\n'
}

/// A parser of statements. `rest` is the text not parsed yet.
pub(crate) struct Parser<'t> {
    rest: &'t str,
    /// 1-based line number of the start of `rest`.
    line: usize,
    /// 1-based line number of the start of the last statement.
    last: usize,
}

/// A syntax error.
struct Bad;

impl<'t> Parser<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { rest: text, line: 1, last: 0 }
    }

    /// The 1-based line on which the statement begins that `next` returned last.
    pub(crate) fn line_of_last(&self) -> usize {
        self.last
    }

    /// The next statement; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Statement<'t>> {
        self.take_while(is_space);
        if self.rest.is_empty() {
            return None;
        }
        let line = self.line;
        self.last = line;
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
                // OK to slice: the quote is one byte, and `end` is the position that `find` returned.
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

    /// Consumes characters while they are `wanted`.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let taken = &self.rest[..end];
        self.skip(end);
        taken
    }

    /// Consumes `text` if it is next; returns whether it was.
    fn take(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            self.skip(text.len());
        }
        found
    }

    /// Consumes `bytes` bytes, which must end at a character boundary.
    fn skip(&mut self, bytes: usize) {
        let (over, rest) = self.rest.split_at(bytes);
        self.line = self.line.saturating_add(over.bytes().filter(|&byte| byte == b'\n').count());
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of the real python-dotenv: see tests/dotenv/make-table.py.
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
