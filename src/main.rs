//! The `deaddrop` program: parse arguments, run, print the error chain, set the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    deaddrop::sys::harden();
    deaddrop::cli::main()
}
