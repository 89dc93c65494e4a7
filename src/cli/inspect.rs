//! `deaddrop inspect`: shows the structure of an image.

use std::path::PathBuf;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_image::ext4::{self, JournalState};
use deaddrop_image::fsck::with_fsck_commands;
use deaddrop_image::open::disk::{DiskImage, Trust};
use deaddrop_image::progress::Watch;
use deaddrop_image::table::root::{Backend, choose_root_for};
use deaddrop_image::tar::{self, TarRoot};

use super::failure;
use crate::nixos::closure::{self, Found};
use crate::report::inspect::Inspection;
use crate::report::tar::TarInspection;
use crate::report::{ProgressDisplay, Ui};
use crate::run::message::{Exit, Failure, Message};
use crate::run::remedy;

/// Shows an image's container, partitions and file systems, and which one is the root.
///
/// Example: deaddrop inspect node1.img.zst
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image, or a tar with a root file system
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// The root partition, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL")]
    root_partition: Option<String>,

    /// Read the backing files that a qcow2 image names, too; only for an image that you trust
    #[arg(long)]
    follow_backing: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let failed = |error: StorageError| Failure::refused(vec![failure::error_message(&error)]);
        let name = self.image.display().to_string();
        let progress = ProgressDisplay::new(ui);
        if tar::is_tar(&self.image) {
            return self.tar(ui, &name, &|step| progress.show(step));
        }
        let trust = Trust { follow_backing: self.follow_backing };
        let image = DiskImage::open_trusting(&self.image, trust, &|step| progress.show(step)).map_err(failed)?;
        let root = choose_root_for(&image, Backend::Mount, self.root_partition.as_deref());
        let native = root.as_ref().ok().filter(|root| root.kind.is_ext());
        let opened = native.map(|root| ext4::Ext4::open(Arc::new(image.partition(&root.partition)?)));
        let container = image.container();
        let partition = native.map(|root| root.partition.clone());
        let hinted = |error, ext4: &ext4::Ext4| match &partition {
            Some(partition) => with_fsck_commands(error, &name, container, partition, ext4, image.is_device()),
            None => error,
        };
        let (ext4, damage) = match opened.transpose() {
            Ok(ext4) => (ext4, None),
            Err(error) => (None, Some(error)),
        };
        // A root directory that cannot be read: nothing says that it is NixOS.
        let nixos = ext4.as_ref().and_then(|ext4| closure::read(ext4, None).ok());
        let inspection = Inspection {
            name: &name,
            layers: image.layers(),
            file_size: image.file_size(),
            disk_size: image.size(),
            table: image.table(),
            root: match root {
                Ok(root) => Ok((root.partition, root.reason.to_string())),
                Err(error) => Err((error.to_string(), remedy::hint(&error))),
            },
            nixos: nixos.unwrap_or(Found::None),
            ext4: ext4.map(|ext4| (on_the_image(&ext4), ext4.check_writable().map_err(|error| hinted(error, &ext4)))),
        };
        ui.result(&inspection.text(ui.verbose > 0, ui.columns_of_result()))?;
        // The table is printed before the error, to show what kind of image this is.
        if let Some(error) = damage {
            return Err(failed(error));
        }
        ui.print_json(|| inspection.json())?;
        Ok(Exit::Done)
    }

    /// The same for a root file system in a tar.
    fn tar(&self, ui: &Ui, name: &str, watch: Watch<'_>) -> Result<Exit, Failure> {
        let failed = |error: StorageError| Failure::refused(vec![failure::error_message(&error)]);
        if self.root_partition.is_some() {
            let message = Message::new(format!("--root-partition is for disk images, and {name} is a tar"));
            return Err(Failure::usage(message.hint("leave it out")));
        }
        let root = TarRoot::open(&self.image, None, watch).map_err(failed)?;
        let inspection = TarInspection {
            name,
            layers: &root.layers(),
            entries: root.tree().entries(),
            form: root.tree().form(),
            nixos: closure::read(root.tree(), None).map_err(failed)?,
        };
        ui.result(&inspection.text())?;
        ui.print_json(|| inspection.json())?;
        Ok(Exit::Done)
    }
}

/// The file system's summary, with the journal's state on the image and not that of the replay in memory.
fn on_the_image(ext4: &ext4::Ext4) -> ext4::Summary {
    let mut summary = ext4.summary();
    if let (JournalState::Clean { size }, true) = (summary.journal, ext4.was_replayed()) {
        summary.journal = JournalState::NeedsRecovery { size };
    }
    summary
}
