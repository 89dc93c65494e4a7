//! Checks lines of `NAME=VALUE` for two readers: systemd's `EnvironmentFile` (systemd.exec(5)) and a POSIX shell (`.
//! FILE`; POSIX.1-2024, 2.2 "Quoting").
//!
//! Both agree on: comments that start with `#`; a name, `=` and a value without white space around the `=`; an unquoted
//! value of characters without a meaning to a shell, or with a backslash before each that has one; a value in single
//! quotes, verbatim; a value in double quotes, with a backslash before each `"`, `\`, `$` and backquote. Anything else
//! is read differently, and refused here.

use super::{SyntaxFault, fault_at};

const QUOTE: &str =
    "the filter `systemd_quote` writes a value so that both read it: NAME={{ secret('…') | systemd_quote }}";

/// Checks the whole text.
pub(super) fn check(text: &str) -> Result<(), SyntaxFault> {
    if let Some(nul) = text.find('\0') {
        return Err(fault_at(
            text,
            nul,
            "a NUL byte",
            "an environment cannot hold one; is this the right item and field?",
        ));
    }
    let mut reader = DotenvReader { text, byte: 0 };
    while reader.peek().is_some() {
        reader.line()?;
    }
    Ok(())
}

struct DotenvReader<'t> {
    text: &'t str,
    /// Offset of the next character.
    byte: usize,
}

impl DotenvReader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.byte..).and_then(|rest| rest.chars().next())
    }

    fn take(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.byte = self.byte.saturating_add(character.len_utf8());
        Some(character)
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.take();
        }
    }

    fn fault(&self, what: &'static str, hint: &'static str) -> SyntaxFault {
        fault_at(self.text, self.byte, what, hint)
    }

    /// Consumes a line with its line end; several lines if a quoted value spans them.
    fn line(&mut self) -> Result<(), SyntaxFault> {
        const BLANK: fn(char) -> bool = |c| c == ' ' || c == '\t';
        self.skip(BLANK);
        match self.peek() {
            None | Some('\n') => {}
            Some('#') => {
                let start = self.byte;
                self.skip(|c| c != '\n');
                if self.text.get(start..self.byte).is_some_and(|comment| comment.ends_with('\\')) {
                    self.byte = self.byte.saturating_sub(1);
                    return Err(self.fault(
                        "a comment ends with a backslash",
                        "systemd before 254 takes the next line for a part of it",
                    ));
                }
            }
            Some(_) => {
                self.name()?;
                self.value()?;
                let blank = self.byte;
                self.skip(BLANK);
                match self.peek() {
                    None | Some('\n') => {}
                    Some('\r') => return Err(self.fault("a carriage return", "end lines with LF only")),
                    Some(_) => {
                        return Err(fault_at(self.text, blank, "white space inside a value without quotes", QUOTE));
                    }
                }
            }
        }
        self.take();
        Ok(())
    }

    fn name(&mut self) -> Result<(), SyntaxFault> {
        const SHAPE: &str = "a line is NAME=VALUE, or a comment that begins with `#`";
        if !self.peek().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') {
            return Err(self.fault("a name begins with a letter or `_`", SHAPE));
        }
        self.skip(|c| c.is_ascii_alphanumeric() || c == '_');
        if self.peek() != Some('=') {
            return Err(self.fault("a name has no `=` after it", SHAPE));
        }
        self.take();
        Ok(())
    }

    fn value(&mut self) -> Result<(), SyntaxFault> {
        match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                self.quoted(quote)?;
                if !matches!(self.peek(), None | Some('\n' | ' ' | '\t' | '\r')) {
                    return Err(self.fault("something stands after the closing quote", QUOTE));
                }
                Ok(())
            }
            Some(' ' | '\t') => {
                Err(self.fault("white space after the `=`", "a shell takes what follows for a command"))
            }
            _ => self.unquoted(),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<(), SyntaxFault> {
        let start = self.byte;
        self.take();
        loop {
            match self.peek() {
                None => return Err(fault_at(self.text, start, "this quote is never closed", QUOTE)),
                Some(c) if c == quote => break,
                Some('\\') if quote == '"' => {
                    self.take();
                }
                Some('$' | '`') if quote == '"' => {
                    return Err(self.fault("a shell would expand what begins here", QUOTE));
                }
                Some(_) => {}
            }
            self.take();
        }
        self.take();
        Ok(())
    }

    fn unquoted(&mut self) -> Result<(), SyntaxFault> {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\n' => break,
                '\r' => return Err(self.fault("a carriage return", "end lines with LF only")),
                '\\' => {
                    let start = self.byte;
                    self.take();
                    if matches!(self.peek(), None | Some('\n')) {
                        self.byte = start;
                        return Err(self.fault("a backslash at the end of a line", QUOTE));
                    }
                }
                '\'' | '"' => return Err(self.fault("a quote inside a value", QUOTE)),
                '$' | '`' | '&' | '|' | ';' | '<' | '>' | '(' | ')' | '*' | '?' | '[' | ']' | '{' | '}' | '~' | '#'
                | '!' => {
                    return Err(self.fault("a character that a shell takes for its own", QUOTE));
                }
                _ => {}
            }
            self.take();
        }
        Ok(())
    }
}
