//! Checks a netrc as curl(1), git and Nix (which uses curl's reader) read it: words separated by white space; `machine
//! NAME` or `default`, then `login`, `password` and `account`, each with its word; `macdef NAME` and the lines up to an
//! empty one. A word in double quotes may contain spaces; `\` escapes the next character (curl's lib/netrc.c).

use super::{SyntaxFault, fault_at};

const WORDS: &str = "neither `machine`, `default`, `login`, `password`, `account` nor `macdef`";
const SPACES: &str =
    "a word with spaces stands in double quotes, with `\\` before a `\"` and a `\\` in it: {{ secret('…') | json }}";

/// Checks the whole text.
pub(super) fn check(text: &str) -> Result<(), SyntaxFault> {
    let mut reader = NetrcReader { text, byte: 0 };
    let mut in_machine = false;
    let mut after_default = false;
    while let Some((start, word)) = reader.word()? {
        match word {
            "machine" if after_default => {
                return Err(fault_at(text, start, "after `default` no machine is found", "put `default` at the end"));
            }
            "machine" => {
                reader.needs_word(start)?;
                in_machine = true;
            }
            "default" => (in_machine, after_default) = (true, true),
            "login" | "password" | "account" | "macdef" if !in_machine => {
                return Err(fault_at(text, start, "this stands before the first `machine`", ""));
            }
            "login" | "password" | "account" => reader.needs_word(start)?,
            "macdef" => {
                reader.needs_word(start)?;
                reader.skip_macro();
            }
            _ => return Err(fault_at(text, start, WORDS, SPACES)),
        }
    }
    if in_machine { Ok(()) } else { Err(fault_at(text, 0, "there is no `machine` in it", "")) }
}

struct NetrcReader<'t> {
    text: &'t str,
    byte: usize,
}

impl<'t> NetrcReader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.byte..).unwrap_or_default()
    }

    /// The next word and its offset; comments are skipped. A quoted word includes its quotes.
    fn word(&mut self) -> Result<Option<(usize, &'t str)>, SyntaxFault> {
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
            quoted(rest).ok_or_else(|| fault_at(self.text, start, "this quote is never closed", SPACES))?
        } else {
            rest.find(is_space).unwrap_or(rest.len())
        };
        self.byte = self.byte.saturating_add(length);
        Ok(Some((start, &rest[..length])))
    }

    fn needs_word(&mut self, of: usize) -> Result<(), SyntaxFault> {
        let missing = fault_at(self.text, of, "nothing stands after this word", "");
        // The next word is a value, even if it starts with `#`.
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

    /// Skips to the next empty line.
    fn skip_macro(&mut self) {
        let rest = self.rest();
        self.byte = self.byte.saturating_add(rest.find("\n\n").unwrap_or(rest.len()));
    }
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// Length of the quoted word at the start of `rest`; `None` if its line ends first.
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
