//! `deaddrop inspect`: what an image is.

use std::path::PathBuf;
use std::sync::Arc;

use super::flow;
use crate::image::disk::DiskImage;
use crate::image::error::ImageError;
use crate::image::ext4;
use crate::report::inspect::Inspection;
use crate::report::{Exit, Failure, Progress, Ui};
use crate::target::image::choose_root;

/// Shows an image's container, partitions and file systems, and which one is the root.
///
/// Example: deaddrop inspect node1.img.zst
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// The root file system's partition, instead of the one that is chosen by itself: its number or its label
    #[arg(long, value_name = "N|LABEL")]
    root_partition: Option<String>,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let name = self.image.display().to_string();
        self.inspect(ui, &name).map_err(|error| Failure::refused(vec![flow::error_message(&error)]))
    }

    fn inspect(&self, ui: &Ui, name: &str) -> Result<Exit, ImageError> {
        let progress = Progress::new(ui);
        let image = DiskImage::open(&self.image, &|step| progress.show(step))?;
        let root = choose_root(&image, self.root_partition.as_deref());
        let ext4 = match &root {
            Ok(root) => Some(ext4::Ext4::open(Arc::new(image.partition(&root.partition)?))?),
            Err(_) => None,
        };
        let inspection = Inspection {
            name,
            container: image.container().name(),
            file_size: image.file_size(),
            disk_size: image.size(),
            table: image.table(),
            root: match root {
                Ok(root) => Ok((root.partition, root.reason.to_string())),
                Err(error) => Err((error.to_string(), error.hint().unwrap_or_default().to_owned())),
            },
            ext4: ext4.map(|ext4| (ext4.facts(), ext4.check_writable())),
        };
        if ui.json {
            ui.print_json(&inspection.json());
        }
        ui.say(&inspection.text());
        Ok(Exit::Done)
    }
}
