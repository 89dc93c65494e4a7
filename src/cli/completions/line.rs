//! The command line up to the cursor, as a shell gives it, and words in the quotes of that shell.
//!
//! zsh and fish quote what they insert; bash and nushell insert it as it is. Where the end of a line begins that a
//! candidate replaces in bash depends on `COMP_WORDBREAKS` and on quotes (bash(1), "Programmable Completion").

use std::ffi::OsString;

/// A shell that has completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    Nushell,
    Elvish,
    Powershell,
}

/// The command line up to the cursor.
#[derive(Debug)]
pub struct Line {
    /// Its words, without quotes. The first is the program, the last is to be completed.
    pub words: Vec<String>,
    shell: Shell,
    /// For bash: the beginning of the last word that is not replaced.
    kept: Word,
}

impl Line {
    /// The command line in the arguments that the script passes. `None` if they are not UTF-8, or without a last word.
    pub fn of(shell: Shell, args: Vec<OsString>) -> Option<Self> {
        let mut args = args.into_iter().map(|arg| arg.into_string().ok()).collect::<Option<Vec<String>>>()?;
        let mut kept = Word::default();
        match shell {
            // The line, and the end of it that will be replaced.
            Shell::Bash => {
                let replaced = args.pop()?;
                let words = split(&args.pop()?);
                let raw = &words.last()?.raw;
                kept = split(raw.strip_suffix(replaced.as_str()).unwrap_or_default()).pop()?;
                args = words.into_iter().map(|word| word.value).collect();
            }
            // The words without quotes, except for fish's last one.
            Shell::Zsh | Shell::Elvish | Shell::Powershell => {}
            Shell::Fish => {
                let last = split(&args.pop()?).pop()?;
                args.push(last.value);
            }
            // The words with their quotes.
            Shell::Nushell => args.iter_mut().for_each(|arg| *arg = without_quotes_of_nushell(arg)),
        }
        (args.len() > 1).then_some(Self { words: args, shell, kept })
    }

    /// The word to complete.
    pub fn current(&self) -> &str {
        self.words.last().map_or("", String::as_str)
    }

    /// What the script inserts for a candidate; `None` if the shell cannot have it there.
    pub fn quoted(&self, candidate: &str) -> Option<String> {
        match self.shell {
            Shell::Bash => in_quotes_of_bash(candidate.strip_prefix(&self.kept.value)?, self.kept.quote),
            Shell::Nushell => Some(in_quotes_of_nushell(candidate)),
            _ => Some(candidate.to_owned()),
        }
    }
}

/// A word of a line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Word {
    /// As it is typed.
    raw: String,
    /// Without its quotes. Nothing is expanded.
    value: String,
    /// The quote that is open at its end.
    quote: Option<char>,
}

/// The words of a line, by POSIX's rules of quotes (Shell Command Language, 2.2). The last one is empty after a blank.
fn split(line: &str) -> Vec<Word> {
    let mut words = vec![Word::default()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        // OK: there is always one.
        let Some(word) = words.last_mut() else { return words };
        if word.quote.is_none() && matches!(character, ' ' | '\t' | '\n') {
            if !word.raw.is_empty() {
                words.push(Word::default());
            }
            continue;
        }
        word.raw.push(character);
        match (word.quote, character) {
            (None, '\'' | '"') => word.quote = Some(character),
            (Some(open), _) if open == character => word.quote = None,
            (None | Some('"'), '\\') => {
                let Some(next) = characters.next() else { continue };
                word.raw.push(next);
                if word.quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.value.push('\\');
                }
                word.value.push(next);
            }
            _ => word.value.push(character),
        }
    }
    words
}

/// True for a character that no shell has a meaning for.
fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | '/' | '+' | ',' | '%' | '@' | ':' | '=')
}

/// The text after a quote that is still open, or outside of any. A tilde at the start is that of the typed word.
fn in_quotes_of_bash(text: &str, quote: Option<char>) -> Option<String> {
    match quote {
        None => {
            let (tilde, rest) = text.strip_prefix("~/").map_or(("", text), |rest| ("~/", rest));
            let escaped = rest.chars().map(|c| if is_plain(c) { c.to_string() } else { format!("\\{c}") });
            Some(std::iter::once(tilde.to_owned()).chain(escaped).collect())
        }
        // The history's `!` has no escape in these quotes.
        Some('"') if text.contains('!') => None,
        Some('"') => {
            let is_special = |c| matches!(c, '"' | '\\' | '$' | '`');
            Some(text.chars().map(|c| if is_special(c) { format!("\\{c}") } else { c.to_string() }).collect())
        }
        Some(quote) => (!text.contains(quote)).then(|| text.to_owned()),
    }
}

