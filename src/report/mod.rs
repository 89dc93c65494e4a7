//! Output for people, and JSON for programs. Output for people goes to standard error, except for the requested result;
//! JSON goes to standard output.
//!
//! Never receives a value, the length of a value or a digest of a value.

pub mod inspect;
pub mod json;
mod links;
pub mod lint;
pub mod live;
pub mod plan;
mod progress;
pub mod public;
pub mod rotate;
pub mod scan;
pub mod sources;
pub mod tar;
pub mod wrap;

use std::io::Write;
use std::os::fd::AsFd;

use deaddrop_core::shown;

pub use crate::run::message::{Exit, Failure, Message};
pub use progress::ProgressDisplay;

/// How a run reports: from the global options and the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// One object on standard output instead of text for people.
    pub json: bool,
    /// Only errors.
    pub quiet: bool,
    /// 0: results. 1: the partition and why it was chosen, the read-back, the commit. 2: each file.
    pub verbose: u8,
}

impl Ui {
    /// A line for people; nothing with `-q`.
    pub fn info(&self, line: &str) {
        if !self.quiet {
            print_error_stream(line);
        }
    }

    /// What shows a line for people; `None` with `-q`.
    #[must_use]
    pub fn tell(&self) -> Option<fn(&str)> {
        (!self.quiet).then_some(print_error_stream)
    }

    /// A line for people, with `-v` (or `-vv`) only.
    pub fn detail(&self, level: u8, line: &str) {
        if self.verbose >= level && !self.quiet {
            print_error_stream(line);
        }
    }

    /// The one object of `--json`; nothing without it.
    ///
    /// # Errors
    /// See [`print_output`].
    pub fn print_json(&self, object: impl FnOnce() -> serde_json::Value) -> Result<(), Failure> {
        if self.json { print_output(shown::json(&format!("{:#}\n", object())).as_bytes()) } else { Ok(()) }
    }

    /// The requested result, for people and their pipes; nothing with `--json`.
    ///
    /// # Errors
    /// See [`print_output`].
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        let text = fitted(shown::painted(text), std::io::stdout());
        // Without colour codes where there is no terminal for them.
        let coloured = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
        match coloured {
            true => print_output(links::linked(text, &std::io::stdout()).as_bytes()),
            false => print_output(anstream::adapter::strip_str(&text).to_string().as_bytes()),
        }
    }

    /// The requested result in lines, for people: on standard output, or with `--json`, which is there, on standard
    /// error; nothing with `-q`, or if it is empty.
    ///
    /// # Errors
    /// See [`print_output`].
    pub fn result(&self, text: &str) -> Result<(), Failure> {
        match text {
            "" => Ok(()),
            _ if self.quiet || self.json => {
                self.info(text);
                Ok(())
            }
            _ => self.print(&format!("{text}\n")),
        }
    }

    /// Columns of the terminal that [`Ui::result`] prints to; `None` if it is none.
    #[must_use]
    pub fn columns_of_result(&self) -> Option<usize> {
        if self.json { wrap::columns(std::io::stderr()) } else { wrap::columns(std::io::stdout()) }
    }

    /// As [`Ui::print_json`], after something was written. The change stays, so an error of printing is reported but
    /// does not change the exit code.
    pub fn print_json_when_done(&self, object: impl FnOnce() -> serde_json::Value) {
        if let Err(failure) = self.print_json(object) {
            failure.messages.iter().for_each(|message| print_error_stream(&message.render()));
        }
    }
}

/// Prints to standard output. A reader that closes the pipe is no failure.
///
/// # Errors
/// Exit 1 if it cannot be written: the reader must not mistake a part for the whole.
pub fn print_output(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::refused(vec![Message::new(format!("standard output: {error}"))]))
        }
        _ => Ok(()),
    }
}

/// Prints to standard error, without colour codes where there is no terminal for them.
pub fn print_error_stream(line: &str) {
    let text = links::linked(fitted(shown::painted(line), std::io::stderr()), &std::io::stderr());
    // Best effort: an error here cannot be reported anywhere.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Fitted to the terminal that the stream writes to; a file or a pipe gets unbroken lines.
fn fitted(text: String, stream: impl AsFd) -> String {
    match wrap::columns(stream) {
        Some(columns) => wrap::fit(&text, columns),
        None => text,
    }
}
