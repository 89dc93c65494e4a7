//! What a person sees, and JSON for programs. Words for people go to standard error, JSON to standard output.
//!
//! No value, no length of a value and no digest of a value is ever given to this module.

pub mod inspect;
pub mod json;
pub mod message;
pub mod plan;
mod progress;
pub mod style;
pub mod suggest;

pub use message::{Exit, Failure, Message};
pub use progress::Progress;

use std::io::Write;

/// How a run speaks: from the global options and the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// One object on standard output instead of words for people.
    pub json: bool,
    /// Only errors.
    pub quiet: bool,
    /// 0: results. 1: which partition and why, the read-back, the commit. 2: each file.
    pub verbose: u8,
}

impl Ui {
    /// A line for people; nothing with `-q`.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            print_error_stream(line);
        }
    }

    /// A line for people who asked for more with `-v`.
    pub fn tell(&self, level: u8, line: &str) {
        if self.verbose >= level && !self.quiet {
            print_error_stream(line);
        }
    }

    /// The one object of `--json`.
    pub fn print_json(&self, object: &serde_json::Value) {
        // Best effort: a reader that closed the pipe has had enough, and what was done stays done.
        let _ = writeln!(std::io::stdout(), "{object:#}");
    }
}

/// Prints to standard error, without colour codes where there is no terminal for them.
pub fn print_error_stream(line: &str) {
    // Best effort: there is nowhere left to say that standard error is closed.
    let _ = writeln!(anstream::stderr(), "{line}");
}
