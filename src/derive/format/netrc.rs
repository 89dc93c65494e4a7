//! netrc, as curl(1), git and Nix (which uses curl's reader) take it: words with white space between them; `machine NAME` or
//! `default`, then `login`, `password` and `account`, each with its word; `macdef NAME` and the lines after it up to an
//! empty one. A word in double quotes may hold spaces; `\` keeps the character after it (curl's lib/netrc.c).

use super::{Fault, at};

const WORDS: &str = "neither `machine`, `default`, `login`, `password`, `account` nor `macdef`";
const SPACES: &str =
    "a word with spaces stands in double quotes, with `\\` before a `\"` and a `\\` in it: {{ secret('…') | json }}";

/// Whether it is a netrc.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    let mut reader = Reader { text, byte: 0 };
    let mut in_machine = false;
    let mut after_default = false;
    while let Some((start, word)) = reader.word()? {
        match word {
            "machine" if after_default => {
                return Err(at(text, start, "after `default` no machine is found", "put `default` at the end"));
            }
            "machine" => {
                reader.needs_word(start)?;
                in_machine = true;
            }
            "default" => (in_machine, after_default) = (true, true),
            "login" | "password" | "account" | "macdef" if !in_machine => {
                return Err(at(text, start, "this stands before the first `machine`", ""));
            }
            "login" | "password" | "account" => reader.needs_word(start)?,
            "macdef" => {
                reader.needs_word(start)?;
                reader.skip_macro();
            }
            _ => return Err(at(text, start, WORDS, SPACES)),
        }
    }
    if in_machine { Ok(()) } else { Err(at(text, 0, "there is no `machine` in it", "")) }
}

struct Reader<'t> {
    text: &'t str,
    byte: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.byte..).unwrap_or_default()
    }

    /// The next word and where it begins, comments passed over. A quoted one is given with its quotes.
    fn word(&mut self) -> Result<Option<(usize, &'t str)>, Fault> {
        loop {
            let rest = self.rest();
            self.byte = self.byte.saturating_add(rest.len()).saturating_sub(rest.trim_start_matches(is_space).len());
            if !self.rest().starts_with('#') {
                break;
            }
            self.skip_line();
        }
        let (start, rest) = (self.byte, self.rest());
        if rest.is_empty() {
            return Ok(None);
        }
        let length = if rest.starts_with('"') {
            quoted(rest).ok_or_else(|| at(self.text, start, "this quote is never closed", SPACES))?
        } else {
            rest.find(is_space).unwrap_or(rest.len())
        };
        self.byte = self.byte.saturating_add(length);
        Ok(Some((start, &rest[..length])))
    }

    fn needs_word(&mut self, of: usize) -> Result<(), Fault> {
        let missing = at(self.text, of, "nothing stands after this word", "");
        // What follows is a word even if it begins with `#`.
        let rest = self.rest();
        let trimmed = rest.trim_start_matches(is_space);
        if trimmed.starts_with('#') {
            let skipped = rest.len().saturating_sub(trimmed.len());
            let length = trimmed.find(is_space).unwrap_or(trimmed.len());
            self.byte = self.byte.saturating_add(skipped).saturating_add(length);
            return Ok(());
        }
        self.word()?.map(drop).ok_or(missing)
    }

    fn skip_line(&mut self) {
        let rest = self.rest();
        self.byte = self.byte.saturating_add(rest.find('\n').unwrap_or(rest.len()));
    }

    /// Up to the next empty line.
    fn skip_macro(&mut self) {
        let rest = self.rest();
        self.byte = self.byte.saturating_add(rest.find("\n\n").unwrap_or(rest.len()));
    }
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// How long the quoted word is that begins here; `None` when its line ends first.
fn quoted(rest: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at.saturating_add(1)),
            _ => {}
        }
    }
    None
}
