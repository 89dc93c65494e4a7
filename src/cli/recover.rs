//! `deaddrop recover`: finish or undo what an interrupted run left.

use std::path::PathBuf;

use deaddrop_image::maintenance::{ImageArgs, Recovered, recover};
use deaddrop_image::native::TAKEN_BACK;

use super::flow;
use crate::report::{Ui, json};
use crate::run::message::{Exit, Failure};

/// Finishes what an interrupted run left in an image, or takes it back: afterwards every file is wholly old or wholly new.
///
/// Example: deaddrop recover node1.img
///
/// Brings a dirty journal home, and mends a superblock that was torn by a power cut; with --undo, takes back what a run on a
/// block device wrote before it was cut off. The next inject (with the same --undo) does the same by itself.
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

    /// Where to look for the undo file that an interrupted run on a block device left
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
        let found = recover(&args).map_err(|error| flow::failed(&name, &error.into()))?;
        ui.print_json_when_done(|| json::maintenance("recover", &name, found != Recovered::Nothing));
        let words = match found {
            Recovered::Journal => "the journal was brought home, and every file is whole",
            Recovered::TakenBack => TAKEN_BACK,
            Recovered::Nothing => "nothing to recover",
        };
        ui.say(&format!("{name}: {words}"));
        Ok(Exit::Done)
    }
}
