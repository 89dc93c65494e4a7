//! `deaddrop scrub`: zeroes the free blocks of an image.

use std::path::PathBuf;

use deaddrop_core::text;
use deaddrop_image::maintenance::{ImageArgs, scrub};

use super::failure;
use crate::report::{ProgressDisplay, Ui, json};
use crate::run::message::{Exit, Failure};

/// Zeroes all free blocks of an image's root file system and the whole idle journal, so that no content of removed
/// files remains.
///
/// Example: deaddrop scrub node1.img
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

    /// Directory to search first for the undo file of an interrupted run on a block device
    #[arg(long, value_name = "DIR")]
    undo: Option<PathBuf>,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let name = self.image.display().to_string();
        let progress = ProgressDisplay::new(ui);
        let args = ImageArgs {
            path: &self.image,
            root_partition: self.root_partition.as_deref(),
            force: self.force,
            undo: self.undo.as_deref(),
        };
        let zeroed =
            scrub(&args, &|step| progress.show(step)).map_err(|error| failure::failed(&name, &error.into()))?;
        ui.print_json_when_done(|| json::maintenance("scrub", &name, zeroed > 0));
        ui.info(&match zeroed {
            0 => format!("{name}: nothing to do, all that is free is zero"),
            bytes => format!("{name}: {} zeroed", text::size(bytes)),
        });
        Ok(Exit::Done)
    }
}
