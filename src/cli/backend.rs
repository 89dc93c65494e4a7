//! Who writes the image: the arguments for it, and how a target is opened with them.

use std::path::Path;

use crate::image::error::ImageError;
use crate::image::output::Destination;
use crate::image::progress::Watch;
use crate::image::root::Backend;
use crate::report::Ui;
use crate::target::Target;
use crate::target::image::ImageTarget;
use crate::target::mounted::MountedTarget;

/// Which back end, and what only one of them takes.
#[derive(Debug, clap::Args)]
pub struct BackendArgs {
    /// Who reads and writes the image's file system
    ///
    /// native: deaddrop itself, ext2 to ext4, without root. mount: the kernel, also btrfs and xfs, as root. The kernel reads a
    /// file system with all of its rights, and one that was made to harm can take over the machine: `mount` is only for images
    /// that you trust as you trust a disk that you plug in.
    #[arg(long, value_name = "native|mount", value_enum, hide_possible_values = true, default_value = "native")]
    pub backend: Backend,

    /// With --backend mount: the btrfs subvolume that is the root, by its path from the top level or its number, instead of
    /// the default one
    #[arg(long, value_name = "NAME|ID")]
    pub subvolume: Option<String>,
}

impl clap::ValueEnum for Backend {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Native, Self::Mount]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            Self::Native => "native",
            Self::Mount => "mount",
        }))
    }
}

impl BackendArgs {
    /// Opens an image by the back end that was asked for.
    ///
    /// # Errors
    /// As [`ImageTarget::open`] and [`MountedTarget::open`]; `Refused` for an argument of the other back end.
    pub fn open<'w>(
        &self,
        ui: &Ui,
        path: &Path,
        root_partition: Option<&str>,
        destination: Option<&Destination>,
        watch: Watch<'w>,
    ) -> Result<Box<dyn Target + 'w>, ImageError> {
        let subvolume = self.subvolume.as_deref();
        if self.backend == Backend::Native {
            if subvolume.is_some() {
                return Err(ImageError::refused(
                    "--subvolume is for btrfs, which the kernel writes",
                    "add --backend mount",
                ));
            }
            let image = ImageTarget::open(path, root_partition, destination, watch)?;
            if let Some(line) = image.taken_back() {
                ui.say(&line);
            }
            ui.tell(1, &image.details());
            return Ok(Box::new(image));
        }
        if let Some(Destination::InPlace { undo: Some(_), .. }) = destination {
            return Err(ImageError::refused(
                "--undo is for the native back end",
                "leave it out: the kernel keeps no undo file",
            ));
        }
        let image = MountedTarget::open(path, root_partition, subvolume, destination, watch)?;
        ui.tell(1, &image.details());
        image.notes().iter().for_each(|note| ui.say(note));
        Ok(Box::new(image))
    }

    /// Refuses what is for images only, for a directory.
    ///
    /// # Errors
    /// The name of the option.
    pub fn refuse_for_a_directory(&self) -> Result<(), &'static str> {
        match self {
            Self { backend: Backend::Mount, .. } => Err("--backend mount"),
            Self { subvolume: Some(_), .. } => Err("--subvolume"),
            _ => Ok(()),
        }
    }
}
