//! `deaddrop man` (hidden; scripts/man calls it): man pages, generated from the definitions of the arguments.

use std::path::PathBuf;

use crate::report::Ui;
use crate::run::message::{Exit, Failure, Message};

/// Writes the man pages into a directory.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct Args {
    /// Output directory; created if missing
    directory: PathBuf,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, _: &Ui) -> Result<Exit, Failure> {
        std::fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(super::command(), &self.directory))
            .map_err(|error| {
                let what = format!("writing man pages into {}", self.directory.display());
                Failure::refused(vec![Message::new(what).caused_by(&error)])
            })?;
        Ok(Exit::Done)
    }
}
