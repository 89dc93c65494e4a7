//! Reads a file of text: a regular file, up to a limit, UTF-8.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::problem::{Mark, Problems};

/// Maximum length of a manifest, in bytes.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// True for the path that means standard input.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// Reads the manifest at `path`, or on standard input for `-`. On failure, reports a problem and returns `None`.
pub(super) fn text(path: &Path, problems: &mut Problems) -> Option<String> {
    const WHAT: &str = "a manifest";
    let read = match is_standard_input(path) {
        true => limited(io::stdin().lock(), MAX_BYTES, WHAT),
        false => bytes(path, MAX_BYTES, WHAT),
    };
    match read {
        Ok(bytes) => utf8(bytes, problems),
        Err(ReadError::Missing) => {
            let hint = "name the manifest with `-m FILE`; see docs/manifest.md";
            problems.push_file("there is no such file".to_owned(), Some(hint.to_owned()));
            None
        }
        Err(ReadError::Other(message)) => {
            problems.push_file(message, None);
            None
        }
    }
}

/// The reason why a file cannot be read.
pub(super) enum ReadError {
    /// It does not exist.
    Missing,
    /// Text to be printed after the file's name, such as "is a directory, …".
    Other(String),
}

/// Reads a regular file of at most `most` bytes; `what` is its role in messages.
pub(super) fn bytes(path: &Path, most: u64, what: &str) -> Result<Vec<u8>, ReadError> {
    let file = open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Other(format!("cannot be opened: {error}")),
    })?;
    let cannot_read = |error: io::Error| ReadError::Other(format!("cannot be read: {error}"));
    let metadata = file.metadata().map_err(cannot_read)?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let kind = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        return Err(ReadError::Other(format!("is {kind}, and {what} is a regular file")));
    }
    limited(file, most, what)
}

/// Reads all of it, at most `most` bytes.
fn limited(from: impl Read, most: u64, what: &str) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    // One byte over the limit, to detect what is longer.
    let read = from.take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| ReadError::Other(format!("cannot be read: {error}")))?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > most) {
        let most = if most >> 20 > 0 { format!("{} MiB", most >> 20) } else { format!("{} KiB", most >> 10) };
        return Err(ReadError::Other(format!("is over {most}, the limit of {what}")));
    }
    Ok(bytes)
}

/// Opens without blocking, as a FIFO without a writer would.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

/// The bytes as text; reports a problem at the first byte that is not UTF-8.
pub(super) fn utf8(bytes: Vec<u8>, problems: &mut Problems) -> Option<String> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let bytes = error.as_bytes();
            // OK: `valid_up_to` is at most the length.
            let (before, rest) = bytes.split_at(good);
            let before = String::from_utf8_lossy(before);
            let line_start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
            let line = before.matches('\n').count().saturating_add(1);
            let column = before[line_start..].chars().count().saturating_add(1);
            let byte = rest.first().copied().unwrap_or_default();
            problems.push_bare(
                Mark::at(good, line, column),
                format!("byte 0x{byte:02x} is not UTF-8"),
                Some("save the file as UTF-8".to_owned()),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error for a file, with its place in front.
    fn complaint(path: &Path) -> String {
        let mut problems = Problems::default();
        assert!(text(path, &mut problems).is_none());
        let errors = problems.finish(Path::new("m"), "");
        let problem = &errors.problems()[0];
        match problem.location {
            Some(at) => format!("{}:{}: {}", at.line, at.column, problem.message),
            None => problem.message.clone(),
        }
    }

    #[test]
    fn what_is_not_a_readable_file_is_told_by_its_kind() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let latin = directory.path().join("latin");
        std::fs::write(&latin, b"version: 1\n# caf\xe9\n").unwrap();
        for (path, want) in [
            (directory.path().join("missing"), "there is no such file"),
            (directory.path().to_owned(), "is a directory, and a manifest is a regular file"),
            (fifo, "is a FIFO, and a manifest is a regular file"),
            ("/dev/null".into(), "is a device, and a manifest is a regular file"),
            (latin, "2:6: byte 0xe9 is not UTF-8"),
        ] {
            assert_eq!(complaint(&path), want, "{}", path.display());
        }
    }

    #[test]
    fn sixteen_mebibytes_are_read_and_one_byte_more_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        for (extra, fits) in [(-1, true), (0, true), (1, false)] {
            File::create(&path).unwrap().set_len(MAX_BYTES.checked_add_signed(extra).unwrap()).unwrap();
            if fits {
                assert!(text(&path, &mut Problems::default()).is_some(), "{extra}");
            } else {
                assert_eq!(complaint(&path), "is over 16 MiB, the limit of a manifest");
            }
        }
    }
}
