//! The messages and hints about files that are not Bitwarden exports.

use std::path::Path;

use crate::OpenError;

/// Hint: how to create an export.
const EXPORT: &str = "in Bitwarden: Tools, Export vault, file format `.json` (or `.zip`, with attachments); \
                      see docs/sources.md#bitwarden";

/// A file that is not an export that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongExport {
    /// It has `encrypted` and `passwordProtected`, and the source has no password.
    #[error("this export is protected by a password, and the source has none")]
    PasswordProtected,
    /// It has only `encrypted`.
    #[error("this export is encrypted for your account only, and cannot be opened outside Bitwarden")]
    AccountRestricted,
    /// Bitwarden's CSV, which has no ids, SSH keys and types of fields.
    #[error("this is a CSV export, and deaddrop reads Bitwarden's JSON and ZIP exports")]
    Csv,
    /// A ZIP file in a place where only JSON is valid: inside a ZIP file.
    #[error("this is a ZIP file in place of a JSON export")]
    Zip,
    /// UTF-16, as `>` of PowerShell writes it.
    #[error("this is UTF-16, and JSON is UTF-8")]
    Utf16,
    /// An empty file.
    #[error("the file is empty")]
    Empty,
    /// JSON that Bitwarden does not write.
    #[error("this is JSON, but not a Bitwarden export: it has no `items`")]
    NoItems,
}

impl WrongExport {
    /// The error for the file at `path`.
    pub(super) fn at(self, path: &Path) -> OpenError {
        let hint = match self {
            Self::PasswordProtected => {
                "say where the password comes from: `password: { env: NAME }`, `{ file: PATH }`, \
                 `{ exec: [PROGRAM, …] }` or `ask`"
            }
            Self::AccountRestricted => {
                "export again with \"Password protected\" (or as plain `.json`, or `.zip`), see \
                 docs/sources.md#bitwarden"
            }
            Self::Utf16 => "write the file with `bw export --output FILE`, not with `>`",
            Self::Csv | Self::Zip | Self::Empty | Self::NoItems => EXPORT,
        };
        OpenError::refused(path, self.to_string(), hint)
    }
}

/// The error for JSON at `path` that is malformed, or has another shape, at a 1-based line and column.
pub(super) fn malformed(path: &Path, line: usize, column: usize, problem: &'static str) -> OpenError {
    let hint = format!("export it again; {EXPORT}");
    OpenError::Syntax { path: path.to_owned(), line, column: Some(column), problem, hint }
}
