//! `--backend` and `--subvolume`: which back end writes the image, and how it opens a target.

use std::path::Path;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_image::mount::image::MountedImage;
use deaddrop_image::native::NativeImage;
use deaddrop_image::open::disk::{DiskImage, OfHost, Trust};
use deaddrop_image::output::Destination;
use deaddrop_image::progress::Watch;
use deaddrop_image::table::root::Backend;

use crate::place::Change;
use crate::place::image::ImagePlace;
use crate::report::Ui;

/// The choice of the back end, and the arguments of only one of them.
#[derive(Debug, Clone, clap::Args)]
pub struct BackendArgs {
    /// Which code reads and writes the image's file system
    ///
    /// native: deaddrop itself, ext2 to ext4, without root. mount: the kernel, also btrfs and xfs, as root. The kernel
    /// parses a file system with full privileges, and a malicious one can take over the machine: use `mount` only for
    /// images that you trust.
    #[arg(
        long,
        value_name = "native|mount",
        value_parser = backends(),
        hide_possible_values = true,
        default_value = "native"
    )]
    pub backend: Backend,

    /// Read the backing files that a qcow2 image names, too; only for an image that you trust
    #[arg(long)]
    pub follow_backing: bool,

    /// With --backend mount: the btrfs subvolume to use as the root, by its path from the top level or its number
    /// [default: the file system's default subvolume]
    #[arg(long, value_name = "NAME|ID")]
    pub subvolume: Option<String>,
}

fn subvolume_is_for_the_kernel() -> StorageError {
    StorageError::refused("--subvolume is for btrfs, which the kernel writes", "add --backend mount")
}

fn backends() -> impl TypedValueParser<Value = Backend> {
    PossibleValuesParser::new(["native", "mount"]).map(|name| match name.as_str() {
        "mount" => Backend::Mount,
        _ => Backend::Native,
    })
}

impl BackendArgs {
    /// Opens an image with the chosen back end.
    ///
    /// # Errors
    /// As [`NativeImage::open`] and [`MountedImage::open`]; `Refused` for an argument of the other back end.
    pub fn open<'w>(
        &self,
        ui: &Ui,
        path: &Path,
        root_partition: Option<&str>,
        destination: Option<&Destination>,
        watch: Watch<'w>,
    ) -> Result<Box<dyn Change + 'w>, StorageError> {
        let subvolume = self.subvolume.as_deref();
        let trust = Trust { follow_backing: self.follow_backing };
        if self.backend == Backend::Native {
            if subvolume.is_some() {
                return Err(subvolume_is_for_the_kernel());
            }
            let image = NativeImage::open(path, trust, root_partition, destination, watch)?;
            if let Some(line) = image.rolled_back() {
                ui.info(&line);
            }
            ui.detail(1, &image.details());
            return Ok(Box::new(ImagePlace::Native(Box::new(image))));
        }
        if let Some(Destination::File { overlay: true, .. }) = destination {
            return Err(StorageError::refused(
                "--qcow2-overlay is for the native back end",
                "leave it out: the kernel does not tell which blocks it changes",
            ));
        }
        if let Some(Destination::InPlace { undo: Some(_), .. }) = destination {
            return Err(StorageError::refused(
                "--undo is for the native back end",
                "leave it out: the kernel keeps no undo file",
            ));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(StorageError::refused(
                "--backend mount lets the kernel mount the image, which only root may do",
                Remedy::RunAsRoot,
            ));
        }
        let image = MountedImage::open(path, trust, root_partition, subvolume, destination, watch)?;
        ui.detail(1, &image.details());
        image.notes().iter().for_each(|note| ui.info(note));
        Ok(Box::new(ImagePlace::Mounted(Box::new(image))))
    }

    /// Opens a base of which the images of `count` hosts are made; `None` for the kernel's back end, which opens it for each.
    ///
    /// # Errors
    /// As [`DiskImage::open_for_all`]; `Refused` for an argument of the other back end.
    pub fn open_for_all(
        &self,
        path: &Path,
        count: usize,
        destinations: &[Destination],
        watch: Watch<'_>,
    ) -> Result<Option<Vec<OfHost>>, StorageError> {
        match (self.backend, &self.subvolume) {
            (Backend::Native, Some(_)) => Err(subvolume_is_for_the_kernel()),
            (Backend::Native, None) => {
                let trust = Trust { follow_backing: self.follow_backing };
                DiskImage::open_for_all(path, trust, count, destinations, watch).map(Some)
            }
            (Backend::Mount, _) => Ok(None),
        }
    }

    /// Refuses arguments that apply to images only, for a directory or a node.
    ///
    /// # Errors
    /// The name of the option.
    pub fn refuse_for_a_directory(&self) -> Result<(), &'static str> {
        match self {
            Self { backend: Backend::Mount, .. } => Err("--backend mount"),
            Self { subvolume: Some(_), .. } => Err("--subvolume"),
            Self { follow_backing: true, .. } => Err("--follow-backing"),
            _ => Ok(()),
        }
    }
}
