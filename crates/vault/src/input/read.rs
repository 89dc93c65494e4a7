//! Opens and reads files of values, safely for FIFOs, devices and files without an end. Every copy of the content is
//! zeroized.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use deaddrop_core::limits::MIB;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zeroize::Zeroizing;

/// A file that cannot be read. Printed after its path.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file does not exist.
    #[error("there is no such file")]
    Missing {
        /// True if a component of the path is `~`, which a shell would have expanded.
        tilde: bool,
    },
    /// The path is a directory.
    #[error("this is a directory, not a file")]
    Directory,
    /// The path is a device or socket.
    #[error("this is a {0}, not a file")]
    Kind(&'static str),
    /// This user may not read it.
    #[error("permission denied")]
    Denied,
    /// It is longer than this limit, in bytes.
    #[error("over {} MiB, the longest that is read", .0 / MIB)]
    Over(usize),
    /// Any other error of a system call.
    #[error("{0}")]
    Io(io::Error),
}

impl ReadError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { tilde: true } => Some("`~` is not expanded in a manifest: write the whole path".to_owned()),
            Self::Missing { tilde: false } => {
                Some("a relative path starts at the manifest's directory; with -m -, at the current one".to_owned())
            }
            _ => None,
        }
    }
}

/// Opens a file or a pipe for reading. A named pipe without a writer reads as empty instead of blocking.
///
/// # Errors
/// The path is missing, not readable, or a directory, device or socket.
pub(crate) fn open(path: &Path) -> Result<File, ReadError> {
    // Without O_NONBLOCK, opening a FIFO blocks until a writer opens it.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Missing { tilde: path.components().any(|part| part.as_os_str() == "~") },
        io::ErrorKind::PermissionDenied => ReadError::Denied,
        _ => ReadError::Io(error),
    })?;
    let kind = file.metadata().map_err(ReadError::Io)?.file_type();
    if kind.is_dir() {
        return Err(ReadError::Directory);
    }
    if kind.is_fifo() {
        // From here on, a read may block until the writer writes.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|error| ReadError::Io(error.into()))?;
    } else if !kind.is_file() {
        return Err(ReadError::Kind(if kind.is_socket() { "socket" } else { "device" }));
    }
    Ok(file)
}

/// Reads a file or pipe of at most `limit` bytes.
///
/// # Errors
/// As [`open`]; [`ReadError::Over`] if it is longer.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let mut file = open(path)?;
    let size = file.metadata().map_err(ReadError::Io)?.len();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(ReadError::Over(limit));
    }
    to_end(&mut file, size, limit)
}

/// Reads `reader` to its end, at most `limit` bytes; `size` is the expected length. Every buffer is zeroized.
///
/// # Errors
/// [`ReadError::Over`] if it is longer; [`ReadError::Io`] if a read fails.
pub(crate) fn to_end(mut reader: impl Read, size: usize, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    // One byte more than expected, so that the read that finds the end needs no larger buffer.
    let mut buffer = Zeroizing::new(vec![0; size.min(limit).saturating_add(1)]);
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            if filled > limit {
                return Err(ReadError::Over(limit));
            }
            // A pipe, or a file that grew. The copy is explicit so that the old buffer is zeroized.
            let mut larger = Zeroizing::new(vec![0; filled.saturating_mul(2).max(4096).min(limit.saturating_add(1))]);
            larger[..filled].copy_from_slice(&buffer);
            buffer = larger;
        }
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
    if filled > limit {
        return Err(ReadError::Over(limit));
    }
    buffer.truncate(filled);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_may_be_as_long_as_the_limit_and_no_longer() {
        let directory = tempfile::tempdir().unwrap();
        for (length, fits) in [(0, true), (9, true), (10, true), (11, false), (5000, false)] {
            let path = directory.path().join("file");
            std::fs::write(&path, vec![b'x'; length]).unwrap();
            match read(&path, 10) {
                Ok(bytes) => assert!(fits && bytes.len() == length, "{length}"),
                Err(error) => assert!(!fits && matches!(error, ReadError::Over(10)), "{length}: {error}"),
            }
        }
    }

    #[test]
    fn a_named_pipe_is_read_to_its_end_within_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&path, 10).unwrap().len(), 0, "nobody writes: empty, and no wait");

        for (length, fits) in [(10, true), (11, false), (9000, false)] {
            // Opened for reading and writing, so that neither side blocks.
            let mut writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            writer.write_all(&vec![b'x'; length]).unwrap();
            let reader = open(&path).unwrap();
            drop(writer);
            let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
            let got = read(Path::new(&format!("/proc/self/fd/{fd}")), 10);
            assert_eq!(got.is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_kind() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (name, path, want) in [
            ("directory", directory.path(), "this is a directory, not a file"),
            ("device", Path::new("/dev/zero"), "this is a device, not a file"),
            ("missing", Path::new("/nowhere/x"), "there is no such file"),
        ] {
            assert_eq!(read(path, 10).unwrap_err().to_string(), want, "{name}");
        }
        assert!(read(&socket, 10).is_err());
    }
}
