//! A place that holds files: an image, a directory or a running node. It answers two batch calls: [`Place::survey`] and, where
//! deaddrop writes the files itself, [`Change::apply`].
//!
//! Batch, because an image commits one change and a node gets one session; never one round trip a file.
//! Knows nothing of vaults and manifests.

pub mod directory;
pub mod image;
pub mod interrupted;
pub mod labels;
pub mod node;
pub mod survey;
pub mod users;

use std::time::SystemTime;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::{Applied, TreeChange};
use deaddrop_core::warning::Warning;

pub use interrupted::{Interrupted, Leftover};
pub use labels::{Chosen, Labels, Origin};
pub use survey::{Home, KeyMaker, Refusal, Standing, StandingFile, Survey, Wanted};

/// A place that holds files.
pub trait Place {
    /// What stands at each wanted path, in the same order, with the place's own users and groups.
    ///
    /// # Errors
    /// When the place as a whole cannot be read. What is wrong with one path is in its own entry.
    fn survey(&mut self, wanted: &[Wanted]) -> Result<Survey, PlaceError>;

    /// What a person should know about the place as a whole.
    fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    /// The line that heads a plan: "node1.img, partition 2 (ext4, nixos)".
    fn title(&self) -> String;
}

/// A place whose files deaddrop writes itself: all of a change, or none of it.
pub trait Change: Place {
    /// Whether [`Change::apply`] could make these changes, as far as that can be told without writing. Nothing else is asked
    /// of the place after it. Returns what a person should know of what was judged.
    ///
    /// # Errors
    /// As [`Change::apply`] would.
    fn judge(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Vec<String>, PlaceError>;

    /// Makes all changes, or none. `time` becomes the times of new files.
    ///
    /// # Errors
    /// When it returns an error, the place is as it was, unless [`PlaceError::is_half_done`].
    fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, PlaceError>;
}

/// A place could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// An image, or a directory of this machine.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A running node could not be entered or read.
    #[error("{what}")]
    Node {
        /// Which node, and why.
        what: String,
        /// What a person can do.
        hint: String,
    },
}

impl PlaceError {
    /// True when a change stopped in the middle and could not be rolled back.
    #[must_use]
    pub fn is_half_done(&self) -> bool {
        matches!(self, Self::Storage(StorageError::HalfDone { .. }))
    }

    /// What a person can do next, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Storage(error) => error.hint(),
            Self::Node { hint, .. } => Some(hint),
        }
    }
}
