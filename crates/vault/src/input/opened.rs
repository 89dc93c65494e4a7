//! An open file of a source: seekable, or a stream that can be read once.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::os::unix::fs::FileExt;

use zeroize::Zeroizing;

use super::archive::ReadSeek;
use super::read::{self, ReadError};

/// Maximum length of a file that is read into memory, in bytes.
const MAX_FILE: usize = 384 << 20;

/// Maximum length of a stream that is read into memory, in bytes. Lower than [`MAX_FILE`]: while the buffer grows, old
/// and new one exist together.
const MAX_STREAM: usize = 256 << 20;

/// The result of [`crate::input::Input::opened`].
pub(crate) enum Opened {
    /// A regular file, at its start.
    File(File),
    /// A pipe, or the decrypted content of an age file.
    Stream(Box<dyn Read>),
}

impl Opened {
    /// Returns the first `count` bytes, fewer if the file is shorter, without consuming them.
    ///
    /// # Errors
    /// The error of a read.
    pub(crate) fn peek(&mut self, count: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut head = Zeroizing::new(vec![0; count]);
        let mut filled = 0;
        while filled < count {
            let read = match self {
                Self::File(file) => file.read_at(&mut head[filled..], u64::try_from(filled).unwrap_or(u64::MAX)),
                Self::Stream(stream) => stream.read(&mut head[filled..]),
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        head.truncate(filled);
        if let Self::Stream(stream) = self {
            let rest = std::mem::replace(stream, Box::new(io::empty()));
            *stream = Box::new(Cursor::new(head.clone()).chain(rest));
        }
        Ok(head)
    }

    /// A reader from start to end.
    pub(crate) fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::File(file) => file,
            Self::Stream(stream) => stream,
        }
    }

    /// Seeks to the start; false for a stream.
    pub(crate) fn rewind(&mut self) -> bool {
        match self {
            Self::File(file) => file.rewind().is_ok(),
            Self::Stream(_) => false,
        }
    }

    /// Reads everything into memory.
    ///
    /// # Errors
    /// [`ReadError::Over`] if it is too long; the error of a read.
    pub(crate) fn bytes(&mut self) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        match self {
            Self::File(file) => {
                let size = usize::try_from(file.metadata().map_err(ReadError::Io)?.len()).unwrap_or(usize::MAX);
                if size > MAX_FILE { Err(ReadError::Over(MAX_FILE)) } else { read::to_end(file, size, MAX_FILE) }
            }
            Self::Stream(stream) => read::to_end(stream, 0, MAX_STREAM),
        }
    }

    /// Reads everything into memory, at most `limit` bytes.
    ///
    /// # Errors
    /// [`ReadError::Over`] if it is longer; the error of a read.
    pub(crate) fn bytes_up_to(&mut self, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        read::to_end(self.reader(), 0, limit)
    }

    /// A seekable reader: the file, or the stream read into memory.
    ///
    /// # Errors
    /// As [`Opened::bytes`], for a stream.
    pub(crate) fn seekable(mut self) -> Result<Box<dyn ReadSeek>, ReadError> {
        match self {
            Self::File(file) => Ok(Box::new(file)),
            Self::Stream(_) => Ok(Box::new(Cursor::new(self.bytes()?))),
        }
    }
}
