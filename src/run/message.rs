//! Errors for the user: what failed, why, and a hint.

use std::fmt::Write;

use deaddrop_core::shown;

use super::style::{self, paint};

/// Exit codes (docs/json.md, "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done,
    /// Failed or refused, nothing changed.
    Refused,
    /// Wrong usage or a wrong manifest.
    Usage,
    /// Differences found.
    Differences,
    /// Some hosts are done and some failed, or files of one changed and its result is failed or unknown.
    SomeDone,
    /// Interrupted during a commit; the next run finishes it.
    HalfDone,
    /// That of a program which was run.
    OfProgram(u8),
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Differences => 3,
            Self::SomeDone => 4,
            Self::HalfDone => 5,
            Self::OfProgram(code) => code,
        }
    }
}

/// The reason why a run has no result.
#[derive(Debug)]
pub struct Failure {
    /// 1, 2 or 5.
    pub exit: Exit,
    /// One or more errors, all shown.
    pub messages: Vec<Message>,
}

impl Failure {
    /// Exit 1: failed or refused, nothing changed.
    #[must_use]
    pub fn refused(messages: Vec<Message>) -> Self {
        Self { exit: Exit::Refused, messages }
    }

    /// Exit 2: wrong usage or a wrong manifest.
    #[must_use]
    pub fn usage(message: Message) -> Self {
        Self { exit: Exit::Usage, messages: vec![message] }
    }
}

/// One error. Text from outside is made safe for a terminal here.
#[derive(Debug, Default)]
pub struct Message {
    head: String,
    causes: Vec<String>,
    hints: Vec<String>,
    /// The whole message, formatted elsewhere.
    rendered: String,
}

impl Message {
    /// What failed, and on what.
    #[must_use]
    pub fn new(head: impl Into<String>) -> Self {
        Self { head: shown::lines(&head.into()), ..Self::default() }
    }

    /// The error of an operation that changed nothing on `target`.
    #[must_use]
    pub fn nothing_changed(target: &str) -> Self {
        Self::new(format!("{target}: nothing was changed"))
    }

    /// Text that is already formatted, with its own `error:` and `hint:` lines.
    #[must_use]
    pub fn rendered(text: impl Into<String>) -> Self {
        Self { rendered: text.into(), ..Self::default() }
    }

    /// Adds a hint; an empty one is ignored.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if !hint.is_empty() {
            self.hints.push(shown::lines(&hint));
        }
        self
    }

    /// An error with all its sources as causes.
    #[must_use]
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = Self::new(error.to_string());
        message.add_sources(error);
        message
    }

    /// Adds the error and all its sources as causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.causes.push(shown::lines(&error.to_string()));
        self.add_sources(error);
        self
    }

    /// Adds a cause, of one line or several.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(shown::lines(&cause.into()));
        self
    }

    fn add_sources(&mut self, error: &(dyn std::error::Error + 'static)) {
        let mut source = error.source();
        while let Some(error) = source {
            self.causes.push(shown::lines(&error.to_string()));
            source = error.source();
        }
    }

    /// What failed and why, without colour and hints: the head, and each cause on its own line.
    #[must_use]
    pub fn reason(&self) -> String {
        if !self.rendered.is_empty() {
            return anstream::adapter::strip_str(self.rendered.trim_end()).to_string();
        }
        let causes = self.causes.iter().map(String::as_str);
        std::iter::once(self.head.as_str()).chain(causes).collect::<Vec<_>>().join("\n")
    }

    /// The hints.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The whole error for a terminal, without a final newline.
    #[must_use]
    pub fn render(&self) -> String {
        if !self.rendered.is_empty() {
            return self.rendered.trim_end().to_owned();
        }
        let mut text = format!("{} {}", paint(style::ERROR, "error:"), self.head);
        for cause in &self.causes {
            // A cause of several lines (a table) keeps its lines, indented below its first.
            let _ = write!(text, "\n  cause: {}", cause.replace('\n', "\n  "));
        }
        for hint in &self.hints {
            let _ = write!(text, "\n{} {hint}", paint(style::HINT, "hint:"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let source = std::io::Error::other("no medium");
        let error = deaddrop_core::error::StorageError::io("reading node1.img at 1024", source);
        let text =
            Message::new("node1.img: nothing was changed").caused_by(&error).hint("insert one").hint("").render();
        let plain = anstream::adapter::strip_str(&text).to_string();
        let want = "error: node1.img: nothing was changed\n  cause: reading node1.img at 1024\n  cause: no medium\n\
                    hint: insert one";
        assert_eq!(plain, want);
    }

    #[test]
    fn no_text_from_outside_drives_a_terminal_wherever_it_stands() {
        for hidden in shown::all_hidden().filter(|hidden| *hidden != '\n') {
            let name = format!("a{hidden}b");
            let error = std::io::Error::other(name.clone());
            let message = Message::new(name.clone()).caused_by(&error).cause(name.clone()).hint(name);
            let plain = anstream::adapter::strip_str(&message.render()).to_string();
            assert_eq!(
                plain, "error: a\u{fffd}b\n  cause: a\u{fffd}b\n  cause: a\u{fffd}b\nhint: a\u{fffd}b",
                "{hidden:?}"
            );
        }
    }
}
