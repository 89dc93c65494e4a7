//! `deaddrop recover`: finishes or rolls back an interrupted run on an image.

use std::path::PathBuf;

use deaddrop_image::maintenance::{ImageArgs, Recovered, recover};
use deaddrop_image::native::ROLLED_BACK;

use super::failure;
use crate::report::{Ui, json};
use crate::run::message::{Exit, Failure};

/// Finishes or rolls back an interrupted run on an image: afterwards every file is wholly old or wholly new.
///
/// Example: deaddrop recover node1.img
///
/// Replays a dirty journal, and repairs a superblock torn by a power cut; with --undo, rolls back an interrupted run on
/// a block device. The next inject (with the same --undo) does the same automatically.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image, or a block device
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// The root partition, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL")]
    root_partition: Option<String>,

    /// Write even if the image file is mounted or in use, or the block device is not removable (never to one that is in
    /// use)
    #[arg(long)]
    force: bool,

    /// Directory of the undo file of an interrupted run on a block device
    #[arg(long, value_name = "DIR")]
    undo: Option<PathBuf>,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let name = self.image.display().to_string();
        let args = ImageArgs {
            path: &self.image,
            root_partition: self.root_partition.as_deref(),
            force: self.force,
            undo: self.undo.as_deref(),
        };
        let found = recover(&args).map_err(|error| failure::failed(&name, &error.into()))?;
        ui.print_json_when_done(|| json::maintenance("recover", &name, found != Recovered::Nothing));
        let message = match found {
            Recovered::Journal => "the journal was replayed, and every file is complete",
            Recovered::RolledBack => ROLLED_BACK,
            Recovered::Nothing => "nothing to recover",
        };
        ui.info(&format!("{name}: {message}"));
        Ok(Exit::Done)
    }
}
