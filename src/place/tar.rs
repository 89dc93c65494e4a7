//! A root file system in a tar, as for LXC.

use std::time::SystemTime;

use deaddrop_core::tree::{Applied, TreeChange};
use deaddrop_image::tar::TarRoot;

use super::exposed::{self, OwnFile, Reader, Unread};
use super::survey::survey_disk;
use super::{Change, Place, PlaceError, Survey, SystemChoice, Wanted};
use crate::nixos::open_file_system::OpenFileSystem;

/// A tar as a place.
pub struct TarPlace<'w>(pub TarRoot<'w>);

impl Place for TarPlace<'_> {
    fn survey(&mut self, wanted: &[Wanted], choice: &SystemChoice) -> Result<Survey, PlaceError> {
        Ok(survey_disk(self.0.tree(), wanted, choice, &OpenFileSystem::default())?)
    }

    fn packed_as(&self) -> Option<&'static str> {
        self.0.packed_as()
    }

    fn title(&self) -> String {
        self.0.title()
    }
}

impl Change for TarPlace<'_> {
    fn dry_run(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Vec<String>, PlaceError> {
        Ok(self.0.dry_run(changes, time).map(|()| Vec::new())?)
    }

    fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, PlaceError> {
        Ok(self.0.apply(changes, time)?)
    }

    fn own_files(
        &mut self,
        paths: &[(&str, bool)],
        limit: u64,
        unread: &mut Unread,
        choice: &SystemChoice,
    ) -> Result<Vec<Option<OwnFile>>, PlaceError> {
        Ok(exposed::own_files(self.0.tree(), paths, limit, unread, choice, &OpenFileSystem::default())?)
    }

    fn read_exposed(&mut self, reader: &mut dyn Reader) -> Result<Unread, PlaceError> {
        Ok(exposed::read_exposed(self.0.tree(), reader)?)
    }
}
