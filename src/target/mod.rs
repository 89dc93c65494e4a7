//! A place that holds files: an image, a directory or a running node. It answers two batch calls: survey and apply.
//!
//! Batch, because an image commits one change and a node gets one session; never one round trip a file.
//! Knows nothing of sources.

pub mod directory;
pub mod image;
pub mod interrupted;
pub mod labels;
pub mod maintenance;
pub mod mounted;
pub mod node;
pub mod survey;
pub mod users;

use std::time::SystemTime;

use crate::image::error::ImageError;
use crate::image::tree::TreeChange;
use crate::plan::Warning;
pub use interrupted::{Interrupted, Leftover};
pub use labels::{Chosen, Labels, Origin};
pub use survey::{Home, KeyMaker, Refusal, Standing, StandingFile, Survey, Wanted};

/// A place that holds files.
pub trait Target {
    /// What stands at each wanted path, in the same order, with the target's own users and groups.
    ///
    /// # Errors
    /// When the target as a whole cannot be read. What is wrong with one path is in its own entry.
    fn survey(&mut self, wanted: &[Wanted]) -> Result<Survey, ImageError>;

    /// Whether [`Target::apply`] could make these changes, as far as that can be told without writing. Nothing else is asked of
    /// the target after it. Returns what a person should know of what was judged.
    ///
    /// # Errors
    /// As [`Target::apply`] would.
    fn judge(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Vec<String>, ImageError>;

    /// What a person should know about the target as a whole.
    fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    /// Makes all changes, or none. `time` becomes the times of new files.
    ///
    /// # Errors
    /// When it returns an error, the target is as it was.
    fn apply(&mut self, changes: &[TreeChange], time: SystemTime) -> Result<Applied, ImageError>;

    /// The line that heads a plan: "node1.img, partition 2 (ext4, nixos)".
    fn describe(&self) -> String;
}

/// What [`Target::apply`] did besides the changes, in words for a person.
#[derive(Debug, Default)]
pub struct Applied {
    /// What a person should know: "node1.img holds secrets: its mode is now 0600".
    pub notes: Vec<String>,
    /// What `-v` tells: the read-back, the commit.
    pub details: Vec<String>,
}