/// A word of nushell: bare, in backticks where a tilde has to keep its meaning, or in double quotes.
fn in_quotes_of_nushell(text: &str) -> String {
    let (has_tilde, rest) = text.strip_prefix("~/").map_or((false, text), |rest| (true, rest));
    if !rest.is_empty() && rest.chars().all(is_plain) {
        text.to_owned()
    } else if has_tilde && !rest.contains('`') {
        format!("`{text}`")
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// The text of a word of nushell, whose quote may be open.
fn without_quotes_of_nushell(word: &str) -> String {
    let mut characters = word.chars();
    let Some(quote) = characters.next().filter(|first| matches!(first, '"' | '\'' | '`')) else {
        return word.to_owned();
    };
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quote == '"' => text.extend(characters.next()),
            _ if character == quote => break,
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_bash(line: &str, replaced: &str) -> Line {
        Line::of(Shell::Bash, vec![line.into(), replaced.into()]).unwrap()
    }

    #[test]
    fn a_line_of_bash_is_parted_as_bash_does_it() {
        for (line, want) in [
            ("deaddrop ", &["deaddrop", ""][..]),
            ("deaddrop  rotate\ta", &["deaddrop", "rotate", "a"]),
            ("deaddrop 'a b' \"c \\$d\\e\" f\\ g", &["deaddrop", "a b", "c $d\\e", "f g"]),
            ("deaddrop --host='a b", &["deaddrop", "--host=a b"]),
            ("deaddrop '' \"", &["deaddrop", "", ""]),
            ("deaddrop a\\", &["deaddrop", "a"]),
            ("deaddrop $(x) `y`", &["deaddrop", "$(x)", "`y`"]),
        ] {
            let words: Vec<String> = split(line).into_iter().map(|word| word.value).collect();
            assert_eq!(words, want, "{line}");
        }
    }

    #[test]
    fn bash_gets_what_it_replaces_in_the_quotes_that_are_open() {
        for (line, replaced, candidate, want) in [
            ("deaddrop rotate tag:s", "s", "tag:server", Some("server")),
            ("deaddrop rotate tag:", "", "tag:server", Some("server")),
            ("deaddrop plan @a", "@a", "@a b", Some("@a\\ b")),
            ("deaddrop x --host=a", "a", "--host=ab", Some("ab")),
            ("deaddrop x ", "", "$(a)`b`;c&d|e*f~!\"'ä", Some("\\$\\(a\\)\\`b\\`\\;c\\&d\\|e\\*f\\~\\!\\\"\\'ä")),
            ("deaddrop x ~/a", "~/a", "~/a b", Some("~/a\\ b")),
            ("deaddrop x \"a", "a", "a\"$`\\b", Some("a\\\"\\$\\`\\\\b")),
            ("deaddrop x \"a", "a", "a!", None),
            ("deaddrop x 'a", "a", "a\"$!", Some("a\"$!")),
            ("deaddrop x 'a", "a", "a'", None),
            ("deaddrop x --manifest='a b", "a b", "--manifest=a b c", Some("a b c")),
            // What does not begin as the line does cannot be inserted.
            ("deaddrop rotate tag:s", "s", "server", None),
        ] {
            assert_eq!(of_bash(line, replaced).quoted(candidate).as_deref(), want, "{line}: {candidate}");
        }
    }

    #[test]
    fn a_word_of_nushell_goes_through_its_quotes_and_back() {
        for (word, quoted) in [
            ("a.img", "a.img"),
            ("a b", "\"a b\""),
            ("$(a)", "\"$(a)\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("~/a", "~/a"),
            ("~/a b", "`~/a b`"),
            ("", "\"\""),
        ] {
            assert_eq!(in_quotes_of_nushell(word), quoted);
            assert_eq!(without_quotes_of_nushell(quoted), word);
        }
        for (open, word) in [("\"a b", "a b"), ("'a b", "a b"), ("`", ""), ("\"a\\\"", "a\"")] {
            assert_eq!(without_quotes_of_nushell(open), word, "{open}");
        }
    }

    #[test]
    fn a_line_without_a_word_to_complete_is_none() {
        for (shell, args) in [
            (Shell::Bash, vec![]),
            (Shell::Bash, vec!["deaddrop ".into()]),
            (Shell::Bash, vec!["deaddrop".into(), "deaddrop".into()]),
            (Shell::Zsh, vec!["deaddrop".into()]),
            (Shell::Fish, vec![]),
            (Shell::Nushell, vec![]),
        ] {
            assert!(Line::of(shell, args.clone()).is_none(), "{shell:?} {args:?}");
        }
    }
}
