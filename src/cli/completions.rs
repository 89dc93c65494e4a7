//! `deaddrop completions`: generated from the definitions of the arguments.

use clap_complete::Shell;

use crate::report::{Ui, print_output};
use crate::run::message::{Exit, Failure};

/// Prints the completions of a shell.
///
/// Example: source <(deaddrop completions bash)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, _: &Ui) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "deaddrop", &mut script);
        print_output(&script)?;
        Ok(Exit::Done)
    }
}
