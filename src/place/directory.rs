//! A directory with a root file system, such as `/mnt` with an image mounted by hand, or a root that is being built.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use deaddrop_core::error::StorageError;
use deaddrop_core::sys::{self, SignalsWait};
use deaddrop_core::tree::directory::DirectoryTree;
use deaddrop_core::tree::directory::transaction::DirectoryTransaction;
use deaddrop_core::tree::{Applied, TreeChange};

use super::exposed::{self, OwnFile, Reader, Unread};
use super::survey::survey_disk;
use super::{Change, Place, PlaceError, Survey, SystemChoice, Wanted};
use crate::nixos::open_file_system::OpenFileSystem;

/// A directory as a place.
pub struct DirectoryPlace {
    path: PathBuf,
    tree: DirectoryTree,
}

impl DirectoryPlace {
    /// Opens a directory with a root file system.
    ///
    /// # Errors
    /// If it is not a directory, or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let tree = DirectoryTree::open(path)?;
        // Every new file is open without a name until all of them are complete.
        sys::raise_open_files_limit();
        Ok(Self { path: path.to_owned(), tree })
    }
}

impl Place for DirectoryPlace {
    fn survey(&mut self, wanted: &[Wanted], choice: &SystemChoice) -> Result<Survey, PlaceError> {
        Ok(survey_disk(&self.tree, wanted, choice, &OpenFileSystem::default())?)
    }

    fn title(&self) -> String {
        format!("{}, a directory", self.path.display())
    }
}

impl Change for DirectoryPlace {
    fn dry_run(&mut self, _: &[TreeChange], _: SystemTime) -> Result<Vec<String>, PlaceError> {
        Ok(Vec::new())
    }

    fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, PlaceError> {
        // A Ctrl-C during the change would leave some files new and some old: it waits until the change is done or
        // rolled back.
        let signals = SignalsWait::new();
        let mut transaction = DirectoryTransaction::new(&self.tree);
        // Before an old file is removed, so that a directory that cannot be synced is still rolled back.
        match transaction.run(changes, time).and_then(|()| transaction.sync()) {
            Ok(()) => {
                let finished = transaction.finish();
                signals.committed();
                Ok(Applied { notes: finished?, details: Vec::new() })
            }
            Err(error) => {
                let error = transaction.roll_back(error);
                if let StorageError::HalfDone { .. } = &error {
                    // The half-done state must be reported: no signal may terminate the process before that.
                    signals.committed();
                }
                Err(error.into())
            }
        }
    }

    fn own_files(
        &mut self,
        paths: &[(&str, bool)],
        limit: u64,
        unread: &mut Unread,
        choice: &SystemChoice,
    ) -> Result<Vec<Option<OwnFile>>, PlaceError> {
        Ok(exposed::own_files(&self.tree, paths, limit, unread, choice, &OpenFileSystem::default())?)
    }

    fn read_exposed(&mut self, reader: &mut dyn Reader) -> Result<Unread, PlaceError> {
        Ok(exposed::read_exposed(&self.tree, reader)?)
    }
}
