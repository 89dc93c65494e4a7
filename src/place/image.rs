//! A disk image: the root partition's file system, written by the native back end or mounted by the kernel.

use std::time::SystemTime;

use deaddrop_core::tree::{Applied, TreeChange};
use deaddrop_core::warning::Warning;
use deaddrop_image::mount::image::MountedImage;
use deaddrop_image::native::NativeImage;
use deaddrop_image::table::root::Root;

use super::exposed::{self, OwnFile, Reader, Unread};
use super::survey::survey_disk;
use super::{Change, Place, PlaceError, Survey, SystemChoice, Wanted};
use crate::nixos::open_file_system::OpenFileSystem;

/// An open image, with its root chosen.
pub enum ImagePlace<'w> {
    /// Written by deaddrop.
    Native(Box<NativeImage<'w>>),
    /// Mounted and written by the kernel.
    Mounted(Box<MountedImage<'w>>),
}

impl ImagePlace<'_> {
    fn root(&self) -> &Root {
        match self {
            Self::Native(image) => image.root(),
            Self::Mounted(image) => image.root(),
        }
    }
}

impl Place for ImagePlace<'_> {
    fn survey(&mut self, wanted: &[Wanted], choice: &SystemChoice) -> Result<Survey, PlaceError> {
        let open = open_file_system(self.root());
        match self {
            Self::Native(image) => {
                survey_disk(image.tree(), wanted, choice, &open).map_err(|error| image.with_fsck_commands(error).into())
            }
            Self::Mounted(image) => Ok(survey_disk(image.tree()?, wanted, choice, &open)?),
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        doubt(self.root()).into_iter().collect()
    }

    fn packed_as(&self) -> Option<&'static str> {
        match self {
            Self::Native(image) => image.packed_as(),
            Self::Mounted(image) => image.packed_as(),
        }
    }

    fn title(&self) -> String {
        match self {
            Self::Native(image) => image.title(),
            Self::Mounted(image) => image.title(),
        }
    }
}

impl Change for ImagePlace<'_> {
    fn dry_run(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Vec<String>, PlaceError> {
        match self {
            Self::Native(image) => Ok(image.dry_run(changes, time).map(|()| Vec::new())?),
            Self::Mounted(image) => Ok(image.dry_run(changes)?),
        }
    }

    fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, PlaceError> {
        match self {
            Self::Native(image) => Ok(image.apply(changes, time)?),
            Self::Mounted(image) => Ok(image.apply(changes, time)?),
        }
    }

    fn own_files(
        &mut self,
        paths: &[(&str, bool)],
        limit: u64,
        unread: &mut Unread,
        choice: &SystemChoice,
    ) -> Result<Vec<Option<OwnFile>>, PlaceError> {
        let open = open_file_system(self.root());
        match self {
            Self::Native(image) => exposed::own_files(image.tree(), paths, limit, unread, choice, &open)
                .map_err(|error| image.with_fsck_commands(error).into()),
            Self::Mounted(image) => Ok(exposed::own_files(image.tree()?, paths, limit, unread, choice, &open)?),
        }
    }

    fn read_exposed(&mut self, reader: &mut dyn Reader) -> Result<Unread, PlaceError> {
        match self {
            Self::Native(image) => {
                exposed::read_exposed(image.tree(), reader).map_err(|error| image.with_fsck_commands(error).into())
            }
            Self::Mounted(image) => Ok(exposed::read_exposed(image.tree()?, reader)?),
        }
    }
}

/// The names by which a mount can mean the root's file system.
fn open_file_system(root: &Root) -> OpenFileSystem {
    let partition = &root.partition;
    let probe = partition.file_system.as_ref();
    OpenFileSystem {
        label: probe.and_then(|probe| probe.label.clone()),
        uuid: probe.and_then(|probe| probe.uuid.clone()),
        part_label: partition.name.clone(),
        part_uuid: partition.uuid.clone(),
    }
}

/// DD102, if the root may not be one.
fn doubt(root: &Root) -> Option<Warning> {
    root.doubtful.then(|| Warning {
        code: "DD102",
        secret: None,
        message: "this does not look like a root: it has neither /nix/store, nor /etc with /usr or /bin".into(),
        hint: "is it a partition of a system, or an image that is still empty? the booted system may never read it"
            .into(),
    })
}
