//! A place that holds files: an image, a directory or a running node. It answers two batch calls: [`Place::survey`]
//! and, if deaddrop writes the files itself, [`Change::apply`].
//!
//! Batch, because an image commits one change and a node gets one session; there is never one round trip per file. Does
//! not depend on vaults or manifests.

pub mod directory;
pub mod exposed;
pub mod facts;
pub mod image;
pub mod interrupted;
pub mod labels;
mod need;
pub mod new_tree;
pub mod node;
mod standing;
pub mod survey;
pub mod tar;
pub mod users;

use std::time::SystemTime;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::{Applied, TreeChange};
use deaddrop_core::warning::Warning;

pub use exposed::{OwnFile, Reader, Unread};
pub use facts::{Facts, Standing};
pub use interrupted::{Interrupted, Leftover};
pub use labels::{ChosenLabel, Labels, Origin};
pub use need::{Need, NodeFacts};
pub use survey::{ExistingFile, Home, KeyMaker, Refusal, Survey, SurveyedPath, SystemChoice, Wanted};

/// A place that holds files.
pub trait Place {
    /// The existing files at the wanted paths, in the same order, with the place's own users and groups. `choice` is
    /// for a NixOS system on a disk; a running node has its own.
    ///
    /// # Errors
    /// If the place as a whole cannot be read. An error of one path is in its own entry.
    fn survey(&mut self, wanted: &[Wanted], choice: &SystemChoice) -> Result<Survey, PlaceError>;

    /// Completes the survey of a running node by what its own NixOS says of the paths that would change. Any other place
    /// was surveyed with its system.
    ///
    /// # Errors
    /// If the node cannot be read.
    fn examine(&mut self, _wanted: &[Wanted], survey: Survey, _need: &Need) -> Result<Survey, PlaceError> {
        Ok(survey)
    }

    /// Warnings about the place as a whole.
    fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    /// What an image is whose whole file a change in place rewrites: "compressed", "a qcow2 image".
    fn packed_as(&self) -> Option<&'static str> {
        None
    }

    /// The line that heads a plan: "node1.img, partition 2 (ext4, nixos)".
    fn title(&self) -> String;
}

/// A place whose files deaddrop writes itself: all of a change, or none of it.
pub trait Change: Place {
    /// Checks, without writing, whether [`Change::apply`] could make these changes. No other call may follow. Returns
    /// notes for the user.
    ///
    /// # Errors
    /// As [`Change::apply`] would.
    fn dry_run(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Vec<String>, PlaceError>;

    /// Makes all changes, or none. `time` is the timestamp of new files.
    ///
    /// # Errors
    /// The place is unchanged then, unless [`PlaceError::is_half_done`].
    fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, PlaceError>;

    /// What stands at each of these paths: see [`exposed::own_files`].
    ///
    /// # Errors
    /// If the place cannot be read.
    fn own_files(
        &mut self,
        paths: &[(&str, bool)],
        limit: u64,
        unread: &mut Unread,
        choice: &SystemChoice,
    ) -> Result<Vec<Option<OwnFile>>, PlaceError>;

    /// Reads every file that others can read: see [`exposed::read_exposed`].
    ///
    /// # Errors
    /// If the place cannot be read at all.
    fn read_exposed(&mut self, reader: &mut dyn Reader) -> Result<Unread, PlaceError>;
}

/// A place could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// An image, or a directory of this machine.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A running node could not be surveyed.
    #[error("{what}")]
    Node {
        /// The node and the reason.
        what: String,
        /// The next step for the user.
        hint: String,
    },
}

impl PlaceError {
    /// True if what was asked for contradicts the place.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Storage(StorageError::Usage { .. }))
    }

    /// True if a change was interrupted and could not be rolled back.
    #[must_use]
    pub fn is_half_done(&self) -> bool {
        matches!(self, Self::Storage(StorageError::HalfDone { .. }))
    }
}
