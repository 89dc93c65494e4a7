//! What can go wrong with an image. The kinds are never mixed: a person does something else for each.

use std::io;

/// An image could not be read, understood or changed. The image is as it was, unless the kind says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The image contradicts itself, or its format's specification.
    #[error("{0}")]
    Corrupt(String),
    /// The image is fine as far as we know, but uses what we are not able to do. `hint` says what is possible.
    #[error("{what}")]
    Unsupported {
        /// What is not supported, by its name.
        what: String,
        /// What a person can do instead.
        hint: String,
    },
    /// Not possible in this image as it stands: no space, no root found, an output that exists, …
    #[error("{what}")]
    Refused {
        /// What was refused and why.
        what: String,
        /// What a person can do about it.
        hint: String,
    },
    /// A change stopped in the middle, and could not be taken back. The only kind after which the target is not as it was.
    #[error("{what}")]
    HalfDone {
        /// What failed, and what stands half-way.
        what: String,
        /// How a person gets out of it.
        hint: String,
    },
    /// The system failed us. `what` names the act and the object ("reading node1.img at 1024").
    #[error("{what}")]
    Io {
        /// The act and its object.
        what: String,
        /// The system's own error.
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
    pub fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), hint: hint.into() }
    }

    /// Shorthand for [`StorageError::Refused`].
    pub fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: hint.into() }
    }

    /// Shorthand for [`StorageError::Io`].
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// What a person can do next, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unsupported { hint, .. } | Self::Refused { hint, .. } | Self::HalfDone { hint, .. } => Some(hint),
            Self::Corrupt(_) => {
                Some("is the image whole? build, copy or download it again, or run `e2fsck -f` on its file system")
            }
            Self::Io { .. } => None,
        }
    }
}

/// A commit that failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Before the commit point: what the image says is old.
    #[error("writing the image")]
    Before(#[source] io::Error),
    /// At or after the commit point: `recover` or the next run finishes it.
    #[error("writing the image, after the commit point")]
    After(#[source] io::Error),
}
