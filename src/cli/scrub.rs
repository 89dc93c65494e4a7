//! `deaddrop scrub`: zero what no file owns.

use std::path::PathBuf;

use deaddrop_core::text;
use deaddrop_image::maintenance::{ImageArgs, scrub};

use super::flow;
use crate::report::{ProgressDisplay, Ui, json};
use crate::run::message::{Exit, Failure};

/// Zeroes all free blocks of an image's root file system and the whole idle journal, so that nothing is left there of
/// files that were removed, whoever removed them.
///
/// Example: deaddrop scrub node1.img
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image, or a block device
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// The root file system's partition, instead of the one that is chosen by itself: its number or its label
    #[arg(long, value_name = "N|LABEL")]
    root_partition: Option<String>,

    /// Write although the image file is mounted or in use, or the block device is not removable (never to one that is in use)
    #[arg(long)]
    force: bool,

    /// Where to look first for an undo file that an interrupted run on a block device left
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
        let zeroed = scrub(&args, &|step| progress.show(step)).map_err(|error| flow::failed(&name, &error.into()))?;
        ui.print_json_when_done(|| json::maintenance("scrub", &name, zeroed > 0));
        ui.say(&match zeroed {
            0 => format!("{name}: nothing to do, all that is free is zero"),
            bytes => format!("{name}: {} zeroed", text::size(bytes)),
        });
        Ok(Exit::Done)
    }
}
