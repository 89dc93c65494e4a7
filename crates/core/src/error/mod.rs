//! Errors of images and file trees. The kinds are never mixed, because the user does something different for each.

mod remedy;

use std::borrow::Cow;
use std::io;

pub use self::remedy::{Hint, Remedy};

/// An image or tree could not be read, interpreted or changed. Its content is unchanged unless the variant says
/// otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The image contradicts itself or the specification of its format.
    #[error("{0}")]
    Corrupt(String),
    /// The image may be valid, but it uses something that deaddrop does not support.
    #[error("{what}")]
    Unsupported {
        /// The unsupported feature, by name.
        what: String,
        /// What the user can do instead.
        hint: Hint,
    },
    /// Not possible for this image in its current state: no space, no root found, the output exists, …
    #[error("{what}")]
    Refused {
        /// What was refused, and the reason.
        what: String,
        /// What the user can do about it.
        hint: Hint,
    },
    /// What was asked for contradicts the image. Nothing was written.
    #[error("{what}")]
    Usage {
        /// The contradiction.
        what: String,
        /// What the user can ask for instead.
        hint: Hint,
    },
    /// A change stopped in the middle and could not be rolled back. The only variant after which the target has
    /// changed.
    #[error("{what}")]
    HalfDone {
        /// What failed, and what state remains.
        what: String,
        /// How the user gets out of that state.
        hint: Hint,
    },
    /// A system call failed. `what` names the action and its object ("reading node1.img at 1024").
    #[error("{what}")]
    Io {
        /// The action and its object.
        what: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
}

impl StorageError {
    /// Shorthand for [`StorageError::Corrupt`].
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }

    /// Shorthand for [`StorageError::Unsupported`].
    pub fn unsupported(what: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self::Unsupported { what: what.into(), hint: hint.into() }
    }

    /// Shorthand for [`StorageError::Refused`].
    pub fn refused(what: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self::Refused { what: what.into(), hint: hint.into() }
    }

    /// Shorthand for [`StorageError::Io`].
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// What the user can do next, if anything is known.
    #[must_use]
    pub fn hint(&self) -> Option<&Hint> {
        static DAMAGED: Hint = Hint::Text(Cow::Borrowed(
            "is the image whole? build, copy or download it again, or run `e2fsck -f` on its file system",
        ));
        match self {
            Self::Unsupported { hint, .. }
            | Self::Refused { hint, .. }
            | Self::Usage { hint, .. }
            | Self::HalfDone { hint, .. } => Some(hint),
            Self::Corrupt(_) => Some(&DAMAGED),
            Self::Io { .. } => None,
        }
    }
}

/// A commit that failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Before the commit point: the image has its old content.
    #[error("writing the image")]
    Before(#[source] io::Error),
    /// At or after the commit point: `recover` or the next run finishes the commit.
    #[error("writing the image, after the commit point")]
    After(#[source] io::Error),
}
