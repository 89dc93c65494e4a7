//! A source's file that is open: a file that can be read anywhere, or a stream that can be read once.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::os::unix::fs::FileExt;

use zeroize::Zeroizing;

use super::archive::ReadSeek;
use super::read::{self, ReadError};

/// The longest file that is read into memory whole.
const MAX_FILE: usize = 384 << 20;

/// The longest stream that is: while it grows, half of it is there twice.
const MAX_STREAM: usize = 256 << 20;

/// What [`crate::input::Input::opened`] gives.
pub(crate) enum Opened {
    /// A regular file, at its beginning.
    File(File),
    /// A pipe, or what age decrypts.
    Stream(Box<dyn Read>),
}

impl Opened {
    /// The first bytes, `count` of them if there are so many. Nothing is lost: what comes next still begins with them.
    ///
    /// # Errors
    /// What the system says.
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

    /// Reads from the beginning to the end.
    pub(crate) fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::File(file) => file,
            Self::Stream(stream) => stream,
        }
    }

    /// Back to the beginning; false where that is not possible.
    pub(crate) fn rewind(&mut self) -> bool {
        match self {
            Self::File(file) => file.rewind().is_ok(),
            Self::Stream(_) => false,
        }
    }

    /// All of it in memory.
    ///
    /// # Errors
    /// It is too long; what the system says.
    pub(crate) fn bytes(&mut self) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        match self {
            Self::File(file) => {
                let size = usize::try_from(file.metadata().map_err(ReadError::Io)?.len()).unwrap_or(usize::MAX);
                if size > MAX_FILE { Err(ReadError::Over(MAX_FILE)) } else { read::to_end(file, size, MAX_FILE) }
            }
            Self::Stream(stream) => read::to_end(stream, 0, MAX_STREAM),
        }
    }

    /// All of it in memory, if it is at most `limit` bytes.
    ///
    /// # Errors
    /// It is longer; what the system says.
    pub(crate) fn bytes_up_to(&mut self, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        read::to_end(self.reader(), 0, limit)
    }

    /// Something that can be read anywhere: the file itself, or the stream in memory.
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
