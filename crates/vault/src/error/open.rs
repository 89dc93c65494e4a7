//! Errors of a source as a whole.

use std::path::{Path, PathBuf};

use super::shown_path;
use crate::input::child::ChildError;
use crate::input::read::ReadError;

/// A source that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The manifest does not declare it. The manifest's own check finds this first.
    #[error("there is no such source")]
    Unknown,
    /// The file cannot be opened or read.
    #[error("{}: {problem}", shown_path(path))]
    Read {
        /// The source's file.
        path: PathBuf,
        /// The error.
        problem: ReadError,
    },
    /// The file is malformed.
    #[error("{}:{line}{}: {problem}", shown_path(path), column.map_or_else(String::new, |column| format!(":{column}")))]
    Syntax {
        /// The source's file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// 1-based, in bytes; `None` if unknown.
        column: Option<usize>,
        /// The message, independent of the file's content.
        problem: &'static str,
        /// The hint; may be empty.
        hint: String,
    },
    /// The file or store cannot be used, for a reason of its kind.
    #[error("{}: {what}", shown_path(path))]
    Refused {
        /// The source's file or store.
        path: PathBuf,
        /// The message, without a part of a value.
        what: String,
        /// The hint; may be empty.
        hint: String,
    },
    /// The program fails.
    #[error("{program} {error}")]
    Program {
        /// The program's name, without arguments.
        program: String,
        /// The reason.
        error: ChildError,
        /// The hint; may be empty.
        hint: String,
    },
    /// The program's output is unexpected.
    #[error("{program}: {what}")]
    Output {
        /// The program's name, without arguments.
        program: String,
        /// The message, without a part of a value.
        what: String,
        /// The hint; may be empty.
        hint: String,
    },
    /// The password that opens the source is not available.
    #[error("{what}")]
    Password {
        /// The reason.
        what: String,
        /// The hint; may be empty.
        hint: String,
    },
    /// The export exceeds a limit of its reader.
    #[error("{}: {limit}", shown_path(path))]
    Limit {
        /// The source's file.
        path: PathBuf,
        /// The message, with the limit's value.
        limit: String,
    },
}

impl OpenError {
    /// A file or store that cannot be used. Neither `what` nor `hint` holds a part of a value.
    pub(crate) fn refused(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), what: what.into(), hint: hint.into() }
    }

    /// The hint for the user, if there is one.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Read { problem, .. } => problem.hint(),
            Self::Syntax { hint, .. }
            | Self::Refused { hint, .. }
            | Self::Program { hint, .. }
            | Self::Output { hint, .. }
            | Self::Password { hint, .. } => Some(hint.clone()).filter(|hint| !hint.is_empty()),
            Self::Unknown | Self::Limit { .. } => None,
        }
    }
}
