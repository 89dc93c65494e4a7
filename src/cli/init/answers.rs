//! Questions of `init` on the terminal. No answer is a secret.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::run::message::{Failure, Message};

/// Maximum length of an answer, in bytes; a terminal's own limit is 4095.
const LONGEST: u64 = 4096;

/// The source of the answers.
pub(super) struct Questions {
    takes_defaults: bool,
}

impl Questions {
    /// With `takes_defaults` there are no questions, and each answer is the default.
    pub(super) fn new(takes_defaults: bool) -> Self {
        Self { takes_defaults }
    }

    /// True if the user can be asked.
    pub(super) fn can_ask(&self) -> bool {
        !self.takes_defaults && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks until `judge` accepts the answer, and returns its result. `flag` is the argument to use instead if there is
    /// no terminal.
    pub(super) fn ask<T>(
        &mut self,
        flag: &str,
        question: &str,
        usual: &str,
        judge: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let internal = |message| Failure::usage(Message::new(format!("{flag}: {message}")));
        if self.takes_defaults {
            return judge(usual).map_err(internal);
        }
        if !self.can_ask() {
            let message = format!("{flag} is missing, and cannot be asked for: there is no terminal");
            let hint = format!("add {flag}, or --yes for the usual answer, `{usual}`");
            return Err(Failure::usage(Message::new(message).hint(hint)));
        }
        loop {
            let answer = read(question, usual)
                .map_err(|error| Failure::usage(Message::new(format!("{flag}: no answer")).caused_by(&error)))?;
            match judge(&answer) {
                Ok(value) => return Ok(value),
                Err(message) => say(&format!("  {message}\n")),
            }
        }
    }
}

/// The words of an answer, which commas or white space separate.
pub(super) fn words(answer: &str) -> impl Iterator<Item = &str> {
    answer.split(|character: char| character == ',' || character.is_whitespace()).filter(|word| !word.is_empty())
}

/// A yes or a no.
pub(super) fn yes_or_no(answer: &str) -> Result<bool, String> {
    match answer.to_ascii_lowercase().as_str() {
        "yes" | "y" => Ok(true),
        "no" | "n" => Ok(false),
        _ => Err("say yes or no".to_owned()),
    }
}

fn say(text: &str) {
    // Best effort: the question can be answered even if it is not visible.
    let _ = anstream::stderr().write_all(deaddrop_core::shown::painted(text).as_bytes());
}

/// One line from the terminal; the default for an empty one.
fn read(question: &str, usual: &str) -> io::Result<String> {
    say(&format!("{question} [{usual}]: "));
    let mut line = Vec::new();
    io::Read::take(io::stdin().lock(), LONGEST).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::other("the input ended"));
    }
    let line = String::from_utf8(line).map_err(|_| io::Error::other("it is not UTF-8"))?;
    let answer = line.trim();
    Ok(if answer.is_empty() { usual.to_owned() } else { answer.to_owned() })
}
