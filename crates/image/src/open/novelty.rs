//! How much a file has besides repetition. Used by [`super::spool`], to tell a disk with many zeros from a file made to
//! harm: what decompresses to much of one byte repeats itself, a compressed system does not.

use std::fs::File;
use std::io::{self, Read, Write};

use deaddrop_core::bytes::length;

use crate::container::FileReader;

/// Bytes of a file that are looked at: more would take too long, and nothing needs it (see the ratios of the limits).
const MOST: u64 = 1 << 30;
/// Number of bytes read at a time.
const CHUNK: usize = 1 << 20;

/// The size of the first GiB of a file of `size` bytes, compressed.
///
/// # Errors
/// If it cannot be read.
pub(super) fn novel_bytes(file: &File, size: u64) -> io::Result<u64> {
    let mut encoder = zstd::Encoder::new(Count(0), 1)?;
    let mut from = FileReader { file, offset: 0 }.take(size.min(MOST));
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            // OK to index: a read never counts more than the buffer has.
            Ok(count) => encoder.write_all(&buffer[..count])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    encoder.finish().map(|count| count.0)
}

/// Counts what is written.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(length(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
